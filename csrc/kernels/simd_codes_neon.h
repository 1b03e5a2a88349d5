/* simd_codes_neon.h: the words in which convert_elements.h is written, beside those of simd_neon.h, for NEON (AArch64): four lanes.
 *
 * The vocabulary, the same for every instruction set (simd_codes_*.h):
 *   vu              a vector of VF_LANES uint32: float32 bits, or codes
 *   vu_set(x)       x in every lane
 *   vu_bits(v), vf_from_bits(v)     the same bits as the other type
 *   vu_and, vu_or, vu_add, vu_sub, vu_min, vu_max      one operation a lane, modulo 2^32
 *   vu_shl(v, n), vu_shr(v, n)      by a constant, zeros come in
 *   vu_if_greater(a, b, yes, no)    a > b ? yes : no; a and b below 2^31
 *   vu_truncate(v)                  towards zero; 0 <= v < 2^31
 *   vu_to_half(v), vf_from_half(v)  float16 codes, to nearest even and back: the processor's own conversion
 *   vu_load_bytes(p), vu_load_halves(p)     VF_LANES codes of 1 or 2 bytes each
 *   vu_store_bytes(p, v, past), vu_store_halves(p, v, past)     four vectors of codes, below 2^8 or 2^16, side by side. past == 1: by
 *                   stores that leave the cache alone, where there are such (here are none); p is aligned to 64
 *   vf_store_past(p, v)             a whole vector, likewise
 */
#ifndef PFO_KERNELS_SIMD_CODES_NEON_H
#define PFO_KERNELS_SIMD_CODES_NEON_H

#include "kernels/simd_neon.h"

#include <string.h>

typedef uint32x4_t vu;

static inline vu
vu_set(uint32_t value)
{
    return vdupq_n_u32(value);
}

static inline vu
vu_bits(vf value)
{
    return vreinterpretq_u32_f32(value);
}

static inline vf
vf_from_bits(vu bits)
{
    return vreinterpretq_f32_u32(bits);
}

static inline vu
vu_and(vu a, vu b)
{
    return vandq_u32(a, b);
}

static inline vu
vu_or(vu a, vu b)
{
    return vorrq_u32(a, b);
}

static inline vu
vu_add(vu a, vu b)
{
    return vaddq_u32(a, b);
}

static inline vu
vu_sub(vu a, vu b)
{
    return vsubq_u32(a, b);
}

static inline vu
vu_min(vu a, vu b)
{
    return vminq_u32(a, b);
}

static inline vu
vu_max(vu a, vu b)
{
    return vmaxq_u32(a, b);
}

static inline vu
vu_shl(vu a, unsigned n)
{
    return vshlq_u32(a, vdupq_n_s32((int32_t)n)); /* a constant: the compiler makes it an immediate */
}

static inline vu
vu_shr(vu a, unsigned n)
{
    return vshlq_u32(a, vdupq_n_s32(-(int32_t)n));
}

static inline vu
vu_if_greater(vu a, vu b, vu yes, vu no)
{
    return vbslq_u32(vcgtq_u32(a, b), yes, no);
}

static inline vu
vu_truncate(vf value)
{
    return vcvtq_u32_f32(value);
}

static inline vu
vu_to_half(vf value)
{
    return vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32(value)));
}

static inline vf
vf_from_half(vu code)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(code)));
}

static inline vu
vu_load_bytes(const uint8_t *from)
{
    uint32_t four;
    memcpy(&four, from, sizeof four);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}

static inline vu
vu_load_halves(const uint8_t *from)
{
    return vmovl_u16(vreinterpret_u16_u8(vld1_u8(from)));
}

static inline void
vu_store_bytes(uint8_t *to, const vu code[4], int past)
{
    (void)past;
    const uint16x8_t low = vcombine_u16(vmovn_u32(code[0]), vmovn_u32(code[1]));
    const uint16x8_t high = vcombine_u16(vmovn_u32(code[2]), vmovn_u32(code[3]));
    vst1q_u8(to, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
}

static inline void
vu_store_halves(uint8_t *to, const vu code[4], int past)
{
    (void)past;
    for (int k = 0; k < 2; k++) {
        const uint16x8_t pair = vcombine_u16(vmovn_u32(code[2 * k]), vmovn_u32(code[2 * k + 1]));
        vst1q_u8(to + k * (int)sizeof pair, vreinterpretq_u8_u16(pair));
    }
}

static inline void
vf_store_past(float *to, vf value)
{
    vst1q_f32(to, value);
}

#endif
