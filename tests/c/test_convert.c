/* test_convert.c: the element functions against published vectors and an independent rounding in double; every
 * variant this machine can run against the scalar reference, bit for bit; stochastic rounding against its mean;
 * 8-bit blocks and their edges. */
#include "kernels/convert.h"

#include "kernels/convert_math.h"
#include "kernels/philox_math.h"
#include "kernels/quantize_math.h"

#include "check.h"

#include <math.h>
#include <string.h>

enum { MAX_COUNT = 4096, GUARD = 64, BLOCKS = MAX_COUNT / PFO_SCALE_BLOCK + 1 };

static const pfo_rounding nearest;

static void
philox_gives_the_published_words(void)
{
    static const struct {
        pfo_philox_words counter;
        uint32_t key[2];
        uint32_t words[4];
    } known[] = { /* kat_vectors of Random123, seven rounds */
                  { { { 0, 0, 0, 0 } }, { 0, 0 }, { 0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48 } },
                  { { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff } },
                    { 0xffffffff, 0xffffffff },
                    { 0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662 } },
                  { { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 } },
                    { 0xa4093822, 0x299f31d0 },
                    { 0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a } }
    };
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        const pfo_philox_words words = pfo_philox(known[k].counter, known[k].key[0], known[k].key[1]);
        CHECK(memcmp(words.word, known[k].words, sizeof words.word) == 0);
    }
}

/* ---- the reference against what is known of the formats ---- */

typedef struct format_facts {
    pfo_dtype dtype;
    int mantissa, min_exponent; /* bits of fraction; exponent of the smallest normal number */
    double largest;             /* finite */
    uint32_t sign, infinity;    /* codes; infinity is what an overflow gives */
} format_facts;

static const format_facts formats[] = {
    { PFO_DTYPE_BFLOAT16, 7, -126, 0x1.fep127, 0x8000, 0x7f80 },
    { PFO_DTYPE_FLOAT16, 10, -14, 65504.0, 0x8000, 0x7c00 },
    { PFO_DTYPE_FLOAT8_E4M3, 3, -6, 448.0, 0x80, 0x7f },
    { PFO_DTYPE_FLOAT8_E5M2, 2, -14, 57344.0, 0x80, 0x7c },
};
enum { FORMATS = sizeof formats / sizeof formats[0] };

static uint32_t
stored(const pfo_convert_table *table, pfo_dtype dtype, float value, const pfo_rounding *rounding)
{
    uint16_t wide = 0;
    uint8_t narrow = 0;
    if (pfo_dtype_bytes(dtype) == 2) {
        table->store[dtype](&value, &wide, NULL, 1, rounding, 0);
        return wide;
    }
    table->store[dtype](&value, &narrow, NULL, 1, rounding, 0);
    return narrow;
}

static float
loaded(const pfo_convert_table *table, pfo_dtype dtype, uint32_t code)
{
    const uint16_t wide = (uint16_t)code;
    const uint8_t narrow = (uint8_t)code;
    float value;
    table->load[dtype](pfo_dtype_bytes(dtype) == 2 ? (const void *)&wide : &narrow, NULL, &value, 1);
    return value;
}

/* The number a code stands for, from the definition of the format; NaN and infinity by the format's own rule. */
static double
defined_value(const format_facts *f, uint32_t code)
{
    const uint32_t magnitude = code & (f->sign - 1);
    const int exponent = (int)(magnitude >> f->mantissa);
    const double fraction = (double)(magnitude & ((1u << f->mantissa) - 1)) / (1 << f->mantissa);
    double value =
        exponent == 0 ? ldexp(fraction, f->min_exponent) : ldexp(1.0 + fraction, f->min_exponent + exponent - 1);
    if (value > f->largest) {
        value = magnitude == f->infinity && f->dtype != PFO_DTYPE_FLOAT8_E4M3 ? (double)INFINITY : (double)NAN;
    }
    return (code & f->sign) != 0 ? -value : value;
}

