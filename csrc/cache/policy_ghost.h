/* policy_ghost.h: the hashes of entries that left, oldest first: a queue with membership.
 *
 * Contract: a hash is in it once. Only pfo_ghost_reserve() can fail.
 * Invariants: the nodes below `used` are either linked from head to tail, youngest first, and in one bucket each, or on the free list.
 * Memory: 16 bytes for each of `capacity` hashes, which grow by a quarter or to just what is said to be enough, and 4 for each of the buckets,
 * a power of two, 3 to 6 of them for 2 hashes. Nothing before the first reservation.
 * Threads: the policy's.
 */
#ifndef PFO_CACHE_POLICY_GHOST_H
#define PFO_CACHE_POLICY_GHOST_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct pfo_ghost_node {
    uint64_t hash;
    uint32_t previous; /* younger */
    uint32_t next;     /* older; the next free one on the free list */
} pfo_ghost_node;

typedef struct pfo_ghost {
    pfo_ghost_node *nodes;
    uint32_t *buckets; /* node + 1, 0 = empty */
    uint32_t bucket_mask;
    uint32_t shift; /* 64 - log2(number of buckets) */
    uint32_t capacity;
    uint32_t used;
    uint32_t free_node;
    uint32_t head;
    uint32_t tail;
    uint32_t count;
} pfo_ghost;

void pfo_ghost_init(pfo_ghost *ghost); /* no allocation */
void pfo_ghost_free(pfo_ghost *ghost); /* it is empty, and may be used again */

/* Room for `count` hashes in all. enough: the most that the caller expects to need, past which it does not grow before it has to. NO_MEMORY
 * changes nothing. */
pfo_status pfo_ghost_reserve(pfo_ghost *ghost, uint32_t count, uint64_t enough, pfo_error *err);

/* Puts hash at the young end, also when it is there already. pre: count < capacity. */
void pfo_ghost_add(pfo_ghost *ghost, uint64_t hash);

/* 1 when the hash was there. */
int pfo_ghost_remove(pfo_ghost *ghost, uint64_t hash);

/* pre: count > 0. */
void pfo_ghost_drop_oldest(pfo_ghost *ghost);

/* Bytes of heap memory in use. */
size_t pfo_ghost_memory(const pfo_ghost *ghost);

/* For tests. */
int pfo_ghost_is_consistent(const pfo_ghost *ghost);

#endif
