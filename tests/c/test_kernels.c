/* test_kernels.c: every variant this machine can run against the scalar reference, bit for bit, and the reference itself against
 * the same formulas in double. Arrays stand between guard words that must survive. */
#include "kernels/dispatch.h"

#include "check.h"
#include "kernel_cases.h"

#include <math.h>
#include <string.h>

enum { ROLES = PFO_ROLE_COPY }; /* what kernels look at */
enum { MAX_COUNT = PFO_CHUNK_ELEMENTS + 3, GUARD = 16, MAX_OFFSET = 3 };
#define GUARD_VALUE 12345.678f

typedef struct arrays {
    float memory[ROLES][GUARD + MAX_OFFSET + MAX_COUNT + GUARD]; /* the first `extent` of each are in use */
    size_t extent;
    float *data[PFO_ROLE_COUNT];
} arrays;

static arrays expected, actual, before;

static const int64_t sizes[] = { 0,  1,  2,  3,  4,  5,  7,  8,   9,   15,  16,   17,   23,   24,    25,    31,   32,
                                 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 1000, 4095, 4097, 65535, 65536, 65537 };
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static float
random_float(unsigned long long *state)
{
    return (float)(check_random(state) >> 40) / (float)(1 << 23) - 1.0f;
}

/* Role r starts r * offset elements into its memory, so that the roles are misaligned against each other. Roles that the case does
 * not use are not there. */
static void
fill(arrays *a, const kernel_case *c, int64_t count, int64_t offset, unsigned long long seed)
{
    a->extent = (size_t)count + GUARD + MAX_OFFSET + GUARD;
    for (int role = 0; role < ROLES; role++) {
        float *memory = a->memory[role];
        for (size_t i = 0; i < a->extent; i++) {
            memory[i] = GUARD_VALUE;
        }
        float *first = memory + GUARD + (role * offset) % (MAX_OFFSET + 1);
        a->data[role] = case_uses(c, role) ? first : NULL;
        for (int64_t i = 0; i < count; i++) {
            first[i] = case_value(c, role, random_float(&seed));
        }
    }
}

static void
copy(arrays *to, const arrays *from)
{
    to->extent = from->extent;
    for (int role = 0; role < ROLES; role++) {
        memcpy(to->memory[role], from->memory[role], from->extent * sizeof(float));
        to->data[role] = from->data[role] != NULL ? to->memory[role] + (from->data[role] - from->memory[role]) : NULL;
    }
}

/* 1 if both have the same bits in a role, or for role == ROLES in all of them, guards included. */
static int
same(const arrays *a, const arrays *b, int role)
{
    if (role < ROLES) {
        return memcmp(a->memory[role], b->memory[role], a->extent * sizeof(float)) == 0;
    }
    int all = 1;
    for (int r = 0; r < ROLES; r++) {
        all &= same(a, b, r);
    }
    return all;
}

static void
check_case(const pfo_kernel_table *table, const kernel_case *c, int64_t count, int64_t offset)
{
    const pfo_kernel_table *reference = pfo_kernels_scalar();
    const pfo_scalars scalars = case_scalars(c);
    fill(&before, c, count, offset, 17ULL + (unsigned long long)(count * 4 + offset));
    copy(&expected, &before);
    copy(&actual, &before);
    reference->update[c->op](&scalars, expected.data, count);
    table->update[c->op](&scalars, actual.data, count);
    const int alike = same(&expected, &actual, ROLES);
    CHECK(alike);
    if (!alike) {
        (void)fprintf(stderr, "  %s: %s, %lld elements\n", pfo_cpu_level_name(table->level), c->name, (long long)count);
    }
    CHECK(count == 0 || !same(&before, &actual, PFO_ROLE_WEIGHT));
    CHECK(same(&before, &actual, PFO_ROLE_GRAD));
}

