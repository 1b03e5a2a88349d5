/* float_math.h: the words in which the arithmetic of the steps is written: float32 operations, rounded to nearest, one at a time.
 *
 * Compiles as C and as CUDA. Each macro is one IEEE operation: no contraction to FMA (C files that include this are built with
 * -ffp-contract=off, CUDA uses the _rn intrinsics, which nvcc never contracts) and no reassociation.
 * pfo_lerp is torch.lerp: it starts from the nearer end. Threads: pure functions. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_FLOAT_MATH_H
#define PFO_KERNELS_FLOAT_MATH_H

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

/* The larger of two; NaN when one is (torch.maximum). Of equal values the second. */
#define PFO_MAX(a, b) ((a) > (b) || (a) != (a) ? (a) : (b))

/* -1, 0 or 1; 0 for NaN (torch.sign). */
#define PFO_SIGN(a) ((float)((a) > 0.0f) - (float)((a) < 0.0f))

typedef struct pfo_lerp {
    float weight; /* of (end - start) */
    int from_end; /* 1: the result is end + weight * (end - start), else start + weight * (end - start) */
} pfo_lerp;

/* weight in [0, 1]: how far to go from start to end. */
PFO_MATH_INLINE pfo_lerp
pfo_lerp_prepare(double weight)
{
    const float rounded = (float)weight;
    pfo_lerp lerp;
    lerp.from_end = rounded >= 0.5f;
    lerp.weight = lerp.from_end ? -(1.0f - rounded) : rounded;
    return lerp;
}

PFO_MATH_INLINE float
pfo_lerp_element(pfo_lerp lerp, float start, float end)
{
    return PFO_ADD(lerp.from_end ? end : start, PFO_MUL(lerp.weight, PFO_SUB(end, start)));
}

/* What the gradients of a step are multiplied by: unscale is the reciprocal of the loss scale (1 without one). */
PFO_MATH_INLINE float
pfo_grad_multiplier(int maximize, double unscale, double clip_factor)
{
    const double multiplier = unscale * clip_factor;
    return (float)(maximize ? -multiplier : multiplier);
}

/* Factor by which gradients of that global norm are multiplied, as torch.nn.utils.clip_grad_norm_ does. max_norm < 0 means no
 * clipping. A NaN norm gives NaN (torch's answer too); whether such a step is taken at all is decided before. */
PFO_MATH_INLINE double
pfo_clip_factor(double norm, double max_norm)
{
    if (max_norm < 0.0) {
        return 1.0;
    }
    const double factor = max_norm / (norm + 1e-6);
    return factor > 1.0 ? 1.0 : factor;
}

#endif
