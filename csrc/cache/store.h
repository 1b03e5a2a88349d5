/* store.h: the memory tier: a table bounded by entries and bytes, an eviction policy, and the counters.
 *
 * Contract: the store owns the structure; keys, values and guards are opaque pointers owned by it from pfo_store_insert() on until
 * they come back through pfo_store_take_victim(). Whatever leaves the store (evicted, replaced, removed, cleared) waits on the victim
 * list, in the order it left; the caller drains that list when the structure is consistent and no lock is held, because releasing a
 * value may run any code, including code that uses this store. [victims]
 * Bounds are hard: after every call, count <= bounds.max_entries and bytes <= bounds.max_bytes.
 * Threads: none of its own; the caller serialises all calls.
 * Memory: the table's; the victim list is chained through slots and allocates nothing.
 */
#ifndef PFO_CACHE_STORE_H
#define PFO_CACHE_STORE_H

#include "cache/policy.h"
#include "cache/table.h"

typedef struct pfo_victim {
    void *key;
    void *value;
    void *guard;
} pfo_victim;

typedef struct pfo_store {
    pfo_table table;
    pfo_policy policy;
    pfo_bounds bounds; /* max_entries 0 stores nothing */
    uint64_t bytes;    /* sum over live entries */
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;   /* entries that left to make room */
    uint64_t rejects;     /* insertions refused because one entry exceeds max_bytes */
    uint32_t victim_head; /* [victims]: unlinked slots not yet taken, oldest first */
    uint32_t victim_tail;
} pfo_store;

/* On failure (NO_MEMORY) the store needs no pfo_store_free(). */
pfo_status pfo_store_init(pfo_store *store, const pfo_policy_ops *ops, const pfo_bounds *bounds, pfo_error *err);

/* pre: cleared and all victims taken. */
void pfo_store_free(pfo_store *store);

/* Inserts a key that is not present; evicts until both bounds hold. On PFO_OK *stored says whether the store took key, value and
 * guard over (1), or whether they do not fit its bounds and stay the caller's (0). On failure they stay the caller's and nothing changed.
 * pre: the caller has just searched for key and found nothing. */
pfo_status pfo_store_insert(pfo_store *store, uint64_t hash, void *key, void *value, void *guard, size_t bytes,
                            int *stored, pfo_error *err);

/* Puts a new value into a live entry and counts as a use; the old value and guard become a victim (with a NULL key).
 * stored == 0: the new value alone exceeds max_bytes, so the entry is removed and value and guard stay the caller's.
 * NO_MEMORY changes nothing. */
pfo_status pfo_store_replace(pfo_store *store, uint32_t slot, void *value, void *guard, size_t bytes, int *stored,
                             pfo_error *err);

/* Removes a live entry; it becomes a victim. Not counted as an eviction. */
void pfo_store_remove(pfo_store *store, uint32_t slot);

/* Removes everything; counters stay. */
void pfo_store_clear(pfo_store *store);

/* Sets hits, misses, evictions and rejects to 0. */
void pfo_store_reset_counters(pfo_store *store);

/* Takes the oldest victim: 1 and *victim filled, or 0 when there is none. */
int pfo_store_take_victim(pfo_store *store, pfo_victim *victim);

/* 1 when table, policy list, byte total and bounds agree (tests, debug builds). */
int pfo_store_is_consistent(const pfo_store *store);

/* Counts a hit on a live slot and tells the policy. */
static inline void
pfo_store_hit(pfo_store *store, uint32_t slot)
{
    store->hits++;
    if (store->policy.fresh != slot) {
        store->policy.ops->touch(&store->policy, store->table.entries, slot);
    }
}

#endif
