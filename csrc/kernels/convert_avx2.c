/* convert_avx2.c: eight elements at a time. Entered only after cpu.h said yes; built with its own flags
 * (csrc/flags.mk).
 *
 * Same bits as the reference. What is here are the random bits and the 8-bit blocks; the other dtypes are in
 * convert_elements.h. Whole vectors of a block go through the code below, what is left through the reference's element
 * functions. Each loop is written once over a dtype and compiled once a dtype: `dtype` and `stochastic` are constants
 * wherever they are tested.
 */
#include "kernels/convert.h"

#if defined(__AVX2__) && defined(__F16C__)
#include "kernels/philox_math.h"
#include "kernels/quantize_math.h"
#include "kernels/simd_codes_avx2.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { LANES = 8, GROUP = 4 * LANES };

/* ---- random bits ---- */

/* One round on four counters, a word in the lower half of each 64-bit lane; the upper halves hold what no operation
 * reads. */
ALWAYS_INLINE void
philox_round(__m256i c[4], __m256i key_0, __m256i key_1)
{
    const __m256i product_0 = _mm256_mul_epu32(c[0], _mm256_set1_epi64x(PFO_PHILOX_MULTIPLIER_0));
    const __m256i product_1 = _mm256_mul_epu32(c[2], _mm256_set1_epi64x(PFO_PHILOX_MULTIPLIER_1));
    const __m256i high_1 = _mm256_srli_epi64(product_1, 32);
    const __m256i high_0 = _mm256_srli_epi64(product_0, 32);
    c[0] = _mm256_xor_si256(_mm256_xor_si256(high_1, c[1]), key_0);
    c[1] = product_1;
    c[2] = _mm256_xor_si256(_mm256_xor_si256(high_0, c[3]), key_1);
    c[3] = product_0;
}

/* Eight counters from index `group` on (a multiple of 8): word k of all, in the order of the counters. */
ALWAYS_INLINE void
eight_counters(const pfo_rounding *rounding, uint64_t group, __m256i words[4])
{
    __m256i even[4], odd[4]; /* counters 0 2 4 6 and 1 3 5 7, so that their words interleave by a shift */
    even[0] = _mm256_add_epi64(_mm256_set1_epi64x((int64_t)(group & 0xffffffffu)), _mm256_set_epi64x(6, 4, 2, 0));
    odd[0] = _mm256_add_epi64(even[0], _mm256_set1_epi64x(1));
    even[1] = odd[1] = _mm256_set1_epi64x((int64_t)(group >> 32));
    even[2] = odd[2] = _mm256_set1_epi64x((int64_t)(rounding->stream & 0xffffffffu));
    even[3] = odd[3] = _mm256_set1_epi64x((int64_t)(rounding->stream >> 32));
    uint32_t key_0 = (uint32_t)rounding->seed, key_1 = (uint32_t)(rounding->seed >> 32);
    for (int round = 0; round < PFO_PHILOX_ROUNDS; round++) {
        const __m256i wide_0 = _mm256_set1_epi64x((int64_t)key_0), wide_1 = _mm256_set1_epi64x((int64_t)key_1);
        philox_round(even, wide_0, wide_1);
        philox_round(odd, wide_0, wide_1);
        key_0 += PFO_PHILOX_WEYL_0;
        key_1 += PFO_PHILOX_WEYL_1;
    }
    for (int k = 0; k < 4; k++) {
        words[k] = _mm256_blend_epi32(even[k], _mm256_slli_epi64(odd[k], 32), 0xaa);
    }
}

typedef __m256i random_words[2][4]; /* [half of the lanes][word] */

/* The words for the PFO_PHILOX_ELEMENTS elements from index on, a multiple of that. */
ALWAYS_INLINE void
fill_words(const pfo_rounding *rounding, uint64_t index, random_words words)
{
    const uint64_t group = index / PFO_PHILOX_ELEMENTS * PFO_PHILOX_LANES;
    eight_counters(rounding, group, words[0]);
    eight_counters(rounding, group + LANES, words[1]);
}