static void
every_code_reads_as_defined_and_comes_back(void)
{
    for (int k = 0; k < FORMATS; k++) {
        const format_facts *f = &formats[k];
        for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
            const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)level);
            for (uint32_t code = 0; code < 2 * f->sign && table != NULL; code++) {
                const double want = defined_value(f, code);
                const float got = loaded(table, f->dtype, code);
                const uint32_t back = stored(table, f->dtype, got, &nearest);
                if (isnan(want)) {
                    CHECK(isnan(got) && isnan(defined_value(f, back)));
                    CHECK((signbit(got) != 0) == ((code & f->sign) != 0) && (back & f->sign) == (code & f->sign));
                } else {
                    CHECK((double)got == want && (signbit(got) != 0) == ((code & f->sign) != 0));
                    CHECK(back == code);
                }
            }
        }
    }
}

/* To nearest, ties to even, in double, whose rint() is exact here; independent of the integer form. */
static double
rounded_by_definition(const format_facts *f, double value)
{
    if (isinf(value)) {
        return value;
    }
    int exponent = value == 0.0 ? f->min_exponent : ilogb(value);
    exponent = exponent < f->min_exponent ? f->min_exponent : exponent;
    const double unit = ldexp(1.0, exponent - f->mantissa);
    const double result = rint(value / unit) * unit;
    return fabs(result) > f->largest ? copysign((double)INFINITY, value) : result;
}

static void
check_nearest(const format_facts *f, float value)
{
    const double want = rounded_by_definition(f, (double)value);
    const uint32_t code = stored(pfo_converters_scalar(), f->dtype, value, &nearest);
    const uint32_t sign = signbit(value) ? f->sign : 0;
    if (isinf(want)) {
        CHECK(code == (sign | f->infinity));
        const pfo_rounding saturate = { .saturate = 1 };
        if (pfo_dtype_bytes(f->dtype) == 1) {
            CHECK(defined_value(f, stored(pfo_converters_scalar(), f->dtype, value, &saturate)) ==
                  copysign(f->largest, (double)value));
        }
    } else {
        CHECK(defined_value(f, code) == want && (code & f->sign) == sign);
    }
}

static void
nearest_is_what_double_says(void)
{
    unsigned long long state = 12345;
    for (int k = 0; k < FORMATS; k++) {
        const format_facts *f = &formats[k];
        for (int i = 0; i < 200000; i++) {
            const float value = pfo_float_from_bits((uint32_t)(check_random(&state) >> 32));
            if (!isnan(value)) {
                check_nearest(f, value);
            }
            check_nearest(f, ldexpf(1.0f + (float)(i % 4096) / 4096.0f, i / 4096 % 50 - 30)); /* many ties */
        }
        for (uint32_t code = 0; code < f->infinity;
             code++) { /* between each number and the next: the tie and its neighbours */
            const double low = defined_value(f, code);
            const double high = code + 1 == f->infinity || isnan(defined_value(f, code + 1))
                                    ? 2 * low - defined_value(f, code - 1)
                                    : defined_value(f, code + 1);
            const float middle = (float)((low + high) / 2);
            const float places[] = { middle, nextafterf(middle, 0.0f), nextafterf(middle, INFINITY), (float)low };
            for (int p = 0; p < 8; p++) {
                check_nearest(f, p % 2 ? -places[p / 2] : places[p / 2]);
            }
        }
        const float edges[] = { 0.0f, 0x1p-149f, 0x1p-126f, 0x1.fffffep127f, INFINITY };
        for (int p = 0; p < 10; p++) {
            check_nearest(f, p % 2 ? -edges[p / 2] : edges[p / 2]);
        }
    }
}

static void
nan_stays_nan_with_its_sign_and_payload(void)
{
    const pfo_rounding all[] = { { .seed = 1 }, { .stochastic = 1, .seed = 7 }, { .saturate = 1 } };
    const uint32_t payloads[] = { 0x7f800001, 0x7fffffff, 0x7fc00000, 0x7fa00000, 0x7f802000 };
    for (int i = 0; i < 30; i++) {
        const uint32_t bits = payloads[i % 5] | (i < 15 ? 0u : PFO_FLOAT_SIGN);
        const pfo_rounding *rounding = &all[i % 3];
        const pfo_convert_table *table = pfo_converters_scalar();
        const float value = pfo_float_from_bits(bits);
        const uint32_t sign16 = bits >> 31 << 15, sign8 = bits >> 31 << 7;
        CHECK(stored(table, PFO_DTYPE_BFLOAT16, value, rounding) == (bits >> 16 | 0x40));
        CHECK(stored(table, PFO_DTYPE_FLOAT16, value, rounding) == (sign16 | 0x7e00 | (bits >> 13 & 0x3ff)));
        CHECK(stored(table, PFO_DTYPE_FLOAT8_E4M3, value, rounding) == (sign8 | 0x7f));
        CHECK(stored(table, PFO_DTYPE_FLOAT8_E5M2, value, rounding) == (sign8 | 0x7f));
    }
}