static void
check_norm_and_average(const pfo_kernel_table *table, int64_t count, int64_t offset)
{
    const pfo_kernel_table *reference = pfo_kernels_scalar();
    fill(&before, &kernel_cases[0], count, offset, 5);
    pfo_norm_lanes want = { { 0.0 }, 0 }, got = { { 0.0 }, 0 };
    reference->norm(before.data[PFO_ROLE_GRAD], count, &want);
    table->norm(before.data[PFO_ROLE_GRAD], count, &got);
    CHECK(memcmp(&want, &got, sizeof want) == 0 && want.nonfinite == 0);
    pfo_norm_lanes pieces = { { 0.0 }, 0 };
    const int64_t cut = count / 2 / PFO_NORM_LANES * PFO_NORM_LANES;
    table->norm(before.data[PFO_ROLE_GRAD], cut, &pieces);
    table->norm(before.data[PFO_ROLE_GRAD] + cut, count - cut, &pieces);
    CHECK(memcmp(&want, &pieces, sizeof want) == 0);
    const double decays[] = { 0.999, 0.25 };
    for (int i = 0; i < 2; i++) {
        const pfo_lerp lerp = pfo_lerp_prepare(1.0 - decays[i]);
        copy(&expected, &before);
        copy(&actual, &before);
        reference->ema(lerp, before.data[PFO_ROLE_WEIGHT], expected.data[PFO_ROLE_STATE_1], count);
        table->ema(lerp, before.data[PFO_ROLE_WEIGHT], actual.data[PFO_ROLE_STATE_1], count);
        CHECK(same(&expected, &actual, ROLES));
        for (int64_t k = 0; k < count; k += 977) {
            const double start = (double)before.data[PFO_ROLE_STATE_1][k],
                         end = (double)before.data[PFO_ROLE_WEIGHT][k];
            const double mean = decays[i] * start + (1.0 - decays[i]) * end;
            CHECK(fabs(mean - (double)actual.data[PFO_ROLE_STATE_1][k]) < 2e-7);
        }
    }
}

static void
variants_agree_with_the_reference_bit_for_bit(void)
{
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_kernel_table *table = pfo_kernels_for((pfo_cpu_level)level);
        if (table == NULL) {
            CHECK(!pfo_cpu_supports((pfo_cpu_level)level));
            continue;
        }
        (void)printf("  variant %s\n", pfo_cpu_level_name(table->level));
        for (int s = 0; s < SIZES; s++) {
            for (int64_t offset = 0; offset <= MAX_OFFSET; offset++) {
                check_norm_and_average(table, sizes[s], offset);
                const int one = (int)(s * (MAX_OFFSET + 1) + offset); /* of the large sizes, each takes some cases */
                for (int k = 0; k < KERNEL_CASES; k++) {
                    if (sizes[s] <= 129 || k % 8 == one % 8) {
                        check_case(table, &kernel_cases[k], sizes[s], offset);
                    }
                }
            }
        }
    }
}

static void
guards_survive_the_reference(void)
{
    for (int k = 0; k < KERNEL_CASES; k++) {
        for (int s = 0; s < SIZES && sizes[s] < 200; s++) {
            fill(&before, &kernel_cases[k], sizes[s], 1, 5);
            copy(&actual, &before);
            const pfo_scalars scalars = case_scalars(&kernel_cases[k]);
            pfo_kernels_scalar()->update[kernel_cases[k].op](&scalars, actual.data, sizes[s]);
            for (int role = 0; role < ROLES; role++) {
                const float *memory = actual.memory[role];
                const float *first = memory + GUARD + role % (MAX_OFFSET + 1);
                const float *end = memory + actual.extent;
                for (const float *p = memory; p < end; p++) {
                    if (p < first || p >= first + sizes[s]) {
                        REQUIRE(*p == GUARD_VALUE);
                    }
                }
            }
        }
    }
}

static void
reference_agrees_with_the_papers_in_double(void)
{
    for (int k = 0; k < KERNEL_CASES; k++) {
        const kernel_case *c = &kernel_cases[k];
        fill(&before, c, 1000, 0, 99);
        copy(&actual, &before);
        const pfo_scalars scalars = case_scalars(c);
        pfo_kernels_scalar()->update[c->op](&scalars, actual.data, 1000);
        double worst = 0.0;
        for (int i = 0; i < 1000; i++) {
            double x[PFO_ROLE_COUNT] = { 0.0 };
            for (int role = 0; role < ROLES; role++) {
                x[role] = before.data[role] != NULL ? (double)before.data[role][i] : 0.0;
            }
            case_double(c, x);
            for (int role = 0; role < ROLES; role++) {
                if (before.data[role] != NULL && role != PFO_ROLE_GRAD) {
                    const double error = fabs(x[role] - (double)actual.data[role][i]) / (1.0 + fabs(x[role]));
                    worst = error > worst ? error : worst;
                }
            }
        }
        CHECK(worst < 1e-6);
        if (worst >= 1e-6) {
            (void)fprintf(stderr, "  %s: off by %g\n", c->name, worst);
        }
    }
}