/* The 16 bits of each lane for the vector-th eight of the elements that words serve. */
ALWAYS_INLINE __m256i
random_of(const __m256i words[2][4], int vector)
{
    const __m256i pair = words[vector % 2][vector / 4];
    return vector / 2 % 2 ? _mm256_srli_epi32(pair, 16) : _mm256_and_si256(pair, _mm256_set1_epi32(0xffff));
}

#include "kernels/convert_elements.h"

/* ---- eight codes of a block ---- */

ALWAYS_INLINE __m256i
magnitude_of(__m256i bits)
{
    return _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
}

/* A block's code and scale in registers. */
typedef struct block_words {
    __m256 factor; /* the inverse scale when storing, the scale when loading */
    __m256i offset, first_code, half;
    __m128i dropped, random_shift;
} block_words;

ALWAYS_INLINE block_words
block_words_of(pfo_dtype dtype, float scale, float factor)
{
    const uint32_t max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const pfo_block_code code = pfo_block_code_of(max_code, pfo_block_width(scale));
    const block_words words = { .factor = _mm256_set1_ps(factor),
                                .offset = _mm256_set1_epi32((int)code.offset_bits),
                                .first_code = _mm256_set1_epi32((int)(code.offset_bits >> code.dropped)),
                                .half = _mm256_set1_epi32((1 << code.dropped >> 1) - 1),
                                .dropped = _mm_cvtsi32_si128((int)code.dropped),
                                .random_shift = _mm_cvtsi32_si128((int)code.dropped - 16) };
    return words;
}

/* pfo_block8_encode and pfo_ublock8_encode */
ALWAYS_INLINE __m256i
encode_block(pfo_dtype dtype, __m256i value, const block_words *block, int stochastic, __m256i random)
{
    const int max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const __m256 y = _mm256_mul_ps(_mm256_castsi256_ps(magnitude_of(value)), block->factor);
    const __m256i bits = _mm256_castps_si256(_mm256_add_ps(y, _mm256_castsi256_ps(block->offset)));
    __m256i addend;
    if (stochastic) { /* a code drops 17 bits or more */
        addend = _mm256_sll_epi32(random, block->random_shift);
    } else {
        const __m256i odd = _mm256_and_si256(_mm256_srl_epi32(bits, block->dropped), _mm256_set1_epi32(1));
        addend = _mm256_add_epi32(odd, block->half);
    }
    const __m256i rounded = _mm256_srl_epi32(_mm256_add_epi32(bits, addend), block->dropped);
    const __m256i above = _mm256_sub_epi32(rounded, block->first_code);
    const __m256i code = _mm256_min_epu32(above, _mm256_set1_epi32(max_code));
    if (dtype == PFO_DTYPE_BLOCK8) {
        return _mm256_or_si256(code, _mm256_slli_epi32(_mm256_srli_epi32(value, 31), 7));
    }
    const __m256i positive = _mm256_cmpgt_epi32(value, _mm256_setzero_si256());
    return _mm256_and_si256(positive, _mm256_max_epu32(code, _mm256_set1_epi32(1)));
}

/* pfo_block8_decode and pfo_ublock8_decode */
ALWAYS_INLINE __m256
decode_block(pfo_dtype dtype, __m256i code, const block_words *block)
{
    const int max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi32(max_code));
    const __m256i shifted = _mm256_add_epi32(block->offset, _mm256_sll_epi32(magnitude, block->dropped));
    const __m256 y = _mm256_sub_ps(_mm256_castsi256_ps(shifted), _mm256_castsi256_ps(block->offset));
    const __m256 value = _mm256_mul_ps(y, block->factor);
    if (dtype == PFO_DTYPE_UBLOCK8) {
        return value;
    }
    const __m256i sign = _mm256_slli_epi32(_mm256_andnot_si256(_mm256_set1_epi32(0x7f), code), 24);
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_castps_si256(value), sign));
}

/* ---- whole blocks ---- */

/* As many whole vectors as there are; gives their number of elements. */
ALWAYS_INLINE int64_t
load_vectors(pfo_dtype dtype, const uint8_t *from, const block_words *block, float *to, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        _mm256_storeu_ps(to + i, decode_block(dtype, vu_load_bytes(from + i), block));
    }
    return i;
}

