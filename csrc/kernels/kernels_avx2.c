/* kernels_avx2.c: eight float32 at a time. Entered only after cpu.h said yes; built with its own flags (csrc/flags.mk).
 *
 * Same bits as the reference: the update uses no FMA; the norm does, because the square of a float32 is exact in double,
 * so that fused and separate rounding are the same. Tails go through the reference's own element function or, for
 * the norm, through a zero-filled block (adding zero to the other lanes changes nothing).
 */
#include "kernels/dispatch.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#include <string.h>

enum { PREFETCH_BYTES = 2048 };

/* Accumulator k holds lanes 4k .. 4k + 3. */
static inline void
add_block(const float *block, __m256d lane[8], __m256i *exponent_full)
{
    const __m256i mask = _mm256_set1_epi32(0x7f800000);
    for (int k = 0; k < 4; k++) {
        const __m256 x = _mm256_loadu_ps(block + 8 * k);
        const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
        const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
        lane[2 * k] = _mm256_fmadd_pd(low, low, lane[2 * k]);
        lane[2 * k + 1] = _mm256_fmadd_pd(high, high, lane[2 * k + 1]);
        const __m256i exponent = _mm256_and_si256(_mm256_castps_si256(x), mask);
        *exponent_full = _mm256_or_si256(*exponent_full, _mm256_cmpeq_epi32(exponent, mask));
    }
}

static void
norm_float32(const void *data, int64_t count, pfo_norm_partial *partial)
{
    const float *grad = data;
    __m256d lane[8];
    for (int k = 0; k < 8; k++) {
        lane[k] = _mm256_setzero_pd();
    }
    __m256i exponent_full = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + PFO_NORM_LANES <= count; i += PFO_NORM_LANES) {
        /* One stream does not keep the memory busy; the update has four and gains nothing (measured). May run past the
         * end. */
        _mm_prefetch((const char *)(grad + i) + PREFETCH_BYTES, _MM_HINT_T0);
        _mm_prefetch((const char *)(grad + i) + PREFETCH_BYTES + 64, _MM_HINT_T0);
        add_block(grad + i, lane, &exponent_full);
    }
    if (i < count) {
        float rest[PFO_NORM_LANES] = { 0.0f };
        memcpy(rest, grad + i, (size_t)(count - i) * sizeof *rest);
        add_block(rest, lane, &exponent_full);
    }
    for (int width = 4; width > 0; width /= 2) { /* lanes + 16, + 8, + 4 */
        for (int k = 0; k < width; k++) {
            lane[k] = _mm256_add_pd(lane[k], lane[k + width]);
        }
    }
    double last[4];
    _mm256_storeu_pd(last, lane[0]);
    partial->sum_of_squares = (last[0] + last[2]) + (last[1] + last[3]);
    partial->nonfinite = _mm256_movemask_epi8(exponent_full) != 0;
}

typedef struct wide_scalars {
    __m256 grad_multiplier, decay, lerp_weight, beta2, one_minus_beta2, sqrt_bias2, eps, neg_step_size, from_grad;
} wide_scalars;

static inline void
update_block(const wide_scalars *s, const float *grad, float *param, float *exp_avg, float *exp_avg_sq)
{
    const __m256 g = _mm256_mul_ps(_mm256_loadu_ps(grad), s->grad_multiplier);
    const __m256 p = _mm256_mul_ps(_mm256_loadu_ps(param), s->decay);
    const __m256 m_before = _mm256_loadu_ps(exp_avg);
    const __m256 base = _mm256_blendv_ps(m_before, g, s->from_grad);
    const __m256 m = _mm256_add_ps(base, _mm256_mul_ps(s->lerp_weight, _mm256_sub_ps(g, m_before)));
    const __m256 v_old = _mm256_mul_ps(_mm256_loadu_ps(exp_avg_sq), s->beta2);
    const __m256 v = _mm256_add_ps(v_old, _mm256_mul_ps(_mm256_mul_ps(s->one_minus_beta2, g), g));
    const __m256 denominator = _mm256_add_ps(_mm256_div_ps(_mm256_sqrt_ps(v), s->sqrt_bias2), s->eps);
    _mm256_storeu_ps(param, _mm256_add_ps(p, _mm256_div_ps(_mm256_mul_ps(s->neg_step_size, m), denominator)));
    _mm256_storeu_ps(exp_avg, m);
    _mm256_storeu_ps(exp_avg_sq, v);
}

static void
adamw_float32(const void *scalars, void *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_adamw_scalars s = *(const pfo_adamw_scalars *)scalars;
    const wide_scalars wide = {
        .grad_multiplier = _mm256_set1_ps(s.grad_multiplier),
        .decay = _mm256_set1_ps(s.decay),
        .lerp_weight = _mm256_set1_ps(s.lerp_weight),
        .beta2 = _mm256_set1_ps(s.beta2),
        .one_minus_beta2 = _mm256_set1_ps(s.one_minus_beta2),
        .sqrt_bias2 = _mm256_set1_ps(s.sqrt_bias2),
        .eps = _mm256_set1_ps(s.eps),
        .neg_step_size = _mm256_set1_ps(s.neg_step_size),
        .from_grad = _mm256_castsi256_ps(_mm256_set1_epi32(s.lerp_from_grad ? -1 : 0)),
    };
    const float *grad = data[PFO_ROLE_GRAD];
    float *param = data[PFO_ROLE_PARAM];
    float *exp_avg = data[PFO_ROLE_EXP_AVG];
    float *exp_avg_sq = data[PFO_ROLE_EXP_AVG_SQ];
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        update_block(&wide, grad + i, param + i, exp_avg + i, exp_avg_sq + i);
        update_block(&wide, grad + i + 8, param + i + 8, exp_avg + i + 8, exp_avg_sq + i + 8);
    }
    for (; i < count; i++) {
        pfo_adamw_element(&s, grad[i], &param[i], &exp_avg[i], &exp_avg_sq[i]);
    }
}

const pfo_kernel_table *
pfo_kernels_avx2(void)
{
    static const pfo_kernel_table table = {
        .level = PFO_CPU_AVX2,
        .norm = { [PFO_DTYPE_FLOAT32] = norm_float32 },
        .update = { [PFO_OP_ADAMW] = { [PFO_DTYPE_FLOAT32] = adamw_float32 } },
    };
    return &table;
}

#else

const pfo_kernel_table *
pfo_kernels_avx2(void)
{
    return NULL;
}

#endif
