/* blocks_avx2.c: 8-bit blocks, eight elements at a time. Entered only after cpu.h said yes; built with its own flags
 * (csrc/flags.mk).
 *
 * Same bits as the reference (convert_scalar.c over quantize_math.h and philox_math.h). A code needs the scale of its
 * block, and that a chain of reductions and divisions; so a batch of blocks is judged first and coded then, and the
 * chains of a batch overlap. Codes are narrowed by packing with saturation, which is the clamp to the largest code.
 */
#include "kernels/blocks.h"

#if defined(__AVX2__)
#include "kernels/philox_avx2.h"
#include "kernels/quantize_math.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { LANES = 8, GROUP = 4 * LANES, BATCH = 4 * PFO_SCALE_BLOCK }; /* a group of codes is a vector */
_Static_assert(BATCH % PFO_PHILOX_ELEMENTS == 0, "words of a batch");

ALWAYS_INLINE __m256i
magnitude_of(__m256i bits)
{
    return _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
}

/* All ones in the first count lanes; 8 and more are all. */
ALWAYS_INLINE __m256i
first_lanes(int64_t count)
{
    const int some = count < LANES ? (int)count : LANES;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(some), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

/* A block's code and scale in registers. */
typedef struct block_words {
    __m256 factor; /* the inverse scale when storing, the scale when loading */
    __m256i offset, first_code, half, dropped, random_shift;
} block_words;

ALWAYS_INLINE block_words
block_words_of(pfo_dtype dtype, float scale, float factor)
{
    const uint32_t max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const pfo_block_code code = pfo_block_code_of(max_code, pfo_block_width(scale));
    const block_words words = { .factor = _mm256_set1_ps(factor),
                                .offset = _mm256_set1_epi32((int)code.offset_bits),
                                .first_code = _mm256_set1_epi16((short)(code.offset_bits >> code.dropped)),
                                .half = _mm256_set1_epi32((1 << code.dropped >> 1) - 1),
                                .dropped = _mm256_set1_epi32((int)code.dropped),
                                .random_shift = _mm256_set1_epi32((int)code.dropped - 16) };
    return words;
}

/* ---- reading ---- */

ALWAYS_INLINE __m256
decode(pfo_dtype dtype, __m256i code, const block_words *block)
{
    const int max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi32(max_code));
    const __m256i shifted = _mm256_add_epi32(block->offset, _mm256_sllv_epi32(magnitude, block->dropped));
    const __m256 y = _mm256_sub_ps(_mm256_castsi256_ps(shifted), _mm256_castsi256_ps(block->offset));
    const __m256 value = _mm256_mul_ps(y, block->factor);
    if (dtype == PFO_DTYPE_UBLOCK8) {
        return value;
    }
    const __m256i sign = _mm256_slli_epi32(_mm256_andnot_si256(_mm256_set1_epi32(0x7f), code), 24);
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_castps_si256(value), sign));
}

ALWAYS_INLINE void
load_block(pfo_dtype dtype, const uint8_t *from, const block_words *block, float *to, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(from + i)));
        _mm256_storeu_ps(to + i, decode(dtype, code, block));
    }
    if (i < count) {
        uint8_t rest[LANES] = { 0 };
        memcpy(rest, from + i, (size_t)(count - i));
        const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)rest));
        _mm256_maskstore_ps(to + i, first_lanes(count - i), decode(dtype, code, block));
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

/* Eight elements of a block from the i-th on, zeros behind the end. */
ALWAYS_INLINE __m256i
bits_at(const float *from, int64_t i, int64_t count)
{
    return count == PFO_SCALE_BLOCK ? _mm256_loadu_si256((const void *)(from + i))
                                    : _mm256_maskload_epi32((const void *)(from + i), first_lanes(count - i));
}

