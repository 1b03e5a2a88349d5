/* simd_codes_avx512.h: the words in which convert_elements.h is written, beside those of simd_avx512.h, for AVX-512 (F, BW, VL and
 * DQ): sixteen lanes.
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
#ifndef PFO_KERNELS_SIMD_CODES_AVX512_H
#define PFO_KERNELS_SIMD_CODES_AVX512_H

#include "kernels/simd_avx512.h"

typedef __m512i vu;

static inline vu
vu_set(uint32_t value)
{
    return _mm512_set1_epi32((int)value);
}

static inline vu
vu_bits(vf value)
{
    return _mm512_castps_si512(value);
}

static inline vf
vf_from_bits(vu bits)
{
    return _mm512_castsi512_ps(bits);
}

static inline vu
vu_and(vu a, vu b)
{
    return _mm512_and_si512(a, b);
}

static inline vu
vu_or(vu a, vu b)
{
    return _mm512_or_si512(a, b);
}

static inline vu
vu_add(vu a, vu b)
{
    return _mm512_add_epi32(a, b);
}

static inline vu
vu_sub(vu a, vu b)
{
    return _mm512_sub_epi32(a, b);
}

static inline vu
vu_min(vu a, vu b)
{
    return _mm512_min_epu32(a, b);
}

static inline vu
vu_max(vu a, vu b)
{
    return _mm512_max_epu32(a, b);
}

static inline vu
vu_shl(vu a, unsigned n)
{
    return _mm512_slli_epi32(a, n);
}

static inline vu
vu_shr(vu a, unsigned n)
{
    return _mm512_srli_epi32(a, n);
}

static inline vu
vu_if_greater(vu a, vu b, vu yes, vu no)
{
    return _mm512_mask_mov_epi32(no, _mm512_cmpgt_epu32_mask(a, b), yes);
}

static inline vu
vu_truncate(vf value)
{
    return _mm512_cvttps_epi32(value);
}

static inline vu
vu_to_half(vf value)
{
    return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline vf
vf_from_half(vu code)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(code));
}

static inline vu
vu_load_bytes(const uint8_t *from)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from));
}

static inline vu
vu_load_halves(const uint8_t *from)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from));
}

static inline void
vu_store_line(uint8_t *to, __m512i line, int past)
{
    if (past) {
        _mm512_stream_si512((void *)to, line);
    } else {
        _mm512_storeu_si512(to, line);
    }
}

/* The packs work on quarters of a register; the permutations put these in order. */
static inline void
vu_store_bytes(uint8_t *to, const vu code[4], int past)
{
    const __m512i low = _mm512_packus_epi32(code[0], code[1]), high = _mm512_packus_epi32(code[2], code[3]);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    vu_store_line(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)), past);
}

static inline void
vu_store_halves(uint8_t *to, const vu code[4], int past)
{
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (int k = 0; k < 2; k++) {
        const __m512i pair = _mm512_packus_epi32(code[2 * k], code[2 * k + 1]);
        vu_store_line(to + k * (int)sizeof pair, _mm512_permutexvar_epi64(order, pair), past);
    }
}

static inline void
vf_store_past(float *to, vf value)
{
    _mm512_stream_ps(to, value);
}

#endif
