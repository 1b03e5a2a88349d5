/* fake_matmul.h: the backend's matrix product on host memory, in plain loops, for the double backend.
 *
 * Sums in float32, element by element; results are rounded once, when they are stored. Refuses what cuBLASLt refuses: an aux whose rows are
 * not a multiple of 8 elements, and float8 whose sizes are not a multiple of 16 or that is not laid out along k.
 */
#ifndef PFO_TESTS_FAKE_MATMUL_H
#define PFO_TESTS_FAKE_MATMUL_H

#include "backend/backend.h"

#include <math.h>
#include <string.h>

static float
matmul_load(const void *from, int64_t at, int32_t dtype)
{
    if (dtype == PFO_BACKEND_MATMUL_FLOAT8_E4M3) {
        const uint8_t bits = ((const uint8_t *)from)[at];
        const int exponent = bits >> 3 & 15;
        const int mantissa = bits & 7;
        const float size = exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf((float)(8 + mantissa), exponent - 10);
        return (bits & 0x7f) == 0x7f ? NAN : (bits & 0x80) != 0 ? -size : size;
    }
    const uint16_t bits = ((const uint16_t *)from)[at];
    if (dtype == PFO_BACKEND_MATMUL_BFLOAT16) {
        const uint32_t wide = (uint32_t)bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
    const int exponent = bits >> 10 & 31;
    const float mantissa = (float)(bits & 1023);
    const float size = exponent == 0    ? ldexpf(mantissa, -24)
                       : exponent == 31 ? (mantissa > 0 ? NAN : INFINITY)
                                        : ldexpf(1024.0f + mantissa, exponent - 25);
    return (bits & 0x8000) != 0 ? -size : size;
}

/* To the nearest, ties to even; finite values that fit are all the tests have. */
static void
matmul_store(void *to, int64_t at, int32_t dtype, float value)
{
    uint16_t *bits = (uint16_t *)to + at;
    if (dtype == PFO_BACKEND_MATMUL_BFLOAT16) {
        uint32_t wide;
        memcpy(&wide, &value, sizeof wide);
        *bits = (uint16_t)((wide + 0x7fffu + (wide >> 16 & 1)) >> 16);
        return;
    }
    int exponent;
    const float size = fabsf(value);
    (void)frexpf(size, &exponent);
    const int shift = size == 0.0f || exponent < -13 ? -24 : exponent - 11; /* the weight of the last bit */
    const uint32_t steps = (uint32_t)nearbyintf(ldexpf(size, -shift));
    const uint32_t half = shift == -24 ? steps : ((uint32_t)(shift + 25) << 10) + steps - 1024u;
    *bits = (uint16_t)(half | (value < 0.0f ? 0x8000u : 0u));
}

static float
matmul_gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

static float
matmul_gelu_slope(float x)
{
    const float inner = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + inner) + 0.5f * x * (1.0f - inner * inner) * 0.7978845608f * (1.0f + 0.134145f * x * x);
}

static float
matmul_dot(const pfo_backend_matmul *p, int64_t row, int64_t column)
{
    float sum = 0.0f;
    for (int64_t i = 0; i < p->k; i++) {
        const int64_t at_a = p->transpose_a ? i * p->ld_a + row : row * p->ld_a + i;
        const int64_t at_b = p->transpose_b ? column * p->ld_b + i : i * p->ld_b + column;
        sum += matmul_load(p->a, at_a, p->dtype) * matmul_load(p->b, at_b, p->dtype);
    }
    return sum * (p->scale_a != NULL ? *p->scale_a : 1.0f) * (p->scale_b != NULL ? *p->scale_b : 1.0f);
}

/* D's element, from the sum; writes aux where it is an output. */
static float
matmul_finish(const pfo_backend_matmul *p, int64_t row, int64_t column, float sum)
{
    const int64_t at_aux = row * p->ld_aux + column;
    const int biased = p->epilogue == PFO_BACKEND_BIAS || p->epilogue == PFO_BACKEND_GELU_BIAS ||
                       p->epilogue == PFO_BACKEND_GELU_AUX_BIAS;
    const float value = biased ? sum + matmul_load(p->bias, column, p->dtype_d) : sum;
    switch (p->epilogue) {
    case PFO_BACKEND_GELU:
    case PFO_BACKEND_GELU_BIAS:
        return matmul_gelu(value);
    case PFO_BACKEND_GELU_AUX:
    case PFO_BACKEND_GELU_AUX_BIAS:
        matmul_store(p->aux, at_aux, p->dtype_d, value);
        return matmul_gelu(value);
    case PFO_BACKEND_DGELU:
    case PFO_BACKEND_DGELU_BGRAD:
        return value * matmul_gelu_slope(matmul_load(p->aux, at_aux, p->dtype_d));
    default:
        return value;
    }
}

static void
matmul_bias_gradient(const pfo_backend_matmul *p)
{
    const int of_result = p->epilogue == PFO_BACKEND_DGELU_BGRAD;
    for (int64_t i = 0; i < (of_result ? p->n : p->m); i++) {
        float sum = 0.0f;
        for (int64_t j = 0; j < (of_result ? p->m : p->k); j++) {
            sum += of_result ? matmul_load(p->d, j * p->ld_d + i, p->dtype_d)
                             : matmul_load(p->a, p->transpose_a ? j * p->ld_a + i : i * p->ld_a + j, p->dtype);
        }
        matmul_store(p->bias, i, p->dtype_d, sum);
    }
}

static int
matmul_is_refused(const pfo_backend_matmul *p)
{
    const int float8 = p->dtype == PFO_BACKEND_MATMUL_FLOAT8_E4M3;
    return (p->aux != NULL && p->ld_aux % 8 != 0) ||
           (float8 && (p->k % 16 != 0 || p->n % 16 != 0 || p->transpose_a || !p->transpose_b || p->aux != NULL));
}

static int32_t
matmul_on_host(const pfo_backend_matmul *p)
{
    if (matmul_is_refused(p)) {
        return PFO_BACKEND_UNAVAILABLE;
    }
    for (int64_t row = 0; row < p->m; row++) {
        for (int64_t column = 0; column < p->n; column++) {
            const float value = matmul_finish(p, row, column, matmul_dot(p, row, column));
            matmul_store(p->d, row * p->ld_d + column, p->dtype_d, value);
        }
    }
    if (p->epilogue == PFO_BACKEND_DGELU_BGRAD || p->epilogue == PFO_BACKEND_BGRAD) {
        matmul_bias_gradient(p);
    }
    return PFO_BACKEND_OK;
}

#endif
