/* convert_avx512.c: sixteen elements at a time. Entered only after cpu.h said yes; built with its own flags
 * (csrc/flags.mk).
 *
 * Same bits as the reference. The 16- and 8-bit floats are in convert_elements.h, the 8-bit blocks in blocks_avx512.c.
 */
#include "kernels/blocks.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/philox_avx512.h"
#include "kernels/simd_codes_avx512.h"

/* The 16 bits of each lane for the vector-th sixteen of the elements that words serve. */
static inline __attribute__((always_inline)) __m512i
random_of(const random_words words, int vector)
{
    const __m512i pair = words[vector / 2];
    return vector % 2 ? _mm512_srli_epi32(pair, 16) : _mm512_and_si512(pair, _mm512_set1_epi32(0xffff));
}

#include "kernels/convert_elements.h"

const pfo_convert_table *
pfo_converters_avx512(void)
{
    static const pfo_convert_table table = {
        .level = PFO_CPU_AVX512,
        .load = { PFO_ELEMENT_LOADS, [PFO_DTYPE_BLOCK8] = pfo_load_block8_avx512,
                  [PFO_DTYPE_UBLOCK8] = pfo_load_ublock8_avx512 },
        .store = { PFO_ELEMENT_STORES, [PFO_DTYPE_BLOCK8] = pfo_store_block8_avx512,
                   [PFO_DTYPE_UBLOCK8] = pfo_store_ublock8_avx512 },
        .draw = pfo_draw_avx512,
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
