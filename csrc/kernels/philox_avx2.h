/* philox_avx2.h: the random bits of philox_math.h, eight counters at a time.
 *
 * For files built with AVX2 (csrc/flags.mk), behind the check that it is there. Threads: pure functions. Nothing here allocates or
 * fails.
 */
#ifndef PFO_KERNELS_PHILOX_AVX2_H
#define PFO_KERNELS_PHILOX_AVX2_H

#include "kernels/convert.h"
#include "kernels/philox_math.h"

#include <immintrin.h>

/* One round on four counters, a word in the lower half of each 64-bit lane; the upper halves hold what no operation
 * reads. */
static inline __attribute__((always_inline)) void
philox_round(__m256i c[4], __m256i key_0, __m256i key_1)
{
    const __m256i product_0 = _mm256_mul_epu32(c[0], _mm256_set1_epi64x(PFO_PHILOX_MULTIPLIER_0));
    const __m256i product_1 = _mm256_mul_epu32(c[2], _mm256_set1_epi64x(PFO_PHILOX_MULTIPLIER_1));
    const __m256i high_1 = _mm256_srli_epi64(product_1, 32);
    const __m256i high_0 = _mm256_srli_epi64(product_0, 32);
    c[0] = _mm256_xor_si256(_mm256_xor_si256(high_1, c[1]), key_0);
    c[1] = product_1;
    c[2] = _mm256_xor_si256(_mm256_xor_si256(high_0, c[3]), key_1);
    c[3] = product_0;
}

/* Eight counters from index `group` on (a multiple of 8): word k of all, in the order of the counters. */
static inline __attribute__((always_inline)) void
eight_counters(const pfo_rounding *rounding, uint64_t group, __m256i words[4])
{
    __m256i even[4], odd[4]; /* counters 0 2 4 6 and 1 3 5 7, so that their words interleave by a shift */
    even[0] = _mm256_add_epi64(_mm256_set1_epi64x((int64_t)(group & 0xffffffffu)), _mm256_set_epi64x(6, 4, 2, 0));
    odd[0] = _mm256_add_epi64(even[0], _mm256_set1_epi64x(1));
    even[1] = odd[1] = _mm256_set1_epi64x((int64_t)(group >> 32));
    even[2] = odd[2] = _mm256_set1_epi64x((int64_t)(rounding->stream & 0xffffffffu));
    even[3] = odd[3] = _mm256_set1_epi64x((int64_t)(rounding->stream >> 32));
    uint32_t key_0 = (uint32_t)rounding->seed, key_1 = (uint32_t)(rounding->seed >> 32);
    for (int round = 0; round < PFO_PHILOX_ROUNDS; round++) {
        const __m256i wide_0 = _mm256_set1_epi64x((int64_t)key_0), wide_1 = _mm256_set1_epi64x((int64_t)key_1);
        philox_round(even, wide_0, wide_1);
        philox_round(odd, wide_0, wide_1);
        key_0 += PFO_PHILOX_WEYL_0;
        key_1 += PFO_PHILOX_WEYL_1;
    }
    for (int k = 0; k < 4; k++) {
        words[k] = _mm256_blend_epi32(even[k], _mm256_slli_epi64(odd[k], 32), 0xaa);
    }
}

typedef __m256i random_words[2][4];

/* The words for the PFO_PHILOX_ELEMENTS elements from index on, a multiple of that: words[half of the lanes][word]. */
static inline void
fill_words(const pfo_rounding *rounding, uint64_t index, random_words words)
{
    const uint64_t group = index / PFO_PHILOX_ELEMENTS * PFO_PHILOX_LANES;
    eight_counters(rounding, group, words[0]);
    eight_counters(rounding, group + PFO_PHILOX_LANES / 2, words[1]);
}

#endif
