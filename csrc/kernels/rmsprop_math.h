/* rmsprop_math.h: RMSprop, one element and one step at a time; compiles as C and as CUDA.
 *
 * Follows torch.optim.RMSprop (single-tensor form): weight decay is part of the gradient, eps is outside the square root. Sources:
 * Hinton, Srivastava and Swersky, "Neural Networks for Machine Learning", lecture 6e, 2012; centered: Graves, "Generating Sequences
 * With Recurrent Neural Networks", arXiv 1308.0850. In PyTorch's order of operations.
 */
#ifndef PFO_KERNELS_RMSPROP_MATH_H
#define PFO_KERNELS_RMSPROP_MATH_H

#include "kernels/float_math.h"

#include <stddef.h>

/* What the user chose for a group of parameters. */
typedef struct pfo_rmsprop_options {
    double lr;           /* >= 0 */
    double alpha;        /* 0 <= alpha < 1: decay rate of the averages */
    double eps;          /* >= 0 */
    double weight_decay; /* >= 0 */
    double momentum;     /* >= 0; 0: no buffer is kept */
    int centered;        /* 1: divide by the estimated deviation, which needs the gradient's average */
    int maximize;        /* 1: ascend */
} pfo_rmsprop_options;

typedef struct pfo_rmsprop_scalars {
    float grad_multiplier; /* unscale * clip factor, negative when maximizing */
    float grad_decay;      /* weight_decay */
    float alpha;
    float one_minus_alpha;
    pfo_lerp lerp; /* of the gradient's average */
    float eps;
    float momentum;
    float neg_lr;
} pfo_rmsprop_scalars;

PFO_MATH_INLINE pfo_rmsprop_scalars
pfo_rmsprop_prepare(const pfo_rmsprop_options *options, double unscale, double clip_factor)
{
    pfo_rmsprop_scalars scalars;
    scalars.grad_multiplier = pfo_grad_multiplier(options->maximize, unscale, clip_factor);
    scalars.grad_decay = (float)options->weight_decay;
    scalars.alpha = (float)options->alpha;
    scalars.one_minus_alpha = (float)(1.0 - options->alpha);
    scalars.lerp = pfo_lerp_prepare(1.0 - options->alpha);
    scalars.eps = (float)options->eps;
    scalars.momentum = (float)options->momentum;
    scalars.neg_lr = (float)-options->lr;
    return scalars;
}

/* One element of the update. momentum_buffer is NULL without momentum, grad_avg when not centered. */
PFO_MATH_INLINE void
pfo_rmsprop_element(const pfo_rmsprop_scalars *s, float grad, float *param, float *square_avg, float *momentum_buffer,
                    float *grad_avg)
{
    float g = PFO_MUL(grad, s->grad_multiplier);
    if (s->grad_decay != 0.0f) {
        g = PFO_ADD(g, PFO_MUL(s->grad_decay, *param));
    }
    const float square = PFO_ADD(PFO_MUL(*square_avg, s->alpha), PFO_MUL(PFO_MUL(s->one_minus_alpha, g), g));
    float variance = square;
    if (grad_avg != NULL) {
        const float average = pfo_lerp_element(s->lerp, *grad_avg, g);
        variance = PFO_SUB(square, PFO_MUL(average, average));
        *grad_avg = average;
    }
    const float denominator = PFO_ADD(PFO_SQRT(variance), s->eps);
    if (momentum_buffer != NULL) {
        const float buffer = PFO_ADD(PFO_MUL(*momentum_buffer, s->momentum), PFO_DIV(g, denominator));
        *momentum_buffer = buffer;
        *param = PFO_ADD(*param, PFO_MUL(s->neg_lr, buffer));
    } else {
        *param = PFO_ADD(*param, PFO_DIV(PFO_MUL(s->neg_lr, g), denominator));
    }
    *square_avg = square;
}

#endif