/* ---- every variant against the reference ---- */

static float from[GUARD + MAX_COUNT + GUARD];
static uint8_t codes_wanted[2 * MAX_COUNT + 4 * GUARD], codes_got[2 * MAX_COUNT + 4 * GUARD];
static float floats_wanted[MAX_COUNT + 2 * GUARD], floats_got[MAX_COUNT + 2 * GUARD];
static float scales_wanted[BLOCKS], scales_got[BLOCKS];

/* Kind 0: any bits; 1: numbers of a training run; 2: the same with one bad element; 3: zeros, denormals and the
 * largest numbers. */
static void
fill(int kind, unsigned long long seed)
{
    static const float rare[] = { 0.0f, -0.0f, 0x1p-149f, -0x1p-130f, 0x1.fffffep127f, -0x1p127f, 1e-30f, 1.0f };
    unsigned long long state = seed * 2 + 1;
    for (int i = 0; i < GUARD + MAX_COUNT + GUARD; i++) {
        const uint32_t bits = (uint32_t)(check_random(&state) >> 32);
        const float uniform = (float)(bits >> 8) * 0x1p-23f - 1.0f;
        from[i] = kind == 0   ? pfo_float_from_bits(bits)
                  : kind == 3 ? rare[bits >> 29]
                              : ldexpf(uniform, -(int)(check_random(&state) % 40));
    }
    if (kind == 2) {
        from[GUARD + 300] = seed % 2 ? NAN : -INFINITY;
    }
}

static void
compare(const pfo_convert_table *table, pfo_dtype dtype, int64_t count, const pfo_rounding *rounding, int offset,
        int stream)
{
    const size_t size = pfo_dtype_bytes(dtype);
    const float *source = from + GUARD + offset % 3;
    uint8_t *wanted = codes_wanted + GUARD + (size_t)offset * size, *got = codes_got + GUARD + (size_t)offset * size;
    memset(codes_wanted, 0xa5, sizeof codes_wanted);
    memset(codes_got, 0xa5, sizeof codes_got);
    memset(scales_wanted, 0x5a, sizeof scales_wanted);
    memset(scales_got, 0x5a, sizeof scales_got);
    if (size > 2) {
        return;
    }
    pfo_converters_scalar()->store[dtype](source, wanted, scales_wanted, count, rounding, 0);
    table->store[dtype](source, got, scales_got, count, rounding, stream);
    CHECK(memcmp(codes_wanted, codes_got, sizeof codes_got) == 0);
    CHECK(memcmp(scales_wanted, scales_got, sizeof scales_got) == 0);
    memset(floats_wanted, 0xa5, sizeof floats_wanted);
    memset(floats_got, 0xa5, sizeof floats_got);
    pfo_converters_scalar()->load[dtype](wanted, scales_wanted, floats_wanted + GUARD - offset % 5, count);
    table->load[dtype](wanted, scales_wanted, floats_got + GUARD - offset % 5, count);
    CHECK(memcmp(floats_wanted, floats_got, sizeof floats_got) == 0);
}

static void
variants_agree_with_the_reference_bit_for_bit(void)
{
    static const int64_t sizes[] = { 0,  1,  2,  7,   8,   9,   15,  16,  17,  31,  32,   33,  63,
                                     64, 65, 96, 127, 128, 129, 255, 256, 257, 513, 1000, 4096 };
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)level);
        for (int kind = 0; kind < 4 && table != NULL; kind++) {
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
                fill(kind, s);
                for (int dtype = PFO_DTYPE_BFLOAT16; dtype < PFO_DTYPE_COUNT; dtype++) {
                    for (int mode = 0; mode < 16; mode++) {
                        const int stochastic = mode & 1;
                        const uint64_t firsts[] = { 0, 65536, 3, (1ull << 36) + 256, (1ull << 35) - 128 + 5 };
                        const pfo_rounding rounding = { .stochastic = stochastic,
                                                        .saturate = mode >> 1 & 1,
                                                        .exchanged = mode >> 3 & 1,
                                                        .seed = 0x123456789abcdefull,
                                                        .stream = 0xfedcba9876543210ull,
                                                        .first = firsts[(s + (size_t)mode) % 5] };
                        compare(table, (pfo_dtype)dtype, sizes[s], &rounding,
                                (int)(s * 5 + (size_t)mode) % 33 * (mode >> 2 & 1), mode >> 2 & 1);
                    }
                }
            }
        }
    }
}

