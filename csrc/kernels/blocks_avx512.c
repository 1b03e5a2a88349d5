/* blocks_avx512.c: 8-bit blocks, sixteen elements at a time. Entered only after cpu.h said yes; built with its own flags
 * (csrc/flags.mk).
 *
 * Same bits as the reference (convert_scalar.c over quantize_math.h and philox_math.h). A code needs the scale of its
 * block, and that a chain of reductions and divisions; so a batch of blocks is judged first and coded then, and the
 * chains of a batch overlap. Codes are narrowed by packing with saturation, which is the clamp to the largest code.
 */
#include "kernels/blocks.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/philox_avx512.h"
#include "kernels/quantize_math.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { LANES = 16, GROUP = 4 * LANES, BATCH = 4 * PFO_SCALE_BLOCK }; /* a group of codes is a vector */
_Static_assert(BATCH % PFO_PHILOX_ELEMENTS == 0, "words of a batch");

ALWAYS_INLINE __mmask16
first_lanes(int64_t count) /* pre: count >= 0; 16 and more are all */
{
    return (__mmask16)(count >= LANES ? 0xffffu : (1u << count) - 1u);
}

ALWAYS_INLINE __m512i
magnitude_of(__m512i bits)
{
    return _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
}

/* A block's code and scale in registers. */
typedef struct block_words {
    __m512 factor; /* the inverse scale when storing, the scale when loading */
    __m512i offset, first_code, half, dropped, random_shift;
} block_words;

ALWAYS_INLINE block_words
block_words_of(pfo_dtype dtype, float scale, float factor)
{
    const uint32_t max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const pfo_block_code code = pfo_block_code_of(max_code, pfo_block_width(scale));
    const block_words words = { .factor = _mm512_set1_ps(factor),
                                .offset = _mm512_set1_epi32((int)code.offset_bits),
                                .first_code = _mm512_set1_epi16((short)(code.offset_bits >> code.dropped)),
                                .half = _mm512_set1_epi32((1 << code.dropped >> 1) - 1),
                                .dropped = _mm512_set1_epi32((int)code.dropped),
                                .random_shift = _mm512_set1_epi32((int)code.dropped - 16) };
    return words;
}

/* ---- reading ---- */

ALWAYS_INLINE __m512
decode(pfo_dtype dtype, __m512i code, const block_words *block)
{
    const int max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi32(max_code));
    const __m512i shifted = _mm512_add_epi32(block->offset, _mm512_sllv_epi32(magnitude, block->dropped));
    const __m512 y = _mm512_sub_ps(_mm512_castsi512_ps(shifted), _mm512_castsi512_ps(block->offset));
    const __m512 value = _mm512_mul_ps(y, block->factor);
    if (dtype == PFO_DTYPE_UBLOCK8) {
        return value;
    }
    const __m512i sign = _mm512_slli_epi32(_mm512_andnot_si512(_mm512_set1_epi32(0x7f), code), 24);
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(value), sign));
}

ALWAYS_INLINE void
load_block(pfo_dtype dtype, const uint8_t *from, const block_words *block, float *to, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(from + i)));
        _mm512_storeu_ps(to + i, decode(dtype, code, block));
    }
    if (i < count) {
        const __mmask16 keep = first_lanes(count - i);
        const __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(keep, from + i));
        _mm512_mask_storeu_ps(to + i, keep, decode(dtype, code, block));
    }
}

ALWAYS_INLINE void
load_blocks(pfo_dtype dtype, const void *from, const float *scales, float *to, int64_t count)
{
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t left = count - begin;
        const float scale = scales[begin / PFO_SCALE_BLOCK];
        const block_words block = block_words_of(dtype, scale, scale);
        const uint8_t *code = (const uint8_t *)from + begin;
        if (left >= PFO_SCALE_BLOCK) {
            load_block(dtype, code, &block, to + begin, PFO_SCALE_BLOCK);
        } else {
            load_block(dtype, code, &block, to + begin, left);
        }
    }
}

/* ---- scales ---- */

ALWAYS_INLINE __m512i
bits_at(const float *from, int64_t i, int64_t count)
{
    return count == PFO_SCALE_BLOCK ? _mm512_loadu_si512(from + i)
                                    : _mm512_maskz_loadu_epi32(first_lanes(count - i), from + i);
}

