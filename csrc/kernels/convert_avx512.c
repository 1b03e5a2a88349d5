/* convert_avx512.c: sixteen elements at a time. Entered only after cpu.h said yes; built with its own flags
 * (csrc/flags.mk).
 *
 * Same bits as the reference. float16 uses the processor's conversion to nearest, whose NaN rule is the reference's;
 * bfloat16 does not: VCVTNEPS2BF16 flushes denormals, and five integer operations keep up with the memory anyway.
 * Tails use masked loads and stores. Each loop is written once over a dtype and compiled once a dtype: `dtype` and
 * `stochastic` are constants wherever they are tested.
 */
#include "kernels/convert.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/convert_math.h"
#include "kernels/philox_math.h"
#include "kernels/quantize_math.h"

#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { LANES = 16, GROUP = 4 * LANES, CACHE_LINE = 64 }; /* a group of 1-byte codes is a cache line */

ALWAYS_INLINE __mmask16
first_lanes(int64_t count) /* pre: count >= 0; 16 and more are all */
{
    return (__mmask16)(count >= LANES ? 0xffffu : (1u << count) - 1u);
}

/* ---- random bits ---- */

/* One round on eight counters, a word in the lower half of each 64-bit lane; the upper halves hold what no operation
 * reads. */
ALWAYS_INLINE void
philox_round(__m512i c[4], __m512i key_0, __m512i key_1)
{
    const __m512i product_0 = _mm512_mul_epu32(c[0], _mm512_set1_epi64(PFO_PHILOX_MULTIPLIER_0));
    const __m512i product_1 = _mm512_mul_epu32(c[2], _mm512_set1_epi64(PFO_PHILOX_MULTIPLIER_1));
    const __m512i high_1 = _mm512_srli_epi64(product_1, 32);
    const __m512i high_0 = _mm512_srli_epi64(product_0, 32);
    c[0] = _mm512_xor_si512(_mm512_xor_si512(high_1, c[1]), key_0);
    c[1] = product_1;
    c[2] = _mm512_xor_si512(_mm512_xor_si512(high_0, c[3]), key_1);
    c[3] = product_0;
}

/* The words for the PFO_PHILOX_ELEMENTS elements from index on, a multiple of that. */
static void
fill_words(const pfo_rounding *rounding, uint64_t index, __m512i words[4])
{
    const uint64_t group = index / PFO_PHILOX_ELEMENTS * PFO_PHILOX_LANES;
    const __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    __m512i low[4], high[4]; /* counters 0 to 7, and 8 to 15; a multiple of 16 plus these carries nothing */
    low[0] = _mm512_add_epi64(_mm512_set1_epi64((int64_t)(group & 0xffffffffu)), lane);
    high[0] = _mm512_add_epi64(low[0], _mm512_set1_epi64(8));
    low[1] = high[1] = _mm512_set1_epi64((int64_t)(group >> 32));
    low[2] = high[2] = _mm512_set1_epi64((int64_t)(rounding->stream & 0xffffffffu));
    low[3] = high[3] = _mm512_set1_epi64((int64_t)(rounding->stream >> 32));
    uint32_t key_0 = (uint32_t)rounding->seed, key_1 = (uint32_t)(rounding->seed >> 32);
    for (int round = 0; round < PFO_PHILOX_ROUNDS; round++) {
        const __m512i wide_0 = _mm512_set1_epi64((int64_t)key_0), wide_1 = _mm512_set1_epi64((int64_t)key_1);
        philox_round(low, wide_0, wide_1);
        philox_round(high, wide_0, wide_1);
        key_0 += PFO_PHILOX_WEYL_0;
        key_1 += PFO_PHILOX_WEYL_1;
    }
    for (int k = 0; k < 4; k++) {
        words[k] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(low[k])),
                                      _mm512_cvtepi64_epi32(high[k]), 1);
    }
}

