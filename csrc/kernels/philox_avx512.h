/* philox_avx512.h: the random bits of philox_math.h, sixteen counters at a time.
 *
 * For files built with AVX-512 (csrc/flags.mk), behind the check that it is there. Threads: pure functions. Nothing here allocates or
 * fails.
 */
#ifndef PFO_KERNELS_PHILOX_AVX512_H
#define PFO_KERNELS_PHILOX_AVX512_H

#include "kernels/convert.h"
#include "kernels/philox_math.h"

#include <immintrin.h>

/* One round on eight counters, a word in the lower half of each 64-bit lane; the upper halves hold what no operation
 * reads. */
static inline __attribute__((always_inline)) void
philox_round(__m512i c[4], __m512i key_0, __m512i key_1)
{
    const __m512i product_0 = _mm512_mul_epu32(c[0], _mm512_set1_epi64(PFO_PHILOX_MULTIPLIER_0));
    const __m512i product_1 = _mm512_mul_epu32(c[2], _mm512_set1_epi64(PFO_PHILOX_MULTIPLIER_1));
    const __m512i high_1 = _mm512_srli_epi64(product_1, 32);
    const __m512i high_0 = _mm512_srli_epi64(product_0, 32);
    c[0] = _mm512_xor_si512(_mm512_xor_si512(high_1, c[1]), key_0);
    c[1] = product_1;
    c[2] = _mm512_xor_si512(_mm512_xor_si512(high_0, c[3]), key_1);
    c[3] = product_0;
}

typedef __m512i random_words[4];

/* The words for the PFO_PHILOX_ELEMENTS elements from index on, a multiple of that. */
static inline __attribute__((always_inline)) void
fill_words(const pfo_rounding *rounding, uint64_t index, random_words words)
{
    const uint64_t group = index / PFO_PHILOX_ELEMENTS * PFO_PHILOX_LANES;
    const __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    __m512i low[4], high[4]; /* counters 0 to 7, and 8 to 15; a multiple of 16 plus these carries nothing */
    low[0] = _mm512_add_epi64(_mm512_set1_epi64((int64_t)(group & 0xffffffffu)), lane);
    high[0] = _mm512_add_epi64(low[0], _mm512_set1_epi64(8));
    low[1] = high[1] = _mm512_set1_epi64((int64_t)(group >> 32));
    low[2] = high[2] = _mm512_set1_epi64((int64_t)(rounding->stream & 0xffffffffu));
    low[3] = high[3] = _mm512_set1_epi64((int64_t)(rounding->stream >> 32));
    uint32_t key_0 = (uint32_t)rounding->seed, key_1 = (uint32_t)(rounding->seed >> 32);
    for (int round = 0; round < PFO_PHILOX_ROUNDS; round++) {
        const __m512i wide_0 = _mm512_set1_epi64((int64_t)key_0), wide_1 = _mm512_set1_epi64((int64_t)key_1);
        philox_round(low, wide_0, wide_1);
        philox_round(high, wide_0, wide_1);
        key_0 += PFO_PHILOX_WEYL_0;
        key_1 += PFO_PHILOX_WEYL_1;
    }
    for (int k = 0; k < 4; k++) {
        words[k] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(low[k])),
                                      _mm512_cvtepi64_epi32(high[k]), 1);
    }
}

#endif
