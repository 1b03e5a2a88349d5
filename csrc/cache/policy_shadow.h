/* policy_shadow.h: a cache of hashes without keys or values: a table, a policy and the bounds. What `auto` tries policies out on, and what
 * a trace is replayed on.
 *
 * Contract: it goes through table and policy in the order in which a pfo_store does, so the same requests evict the same entries. A hash
 * is a key: equal hashes are one entry.
 * Threads: the caller's. Memory: the table's and the policy's.
 */
#ifndef PFO_CACHE_POLICY_SHADOW_H
#define PFO_CACHE_POLICY_SHADOW_H

#include "cache/policy.h"

typedef struct pfo_shadow {
    pfo_table table;
    pfo_policy policy;
    pfo_bounds bounds;
    uint64_t bytes;
    uint64_t evictions;
    void (*evicted)(void *context,
                    uint64_t hash); /* told of each eviction, in order; may be NULL; must not use the shadow */
    void *context;
} pfo_shadow;

/* On failure it needs no pfo_shadow_free(). */
pfo_status pfo_shadow_init(pfo_shadow *shadow, const pfo_policy_ops *ops, const pfo_bounds *bounds, pfo_error *err);
void pfo_shadow_free(pfo_shadow *shadow);

/* PFO_SLOT_NONE when the hash is not in. */
uint32_t pfo_shadow_find(const pfo_shadow *shadow, uint64_t hash);

/* One request: *hit says whether the hash was in, and counts as a use then; otherwise it comes in, unless bytes alone exceed the bound. An
 * entry that is hit keeps the size it came with. NO_MEMORY: only *hit is set. */
pfo_status pfo_shadow_request(pfo_shadow *shadow, uint64_t hash, size_t bytes, int *hit, pfo_error *err);

/* As pfo_store_insert() and pfo_store_replace(): present or not, it enters anew. NO_MEMORY changes nothing. */
pfo_status pfo_shadow_set(pfo_shadow *shadow, uint64_t hash, size_t bytes, pfo_error *err);

/* 1 when the hash was in. */
int pfo_shadow_delete(pfo_shadow *shadow, uint64_t hash);
void pfo_shadow_clear(pfo_shadow *shadow);

/* Clears it and gives the table's memory back, until the next request. */
void pfo_shadow_trim(pfo_shadow *shadow);

/* New bounds; what no longer fits is evicted. On failure nothing changed. */
pfo_status pfo_shadow_resize(pfo_shadow *shadow, const pfo_bounds *bounds, pfo_error *err);

/* Bytes of heap memory in use. */
size_t pfo_shadow_memory(const pfo_shadow *shadow);

int pfo_shadow_is_consistent(const pfo_shadow *shadow);

#endif