static void
special_values_are_the_same_everywhere(void)
{
    const float values[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1.0f, 1e-40f, 3e38f };
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_kernel_table *table = pfo_kernels_for((pfo_cpu_level)level);
        for (int k = 0; k < KERNEL_CASES && table != NULL; k++) {
            const kernel_case *c = &kernel_cases[k];
            const pfo_scalars scalars = case_scalars(c);
            fill(&before, c, 64 * 5, 1, 3);
            for (int role = 0; role < ROLES; role++) { /* a special value in each role, among usual ones */
                for (int i = 0; i < 8 && before.data[role] != NULL; i++) {
                    before.data[role][64 * role + 8 * i] = values[i];
                }
            }
            copy(&expected, &before);
            copy(&actual, &before);
            pfo_kernels_scalar()->update[c->op](&scalars, expected.data, 64 * 5);
            table->update[c->op](&scalars, actual.data, 64 * 5);
            for (int role = 0; role < ROLES; role++) {
                for (int i = 0; i < 64 * 5 && before.data[role] != NULL; i++) {
                    const float want = expected.data[role][i], got = actual.data[role][i];
                    CHECK(memcmp(&want, &got, sizeof want) == 0 || (isnan(want) && isnan(got)));
                }
            }
        }
    }
}

/* What torch.sign, torch.maximum and torch.lerp say where random numbers never come. */
static void
the_odd_places_of_the_arithmetic_are_torchs(void)
{
    const pfo_scalars still = { .lion = { .grad_multiplier = 1.0f, .decay = 1.0f, .neg_lr = -1.0f } };
    const pfo_options amsgrad = { .adamw = { .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.5, .amsgrad = 1 } };
    const pfo_scalars larger = pfo_operation_prepare(PFO_OP_ADAMW, &amsgrad, 1.0, 0, 1.0, 1.0);
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_kernel_table *table = pfo_kernels_for((pfo_cpu_level)level);
        for (int i = 0; i < 40 && table != NULL; i++) { /* in whole vectors and in the tail */
            float weight[40], grad[40], moment[40], square[40], largest[40];
            for (int k = 0; k < 40; k++) {
                weight[k] = moment[k] = square[k] = largest[k] = 1.0f;
                grad[k] = 0.0f;
            }
            moment[i] = i % 2 ? 0.0f : NAN;
            table->update[PFO_OP_LION](&still, (float *[PFO_ROLE_COUNT]){ weight, grad, moment }, 40);
            CHECK(weight[i] == 1.0f); /* no direction, no step */
            moment[i] = 1.0f;
            largest[i] = NAN;
            table->update[PFO_OP_ADAMW](&larger, (float *[PFO_ROLE_COUNT]){ weight, grad, moment, square, largest },
                                        40);
            CHECK(isnan(largest[i]) && isnan(weight[i]) && square[i] == 0.5f);
            CHECK(largest[(i + 1) % 40] == 1.0f && !isnan(weight[(i + 1) % 40]));
        }
    }
    CHECK(pfo_lerp_element(pfo_lerp_prepare(1.0), 1e8f, 1.0f) == 1.0f); /* from the nearer end: exact at both */
    CHECK(pfo_lerp_element(pfo_lerp_prepare(0.0), 1e8f, 1.0f) == 1e8f);
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
                fill(&before, &kernel_cases[0], count, 1, 7);
                float *grad = before.data[PFO_ROLE_GRAD];
                grad[-1] = NAN; /* neighbours must not be read as part of it */
                grad[count] = INFINITY;
                pfo_norm_lanes lanes = { { 0.0 }, 0 };
                table->norm(grad, count, &lanes);
                CHECK(lanes.nonfinite == 0 && isfinite(pfo_norm_fold(&lanes).sum_of_squares));
                grad[places[k % 3]] = bad[k / 3];
                table->norm(grad, count, &lanes);
                CHECK(lanes.nonfinite == 1 && pfo_norm_fold(&lanes).nonfinite == 1);
                table->norm(grad, 0, &lanes); /* what has been seen stays seen */
                CHECK(lanes.nonfinite == 1);
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
        fill(&before, &kernel_cases[0], 65536, 0, 7);
        for (int i = 0; i < 65536; i++) {
            before.data[PFO_ROLE_GRAD][i] = 3.4e38f;
        }
        pfo_norm_lanes lanes = { { 0.0 }, 0 };
        table->norm(before.data[PFO_ROLE_GRAD], 65536, &lanes);
        const pfo_norm_partial partial = pfo_norm_fold(&lanes);
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
    RUN(reference_agrees_with_the_papers_in_double);
    RUN(the_odd_places_of_the_arithmetic_are_torchs);
    RUN(guards_survive_the_reference);
    RUN(variants_agree_with_the_reference_bit_for_bit);
    RUN(special_values_are_the_same_everywhere);
    RUN(nonfinite_is_seen_everywhere_and_only_where_it_is);
    RUN(large_finite_gradients_raise_no_alarm);
    RUN(clip_factor_is_the_one_of_torch);
    return FINISH();
}
