/* test_codec.c: what is compressed comes back, however it is cut into parts; damage is an error; only what shrinks is said to pay. */
#include "cache/codec.h"

#include "base/alloc.h"
#include "check.h"

#include <string.h>

enum { MOST = 700001 };

static unsigned char data[MOST];
static unsigned char back[MOST];

static void
fill(int kind)
{
    unsigned long long state = 99;
    for (int i = 0; i < MOST; i++) {
        const unsigned number = i % 8 == 0 ? (unsigned)i / 64 : 0;
        data[i] = (unsigned char)(kind == 0 ? check_random(&state) >> 56 : number);
    }
}

static void
round_trips(void)
{
    const size_t lengths[] = { 0,   1, 2, 63, 64, 65, 4096, PFO_CODEC_BLOCK - 1, PFO_CODEC_BLOCK, PFO_CODEC_BLOCK + 1,
                               MOST };
    const size_t widths[] = { 0, 1, 2, 3, 4, 8, 16, 64, 65 };
    for (int kind = 0; kind < 2; kind++) {
        fill(kind);
        for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
            for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
                const size_t length = lengths[l];
                const size_t cut = length / 3;
                const pfo_bytes parts[] = { { data, cut }, { NULL, 0 }, { data + cut, length - cut } };
                void *packed;
                size_t packed_length;
                REQUIRE(pfo_codec_compress(parts, 3, widths[w], &packed, &packed_length, NULL) == PFO_OK);
                memset(back, 1, sizeof back);
                CHECK(pfo_codec_expand(packed, packed_length, widths[w], back, length, NULL) == PFO_OK);
                CHECK(memcmp(back, data, length) == 0);
                CHECK(length == 0 ||
                      pfo_codec_expand(packed, packed_length - 1, widths[w], back, length, NULL) == PFO_IO);
                CHECK(pfo_codec_expand(packed, packed_length, widths[w], back, length + 1, NULL) == PFO_IO);
                CHECK(length == 0 ||
                      pfo_codec_expand(packed, packed_length, widths[w], back, length - 1, NULL) == PFO_IO);
                pfo_free(packed);
            }
        }
    }
}

static void
only_what_shrinks_pays(void)
{
    const pfo_bytes whole = { data, MOST };
    const pfo_bytes little = { data, PFO_CODEC_LEAST - 1 };
    fill(0);
    CHECK(!pfo_codec_pays(&whole, 1, 8));
    fill(1);
    CHECK(pfo_codec_pays(&whole, 1, 8) && !pfo_codec_pays(&little, 1, 8));
    const pfo_bytes parts[] = { { data, 100 }, { data + 100, 50000 } };
    CHECK(pfo_codec_pays(parts, 2, 8));
}

static void
missing_memory_is_an_error(void)
{
    const pfo_bytes whole = { data, 100000 };
    void *packed = NULL;
    size_t length = 0;
    for (long n = 1; n <= 2; n++) {
        pfo_error err = PFO_ERROR_INIT;
        pfo_alloc_fail_at(n);
        CHECK(pfo_codec_compress(&whole, 1, 8, &packed, &length, &err) == PFO_NO_MEMORY && packed == NULL);
        pfo_alloc_fail_at(0);
        CHECK(err.text[0] != '\0');
    }
    REQUIRE(pfo_codec_compress(&whole, 1, 8, &packed, &length, NULL) == PFO_OK);
    pfo_alloc_fail_at(1);
    CHECK(pfo_codec_expand(packed, length, 8, back, 100000, NULL) == PFO_NO_MEMORY);
    pfo_alloc_fail_at(0);
    pfo_free(packed);
}

int
main(void)
{
    RUN(round_trips);
    RUN(only_what_shrinks_pays);
    RUN(missing_memory_is_an_error);
    return FINISH();
}
