/* store.c: see store.h for the contract.
 *
 * Invariants: every live slot of the table is known to the policy, and to the expiry wheel if its `checks` say so; bytes is the sum of
 * the live entries' bytes; the victim list holds only slots that are out of the table and not yet free, chained by `next`, with the reason
 * in `policy_bits`, which the policy no longer needs.
 */
#include "cache/store.h"

#include "base/clock.h"

/* How many due entries an insertion with a deadline takes out beyond need: as long as it is more than the one it brings, a store that
 * nobody sweeps does not fill with expired entries, and no single insertion pays for all of them. */
enum { SWEEP_STEP = 8 };

static uint64_t
monotonic_now(void)
{
    return (uint64_t)pfo_monotonic_ns();
}

const char *
pfo_leave_reason_text(pfo_leave_reason reason)
{
    static const char *const texts[] = {
#define PFO_LEAVE_TEXT(name, text) [PFO_LEAVE_##name] = (text),
        PFO_LEAVE_LIST(PFO_LEAVE_TEXT)
#undef PFO_LEAVE_TEXT
    };
    return texts[reason];
}

pfo_status
pfo_store_init(pfo_store *store, const pfo_policy_ops *ops, const pfo_bounds *bounds, pfo_error *err)
{
    *store = (pfo_store){
        .policy = { .ops = ops },
        .bounds = *bounds,
        .now_ns = monotonic_now,
        .victim_head = PFO_SLOT_NONE,
        .victim_tail = PFO_SLOT_NONE,
    };
    pfo_table_init(&store->table);
    pfo_expiry_init(&store->expiry);
    return ops->init(&store->policy, bounds, err);
}

void
pfo_store_free(pfo_store *store)
{
    store->policy.ops->drop(&store->policy);
    pfo_expiry_free(&store->expiry);
    pfo_table_free(&store->table);
}

/* ---- leaving --------------------------------------------------------------------------------- */

static void
push_victim(pfo_store *store, uint32_t slot, pfo_leave_reason reason)
{
    pfo_entry *entries = store->table.entries;
    entries[slot].next = PFO_SLOT_NONE;
    entries[slot].policy_bits = (uint32_t)reason;
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
    *victim = (pfo_victim){
        .hash = entry->hash,
        .key = entry->key,
        .value = entry->value,
        .guard = entry->guard,
        .reason = (pfo_leave_reason)entry->policy_bits,
    };
    store->victim_head = entry->next;
    pfo_table_release_slot(&store->table, slot);
    if (store->victim_head == PFO_SLOT_NONE) {
        store->victim_tail = PFO_SLOT_NONE;
        if (store->gives_back && store->table.count == 0) {
            pfo_table_give_back(&store->table);
            pfo_expiry_free(&store->expiry);
        }
        store->gives_back = 0;
    }
    return 1;
}

static void
leave(pfo_store *store, uint32_t slot, pfo_leave_reason reason)
{
    pfo_entry *entry = &store->table.entries[slot];
    store->bytes -= entry->bytes;
    if ((entry->checks & PFO_CHECK_DEADLINE) != 0) {
        pfo_expiry_remove(&store->expiry, slot);
    }
    store->policy.ops->remove(&store->policy, store->table.entries, slot, reason == PFO_LEAVE_EVICTED);
    pfo_table_unlink(&store->table, slot);
    push_victim(store, slot, reason);
    store->evictions += reason == PFO_LEAVE_EVICTED;
    store->expirations += reason == PFO_LEAVE_EXPIRED;
}

void
pfo_store_remove(pfo_store *store, uint32_t slot, pfo_leave_reason reason)
{
    leave(store, slot, reason);
}

void
pfo_store_clear(pfo_store *store)
{
    for (uint32_t slot = 0; slot < store->table.used_slots; slot++) {
        if (store->table.entries[slot].live) {
            push_victim(store, slot, PFO_LEAVE_CLEARED);
        }
    }
    pfo_table_unlink_all(&store->table);
    store->policy.ops->clear(&store->policy);
    pfo_expiry_free(&store->expiry);
    store->bytes = 0;
    store->gives_back = 1;
}

