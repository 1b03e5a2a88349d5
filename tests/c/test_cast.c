/* test_cast.c: whole arrays, cut among threads: as one call of the conversions gives it, whatever the threads, sizes
 * and dtypes, and whatever the caller's floating point mode; scaling in place. */
#include "kernels/cast.h"

#include "check.h"

#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

enum { MOST = 3 * PFO_CHUNK_ELEMENTS + 77, BLOCKS = MOST / PFO_SCALE_BLOCK + 1, PAST_CACHE = 40 << 20 };

static float source[MOST], tile[MOST];
static uint8_t stored[4 * MOST], wanted[4 * MOST], got[4 * MOST];
static float stored_scales[BLOCKS], wanted_scales[BLOCKS], got_scales[BLOCKS];

static void
fill(void)
{
    unsigned long long state = 11;
    for (int i = 0; i < MOST; i++) {
        source[i] = (float)(check_random(&state) >> 40) * 0x1p-23f - 1.0f;
    }
}

static void
check_pair(pfo_dtype from, pfo_dtype to, int64_t count, int threads, int stochastic)
{
    const pfo_convert_table *table = pfo_converters_scalar();
    const pfo_rounding nearest = { .seed = 0 };
    const pfo_rounding rounding = { .stochastic = stochastic, .seed = 5, .stream = 6, .first = 256 };
    table->store[from](source, stored, stored_scales, count, &nearest, 0);
    if (from == PFO_DTYPE_FLOAT32) {
        memcpy(tile, source, sizeof tile);
    } else {
        table->load[from](stored, stored_scales, tile, count);
    }
    memset(wanted, 0xa5, sizeof wanted);
    memset(got, 0xa5, sizeof got);
    table->store[to](tile, wanted, wanted_scales, count, &rounding, 0);
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        if (pfo_converters_for((pfo_cpu_level)level) == NULL) {
            continue;
        }
        const pfo_cast_request request = { .from = stored,
                                           .from_scales = stored_scales,
                                           .from_dtype = from,
                                           .to = got,
                                           .to_scales = got_scales,
                                           .to_dtype = to,
                                           .count = count,
                                           .rounding = rounding,
                                           .threads = threads };
        pfo_cast(pfo_converters_for((pfo_cpu_level)level), &request);
        CHECK(memcmp(wanted, got, sizeof got) == 0);
        CHECK(memcmp(wanted_scales, got_scales, sizeof got_scales) == 0);
    }
}

static void
every_pair_of_dtypes_on_any_threads(void)
{
    static const int64_t sizes[] = { 0, 1, 2047, 2049, PFO_CHUNK_ELEMENTS, MOST };
    fill();
    for (int from = 0; from < PFO_DTYPE_COUNT; from++) {
        for (int to = 0; to < PFO_DTYPE_COUNT; to++) {
            check_pair((pfo_dtype)from, (pfo_dtype)to, sizes[(from + to) % 6], 1 + (from * 3 + to) % 8,
                       to != PFO_DTYPE_FLOAT32);
        }
    }
    for (int threads = 1; threads <= 8; threads++) {
        check_pair(PFO_DTYPE_FLOAT32, PFO_DTYPE_UBLOCK8, MOST, threads, 1);
    }
}

/* Rounding upwards, and on x86 without denormals. */
static void
the_callers_floating_point_mode_does_not_matter(void)
{
    fill();
    for (int i = 0; i < MOST; i += 3) { /* denormals of float32 and of every narrower dtype */
        source[i] = ldexpf(source[i], -(i % 160));
    }
#if defined(__SSE2__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u);
#endif
    const int rounding = fegetround();
    REQUIRE(fesetround(FE_UPWARD) == 0);
    for (int from = 0; from < PFO_DTYPE_BLOCK8; from++) {
        for (int to = 0; to < PFO_DTYPE_BLOCK8; to++) {
            check_pair((pfo_dtype)from, (pfo_dtype)to, MOST, 1 + to % 2, from % 2);
        }
    }
    CHECK(fegetround() == FE_UPWARD);
    (void)fesetround(rounding);
#if defined(__SSE2__)
    CHECK((_mm_getcsr() & 0x8040u) == 0x8040u);
    _mm_setcsr(before);
#endif
}

