/* adamw_math.h: AdamW and Adam, one element and one step at a time; compiles as C and as CUDA.
 *
 * Follows torch.optim.AdamW and torch.optim.Adam (single-tensor form): weight decay before the update, first moment by lerp,
 * eps outside the square root, bias corrections by pow in double. Sources: Kingma and Ba, "Adam", ICLR 2015; Loshchilov and
 * Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2; AMSGrad: Reddi, Kale and Kumar, "On the Convergence
 * of Adam and Beyond", ICLR 2018. All in PyTorch's order of operations.
 */
#ifndef PFO_KERNELS_ADAMW_MATH_H
#define PFO_KERNELS_ADAMW_MATH_H

#include "kernels/float_math.h"

#include <stddef.h>

/* What the user chose for a group of parameters. */
typedef struct pfo_adamw_options {
    double lr;           /* >= 0 */
    double beta1;        /* 0 <= beta1 < 1 */
    double beta2;        /* 0 <= beta2 < 1 */
    double eps;          /* >= 0 */
    double weight_decay; /* >= 0; relative to lr when decoupled */
    int maximize;        /* 1: ascend */
    int amsgrad;         /* 1: divide by the largest second moment so far */
    int coupled;         /* 1: Adam: weight decay is part of the gradient */
} pfo_adamw_options;

/* What one step makes of them: computed once per group and step count, in double, then rounded once to float32. */
typedef struct pfo_adamw_scalars {
    float grad_multiplier; /* unscale * clip factor, negative when maximizing */
    float decay;           /* 1 - lr * weight_decay; 1 when coupled */
    float grad_decay;      /* weight_decay when coupled, else 0 */
    pfo_lerp lerp;
    float beta2;
    float one_minus_beta2;
    float sqrt_bias2; /* sqrt(1 - beta2^step) */
    float eps;
    float neg_step_size; /* -lr / (1 - beta1^step) */
} pfo_adamw_scalars;

/* pre: step >= 1 is the count including this step. */
PFO_MATH_INLINE pfo_adamw_scalars
pfo_adamw_prepare(const pfo_adamw_options *options, double step, double unscale, double clip_factor)
{
    const double bias1 = 1.0 - pow(options->beta1, step);
    const double bias2 = 1.0 - pow(options->beta2, step);
    pfo_adamw_scalars scalars;
    scalars.grad_multiplier = pfo_grad_multiplier(options->maximize, unscale, clip_factor);
    scalars.decay = options->coupled ? 1.0f : (float)(1.0 - options->lr * options->weight_decay);
    scalars.grad_decay = options->coupled ? (float)options->weight_decay : 0.0f;
    scalars.lerp = pfo_lerp_prepare(1.0 - options->beta1);
    scalars.beta2 = (float)options->beta2;
    scalars.one_minus_beta2 = (float)(1.0 - options->beta2);
    scalars.sqrt_bias2 = (float)sqrt(bias2);
    scalars.eps = (float)options->eps;
    scalars.neg_step_size = (float)-(options->lr / bias1);
    return scalars;
}

/* One element of the update: reads the gradient, replaces parameter and moments. max_exp_avg_sq is NULL without AMSGrad. */
PFO_MATH_INLINE void
pfo_adamw_element(const pfo_adamw_scalars *s, float grad, float *param, float *exp_avg, float *exp_avg_sq,
                  float *max_exp_avg_sq)
{
    float g = PFO_MUL(grad, s->grad_multiplier);
    if (s->grad_decay != 0.0f) {
        g = PFO_ADD(g, PFO_MUL(s->grad_decay, *param));
    }
    const float p = PFO_MUL(*param, s->decay);
    const float m = pfo_lerp_element(s->lerp, *exp_avg, g);
    const float v = PFO_ADD(PFO_MUL(*exp_avg_sq, s->beta2), PFO_MUL(PFO_MUL(s->one_minus_beta2, g), g));
    float second = v;
    if (max_exp_avg_sq != NULL) {
        second = PFO_MAX(*max_exp_avg_sq, v);
        *max_exp_avg_sq = second;
    }
    const float denominator = PFO_ADD(PFO_DIV(PFO_SQRT(second), s->sqrt_bias2), s->eps);
    *param = PFO_ADD(p, PFO_DIV(PFO_MUL(s->neg_step_size, m), denominator));
    *exp_avg = m;
    *exp_avg_sq = v;
}

#endif