/* As many whole groups as there are; gives their number of elements. With stochastic == 1 rounding->first is a
 * multiple of PFO_PHILOX_ELEMENTS. */
ALWAYS_INLINE int64_t
store_groups(pfo_dtype dtype, const float *from, uint8_t *to, const block_words *block, int64_t count,
             const pfo_rounding *rounding, int stochastic)
{
    random_words words = { { _mm256_setzero_si256() } };
    int64_t i = 0;
    for (; i + GROUP <= count; i += GROUP) {
        const int first_vector = (int)(i % PFO_PHILOX_ELEMENTS / LANES);
        if (stochastic && first_vector == 0) {
            fill_words(rounding, rounding->first + (uint64_t)i, words);
        }
        __m256i code[4];
        for (int k = 0; k < 4; k++) {
            const __m256i random = stochastic ? random_of(words, first_vector + k) : words[0][0];
            const __m256i bits = _mm256_loadu_si256((const void *)(from + i + k * LANES));
            code[k] = encode_block(dtype, bits, block, stochastic, random);
        }
        vu_store_bytes(to + i, code, 0);
    }
    return i;
}

/* Lane by lane into one number. */
static uint32_t
largest_lane(__m256i wide)
{
    uint32_t lane[LANES], largest = 0;
    _mm256_storeu_si256((void *)lane, wide);
    for (int k = 0; k < LANES; k++) {
        largest = lane[k] > largest ? lane[k] : largest;
    }
    return largest;
}

static uint32_t
sum_of_lanes(__m256i wide)
{
    uint32_t lane[LANES], sum = 0;
    _mm256_storeu_si256((void *)lane, wide);
    for (int k = 0; k < LANES; k++) {
        sum += lane[k];
    }
    return sum;
}

/* Eight elements from the i-th on, zeros behind the end. */
ALWAYS_INLINE __m256i
bits_at(const float *from, int64_t i, int64_t count)
{
    const int64_t left = count - i;
    if (left >= LANES) {
        return _mm256_loadu_si256((const void *)(from + i));
    }
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_maskload_epi32((const void *)(from + i), _mm256_cmpgt_epi32(_mm256_set1_epi32((int)left), lane));
}

/* What the reference finds of a block in three loops; integers, so that no order matters. Magnitudes are positive as
 * signed numbers, and so are those moved up by a few exponents, but for numbers so large that they are neither small
 * nor tiny. */
static uint32_t
judge_block8(const float *from, int64_t count, uint32_t *largest_bits)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i largest = zero;
    for (int64_t i = 0; i < count; i += LANES) {
        largest = _mm256_max_epu32(largest, magnitude_of(bits_at(from, i, count)));
    }
    *largest_bits = largest_lane(largest);
    const __m256i below_small = _mm256_set1_epi32((int)(*largest_bits - PFO_BLOCK8_SMALL));
    const __m256i below_tiny = _mm256_set1_epi32((int)(*largest_bits - PFO_BLOCK8_TINY));
    __m256i nonzero = zero, small = zero, tiny = zero; /* minus the counts */
    for (int64_t i = 0; i < count; i += LANES) {
        const __m256i bits = magnitude_of(bits_at(from, i, count));
        const __m256i counted = _mm256_cmpgt_epi32(bits, zero);
        nonzero = _mm256_add_epi32(nonzero, counted);
        small = _mm256_add_epi32(small, _mm256_and_si256(counted, _mm256_cmpgt_epi32(below_small, bits)));
        tiny = _mm256_add_epi32(tiny, _mm256_and_si256(counted, _mm256_cmpgt_epi32(below_tiny, bits)));
    }
    return pfo_block8_width(-sum_of_lanes(nonzero), -sum_of_lanes(small), -sum_of_lanes(tiny));
}

static uint32_t
judge_ublock8(const float *from, int64_t count, uint32_t *largest_bits)
{
    __m256i largest = _mm256_setzero_si256(), largest_complement = _mm256_setzero_si256();
    for (int64_t i = 0; i < count; i += LANES) {
        const __m256i x = bits_at(from, i, count);
        largest = _mm256_max_epu32(largest, magnitude_of(x));
        const __m256i complement = _mm256_sub_epi32(_mm256_setzero_si256(), x); /* the smaller, the larger; 0 stays 0 */
        largest_complement = _mm256_max_epu32(largest_complement, complement);
    }
    *largest_bits = largest_lane(largest);
    const uint32_t complement = largest_lane(largest_complement);
    return pfo_ublock8_width(*largest_bits, complement == 0 ? UINT32_MAX : -complement);
}

