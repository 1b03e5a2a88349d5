/* store_fence.h: the end of stores past the cache.
 *
 * The processor may keep them back behind later stores, so whoever wrote that way fences before it tells another thread that it is
 * done: once for all its chunks, as a fence waits until the last line has left (after every 1,024 elements of bfloat16 it costs
 * six tenths of their time). Threads: orders the calling thread's own stores. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_STORE_FENCE_H
#define PFO_KERNELS_STORE_FENCE_H

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

static inline void
pfo_fence_stores_past_cache(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

#endif
