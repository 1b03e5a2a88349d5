/* kernels_avx512.c: sixteen float32 at a time. Entered only after cpu.h said yes; built with its own flags (csrc/flags.mk).
 *
 * Same bits as the reference: see kernels_avx2.c. Tails use masked loads and stores, which touch only the elements
 * the mask names.
 */
#include "kernels/dispatch.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "kernels/simd_avx512.h"

#include "kernels/kernels_update.h"

/* Beyond the page that is being read: the processor's own prefetching stops at its end. A fifth faster than 2,048 (measured). */
enum { PREFETCH_BYTES = 6144 };

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
norm(const float *grad, int64_t count, pfo_norm_lanes *lanes)
{
    __m512d lane[4];
    for (int k = 0; k < 4; k++) {
        lane[k] = _mm512_loadu_pd(lanes->lane + 8 * k);
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
    for (int k = 0; k < 4; k++) {
        _mm512_storeu_pd(lanes->lane + 8 * k, lane[k]);
    }
    lanes->nonfinite |= nonfinite != 0;
}

const pfo_kernel_table *
pfo_kernels_avx512(void)
{
    static const pfo_kernel_table table = {
        .level = PFO_CPU_AVX512,
        .norm = norm,
        PFO_UPDATE_KERNELS,
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