/* What follows the last whole group of a block. */
ALWAYS_INLINE void
store_block_rest(pfo_dtype dtype, const float *from, uint8_t *to, float scale, int64_t begin, int64_t count,
                 const pfo_rounding *rounding)
{
    const uint32_t max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    const pfo_block_code code = pfo_block_code_of(max_code, pfo_block_width(scale));
    const float inverse = pfo_block_inverse(scale);
    for (int64_t i = begin; i < count; i++) {
        const uint32_t random =
            rounding->stochastic ? pfo_random16(rounding->seed, rounding->stream, rounding->first + (uint64_t)i) : 0;
        to[i] = dtype == PFO_DTYPE_BLOCK8 ? pfo_block8_encode(code, from[i], inverse, rounding->stochastic, random)
                                          : pfo_ublock8_encode(code, from[i], inverse, rounding->stochastic, random);
    }
}

ALWAYS_INLINE void
store_blocks(pfo_dtype dtype, const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding)
{
    if (rounding->stochastic && rounding->first % PFO_PHILOX_ELEMENTS != 0) { /* no step asks for this */
        pfo_converters_scalar()->store[dtype](from, to, scales, count, rounding, 0);
        return;
    }
    const uint32_t max_code = dtype == PFO_DTYPE_BLOCK8 ? PFO_BLOCK8_MAX_CODE : PFO_UBLOCK8_MAX_CODE;
    pfo_rounding moved = *rounding;
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t size = count - begin < PFO_SCALE_BLOCK ? count - begin : PFO_SCALE_BLOCK;
        uint8_t *code = (uint8_t *)to + begin;
        uint32_t largest;
        const uint32_t width = dtype == PFO_DTYPE_BLOCK8 ? judge_block8(from + begin, size, &largest)
                                                         : judge_ublock8(from + begin, size, &largest);
        const float scale = pfo_block_scale(max_code, width, largest);
        moved.first = rounding->first + (uint64_t)begin;
        scales[begin / PFO_SCALE_BLOCK] = scale;
        if (!(scale > 0.0f)) { /* zero or NaN */
            memset(code, 0, (size_t)size);
            continue;
        }
        const block_words block = block_words_of(dtype, scale, pfo_block_inverse(scale));
        const int64_t done = rounding->stochastic ? store_groups(dtype, from + begin, code, &block, size, &moved, 1)
                                                  : store_groups(dtype, from + begin, code, &block, size, &moved, 0);
        store_block_rest(dtype, from + begin, code, scale, done, size, &moved);
    }
}

ALWAYS_INLINE void
load_blocks(pfo_dtype dtype, const void *from, const float *scales, float *to, int64_t count)
{
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t size = count - begin < PFO_SCALE_BLOCK ? count - begin : PFO_SCALE_BLOCK;
        const uint8_t *code = (const uint8_t *)from + begin;
        const float *scale = scales + begin / PFO_SCALE_BLOCK;
        const block_words block = block_words_of(dtype, *scale, *scale);
        const int64_t done = load_vectors(dtype, code, &block, to + begin, size);
        pfo_converters_scalar()->load[dtype](code + done, scale, to + begin + done, size - done);
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
pfo_converters_avx2(void)
{
#define LOAD_ENTRY(suffix, id) [PFO_DTYPE_##id] = load_##suffix,
#define STORE_ENTRY(suffix, id) [PFO_DTYPE_##id] = store_##suffix,
    static const pfo_convert_table table = {
        .level = PFO_CPU_AVX2,
        .load = { PFO_ELEMENT_LOADS, BLOCK_DTYPES(LOAD_ENTRY) },
        .store = { PFO_ELEMENT_STORES, BLOCK_DTYPES(STORE_ENTRY) },
    };
    return &table;
}

#else

const pfo_convert_table *
pfo_converters_avx2(void)
{
    return NULL;
}

#endif
