/* convert.h: the ways to store float32 values: for each processor level, one function per dtype that reads and one
 * that writes.
 *
 * An optimizer step computes in float32. Whatever is stored otherwise is read into a tile of float32 that stays in
 * the first cache, worked on there, and written back from it; so each dtype is written once here, not once for each
 * operation.
 *
 * Every variant gives the bits of the scalar reference (convert_scalar.c), which is convert_math.h, quantize_math.h and
 * philox_math.h element by element; those headers compile as CUDA too.
 * - Rounding is to nearest, ties to even, or stochastic where asked for (every dtype but float32): up with the
 *   probability of the dropped fraction (to 2^-16). NaN stays NaN (quiet, sign kept) and infinity infinity under both.
 *   bfloat16, float16 and float8_e5m2 overflow to infinity, as IEEE 754 says, float8_e4m3fn, which has none, to NaN;
 *   the 8-bit floats saturate where saturate == 1. (torch 2.13 saturates float8_e4m3fn, and only that.)
 * - Random bits are counter-based (Philox4x32-7; Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC
 *   2011): a function of seed, stream and the element's index alone, whatever the threads, the tile or the variant.
 * - Steps store 8-bit state by stochastic rounding, two states by one draw (rounding_math.h).
 * - BLOCK8 and UBLOCK8 also read or write scales[], one float32 per PFO_SCALE_BLOCK elements, whose bits are part of
 *   the code (copy them, do no arithmetic with them); the first element given is the first of a block.
 * Threads: tables are constant; functions are pure over the caller's memory. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_CONVERT_H
#define PFO_KERNELS_CONVERT_H

#include "base/cpu.h"
#include "kernels/tensor.h"

typedef struct pfo_rounding {
    int stochastic; /* 0: to nearest even */
    int saturate;   /* 1: float8 overflow gives the largest finite value */
    int exchanged; /* 1: 8-bit blocks take the two bytes of an element's random bits in the other order (rounding_math.h) */
    uint64_t seed;         /* of the run */
    uint64_t stream;       /* of the tensor and the step (rounding_math.h) */
    uint64_t first;        /* index within the tensor of the first element given */
    const uint32_t *words; /* NULL, or what draw() gives for these: 8-bit blocks read it instead of drawing */
} pfo_rounding;

/* pre: from has count elements of the dtype, to has room for count float32; they do not overlap. scales is NULL but
 * for BLOCK8 and UBLOCK8. count >= 0; no alignment beyond that of the element is needed. Conversions run under the
 * default floating point environment (float_environment.h), both ways. */
typedef void (*pfo_load_kernel)(const void *from, const float *scales, float *to, int64_t count);

/* The other way. stream_past_cache == 1: the destination will not be read soon and is written with non-temporal
 * stores where that is possible; the caller fences behind its last one (store_fence.h). rounding is not NULL. */
typedef void (*pfo_store_kernel)(const float *from, void *to, float *scales, int64_t count,
                                 const pfo_rounding *rounding, int stream_past_cache);

/* The random words (philox_math.h) of elements [first, first + count) of rounding's seed and stream: 64 for each
 * PFO_PHILOX_ELEMENTS of them begun, word k of lane l at k * PFO_PHILOX_LANES + l. pre: first is a multiple of that. */
typedef void (*pfo_draw_kernel)(const pfo_rounding *rounding, int64_t count, uint32_t *words);

typedef struct pfo_convert_table {
    pfo_cpu_level level;
    pfo_load_kernel load[PFO_DTYPE_COUNT];   /* NULL for FLOAT32, which is used where it lies */
    pfo_store_kernel store[PFO_DTYPE_COUNT]; /* FLOAT32 copies */
    pfo_draw_kernel draw;
} pfo_convert_table;

/* The table for a level this machine can run, or NULL when it cannot. */
const pfo_convert_table *pfo_converters_for(pfo_cpu_level level);

/* One per variant file; NULL where the compiler's target has no such instructions. Use pfo_converters_for(). */
const pfo_convert_table *pfo_converters_scalar(void);
const pfo_convert_table *pfo_converters_avx2(void);
const pfo_convert_table *pfo_converters_avx512(void);
const pfo_convert_table *pfo_converters_neon(void);

#endif
