/* test_convert_elements.c: every variant of the 16- and 8-bit floats against the scalar reference where they could part: at every
 * upper half of a float32 with the lower halves about which rounding turns, at every length and place in a cache line, and
 * between pages that may not be touched. */
#include "kernels/convert.h"

#include "check.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const pfo_dtype dtypes[] = { PFO_DTYPE_BFLOAT16, PFO_DTYPE_FLOAT16, PFO_DTYPE_FLOAT8_E4M3,
                                    PFO_DTYPE_FLOAT8_E5M2 };
enum { DTYPES = sizeof dtypes / sizeof dtypes[0], MODES = 4 };

/* Nearest and stochastic, each with and without saturation. */
static pfo_rounding
rounding_of(int mode, uint64_t first)
{
    return (pfo_rounding){
        .stochastic = mode & 1, .saturate = mode >> 1, .seed = 0x9e3779b97f4a7c15u, .stream = 77, .first = first
    };
}

/* The next table after *level that is not the reference's, or NULL. */
static const pfo_convert_table *
next_variant(int *level)
{
    while (++*level < PFO_CPU_LEVEL_COUNT) {
        const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)*level);
        if (table != NULL && table != pfo_converters_scalar()) {
            return table;
        }
    }
    return NULL;
}

/* ---- values ---- */

enum { UPPER_STEP = 512, LOWERS = 48 };

static float values[UPPER_STEP * LOWERS];
static uint8_t wanted[UPPER_STEP * LOWERS * 2], got[UPPER_STEP * LOWERS * 2];

/* The upper halves from `upper` on, each with every upper 4 bits of the lower half and below them nothing, little or all: where
 * bfloat16 and float16 change from one code to the next, and the 8-bit floats, which turn about bits of the upper half. */
static void
fill_values(uint32_t upper)
{
    static const uint32_t below[] = { 0x000, 0x001, 0xfff };
    for (uint32_t i = 0; i < UPPER_STEP * LOWERS; i++) {
        const uint32_t lower = i % LOWERS;
        const uint32_t bits = (upper + i / LOWERS) << 16 | lower / 3 << 12 | below[lower % 3];
        memcpy(&values[i], &bits, sizeof bits);
    }
}

static void
every_exponent_and_tie_is_stored_as_by_the_reference(void)
{
    enum { COUNT = UPPER_STEP * LOWERS };
    for (uint32_t upper = 0; upper < 65536; upper += UPPER_STEP) {
        fill_values(upper);
        for (int k = 0; k < DTYPES; k++) {
            for (int mode = 0; mode < (pfo_dtype_bytes(dtypes[k]) == 1 ? MODES : MODES / 2); mode++) {
                const pfo_rounding rounding = rounding_of(mode, (uint64_t)upper * 65536);
                const size_t bytes = COUNT * pfo_dtype_bytes(dtypes[k]);
                pfo_converters_scalar()->store[dtypes[k]](values, wanted, NULL, COUNT, &rounding, 0);
                const pfo_convert_table *table;
                for (int level = 0; (table = next_variant(&level)) != NULL;) {
                    memset(got, 0x5a, sizeof got);
                    table->store[dtypes[k]](values, got, NULL, COUNT, &rounding, 0);
                    CHECK(memcmp(wanted, got, bytes) == 0);
                }
            }
        }
    }
}

/* ---- lengths and places ---- */

/* Storage of whole pages between two that may not be touched. */
enum { FENCED_BYTES = 16384 };