/* The 16 bits of each lane for the vector-th sixteen of the elements that words serve. */
ALWAYS_INLINE __m512i
random_of(const __m512i words[4], int vector)
{
    const __m512i pair = words[vector / 2];
    return vector % 2 ? _mm512_srli_epi32(pair, 16) : _mm512_and_si512(pair, _mm512_set1_epi32(0xffff));
}

/* ---- sixteen codes ---- */

ALWAYS_INLINE __m512i
magnitude_of(__m512i bits)
{
    return _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
}

/* pfo_small_float_encode */
ALWAYS_INLINE __m512i
encode_small_float(pfo_small_float format, __m512i bits, int stochastic, __m512i random, int saturate)
{
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi32(1), most = _mm512_set1_epi32(31);
    const __m512i first_normal = _mm512_set1_epi32((int)format.first_normal);
    const __m512i magnitude = magnitude_of(bits);
    const __m512i field = _mm512_srli_epi32(magnitude, 23);
    const __m512i exponent = _mm512_max_epi32(field, one);
    const __m512i fraction = _mm512_and_si512(magnitude, _mm512_set1_epi32(0x007fffff));
    const __m512i below = _mm512_max_epi32(_mm512_sub_epi32(first_normal, exponent), zero);
    const __m512i wanted = _mm512_add_epi32(below, _mm512_set1_epi32(23 - (int)format.mantissa));
    const __m512i beyond = _mm512_max_epi32(_mm512_sub_epi32(wanted, most), zero);
    const __m512i dropped = _mm512_min_epi32(wanted, most);
    __m512i significand =
        _mm512_mask_or_epi32(fraction, _mm512_test_epi32_mask(field, field), fraction, _mm512_set1_epi32(0x00800000));
    significand = _mm512_srlv_epi32(significand, beyond);
    __m512i addend;
    if (stochastic) {
        addend = _mm512_srlv_epi32(_mm512_slli_epi32(random, 15), _mm512_sub_epi32(most, dropped));
    } else {
        const __m512i half = _mm512_sllv_epi32(one, _mm512_sub_epi32(dropped, one));
        const __m512i odd = _mm512_and_si512(_mm512_srlv_epi32(significand, dropped), one);
        addend = _mm512_add_epi32(_mm512_sub_epi32(half, one), odd);
    }
    const __m512i rounded = _mm512_srlv_epi32(_mm512_add_epi32(significand, addend), dropped);
    const __m512i exponent_code = _mm512_max_epi32(_mm512_sub_epi32(exponent, first_normal), zero);
    __m512i code = _mm512_add_epi32(rounded, _mm512_slli_epi32(exponent_code, format.mantissa));
    const __mmask16 over = _mm512_cmpgt_epu32_mask(code, _mm512_set1_epi32((int)format.max_code)); /* infinity too */
    code =
        _mm512_mask_mov_epi32(code, over, _mm512_set1_epi32((int)(saturate ? format.max_code : format.overflow_code)));
    const __mmask16 nan = _mm512_cmpgt_epu32_mask(magnitude, _mm512_set1_epi32(PFO_FLOAT_INFINITY));
    __m512i nan_code = _mm512_set1_epi32((int)format.nan_code);
    if (format.mantissa == 10) {
        nan_code = _mm512_or_si512(nan_code, _mm512_srli_epi32(fraction, 13));
    }
    code = _mm512_mask_mov_epi32(code, nan, nan_code);
    const __mmask16 negative = _mm512_movepi32_mask(bits);
    return _mm512_mask_or_epi32(code, negative, code, _mm512_set1_epi32((int)format.sign));
}

/* pfo_bfloat16_encode */
ALWAYS_INLINE __m512i
encode_bfloat16(__m512i bits, int stochastic, __m512i random)
{
    __m512i addend = random;
    if (!stochastic) {
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        addend = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    }
    const __mmask16 nan = _mm512_cmpgt_epu32_mask(magnitude_of(bits), _mm512_set1_epi32(PFO_FLOAT_INFINITY));
    const __m512i rounded = _mm512_add_epi32(bits, addend);
    const __m512i quiet = _mm512_set1_epi32(PFO_FLOAT_QUIET);
    return _mm512_srli_epi32(_mm512_mask_or_epi32(rounded, nan, bits, quiet), 16);
}