/* The width of a signed block by the reference's three counts, in one lane. */
static uint32_t
count_block8(const float *from, int64_t count, uint32_t largest_bits)
{
    const __m512i limit = _mm512_set1_epi32((int)largest_bits);
    __m512i nonzero = _mm512_setzero_si512(), small = nonzero, tiny = nonzero;
    for (int64_t i = 0; i < count; i += LANES) {
        const __m512i bits = magnitude_of(bits_at(from, i, count));
        const __mmask16 counted = _mm512_test_epi32_mask(bits, bits);
        const __m512i above_small = _mm512_add_epi32(bits, _mm512_set1_epi32(PFO_BLOCK8_SMALL));
        const __m512i above_tiny = _mm512_add_epi32(bits, _mm512_set1_epi32(PFO_BLOCK8_TINY));
        const __mmask16 is_small = _mm512_mask_cmplt_epu32_mask(counted, above_small, limit);
        const __mmask16 is_tiny = _mm512_mask_cmplt_epu32_mask(counted, above_tiny, limit);
        nonzero = _mm512_mask_add_epi32(nonzero, counted, nonzero, _mm512_set1_epi32(1));
        small = _mm512_mask_add_epi32(small, is_small, small, _mm512_set1_epi32(1 << 10));
        tiny = _mm512_mask_add_epi32(tiny, is_tiny, tiny, _mm512_set1_epi32(1 << 20));
    }
    const uint32_t counts = (uint32_t)_mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_add_epi32(nonzero, small), tiny));
    return pfo_block8_width(counts & 0x3ffu, counts >> 10 & 0x3ffu, counts >> 20);
}

/* Small elements and zeros together are a bound of the small ones: where even they are few, the other counts are not
 * needed. Integers, so that no order matters. */
ALWAYS_INLINE float
judge_block8(const float *from, int64_t count)
{
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += LANES) {
        most = _mm512_max_epu32(most, magnitude_of(bits_at(from, i, count)));
    }
    const uint32_t largest = _mm512_reduce_max_epu32(most);
    const uint32_t limit = largest > PFO_BLOCK8_SMALL ? largest - PFO_BLOCK8_SMALL : 0;
    __m512i below = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += LANES) {
        const __m512i bits = magnitude_of(bits_at(from, i, count));
        const __mmask16 is_below = _mm512_cmplt_epu32_mask(bits, _mm512_set1_epi32((int)limit));
        below = _mm512_mask_add_epi32(below, is_below, below, _mm512_set1_epi32(1));
    }
    const uint32_t few = (uint32_t)_mm512_reduce_add_epi32(below); /* a short block is padded with zeros */
    const uint32_t width = few * 16 <= count ? pfo_block8_width(1, 0, 0) : count_block8(from, count, largest);
    return pfo_block_scale(PFO_BLOCK8_MAX_CODE, width, largest);
}

/* *all_positive: every element is. Blocks with a zero, a sign or what is not finite are rare, as are short ones, which are
 * padded with zeros; these are looked at once more. */
ALWAYS_INLINE float
judge_ublock8(const float *from, int64_t count, int *all_positive)
{
    __m512i most = _mm512_setzero_si512(), least = _mm512_set1_epi32(-1);
    for (int64_t i = 0; i < count; i += LANES) {
        const __m512i x = bits_at(from, i, count);
        most = _mm512_max_epu32(most, x);
        least = _mm512_min_epu32(least, x);
    }
    uint32_t largest = _mm512_reduce_max_epu32(most), smallest = _mm512_reduce_min_epu32(least);
    *all_positive = smallest > 0 && largest < PFO_FLOAT_INFINITY;
    if (!*all_positive) {
        __m512i below = _mm512_set1_epi32(-1);
        most = _mm512_setzero_si512();
        for (int64_t i = 0; i < count; i += LANES) {
            const __m512i x = bits_at(from, i, count);
            most = _mm512_max_epu32(most, magnitude_of(x));
            below = _mm512_min_epu32(below, _mm512_sub_epi32(x, _mm512_set1_epi32(1))); /* zero becomes the largest */
        }
        largest = _mm512_reduce_max_epu32(most);
        smallest = _mm512_reduce_min_epu32(below);
        smallest += smallest != UINT32_MAX;
    }
    return pfo_block_scale(PFO_UBLOCK8_MAX_CODE, pfo_ublock8_width(largest, smallest), largest);
}

/* ---- writing ---- */

/* Four vectors of 32-bit lanes as one of bytes, packed with saturation, in the order of the packs; in_order() mends it. */
ALWAYS_INLINE __m512i
packed(pfo_dtype dtype, __m512i low, __m512i high)
{
    return dtype == PFO_DTYPE_BLOCK8 ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
}

ALWAYS_INLINE __m512i
in_order(__m512i bytes)
{
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_epi32(order, bytes);
}

