/* kernels_update.h: the update kernels of every instruction set, written once over the words of simd_*.h.
 *
 * To be included by one variant file (kernels_avx2.c, ...) behind its simd_*.h. Each function repeats the element function of its
 * operation (<name>_math.h) vector by vector, in the same order, so that all variants have the bits of the scalar reference.
 * A block works on n elements, 1 <= n <= VF_LANES; the last block of a run may be short. What differs between tensors of one
 * operation (coupled decay, AMSGrad, momentum) is decided outside the loop: the *_run functions are inlined with constants.
 */
#ifndef PFO_KERNELS_KERNELS_UPDATE_H
#define PFO_KERNELS_KERNELS_UPDATE_H

#include "kernels/dispatch.h"

#define PFO_FORCE_INLINE static inline __attribute__((always_inline))

/* BLOCK(i, n) for every vector of count elements. */
#define PFO_FOR_VECTORS(count, BLOCK)                                                                                  \
    do {                                                                                                               \
        int64_t first_ = 0;                                                                                            \
        for (; first_ + VF_LANES <= (count); first_ += VF_LANES) {                                                     \
            BLOCK(first_, VF_LANES);                                                                                   \
        }                                                                                                              \
        if (first_ < (count)) {                                                                                        \
            BLOCK(first_, (count) - first_);                                                                           \
        }                                                                                                              \
    } while (0)

typedef struct wide_lerp {
    vf weight;
    int from_end;
} wide_lerp;

PFO_FORCE_INLINE wide_lerp
widen_lerp(pfo_lerp lerp)
{
    return (wide_lerp){ vf_set(lerp.weight), lerp.from_end };
}

PFO_FORCE_INLINE vf
lerp_vector(wide_lerp lerp, vf start, vf end)
{
    return vf_add(lerp.from_end ? end : start, vf_mul(lerp.weight, vf_sub(end, start)));
}

/* ---- AdamW and Adam -------------------------------------------------------------------------- */

typedef struct adamw_wide {
    vf grad_multiplier, decay, grad_decay, beta2, one_minus_beta2, sqrt_bias2, eps, neg_step_size;
    wide_lerp lerp;
} adamw_wide;

PFO_FORCE_INLINE void
adamw_block(const adamw_wide *s, int coupled, int amsgrad, const float *grad, float *param, float *exp_avg,
            float *exp_avg_sq, float *max_exp_avg_sq, int64_t n)
{
    const vf p_before = vf_load(param, n);
    vf g = vf_mul(vf_load(grad, n), s->grad_multiplier);
    if (coupled) {
        g = vf_add(g, vf_mul(s->grad_decay, p_before));
    }
    const vf p = vf_mul(p_before, s->decay);
    const vf m = lerp_vector(s->lerp, vf_load(exp_avg, n), g);
    const vf v = vf_add(vf_mul(vf_load(exp_avg_sq, n), s->beta2), vf_mul(vf_mul(s->one_minus_beta2, g), g));
    vf second = v;
    if (amsgrad) {
        second = vf_max(vf_load(max_exp_avg_sq, n), v);
        vf_store(max_exp_avg_sq, second, n);
    }
    const vf denominator = vf_add(vf_div(vf_sqrt(second), s->sqrt_bias2), s->eps);
    vf_store(param, vf_add(p, vf_div(vf_mul(s->neg_step_size, m), denominator)), n);
    vf_store(exp_avg, m, n);
    vf_store(exp_avg_sq, v, n);
}

PFO_FORCE_INLINE void
adamw_run(const adamw_wide *s, int from_end, int coupled, int amsgrad, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    adamw_wide wide = *s;
    wide.lerp.from_end = from_end;
    const float *grad = data[PFO_ROLE_GRAD];
    float *param = data[PFO_ROLE_WEIGHT];
    float *exp_avg = data[PFO_ROLE_STATE_1];
    float *exp_avg_sq = data[PFO_ROLE_STATE_2];
    float *max_exp_avg_sq = amsgrad ? data[PFO_ROLE_STATE_3] : exp_avg_sq; /* without AMSGrad it is not touched */
#define ADAMW_BLOCK(i, n)                                                                                              \
    adamw_block(&wide, coupled, amsgrad, grad + (i), param + (i), exp_avg + (i), exp_avg_sq + (i),                     \
                max_exp_avg_sq + (i), n)
    PFO_FOR_VECTORS(count, ADAMW_BLOCK);
#undef ADAMW_BLOCK
}