ALWAYS_INLINE __m512i
encode(pfo_dtype dtype, __m512 x, int stochastic, __m512i random, int saturate)
{
    const __m512i bits = _mm512_castps_si512(x);
    switch (dtype) {
    case PFO_DTYPE_BFLOAT16:
        return encode_bfloat16(bits, stochastic, random);
    case PFO_DTYPE_FLOAT16:
        return stochastic ? encode_small_float(pfo_float16_format(), bits, 1, random, 0)
                          : _mm512_cvtepu16_epi32(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    case PFO_DTYPE_FLOAT8_E4M3:
        return encode_small_float(pfo_float8_e4m3_format(), bits, stochastic, random, saturate);
    default:
        return encode_small_float(pfo_float8_e5m2_format(), bits, stochastic, random, saturate);
    }
}

/* A block's code and scale in registers. */
typedef struct block_words {
    __m512 factor; /* the inverse scale when storing, the scale when loading */
    __m512i offset, first_code, half;
    __m128i dropped, random_shift;
} block_words;

ALWAYS_INLINE block_words
block_words_of(pfo_dtype dtype, float scale, float factor)
{
    const uint32_t max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const pfo_block_code code = pfo_block_code_of(max_code, pfo_block_width(scale));
    const block_words words = { .factor = _mm512_set1_ps(factor),
                                .offset = _mm512_set1_epi32((int)code.offset_bits),
                                .first_code = _mm512_set1_epi32((int)(code.offset_bits >> code.dropped)),
                                .half = _mm512_set1_epi32((1 << code.dropped >> 1) - 1),
                                .dropped = _mm_cvtsi32_si128((int)code.dropped),
                                .random_shift = _mm_cvtsi32_si128((int)code.dropped - 16) };
    return words;
}

/* pfo_block8_encode and pfo_ublock8_encode */
ALWAYS_INLINE __m512i
encode_block(pfo_dtype dtype, __m512i value, const block_words *block, int stochastic, __m512i random)
{
    const int max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const __m512 y = _mm512_mul_ps(_mm512_castsi512_ps(magnitude_of(value)), block->factor);
    const __m512i bits = _mm512_castps_si512(_mm512_add_ps(y, _mm512_castsi512_ps(block->offset)));
    __m512i addend;
    if (stochastic) { /* a code drops 17 bits or more */
        addend = _mm512_sll_epi32(random, block->random_shift);
    } else {
        const __m512i odd = _mm512_and_si512(_mm512_srl_epi32(bits, block->dropped), _mm512_set1_epi32(1));
        addend = _mm512_add_epi32(odd, block->half);
    }
    const __m512i rounded = _mm512_srl_epi32(_mm512_add_epi32(bits, addend), block->dropped);
    const __m512i above = _mm512_sub_epi32(rounded, block->first_code);
    const __m512i code = _mm512_min_epu32(above, _mm512_set1_epi32(max_code));
    if (dtype == PFO_DTYPE_BLOCK8) {
        return _mm512_mask_or_epi32(code, _mm512_movepi32_mask(value), code, _mm512_set1_epi32(0x80));
    }
    const __mmask16 positive = _mm512_cmpgt_epi32_mask(value, _mm512_setzero_si512());
    return _mm512_maskz_max_epu32(positive, code, _mm512_set1_epi32(1));
}

ALWAYS_INLINE __m512
decode(pfo_dtype dtype, __m512i code, const block_words *block)
{
    switch (dtype) {
    case PFO_DTYPE_BFLOAT16:
        return _mm512_castsi512_ps(_mm512_slli_epi32(code, 16));
    case PFO_DTYPE_FLOAT16:
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(code));
    case PFO_DTYPE_FLOAT8_E5M2: /* the upper half of a float16 */
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_slli_epi32(code, 8)));
    case PFO_DTYPE_FLOAT8_E4M3: { /* a float16 whose exponent counts from 7, not from 15 */
        const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(code, _mm512_set1_epi32(0x80)), 8);
        const __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi32(0x7f));
        const __m512i half = _mm512_or_si512(sign, _mm512_slli_epi32(magnitude, 7));
        const __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(half)), _mm512_set1_ps(256.0f));
        const __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
        const __m512i nan_bits =
            _mm512_or_si512(_mm512_slli_epi32(sign, 16), _mm512_set1_epi32(PFO_FLOAT_INFINITY | PFO_FLOAT_QUIET));
        return _mm512_mask_mov_ps(value, nan, _mm512_castsi512_ps(nan_bits));
    }
    default: {
        const int max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
        const __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi32(max_code));
        const __m512i shifted = _mm512_add_epi32(block->offset, _mm512_sll_epi32(magnitude, block->dropped));
        const __m512 y = _mm512_sub_ps(_mm512_castsi512_ps(shifted), _mm512_castsi512_ps(block->offset));
        const __m512 value = _mm512_mul_ps(y, block->factor);
        if (dtype == PFO_DTYPE_UBLOCK8) {
            return value;
        }
        const __m512i sign = _mm512_slli_epi32(_mm512_andnot_si512(_mm512_set1_epi32(0x7f), code), 24);
        return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(value), sign));
    }
    }
}

