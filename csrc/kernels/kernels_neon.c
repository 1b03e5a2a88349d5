/* kernels_neon.c: four float32 at a time; NEON is part of AArch64's baseline, so these need no flags but those against contraction.
 *
 * Same bits as the reference: see kernels_avx2.c. In the norm the fused multiply-add rounds as separate operations would, because the
 * square of a float32 is exact in double; its tail goes through a zero-filled block.
 */
#include "kernels/dispatch.h"

#if defined(__aarch64__)
#include "kernels/simd_neon.h"

#include "kernels/kernels_update.h"

#include <string.h>

enum { ACCUMULATORS = PFO_NORM_LANES / 2 };

/* Accumulator k holds lanes 2k and 2k + 1: half of the registers; the sixteen chains of additions hide each other's latency. */
static inline void
add_block(const float *block, float64x2_t lane[ACCUMULATORS], uint32x4_t *exponent_full)
{
    const uint32x4_t mask = vdupq_n_u32(0x7f800000u);
    for (int k = 0; k < PFO_NORM_LANES / 4; k++) {
        const float32x4_t x = vld1q_f32(block + 4 * k);
        const float64x2_t low = vcvt_f64_f32(vget_low_f32(x));
        const float64x2_t high = vcvt_high_f64_f32(x);
        lane[2 * k] = vfmaq_f64(lane[2 * k], low, low);
        lane[2 * k + 1] = vfmaq_f64(lane[2 * k + 1], high, high);
        const uint32x4_t exponent = vandq_u32(vreinterpretq_u32_f32(x), mask);
        *exponent_full = vorrq_u32(*exponent_full, vceqq_u32(exponent, mask));
    }
}

static void
norm(const float *grad, int64_t count, pfo_norm_lanes *lanes)
{
    float64x2_t lane[ACCUMULATORS];
    for (int k = 0; k < ACCUMULATORS; k++) {
        lane[k] = vld1q_f64(lanes->lane + 2 * k);
    }
    uint32x4_t exponent_full = vdupq_n_u32(0);
    int64_t i = 0;
    for (; i + PFO_NORM_LANES <= count; i += PFO_NORM_LANES) {
        add_block(grad + i, lane, &exponent_full);
    }
    if (i < count) {
        float rest[PFO_NORM_LANES] = { 0.0f };
        memcpy(rest, grad + i, (size_t)(count - i) * sizeof *rest);
        add_block(rest, lane, &exponent_full);
    }
    for (int k = 0; k < ACCUMULATORS; k++) {
        vst1q_f64(lanes->lane + 2 * k, lane[k]);
    }
    lanes->nonfinite |= vmaxvq_u32(exponent_full) != 0;
}

const pfo_kernel_table *
pfo_kernels_neon(void)
{
    static const pfo_kernel_table table = {
        .level = PFO_CPU_NEON,
        .norm = norm,
        PFO_UPDATE_KERNELS,
    };
    return &table;
}

#else

const pfo_kernel_table *
pfo_kernels_neon(void)
{
    return NULL;
}

#endif
