/* policy_sketch.h: how often a hash was seen lately: a count-min sketch of 4-bit counters that ages by halving.
 *
 * Algorithm: Cormode and Muthukrishnan 2005, with the aging of TinyLFU (Einziger, Friedman, Manes 2017). Four rows of `width` counters;
 * row i counts a hash in column (low + i * (high | 1)) mod width, low and high being the halves of the mixed hash. The estimate is
 * the smallest of the four, at most 15. Growing doubles the rows and copies each half over, so that no estimate changes.
 * Memory: 2 bytes a column; nothing before the first reservation. Threads: the policy's.
 */
#ifndef PFO_CACHE_POLICY_SKETCH_H
#define PFO_CACHE_POLICY_SKETCH_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { PFO_SKETCH_ROWS = 4, PFO_SKETCH_MAX = 15, PFO_SKETCH_FIRST_WIDTH = 64 };

typedef struct pfo_sketch {
    uint64_t *words; /* row by row, 16 counters a word */
    uint32_t width;  /* a power of two, or 0 */
    uint64_t additions;
} pfo_sketch;

void pfo_sketch_init(pfo_sketch *sketch); /* no allocation */
void pfo_sketch_free(pfo_sketch *sketch);
void pfo_sketch_clear(pfo_sketch *sketch);

/* At least `width` columns (at most 2^30 are made). NO_MEMORY changes nothing. */
pfo_status pfo_sketch_reserve(pfo_sketch *sketch, uint32_t width, pfo_error *err);

/* Counts one more; when `period` were added since the last aging, all counters are halved, and `additions` with them.
 * pre: width > 0. */
void pfo_sketch_add(pfo_sketch *sketch, uint64_t hash, uint64_t period);

/* Bytes of heap memory in use. */
size_t pfo_sketch_memory(const pfo_sketch *sketch);

uint32_t pfo_sketch_estimate(const pfo_sketch *sketch, uint64_t hash); /* pre: width > 0 */

/* The finalizer of MurmurHash3 (Appleby): hashes come in as given, an int's is its value. */
static inline uint64_t
pfo_policy_mix(uint64_t hash)
{
    hash ^= hash >> 33;
    hash *= UINT64_C(0xFF51AFD7ED558CCD);
    hash ^= hash >> 33;
    hash *= UINT64_C(0xC4CEB9FE1A85EC53);
    return hash ^ (hash >> 33);
}

#endif