/* ---- memory ---- */

ALWAYS_INLINE __m512i
read_codes(pfo_dtype dtype, const uint8_t *from, __mmask16 keep)
{
    return pfo_dtype_bytes(dtype) == 2 ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(keep, from))
                                       : _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(keep, from));
}

ALWAYS_INLINE void
write_codes(pfo_dtype dtype, uint8_t *to, __mmask16 keep, __m512i code)
{
    if (pfo_dtype_bytes(dtype) == 2) {
        _mm512_mask_cvtepi32_storeu_epi16(to, keep, code);
    } else {
        _mm512_mask_cvtepi32_storeu_epi8(to, keep, code);
    }
}

ALWAYS_INLINE void
write_line(uint8_t *to, __m512i line, int stream)
{
    if (stream) {
        _mm512_stream_si512((void *)to, line);
    } else {
        _mm512_storeu_si512(to, line);
    }
}

/* Four vectors of codes side by side: one cache line or two. */
ALWAYS_INLINE void
write_group(pfo_dtype dtype, uint8_t *to, const __m512i code[4], int stream)
{
    if (pfo_dtype_bytes(dtype) == 2) {
        for (int k = 0; k < 2; k++) {
            const __m256i low = _mm512_cvtepi32_epi16(code[2 * k]), high = _mm512_cvtepi32_epi16(code[2 * k + 1]);
            write_line(to + k * CACHE_LINE, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), stream);
        }
        return;
    }
    __m512i line = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(code[0]));
    line = _mm512_inserti32x4(line, _mm512_cvtepi32_epi8(code[1]), 1);
    line = _mm512_inserti32x4(line, _mm512_cvtepi32_epi8(code[2]), 2);
    write_line(to, _mm512_inserti32x4(line, _mm512_cvtepi32_epi8(code[3]), 3), stream);
}

/* ---- whole arrays ---- */

ALWAYS_INLINE void
load_all(pfo_dtype dtype, const void *from, const block_words *block, float *to, int64_t count)
{
    const uint8_t *bytes = from;
    const size_t size = pfo_dtype_bytes(dtype);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const __m512i code = read_codes(dtype, bytes + (size_t)i * size, (__mmask16)0xffff);
        _mm512_storeu_ps(to + i, decode(dtype, code, block));
    }
    if (i < count) {
        const __mmask16 keep = first_lanes(count - i);
        const __m512i code = read_codes(dtype, bytes + (size_t)i * size, keep);
        _mm512_mask_storeu_ps(to + i, keep, decode(dtype, code, block));
    }
}