static uint8_t *
fenced(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t middle = (FENCED_BYTES + page - 1) / page * page;
    uint8_t *pages = mmap(NULL, middle + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(pages != MAP_FAILED);
    REQUIRE(mprotect(pages + page, middle, PROT_READ | PROT_WRITE) == 0);
    return pages + page + middle -
           FENCED_BYTES; /* its end is the fence's begin; so is its begin where pages are no larger */
}

static void
check_at(const pfo_convert_table *table, pfo_dtype dtype, const float *from, uint8_t *to, int64_t count,
         const pfo_rounding *rounding, int stream)
{
    const size_t bytes = (size_t)count * pfo_dtype_bytes(dtype);
    pfo_converters_scalar()->store[dtype](from, wanted, NULL, count, rounding, 0);
    memset(to, 0x5a, bytes);
    table->store[dtype](from, to, NULL, count, rounding, stream);
    CHECK(memcmp(wanted, to, bytes) == 0);
}

static void
check_back_at(const pfo_convert_table *table, pfo_dtype dtype, const uint8_t *from, float *to, int64_t count)
{
    pfo_converters_scalar()->load[dtype](from, NULL, values, count);
    memset(to, 0x5a, (size_t)count * sizeof *to);
    table->load[dtype](from, NULL, to, count);
    CHECK(memcmp(values, to, (size_t)count * sizeof *to) == 0);
}

static void
nothing_outside_of_the_arrays_is_touched(void)
{
    static const int64_t sizes[] = { 127, 128, 129, 255, 256, 257, 1000 };
    uint8_t *source = fenced(), *target = fenced();
    unsigned long long state = 5;
    for (int64_t s = 0; s < 71 + (int64_t)(sizeof sizes / sizeof sizes[0]); s++) {
        const int64_t count = s < 71 ? s : sizes[s - 71];
        for (int end = 0; end < 2; end++) { /* at the first byte of the pages, and up to their last */
            float *from = (float *)(void *)(source + (end ? FENCED_BYTES - (size_t)count * sizeof(float) : 0));
            for (int64_t i = 0; i < count; i++) {
                const uint32_t bits = (uint32_t)(check_random(&state) >> 32);
                memcpy(from + i, &bits, sizeof bits);
            }
            for (int run = 0; run < DTYPES * MODES * 2; run++) {
                const pfo_dtype dtype = dtypes[run % DTYPES];
                const size_t bytes = (size_t)count * pfo_dtype_bytes(dtype);
                uint8_t *to = target + (end ? FENCED_BYTES - bytes : 0);
                const pfo_rounding rounding = rounding_of(run / DTYPES % MODES, run < DTYPES * MODES ? 0 : 65536 + 100);
                const pfo_convert_table *table;
                for (int level = 0; (table = next_variant(&level)) != NULL;) {
                    check_at(table, dtype, from, to, count, &rounding, run / (DTYPES * MODES));
                    uint8_t *codes = source + (end ? FENCED_BYTES - bytes : 0);
                    float *back = (float *)(void *)(target + (end ? FENCED_BYTES - (size_t)count * sizeof(float) : 0));
                    check_back_at(table, dtype, codes, back, count);
                }
            }
        }
    }
}

static void
every_length_at_every_place_of_a_cache_line(void)
{
    enum { LINE = 64, LONGEST = 70 };
    static _Alignas(64) uint8_t room[LINE + (LONGEST + 2 * LINE) * 2 + LINE], untouched[sizeof room];
    fill_values(0x3f00);
    for (int run = 0; run < DTYPES * 4; run++) {
        const pfo_dtype dtype = dtypes[run % DTYPES];
        const size_t size = pfo_dtype_bytes(dtype);
        const int stream = run / DTYPES % 2, stochastic = run / DTYPES / 2;
        for (size_t place = 0; place < LINE / size; place++) {
            for (int64_t count = 0; count <= LONGEST + LINE; count += count < LONGEST ? 1 : LINE) {
                const pfo_rounding rounding = rounding_of(stochastic, place * 5);
                uint8_t *to = room + LINE + place * size;
                const pfo_convert_table *table;
                for (int level = 0; (table = next_variant(&level)) != NULL;) {
                    memset(room, 0xa5, sizeof room);
                    memset(untouched, 0xa5, sizeof untouched);
                    check_at(table, dtype, values + place % 7, to, count, &rounding, stream);
                    memcpy(untouched + (to - room), to, (size_t)count * size);
                    CHECK(memcmp(room, untouched, sizeof room) == 0);
                }
            }
        }
    }
}

int
main(void)
{
    int level = 0;
    if (next_variant(&level) == NULL) {
        (void)printf("skipped: this processor runs the reference alone\n");
        return 0;
    }
    RUN(every_exponent_and_tie_is_stored_as_by_the_reference);
    RUN(nothing_outside_of_the_arrays_is_touched);
    RUN(every_length_at_every_place_of_a_cache_line);
    return FINISH();
}
