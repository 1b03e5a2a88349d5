/* convert_scalar.c: the reference. What a conversion means is what this file does; the other variants repeat it
 * faster, bit for bit.
 *
 * One loop a dtype over the element functions of convert_math.h, quantize_math.h and philox_math.h. Built with
 * -ffp-contract=off.
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

/* As convert.h says. */
static void
draw(const pfo_rounding *rounding, int64_t count, uint32_t *words)
{
    for (int64_t i = 0; i < count; i += PFO_PHILOX_ELEMENTS) {
        for (int lane = 0; lane < PFO_PHILOX_LANES; lane++) {
            const pfo_philox_words drawn =
                pfo_random_words(rounding->seed, rounding->stream, rounding->first + (uint64_t)(i + lane));
            for (int k = 0; k < 4; k++) {
                words[i / 2 + k * PFO_PHILOX_LANES + lane] = drawn.word[k];
            }
        }
    }
}

/* random_for() of 8-bit blocks. */
static inline uint32_t
block_random_for(const pfo_rounding *rounding, int64_t i)
{
    uint32_t random = 0;
    if (rounding->words != NULL && rounding->stochastic) {
        const uint32_t *words = rounding->words + i / PFO_PHILOX_ELEMENTS * (PFO_PHILOX_ELEMENTS / 2);
        const int half = (int)(i / PFO_PHILOX_LANES % 8);
        random = words[half / 2 * PFO_PHILOX_LANES + i % PFO_PHILOX_LANES] >> (half % 2 * 16) & 0xffffu;
    } else {
        random = random_for(rounding, i);
    }
    return rounding->exchanged ? pfo_random_exchanged(random) : random;
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
magnitude_bits(float value)
{
    return pfo_float_bits(value) & ~PFO_FLOAT_SIGN;
}

static uint32_t
largest_bits(const float *from, int64_t count)
{
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        largest = magnitude_bits(from[i]) > largest ? magnitude_bits(from[i]) : largest;
    }
    return largest;
}

static uint32_t
width_of_block8(const float *from, int64_t count, uint32_t largest)
{
    uint32_t nonzero = 0, small = 0, tiny = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = magnitude_bits(from[i]);
        nonzero += bits != 0;
        small += bits != 0 && bits + PFO_BLOCK8_SMALL < largest;
        tiny += bits != 0 && bits + PFO_BLOCK8_TINY < largest;
    }
    return pfo_block8_width(nonzero, small, tiny);
}

static uint32_t
width_of_ublock8(const float *from, int64_t count, uint32_t largest)
{
    uint32_t smallest = UINT32_MAX;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = pfo_float_bits(from[i]); /* with a sign it is larger than any without */
        smallest = bits != 0 && bits < smallest ? bits : smallest;
    }
    return pfo_ublock8_width(largest, smallest);
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

typedef uint8_t (*block_encoder)(pfo_block_code code, float value, float inverse, int stochastic, uint32_t random);
typedef uint32_t (*block_judge)(const float *from, int64_t count, uint32_t largest);

static inline void
store_blocks(uint32_t max_code, block_judge width_of, block_encoder encode, const float *from, uint8_t *to,
             float *scales, int64_t count, const pfo_rounding *rounding)
{
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t end = count - begin < PFO_SCALE_BLOCK ? count : begin + PFO_SCALE_BLOCK;
        const uint32_t largest = largest_bits(from + begin, end - begin);
        const float scale = pfo_block_scale(max_code, width_of(from + begin, end - begin, largest), largest);
        scales[begin / PFO_SCALE_BLOCK] = scale;
        if (!(scale > 0.0f)) { /* zero or NaN */
            memset(to + begin, 0, (size_t)(end - begin));
            continue;
        }
        const pfo_block_code code = pfo_block_code_of(max_code, pfo_block_width(scale));
        const float inverse = pfo_block_inverse(scale);
        for (int64_t i = begin; i < end; i++) {
            to[i] = encode(code, from[i], inverse, rounding->stochastic, block_random_for(rounding, i));
        }
    }
}

static void
store_block8(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
             int stream_past_cache)
{
    (void)stream_past_cache;
    store_blocks(PFO_BLOCK8_MAX_CODE, width_of_block8, pfo_block8_encode, from, to, scales, count, rounding);
}

static void
store_ublock8(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
              int stream_past_cache)
{
    (void)stream_past_cache;
    store_blocks(PFO_UBLOCK8_MAX_CODE, width_of_ublock8, pfo_ublock8_encode, from, to, scales, count, rounding);
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
        .draw = draw,
    };
    return &table;
}