/* Words that were drawn before, by any variant, round as those that a store draws by itself. */
static void
blocks_take_words_that_were_drawn(void)
{
    static uint32_t words[PFO_PHILOX_ELEMENTS / 2 * (MAX_COUNT / PFO_PHILOX_ELEMENTS + 1)];
    static const int64_t sizes[] = { 1, 127, 129, 256, 700, 1024, 1500, 4096 };
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)level);
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0] && table != NULL; s++) {
            const uint64_t first = s % 2 ? (1ull << 35) - 128 : 65536;
            pfo_rounding rounding = { .stochastic = 1, .exchanged = s / 2 % 2, .seed = 5, .stream = 6, .first = first };
            fill(1, s);
            for (int dtype = PFO_DTYPE_BLOCK8; dtype <= PFO_DTYPE_UBLOCK8; dtype++) {
                rounding.words = NULL;
                pfo_converters_scalar()->store[dtype](from, codes_wanted, scales_wanted, sizes[s], &rounding, 0);
                memset(words, 0, sizeof words);
                table->draw(&rounding, sizes[s], words);
                rounding.words = words;
                table->store[dtype](from, codes_got, scales_got, sizes[s], &rounding, 0);
                CHECK(memcmp(codes_wanted, codes_got, (size_t)sizes[s]) == 0);
                const uint32_t half = (uint32_t)((sizes[s] - 1) / PFO_PHILOX_LANES % 8);
                const int64_t at = (sizes[s] - 1) / PFO_PHILOX_ELEMENTS * (PFO_PHILOX_ELEMENTS / 2) +
                                   half / 2 * PFO_PHILOX_LANES + (sizes[s] - 1) % PFO_PHILOX_LANES;
                CHECK((words[at] >> (half % 2 * 16) & 0xffffu) == pfo_random16(5, 6, first + (uint64_t)sizes[s] - 1));
            }
        }
    }
}

static void
every_float16_and_8_bit_code_reads_alike_in_vectors(void)
{
    static uint16_t all[65536];
    static float wanted[65536], got[65536];
    for (int i = 0; i < 65536; i++) {
        all[i] = (uint16_t)i;
    }
    static const float scale[256] = { [0] = 0.37f, [1] = 1e-30f, [2] = NAN, [3] = 1e35f };
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)level);
        for (int dtype = PFO_DTYPE_BFLOAT16; dtype < PFO_DTYPE_COUNT && table != NULL; dtype++) {
            pfo_converters_scalar()->load[dtype](all, scale, wanted, 65536);
            table->load[dtype](all, scale, got, 65536);
            CHECK(memcmp(wanted, got, sizeof got) == 0);
        }
    }
}

static void
float32_is_copied_past_the_cache_too(void)
{
    fill(0, 9);
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)level);
        for (int run = 0; run < 2 * 80 && table != NULL; run++) {
            const int64_t count = run / 2 * 3;
            memset(floats_got, 0xa5, sizeof floats_got);
            memset(floats_wanted, 0xa5, sizeof floats_wanted);
            memcpy(floats_wanted + GUARD + run % 7, from, (size_t)count * sizeof *from);
            table->store[PFO_DTYPE_FLOAT32](from, floats_got + GUARD + run % 7, NULL, count, &nearest, run % 2);
            CHECK(memcmp(floats_wanted, floats_got, sizeof floats_got) == 0);
        }
    }
}

/* ---- stochastic rounding ---- */

