/* simd_codes_avx2.h: the words in which convert_elements.h is written, beside those of simd_avx2.h, for AVX2 and F16C: eight lanes.
 *
 * The vocabulary, the same for every instruction set (simd_codes_*.h):
 *   vu              a vector of VF_LANES uint32: float32 bits, or codes
 *   vu_set(x)       x in every lane
 *   vu_bits(v), vf_from_bits(v)     the same bits as the other type
 *   vu_and, vu_or, vu_add, vu_sub, vu_min, vu_max      one operation a lane, modulo 2^32
 *   vu_shl(v, n), vu_shr(v, n)      by a constant, zeros come in
 *   vu_if_greater(a, b, yes, no)    a > b ? yes : no; a and b below 2^31
 *   vu_truncate(v)                  towards zero; 0 <= v < 2^31
 *   vu_to_half(v), vf_from_half(v)  float16 codes, to nearest even and back: the processor's own conversion
 *   vu_load_bytes(p), vu_load_halves(p)     VF_LANES codes of 1 or 2 bytes each
 *   vu_store_bytes(p, v, past), vu_store_halves(p, v, past)     four vectors of codes, below 2^8 or 2^16, side by side. past == 1: by
 *                   stores that leave the cache alone, where there are such; p is aligned to 64
 *   vf_store_past(p, v)             a whole vector, likewise
 */
#ifndef PFO_KERNELS_SIMD_CODES_AVX2_H
#define PFO_KERNELS_SIMD_CODES_AVX2_H

#include "kernels/simd_avx2.h"

typedef __m256i vu;

static inline vu
vu_set(uint32_t value)
{
    return _mm256_set1_epi32((int)value);
}

static inline vu
vu_bits(vf value)
{
    return _mm256_castps_si256(value);
}

static inline vf
vf_from_bits(vu bits)
{
    return _mm256_castsi256_ps(bits);
}

static inline vu
vu_and(vu a, vu b)
{
    return _mm256_and_si256(a, b);
}

static inline vu
vu_or(vu a, vu b)
{
    return _mm256_or_si256(a, b);
}

static inline vu
vu_add(vu a, vu b)
{
    return _mm256_add_epi32(a, b);
}

static inline vu
vu_sub(vu a, vu b)
{
    return _mm256_sub_epi32(a, b);
}

static inline vu
vu_min(vu a, vu b)
{
    return _mm256_min_epu32(a, b);
}

static inline vu
vu_max(vu a, vu b)
{
    return _mm256_max_epu32(a, b);
}

static inline vu
vu_shl(vu a, unsigned n)
{
    return _mm256_slli_epi32(a, (int)n);
}

static inline vu
vu_shr(vu a, unsigned n)
{
    return _mm256_srli_epi32(a, (int)n);
}

static inline vu
vu_if_greater(vu a, vu b, vu yes, vu no)
{
    return _mm256_blendv_epi8(no, yes, _mm256_cmpgt_epi32(a, b));
}

static inline vu
vu_truncate(vf value)
{
    return _mm256_cvttps_epi32(value);
}

static inline vu
vu_to_half(vf value)
{
    return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

static inline vf
vf_from_half(vu code)
{
    const __m256i pairs = _mm256_packus_epi32(code, code);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08)));
}

static inline vu
vu_load_bytes(const uint8_t *from)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)from));
}

static inline vu
vu_load_halves(const uint8_t *from)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)from));
}

static inline void
vu_store_vector(uint8_t *to, __m256i vector, int past)
{
    if (past) {
        _mm256_stream_si256((void *)to, vector);
    } else {
        _mm256_storeu_si256((void *)to, vector);
    }
}

/* The packs work on halves of a register; the permutations put these in order. */
static inline void
vu_store_bytes(uint8_t *to, const vu code[4], int past)
{
    const __m256i low = _mm256_packus_epi32(code[0], code[1]), high = _mm256_packus_epi32(code[2], code[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    vu_store_vector(to, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order), past);
}

static inline void
vu_store_halves(uint8_t *to, const vu code[4], int past)
{
    for (int k = 0; k < 2; k++) {
        const __m256i pair = _mm256_packus_epi32(code[2 * k], code[2 * k + 1]);
        vu_store_vector(to + k * (int)sizeof pair, _mm256_permute4x64_epi64(pair, 0xd8), past);
    }
}

static inline void
vf_store_past(float *to, vf value)
{
    _mm256_stream_ps(to, value);
}

#endif
