/* simd_neon.h: the words in which kernels_update.h is written, for NEON (AArch64): four lanes.
 *
 * The vocabulary, the same for every instruction set (simd_*.h):
 *   vf              a vector of VF_LANES float32
 *   vf_load(p, n)   the first n elements at p, 1 <= n <= VF_LANES, the other lanes 0; touches no memory behind them
 *   vf_store(p, v, n)   the other way
 *   vf_set(x)       x in every lane
 *   vf_add, vf_sub, vf_mul, vf_div, vf_sqrt     one IEEE operation a lane, never contracted
 *   vf_max(a, b)    PFO_MAX: NaN when one is, of equal values b
 *   vf_sign(a)      PFO_SIGN: -1, 0 or 1, 0 for NaN
 * n is a constant wherever it is VF_LANES. NEON has no masked loads: the one short vector of a run goes through memory, element by element.
 */
#ifndef PFO_KERNELS_SIMD_NEON_H
#define PFO_KERNELS_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>

typedef float32x4_t vf;
enum { VF_LANES = 4 };

static inline vf
vf_load(const float *from, int64_t n)
{
    if (n == VF_LANES) {
        return vld1q_f32(from);
    }
    float block[VF_LANES] = { 0.0f };
    for (int64_t i = 0; i < n; i++) {
        block[i] = from[i];
    }
    return vld1q_f32(block);
}

static inline void
vf_store(float *to, vf value, int64_t n)
{
    if (n == VF_LANES) {
        vst1q_f32(to, value);
        return;
    }
    float block[VF_LANES];
    vst1q_f32(block, value);
    for (int64_t i = 0; i < n; i++) {
        to[i] = block[i];
    }
}

static inline vf
vf_set(float value)
{
    return vdupq_n_f32(value);
}

static inline vf
vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}

static inline vf
vf_sub(vf a, vf b)
{
    return vsubq_f32(a, b);
}

static inline vf
vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}

static inline vf
vf_div(vf a, vf b)
{
    return vdivq_f32(a, b);
}

static inline vf
vf_sqrt(vf a)
{
    return vsqrtq_f32(a);
}

static inline vf
vf_max(vf a, vf b) /* not vmaxq_f32: of zeros of either sign it takes +0 */
{
    const uint32x4_t first = vorrq_u32(vcgtq_f32(a, b), vmvnq_u32(vceqq_f32(a, a)));
    return vbslq_f32(first, a, b);
}

static inline vf
vf_sign(vf a)
{
    const uint32x4_t one = vreinterpretq_u32_f32(vdupq_n_f32(1.0f));
    const vf positive = vreinterpretq_f32_u32(vandq_u32(vcgtzq_f32(a), one));
    const vf negative = vreinterpretq_f32_u32(vandq_u32(vcltzq_f32(a), one));
    return vsubq_f32(positive, negative);
}

#endif
