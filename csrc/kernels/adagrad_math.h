/* adagrad_math.h: Adagrad, one element and one step at a time; compiles as C and as CUDA.
 *
 * Follows torch.optim.Adagrad (single-tensor form): weight decay is part of the gradient, the learning rate falls by lr_decay, eps
 * is outside the square root. Source: Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 12, 2011, in PyTorch's order
 * of operations.
 */
#ifndef PFO_KERNELS_ADAGRAD_MATH_H
#define PFO_KERNELS_ADAGRAD_MATH_H

#include "kernels/float_math.h"

/* What the user chose for a group of parameters. */
typedef struct pfo_adagrad_options {
    double lr;           /* >= 0 */
    double lr_decay;     /* >= 0 */
    double eps;          /* >= 0 */
    double weight_decay; /* >= 0 */
    int maximize;        /* 1: ascend */
} pfo_adagrad_options;

typedef struct pfo_adagrad_scalars {
    float grad_multiplier; /* unscale * clip factor, negative when maximizing */
    float grad_decay;      /* weight_decay */
    float eps;
    float neg_lr; /* -lr / (1 + (step - 1) * lr_decay) */
} pfo_adagrad_scalars;

/* pre: step >= 1 is the count including this step. */
PFO_MATH_INLINE pfo_adagrad_scalars
pfo_adagrad_prepare(const pfo_adagrad_options *options, double step, double unscale, double clip_factor)
{
    pfo_adagrad_scalars scalars;
    scalars.grad_multiplier = pfo_grad_multiplier(options->maximize, unscale, clip_factor);
    scalars.grad_decay = (float)options->weight_decay;
    scalars.eps = (float)options->eps;
    scalars.neg_lr = (float)-(options->lr / (1.0 + (step - 1.0) * options->lr_decay));
    return scalars;
}

PFO_MATH_INLINE void
pfo_adagrad_element(const pfo_adagrad_scalars *s, float grad, float *param, float *sum)
{
    float g = PFO_MUL(grad, s->grad_multiplier);
    if (s->grad_decay != 0.0f) {
        g = PFO_ADD(g, PFO_MUL(s->grad_decay, *param));
    }
    const float total = PFO_ADD(*sum, PFO_MUL(g, g));
    *param = PFO_ADD(*param, PFO_DIV(PFO_MUL(s->neg_lr, g), PFO_ADD(PFO_SQRT(total), s->eps)));
    *sum = total;
}

#endif