static void
outputs_larger_than_the_cache(void)
{
    float *from = malloc((size_t)PAST_CACHE * sizeof *from);
    uint16_t *code = malloc((size_t)PAST_CACHE * sizeof *code);
    float *back = malloc((size_t)PAST_CACHE * sizeof *back);
    REQUIRE(from != NULL && code != NULL && back != NULL);
    fill();
    for (int i = 0; i < PAST_CACHE; i++) {
        from[i] = source[i % MOST];
    }
    const pfo_convert_table *table = pfo_converters_for(PFO_CPU_AVX2);
    table = table != NULL ? table : pfo_converters_scalar();
    pfo_cast_request request = { .from = from,
                                 .from_dtype = PFO_DTYPE_FLOAT32,
                                 .to = code,
                                 .to_dtype = PFO_DTYPE_BFLOAT16,
                                 .count = PAST_CACHE - 3 };
    pfo_cast(table, &request);
    request = (pfo_cast_request){ .from = code,
                                  .from_dtype = PFO_DTYPE_BFLOAT16,
                                  .to = back,
                                  .to_dtype = PFO_DTYPE_FLOAT32,
                                  .count = PAST_CACHE - 3 };
    pfo_cast(table, &request);
    int far = 0;
    for (int i = 0; i < PAST_CACHE - 3; i++) {
        far += fabsf(back[i] - from[i]) > fabsf(from[i]) * 0x1p-8f;
    }
    CHECK(far == 0);
    free(from);
    free(code);
    free(back);
}

static void
scaling_multiplies_and_tells_of_inf_and_nan(void)
{
    static const pfo_dtype dtypes[] = { PFO_DTYPE_FLOAT32, PFO_DTYPE_BFLOAT16, PFO_DTYPE_FLOAT16 };
    const pfo_convert_table *table = pfo_converters_scalar();
    const pfo_rounding nearest = { .seed = 0 };
    fill();
    for (int k = 0; k < 3; k++) {
        for (int run = 0; run < 8; run++) {
            const int64_t place = run < 4 ? (int64_t)run * (MOST - 1) / 3 : -1;
            memcpy(tile, source, sizeof tile);
            if (place >= 0) {
                tile[place] = run % 2 ? NAN : INFINITY;
            } else if (run == 4) {
                tile[70000] = 60000.0f; /* overflows by the factor */
            }
            table->store[dtypes[k]](tile, stored, NULL, MOST, &nearest, 0);
            const float factor = run == 4 ? 0x1p127f : 0.25f;
            const int found = pfo_scale(table, stored, dtypes[k], MOST, factor, run + 1);
            CHECK(found == (run < 5));
            if (run >= 5) {
                for (int64_t i = 0; i < MOST; i++) {
                    tile[i] *= 0.25f; /* a power of two commutes with rounding where no number is denormal */
                    tile[i] = fabsf(tile[i]) < 1e-3f ? 0.0f : tile[i];
                }
                const int is_float = dtypes[k] == PFO_DTYPE_FLOAT32;
                if (is_float) {
                    memcpy(wanted, stored, 4 * (size_t)MOST);
                } else {
                    table->load[dtypes[k]](stored, NULL, (float *)(void *)wanted, MOST);
                }
                const float *result = (const float *)(const void *)wanted;
                int far = 0;
                for (int64_t i = 0; i < MOST; i++) {
                    far += tile[i] != 0.0f && fabsf(result[i] - tile[i]) > fabsf(tile[i]) * 0x1p-8f;
                }
                CHECK(far == 0);
            }
        }
    }
}

int
main(void)
{
    RUN(every_pair_of_dtypes_on_any_threads);
    RUN(the_callers_floating_point_mode_does_not_matter);
    RUN(outputs_larger_than_the_cache);
    RUN(scaling_multiplies_and_tells_of_inf_and_nan);
    return FINISH();
}
