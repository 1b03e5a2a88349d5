/* update_math.h: the arithmetic of the optimizer steps, one element and one step at a time; compiles as C and as CUDA.
 *
 * This is the specification that every variant (scalar, AVX2, AVX-512, CUDA) follows bit by bit. Each operation is one IEEE
 * float32 operation rounded to nearest even, in the order written: no contraction to FMA (C files including this are built
 * with -ffp-contract=off, CUDA uses the _rn intrinsics, which nvcc never contracts) and no reassociation.
 *
 * AdamW follows torch.optim.AdamW (single-tensor form): decoupled decay before the update, first moment by lerp, eps
 * outside the square root, bias corrections by pow in double. Source: Loshchilov and Hutter, "Decoupled Weight Decay
 * Regularization", ICLR 2019, algorithm 2, in PyTorch's order of operations.
 * Clipping follows torch.nn.utils.clip_grad_norm_: factor min(1, max_norm / (norm + 1e-6)).
 * Threads: pure functions. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_UPDATE_MATH_H
#define PFO_KERNELS_UPDATE_MATH_H

#include <math.h>

#if defined(__CUDACC__)
#define PFO_MATH_INLINE static __host__ __device__ __forceinline__
#else
#define PFO_MATH_INLINE static inline
#endif

#if defined(__CUDA_ARCH__)
#define PFO_MUL(a, b) __fmul_rn((a), (b))
#define PFO_ADD(a, b) __fadd_rn((a), (b))
#define PFO_SUB(a, b) __fsub_rn((a), (b))
#define PFO_DIV(a, b) __fdiv_rn((a), (b))
#define PFO_SQRT(a) __fsqrt_rn(a)
#else
#define PFO_MUL(a, b) ((a) * (b))
#define PFO_ADD(a, b) ((a) + (b))
#define PFO_SUB(a, b) ((a) - (b))
#define PFO_DIV(a, b) ((a) / (b))
#define PFO_SQRT(a) sqrtf(a)
#endif

/* What the user chose for a group of parameters. */
typedef struct pfo_adamw_options {
    double lr;           /* >= 0 */
    double beta1;        /* 0 <= beta1 < 1 */
    double beta2;        /* 0 <= beta2 < 1 */
    double eps;          /* >= 0 */
    double weight_decay; /* >= 0, relative to lr */
    int maximize;        /* 1: ascend */
} pfo_adamw_options;

/* What one step makes of them: computed once per group and step count, in double, then rounded once to float32. */
typedef struct pfo_adamw_scalars {
    float grad_multiplier; /* unscale * clip factor, negative when maximizing */
    float decay;           /* 1 - lr * weight_decay */
    float lerp_weight;     /* of (g - m): 1 - beta1, or -beta1 when starting from g */
    int lerp_from_grad;    /* torch's lerp starts from the nearer end: m while 1 - beta1 < 0.5, else g */
    float beta2;
    float one_minus_beta2;
    float sqrt_bias2; /* sqrt(1 - beta2^step) */
    float eps;
    float neg_step_size; /* -lr / (1 - beta1^step) */
} pfo_adamw_scalars;

/* Factor by which gradients of that global norm are multiplied. max_norm < 0 means no clipping. A NaN norm gives NaN (torch's
 * answer too); whether such a step is taken at all is decided before. */
PFO_MATH_INLINE double
pfo_clip_factor(double norm, double max_norm)
{
    if (max_norm < 0.0) {
        return 1.0;
    }
    const double factor = max_norm / (norm + 1e-6);
    return factor > 1.0 ? 1.0 : factor;
}

/* pre: step >= 1 is the count including this step. unscale is the reciprocal of the loss scale (1 without one). */
PFO_MATH_INLINE pfo_adamw_scalars
pfo_adamw_prepare(const pfo_adamw_options *options, double step, double unscale, double clip_factor)
{
    const double bias1 = 1.0 - pow(options->beta1, step);
    const double bias2 = 1.0 - pow(options->beta2, step);
    const double multiplier = unscale * clip_factor;
    const float weight = (float)(1.0 - options->beta1);
    pfo_adamw_scalars scalars;
    scalars.grad_multiplier = (float)(options->maximize ? -multiplier : multiplier);
    scalars.decay = (float)(1.0 - options->lr * options->weight_decay);
    scalars.lerp_from_grad = weight >= 0.5f;
    scalars.lerp_weight = scalars.lerp_from_grad ? -(1.0f - weight) : weight;
    scalars.beta2 = (float)options->beta2;
    scalars.one_minus_beta2 = (float)(1.0 - options->beta2);
    scalars.sqrt_bias2 = (float)sqrt(bias2);
    scalars.eps = (float)options->eps;
    scalars.neg_step_size = (float)-(options->lr / bias1);
    return scalars;
}

/* One element of the update: reads the gradient, replaces parameter and moments. */
PFO_MATH_INLINE void
pfo_adamw_element(const pfo_adamw_scalars *s, float grad, float *param, float *exp_avg, float *exp_avg_sq)
{
    const float g = PFO_MUL(grad, s->grad_multiplier);
    const float p = PFO_MUL(*param, s->decay);
    const float base = s->lerp_from_grad ? g : *exp_avg;
    const float m = PFO_ADD(base, PFO_MUL(s->lerp_weight, PFO_SUB(g, *exp_avg)));
    const float v = PFO_ADD(PFO_MUL(*exp_avg_sq, s->beta2), PFO_MUL(PFO_MUL(s->one_minus_beta2, g), g));
    const float denominator = PFO_ADD(PFO_DIV(PFO_SQRT(v), s->sqrt_bias2), s->eps);
    *param = PFO_ADD(p, PFO_DIV(PFO_MUL(s->neg_step_size, m), denominator));
    *exp_avg = m;
    *exp_avg_sq = v;
}

#endif
