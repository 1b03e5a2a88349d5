/* cast.h: whole arrays from one dtype to another, and scaling in place with the check for inf and NaN, on all threads.
 *
 * The array is cut into chunks of PFO_CHUNK_ELEMENTS, whole blocks of 8-bit state each; a pair of dtypes without
 * float32 goes through a tile of float32 that stays in the first cache. The result does not depend on threads or
 * variant, stochastic rounding included: its random bits come from the element's index.
 * Threads: runs on base/pool.h; the caller's memory must not change meanwhile. Never touches Python. Nothing here
 * allocates or fails.
 */
#ifndef PFO_KERNELS_CAST_H
#define PFO_KERNELS_CAST_H

#include "kernels/convert.h"

typedef struct pfo_cast_request {
    const void *from;
    const float *from_scales; /* of BLOCK8 and UBLOCK8, else NULL */
    pfo_dtype from_dtype;
    void *to; /* does not overlap from */
    float *to_scales;
    pfo_dtype to_dtype;
    int64_t count;
    pfo_rounding rounding;
    int threads; /* 0: as many as pfo_pool_default_threads() says */
} pfo_cast_request;

/* pre: the pointers have room for count elements (and their blocks' scales), aligned to their element. */
void pfo_cast(const pfo_convert_table *table, const pfo_cast_request *request);

/* Multiplies count elements of data in place by factor (in float32, stored to nearest) and gives 1 if any product,
 * as a float32, was inf or NaN. pre: dtype is FLOAT32, BFLOAT16 or FLOAT16. */
int pfo_scale(const pfo_convert_table *table, void *data, pfo_dtype dtype, int64_t count, float factor, int threads);

#endif