ALWAYS_INLINE uint32_t
largest_lane(__m256i wide)
{
    __m128i x = _mm_max_epu32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    x = _mm_max_epu32(x, _mm_shuffle_epi32(x, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(x, _mm_shuffle_epi32(x, 0xb1)));
}

ALWAYS_INLINE uint32_t
smallest_lane(__m256i wide)
{
    return ~largest_lane(_mm256_xor_si256(wide, _mm256_set1_epi32(-1)));
}

ALWAYS_INLINE uint32_t
sum_of_lanes(__m256i wide)
{
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

/* The width of a signed block by the reference's three counts, ten bits each of one lane. Magnitudes are positive as
 * signed numbers; so are the limits, but where nothing is small or tiny. */
static uint32_t
count_block8(const float *from, int64_t count, uint32_t largest_bits)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i below_small = _mm256_set1_epi32((int)(largest_bits - PFO_BLOCK8_SMALL));
    const __m256i below_tiny = _mm256_set1_epi32((int)(largest_bits - PFO_BLOCK8_TINY));
    __m256i nonzero = zero, small = zero, tiny = zero; /* minus the counts */
    for (int64_t i = 0; i < count; i += LANES) {
        const __m256i bits = magnitude_of(bits_at(from, i, count));
        const __m256i counted = _mm256_cmpgt_epi32(bits, zero);
        nonzero = _mm256_add_epi32(nonzero, counted);
        small = _mm256_add_epi32(small, _mm256_and_si256(counted, _mm256_cmpgt_epi32(below_small, bits)));
        tiny = _mm256_add_epi32(tiny, _mm256_and_si256(counted, _mm256_cmpgt_epi32(below_tiny, bits)));
    }
    const __m256i joined =
        _mm256_add_epi32(nonzero, _mm256_add_epi32(_mm256_slli_epi32(small, 10), _mm256_slli_epi32(tiny, 20)));
    const uint32_t counts = 0u - sum_of_lanes(joined);
    return pfo_block8_width(counts & 0x3ffu, counts >> 10 & 0x3ffu, counts >> 20);
}

/* Small elements and zeros together are a bound of the small ones: where even they are few, the other counts are not
 * needed. Integers, so that no order matters. */
ALWAYS_INLINE float
judge_block8(const float *from, int64_t count)
{
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < count; i += LANES) {
        most = _mm256_max_epu32(most, magnitude_of(bits_at(from, i, count)));
    }
    const uint32_t largest = largest_lane(most);
    const uint32_t limit = largest > PFO_BLOCK8_SMALL ? largest - PFO_BLOCK8_SMALL : 0;
    __m256i below = _mm256_setzero_si256(); /* minus the count */
    for (int64_t i = 0; i < count; i += LANES) {
        const __m256i bits = magnitude_of(bits_at(from, i, count));
        below = _mm256_add_epi32(below, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)limit), bits));
    }
    const uint32_t few = 0u - sum_of_lanes(below); /* a short block is padded with zeros */
    const uint32_t width = few * 16 <= count ? pfo_block8_width(1, 0, 0) : count_block8(from, count, largest);
    return pfo_block_scale(PFO_BLOCK8_MAX_CODE, width, largest);
}

/* *all_positive: every element is. Blocks with a zero, a sign or what is not finite are rare, as are short ones, which are
 * padded with zeros; these are looked at once more. */
ALWAYS_INLINE float
judge_ublock8(const float *from, int64_t count, int *all_positive)
{
    const __m256i ones = _mm256_set1_epi32(-1);
    __m256i most = _mm256_setzero_si256(), least = ones;
    for (int64_t i = 0; i < count; i += LANES) {
        const __m256i x = bits_at(from, i, count);
        most = _mm256_max_epu32(most, x);
        least = _mm256_min_epu32(least, x);
    }
    uint32_t largest = largest_lane(most), smallest = smallest_lane(least);
    *all_positive = smallest > 0 && largest < PFO_FLOAT_INFINITY;
    if (!*all_positive) {
        __m256i below = ones;
        most = _mm256_setzero_si256();
        for (int64_t i = 0; i < count; i += LANES) {
            const __m256i x = bits_at(from, i, count);
            most = _mm256_max_epu32(most, magnitude_of(x));
            below = _mm256_min_epu32(below, _mm256_add_epi32(x, ones)); /* zero becomes the largest */
        }
        largest = largest_lane(most);
        smallest = smallest_lane(below);
        smallest += smallest != UINT32_MAX;
    }
    return pfo_block_scale(PFO_UBLOCK8_MAX_CODE, pfo_ublock8_width(largest, smallest), largest);
}

/* ---- writing ---- */

/* Packs work on halves of a register; this puts the bytes of four vectors in order. */
ALWAYS_INLINE __m256i
in_order(__m256i bytes)
{
    return _mm256_permutevar8x32_epi32(bytes, _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0));
}

/* Which bytes of a random word are an element's 16 bits, for the first sixteen elements of a group and the second. */
ALWAYS_INLINE __m256i
random_bytes(int second, int exchanged)
{
    const uint32_t at = second ? 0x0302u : 0x0100u;
    const uint32_t order = 0x80800000u | (exchanged ? (at & 0xffu) << 8 | at >> 8 : at);
    return _mm256_broadcastsi128_si256(
        _mm_set_epi32((int)(order + 0x0c0cu), (int)(order + 0x0808u), (int)(order + 0x0404u), (int)order));
}