static void
stochastic_rounding_does_not_depend_on_the_cut(void)
{
    fill(1, 5);
    const pfo_rounding whole = { .stochastic = 1, .seed = 3, .stream = 4, .first = 1000 };
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)level);
        for (int k = 0; k < FORMATS && table != NULL; k++) {
            const pfo_dtype dtype = formats[k].dtype;
            const size_t size = pfo_dtype_bytes(dtype);
            pfo_converters_scalar()->store[dtype](from, codes_wanted, NULL, 3000, &whole, 0);
            unsigned long long state = 99;
            for (int64_t begin = 0; begin < 3000;) {
                const int64_t step = (int64_t)(check_random(&state) % 300) + 1;
                const int64_t count = begin + step < 3000 ? step : 3000 - begin;
                pfo_rounding piece = whole;
                piece.first += (uint64_t)begin;
                table->store[dtype](from + begin, codes_got + (size_t)begin * size, NULL, count, &piece, 0);
                begin += count;
            }
            CHECK(memcmp(codes_wanted, codes_got, 3000 * size) == 0);
        }
    }
}

/* value between two numbers of the format: each is taken with its probability. n draws have a standard error of
 * sqrt(p (1 - p) / n) of the gap; five of them, and 2^-16 for the width of the random number. */
static void
check_mean(pfo_dtype dtype, float value, float scale)
{
    enum { DRAWS = 65536 };
    static float values[DRAWS], back[DRAWS];
    static uint16_t code[DRAWS];
    static float scales[DRAWS / PFO_SCALE_BLOCK];
    const int is_block = dtype == PFO_DTYPE_BLOCK8 || dtype == PFO_DTYPE_UBLOCK8;
    for (int i = 0; i < DRAWS; i++) {
        values[i] = is_block && i % PFO_SCALE_BLOCK == 0 ? scale : value;
    }
    const pfo_rounding rounding = { .stochastic = 1, .seed = 42, .stream = pfo_float_bits(value) };
    const pfo_convert_table *table = pfo_converters_scalar();
    table->store[dtype](values, code, scales, DRAWS, &rounding, 0);
    table->load[dtype](code, scales, back, DRAWS);
    double sum = 0.0, low = (double)INFINITY, high = -(double)INFINITY;
    int draws = 0;
    for (int i = 0; i < DRAWS; i++) {
        if (!is_block || i % PFO_SCALE_BLOCK != 0) {
            sum += (double)back[i];
            low = fmin(low, (double)back[i]);
            high = fmax(high, (double)back[i]);
            draws++;
        }
    }
    CHECK(low <= (double)value && (double)value <= high);
    const double gap = high - low;
    const double p = gap > 0.0 ? ((double)value - low) / gap : 0.0;
    CHECK(gap > 0.0);
    CHECK(fabs(sum / draws - (double)value) <= gap * (5.0 * sqrt(p * (1.0 - p) / draws) + 0x1p-16));
}

static void
stochastic_rounding_is_unbiased(void)
{
    const float values[] = { 1.001f, -1.003f, 0.1f, 3.14159f, -200.7f, 1.0f / 3.0f, 0.0123f };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        for (int k = 0; k < FORMATS; k++) {
            check_mean(formats[k].dtype, values[i], 0.0f);
        }
        check_mean(PFO_DTYPE_BLOCK8, values[i], 300.0f);
        check_mean(PFO_DTYPE_UBLOCK8, fabsf(values[i]), 300.0f);
    }
    check_mean(PFO_DTYPE_FLOAT16, 1.7e-7f, 0.0f); /* between denormals */
    check_mean(PFO_DTYPE_FLOAT16, 2.3e-8f, 0.0f); /* between 0 and the first */
    check_mean(PFO_DTYPE_FLOAT8_E4M3, 0.0005f, 0.0f);
    check_mean(PFO_DTYPE_FLOAT8_E5M2, 0.000004f, 0.0f);
    check_mean(PFO_DTYPE_BFLOAT16, 0x1.8p-134f, 0.0f);
    check_mean(PFO_DTYPE_BLOCK8, 1e-6f, 1.0f); /* below the least code */
}

/* Two states round by one draw, each element of both: that one goes up must say nothing of the other. Five standard
 * errors, and 2^-8 for the byte that they have in common. */
