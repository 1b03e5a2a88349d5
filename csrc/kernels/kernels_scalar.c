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
norm(const float *grad, int64_t count, pfo_norm_lanes *lanes)
{
    for (int64_t i = 0; i < count; i++) {
        const double value = (double)grad[i];
        lanes->lane[i % PFO_NORM_LANES] += value * value;
        lanes->nonfinite |= is_nonfinite(grad[i]);
    }
}

static void
adamw(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_adamw_scalars s = scalars->adamw;
    float *max_exp_avg_sq = data[PFO_ROLE_STATE_3];
    for (int64_t i = 0; i < count; i++) {
        pfo_adamw_element(&s, data[PFO_ROLE_GRAD][i], &data[PFO_ROLE_WEIGHT][i], &data[PFO_ROLE_STATE_1][i],
                          &data[PFO_ROLE_STATE_2][i], max_exp_avg_sq != NULL ? &max_exp_avg_sq[i] : NULL);
    }
}

static void
sgd(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_sgd_scalars s = scalars->sgd;
    float *momentum_buffer = data[PFO_ROLE_STATE_1];
    for (int64_t i = 0; i < count; i++) {
        pfo_sgd_element(&s, data[PFO_ROLE_GRAD][i], &data[PFO_ROLE_WEIGHT][i],
                        momentum_buffer != NULL ? &momentum_buffer[i] : NULL);
    }
}

static void
lion(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_lion_scalars s = scalars->lion;
    for (int64_t i = 0; i < count; i++) {
        pfo_lion_element(&s, data[PFO_ROLE_GRAD][i], &data[PFO_ROLE_WEIGHT][i], &data[PFO_ROLE_STATE_1][i]);
    }
}

static void
adagrad(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_adagrad_scalars s = scalars->adagrad;
    for (int64_t i = 0; i < count; i++) {
        pfo_adagrad_element(&s, data[PFO_ROLE_GRAD][i], &data[PFO_ROLE_WEIGHT][i], &data[PFO_ROLE_STATE_1][i]);
    }
}

static void
rmsprop(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count)
{
    const pfo_rmsprop_scalars s = scalars->rmsprop;
    float *momentum_buffer = data[PFO_ROLE_STATE_2];
    float *grad_avg = data[PFO_ROLE_STATE_3];
    for (int64_t i = 0; i < count; i++) {
        pfo_rmsprop_element(&s, data[PFO_ROLE_GRAD][i], &data[PFO_ROLE_WEIGHT][i], &data[PFO_ROLE_STATE_1][i],
                            momentum_buffer != NULL ? &momentum_buffer[i] : NULL,
                            grad_avg != NULL ? &grad_avg[i] : NULL);
    }
}

static void
ema(pfo_lerp lerp, const float *weight, float *average, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        average[i] = pfo_lerp_element(lerp, average[i], weight[i]);
    }
}

const pfo_kernel_table *
pfo_kernels_scalar(void)
{
    static const pfo_kernel_table table = {
        .level = PFO_CPU_SCALAR,
        .norm = norm,
        .update = { [PFO_OP_ADAMW] = adamw,
                    [PFO_OP_SGD] = sgd,
                    [PFO_OP_LION] = lion,
                    [PFO_OP_ADAGRAD] = adagrad,
                    [PFO_OP_RMSPROP] = rmsprop },
        .ema = ema,
    };
    return &table;
}
