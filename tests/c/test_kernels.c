/* test_kernels.c: every variant this machine can run against the scalar reference, bit for bit, and the reference itself against
 * the same formulas in double. Arrays stand between guard words that must survive. */
#include "kernels/dispatch.h"

#include "check.h"

#include <math.h>
#include <string.h>

enum { MAX_COUNT = PFO_CHUNK_ELEMENTS + 3, GUARD = 16, MAX_OFFSET = 3 };
#define GUARD_VALUE 12345.678f

typedef struct arrays {
    float memory[PFO_ROLE_COUNT][GUARD + MAX_OFFSET + MAX_COUNT + GUARD];
    void *data[PFO_ROLE_COUNT];
} arrays;

static arrays expected, actual, before;

static const int64_t sizes[] = { 0,  1,  2,  3,  4,  5,  7,  8,   9,   15,  16,   17,   23,   24,    25,    31,   32,
                                 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 1000, 4095, 4097, 65535, 65536, 65537 };
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static float
random_float(unsigned long long *state, float scale)
{
    return scale * ((float)(check_random(state) >> 40) / (float)(1 << 23) - 1.0f);
}

/* Role r starts r * offset elements into its memory, so that the four are misaligned against each other. */
static void
fill(arrays *a, int64_t count, int64_t offset, unsigned long long seed)
{
    for (int role = 0; role < PFO_ROLE_COUNT; role++) {
        float *memory = a->memory[role];
        for (size_t i = 0; i < sizeof a->memory[role] / sizeof *memory; i++) {
            memory[i] = GUARD_VALUE;
        }
        float *first = memory + GUARD + (role * offset) % (MAX_OFFSET + 1);
        a->data[role] = first;
        for (int64_t i = 0; i < count; i++) {
            const float value = random_float(&seed, role == PFO_ROLE_GRAD ? 0.1f : 1.0f);
            first[i] = role == PFO_ROLE_EXP_AVG_SQ ? value * value : value;
        }
    }
}

static void
copy(arrays *to, const arrays *from)
{
    memcpy(to->memory, from->memory, sizeof to->memory);
    for (int role = 0; role < PFO_ROLE_COUNT; role++) {
        to->data[role] = to->memory[role] + ((const float *)from->data[role] - from->memory[role]);
    }
}

static pfo_adamw_scalars
scalars_for(double beta1, int maximize, double clip_factor)
{
    const pfo_adamw_options options = {
        .lr = 1e-2, .beta1 = beta1, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1, .maximize = maximize
    };
    return pfo_adamw_prepare(&options, 3.0, 1.0, clip_factor);
}

static void
check_variant(const pfo_kernel_table *table)
{
    const pfo_kernel_table *reference = pfo_kernels_scalar();
    const double beta1s[] = { 0.9, 0.3, 0.0 };
    for (int s = 0; s < SIZES; s++) {
        for (int64_t offset = 0; offset <= MAX_OFFSET; offset++) {
            const int64_t count = sizes[s];
            fill(&before, count, offset, 17ULL + (unsigned long long)(s * 4 + offset));
            pfo_norm_partial want, got;
            reference->norm[PFO_DTYPE_FLOAT32](before.data[PFO_ROLE_GRAD], count, &want);
            table->norm[PFO_DTYPE_FLOAT32](before.data[PFO_ROLE_GRAD], count, &got);
            CHECK(memcmp(&want.sum_of_squares, &got.sum_of_squares, sizeof want.sum_of_squares) == 0);
            CHECK(want.nonfinite == 0 && got.nonfinite == 0);
            const pfo_adamw_scalars scalars = scalars_for(beta1s[(s + offset) % 3], (int)(offset % 2), 0.37);
            copy(&expected, &before);
            copy(&actual, &before);
            reference->update[PFO_OP_ADAMW][PFO_DTYPE_FLOAT32](&scalars, expected.data, count);
            table->update[PFO_OP_ADAMW][PFO_DTYPE_FLOAT32](&scalars, actual.data, count);
            CHECK(memcmp(expected.memory, actual.memory, sizeof actual.memory) == 0);
            CHECK(count == 0 ||
                  memcmp(before.data[PFO_ROLE_PARAM], actual.data[PFO_ROLE_PARAM], (size_t)count * 4) != 0);
            CHECK(memcmp(before.memory[PFO_ROLE_GRAD], actual.memory[PFO_ROLE_GRAD], sizeof actual.memory[0]) == 0);
        }
    }
}

static void
variants_agree_with_the_reference_bit_for_bit(void)
{
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_kernel_table *table = pfo_kernels_for((pfo_cpu_level)level);
        if (table != NULL) {
            (void)printf("  variant %s\n", pfo_cpu_level_name(table->level));
            check_variant(table);
        } else {
            CHECK(!pfo_cpu_supports((pfo_cpu_level)level));
        }
    }
}

