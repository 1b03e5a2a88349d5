/* sgd_math.h: stochastic gradient descent with momentum, one element and one step at a time; compiles as C and as CUDA.
 *
 * Follows torch.optim.SGD (single-tensor form): weight decay is part of the gradient, the first step of a parameter makes its
 * buffer the gradient itself (no dampening), later ones momentum * buffer + (1 - dampening) * gradient. Source: Sutskever,
 * Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013, in PyTorch's form.
 */
#ifndef PFO_KERNELS_SGD_MATH_H
#define PFO_KERNELS_SGD_MATH_H

#include "kernels/float_math.h"

#include <stddef.h>

/* What the user chose for a group of parameters. */
typedef struct pfo_sgd_options {
    double lr;           /* >= 0 */
    double momentum;     /* >= 0; 0: no buffer is kept */
    double dampening;    /* any */
    double weight_decay; /* >= 0 */
    int nesterov;        /* 1: step along gradient + momentum * buffer */
    int maximize;        /* 1: ascend */
} pfo_sgd_options;

typedef struct pfo_sgd_scalars {
    float grad_multiplier; /* unscale * clip factor, negative when maximizing */
    float grad_decay;      /* weight_decay */
    float momentum;
    float one_minus_dampening;
    float neg_lr;
    int nesterov;
    int first; /* 1: the buffer holds nothing yet */
} pfo_sgd_scalars;

PFO_MATH_INLINE pfo_sgd_scalars
pfo_sgd_prepare(const pfo_sgd_options *options, int first, double unscale, double clip_factor)
{
    pfo_sgd_scalars scalars;
    scalars.grad_multiplier = pfo_grad_multiplier(options->maximize, unscale, clip_factor);
    scalars.grad_decay = (float)options->weight_decay;
    scalars.momentum = (float)options->momentum;
    scalars.one_minus_dampening = (float)(1.0 - options->dampening);
    scalars.neg_lr = (float)-options->lr;
    scalars.nesterov = options->nesterov;
    scalars.first = first;
    return scalars;
}

/* One element of the update. momentum_buffer is NULL without momentum. */
PFO_MATH_INLINE void
pfo_sgd_element(const pfo_sgd_scalars *s, float grad, float *param, float *momentum_buffer)
{
    float g = PFO_MUL(grad, s->grad_multiplier);
    if (s->grad_decay != 0.0f) {
        g = PFO_ADD(g, PFO_MUL(s->grad_decay, *param));
    }
    if (momentum_buffer != NULL) {
        const float buffer =
            s->first ? g : PFO_ADD(PFO_MUL(*momentum_buffer, s->momentum), PFO_MUL(s->one_minus_dampening, g));
        *momentum_buffer = buffer;
        g = s->nesterov ? PFO_ADD(g, PFO_MUL(s->momentum, buffer)) : buffer;
    }
    *param = PFO_ADD(*param, PFO_MUL(s->neg_lr, g));
}

#endif
