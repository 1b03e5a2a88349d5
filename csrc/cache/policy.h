/* policy.h: what an eviction policy has to answer. One file per policy; the store knows only this table of functions.
 *
 * Contract: a policy orders the live entries of one store. It keeps its state in a pfo_policy and in the entries' own fields
 * `previous`, `next` and `policy_bits`; of an entry it reads `hash` and `bytes`, never keys or values. Only init(), resize() and
 * reserve() can fail; none calls out.
 * The store calls reserve() before it makes room for a new entry, admit() after an entry is in the table, touch() on a hit, victim()
 * when it must make room, and remove() before an entry leaves the table for whatever reason; `evicted` says that victim() named it and
 * that it leaves to make room (only then may a policy remember it as a ghost). clear() forgets all entries at once.
 * victim() may reorder the policy's queues, but the entry it names stays admitted until remove(); asked again without a change in
 * between it names the same one.
 * Threads: called under whatever serialises the store.
 */
#ifndef PFO_CACHE_POLICY_H
#define PFO_CACHE_POLICY_H

#include "cache/table.h"

#define PFO_STORE_UNBOUNDED UINT64_MAX

typedef struct pfo_policy_ops pfo_policy_ops;

typedef struct pfo_policy {
    const pfo_policy_ops *ops;
    uint32_t
        fresh; /* a slot for which touch() would change nothing, so that the store spares the call; or PFO_SLOT_NONE */
    /* The list-shaped policies' one doubly linked list through the entries. */
    uint32_t head; /* youngest, or PFO_SLOT_NONE */
    uint32_t tail; /* oldest */
    void *state;   /* what else a policy needs; owned by it */
} pfo_policy;

/* The bounds of the store, for policies that divide them between queues; PFO_STORE_UNBOUNDED where there is none. */
typedef struct pfo_bounds {
    uint64_t max_entries;
    uint64_t max_bytes;
} pfo_bounds;

/* The slots that a cache needs: room is made for a new entry only after memory for it is there, so one more than entries. */
static inline uint64_t
pfo_slots_for(const pfo_bounds *bounds)
{
    return bounds->max_entries == PFO_STORE_UNBOUNDED ? bounds->max_entries : bounds->max_entries + 1;
}

/* Whether the policy may be asked for a victim when another entry comes to `count` others. */
static inline int
pfo_may_evict(const pfo_bounds *bounds, uint64_t count)
{
    return bounds->max_bytes != PFO_STORE_UNBOUNDED || count >= bounds->max_entries;
}

struct pfo_policy_ops {
    const char *name;
    pfo_status (*init)(pfo_policy *policy, const pfo_bounds *bounds, pfo_error *err); /* fills everything but ops */
    void (*drop)(pfo_policy *policy);
    /* New bounds; entries stay admitted, and the store evicts afterwards until they hold. On failure nothing changed. */
    pfo_status (*resize)(pfo_policy *policy, pfo_entry *entries, const pfo_bounds *bounds, pfo_error *err);
    /* Memory for one more entry than `count`, so that admit() cannot fail. */
    pfo_status (*reserve)(pfo_policy *policy, uint32_t count, pfo_error *err);
    void (*clear)(pfo_policy *policy);
    void (*admit)(pfo_policy *policy, pfo_entry *entries, uint32_t slot);
    void (*touch)(pfo_policy *policy, pfo_entry *entries, uint32_t slot);
    uint32_t (*victim)(pfo_policy *policy, pfo_entry *entries); /* PFO_SLOT_NONE when there is no entry */
    void (*remove)(pfo_policy *policy, pfo_entry *entries, uint32_t slot, int evicted);
    /* Bytes of heap memory in use. */
    size_t (*memory)(const pfo_policy *policy);
    /* For tests: 1 when the policy's structure is whole and holds `count` entries. */
    int (*is_consistent)(const pfo_policy *policy, const pfo_entry *entries, uint32_t count);
};

extern const pfo_policy_ops pfo_policy_lru;
extern const pfo_policy_ops pfo_policy_fifo;
extern const pfo_policy_ops pfo_policy_sieve;
extern const pfo_policy_ops pfo_policy_s3fifo;
extern const pfo_policy_ops pfo_policy_wtinylfu;
extern const pfo_policy_ops pfo_policy_auto;

/* resize, reserve and memory of a policy that does not divide the bounds, needs no memory for an entry, has none at all. */
pfo_status pfo_policy_resize_nothing(pfo_policy *policy, pfo_entry *entries, const pfo_bounds *bounds, pfo_error *err);
pfo_status pfo_policy_reserve_nothing(pfo_policy *policy, uint32_t count, pfo_error *err);
size_t pfo_policy_memory_nothing(const pfo_policy *policy);

/* The policy of this name, or NULL. */
const pfo_policy_ops *pfo_policy_by_name(const char *name);

/* All names in the order they are documented in, ending with NULL. */
extern const char *const pfo_policy_names[];

#endif
