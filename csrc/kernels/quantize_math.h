/* quantize_math.h: 8-bit optimizer state, one code an element and one float32 scale a block of 256; compiles as C and as CUDA.
 *
 * A code is a logarithmic one made of float32's own bits. With y = |x| / scale, in [0, top],
 *     code = round((bits(y + offset) - bits(offset)) / 2^20):
 * float32's bits grow with the logarithm, piecewise linearly, so codes lie 8 to an octave where y is above the offset, and evenly spaced
 * below it, down to an exact zero. Dropped bits are linear in y within a code, so stochastic rounding is unbiased. Reading is one shift, one addition, one
 * subtraction, one multiplication. docs/kernels.md ("8-bit state") has what else was tried, with errors and speed.
 * - BLOCK8 (first moments, momentum): a sign bit and 127 magnitudes over 15 octaves; below 2^-19 of the block's largest x reads as 0.
 * - UBLOCK8 (second moments; never negative): 255 magnitudes over 31 octaves. A positive x never becomes 0, however small: the least
 *   code stands for it. (A second moment of 0 beside a first moment that is not makes the update explode.) Negative x becomes 0.
 * The largest of a block is kept to float32's precision. Blocks are independent; the last one may be short.
 * - All zero: scale 0, codes 0. Any inf or NaN: scale NaN, codes 0, so the whole block reads as NaN: nothing is hidden.
 * - Scales have a floor, such that the least nonzero code reads as 2^-126, a normal number; magnitudes above 2^127 read as 2^127.
 * Each operation is one IEEE float32 operation in the order written, without contraction, as in the update headers.
 * Threads: pure functions. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_QUANTIZE_MATH_H
#define PFO_KERNELS_QUANTIZE_MATH_H

#include "kernels/convert_math.h"

typedef struct pfo_block_code {
    uint32_t dropped;     /* bits of float32 below a code */
    uint32_t offset_bits; /* of the offset, a power of two */
    uint32_t max_code;
    float top;       /* what max_code stands for, with scale 1 */
    float min_scale; /* floor of the scales that are not 0 */
} pfo_block_code;

/* Octaves start at whole codes, so the largest code is 1.875 * 2^octaves * offset. */
PFO_MATH_INLINE pfo_block_code
pfo_block8_code(void)
{
    const pfo_block_code code = { 20, (127u - 12u) << 23, 127, 15.0f - 1.0f / 4096.0f, 0x1p-111f };
    return code;
}

PFO_MATH_INLINE pfo_block_code
pfo_ublock8_code(void)
{
    const pfo_block_code code = { 20, (127u - 28u) << 23, 255, 15.0f, 0x1p-95f };
    return code;
}

/* The scale of a block whose largest magnitude has these bits (NaN counts as larger than infinity). */
PFO_MATH_INLINE float
pfo_block_scale(pfo_block_code code, uint32_t largest_bits)
{
    if (largest_bits == 0) {
        return 0.0f;
    }
    if (largest_bits >= PFO_FLOAT_INFINITY) {
        return pfo_float_from_bits(PFO_FLOAT_INFINITY | PFO_FLOAT_QUIET);
    }
    const float largest = pfo_float_from_bits(largest_bits);
    const float scale = (largest < 0x1p127f ? largest : 0x1p127f) / code.top;
    return scale < code.min_scale ? code.min_scale : scale;
}

/* What elements are multiplied by before they are coded; 0 makes every code 0. */
PFO_MATH_INLINE float
pfo_block_inverse(float scale)
{
    return scale > 0.0f ? 1.0f / scale : 0.0f;
}

/* pre: inverse is of a scale that is not NaN, and value one of its block. */
PFO_MATH_INLINE uint32_t
pfo_block_magnitude(pfo_block_code code, float value, float inverse, int stochastic, uint32_t random)
{
    const float y = pfo_float_from_bits(pfo_float_bits(value) & ~PFO_FLOAT_SIGN) * inverse;
    const uint32_t bits = pfo_float_bits(y + pfo_float_from_bits(code.offset_bits));
    const uint32_t rounded = (bits + pfo_round_addend(bits, code.dropped, stochastic, random)) >> code.dropped;
    const uint32_t magnitude = rounded - (code.offset_bits >> code.dropped);
    return magnitude > code.max_code ? code.max_code : magnitude;
}

PFO_MATH_INLINE float
pfo_block_value(pfo_block_code code, uint32_t magnitude, float scale)
{
    const float shifted = pfo_float_from_bits(code.offset_bits + (magnitude << code.dropped));
    return (shifted - pfo_float_from_bits(code.offset_bits)) * scale;
}

PFO_MATH_INLINE uint8_t
pfo_block8_encode(float value, float inverse, int stochastic, uint32_t random)
{
    const uint32_t sign = pfo_float_bits(value) >> 31 << 7;
    return (uint8_t)(sign | pfo_block_magnitude(pfo_block8_code(), value, inverse, stochastic, random));
}

PFO_MATH_INLINE float
pfo_block8_decode(uint8_t code, float scale)
{
    const float magnitude = pfo_block_value(pfo_block8_code(), code & 0x7fu, scale);
    return pfo_float_from_bits(pfo_float_bits(magnitude) | (uint32_t)(code & 0x80u) << 24);
}

PFO_MATH_INLINE uint8_t
pfo_ublock8_encode(float value, float inverse, int stochastic, uint32_t random)
{
    const uint32_t bits = pfo_float_bits(value);
    if (bits == 0 || bits >= PFO_FLOAT_SIGN) {
        return 0;
    }
    const uint32_t magnitude = pfo_block_magnitude(pfo_ublock8_code(), value, inverse, stochastic, random);
    return (uint8_t)(magnitude == 0 ? 1 : magnitude);
}

PFO_MATH_INLINE float
pfo_ublock8_decode(uint8_t code, float scale)
{
    return pfo_block_value(pfo_ublock8_code(), code, scale);
}

#endif
