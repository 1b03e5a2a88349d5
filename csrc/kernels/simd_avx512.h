/* simd_avx512.h: the words in which kernels_update.h is written, for AVX-512 (F and DQ): sixteen lanes.
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
#ifndef PFO_KERNELS_SIMD_AVX512_H
#define PFO_KERNELS_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

typedef __m512 vf;
enum { VF_LANES = 16 };

static inline __mmask16
vf_first_lanes(int64_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

static inline vf
vf_load(const float *from, int64_t n)
{
    return n == VF_LANES ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(vf_first_lanes(n), from);
}

static inline void
vf_store(float *to, vf value, int64_t n)
{
    if (n == VF_LANES) {
        _mm512_storeu_ps(to, value);
    } else {
        _mm512_mask_storeu_ps(to, vf_first_lanes(n), value);
    }
}

static inline vf
vf_set(float value)
{
    return _mm512_set1_ps(value);
}

static inline vf
vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf
vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf
vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf
vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

static inline vf
vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}

static inline vf
vf_max(vf a, vf b)
{
    const vf larger = _mm512_max_ps(a, b); /* b when either is NaN */
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), larger, a);
}

static inline vf
vf_sign(vf a)
{
    const vf zero = _mm512_setzero_ps();
    const vf one = _mm512_set1_ps(1.0f);
    const vf positive = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, zero, _CMP_GT_OQ), one);
    return _mm512_mask_sub_ps(positive, _mm512_cmp_ps_mask(a, zero, _CMP_LT_OQ), positive, one);
}

#endif
