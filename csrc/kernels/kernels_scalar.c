/* kernels_scalar.c: the reference. What a kernel means is what this file does; the other variants repeat it faster, bit for bit.
 *
 * Built with -ffp-contract=off (csrc/flags.mk). The square of a float32 is exact in double (48 of 53 bits), so the only
 * rounding in the norm is that of the additions, whose order dispatch.h fixes.
 */
#include "kernels/dispatch.h"

#include <string.h>

static int
is_nonfinite(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) == 0x7f800000u;
}

static void
norm_float32(const void *data, int64_t count, pfo_norm_partial *partial)
{
    const float *grad = data;
    double lane[PFO_NORM_LANES] = { 0.0 };
    int64_t nonfinite = 0;
    for (int64_t i = 0; i < count; i++) {
        const double value = (double)grad[i];
        lane[i % PFO_NORM_LANES] += value * value;
        nonfinite |= is_nonfinite(grad[i]);
    }
    for (int width = PFO_NORM_LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) {
            lane[j] += lane[j + width];
        }
    }
    partial->sum_of_squares = lane[0];
    partial->nonfinite = nonfinite;
}

static void
adamw_float32(const void *scalars, void *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_adamw_scalars s = *(const pfo_adamw_scalars *)scalars;
    const float *grad = data[PFO_ROLE_GRAD];
    float *param = data[PFO_ROLE_PARAM];
    float *exp_avg = data[PFO_ROLE_EXP_AVG];
    float *exp_avg_sq = data[PFO_ROLE_EXP_AVG_SQ];
    for (int64_t i = 0; i < count; i++) {
        pfo_adamw_element(&s, grad[i], &param[i], &exp_avg[i], &exp_avg_sq[i]);
    }
}

const pfo_kernel_table *
pfo_kernels_scalar(void)
{
    static const pfo_kernel_table table = {
        .level = PFO_CPU_SCALAR,
        .norm = { [PFO_DTYPE_FLOAT32] = norm_float32 },
        .update = { [PFO_OP_ADAMW] = { [PFO_DTYPE_FLOAT32] = adamw_float32 } },
    };
    return &table;
}