/* How a batch is rounded. */
typedef struct batch_rounding {
    __m256i bytes[2]; /* as above */
} batch_rounding;

/* pfo_block8_encode and pfo_ublock8_encode of 32 elements. words: their 16 random words. all_positive: UBLOCK8 only. */
ALWAYS_INLINE __m256i
encode_group(pfo_dtype dtype, const float *from, const block_words *block, int all_positive, int stochastic,
             const batch_rounding *how, const uint32_t *words)
{
    __m256i value[4], code[4];
    for (int k = 0; k < 4; k++) {
        value[k] = _mm256_loadu_si256((const void *)(from + k * LANES));
        const __m256i magnitude = all_positive ? value[k] : magnitude_of(value[k]);
        const __m256 y = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), block->factor);
        const __m256i bits = _mm256_castps_si256(_mm256_add_ps(y, _mm256_castsi256_ps(block->offset)));
        __m256i addend;
        if (stochastic) { /* a code drops 17 bits or more */
            const __m256i word = _mm256_loadu_si256((const void *)(words + k % 2 * LANES));
            addend = _mm256_sllv_epi32(_mm256_shuffle_epi8(word, how->bytes[k / 2]), block->random_shift);
        } else {
            const __m256i odd = _mm256_and_si256(_mm256_srlv_epi32(bits, block->dropped), _mm256_set1_epi32(1));
            addend = _mm256_add_epi32(odd, block->half);
        }
        code[k] = _mm256_srlv_epi32(_mm256_add_epi32(bits, addend), block->dropped); /* below 2^15 */
    }
    const __m256i low = _mm256_sub_epi16(_mm256_packs_epi32(code[0], code[1]), block->first_code);
    const __m256i high = _mm256_sub_epi16(_mm256_packs_epi32(code[2], code[3]), block->first_code);
    const __m256i magnitudes =
        dtype == PFO_DTYPE_BLOCK8 ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high);
    if (all_positive) {
        return in_order(_mm256_max_epu8(magnitudes, _mm256_set1_epi8(1)));
    }
    const __m256i signs = _mm256_packs_epi16(_mm256_packs_epi32(value[0], value[1]), /* as bytes: below, above or 0 */
                                             _mm256_packs_epi32(value[2], value[3]));
    if (dtype == PFO_DTYPE_BLOCK8) {
        return in_order(_mm256_or_si256(magnitudes, _mm256_and_si256(signs, _mm256_set1_epi8((char)0x80))));
    }
    const __m256i positive = _mm256_cmpgt_epi8(signs, _mm256_setzero_si256());
    return in_order(_mm256_and_si256(positive, _mm256_max_epu8(magnitudes, _mm256_set1_epi8(1))));
}

ALWAYS_INLINE void
store_block(pfo_dtype dtype, const float *from, uint8_t *to, int64_t count, const block_words *block, int all_positive,
            int stochastic, const batch_rounding *how, const uint32_t *words)
{
    int64_t i = 0;
    for (; i + GROUP <= count; i += GROUP) {
        const __m256i code = encode_group(dtype, from + i, block, all_positive, stochastic, how, words + i / 2);
        _mm256_storeu_si256((void *)(to + i), code);
    }
    if (i < count) {
        float rest[GROUP] = { 0.0f };
        uint8_t codes[GROUP];
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *from);
        const __m256i code = encode_group(dtype, rest, block, all_positive, stochastic, how, words + i / 2);
        _mm256_storeu_si256((void *)codes, code);
        memcpy(to + i, codes, (size_t)(count - i));
    }
}

/* ---- what convert.h's table holds ---- */

void
pfo_draw_avx2(const pfo_rounding *rounding, int64_t count, uint32_t *words)
{
    for (int64_t i = 0; i < count; i += PFO_PHILOX_ELEMENTS) {
        random_words drawn;
        fill_words(rounding, rounding->first + (uint64_t)i, drawn);
        for (int k = 0; k < 8; k++) {
            _mm256_storeu_si256((void *)(words + i / 2 + k * LANES), drawn[k % 2][k / 2]);
        }
    }
}

#define BLOCKS_NAME(stem) stem##_avx2
#include "kernels/blocks_body.h"

#endif
