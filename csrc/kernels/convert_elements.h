/* convert_elements.h: bfloat16, float16 and the two 8-bit floats to and from float32, for every instruction set; written once over
 * the words of simd_*.h and simd_codes_*.h.
 *
 * To be included by one variant file (convert_avx2.c, ...) behind these and behind its random bits:
 *   random_words                           a type: the words that serve PFO_PHILOX_ELEMENTS elements
 *   fill_words(rounding, index, words)     those of the elements from index on, a multiple of that
 *   random_of(words, vector)               the 16 bits of each lane for the vector-th VF_LANES of these elements
 *
 * The bits are those of the reference, convert_math.h, by another way: there every element finds how many bits it drops and shifts by
 * that, here the processor's own arithmetic does it, normal numbers and denormals alike. So these run under the default
 * floating-point environment, as all kernels do (kernels/float_environment.h).
 * An array is stored in spans of PFO_PHILOX_ELEMENTS; what is left before and behind them goes through a span on the stack. So nothing
 * is read or written outside of the array, and no element has a code path of its own.
 * Each loop is written once over a dtype and compiled once a dtype: `dtype` and `stochastic` are constants wherever they are tested.
 * Threads: pure functions. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_CONVERT_ELEMENTS_H
#define PFO_KERNELS_CONVERT_ELEMENTS_H

#include "kernels/convert.h"
#include "kernels/convert_math.h"
#include "kernels/philox_math.h"

#define PFO_ELEMENT_INLINE static inline __attribute__((always_inline))

enum { SPAN = PFO_PHILOX_ELEMENTS, SPAN_GROUP = 4 * VF_LANES, STREAM_LINE = 64 };
_Static_assert(SPAN % SPAN_GROUP == 0 && SPAN % STREAM_LINE == 0, "span");

/* ---- one vector ---- */

/* The code of a finite magnitude, as in pfo_small_float_magnitude; at most that of `largest`. */
PFO_ELEMENT_INLINE vu
encode_magnitude(pfo_small_float format, vu magnitude, vu largest, int stochastic, vu random)
{
    const vu capped = vu_min(magnitude, largest);
    const vu exponent = vu_max(vu_and(capped, vu_set(PFO_FLOAT_INFINITY)), vu_set(format.first_normal << 23));
    vu significand;   /* in units of the code's last place */
    if (stochastic) { /* 16 bits behind the point decide */
        const vf scale = vf_from_bits(vu_sub(vu_set((2 * 127 + 16 + format.mantissa) << 23), exponent));
        const vu fixed = vu_truncate(vf_mul(vf_from_bits(capped), scale));
        significand = vu_shr(vu_add(fixed, random), 16);
    } else { /* added to 2^23 units, a number is rounded to whole ones */
        const vu units = vu_add(exponent, vu_set((23 - format.mantissa) << 23));
        significand = vu_sub(vu_bits(vf_add(vf_from_bits(capped), vf_from_bits(units))), units);
    }
    const vu exponent_code =
        vu_sub(vu_shr(exponent, 23 - format.mantissa), vu_set(format.first_normal << format.mantissa));
    return vu_add(significand, exponent_code); /* the leading 1 of a normal number counts up its exponent */
}

/* The float32 bits at which codes end: of the largest finite number, or of what overflow_code would stand for were it a number. Every
 * larger magnitude, infinity too, gets the code of this one. */
static inline uint32_t
largest_magnitude(pfo_small_float format, int saturate)
{
    const uint32_t code = saturate ? format.max_code : format.overflow_code;
    return (code << (23 - format.mantissa)) + ((format.first_normal - 1u) << 23);
}

/* pfo_small_float_encode */
PFO_ELEMENT_INLINE vu
encode_small_float(pfo_small_float format, vu bits, vu largest, int stochastic, vu random)
{
    const vu magnitude = vu_and(bits, vu_set(~PFO_FLOAT_SIGN));
    vu nan_code = vu_set(format.nan_code);
    if (format.mantissa == 10) {
        nan_code = vu_or(nan_code, vu_and(vu_shr(bits, 13), vu_set(0x3ff)));
    }
    const vu code = encode_magnitude(format, magnitude, largest, stochastic, random);
    const vu sign = vu_and(vu_shr(bits, format.sign == 0x80 ? 24 : 16), vu_set(format.sign));
    return vu_or(sign, vu_if_greater(magnitude, vu_set(PFO_FLOAT_INFINITY), nan_code, code));
}

/* pfo_bfloat16_encode; infinity's dropped bits are zero, so that no addend changes it. */
PFO_ELEMENT_INLINE vu
encode_bfloat16(vu bits, int stochastic, vu random)
{
    const vu nearest = vu_add(vu_and(vu_shr(bits, 16), vu_set(1)), vu_set(0x7fff));
    const vu rounded = vu_add(bits, stochastic ? random : nearest);
    const vu magnitude = vu_and(bits, vu_set(~PFO_FLOAT_SIGN));
    const vu quiet = vu_or(bits, vu_set(PFO_FLOAT_QUIET));
    return vu_shr(vu_if_greater(magnitude, vu_set(PFO_FLOAT_INFINITY), quiet, rounded), 16);
}