static void
the_two_uses_of_a_draw_are_apart(void)
{
    enum { DRAWS = 1 << 18 };
    const uint32_t limits[] = { 0x0300, 0x1234, 0x8000, 0xc0ff, 0xff00 };
    for (int i = 0; i < 25; i++) {
        const double p = limits[i / 5] * 0x1p-16, q = limits[i % 5] * 0x1p-16;
        int first = 0, second = 0, both = 0;
        for (uint64_t k = 0; k < DRAWS; k++) {
            const uint32_t random = pfo_random16(11, 12, k);
            const int up = random < limits[i / 5], also = pfo_random_exchanged(random) < limits[i % 5];
            first += up;
            second += also;
            both += up && also;
        }
        CHECK(fabs((double)first / DRAWS - p) <= 5.0 * sqrt(p * (1.0 - p) / DRAWS));
        CHECK(fabs((double)second / DRAWS - q) <= 5.0 * sqrt(q * (1.0 - q) / DRAWS));
        CHECK(fabs((double)both / DRAWS - p * q) <= 5.0 * sqrt(p * q * (1.0 - p * q) / DRAWS) + 0x1p-8);
    }
    CHECK(pfo_random_exchanged(0xab12) == 0x12ab);
}

static void
streams_seeds_and_places_draw_apart(void)
{
    int equal[5] = { 0 };
    for (uint64_t i = 0; i < 1000; i++) {
        const uint32_t random = pfo_random16(1, 2, i);
        equal[0] += random == pfo_random16(2, 2, i);
        equal[1] += random == pfo_random16(1, 3, i);
        equal[2] += random == pfo_random16(1, 2, i + 1000);
        equal[3] += random == pfo_random16(1, 2, i + PFO_PHILOX_LANES); /* the other half of a word */
        equal[4] += random == pfo_random16(1, 2, i + PFO_PHILOX_ELEMENTS);
    }
    for (int k = 0; k < 5; k++) {
        CHECK(equal[k] < 5);
    }
    CHECK(pfo_random16(1, 1ull << 32, 0) != pfo_random16(1, 0, 0));
    CHECK(pfo_random16(1ull << 32, 0, 0) != pfo_random16(0, 0, 0));
    CHECK(pfo_random16(1, 1, 1ull << 36) != pfo_random16(1, 1, 0));
}

/* ---- 8-bit blocks ---- */

static float block_in[300], block_out[300];
static uint8_t block_code[300];
static float block_scales[2];

static void
through(pfo_dtype dtype, int count)
{
    const pfo_convert_table *table = pfo_converters_scalar();
    table->store[dtype](block_in, block_code, block_scales, count, &nearest, 0);
    table->load[dtype](block_code, block_scales, block_out, count);
}

/* The bound of the error to nearest: relative above the offset of the block's code, constant below it. */
static float
half_a_code(float scale, uint32_t max_code, float value, float largest)
{
    const uint32_t width = pfo_block_width(scale);
    const int octaves = (int)(max_code >> width);
    const float relative = ldexpf(1.001f, -(int)width - 1);
    return value * relative + largest * ldexpf(1.0f, -octaves) * relative + scale * 0x1p-30f + 0x1p-126f;
}

static void
blocks_keep_their_error_bound(void)
{
    const float largest[] = { 1.0f, 3e38f, 1e-20f, 1e-25f, 12345.0f };
    unsigned long long state = 77;
    for (int run = 0; run < 500; run++) {
        const float top = largest[run % 5];
        for (int i = 0; i < 300; i++) {
            const float uniform = (float)(check_random(&state) >> 40) * 0x1p-24f;
            block_in[i] = (i % 2 ? -1.0f : 1.0f) * top * ldexpf(uniform, -(i % 8));
        }
        block_in[100] = block_in[270] = -top;
        through(PFO_DTYPE_BLOCK8, 300);
        const float kept = top < 0x1p127f ? top : 0x1p127f;
        CHECK(fabsf(block_out[100] + kept) <= kept * 0x1p-20f); /* the largest, and the short block's */
        CHECK(fabsf(block_out[270] + kept) <= kept * 0x1p-20f);
        for (int i = 0; i < 300; i++) {
            const float want = fmaxf(fminf(block_in[i], 0x1p127f), -0x1p127f);
            CHECK(fabsf(block_out[i] - want) <= half_a_code(block_scales[i / 256], 127, fabsf(want), kept));
            CHECK((signbit(block_out[i]) != 0) == (signbit(block_in[i]) != 0));
            block_in[i] = fabsf(block_in[i]) * ldexpf(1.0f, -(i % (run % 40 + 1)));
        }
        block_in[100] = top;
        through(PFO_DTYPE_UBLOCK8, 256);
        for (int i = 0; i < 256; i++) {
            const float want = fminf(block_in[i], 0x1p127f);
            CHECK(fabsf(block_out[i] - want) <= half_a_code(block_scales[0], 255, want, kept));
        }
    }
}

