/* policy_shadow.c: see policy_shadow.h. The order of calls is store.c's: reserve, leave, make room, enter. */
#include "cache/policy_shadow.h"

pfo_status
pfo_shadow_init(pfo_shadow *shadow, const pfo_policy_ops *ops, const pfo_bounds *bounds, pfo_error *err)
{
    *shadow = (pfo_shadow){ .policy = { .ops = ops }, .bounds = *bounds };
    pfo_table_init(&shadow->table);
    return ops->init(&shadow->policy, bounds, err);
}

void
pfo_shadow_free(pfo_shadow *shadow)
{
    shadow->policy.ops->drop(&shadow->policy);
    pfo_table_free(&shadow->table);
}

uint32_t
pfo_shadow_find(const pfo_shadow *shadow, uint64_t hash)
{
    return pfo_table_find_identity(&shadow->table, hash, NULL);
}

static void
leave(pfo_shadow *shadow, uint32_t slot, int evicted)
{
    const pfo_entry *entry = &shadow->table.entries[slot];
    shadow->bytes -= entry->bytes;
    if (evicted) {
        shadow->evictions++;
        if (shadow->evicted != NULL) {
            shadow->evicted(shadow->context, entry->hash);
        }
    }
    shadow->policy.ops->remove(&shadow->policy, shadow->table.entries, slot, evicted);
    pfo_table_unlink(&shadow->table, slot);
    pfo_table_release_slot(&shadow->table, slot);
}

static void
make_room(pfo_shadow *shadow, uint64_t entries, uint64_t bytes)
{
    while (shadow->table.count > 0 && (shadow->table.count + entries > shadow->bounds.max_entries ||
                                       shadow->bytes > shadow->bounds.max_bytes - bytes)) {
        leave(shadow, shadow->policy.ops->victim(&shadow->policy, shadow->table.entries), 1);
    }
}

static pfo_status
enter(pfo_shadow *shadow, uint32_t old, uint64_t hash, size_t bytes, pfo_error *err)
{
    const int fits = shadow->bounds.max_entries > 0 && bytes <= shadow->bounds.max_bytes;
    if (fits) {
        PFO_TRY(pfo_table_reserve_one(&shadow->table, pfo_slots_for(&shadow->bounds), err));
        PFO_TRY(shadow->policy.ops->reserve(&shadow->policy, shadow->table.count, err));
    }
    if (old != PFO_SLOT_NONE) {
        leave(shadow, old, 0);
    }
    if (fits) {
        make_room(shadow, 1, bytes);
        const uint32_t slot = pfo_table_insert(&shadow->table, hash, NULL);
        shadow->table.entries[slot].bytes = bytes;
        shadow->bytes += bytes;
        shadow->policy.ops->admit(&shadow->policy, shadow->table.entries, slot);
    }
    return PFO_OK;
}

pfo_status
pfo_shadow_request(pfo_shadow *shadow, uint64_t hash, size_t bytes, int *hit, pfo_error *err)
{
    const uint32_t slot = pfo_shadow_find(shadow, hash);
    *hit = slot != PFO_SLOT_NONE;
    if (!*hit) {
        return enter(shadow, PFO_SLOT_NONE, hash, bytes, err);
    }
    if (shadow->policy.fresh != slot) {
        shadow->policy.ops->touch(&shadow->policy, shadow->table.entries, slot);
    }
    return PFO_OK;
}

pfo_status
pfo_shadow_set(pfo_shadow *shadow, uint64_t hash, size_t bytes, pfo_error *err)
{
    return enter(shadow, pfo_shadow_find(shadow, hash), hash, bytes, err);
}

int
pfo_shadow_delete(pfo_shadow *shadow, uint64_t hash)
{
    const uint32_t slot = pfo_shadow_find(shadow, hash);
    if (slot == PFO_SLOT_NONE) {
        return 0;
    }
    leave(shadow, slot, 0);
    return 1;
}

void
pfo_shadow_clear(pfo_shadow *shadow)
{
    pfo_table_unlink_all(&shadow->table);
    shadow->table.used_slots = 0; /* no one holds a slot, so all are as good as new */
    shadow->table.free_slot = PFO_SLOT_NONE;
    shadow->policy.ops->clear(&shadow->policy);
    shadow->bytes = 0;
}

void
pfo_shadow_trim(pfo_shadow *shadow)
{
    pfo_shadow_clear(shadow);
    pfo_table_free(&shadow->table);
}

pfo_status
pfo_shadow_resize(pfo_shadow *shadow, const pfo_bounds *bounds, pfo_error *err)
{
    PFO_TRY(shadow->policy.ops->resize(&shadow->policy, shadow->table.entries, bounds, err));
    shadow->bounds = *bounds;
    make_room(shadow, 0, 0);
    return PFO_OK;
}

size_t
pfo_shadow_memory(const pfo_shadow *shadow)
{
    return pfo_table_memory(&shadow->table) + shadow->policy.ops->memory(&shadow->policy);
}

int
pfo_shadow_is_consistent(const pfo_shadow *shadow)
{
    uint64_t bytes = 0;
    for (uint32_t slot = 0; slot < shadow->table.used_slots; slot++) {
        bytes += shadow->table.entries[slot].live ? shadow->table.entries[slot].bytes : 0;
    }
    return bytes == shadow->bytes && shadow->table.count <= shadow->bounds.max_entries &&
           bytes <= shadow->bounds.max_bytes && pfo_table_is_consistent(&shadow->table) &&
           shadow->policy.ops->is_consistent(&shadow->policy, shadow->table.entries, shadow->table.count);
}
