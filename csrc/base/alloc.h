/* alloc.h: all heap memory of the pure-C parts comes from here.
 *
 * Contract: functions return NULL when memory is out or a size would overflow; nothing aborts. Memory from any of the
 * allocating functions is released with pfo_free(), except aligned memory, which goes to pfo_free_aligned().
 * Threads: safe from any thread. Under PFO_TESTING the N-th allocation can be made to fail, so that tests can walk
 * every out-of-memory path (N = 1, 2, 3 ... until the operation succeeds).
 */
#ifndef PFO_BASE_ALLOC_H
#define PFO_BASE_ALLOC_H

#include <stddef.h>

void *pfo_alloc(size_t bytes);                          /* uninitialized; bytes == 0 gives a unique non-NULL pointer */
void *pfo_alloc_array(size_t count, size_t item_bytes); /* zeroed; NULL if count * item_bytes overflows */
/* Grows or shrinks like realloc(); on NULL the old block is still there. */
void *pfo_realloc_array(void *block, size_t count, size_t item_bytes);
void pfo_free(void *block); /* NULL is allowed */

/* pre: alignment is a power of two and a multiple of sizeof(void *). Uninitialized. */
void *pfo_alloc_aligned(size_t alignment, size_t bytes);
void pfo_free_aligned(void *block); /* NULL is allowed */

#ifdef PFO_TESTING
/* The n-th allocation from now on fails, once (n >= 1); n == 0 switches injection off. */
void pfo_alloc_fail_at(long n);
#endif

#endif