static void
adamw(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_adamw_scalars *s = &scalars->adamw;
    const adamw_wide wide = {
        .grad_multiplier = vf_set(s->grad_multiplier),
        .decay = vf_set(s->decay),
        .grad_decay = vf_set(s->grad_decay),
        .beta2 = vf_set(s->beta2),
        .one_minus_beta2 = vf_set(s->one_minus_beta2),
        .sqrt_bias2 = vf_set(s->sqrt_bias2),
        .eps = vf_set(s->eps),
        .neg_step_size = vf_set(s->neg_step_size),
        .lerp = widen_lerp(s->lerp),
    };
    const int coupled = s->grad_decay != 0.0f;
    const int amsgrad = data[PFO_ROLE_STATE_3] != NULL;
    if (!coupled && !amsgrad && !s->lerp.from_end) {
        adamw_run(&wide, 0, 0, 0, data, count);
    } else if (!amsgrad) {
        adamw_run(&wide, s->lerp.from_end, coupled, 0, data, count);
    } else {
        adamw_run(&wide, s->lerp.from_end, coupled, 1, data, count);
    }
}

/* ---- SGD ------------------------------------------------------------------------------------- */

typedef struct sgd_wide {
    vf grad_multiplier, grad_decay, momentum, one_minus_dampening, neg_lr;
    int decays, nesterov, first;
} sgd_wide;

PFO_FORCE_INLINE void
sgd_block(const sgd_wide *s, int has_momentum, const float *grad, float *param, float *momentum_buffer, int64_t n)
{
    const vf p = vf_load(param, n);
    vf g = vf_mul(vf_load(grad, n), s->grad_multiplier);
    if (s->decays) {
        g = vf_add(g, vf_mul(s->grad_decay, p));
    }
    if (has_momentum) {
        vf buffer = g;
        if (!s->first) {
            buffer = vf_add(vf_mul(vf_load(momentum_buffer, n), s->momentum), vf_mul(s->one_minus_dampening, g));
        }
        vf_store(momentum_buffer, buffer, n);
        g = s->nesterov ? vf_add(g, vf_mul(s->momentum, buffer)) : buffer;
    }
    vf_store(param, vf_add(p, vf_mul(s->neg_lr, g)), n);
}

PFO_FORCE_INLINE void
sgd_run(const sgd_wide *s, int has_momentum, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const float *grad = data[PFO_ROLE_GRAD];
    float *param = data[PFO_ROLE_WEIGHT];
    float *momentum_buffer = has_momentum ? data[PFO_ROLE_STATE_1] : param; /* without momentum it is not touched */
#define SGD_BLOCK(i, n) sgd_block(s, has_momentum, grad + (i), param + (i), momentum_buffer + (i), n)
    PFO_FOR_VECTORS(count, SGD_BLOCK);
#undef SGD_BLOCK
}

static void
sgd(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_sgd_scalars *s = &scalars->sgd;
    const sgd_wide wide = {
        .grad_multiplier = vf_set(s->grad_multiplier),
        .grad_decay = vf_set(s->grad_decay),
        .momentum = vf_set(s->momentum),
        .one_minus_dampening = vf_set(s->one_minus_dampening),
        .neg_lr = vf_set(s->neg_lr),
        .decays = s->grad_decay != 0.0f,
        .nesterov = s->nesterov,
        .first = s->first,
    };
    if (data[PFO_ROLE_STATE_1] != NULL) {
        sgd_run(&wide, 1, data, count);
    } else {
        sgd_run(&wide, 0, data, count);
    }
}

