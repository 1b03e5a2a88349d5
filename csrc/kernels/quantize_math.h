/* quantize_math.h: 8-bit optimizer state, one code an element and one float32 scale a block of 256; compiles as C
 * and as CUDA.
 *
 * A code is a logarithmic one made of float32's own bits. With y = |x| / scale, in [0, 16),
 *     code = round((bits(y + offset) - bits(offset)) / 2^(23 - width)):
 * float32's bits grow with the logarithm, piecewise linearly, so codes lie 2^width to an octave where y is above the
 * offset, and evenly spaced below it, down to an exact zero. Dropped bits are linear in y within a code, so
 * stochastic rounding is unbiased. Reading is one shift, one addition, one subtraction, one multiplication.
 *
 * Each block has the width that its numbers need: few octaves finely, or many coarsely. The width less 3 is kept in
 * the two lowest bits of the scale's fraction. docs/kernels.md ("8-bit state") has what else was tried, with errors
 * and speed.
 * - BLOCK8 (first moments, momentum): a sign bit and 127 magnitudes, width 3 to 5: over 15, 7 or 3 octaves and the
 *   even part below. The finest whose even part holds no more than one in sixteen of the nonzero elements coarsely.
 * - UBLOCK8 (second moments; never negative): 255 magnitudes, width 3 to 6: over 31, 15, 7 or 3 octaves, as the
 *   smallest positive x needs. A positive x never becomes 0, however small: the least code stands for it. (A second
 *   moment of 0 beside a first moment that is not makes the update explode.) Negative x becomes 0.
 * The largest of a block is kept to 2^-20 of it. Blocks are independent; the last one may be short.
 * - All zero: scale 0, codes 0. Any inf or NaN: scale NaN, codes 0, so the whole block reads as NaN: nothing is hidden.
 * - Scales have a floor, such that the least nonzero code reads as 2^-126 or more, a normal number; magnitudes above
 *   2^127 read as 2^127.
 * Each operation is one IEEE float32 operation in the order written, without contraction, as in the update headers.
 * Threads: pure functions. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_QUANTIZE_MATH_H
#define PFO_KERNELS_QUANTIZE_MATH_H

#include "kernels/convert_math.h"

enum {
    PFO_BLOCK8_MAX_CODE = 127,
    PFO_UBLOCK8_MAX_CODE = 255,
    PFO_BLOCK_MIN_WIDTH = 3,
    PFO_BLOCK_TOP_OCTAVE = 3, /* the largest code stands for a y in [2^3, 2^4) */
};

/* A block's code, made of its width and the number of its codes (127 or 255: 2^width divides one more than either). */
typedef struct pfo_block_code {
    uint32_t dropped;     /* bits of float32 below a code */
    uint32_t offset_bits; /* of the offset, a power of two: octaves start at whole codes */
    uint32_t max_code;
} pfo_block_code;

PFO_MATH_INLINE pfo_block_code
pfo_block_code_of(uint32_t max_code, uint32_t width)
{
    const uint32_t octaves = max_code >> width;
    const pfo_block_code code = { 23 - width, (127u + PFO_BLOCK_TOP_OCTAVE - octaves) << 23, max_code };
    return code;
}

PFO_MATH_INLINE uint32_t
pfo_block_width(float scale)
{
    return PFO_BLOCK_MIN_WIDTH + (pfo_float_bits(scale) & 3u);
}

/* What a signed block is judged by: its nonzero elements, and those below 2^-7 and 2^-11 of the largest. */
enum { PFO_BLOCK8_SMALL = 7u << 23, PFO_BLOCK8_TINY = 11u << 23 };

PFO_MATH_INLINE uint32_t
pfo_block8_width(uint32_t nonzero, uint32_t small, uint32_t tiny)
{
    return small * 16 <= nonzero ? 5 : tiny * 16 <= nonzero ? 4 : 3;
}

/* From the bits of the largest and the smallest positive element, as steps of half an octave between them. */
PFO_MATH_INLINE uint32_t
pfo_ublock8_width(uint32_t largest_bits, uint32_t smallest_bits)
{
    if (smallest_bits > largest_bits) { /* there is none */
        return 3;
    }
    const uint32_t halves = (largest_bits - smallest_bits) >> 22;
    return halves <= 11 ? 6 : halves <= 19 ? 5 : halves <= 33 ? 4 : 3;
}

/* The scale of a block whose largest magnitude has these bits (NaN counts as larger than infinity), width in it. */
PFO_MATH_INLINE float
pfo_block_scale(uint32_t max_code, uint32_t width, uint32_t largest_bits)
{
    if (largest_bits == 0) {
        return 0.0f;
    }
    if (largest_bits >= PFO_FLOAT_INFINITY) {
        return pfo_float_from_bits(PFO_FLOAT_INFINITY | PFO_FLOAT_QUIET);
    }
    const float largest = pfo_float_from_bits(largest_bits);
    const float floor = max_code == PFO_BLOCK8_MAX_CODE ? 0x1p-111f : 0x1p-95f;
    if (largest <= 16.0f * floor) { /* width 3 at the floor: its least code reads as 2^-126 */
        return floor;
    }
    const pfo_block_code code = pfo_block_code_of(max_code, width);
    const float top =
        pfo_float_from_bits(code.offset_bits + (max_code << code.dropped)) - pfo_float_from_bits(code.offset_bits);
    const float scale = (largest < 0x1p127f ? largest : 0x1p127f) / top;
    return pfo_float_from_bits((pfo_float_bits(scale) & ~3u) | (width - PFO_BLOCK_MIN_WIDTH));
}

/* What elements are multiplied by before they are coded. pre: scale > 0 */
PFO_MATH_INLINE float
pfo_block_inverse(float scale)
{
    return 1.0f / scale;
}

/* pre: inverse is of the block's scale, which is greater than 0, and code of its width. */
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
pfo_block8_encode(pfo_block_code code, float value, float inverse, int stochastic, uint32_t random)
{
    const uint32_t sign = pfo_float_bits(value) >> 31 << 7;
    return (uint8_t)(sign | pfo_block_magnitude(code, value, inverse, stochastic, random));
}

PFO_MATH_INLINE float
pfo_block8_decode(uint8_t byte, float scale)
{
    const pfo_block_code code = pfo_block_code_of(PFO_BLOCK8_MAX_CODE, pfo_block_width(scale));
    const float magnitude = pfo_block_value(code, byte & 0x7fu, scale);
    return pfo_float_from_bits(pfo_float_bits(magnitude) | (uint32_t)(byte & 0x80u) << 24);
}

PFO_MATH_INLINE uint8_t
pfo_ublock8_encode(pfo_block_code code, float value, float inverse, int stochastic, uint32_t random)
{
    const uint32_t bits = pfo_float_bits(value);
    if (bits == 0 || bits >= PFO_FLOAT_SIGN) {
        return 0;
    }
    const uint32_t magnitude = pfo_block_magnitude(code, value, inverse, stochastic, random);
    return (uint8_t)(magnitude == 0 ? 1 : magnitude);
}

PFO_MATH_INLINE float
pfo_ublock8_decode(uint8_t byte, float scale)
{
    return pfo_block_value(pfo_block_code_of(PFO_UBLOCK8_MAX_CODE, pfo_block_width(scale)), byte, scale);
}

#endif
