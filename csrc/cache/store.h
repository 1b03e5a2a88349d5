/* store.h: the memory tier: a table bounded by entries and bytes, an eviction policy, deadlines, and the counters.
 *
 * Contract: the store owns the structure; keys, values and guards are opaque pointers owned by it from pfo_store_insert() on until
 * they come back through pfo_store_take_victim(). Whatever leaves the store (evicted, expired, replaced, removed, cleared) waits on the
 * victim list, in the order it left; the caller drains that list when the structure is consistent and no lock is held, because
 * releasing a value may run any code, including code that uses this store. [victims]
 * Bounds are hard: after every call, count <= bounds.max_entries and bytes <= bounds.max_bytes. When room is needed, entries that are due
 * leave first, so a live one is evicted only when no expired one is left.
 * A time to live is in nanoseconds from now, 0 for ever. The search does not know about deadlines: whoever takes a value looks at
 * `checks` of the entry first, and drops what is due. No clock is read for an entry without a deadline, nor in a store without any.
 * Threads: none of its own; the caller serialises all calls.
 * Memory: the table's 56 bytes a slot and 8 a bucket, 16 more a slot once there is a deadline, and what the policy takes: at most 160 bytes an entry in
 * all from 500 entries on, 2000 under `auto`. The victim list is chained through slots and allocates nothing. What pfo_store_clear() emptied is given back when its victims are taken.
 */
#ifndef PFO_CACHE_STORE_H
#define PFO_CACHE_STORE_H

#include "cache/expiry.h"
#include "cache/policy.h"
#include "cache/table.h"

/* X(name, text): why something left. */
#define PFO_LEAVE_LIST(X)                                                                                              \
    X(EVICTED, "evicted")                                                                                              \
    X(EXPIRED, "expired")                                                                                              \
    X(REPLACED, "replaced")                                                                                            \
    X(DELETED, "deleted")                                                                                              \
    X(CLEARED, "cleared")                                                                                              \
    X(INVALID, "invalid")

typedef enum pfo_leave_reason {
#define PFO_LEAVE_ENUM(name, text) PFO_LEAVE_##name,
    PFO_LEAVE_LIST(PFO_LEAVE_ENUM)
#undef PFO_LEAVE_ENUM
} pfo_leave_reason;

const char *pfo_leave_reason_text(pfo_leave_reason reason);

typedef struct pfo_victim {
    uint64_t hash;
    void *key;
    void *value;
    void *guard;
    pfo_leave_reason reason;
} pfo_victim;

/* What an entry is made of. */
typedef struct pfo_item {
    uint64_t hash;
    void *key;
    void *value;
    void *guard; /* may be NULL */
    size_t bytes;
    uint64_t ttl_ns; /* 0: never due */
} pfo_item;

typedef struct pfo_store {
    pfo_table table;
    pfo_policy policy;
    pfo_expiry expiry;
    pfo_bounds bounds;        /* max_entries 0 stores nothing */
    uint64_t (*now_ns)(void); /* the clock of deadlines: monotonic nanoseconds; tests move it */
    uint64_t bytes;           /* sum over live entries */
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;   /* entries that left to make room while they were good */
    uint64_t expirations; /* entries that left because they were due */
    uint64_t rejects;     /* insertions refused because one entry exceeds max_bytes */
    uint32_t victim_head; /* [victims]: unlinked slots not yet taken, oldest first */
    uint32_t victim_tail;
    int gives_back; /* cleared: memory goes when the victims are taken */
} pfo_store;

/* On failure (NO_MEMORY) the store needs no pfo_store_free(). */
pfo_status pfo_store_init(pfo_store *store, const pfo_policy_ops *ops, const pfo_bounds *bounds, pfo_error *err);

/* pre: cleared and all victims taken. */
void pfo_store_free(pfo_store *store);

/* Inserts a key that is not present; makes room until both bounds hold. On PFO_OK *stored says whether the store took key, value and
 * guard over (1), or whether they do not fit its bounds and stay the caller's (0). On failure they stay the caller's and nothing changed.
 * pre: the caller has just searched for the key and found nothing. */
pfo_status pfo_store_insert(pfo_store *store, const pfo_item *item, int *stored, pfo_error *err);

/* Puts a new item in the place of a live entry with an equal key, and counts as a use; the old key, value and guard leave. The same
 * answers as pfo_store_insert(), but where the item alone exceeds max_bytes the old entry leaves all the same. */
pfo_status pfo_store_replace(pfo_store *store, uint32_t slot, const pfo_item *item, int *stored, pfo_error *err);

/* Removes a live entry for the reason given (DELETED, INVALID or EXPIRED, which is counted). */
void pfo_store_remove(pfo_store *store, uint32_t slot, pfo_leave_reason reason);

/* Removes everything; counters stay. */
void pfo_store_clear(pfo_store *store);

/* Removes every entry that is due; how many. */
uint64_t pfo_store_expire(pfo_store *store);

/* Gives a live entry a new time to live. NO_MEMORY changes nothing. */
pfo_status pfo_store_touch(pfo_store *store, uint32_t slot, uint64_t ttl_ns, pfo_error *err);

/* New bounds; what no longer fits is evicted. NO_MEMORY changes nothing. */
pfo_status pfo_store_resize(pfo_store *store, const pfo_bounds *bounds, pfo_error *err);

/* Sets hits, misses, evictions, expirations and rejects to 0. */
void pfo_store_reset_counters(pfo_store *store);

/* Takes the oldest victim: 1 and *victim filled, or 0 when there is none. */
int pfo_store_take_victim(pfo_store *store, pfo_victim *victim);

/* Bytes of heap memory of the structure and its policy, keys and values not counted. */
size_t pfo_store_memory(const pfo_store *store);

/* 1 when table, policy, deadlines, byte total and bounds agree (tests, debug builds). */
int pfo_store_is_consistent(const pfo_store *store);

/* Nanoseconds until a live entry is due: 0 when it is, UINT64_MAX when it never will be. */
uint64_t pfo_store_time_left(const pfo_store *store, uint32_t slot);

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