static void
blocks_take_the_width_their_numbers_need(void)
{
    static const struct {
        pfo_dtype dtype;
        int octaves; /* from the largest to the smallest element, evenly */
        uint32_t width;
    } known[] = { { PFO_DTYPE_BLOCK8, 3, 5 },  { PFO_DTYPE_BLOCK8, 11, 4 }, { PFO_DTYPE_BLOCK8, 30, 3 },
                  { PFO_DTYPE_UBLOCK8, 5, 6 }, { PFO_DTYPE_UBLOCK8, 9, 5 }, { PFO_DTYPE_UBLOCK8, 16, 4 },
                  { PFO_DTYPE_UBLOCK8, 20, 3 } };
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        for (int i = 0; i < 256; i++) {
            block_in[i] = exp2f((float)(-known[k].octaves * i) / 255.0f);
        }
        block_in[17] = 0.0f; /* zeros do not count */
        through(known[k].dtype, 256);
        CHECK(pfo_block_width(block_scales[0]) == known[k].width);
    }
}

/* A block of ones whose first elements have other bits: the width each variant stores it with must be this. */
static void
check_width(pfo_dtype dtype, int count, uint32_t width)
{
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)level);
        if (table != NULL) {
            table->store[dtype](block_in, block_code, block_scales, count, &nearest, 0);
            CHECK(pfo_block_width(block_scales[0]) == width);
        }
    }
}

static void
fill_block(int begin, int end, uint32_t bits)
{
    for (int i = begin; i < end; i++) {
        block_in[i] = pfo_float_from_bits(bits);
    }
}

/* At one small element more than a sixteenth; at the last bit of a magnitude. */
static void
the_width_of_a_block_changes_where_the_rule_says(void)
{
    const uint32_t one = pfo_float_bits(1.0f);
    for (int run = 0; run < 8; run++) {
        const int zeros = run % 2 * 16, count = run / 2 % 2 ? 192 : 256, few = (count - zeros) / 16;
        const uint32_t limit = one - (run / 4 ? PFO_BLOCK8_TINY : PFO_BLOCK8_SMALL), coarse = run / 4 ? 3 : 4;
        fill_block(0, count - zeros, one);
        fill_block(count - zeros, count, 0);
        fill_block(0, few + 1, limit);
        check_width(PFO_DTYPE_BLOCK8, count, coarse + 1);
        fill_block(0, few, limit - 1);
        check_width(PFO_DTYPE_BLOCK8, count, coarse + 1);
        fill_block(0, few + 1, limit - 1);
        check_width(PFO_DTYPE_BLOCK8, count, coarse);
    }
    static const uint32_t last[] = { 11, 19, 33 }; /* half octaves that widths 6, 5 and 4 reach over */
    for (int run = 0; run < 12; run++) {
        const int count = run % 2 ? 77 : 256;
        const uint32_t beyond = one - ((last[run / 4] + 1) << 22), width = 6 - (uint32_t)run / 4;
        fill_block(0, count, one);
        block_in[count - 1] = run / 2 % 2 ? 0.0f : 1.0f;
        fill_block(5, 6, beyond + 1);
        check_width(PFO_DTYPE_UBLOCK8, count, width);
        fill_block(5, 6, beyond);
        check_width(PFO_DTYPE_UBLOCK8, count, width - 1);
    }
}