/* For each of a pair of vectors, plain and exchanged: which bytes of a word are an element's 16 random bits. */
ALWAYS_INLINE __m512i
random_bytes(int second, int exchanged)
{
    const uint32_t at = second ? 0x0302u : 0x0100u;
    const uint32_t order = 0x80800000u | (exchanged ? (at & 0xffu) << 8 | at >> 8 : at);
    const uint64_t two = ((uint64_t)(order + 0x0404u) << 32) | order;
    return _mm512_broadcast_i32x4(_mm_set_epi64x((int64_t)(two + 0x0000080800000808u), (int64_t)two));
}

/* How a batch is rounded. */
typedef struct batch_rounding {
    __m512i bytes[2]; /* of the first and the second vector of a pair */
} batch_rounding;

/* pfo_block8_encode and pfo_ublock8_encode of 64 elements. words: their 32 random words. all_positive: UBLOCK8 only. */
ALWAYS_INLINE __m512i
encode_group(pfo_dtype dtype, const float *from, const block_words *block, int all_positive, int stochastic,
             const batch_rounding *how, const uint32_t *words)
{
    __m512i value[4], code[4];
    for (int k = 0; k < 4; k++) {
        value[k] = _mm512_loadu_si512(from + k * LANES);
        const __m512i magnitude = all_positive ? value[k] : magnitude_of(value[k]);
        const __m512 y = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), block->factor);
        const __m512i bits = _mm512_castps_si512(_mm512_add_ps(y, _mm512_castsi512_ps(block->offset)));
        __m512i addend;
        if (stochastic) { /* a code drops 17 bits or more */
            const __m512i word = _mm512_loadu_si512(words + k / 2 * LANES);
            addend = _mm512_sllv_epi32(_mm512_shuffle_epi8(word, how->bytes[k % 2]), block->random_shift);
        } else {
            const __m512i odd = _mm512_and_si512(_mm512_srlv_epi32(bits, block->dropped), _mm512_set1_epi32(1));
            addend = _mm512_add_epi32(odd, block->half);
        }
        code[k] = _mm512_srlv_epi32(_mm512_add_epi32(bits, addend), block->dropped); /* below 2^15 */
    }
    const __m512i low = _mm512_sub_epi16(_mm512_packs_epi32(code[0], code[1]), block->first_code);
    const __m512i high = _mm512_sub_epi16(_mm512_packs_epi32(code[2], code[3]), block->first_code);
    const __m512i magnitudes = packed(dtype, low, high);
    if (all_positive) {
        return in_order(_mm512_max_epu8(magnitudes, _mm512_set1_epi8(1)));
    }
    const __m512i signs = _mm512_packs_epi16(_mm512_packs_epi32(value[0], value[1]), /* as bytes: below, above or 0 */
                                             _mm512_packs_epi32(value[2], value[3]));
    if (dtype == PFO_DTYPE_BLOCK8) {
        return in_order(_mm512_or_si512(magnitudes, _mm512_and_si512(signs, _mm512_set1_epi8((char)0x80))));
    }
    const __mmask64 positive = _mm512_cmpgt_epi8_mask(signs, _mm512_setzero_si512());
    return in_order(_mm512_maskz_max_epu8(positive, magnitudes, _mm512_set1_epi8(1)));
}

ALWAYS_INLINE void
store_block(pfo_dtype dtype, const float *from, uint8_t *to, int64_t count, const block_words *block, int all_positive,
            int stochastic, const batch_rounding *how, const uint32_t *words)
{
    int64_t i = 0;
    for (; i + GROUP <= count; i += GROUP) {
        _mm512_storeu_si512(to + i, encode_group(dtype, from + i, block, all_positive, stochastic, how, words + i / 2));
    }
    if (i < count) {
        float rest[GROUP] = { 0.0f };
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *from);
        const __m512i code = encode_group(dtype, rest, block, all_positive, stochastic, how, words + i / 2);
        _mm512_mask_storeu_epi8(to + i, ((__mmask64)1 << (count - i)) - 1, code);
    }
}

/* ---- what convert.h's table holds ---- */

void
pfo_draw_avx512(const pfo_rounding *rounding, int64_t count, uint32_t *words)
{
    for (int64_t i = 0; i < count; i += PFO_PHILOX_ELEMENTS) {
        __m512i drawn[4];
        fill_words(rounding, rounding->first + (uint64_t)i, drawn);
        for (int k = 0; k < 4; k++) {
            _mm512_storeu_si512(words + i / 2 + k * LANES, drawn[k]);
        }
    }
}

#define BLOCKS_NAME(stem) stem##_avx512
#include "kernels/blocks_body.h"

#endif
