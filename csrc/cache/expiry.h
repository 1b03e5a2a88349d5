/* expiry.h: which entry of a store is due: a hierarchical timer wheel over slot numbers.
 *
 * Contract: knows a deadline for some slots of a store and names one that is due. A wheel of 9 levels of 64 buckets in units of 1024 ns
 * covers every 64-bit nanosecond, so no deadline is cut; the bucket of the lowest level is searched by exact deadline, so the answer
 * is exact to the nanosecond (Varghese and Lauck, Hashed and Hierarchical Timing Wheels, SOSP 1987; level by the highest bit in which
 * deadline and wheel differ).
 * Time is whatever monotonic nanoseconds the caller uses. A time that went back finds nothing due, and nothing breaks.
 * Threads: none of its own; the caller serialises all calls.
 * Memory: nothing until the first reserve; then 2.3 KiB and 16 bytes a slot.
 * Complexity: O(1) to add and remove; a slot moves down at most once a level before it is due.
 */
#ifndef PFO_CACHE_EXPIRY_H
#define PFO_CACHE_EXPIRY_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { PFO_EXPIRY_LEVELS = 9, PFO_EXPIRY_BUCKETS = 64 };

typedef struct pfo_expiry_node {
    uint64_t deadline_ns;
    uint32_t previous; /* a slot, or FIRST_IN_BUCKET + bucket */
    uint32_t next;     /* a slot, or PFO_SLOT_NONE */
} pfo_expiry_node;

typedef struct pfo_expiry {
    pfo_expiry_node *nodes; /* by slot; NULL before the first reserve */
    uint32_t *buckets;      /* first slot of each bucket, level by level */
    uint64_t occupied[PFO_EXPIRY_LEVELS];
    uint64_t wheel_tick;  /* no slot in the wheel belongs into an earlier tick */
    uint64_t earliest_ns; /* nothing is due before; a lower bound, so that most questions end here */
    uint32_t capacity;    /* slots in nodes */
    uint32_t count;       /* slots with a deadline */
} pfo_expiry;

void pfo_expiry_init(pfo_expiry *expiry); /* no allocation */
void pfo_expiry_free(pfo_expiry *expiry); /* back to the state of init */

/* Memory for slots below `slots`, so that pfo_expiry_add() cannot fail. NO_MEMORY changes nothing. */
pfo_status pfo_expiry_reserve(pfo_expiry *expiry, uint32_t slots, pfo_error *err);

/* pre: slot is below what was reserved and has no deadline. */
void pfo_expiry_add(pfo_expiry *expiry, uint32_t slot, uint64_t deadline_ns, uint64_t now_ns);

/* pre: slot has a deadline. */
void pfo_expiry_remove(pfo_expiry *expiry, uint32_t slot);

/* A slot whose deadline is at or before now, which stays in the wheel until it is removed; PFO_SLOT_NONE when none is due. */
uint32_t pfo_expiry_due(pfo_expiry *expiry, uint64_t now_ns);

/* Bytes of heap memory in use. */
size_t pfo_expiry_memory(const pfo_expiry *expiry);

/* For tests: 1 when each listed slot is in the bucket where it belongs and the counts agree. */
int pfo_expiry_is_consistent(const pfo_expiry *expiry);

#endif
