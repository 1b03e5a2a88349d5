/* policy.h: what an eviction policy has to answer. One file per policy; the store knows only this table of functions.
 *
 * Contract: a policy orders the live entries of one store. It keeps its state in a pfo_policy and in the entries' own fields
 * `previous`, `next` and `policy_bits`, and never looks at keys or values. None of the functions can fail or call out.
 * The store calls admit() after an entry is in the table, touch() on a hit, victim() when it must make room, and remove() before an
 * entry leaves the table for whatever reason (including after victim() named it). clear() forgets all entries at once.
 * Threads: called under whatever serialises the store.
 */
#ifndef PFO_CACHE_POLICY_H
#define PFO_CACHE_POLICY_H

#include "cache/table.h"

/* State shared by the list-shaped policies: one doubly linked list through the entries. */
typedef struct pfo_policy {
    uint32_t head; /* youngest, or PFO_SLOT_NONE */
    uint32_t tail; /* oldest */
    uint32_t
        fresh; /* a slot for which touch() would change nothing, so that the store spares the call; or PFO_SLOT_NONE */
} pfo_policy;

typedef struct pfo_policy_ops {
    const char *name;
    void (*clear)(pfo_policy *policy);
    void (*admit)(pfo_policy *policy, pfo_entry *entries, uint32_t slot);
    void (*touch)(pfo_policy *policy, pfo_entry *entries, uint32_t slot);
    uint32_t (*victim)(pfo_policy *policy, pfo_entry *entries); /* PFO_SLOT_NONE when there is no entry */
    void (*remove)(pfo_policy *policy, pfo_entry *entries, uint32_t slot);
} pfo_policy_ops;

extern const pfo_policy_ops pfo_policy_lru;

#endif
