/* rounding_math.h: which stores of a step are rounded at random, and by which stream of random bits; compiles as C and as CUDA.
 *
 * The bits of an element (kernels/philox_math.h) are a function of the run's seed, the step's number, the parameter's place in the model,
 * the role and the element's index, so that a resumed run repeats them on any device and any number of threads.
 * State in 8 bits is always rounded at random: to nearest, a second moment that changes by a thousandth a step would stand still, and so
 * would a first moment at a beta of 0.99 (at 0.9 nearest would be finer: docs/kernels.md).
 * A copy never is: it is an image of the weight, not a thing that steps add up in.
 */
#ifndef PFO_KERNELS_ROUNDING_MATH_H
#define PFO_KERNELS_ROUNDING_MATH_H

#include "kernels/float_math.h"
#include "kernels/tensor.h"

enum { PFO_STREAM_ROLE_BITS = 3, PFO_STREAM_TENSOR_BITS = 31 };

/* pre: rounding_step < 2^30, tensor >= 0, 0 <= role < 8. No two stores of a run have the same. */
PFO_MATH_INLINE uint64_t
pfo_rounding_stream(uint64_t rounding_step, int32_t tensor, int role)
{
    return ((rounding_step << PFO_STREAM_TENSOR_BITS | (uint64_t)tensor) << PFO_STREAM_ROLE_BITS) | (uint64_t)role;
}

/* asked: the step was asked for stochastic rounding. */
PFO_MATH_INLINE int
pfo_rounds_at_random(pfo_dtype dtype, int is_copy, int asked)
{
    return !is_copy && (asked || dtype == PFO_DTYPE_BLOCK8 || dtype == PFO_DTYPE_UBLOCK8);
}

#endif
