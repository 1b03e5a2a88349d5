/* convert_avx512.c: sixteen elements at a time. Entered only after cpu.h said yes; built with its own flags
 * (csrc/flags.mk).
 *
 * Same bits as the reference. What is here are the random bits and the 8-bit blocks; the other dtypes are in
 * convert_elements.h. Tails use masked loads and stores. Each loop is written once over a dtype and compiled once a
 * dtype: `dtype` and `stochastic` are constants wherever they are tested.
 */
#include "kernels/convert.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/philox_math.h"
#include "kernels/quantize_math.h"
#include "kernels/simd_codes_avx512.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { LANES = 16, GROUP = 4 * LANES };

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

typedef __m512i random_words[4];

/* The words for the PFO_PHILOX_ELEMENTS elements from index on, a multiple of that. */
ALWAYS_INLINE void
fill_words(const pfo_rounding *rounding, uint64_t index, random_words words)
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

#include "kernels/convert_elements.h"

/* ---- sixteen codes of a block ---- */

ALWAYS_INLINE __m512i
magnitude_of(__m512i bits)
{
    return _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
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

/* pfo_block8_decode and pfo_ublock8_decode */
ALWAYS_INLINE __m512
decode_block(pfo_dtype dtype, __m512i code, const block_words *block)
{
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

/* ---- whole blocks ---- */

ALWAYS_INLINE void
load_block(pfo_dtype dtype, const uint8_t *from, const block_words *block, float *to, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        _mm512_storeu_ps(to + i, decode_block(dtype, vu_load_bytes(from + i), block));
    }
    if (i < count) {
        const __mmask16 keep = first_lanes(count - i);
        const __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(keep, from + i));
        _mm512_mask_storeu_ps(to + i, keep, decode_block(dtype, code, block));
    }
}

/* count elements of a block; with stochastic == 1 rounding->first is a multiple of PFO_PHILOX_ELEMENTS. */
ALWAYS_INLINE void
store_block(pfo_dtype dtype, const float *from, uint8_t *to, const block_words *block, int64_t count,
            const pfo_rounding *rounding, int stochastic)
{
    random_words words = { _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                           _mm512_setzero_si512() };
    for (int64_t i = 0; i < count; i += GROUP) {
        int first_vector = 0;
        if (stochastic) {
            first_vector = (int)(i % PFO_PHILOX_ELEMENTS / LANES);
            if (first_vector == 0) {
                fill_words(rounding, rounding->first + (uint64_t)i, words);
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
            code[k] = encode_block(dtype, _mm512_castps_si512(x), block, stochastic, random);
        }
        if (left >= GROUP) {
            vu_store_bytes(to + i, code, 0);
            continue;
        }
        for (int k = 0; k < vectors; k++) {
            _mm512_mask_cvtepi32_storeu_epi8(to + i + k * LANES, first_lanes(left - k * LANES), code[k]);
        }
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
            store_block(dtype, from + begin, code + begin, &block, size, &moved, 1);
        } else {
            store_block(dtype, from + begin, code + begin, &block, size, &moved, 0);
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
        load_block(dtype, (const uint8_t *)from + begin, &block, to + begin, size);
    }
}

/* X(suffix, dtype) */
#define BLOCK_DTYPES(X)                                                                                                \
    X(block8, BLOCK8)                                                                                                  \
    X(ublock8, UBLOCK8)

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
        .load = { PFO_ELEMENT_LOADS, BLOCK_DTYPES(LOAD_ENTRY) },
        .store = { PFO_ELEMENT_STORES, BLOCK_DTYPES(STORE_ENTRY) },
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