/* Elements [0, count); with stochastic == 1 rounding->first is a multiple of GROUP, with stream == 1 to is a cache
 * line's first byte. block is unused for dtypes without blocks. */
ALWAYS_INLINE void
store_all(pfo_dtype dtype, const float *from, uint8_t *to, const block_words *block, int64_t count,
          const pfo_rounding *rounding, int stochastic, int saturate, int stream)
{
    const size_t size = pfo_dtype_bytes(dtype);
    const int is_block = dtype == PFO_DTYPE_BLOCK8 || dtype == PFO_DTYPE_UBLOCK8;
    __m512i words[4] = { _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                         _mm512_setzero_si512() };
    for (int64_t i = 0; i < count; i += GROUP) {
        int first_vector = 0;
        if (stochastic) {
            const uint64_t index = rounding->first + (uint64_t)i;
            first_vector = (int)(index % PFO_PHILOX_ELEMENTS / LANES);
            if (first_vector == 0 || i == 0) {
                fill_words(rounding, index, words);
            }
        }
        const __m512i *pair = words + first_vector / 2;
        const int64_t left = count - i;
        const int vectors = left >= GROUP ? GROUP / LANES : (int)((left + LANES - 1) / LANES);
        __m512i code[4];
        for (int k = 0; k < vectors; k++) {
            const float *place = from + i + k * LANES;
            const __m512 x =
                left >= GROUP ? _mm512_loadu_ps(place) : _mm512_maskz_loadu_ps(first_lanes(left - k * LANES), place);
            const __m512i random = stochastic ? random_of(pair, k) : words[0];
            code[k] = is_block ? encode_block(dtype, _mm512_castps_si512(x), block, stochastic, random)
                               : encode(dtype, x, stochastic, random, saturate);
        }
        if (left >= GROUP) {
            write_group(dtype, to + (size_t)i * size, code, stream);
            continue;
        }
        for (int k = 0; k < vectors; k++) {
            write_codes(dtype, to + (size_t)(i + k * LANES) * size, first_lanes(left - k * LANES), code[k]);
        }
    }
}

/* The elements before the first that starts a cache line of `to` (stream), or whose index starts a group of random
 * words. */
ALWAYS_INLINE int64_t
elements_before(pfo_dtype dtype, const void *to, int64_t count, const pfo_rounding *rounding, int stream)
{
    int64_t before = 0;
    if (rounding->stochastic) {
        before = (int64_t)(-rounding->first % PFO_PHILOX_ELEMENTS);
    } else if (stream) {
        before = (int64_t)(-(uintptr_t)to % CACHE_LINE / pfo_dtype_bytes(dtype));
    }
    return before < count ? before : count;
}

ALWAYS_INLINE void
store_elements(pfo_dtype dtype, const float *from, void *to, int64_t count, const pfo_rounding *rounding, int stream)
{
    const int64_t before = elements_before(dtype, to, count, rounding, stream);
    if (before > 0) {
        pfo_converters_scalar()->store[dtype](from, to, NULL, before, rounding, 0);
    }
    uint8_t *rest = (uint8_t *)to + (size_t)before * pfo_dtype_bytes(dtype);
    pfo_rounding moved = *rounding;
    moved.first += (uint64_t)before;
    from += before;
    count -= before;
    const int whole_lines = stream && (uintptr_t)rest % CACHE_LINE == 0;
    if (rounding->stochastic) {
        store_all(dtype, from, rest, NULL, count, &moved, 1, rounding->saturate, whole_lines);
    } else if (whole_lines) {
        store_all(dtype, from, rest, NULL, count, &moved, 0, rounding->saturate, 1);
    } else {
        store_all(dtype, from, rest, NULL, count, &moved, 0, rounding->saturate, 0);
    }
    if (whole_lines) {
        _mm_sfence();
    }
}