/* ---- Lion ------------------------------------------------------------------------------------ */

typedef struct lion_wide {
    vf grad_multiplier, decay, beta1, one_minus_beta1, beta2, one_minus_beta2, neg_lr;
} lion_wide;

PFO_FORCE_INLINE void
lion_block(const lion_wide *s, const float *grad, float *param, float *exp_avg, int64_t n)
{
    const vf g = vf_mul(vf_load(grad, n), s->grad_multiplier);
    const vf p = vf_mul(vf_load(param, n), s->decay);
    const vf m = vf_load(exp_avg, n);
    const vf direction = vf_add(vf_mul(m, s->beta1), vf_mul(s->one_minus_beta1, g));
    vf_store(param, vf_add(p, vf_mul(s->neg_lr, vf_sign(direction))), n);
    vf_store(exp_avg, vf_add(vf_mul(m, s->beta2), vf_mul(s->one_minus_beta2, g)), n);
}

static void
lion(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_lion_scalars *s = &scalars->lion;
    const lion_wide wide = {
        .grad_multiplier = vf_set(s->grad_multiplier),
        .decay = vf_set(s->decay),
        .beta1 = vf_set(s->beta1),
        .one_minus_beta1 = vf_set(s->one_minus_beta1),
        .beta2 = vf_set(s->beta2),
        .one_minus_beta2 = vf_set(s->one_minus_beta2),
        .neg_lr = vf_set(s->neg_lr),
    };
    const float *grad = data[PFO_ROLE_GRAD];
    float *param = data[PFO_ROLE_WEIGHT];
    float *exp_avg = data[PFO_ROLE_STATE_1];
#define LION_BLOCK(i, n) lion_block(&wide, grad + (i), param + (i), exp_avg + (i), n)
    PFO_FOR_VECTORS(count, LION_BLOCK);
#undef LION_BLOCK
}

/* ---- Adagrad --------------------------------------------------------------------------------- */

typedef struct adagrad_wide {
    vf grad_multiplier, grad_decay, eps, neg_lr;
    int decays;
} adagrad_wide;

PFO_FORCE_INLINE void
adagrad_block(const adagrad_wide *s, const float *grad, float *param, float *sum, int64_t n)
{
    const vf p = vf_load(param, n);
    vf g = vf_mul(vf_load(grad, n), s->grad_multiplier);
    if (s->decays) {
        g = vf_add(g, vf_mul(s->grad_decay, p));
    }
    const vf total = vf_add(vf_load(sum, n), vf_mul(g, g));
    vf_store(param, vf_add(p, vf_div(vf_mul(s->neg_lr, g), vf_add(vf_sqrt(total), s->eps))), n);
    vf_store(sum, total, n);
}

static void
adagrad(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_adagrad_scalars *s = &scalars->adagrad;
    const adagrad_wide wide = {
        .grad_multiplier = vf_set(s->grad_multiplier),
        .grad_decay = vf_set(s->grad_decay),
        .eps = vf_set(s->eps),
        .neg_lr = vf_set(s->neg_lr),
        .decays = s->grad_decay != 0.0f,
    };
    const float *grad = data[PFO_ROLE_GRAD];
    float *param = data[PFO_ROLE_WEIGHT];
    float *sum = data[PFO_ROLE_STATE_1];
#define ADAGRAD_BLOCK(i, n) adagrad_block(&wide, grad + (i), param + (i), sum + (i), n)
    PFO_FOR_VECTORS(count, ADAGRAD_BLOCK);
#undef ADAGRAD_BLOCK
}

/* ---- RMSprop --------------------------------------------------------------------------------- */

typedef struct rmsprop_wide {
    vf grad_multiplier, grad_decay, alpha, one_minus_alpha, eps, momentum, neg_lr;
    wide_lerp lerp;
    int decays;
} rmsprop_wide;

