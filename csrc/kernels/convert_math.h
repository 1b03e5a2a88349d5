/* convert_math.h: bfloat16, float16 and the two 8-bit floats, one element at a time, to and from float32; compiles
 * as C and as CUDA.
 *
 * The specification that every variant follows bit by bit, by integer arithmetic alone: it knows no rounding mode
 * and no flush of denormals. Formats: IEEE 754 binary16; bfloat16 (the upper half of a float32); float8_e4m3fn and
 * float8_e5m2 of the OCP 8-bit floating point specification 1.0 (Micikevicius et al., "FP8 Formats for Deep
 * Learning", 2022). E4M3 has no infinity; 0x7f is its NaN.
 * - To nearest, ties to even, or stochastic (convert_base.h); denormals are numbers like all others.
 * - NaN stays a quiet NaN of its sign; bfloat16 and float16 keep the upper bits of its payload (as the processor's
 *   own instructions do).
 * - Overflow: to infinity, in E4M3 to NaN (the OCP non-saturating mode). Where saturate == 1 the two 8-bit floats give their
 *   largest finite value instead, for infinity too (the OCP saturating mode).
 * Reading is exact; signaling NaNs of float16 and the 8-bit floats come out quiet, those of bfloat16 as they are.
 * Threads: pure functions. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_CONVERT_MATH_H
#define PFO_KERNELS_CONVERT_MATH_H

#include "kernels/convert_base.h"

#define PFO_FLOAT_SIGN 0x80000000u
#define PFO_FLOAT_INFINITY 0x7f800000u
#define PFO_FLOAT_QUIET 0x00400000u

/* A float of at most 16 bits: sign, exponent, `mantissa` bits of fraction. */
typedef struct pfo_small_float {
    uint32_t mantissa;      /* bits of fraction */
    uint32_t first_normal;  /* exponent field that a float32 of the format's smallest normal number has */
    uint32_t sign;          /* the sign bit */
    uint32_t max_code;      /* largest finite number */
    uint32_t overflow_code; /* infinity, or NaN where there is none */
    uint32_t nan_code;
} pfo_small_float;

PFO_MATH_INLINE pfo_small_float
pfo_float16_format(void)
{
    const pfo_small_float format = { 10, 113, 0x8000, 0x7bff, 0x7c00, 0x7e00 };
    return format;
}

PFO_MATH_INLINE pfo_small_float
pfo_float8_e4m3_format(void)
{
    const pfo_small_float format = { 3, 121, 0x80, 0x7e, 0x7f, 0x7f };
    return format;
}

PFO_MATH_INLINE pfo_small_float
pfo_float8_e5m2_format(void)
{
    const pfo_small_float format = { 2, 113, 0x80, 0x7b, 0x7c, 0x7f };
    return format;
}

/* Code of a finite magnitude (float32 bits without sign), sign left out; may exceed max_code. */
PFO_MATH_INLINE uint32_t
pfo_small_float_magnitude(pfo_small_float format, uint32_t magnitude, int stochastic, uint32_t random)
{
    const uint32_t field = magnitude >> 23;
    const uint32_t exponent = field == 0 ? 1 : field; /* denormals have the exponent of the smallest normal number */
    uint32_t significand = (magnitude & 0x007fffffu) | (field == 0 ? 0u : 0x00800000u);
    uint32_t dropped = 23 - format.mantissa;
    uint32_t exponent_code = 0;
    if (exponent >= format.first_normal) {
        exponent_code = exponent - format.first_normal;
    } else { /* denormal in the format: every step down drops one more bit, those beyond 31 at once */
        dropped += format.first_normal - exponent;
        const uint32_t beyond = dropped > 31 ? dropped - 31 : 0;
        significand = beyond > 31 ? 0 : significand >> beyond;
        dropped -= beyond;
    }
    const uint32_t rounded = (significand + pfo_round_addend(significand, dropped, stochastic, random)) >> dropped;
    return rounded + (exponent_code << format.mantissa); /* the leading 1 of a normal number counts up its exponent */
}

/* The code of a float32; random is used (16 bits) when stochastic == 1. */
PFO_MATH_INLINE uint32_t
pfo_small_float_encode(pfo_small_float format, float value, int stochastic, uint32_t random, int saturate)
{
    const uint32_t bits = pfo_float_bits(value);
    const uint32_t magnitude = bits & ~PFO_FLOAT_SIGN;
    const uint32_t sign = bits >> 31 ? format.sign : 0;
    if (magnitude > PFO_FLOAT_INFINITY) {
        const uint32_t payload = format.mantissa == 10 ? (magnitude & 0x007fffffu) >> 13 : 0;
        return sign | format.nan_code | payload;
    }
    const uint32_t code = magnitude == PFO_FLOAT_INFINITY
                              ? format.overflow_code
                              : pfo_small_float_magnitude(format, magnitude, stochastic, random);
    return sign | (code > format.max_code ? (saturate ? format.max_code : format.overflow_code) : code);
}

/* 2^exponent, for exponents of normal numbers. */
PFO_MATH_INLINE float
pfo_power_of_two(int exponent)
{
    return pfo_float_from_bits((uint32_t)(exponent + 127) << 23);
}

/* The float32 that a code stands for. */
PFO_MATH_INLINE float
pfo_small_float_decode(pfo_small_float format, uint32_t code)
{
    const uint32_t sign = (code & format.sign) != 0 ? PFO_FLOAT_SIGN : 0;
    const uint32_t magnitude = code & (format.sign - 1u);
    const uint32_t shift = 23 - format.mantissa;
    if (magnitude > format.max_code) {
        const uint32_t payload = (magnitude - format.overflow_code) << shift & 0x007fffffu;
        const int infinite = magnitude == format.overflow_code && format.overflow_code != format.nan_code;
        return pfo_float_from_bits(sign | PFO_FLOAT_INFINITY | (infinite ? 0u : PFO_FLOAT_QUIET | payload));
    }
    if (magnitude >> format.mantissa == 0) { /* both factors and the product are exact, and normal numbers or zero */
        const float unit = pfo_power_of_two((int)format.first_normal - 127 - (int)format.mantissa);
        return pfo_float_from_bits(sign | pfo_float_bits((float)magnitude * unit));
    }
    return pfo_float_from_bits(sign | ((magnitude << shift) + ((format.first_normal - 1u) << 23)));
}

PFO_MATH_INLINE uint16_t
pfo_bfloat16_encode(float value, int stochastic, uint32_t random)
{
    const uint32_t bits = pfo_float_bits(value);
    if ((bits & ~PFO_FLOAT_SIGN) > PFO_FLOAT_INFINITY) {
        return (uint16_t)((bits | PFO_FLOAT_QUIET) >> 16);
    }
    if ((bits & ~PFO_FLOAT_SIGN) ==
        PFO_FLOAT_INFINITY) { /* its dropped bits are zero: no addend reaches the upper half */
        return (uint16_t)(bits >> 16);
    }
    return (uint16_t)((bits + pfo_round_addend(bits, 16, stochastic, random)) >> 16);
}

PFO_MATH_INLINE float
pfo_bfloat16_decode(uint16_t code)
{
    return pfo_float_from_bits((uint32_t)code << 16);
}

#endif