/* What the reference finds of a block in three loops; integers, so that no order matters. */
static uint32_t
judge_block8(const float *from, int64_t count, uint32_t *largest_bits)
{
    __m512i largest = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += LANES) {
        const __m512i x = _mm512_maskz_loadu_epi32(first_lanes(count - i), from + i);
        largest = _mm512_max_epu32(largest, magnitude_of(x));
    }
    *largest_bits = _mm512_reduce_max_epu32(largest);
    const __m512i limit = _mm512_set1_epi32((int)*largest_bits);
    uint32_t nonzero = 0, small = 0, tiny = 0;
    for (int64_t i = 0; i < count; i += LANES) {
        const __m512i bits = magnitude_of(_mm512_maskz_loadu_epi32(first_lanes(count - i), from + i));
        const __mmask16 counted = _mm512_test_epi32_mask(bits, bits);
        const __m512i above_small = _mm512_add_epi32(bits, _mm512_set1_epi32(PFO_BLOCK8_SMALL));
        const __m512i above_tiny = _mm512_add_epi32(bits, _mm512_set1_epi32(PFO_BLOCK8_TINY));
        nonzero += (uint32_t)_mm_popcnt_u32(counted);
        small += (uint32_t)_mm_popcnt_u32(_mm512_mask_cmplt_epu32_mask(counted, above_small, limit));
        tiny += (uint32_t)_mm_popcnt_u32(_mm512_mask_cmplt_epu32_mask(counted, above_tiny, limit));
    }
    return pfo_block8_width(nonzero, small, tiny);
}

static uint32_t
judge_ublock8(const float *from, int64_t count, uint32_t *largest_bits)
{
    const __m512i one = _mm512_set1_epi32(1);
    __m512i largest = _mm512_setzero_si512(), smallest = _mm512_set1_epi32(-1);
    for (int64_t i = 0; i < count; i += LANES) {
        const __m512i x = _mm512_maskz_loadu_epi32(first_lanes(count - i), from + i);
        largest = _mm512_max_epu32(largest, magnitude_of(x));
        smallest = _mm512_min_epu32(smallest, _mm512_sub_epi32(x, one)); /* zero becomes the largest of all */
    }
    *largest_bits = _mm512_reduce_max_epu32(largest);
    const uint32_t below_smallest = _mm512_reduce_min_epu32(smallest);
    return pfo_ublock8_width(*largest_bits, below_smallest == UINT32_MAX ? UINT32_MAX : below_smallest + 1);
}

ALWAYS_INLINE void
store_blocks(pfo_dtype dtype, const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding)
{
    if (rounding->stochastic && rounding->first % PFO_PHILOX_ELEMENTS != 0) { /* no step asks for this */
        pfo_converters_scalar()->store[dtype](from, to, scales, count, rounding, 0);
        return;
    }
    const uint32_t max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    uint8_t *code = to;
    pfo_rounding moved = *rounding;
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t size = count - begin < PFO_SCALE_BLOCK ? count - begin : PFO_SCALE_BLOCK;
        uint32_t largest;
        const uint32_t width = dtype == PFO_DTYPE_BLOCK8 ? judge_block8(from + begin, size, &largest)
                                                         : judge_ublock8(from + begin, size, &largest);
        const float scale = pfo_block_scale(max_code, width, largest);
        moved.first = rounding->first + (uint64_t)begin;
        scales[begin / PFO_SCALE_BLOCK] = scale;
        if (!(scale > 0.0f)) { /* zero or NaN */
            memset(code + begin, 0, (size_t)size);
            continue;
        }
        const block_words block = block_words_of(dtype, scale, pfo_block_inverse(scale));
        if (rounding->stochastic) {
            store_all(dtype, from + begin, code + begin, &block, size, &moved, 1, 0, 0);
        } else {
            store_all(dtype, from + begin, code + begin, &block, size, &moved, 0, 0, 0);
        }
    }
}

