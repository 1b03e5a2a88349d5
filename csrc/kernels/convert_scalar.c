/* convert_scalar.c: the reference. What a conversion means is what this file does; the other variants repeat it faster, bit for bit.
 *
 * One loop a dtype over the element functions of convert_math.h, quantize_math.h and philox_math.h. Built with -ffp-contract=off.
 */
#include "kernels/convert.h"

#include "kernels/convert_math.h"
#include "kernels/philox_math.h"
#include "kernels/quantize_math.h"

static inline uint32_t
random_for(const pfo_rounding *rounding, int64_t i)
{
    return rounding->stochastic ? pfo_random16(rounding->seed, rounding->stream, rounding->first + (uint64_t)i) : 0;
}

static void
store_float32(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
              int stream_past_cache)
{
    (void)scales;
    (void)rounding;
    (void)stream_past_cache;
    if (count > 0) {
        memcpy(to, from, (size_t)count * sizeof *from);
    }
}

static void
load_bfloat16(const void *from, const float *scales, float *to, int64_t count)
{
    (void)scales;
    const uint16_t *code = from;
    for (int64_t i = 0; i < count; i++) {
        to[i] = pfo_bfloat16_decode(code[i]);
    }
}

static void
store_bfloat16(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
               int stream_past_cache)
{
    (void)scales;
    (void)stream_past_cache;
    uint16_t *code = to;
    for (int64_t i = 0; i < count; i++) {
        code[i] = pfo_bfloat16_encode(from[i], rounding->stochastic, random_for(rounding, i));
    }
}

static void
load_float16(const void *from, const float *scales, float *to, int64_t count)
{
    (void)scales;
    const uint16_t *code = from;
    for (int64_t i = 0; i < count; i++) {
        to[i] = pfo_small_float_decode(pfo_float16_format(), code[i]);
    }
}

static void
store_float16(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
              int stream_past_cache)
{
    (void)scales;
    (void)stream_past_cache;
    uint16_t *code = to;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t random = random_for(rounding, i);
        code[i] = (uint16_t)pfo_small_float_encode(pfo_float16_format(), from[i], rounding->stochastic, random, 0);
    }
}

static inline void
load_float8(pfo_small_float format, const void *from, float *to, int64_t count)
{
    const uint8_t *code = from;
    for (int64_t i = 0; i < count; i++) {
        to[i] = pfo_small_float_decode(format, code[i]);
    }
}

static inline void
store_float8(pfo_small_float format, const float *from, void *to, int64_t count, const pfo_rounding *rounding)
{
    uint8_t *code = to;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t random = random_for(rounding, i);
        code[i] = (uint8_t)pfo_small_float_encode(format, from[i], rounding->stochastic, random, rounding->saturate);
    }
}

static void
load_float8_e4m3(const void *from, const float *scales, float *to, int64_t count)
{
    (void)scales;
    load_float8(pfo_float8_e4m3_format(), from, to, count);
}

static void
store_float8_e4m3(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
                  int stream_past_cache)
{
    (void)scales;
    (void)stream_past_cache;
    store_float8(pfo_float8_e4m3_format(), from, to, count, rounding);
}

static void
load_float8_e5m2(const void *from, const float *scales, float *to, int64_t count)
{
    (void)scales;
    load_float8(pfo_float8_e5m2_format(), from, to, count);
}

static void
store_float8_e5m2(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
                  int stream_past_cache)
{
    (void)scales;
    (void)stream_past_cache;
    store_float8(pfo_float8_e5m2_format(), from, to, count, rounding);
}

static uint32_t
largest_bits(const float *from, int64_t count)
{
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t magnitude = pfo_float_bits(from[i]) & ~PFO_FLOAT_SIGN;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

static void
load_block8(const void *from, const float *scales, float *to, int64_t count)
{
    const uint8_t *code = from;
    for (int64_t i = 0; i < count; i++) {
        to[i] = pfo_block8_decode(code[i], scales[i / PFO_SCALE_BLOCK]);
    }
}

static void
load_ublock8(const void *from, const float *scales, float *to, int64_t count)
{
    const uint8_t *code = from;
    for (int64_t i = 0; i < count; i++) {
        to[i] = pfo_ublock8_decode(code[i], scales[i / PFO_SCALE_BLOCK]);
    }
}

typedef uint8_t (*block_encoder)(float value, float inverse, int stochastic, uint32_t random);

static inline void
store_blocks(pfo_block_code format, block_encoder encode, const float *from, uint8_t *code, float *scales,
             int64_t count, const pfo_rounding *rounding)
{
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t end = count - begin < PFO_SCALE_BLOCK ? count : begin + PFO_SCALE_BLOCK;
        const float scale = pfo_block_scale(format, largest_bits(from + begin, end - begin));
        const float inverse = pfo_block_inverse(scale);
        scales[begin / PFO_SCALE_BLOCK] = scale;
        if (!(scale > 0.0f)) { /* zero or NaN */
            memset(code + begin, 0, (size_t)(end - begin));
            continue;
        }
        for (int64_t i = begin; i < end; i++) {
            code[i] = encode(from[i], inverse, rounding->stochastic, random_for(rounding, i));
        }
    }
}

static void
store_block8(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
             int stream_past_cache)
{
    (void)stream_past_cache;
    store_blocks(pfo_block8_code(), pfo_block8_encode, from, to, scales, count, rounding);
}

static void
store_ublock8(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
              int stream_past_cache)
{
    (void)stream_past_cache;
    store_blocks(pfo_ublock8_code(), pfo_ublock8_encode, from, to, scales, count, rounding);
}

const pfo_convert_table *
pfo_converters_scalar(void)
{
    static const pfo_convert_table table = {
        .level = PFO_CPU_SCALAR,
        .load = { [PFO_DTYPE_BFLOAT16] = load_bfloat16,
                  [PFO_DTYPE_FLOAT16] = load_float16,
                  [PFO_DTYPE_FLOAT8_E4M3] = load_float8_e4m3,
                  [PFO_DTYPE_FLOAT8_E5M2] = load_float8_e5m2,
                  [PFO_DTYPE_BLOCK8] = load_block8,
                  [PFO_DTYPE_UBLOCK8] = load_ublock8 },
        .store = { [PFO_DTYPE_FLOAT32] = store_float32,
                   [PFO_DTYPE_BFLOAT16] = store_bfloat16,
                   [PFO_DTYPE_FLOAT16] = store_float16,
                   [PFO_DTYPE_FLOAT8_E4M3] = store_float8_e4m3,
                   [PFO_DTYPE_FLOAT8_E5M2] = store_float8_e5m2,
                   [PFO_DTYPE_BLOCK8] = store_block8,
                   [PFO_DTYPE_UBLOCK8] = store_ublock8 },
    };
    return &table;
}
