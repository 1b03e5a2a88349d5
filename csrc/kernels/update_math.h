/* update_math.h: the arithmetic of all operations, and the unions that hold any one's options and scalars; compiles as C and as CUDA.
 *
 * This is the specification that every variant (scalar, AVX2, AVX-512, CUDA) follows bit by bit; one header an operation. An element
 * function gets NULL for a state that is not kept (no momentum, no AMSGrad): what a tensor keeps says what its step does, so
 * options and state cannot disagree.
 */
#ifndef PFO_KERNELS_UPDATE_MATH_H
#define PFO_KERNELS_UPDATE_MATH_H

#include "kernels/adagrad_math.h"
#include "kernels/adamw_math.h"
#include "kernels/lion_math.h"
#include "kernels/rmsprop_math.h"
#include "kernels/sgd_math.h"

/* Which member holds is known by the operation. */
typedef union pfo_options {
    pfo_adamw_options adamw;
    pfo_sgd_options sgd;
    pfo_lion_options lion;
    pfo_adagrad_options adagrad;
    pfo_rmsprop_options rmsprop;
} pfo_options;

typedef union pfo_scalars {
    pfo_adamw_scalars adamw;
    pfo_sgd_scalars sgd;
    pfo_lion_scalars lion;
    pfo_adagrad_scalars adagrad;
    pfo_rmsprop_scalars rmsprop;
} pfo_scalars;

#endif
