/* kernel_cases.h: the one table of cases that every variant of the update kernels is tried with, on the CPU and on a device.
 *
 * A case is an operation, options, and what a tensor keeps; between them they take every branch of every element function.
 * case_double() is the same step written out from the papers in double, without any helper of the code under test.
 */
#ifndef PFO_TESTS_KERNEL_CASES_H
#define PFO_TESTS_KERNEL_CASES_H

#include "kernels/operation.h"
#include "kernels/plan.h"

#include <math.h>

typedef struct kernel_case {
    const char *name;
    pfo_op op;
    pfo_options options;
    int first;       /* the state holds nothing yet */
    double step;     /* this step's number */
    double unscale;  /* of the gradients */
    double clipping; /* factor of the gradients */
} kernel_case;

static const kernel_case kernel_cases[] = {
    { "adamw", PFO_OP_ADAMW, { .adamw = { 1e-2, 0.9, 0.999, 1e-8, 0.1, 0, 0, 0 } }, 0, 3.0, 1.0, 0.37 },
    { "adamw beta1 0.3", PFO_OP_ADAMW, { .adamw = { 1e-2, 0.3, 0.999, 1e-8, 0.0, 0, 0, 0 } }, 0, 3.0, 0.5, 1.0 },
    { "adamw beta1 0", PFO_OP_ADAMW, { .adamw = { 1e-2, 0.0, 0.9, 1e-3, 0.1, 1, 0, 0 } }, 0, 1.0, 1.0, 1.0 },
    { "adamw amsgrad", PFO_OP_ADAMW, { .adamw = { 1e-2, 0.9, 0.999, 1e-8, 0.1, 0, 1, 0 } }, 0, 7.0, 1.0, 0.37 },
    { "adam", PFO_OP_ADAMW, { .adamw = { 1e-2, 0.9, 0.999, 1e-8, 0.1, 0, 0, 1 } }, 0, 3.0, 1.0, 0.37 },
    { "adam amsgrad", PFO_OP_ADAMW, { .adamw = { 1e-2, 0.4, 0.99, 1e-8, 0.1, 1, 1, 1 } }, 0, 3.0, 0.5, 1.0 },
    { "adam without decay", PFO_OP_ADAMW, { .adamw = { 1e-2, 0.9, 0.99, 1e-8, 0.0, 0, 0, 1 } }, 0, 3.0, 1.0, 1.0 },
    { "sgd", PFO_OP_SGD, { .sgd = { 1e-2, 0.0, 0.0, 0.0, 0, 0 } }, 0, 1.0, 1.0, 0.37 },
    { "sgd decay", PFO_OP_SGD, { .sgd = { 1e-2, 0.0, 0.0, 0.1, 0, 1 } }, 0, 1.0, 0.5, 1.0 },
    { "sgd momentum", PFO_OP_SGD, { .sgd = { 1e-2, 0.9, 0.0, 0.1, 0, 0 } }, 0, 1.0, 1.0, 0.37 },
    { "sgd dampening", PFO_OP_SGD, { .sgd = { 1e-2, 0.9, 0.3, 0.0, 0, 1 } }, 0, 1.0, 1.0, 1.0 },
    { "sgd nesterov", PFO_OP_SGD, { .sgd = { 1e-2, 0.9, 0.0, 0.1, 1, 0 } }, 0, 1.0, 1.0, 0.37 },
    { "sgd first step", PFO_OP_SGD, { .sgd = { 1e-2, 0.9, 0.3, 0.1, 0, 0 } }, 1, 1.0, 1.0, 0.37 },
    { "sgd nesterov, first step", PFO_OP_SGD, { .sgd = { 1e-2, 0.9, 0.0, 0.0, 1, 0 } }, 1, 1.0, 1.0, 1.0 },
    { "lion", PFO_OP_LION, { .lion = { 1e-3, 0.9, 0.99, 0.1, 0 } }, 0, 1.0, 1.0, 0.37 },
    { "lion maximize", PFO_OP_LION, { .lion = { 1e-3, 0.95, 0.98, 0.0, 1 } }, 0, 1.0, 0.5, 1.0 },
    { "adagrad", PFO_OP_ADAGRAD, { .adagrad = { 1e-2, 0.0, 1e-10, 0.0, 0 } }, 0, 1.0, 1.0, 0.37 },
    { "adagrad decays", PFO_OP_ADAGRAD, { .adagrad = { 1e-2, 0.1, 1e-3, 0.1, 1 } }, 0, 5.0, 1.0, 1.0 },
    { "rmsprop", PFO_OP_RMSPROP, { .rmsprop = { 1e-2, 0.99, 1e-8, 0.0, 0.0, 0, 0 } }, 0, 1.0, 1.0, 0.37 },
    { "rmsprop momentum", PFO_OP_RMSPROP, { .rmsprop = { 1e-2, 0.9, 1e-8, 0.1, 0.9, 0, 1 } }, 0, 1.0, 1.0, 1.0 },
    { "rmsprop centered", PFO_OP_RMSPROP, { .rmsprop = { 1e-2, 0.9, 1e-3, 0.1, 0.0, 1, 0 } }, 0, 1.0, 0.5, 1.0 },
    { "rmsprop all", PFO_OP_RMSPROP, { .rmsprop = { 1e-2, 0.3, 1e-3, 0.1, 0.9, 1, 0 } }, 0, 1.0, 1.0, 0.37 },
};
enum { KERNEL_CASES = sizeof kernel_cases / sizeof kernel_cases[0] };