PFO_ELEMENT_INLINE vu
encode(pfo_dtype dtype, vf x, vu largest, int stochastic, vu random)
{
    switch (dtype) {
    case PFO_DTYPE_BFLOAT16:
        return encode_bfloat16(vu_bits(x), stochastic, random);
    case PFO_DTYPE_FLOAT16: /* the processor's NaN rule is the reference's */
        return stochastic ? encode_small_float(pfo_float16_format(), vu_bits(x), largest, 1, random) : vu_to_half(x);
    case PFO_DTYPE_FLOAT8_E4M3:
        return encode_small_float(pfo_float8_e4m3_format(), vu_bits(x), largest, stochastic, random);
    default:
        return encode_small_float(pfo_float8_e5m2_format(), vu_bits(x), largest, stochastic, random);
    }
}

PFO_ELEMENT_INLINE vf
decode(pfo_dtype dtype, vu code)
{
    switch (dtype) {
    case PFO_DTYPE_BFLOAT16:
        return vf_from_bits(vu_shl(code, 16));
    case PFO_DTYPE_FLOAT16:
        return vf_from_half(code);
    case PFO_DTYPE_FLOAT8_E5M2: /* the upper half of a float16 */
        return vf_from_half(vu_shl(code, 8));
    default: { /* E4M3: a float16 whose exponent counts from 7, not from 15 */
        const vu magnitude = vu_and(code, vu_set(0x7f)), sign = vu_shl(vu_and(code, vu_set(0x80)), 8);
        const vf number = vf_mul(vf_from_half(vu_or(sign, vu_shl(magnitude, 7))), vf_set(256.0f));
        const vu nan = vu_or(vu_shl(sign, 16), vu_set(PFO_FLOAT_INFINITY | PFO_FLOAT_QUIET));
        return vf_from_bits(vu_if_greater(magnitude, vu_set(0x7e), nan, vu_bits(number)));
    }
    }
}

/* ---- spans ---- */

/* What all spans of an array have in common. */
typedef struct span_store {
    vu largest;
    const pfo_rounding *rounding;
    int past; /* the span begins a cache line, and is written past the cache */
} span_store;

/* index, a multiple of SPAN, is that of the first element when stochastic == 1. */
PFO_ELEMENT_INLINE void
store_span(pfo_dtype dtype, const float *from, uint8_t *to, uint64_t index, const span_store *how, int stochastic)
{
    random_words words;
    if (stochastic) {
        fill_words(how->rounding, index, words);
    }
    for (int group = 0; group < SPAN / SPAN_GROUP; group++) {
        const float *source = from + group * SPAN_GROUP;
        uint8_t *target = to + (size_t)(group * SPAN_GROUP) * pfo_dtype_bytes(dtype);
        vu code[4];
        for (int k = 0; k < 4; k++) {
            const vu random = stochastic ? random_of(words, 4 * group + k) : vu_set(0);
            code[k] = encode(dtype, vf_load(source + k * VF_LANES, VF_LANES), how->largest, stochastic, random);
        }
        if (pfo_dtype_bytes(dtype) == 2) {
            vu_store_halves(target, code, how->past);
        } else {
            vu_store_bytes(target, code, how->past);
        }
    }
}

/* count elements of a span, from its skip-th on. */
PFO_ELEMENT_INLINE void
store_part(pfo_dtype dtype, const float *from, uint8_t *to, int64_t skip, int64_t count, uint64_t index,
           const span_store *how, int stochastic)
{
    float values[SPAN] = { 0.0f };
    uint8_t codes[SPAN * 2];
    const size_t size = pfo_dtype_bytes(dtype);
    const span_store on_stack = { how->largest, how->rounding, 0 };
    memcpy(values + skip, from, (size_t)count * sizeof *from);
    store_span(dtype, values, codes, index, &on_stack, stochastic);
    memcpy(to, codes + (size_t)skip * size, (size_t)count * size);
}

PFO_ELEMENT_INLINE void
store_array(pfo_dtype dtype, const float *from, uint8_t *to, int64_t count, span_store how, int stochastic)
{
    const size_t size = pfo_dtype_bytes(dtype);
    const uint64_t first = stochastic ? how.rounding->first : 0;
    /* Elements before the first of a whole span: whose index starts one, or which starts a cache line. */
    const int64_t skip = (int64_t)(first % SPAN);
    int64_t head = skip != 0                 ? SPAN - skip
                   : how.past && !stochastic ? (int64_t)(-(uintptr_t)to % STREAM_LINE / size)
                                             : 0;
    head = head < count ? head : count;
    if (head > 0) {
        store_part(dtype, from, to, skip, head, first - (uint64_t)skip, &how, stochastic);
    }
    how.past = how.past && (uintptr_t)(to + (size_t)head * size) % STREAM_LINE == 0;
    int64_t i = head;
    for (; i + SPAN <= count; i += SPAN) {
        store_span(dtype, from + i, to + (size_t)i * size, first + (uint64_t)i, &how, stochastic);
    }
    if (i < count) {
        store_part(dtype, from + i, to + (size_t)i * size, 0, count - i, first + (uint64_t)i, &how, stochastic);
    }
}

