/* convert_avx2.c: eight elements at a time. Entered only after cpu.h said yes; built with its own flags
 * (csrc/flags.mk).
 *
 * Same bits as the reference. The 16- and 8-bit floats are in convert_elements.h, the 8-bit blocks in blocks_avx2.c.
 */
#include "kernels/blocks.h"

#if defined(__AVX2__) && defined(__F16C__)
#include "kernels/philox_avx2.h"
#include "kernels/simd_codes_avx2.h"

/* The 16 bits of each lane for the vector-th eight of the elements that words serve. */
static inline __attribute__((always_inline)) __m256i
random_of(const random_words words, int vector)
{
    const __m256i pair = words[vector % 2][vector / 4];
    return vector / 2 % 2 ? _mm256_srli_epi32(pair, 16) : _mm256_and_si256(pair, _mm256_set1_epi32(0xffff));
}

#include "kernels/convert_elements.h"

const pfo_convert_table *
pfo_converters_avx2(void)
{
    static const pfo_convert_table table = {
        .level = PFO_CPU_AVX2,
        .load = { PFO_ELEMENT_LOADS, [PFO_DTYPE_BLOCK8] = pfo_load_block8_avx2,
                  [PFO_DTYPE_UBLOCK8] = pfo_load_ublock8_avx2 },
        .store = { PFO_ELEMENT_STORES, [PFO_DTYPE_BLOCK8] = pfo_store_block8_avx2,
                   [PFO_DTYPE_UBLOCK8] = pfo_store_ublock8_avx2 },
        .draw = pfo_draw_avx2,
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
