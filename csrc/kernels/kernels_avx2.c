/* kernels_avx2.c: eight float32 at a time. Entered only after cpu.h said yes; built with its own flags (csrc/flags.mk).
 *
 * Same bits as the reference: the update uses no FMA; the norm does, because the square of a float32 is exact in double,
 * so that fused and separate rounding are the same. Tails of the update are masked; that of the norm goes through a
 * zero-filled block (adding zero to the other lanes changes nothing).
 */
#include "kernels/dispatch.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "kernels/simd_avx2.h"

#include "kernels/kernels_update.h"

#include <string.h>

/* Beyond the page that is being read: the processor's own prefetching stops at its end. A fifth faster than 2,048 (measured). */
enum { PREFETCH_BYTES = 6144 };

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
norm(const float *grad, int64_t count, pfo_norm_lanes *lanes)
{
    __m256d lane[8];
    for (int k = 0; k < 8; k++) {
        lane[k] = _mm256_loadu_pd(lanes->lane + 4 * k);
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
    for (int k = 0; k < 8; k++) {
        _mm256_storeu_pd(lanes->lane + 4 * k, lane[k]);
    }
    lanes->nonfinite |= _mm256_movemask_epi8(exponent_full) != 0;
}

const pfo_kernel_table *
pfo_kernels_avx2(void)
{
    static const pfo_kernel_table table = {
        .level = PFO_CPU_AVX2,
        .norm = norm,
        PFO_UPDATE_KERNELS,
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
