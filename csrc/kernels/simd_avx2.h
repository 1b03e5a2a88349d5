/* simd_avx2.h: the words in which kernels_update.h is written, for AVX2: eight lanes.
 *
 * The vocabulary, the same for every instruction set (simd_*.h):
 *   vf              a vector of VF_LANES float32
 *   vf_load(p, n)   the first n elements at p, 1 <= n <= VF_LANES, the other lanes 0; touches no memory behind them
 *   vf_store(p, v, n)   the other way
 *   vf_set(x)       x in every lane
 *   vf_add, vf_sub, vf_mul, vf_div, vf_sqrt     one IEEE operation a lane, never contracted
 *   vf_max(a, b)    PFO_MAX: NaN when one is, of equal values b
 *   vf_sign(a)      PFO_SIGN: -1, 0 or 1, 0 for NaN
 * n is a constant wherever it is VF_LANES, so that whole vectors cost no mask.
 */
#ifndef PFO_KERNELS_SIMD_AVX2_H
#define PFO_KERNELS_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>

typedef __m256 vf;
enum { VF_LANES = 8 };

static inline __m256i
vf_first_lanes(int64_t n)
{
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), index);
}

static inline vf
vf_load(const float *from, int64_t n)
{
    return n == VF_LANES ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, vf_first_lanes(n));
}

static inline void
vf_store(float *to, vf value, int64_t n)
{
    if (n == VF_LANES) {
        _mm256_storeu_ps(to, value);
    } else {
        _mm256_maskstore_ps(to, vf_first_lanes(n), value);
    }
}

static inline vf
vf_set(float value)
{
    return _mm256_set1_ps(value);
}

static inline vf
vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf
vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

static inline vf
vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

static inline vf
vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

static inline vf
vf_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}

static inline vf
vf_max(vf a, vf b)
{
    const vf larger = _mm256_max_ps(a, b); /* b when either is NaN */
    return _mm256_blendv_ps(larger, a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}

static inline vf
vf_sign(vf a)
{
    const vf zero = _mm256_setzero_ps();
    const vf one = _mm256_set1_ps(1.0f);
    const vf positive = _mm256_and_ps(_mm256_cmp_ps(a, zero, _CMP_GT_OQ), one);
    const vf negative = _mm256_and_ps(_mm256_cmp_ps(a, zero, _CMP_LT_OQ), one);
    return _mm256_sub_ps(positive, negative);
}

#endif
