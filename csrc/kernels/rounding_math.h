/* rounding_math.h: which stores of a step are rounded at random, and by which stream of random bits; compiles as C and as CUDA.
 *
 * The bits of an element (kernels/philox_math.h) are a function of the run's seed, the step's number, the parameter's place in the model,
 * the role and the element's index, so that a resumed run repeats them on any device and any number of threads.
 * State in 8 bits is always rounded at random: to nearest, a second moment that changes by a thousandth a step would stand still, and so
 * would a first moment at a beta of 0.99 (at 0.9 nearest would be finer: docs/kernels.md).
 * States in 8 bits share a draw in pairs: of an element's 16 bits the second state takes the two bytes exchanged, so that the byte
 * that decides for one is the lower one, worth 2^-8 of a code, for the other. Each alone is exact to 2^-16 as ever.
 * A copy never is: it is an image of the weight, not a thing that steps add up in.
 */
#ifndef PFO_KERNELS_ROUNDING_MATH_H
#define PFO_KERNELS_ROUNDING_MATH_H

#include "kernels/float_math.h"
#include "kernels/tensor.h"

enum { PFO_STREAM_ROLE_BITS = 3, PFO_STREAM_TENSOR_BITS = 31 };

/* pre: rounding_step < 2^30, tensor >= 0, 0 <= role < 8. No two draws of a run have the same. */
PFO_MATH_INLINE uint64_t
pfo_rounding_stream(uint64_t rounding_step, int32_t tensor, int role)
{
    return ((rounding_step << PFO_STREAM_TENSOR_BITS | (uint64_t)tensor) << PFO_STREAM_ROLE_BITS) | (uint64_t)role;
}

PFO_MATH_INLINE int
pfo_is_8bit_state(pfo_dtype dtype)
{
    return dtype == PFO_DTYPE_BLOCK8 || dtype == PFO_DTYPE_UBLOCK8;
}

/* The role in whose name the bits of a role's store are drawn. pre: the first state's role is even. */
PFO_MATH_INLINE int
pfo_rounding_draw_role(pfo_dtype dtype, int role)
{
    return pfo_is_8bit_state(dtype) ? role & ~1 : role;
}

/* 1 if the bytes of each 16 bits are exchanged (pfo_random_exchanged()). */
PFO_MATH_INLINE int
pfo_rounding_exchanged(pfo_dtype dtype, int role)
{
    return pfo_is_8bit_state(dtype) && (role & 1) != 0;
}

/* asked: the step was asked for stochastic rounding. */
PFO_MATH_INLINE int
pfo_rounds_at_random(pfo_dtype dtype, int is_copy, int asked)
{
    return !is_copy && (asked || pfo_is_8bit_state(dtype));
}

#endif