/* ---- room and time --------------------------------------------------------------------------- */

/* Whether `entries` more entries of `bytes` bytes fit. pre: they can fit at all. */
static inline int
has_room(const pfo_store *store, uint64_t entries, uint64_t bytes)
{
    return store->table.count + entries <= store->bounds.max_entries && store->bytes <= store->bounds.max_bytes - bytes;
}

/* Takes out what is due, then what the policy names, until there is room. pre: there is none. */
static void
clear_room(pfo_store *store, uint64_t entries, uint64_t bytes)
{
    if (store->expiry.count > 0) {
        const uint64_t now_ns = store->now_ns();
        uint32_t due;
        while (!has_room(store, entries, bytes) && (due = pfo_expiry_due(&store->expiry, now_ns)) != PFO_SLOT_NONE) {
            leave(store, due, PFO_LEAVE_EXPIRED);
        }
    }
    while (store->table.count > 0 && !has_room(store, entries, bytes)) {
        leave(store, store->policy.ops->victim(&store->policy, store->table.entries), PFO_LEAVE_EVICTED);
    }
}

static inline void
make_room(pfo_store *store, uint64_t entries, uint64_t bytes)
{
    if (!has_room(store, entries, bytes)) {
        clear_room(store, entries, bytes);
    }
}

static uint64_t
sweep(pfo_store *store, uint64_t now_ns, uint64_t limit)
{
    uint64_t removed = 0;
    uint32_t due;
    while (removed < limit && (due = pfo_expiry_due(&store->expiry, now_ns)) != PFO_SLOT_NONE) {
        leave(store, due, PFO_LEAVE_EXPIRED);
        removed++;
    }
    return removed;
}

uint64_t
pfo_store_expire(pfo_store *store)
{
    return store->expiry.count == 0 ? 0 : sweep(store, store->now_ns(), UINT64_MAX);
}

static void
set_deadline(pfo_store *store, uint32_t slot, uint64_t ttl_ns, uint64_t now_ns)
{
    const uint64_t deadline_ns = ttl_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + ttl_ns;
    pfo_expiry_add(&store->expiry, slot, deadline_ns, now_ns);
    store->table.entries[slot].checks |= PFO_CHECK_DEADLINE;
}

pfo_status
pfo_store_touch(pfo_store *store, uint32_t slot, uint64_t ttl_ns, pfo_error *err)
{
    if (ttl_ns != 0) {
        PFO_TRY(pfo_expiry_reserve(&store->expiry, store->table.capacity, err));
    }
    pfo_entry *entry = &store->table.entries[slot];
    if ((entry->checks & PFO_CHECK_DEADLINE) != 0) {
        pfo_expiry_remove(&store->expiry, slot);
        entry->checks &= (uint16_t)~PFO_CHECK_DEADLINE;
    }
    if (ttl_ns != 0) {
        set_deadline(store, slot, ttl_ns, store->now_ns());
    }
    return PFO_OK;
}

uint64_t
pfo_store_time_left(const pfo_store *store, uint32_t slot)
{
    if ((store->table.entries[slot].checks & PFO_CHECK_DEADLINE) == 0) {
        return UINT64_MAX;
    }
    const uint64_t now_ns = store->now_ns();
    const uint64_t deadline_ns = store->expiry.nodes[slot].deadline_ns;
    return deadline_ns <= now_ns ? 0 : deadline_ns - now_ns;
}

pfo_status
pfo_store_resize(pfo_store *store, const pfo_bounds *bounds, pfo_error *err)
{
    PFO_TRY(store->policy.ops->resize(&store->policy, store->table.entries, bounds, err));
    store->bounds = *bounds;
    make_room(store, 0, 0);
    return PFO_OK;
}