static inline pfo_scalars
case_scalars(const kernel_case *c)
{
    return pfo_operation_prepare(c->op, &c->options, c->step, c->first, c->unscale, c->clipping);
}

/* 1 if the role plays a part in the case (copies and averages play in none). */
static inline int
case_uses(const kernel_case *c, int role)
{
    return role <= PFO_ROLE_GRAD ||
           (role < PFO_ROLE_COPY && pfo_operation_keeps(c->op, &c->options, role - PFO_ROLE_STATE_1));
}

/* Second moments and sums are never negative, and an average's square is not above the average of squares. Lion's gradients are large
 * enough to turn signs, so that all of its betas matter. */
static inline float
case_value(const kernel_case *c, int role, float random)
{
    const int squares = (c->op == PFO_OP_ADAMW && role > PFO_ROLE_STATE_1) ||
                        ((c->op == PFO_OP_ADAGRAD || c->op == PFO_OP_RMSPROP) && role == PFO_ROLE_STATE_1);
    if (c->op == PFO_OP_RMSPROP && role == PFO_ROLE_STATE_1) {
        return 0.1f + random * random;
    }
    if (c->op == PFO_OP_LION && role == PFO_ROLE_GRAD) {
        return 10.0f * random;
    }
    return squares ? random * random : role == PFO_ROLE_GRAD || role == PFO_ROLE_STATE_3 ? 0.1f * random : random;
}

/* One element of each role, in and out. */
static inline void
case_double(const kernel_case *c, double x[PFO_ROLE_COUNT])
{
    const double factor = c->unscale * c->clipping;
    double *w = &x[PFO_ROLE_WEIGHT], *s1 = &x[PFO_ROLE_STATE_1], *s2 = &x[PFO_ROLE_STATE_2], *s3 = &x[PFO_ROLE_STATE_3];
    double g = x[PFO_ROLE_GRAD] * factor;
    switch (c->op) {
    case PFO_OP_ADAMW: {
        const pfo_adamw_options *o = &c->options.adamw;
        g = o->maximize ? -g : g;
        g += o->coupled ? o->weight_decay * *w : 0.0;
        *w -= o->coupled ? 0.0 : o->lr * o->weight_decay * *w;
        *s1 = o->beta1 * *s1 + (1.0 - o->beta1) * g;
        *s2 = o->beta2 * *s2 + (1.0 - o->beta2) * g * g;
        *s3 = o->amsgrad && *s2 > *s3 ? *s2 : *s3;
        const double second = (o->amsgrad ? *s3 : *s2) / (1.0 - pow(o->beta2, c->step));
        *w -= o->lr * (*s1 / (1.0 - pow(o->beta1, c->step))) / (sqrt(second) + o->eps);
        break;
    }
    case PFO_OP_SGD: {
        const pfo_sgd_options *o = &c->options.sgd;
        g = (o->maximize ? -g : g) + o->weight_decay * *w;
        if (o->momentum > 0.0) {
            *s1 = c->first ? g : o->momentum * *s1 + (1.0 - o->dampening) * g;
            g = o->nesterov ? g + o->momentum * *s1 : *s1;
        }
        *w -= o->lr * g;
        break;
    }
    case PFO_OP_LION: {
        const pfo_lion_options *o = &c->options.lion;
        g = o->maximize ? -g : g;
        const double direction = o->beta1 * *s1 + (1.0 - o->beta1) * g;
        *w -= o->lr * o->weight_decay * *w + o->lr * (direction > 0.0 ? 1.0 : direction < 0.0 ? -1.0 : 0.0);
        *s1 = o->beta2 * *s1 + (1.0 - o->beta2) * g;
        break;
    }
    case PFO_OP_ADAGRAD: {
        const pfo_adagrad_options *o = &c->options.adagrad;
        g = (o->maximize ? -g : g) + o->weight_decay * *w;
        *s1 += g * g;
        *w -= o->lr / (1.0 + (c->step - 1.0) * o->lr_decay) * g / (sqrt(*s1) + o->eps);
        break;
    }
    case PFO_OP_RMSPROP: {
        const pfo_rmsprop_options *o = &c->options.rmsprop;
        g = (o->maximize ? -g : g) + o->weight_decay * *w;
        *s1 = o->alpha * *s1 + (1.0 - o->alpha) * g * g;
        double variance = *s1;
        if (o->centered) {
            *s3 = o->alpha * *s3 + (1.0 - o->alpha) * g;
            variance -= *s3 * *s3;
        }
        double change = g / (sqrt(variance) + o->eps);
        if (o->momentum > 0.0) {
            *s2 = o->momentum * *s2 + change;
            change = *s2;
        }
        *w -= o->lr * change;
        break;
    }
    case PFO_OP_NORM:
    case PFO_OP_COUNT:
        break;
    }
}

#endif