static void
a_positive_second_moment_never_becomes_zero(void)
{
    const float largest[] = { 1.0f, 1e38f, 1e-12f, 1e-36f, 0x1p-149f };
    for (int run = 0; run < 10; run++) {
        for (int i = 0; i < 256; i++) {
            block_in[i] = largest[run % 5] * powf(10.0f, -(float)i / 8.0f); /* down to 1e-32 of it */
        }
        const pfo_rounding rounding = { .stochastic = run / 5, .seed = 5 };
        for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
            const pfo_convert_table *table = pfo_converters_for((pfo_cpu_level)level);
            if (table == NULL) {
                continue;
            }
            table->store[PFO_DTYPE_UBLOCK8](block_in, block_code, block_scales, 256, &rounding, 0);
            table->load[PFO_DTYPE_UBLOCK8](block_code, block_scales, block_out, 256);
            for (int i = 0; i < 256; i++) {
                CHECK((block_out[i] > 0.0f) == (block_in[i] > 0.0f));
                CHECK(block_out[i] == 0.0f || block_out[i] >= 0x1p-126f);
            }
        }
    }
}

static void
edges_of_blocks_are_defined(void)
{
    memset(block_in, 0, sizeof block_in);
    block_in[3] = -0.0f;
    for (int run = 0; run < 2; run++) { /* all zero */
        through(run ? PFO_DTYPE_BLOCK8 : PFO_DTYPE_UBLOCK8, 256);
        CHECK(block_scales[0] == 0.0f);
        for (int i = 0; i < 256; i++) {
            CHECK(block_out[i] == 0.0f && block_code[i] == 0);
        }
    }
    const float bad[] = { NAN, -NAN, INFINITY, -INFINITY };
    for (int run = 0; run < 8;
         run++) { /* a block with one that is not finite is NaN throughout, the next block is not touched */
        for (int i = 0; i < 300; i++) {
            block_in[i] = 1.0f;
        }
        block_in[run * 31] = bad[run % 4];
        through(run / 4 ? PFO_DTYPE_BLOCK8 : PFO_DTYPE_UBLOCK8, 300);
        for (int i = 0; i < 300; i++) {
            CHECK(i < 256 ? isnan(block_out[i]) : fabsf(block_out[i] - 1.0f) < 1e-6f);
        }
    }
    block_in[0] = 1.0f;
    block_in[1] = -1.0f;
    block_in[2] = -1e-30f;
    through(PFO_DTYPE_UBLOCK8, 3); /* no sign: below zero reads as zero */
    CHECK(fabsf(block_out[0] - 1.0f) < 1e-6f && block_out[1] == 0.0f && block_out[2] == 0.0f);
}

static void
a_block_that_did_not_change_is_stored_as_it_was(void)
{
    unsigned long long state = 4;
    uint8_t code_before[256];
    for (int run = 0; run < 200; run++) {
        for (int i = 0; i < 256; i++) {
            const float uniform = (float)(check_random(&state) >> 40) * 0x1p-24f;
            block_in[i] = ldexpf(uniform, -(int)(check_random(&state) % 24));
        }
        for (int dtype = PFO_DTYPE_BLOCK8; dtype <= PFO_DTYPE_UBLOCK8; dtype++) {
            through((pfo_dtype)dtype, 256);
            memcpy(code_before, block_code, sizeof code_before);
            memcpy(block_in, block_out, 256 * sizeof *block_in);
            through((pfo_dtype)dtype, 256);
            CHECK(memcmp(code_before, block_code, sizeof code_before) == 0);
        }
    }
}

int
main(void)
{
    RUN(philox_gives_the_published_words);
    RUN(every_code_reads_as_defined_and_comes_back);
    RUN(nearest_is_what_double_says);
    RUN(nan_stays_nan_with_its_sign_and_payload);
    RUN(variants_agree_with_the_reference_bit_for_bit);
    RUN(blocks_take_words_that_were_drawn);
    RUN(every_float16_and_8_bit_code_reads_alike_in_vectors);
    RUN(float32_is_copied_past_the_cache_too);
    RUN(stochastic_rounding_does_not_depend_on_the_cut);
    RUN(stochastic_rounding_is_unbiased);
    RUN(the_two_uses_of_a_draw_are_apart);
    RUN(streams_seeds_and_places_draw_apart);
    RUN(blocks_keep_their_error_bound);
    RUN(blocks_take_the_width_their_numbers_need);
    RUN(the_width_of_a_block_changes_where_the_rule_says);
    RUN(a_positive_second_moment_never_becomes_zero);
    RUN(edges_of_blocks_are_defined);
    RUN(a_block_that_did_not_change_is_stored_as_it_was);
    return FINISH();
}
