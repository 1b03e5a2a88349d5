/* lion_math.h: Lion, one element and one step at a time; compiles as C and as CUDA.
 *
 * Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, algorithm 2: decoupled decay, a step of lr
 * along the sign of the interpolation with beta1, then the moment by beta2. torch has no Lion; the order of operations is that
 * of the authors' PyTorch code (mul, then add).
 */
#ifndef PFO_KERNELS_LION_MATH_H
#define PFO_KERNELS_LION_MATH_H

#include "kernels/float_math.h"

/* What the user chose for a group of parameters. */
typedef struct pfo_lion_options {
    double lr;           /* >= 0 */
    double beta1;        /* 0 <= beta1 < 1 */
    double beta2;        /* 0 <= beta2 < 1 */
    double weight_decay; /* >= 0, relative to lr */
    int maximize;        /* 1: ascend */
} pfo_lion_options;

typedef struct pfo_lion_scalars {
    float grad_multiplier; /* unscale * clip factor, negative when maximizing */
    float decay;           /* 1 - lr * weight_decay */
    float beta1;
    float one_minus_beta1;
    float beta2;
    float one_minus_beta2;
    float neg_lr;
} pfo_lion_scalars;

PFO_MATH_INLINE pfo_lion_scalars
pfo_lion_prepare(const pfo_lion_options *options, double unscale, double clip_factor)
{
    pfo_lion_scalars scalars;
    scalars.grad_multiplier = pfo_grad_multiplier(options->maximize, unscale, clip_factor);
    scalars.decay = (float)(1.0 - options->lr * options->weight_decay);
    scalars.beta1 = (float)options->beta1;
    scalars.one_minus_beta1 = (float)(1.0 - options->beta1);
    scalars.beta2 = (float)options->beta2;
    scalars.one_minus_beta2 = (float)(1.0 - options->beta2);
    scalars.neg_lr = (float)-options->lr;
    return scalars;
}

PFO_MATH_INLINE void
pfo_lion_element(const pfo_lion_scalars *s, float grad, float *param, float *exp_avg)
{
    const float g = PFO_MUL(grad, s->grad_multiplier);
    const float p = PFO_MUL(*param, s->decay);
    const float direction = PFO_ADD(PFO_MUL(*exp_avg, s->beta1), PFO_MUL(s->one_minus_beta1, g));
    *param = PFO_ADD(p, PFO_MUL(s->neg_lr, PFO_SIGN(direction)));
    *exp_avg = PFO_ADD(PFO_MUL(*exp_avg, s->beta2), PFO_MUL(s->one_minus_beta2, g));
}

#endif
