/* store.c: see store.h for the contract.
 *
 * Invariants: every live slot of the table is known to the policy; bytes is the sum of the live entries' bytes; the victim list holds
 * only slots that are out of the table and not yet free, chained by `next`.
 */
#include "cache/store.h"

pfo_status
pfo_store_init(pfo_store *store, const pfo_policy_ops *ops, const pfo_bounds *bounds, pfo_error *err)
{
    *store = (pfo_store){
        .policy = { .ops = ops },
        .bounds = *bounds,
        .victim_head = PFO_SLOT_NONE,
        .victim_tail = PFO_SLOT_NONE,
    };
    pfo_table_init(&store->table);
    return ops->init(&store->policy, bounds, err);
}

void
pfo_store_free(pfo_store *store)
{
    store->policy.ops->drop(&store->policy);
    pfo_table_free(&store->table);
}

static void
push_victim(pfo_store *store, uint32_t slot)
{
    pfo_entry *entries = store->table.entries;
    entries[slot].next = PFO_SLOT_NONE;
    if (store->victim_tail == PFO_SLOT_NONE) {
        store->victim_head = slot;
    } else {
        entries[store->victim_tail].next = slot;
    }
    store->victim_tail = slot;
}

int
pfo_store_take_victim(pfo_store *store, pfo_victim *victim)
{
    const uint32_t slot = store->victim_head;
    if (slot == PFO_SLOT_NONE) {
        return 0;
    }
    const pfo_entry *entry = &store->table.entries[slot];
    *victim = (pfo_victim){ .key = entry->key, .value = entry->value, .guard = entry->guard };
    store->victim_head = entry->next;
    if (store->victim_head == PFO_SLOT_NONE) {
        store->victim_tail = PFO_SLOT_NONE;
    }
    pfo_table_release_slot(&store->table, slot);
    return 1;
}

static void
leave(pfo_store *store, uint32_t slot, int evicted)
{
    store->bytes -= store->table.entries[slot].bytes;
    store->policy.ops->remove(&store->policy, store->table.entries, slot, evicted);
    pfo_table_unlink(&store->table, slot);
    push_victim(store, slot);
}

void
pfo_store_remove(pfo_store *store, uint32_t slot)
{
    leave(store, slot, 0);
}

/* Evicts until `entries` more entries of `bytes` bytes fit. pre: they can fit at all. */
static void
make_room(pfo_store *store, uint64_t entries, uint64_t bytes)
{
    while (store->table.count > 0 && (store->table.count + entries > store->bounds.max_entries ||
                                      store->bytes > store->bounds.max_bytes - bytes)) {
        leave(store, store->policy.ops->victim(&store->policy, store->table.entries), 1);
        store->evictions++;
    }
}

/* A new entry, within the bounds. pre: the table has a slot reserved, and bytes alone fit. */
static void
enter(pfo_store *store, uint64_t hash, void *key, void *value, void *guard, size_t bytes)
{
    make_room(store, 1, bytes);
    const uint32_t slot = pfo_table_insert(&store->table, hash, key);
    pfo_entry *entry = &store->table.entries[slot];
    entry->value = value;
    entry->guard = guard;
    entry->bytes = bytes;
    store->bytes += bytes;
    store->policy.ops->admit(&store->policy, store->table.entries, slot);
}

pfo_status
pfo_store_insert(pfo_store *store, uint64_t hash, void *key, void *value, void *guard, size_t bytes, int *stored,
                 pfo_error *err)
{
    *stored = 0;
    if (store->bounds.max_entries == 0 || bytes > store->bounds.max_bytes) {
        store->rejects += store->bounds.max_entries != 0;
        return PFO_OK;
    }
    /* Reserve first: a failure must leave the store as it was, and the eviction cannot be taken back. */
    PFO_TRY(pfo_table_reserve_one(&store->table, err));
    PFO_TRY(store->policy.ops->reserve(&store->policy, store->table.count, err));
    enter(store, hash, key, value, guard, bytes);
    *stored = 1;
    return PFO_OK;
}

pfo_status
pfo_store_replace(pfo_store *store, uint32_t slot, void *value, void *guard, size_t bytes, int *stored, pfo_error *err)
{
    *stored = 0;
    if (bytes > store->bounds.max_bytes) {
        pfo_store_remove(store, slot);
        store->rejects++;
        return PFO_OK;
    }
    /* The entry leaves and enters anew, so that one code path keeps the bounds; its key moves over, the old value
     * becomes the victim. */
    PFO_TRY(pfo_table_reserve_one(&store->table, err));
    PFO_TRY(store->policy.ops->reserve(&store->policy, store->table.count, err));
    const uint64_t hash = store->table.entries[slot].hash;
    void *key = store->table.entries[slot].key;
    pfo_store_remove(store, slot);
    store->table.entries[slot].key = NULL;
    enter(store, hash, key, value, guard, bytes);
    *stored = 1;
    return PFO_OK;
}

void
pfo_store_clear(pfo_store *store)
{
    for (uint32_t slot = 0; slot < store->table.used_slots; slot++) {
        if (store->table.entries[slot].live) {
            push_victim(store, slot);
        }
    }
    pfo_table_unlink_all(&store->table);
    store->policy.ops->clear(&store->policy);
    store->bytes = 0;
}

void
pfo_store_reset_counters(pfo_store *store)
{
    store->hits = 0;
    store->misses = 0;
    store->evictions = 0;
    store->rejects = 0;
}

int
pfo_store_is_consistent(const pfo_store *store)
{
    uint64_t bytes = 0;
    for (uint32_t slot = 0; slot < store->table.used_slots; slot++) {
        bytes += store->table.entries[slot].live ? store->table.entries[slot].bytes : 0;
    }
    return bytes == store->bytes &&
           store->policy.ops->is_consistent(&store->policy, store->table.entries, store->table.count) &&
           store->table.count <= store->bounds.max_entries && store->bytes <= store->bounds.max_bytes &&
           pfo_table_is_consistent(&store->table);
}