PFO_ELEMENT_INLINE pfo_small_float
format_of(pfo_dtype dtype)
{
    return dtype == PFO_DTYPE_FLOAT8_E4M3   ? pfo_float8_e4m3_format()
           : dtype == PFO_DTYPE_FLOAT8_E5M2 ? pfo_float8_e5m2_format()
                                            : pfo_float16_format();
}

PFO_ELEMENT_INLINE void
store_elements(pfo_dtype dtype, const float *from, void *to, int64_t count, const pfo_rounding *rounding,
               int stream_past_cache)
{
    const int saturate = rounding->saturate && pfo_dtype_bytes(dtype) == 1;
    const span_store how = { vu_set(largest_magnitude(format_of(dtype), saturate)), rounding, stream_past_cache };
    if (rounding->stochastic) {
        store_array(dtype, from, to, count, how, 1);
    } else {
        store_array(dtype, from, to, count, how, 0);
    }
}

PFO_ELEMENT_INLINE void
load_elements(pfo_dtype dtype, const void *from, float *to, int64_t count)
{
    const uint8_t *codes = from;
    const size_t size = pfo_dtype_bytes(dtype);
    int64_t i = 0;
    for (; i + VF_LANES <= count; i += VF_LANES) {
        const uint8_t *place = codes + (size_t)i * size;
        vf_store(to + i, decode(dtype, size == 2 ? vu_load_halves(place) : vu_load_bytes(place)), VF_LANES);
    }
    if (i < count) {
        uint8_t rest[VF_LANES * 2] = { 0 };
        memcpy(rest, codes + (size_t)i * size, (size_t)(count - i) * size);
        vf_store(to + i, decode(dtype, size == 2 ? vu_load_halves(rest) : vu_load_bytes(rest)), count - i);
    }
}

/* ---- float32 ---- */

static void
store_float32(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
              int stream_past_cache)
{
    if (!stream_past_cache) {
        pfo_converters_scalar()->store[PFO_DTYPE_FLOAT32](from, to, scales, count, rounding, 0);
        return;
    }
    float *out = to;
    int64_t i = 0;
    for (; i < count && (uintptr_t)(out + i) % STREAM_LINE != 0; i++) {
        out[i] = from[i];
    }
    for (; i + VF_LANES <= count; i += VF_LANES) {
        vf_store_past(out + i, vf_load(from + i, VF_LANES));
    }
    for (; i < count; i++) {
        out[i] = from[i];
    }
}

/* ---- the table's rows that this file fills ---- */

#define PFO_ELEMENT_FUNCTIONS(suffix, id)                                                                              \
    static void load_##suffix(const void *from, const float *scales, float *to, int64_t count)                         \
    {                                                                                                                  \
        (void)scales;                                                                                                  \
        load_elements(PFO_DTYPE_##id, from, to, count);                                                                \
    }                                                                                                                  \
    static void store_##suffix(const float *from, void *to, float *scales, int64_t count,                              \
                               const pfo_rounding *rounding, int stream_past_cache)                                    \
    {                                                                                                                  \
        (void)scales;                                                                                                  \
        store_elements(PFO_DTYPE_##id, from, to, count, rounding, stream_past_cache);                                  \
    }
PFO_ELEMENT_FUNCTIONS(bfloat16, BFLOAT16)
PFO_ELEMENT_FUNCTIONS(float16, FLOAT16)
PFO_ELEMENT_FUNCTIONS(float8_e4m3, FLOAT8_E4M3)
PFO_ELEMENT_FUNCTIONS(float8_e5m2, FLOAT8_E5M2)

#define PFO_ELEMENT_LOADS                                                                                              \
    [PFO_DTYPE_BFLOAT16] = load_bfloat16, [PFO_DTYPE_FLOAT16] = load_float16,                                          \
    [PFO_DTYPE_FLOAT8_E4M3] = load_float8_e4m3, [PFO_DTYPE_FLOAT8_E5M2] = load_float8_e5m2
#define PFO_ELEMENT_STORES                                                                                             \
    [PFO_DTYPE_FLOAT32] = store_float32, [PFO_DTYPE_BFLOAT16] = store_bfloat16, [PFO_DTYPE_FLOAT16] = store_float16,   \
    [PFO_DTYPE_FLOAT8_E4M3] = store_float8_e4m3, [PFO_DTYPE_FLOAT8_E5M2] = store_float8_e5m2

#endif