ALWAYS_INLINE void
load_blocks(pfo_dtype dtype, const void *from, const float *scales, float *to, int64_t count)
{
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t size = count - begin < PFO_SCALE_BLOCK ? count - begin : PFO_SCALE_BLOCK;
        const float scale = scales[begin / PFO_SCALE_BLOCK];
        const block_words block = block_words_of(dtype, scale, scale);
        load_all(dtype, (const uint8_t *)from + begin, &block, to + begin, size);
    }
}

static void
store_float32(const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding,
              int stream_past_cache)
{
    if (!stream_past_cache || (uintptr_t)to % sizeof(float) != 0) {
        pfo_converters_scalar()->store[PFO_DTYPE_FLOAT32](from, to, scales, count, rounding, 0);
        return;
    }
    float *out = to;
    int64_t i = 0;
    for (; i < count && (uintptr_t)(out + i) % CACHE_LINE != 0; i++) {
        out[i] = from[i];
    }
    for (; i + LANES <= count; i += LANES) {
        _mm512_stream_ps(out + i, _mm512_loadu_ps(from + i));
    }
    for (; i < count; i++) {
        out[i] = from[i];
    }
    _mm_sfence();
}

/* X(suffix, dtype): elements that are coded one by one, and those in blocks. */
#define ELEMENT_DTYPES(X)                                                                                              \
    X(bfloat16, BFLOAT16)                                                                                              \
    X(float16, FLOAT16)                                                                                                \
    X(float8_e4m3, FLOAT8_E4M3)                                                                                        \
    X(float8_e5m2, FLOAT8_E5M2)
#define BLOCK_DTYPES(X)                                                                                                \
    X(block8, BLOCK8)                                                                                                  \
    X(ublock8, UBLOCK8)

#define ELEMENT_FUNCTIONS(suffix, id)                                                                                  \
    static void load_##suffix(const void *from, const float *scales, float *to, int64_t count)                         \
    {                                                                                                                  \
        (void)scales;                                                                                                  \
        load_all(PFO_DTYPE_##id, from, NULL, to, count);                                                               \
    }                                                                                                                  \
    static void store_##suffix(const float *from, void *to, float *scales, int64_t count,                              \
                               const pfo_rounding *rounding, int stream_past_cache)                                    \
    {                                                                                                                  \
        (void)scales;                                                                                                  \
        store_elements(PFO_DTYPE_##id, from, to, count, rounding, stream_past_cache);                                  \
    }
ELEMENT_DTYPES(ELEMENT_FUNCTIONS)

#define BLOCK_FUNCTIONS(suffix, id)                                                                                    \
    static void load_##suffix(const void *from, const float *scales, float *to, int64_t count)                         \
    {                                                                                                                  \
        load_blocks(PFO_DTYPE_##id, from, scales, to, count);                                                          \
    }                                                                                                                  \
    static void store_##suffix(const float *from, void *to, float *scales, int64_t count,                              \
                               const pfo_rounding *rounding, int stream_past_cache)                                    \
    {                                                                                                                  \
        (void)stream_past_cache; /* one byte an element: nothing to win */                                             \
        store_blocks(PFO_DTYPE_##id, from, to, scales, count, rounding);                                               \
    }
BLOCK_DTYPES(BLOCK_FUNCTIONS)

const pfo_convert_table *
pfo_converters_avx512(void)
{
#define LOAD_ENTRY(suffix, id) [PFO_DTYPE_##id] = load_##suffix,
#define STORE_ENTRY(suffix, id) [PFO_DTYPE_##id] = store_##suffix,
    static const pfo_convert_table table = {
        .level = PFO_CPU_AVX512,
        .load = { ELEMENT_DTYPES(LOAD_ENTRY) BLOCK_DTYPES(LOAD_ENTRY) },
        .store = { [PFO_DTYPE_FLOAT32] = store_float32, ELEMENT_DTYPES(STORE_ENTRY) BLOCK_DTYPES(STORE_ENTRY) },
    };
    return &table;
}

#else

const pfo_convert_table *
pfo_converters_avx512(void)
{
    return NULL;
}

#endif
