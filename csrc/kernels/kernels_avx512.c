/* kernels_avx512.c: sixteen float32 at a time. Entered only after cpu.h said yes; built with its own flags (csrc/flags.mk).
 *
 * Same bits as the reference: see kernels_avx2.c. Tails use masked loads and stores, which touch only the elements
 * the mask names.
 */
#include "kernels/dispatch.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>

enum { PREFETCH_BYTES = 2048 };

/* Accumulator k holds lanes 8k .. 8k + 7; half 0 fills accumulators 0 and 1, half 1 fills 2 and 3. */
static inline void
add_half(__m512 x, __m512d *low_lane, __m512d *high_lane, __mmask16 *nonfinite)
{
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    *low_lane = _mm512_fmadd_pd(low, low, *low_lane);
    *high_lane = _mm512_fmadd_pd(high, high, *high_lane);
    const __m512i mask = _mm512_set1_epi32(0x7f800000);
    const __m512i exponent = _mm512_and_si512(_mm512_castps_si512(x), mask);
    *nonfinite = (__mmask16)(*nonfinite | _mm512_cmpeq_epi32_mask(exponent, mask));
}

static inline __mmask16
first_elements(int64_t count) /* pre: count >= 0; 16 and more are all */
{
    return (__mmask16)(count >= 16 ? 0xffffu : (1u << count) - 1u);
}

static void
norm_float32(const void *data, int64_t count, pfo_norm_partial *partial)
{
    const float *grad = data;
    __m512d lane[4];
    for (int k = 0; k < 4; k++) {
        lane[k] = _mm512_setzero_pd();
    }
    __mmask16 nonfinite = 0;
    int64_t i = 0;
    for (; i + PFO_NORM_LANES <= count; i += PFO_NORM_LANES) {
        _mm_prefetch((const char *)(grad + i) + PREFETCH_BYTES, _MM_HINT_T0); /* as in kernels_avx2.c */
        _mm_prefetch((const char *)(grad + i) + PREFETCH_BYTES + 64, _MM_HINT_T0);
        add_half(_mm512_loadu_ps(grad + i), &lane[0], &lane[1], &nonfinite);
        add_half(_mm512_loadu_ps(grad + i + 16), &lane[2], &lane[3], &nonfinite);
    }
    if (i < count) {
        const int64_t left = count - i;
        add_half(_mm512_maskz_loadu_ps(first_elements(left), grad + i), &lane[0], &lane[1], &nonfinite);
        if (left > 16) {
            add_half(_mm512_maskz_loadu_ps(first_elements(left - 16), grad + i + 16), &lane[2], &lane[3], &nonfinite);
        }
    }
    const __m512d eight = _mm512_add_pd(_mm512_add_pd(lane[0], lane[2]), _mm512_add_pd(lane[1], lane[3]));
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    double last[4];
    _mm256_storeu_pd(last, four);
    partial->sum_of_squares = (last[0] + last[2]) + (last[1] + last[3]);
    partial->nonfinite = nonfinite != 0;
}

typedef struct wide_scalars {
    __m512 grad_multiplier, decay, lerp_weight, beta2, one_minus_beta2, sqrt_bias2, eps, neg_step_size;
    __mmask16 from_grad;
} wide_scalars;

static inline void
update_block(const wide_scalars *s, __mmask16 keep, const float *grad, float *param, float *exp_avg, float *exp_avg_sq)
{
    const __m512 g = _mm512_mul_ps(_mm512_maskz_loadu_ps(keep, grad), s->grad_multiplier);
    const __m512 p = _mm512_mul_ps(_mm512_maskz_loadu_ps(keep, param), s->decay);
    const __m512 m_before = _mm512_maskz_loadu_ps(keep, exp_avg);
    const __m512 base = _mm512_mask_blend_ps(s->from_grad, m_before, g);
    const __m512 m = _mm512_add_ps(base, _mm512_mul_ps(s->lerp_weight, _mm512_sub_ps(g, m_before)));
    const __m512 v_old = _mm512_mul_ps(_mm512_maskz_loadu_ps(keep, exp_avg_sq), s->beta2);
    const __m512 v = _mm512_add_ps(v_old, _mm512_mul_ps(_mm512_mul_ps(s->one_minus_beta2, g), g));
    const __m512 denominator = _mm512_add_ps(_mm512_div_ps(_mm512_sqrt_ps(v), s->sqrt_bias2), s->eps);
    const __m512 change = _mm512_div_ps(_mm512_mul_ps(s->neg_step_size, m), denominator);
    _mm512_mask_storeu_ps(param, keep, _mm512_add_ps(p, change));
    _mm512_mask_storeu_ps(exp_avg, keep, m);
    _mm512_mask_storeu_ps(exp_avg_sq, keep, v);
}

static void
adamw_float32(const void *scalars, void *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_adamw_scalars s = *(const pfo_adamw_scalars *)scalars;
    const wide_scalars wide = {
        .grad_multiplier = _mm512_set1_ps(s.grad_multiplier),
        .decay = _mm512_set1_ps(s.decay),
        .lerp_weight = _mm512_set1_ps(s.lerp_weight),
        .beta2 = _mm512_set1_ps(s.beta2),
        .one_minus_beta2 = _mm512_set1_ps(s.one_minus_beta2),
        .sqrt_bias2 = _mm512_set1_ps(s.sqrt_bias2),
        .eps = _mm512_set1_ps(s.eps),
        .neg_step_size = _mm512_set1_ps(s.neg_step_size),
        .from_grad = s.lerp_from_grad ? (__mmask16)0xffff : (__mmask16)0,
    };
    const float *grad = data[PFO_ROLE_GRAD];
    float *param = data[PFO_ROLE_PARAM];
    float *exp_avg = data[PFO_ROLE_EXP_AVG];
    float *exp_avg_sq = data[PFO_ROLE_EXP_AVG_SQ];
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        update_block(&wide, (__mmask16)0xffff, grad + i, param + i, exp_avg + i, exp_avg_sq + i);
    }
    if (i < count) {
        update_block(&wide, first_elements(count - i), grad + i, param + i, exp_avg + i, exp_avg_sq + i);
    }
}

const pfo_kernel_table *
pfo_kernels_avx512(void)
{
    static const pfo_kernel_table table = {
        .level = PFO_CPU_AVX512,
        .norm = { [PFO_DTYPE_FLOAT32] = norm_float32 },
        .update = { [PFO_OP_ADAMW] = { [PFO_DTYPE_FLOAT32] = adamw_float32 } },
    };
    return &table;
}

#else

const pfo_kernel_table *
pfo_kernels_avx512(void)
{
    return NULL;
}

#endif
