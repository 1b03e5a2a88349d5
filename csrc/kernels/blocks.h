/* blocks.h: the 8-bit block codes (quantize_math.h) of each instruction set: what the tables of convert.h hold for
 * BLOCK8, UBLOCK8 and draw.
 *
 * For the files of those tables only, where the compiler's target has the instructions; everyone else goes by
 * pfo_converters_for(). Contracts, threads and memory: convert.h.
 */
#ifndef PFO_KERNELS_BLOCKS_H
#define PFO_KERNELS_BLOCKS_H

#include "kernels/convert.h"

/* X(what stands behind the functions' names) */
#define PFO_BLOCK_LEVELS(X)                                                                                            \
    X(avx2)                                                                                                            \
    X(avx512)

#define PFO_BLOCK_FUNCTIONS(level)                                                                                     \
    void pfo_load_block8_##level(const void *from, const float *scales, float *to, int64_t count);                     \
    void pfo_load_ublock8_##level(const void *from, const float *scales, float *to, int64_t count);                    \
    void pfo_store_block8_##level(const float *from, void *to, float *scales, int64_t count,                           \
                                  const pfo_rounding *rounding, int stream_past_cache);                                \
    void pfo_store_ublock8_##level(const float *from, void *to, float *scales, int64_t count,                          \
                                   const pfo_rounding *rounding, int stream_past_cache);                               \
    void pfo_draw_##level(const pfo_rounding *rounding, int64_t count, uint32_t *words);
PFO_BLOCK_LEVELS(PFO_BLOCK_FUNCTIONS)
#undef PFO_BLOCK_FUNCTIONS

#endif
