/* convert_base.h: what the headers of the conversions stand on: float32 as bits, and the number that makes
 * truncation round.
 *
 * All narrow formats are reached in one way: take the bits of the float32 as an integer, add a number smaller than
 * the dropped part's range, and cut. Which number decides the rounding: nearest with ties to even, or a random one
 * (stochastic rounding: up with the probability of the dropped fraction). Compiles as C and as CUDA. Threads: pure
 * functions. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_CONVERT_BASE_H
#define PFO_KERNELS_CONVERT_BASE_H

#include <stdint.h>
#include <string.h>

#ifndef PFO_MATH_INLINE
#if defined(__CUDACC__)
#define PFO_MATH_INLINE static __host__ __device__ __forceinline__
#else
#define PFO_MATH_INLINE static inline
#endif
#endif

PFO_MATH_INLINE uint32_t
pfo_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

PFO_MATH_INLINE float
pfo_float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* What to add to value before its lower `dropped` bits (1 to 31) are cut. With stochastic == 1 the upper 16 of them
 * are compared with random (16 bits), so that the probability is exact to 2^-16. */
PFO_MATH_INLINE uint32_t
pfo_round_addend(uint32_t value, uint32_t dropped, int stochastic, uint32_t random)
{
    if (stochastic) {
        return random << 15 >> (31 - dropped);
    }
    return ((1u << dropped) >> 1) - 1u + (value >> dropped & 1u);
}

#endif