static void
guards_survive_the_reference(void)
{
    for (int s = 0; s < SIZES; s++) {
        fill(&before, sizes[s], 1, 5);
        copy(&actual, &before);
        const pfo_adamw_scalars scalars = scalars_for(0.9, 0, 1.0);
        pfo_kernels_scalar()->update[PFO_OP_ADAMW][PFO_DTYPE_FLOAT32](&scalars, actual.data, sizes[s]);
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            const float *first = actual.data[role];
            const float *memory = actual.memory[role];
            const float *end = memory + sizeof actual.memory[role] / sizeof *memory;
            for (const float *p = memory; p < end; p++) {
                if (p < first || p >= first + sizes[s]) {
                    REQUIRE(*p == GUARD_VALUE);
                }
            }
        }
    }
}

/* Written out from algorithm 2 of the paper, in double and without any helper of the code under test. */
static void
reference_agrees_with_the_paper_in_double(void)
{
    fill(&before, 1000, 0, 99);
    copy(&actual, &before);
    const pfo_adamw_scalars scalars = scalars_for(0.9, 1, 0.37);
    pfo_kernels_scalar()->update[PFO_OP_ADAMW][PFO_DTYPE_FLOAT32](&scalars, actual.data, 1000);
    for (int i = 0; i < 1000; i++) {
        const double g = -0.37 * (double)((float *)before.data[PFO_ROLE_GRAD])[i];
        const double m = 0.9 * (double)((float *)before.data[PFO_ROLE_EXP_AVG])[i] + 0.1 * g;
        const double v = 0.999 * (double)((float *)before.data[PFO_ROLE_EXP_AVG_SQ])[i] + 0.001 * g * g;
        const double m_hat = m / (1.0 - 0.9 * 0.9 * 0.9);
        const double v_hat = v / (1.0 - 0.999 * 0.999 * 0.999);
        const double p = (1.0 - 1e-2 * 0.1) * (double)((float *)before.data[PFO_ROLE_PARAM])[i];
        const double want = p - 1e-2 * m_hat / (sqrt(v_hat) + 1e-8);
        CHECK(fabs(want - (double)((float *)actual.data[PFO_ROLE_PARAM])[i]) < 3e-7);
        CHECK(fabs(m - (double)((float *)actual.data[PFO_ROLE_EXP_AVG])[i]) < 2e-7);
        CHECK(fabs(v - (double)((float *)actual.data[PFO_ROLE_EXP_AVG_SQ])[i]) < 2e-7);
    }
}

static void
nonfinite_is_seen_everywhere_and_only_where_it_is(void)
{
    const float bad[] = { INFINITY, -INFINITY, NAN };
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_kernel_table *table = pfo_kernels_for((pfo_cpu_level)level);
        for (int s = 1; s < SIZES && table != NULL; s++) {
            const int64_t count = sizes[s];
            const int64_t places[] = { 0, count / 2, count - 1 };
            for (int k = 0; k < 9; k++) {
                fill(&before, count, 1, 7);
                float *grad = before.data[PFO_ROLE_GRAD];
                grad[-1] = NAN; /* neighbours must not be read as part of it */
                grad[count] = INFINITY;
                pfo_norm_partial partial;
                table->norm[PFO_DTYPE_FLOAT32](grad, count, &partial);
                CHECK(partial.nonfinite == 0 && isfinite(partial.sum_of_squares));
                grad[places[k % 3]] = bad[k / 3];
                table->norm[PFO_DTYPE_FLOAT32](grad, count, &partial);
                CHECK(partial.nonfinite == 1);
            }
        }
    }
}

static void
large_finite_gradients_raise_no_alarm(void)
{
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_kernel_table *table = pfo_kernels_for((pfo_cpu_level)level);
        if (table == NULL) {
            continue;
        }
        fill(&before, 65536, 0, 7);
        for (int i = 0; i < 65536; i++) {
            ((float *)before.data[PFO_ROLE_GRAD])[i] = 3.4e38f;
        }
        pfo_norm_partial partial;
        table->norm[PFO_DTYPE_FLOAT32](before.data[PFO_ROLE_GRAD], 65536, &partial);
        CHECK(partial.nonfinite == 0);
        CHECK(fabs(sqrt(partial.sum_of_squares) / (256.0 * (double)3.4e38f) - 1.0) < 1e-12);
    }
}

static void
clip_factor_is_the_one_of_torch(void)
{
    CHECK(pfo_clip_factor(10.0, -1.0) == 1.0);
    CHECK(pfo_clip_factor(0.5, 1.0) == 1.0);
    CHECK(pfo_clip_factor(4.0, 1.0) == 1.0 / (4.0 + 1e-6));
    CHECK(pfo_clip_factor(4.0, 0.0) == 0.0);
    CHECK(pfo_clip_factor((double)INFINITY, 1.0) == 0.0);
    CHECK(isnan(pfo_clip_factor((double)NAN, 1.0)));
}

int
main(void)
{
    RUN(variants_agree_with_the_reference_bit_for_bit);
    RUN(guards_survive_the_reference);
    RUN(reference_agrees_with_the_paper_in_double);
    RUN(nonfinite_is_seen_everywhere_and_only_where_it_is);
    RUN(large_finite_gradients_raise_no_alarm);
    RUN(clip_factor_is_the_one_of_torch);
    return FINISH();
}