/* ---- entering -------------------------------------------------------------------------------- */

/* Memory for one more entry: a failure must leave the store as it was, and an eviction cannot be taken back. */
static pfo_status
reserve(pfo_store *store, const pfo_item *item, pfo_error *err)
{
    PFO_TRY(pfo_table_reserve_one(&store->table, pfo_slots_for(&store->bounds), err));
    if (item->ttl_ns != 0) {
        PFO_TRY(pfo_expiry_reserve(&store->expiry, store->table.capacity, err));
    }
    return store->policy.ops->reserve(&store->policy, store->table.count, err);
}

/* A new entry, within the bounds. pre: reserve() succeeded, and the item alone fits. */
static inline void
enter(pfo_store *store, const pfo_item *item)
{
    make_room(store, 1, item->bytes);
    const uint32_t slot = pfo_table_insert(&store->table, item->hash, item->key);
    pfo_entry *entry = &store->table.entries[slot];
    entry->value = item->value;
    entry->guard = item->guard;
    entry->checks = item->guard == NULL ? 0 : PFO_CHECK_GUARD;
    entry->bytes = item->bytes;
    store->bytes += item->bytes;
    store->policy.ops->admit(&store->policy, store->table.entries, slot);
    if (item->ttl_ns != 0) {
        const uint64_t now_ns = store->now_ns();
        set_deadline(store, slot, item->ttl_ns, now_ns);
        (void)sweep(store, now_ns, SWEEP_STEP);
    }
}

pfo_status
pfo_store_insert(pfo_store *store, const pfo_item *item, int *stored, pfo_error *err)
{
    *stored = 0;
    if (store->bounds.max_entries == 0 || item->bytes > store->bounds.max_bytes) {
        store->rejects += store->bounds.max_entries != 0;
        return PFO_OK;
    }
    PFO_TRY(reserve(store, item, err));
    enter(store, item);
    *stored = 1;
    return PFO_OK;
}

pfo_status
pfo_store_replace(pfo_store *store, uint32_t slot, const pfo_item *item, int *stored, pfo_error *err)
{
    *stored = 0;
    const int fits = item->bytes <= store->bounds.max_bytes;
    if (fits) {
        PFO_TRY(reserve(store, item, err));
    }
    leave(store, slot, PFO_LEAVE_REPLACED);
    if (fits) { /* the entry leaves and enters anew, so that one code path keeps the bounds */
        enter(store, item);
    }
    store->rejects += !fits;
    *stored = fits;
    return PFO_OK;
}

/* ---- counters and checks --------------------------------------------------------------------- */

void
pfo_store_reset_counters(pfo_store *store)
{
    store->hits = 0;
    store->misses = 0;
    store->evictions = 0;
    store->expirations = 0;
    store->rejects = 0;
}

size_t
pfo_store_memory(const pfo_store *store)
{
    return pfo_table_memory(&store->table) + pfo_expiry_memory(&store->expiry) +
           store->policy.ops->memory(&store->policy);
}

int
pfo_store_is_consistent(const pfo_store *store)
{
    uint64_t bytes = 0;
    uint32_t deadlines = 0;
    for (uint32_t slot = 0; slot < store->table.used_slots; slot++) {
        const pfo_entry *entry = &store->table.entries[slot];
        if (entry->live) {
            bytes += entry->bytes;
            deadlines += (entry->checks & PFO_CHECK_DEADLINE) != 0;
            if (((entry->checks & PFO_CHECK_GUARD) != 0) != (entry->guard != NULL)) {
                return 0;
            }
        }
    }
    return bytes == store->bytes && deadlines == store->expiry.count && pfo_expiry_is_consistent(&store->expiry) &&
           store->policy.ops->is_consistent(&store->policy, store->table.entries, store->table.count) &&
           store->table.count <= store->bounds.max_entries && store->bytes <= store->bounds.max_bytes &&
           pfo_table_is_consistent(&store->table);
}