PFO_FORCE_INLINE void
rmsprop_block(const rmsprop_wide *s, int has_momentum, int centered, const float *grad, float *param, float *square_avg,
              float *momentum_buffer, float *grad_avg, int64_t n)
{
    const vf p = vf_load(param, n);
    vf g = vf_mul(vf_load(grad, n), s->grad_multiplier);
    if (s->decays) {
        g = vf_add(g, vf_mul(s->grad_decay, p));
    }
    const vf square = vf_add(vf_mul(vf_load(square_avg, n), s->alpha), vf_mul(vf_mul(s->one_minus_alpha, g), g));
    vf variance = square;
    if (centered) {
        const vf average = lerp_vector(s->lerp, vf_load(grad_avg, n), g);
        variance = vf_sub(square, vf_mul(average, average));
        vf_store(grad_avg, average, n);
    }
    const vf denominator = vf_add(vf_sqrt(variance), s->eps);
    if (has_momentum) {
        const vf buffer = vf_add(vf_mul(vf_load(momentum_buffer, n), s->momentum), vf_div(g, denominator));
        vf_store(momentum_buffer, buffer, n);
        vf_store(param, vf_add(p, vf_mul(s->neg_lr, buffer)), n);
    } else {
        vf_store(param, vf_add(p, vf_div(vf_mul(s->neg_lr, g), denominator)), n);
    }
    vf_store(square_avg, square, n);
}

PFO_FORCE_INLINE void
rmsprop_run(const rmsprop_wide *s, int has_momentum, int centered, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const float *grad = data[PFO_ROLE_GRAD];
    float *param = data[PFO_ROLE_WEIGHT];
    float *square_avg = data[PFO_ROLE_STATE_1];
    float *momentum_buffer = has_momentum ? data[PFO_ROLE_STATE_2] : param; /* not touched then; the same below */
    float *grad_avg = centered ? data[PFO_ROLE_STATE_3] : param;
#define RMSPROP_BLOCK(i, n)                                                                                            \
    rmsprop_block(s, has_momentum, centered, grad + (i), param + (i), square_avg + (i), momentum_buffer + (i),         \
                  grad_avg + (i), n)
    PFO_FOR_VECTORS(count, RMSPROP_BLOCK);
#undef RMSPROP_BLOCK
}

static void
rmsprop(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_rmsprop_scalars *s = &scalars->rmsprop;
    const rmsprop_wide wide = {
        .grad_multiplier = vf_set(s->grad_multiplier),
        .grad_decay = vf_set(s->grad_decay),
        .alpha = vf_set(s->alpha),
        .one_minus_alpha = vf_set(s->one_minus_alpha),
        .eps = vf_set(s->eps),
        .momentum = vf_set(s->momentum),
        .neg_lr = vf_set(s->neg_lr),
        .lerp = widen_lerp(s->lerp),
        .decays = s->grad_decay != 0.0f,
    };
    const int has_momentum = data[PFO_ROLE_STATE_2] != NULL;
    const int centered = data[PFO_ROLE_STATE_3] != NULL;
    if (!has_momentum && !centered) {
        rmsprop_run(&wide, 0, 0, data, count);
    } else {
        rmsprop_run(&wide, has_momentum, centered, data, count);
    }
}

/* ---- Moving average -------------------------------------------------------------------------- */

static void
ema(pfo_lerp lerp, const float *weight, float *average, int64_t count)
{
    const wide_lerp wide = widen_lerp(lerp);
#define EMA_BLOCK(i, n)                                                                                                \
    vf_store(average + (i), lerp_vector(wide, vf_load(average + (i), n), vf_load(weight + (i), n)), n)
    PFO_FOR_VECTORS(count, EMA_BLOCK);
#undef EMA_BLOCK
}

/* The table's rows that this file fills. */
#define PFO_UPDATE_KERNELS                                                                                             \
    .update = { [PFO_OP_ADAMW] = adamw,                                                                                \
                [PFO_OP_SGD] = sgd,                                                                                    \
                [PFO_OP_LION] = lion,                                                                                  \
                [PFO_OP_ADAGRAD] = adagrad,                                                                            \
                [PFO_OP_RMSPROP] = rmsprop },                                                                          \
    .ema = ema

#endif
