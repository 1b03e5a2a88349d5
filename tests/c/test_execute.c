/* test_execute.c: a whole step over many tensors: same bits for any number of threads, skipped steps change nothing, missing
 * gradients, own step counts, and the caller's floating point mode. */
#include "kernels/execute.h"

#include "check.h"

#include <math.h>
#include <string.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#define FLUSH_TO_ZERO 0x8040u /* and denormals read as zero */

static uint64_t
float_mode(void)
{
    return _mm_getcsr();
}

static void
set_float_mode(uint64_t mode)
{
    _mm_setcsr((unsigned)mode);
}
#elif defined(__aarch64__)
#define FLUSH_TO_ZERO (UINT64_C(1) << 24)

static uint64_t
float_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}

static void
set_float_mode(uint64_t mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory");
}
#endif

static const int64_t sizes[] = { 0, 1, 7, 33, 65535, 65536, 65537, 200000, 64, 300001 };
enum { TENSORS = sizeof sizes / sizeof sizes[0], ELEMENTS = 700000, ROLES = PFO_ROLE_STATE_3 };

typedef struct model {
    float memory[ROLES][ELEMENTS];
    float steps[TENSORS];
    pfo_plan_entry entries[TENSORS];
} model;

static model start, one, other;
static pfo_engine scalar;

static void
fill(model *m)
{
    unsigned long long seed = 3;
    for (int role = 0; role < ROLES; role++) {
        for (int i = 0; i < ELEMENTS; i++) {
            const float value = (float)(check_random(&seed) >> 40) / (float)(1 << 23) - 1.0f;
            m->memory[role][i] = role == PFO_ROLE_STATE_2 ? value * value : value;
        }
    }
}

/* Neighbours differ in the group, in the step count, in both or in none. */
static int
group_of(int t)
{
    return t / 2 % 2;
}

static pfo_plan *
plan_of(model *m)
{
    int64_t offset = 0;
    for (int t = 0; t < TENSORS; t++) {
        m->steps[t] = (float)(t / 3);
        m->entries[t] =
            (pfo_plan_entry){ .has_grad = 1, .step = &m->steps[t], .count = sizes[t], .group = group_of(t) };
        for (int role = 0; role < ROLES; role++) {
            m->entries[t].data[role] = &m->memory[role][offset];
        }
        offset += sizes[t];
    }
    pfo_plan *plan;
    REQUIRE(offset <= ELEMENTS);
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, m->entries, TENSORS, 2, &plan, NULL) == PFO_OK);
    return plan;
}

static const pfo_options groups[2] = {
    { .adamw = { .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1 } },
    { .adamw = { .lr = 1e-3, .beta1 = 0.8, .beta2 = 0.99, .eps = 1e-6, .weight_decay = 0.0, .maximize = 1 } },
};

static const pfo_step_request clipped = { .max_grad_norm = 1.0, .unscale = 1.0, .skip_nonfinite = 1, .threads = 1 };

static pfo_step_result
run(model *m, const pfo_engine *engine, pfo_step_request request, int steps)
{
    memcpy(m->memory, start.memory, sizeof m->memory);
    pfo_plan *plan = plan_of(m);
    pfo_step_result result = { 0 };
    for (int i = 0; i < steps; i++) {
        pfo_execute_step(plan, engine, groups, &request, &result);
    }
    pfo_plan_destroy(plan);
    return result;
}

static void
any_number_of_threads_and_any_variant_give_the_same_bits(void)
{
    const pfo_step_result want = run(&one, &scalar, clipped, 3);
    CHECK(want.norm > 1.0 && want.clip_factor == 1.0 / (want.norm + 1e-6) && !want.skipped);
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        pfo_engine engine;
        const int usable = pfo_engine_for((pfo_cpu_level)level, &engine);
        for (int threads = 1; threads <= 8 && usable; threads++) {
            pfo_step_request request = clipped;
            request.threads = threads;
            const pfo_step_result got = run(&other, &engine, request, 3);
            CHECK(memcmp(&want, &got, sizeof want) == 0);
            CHECK(memcmp(one.memory, other.memory, sizeof one.memory) == 0);
            CHECK(memcmp(one.steps, other.steps, sizeof one.steps) == 0);
        }
    }
}

static void
step_counts_are_each_tensors_own(void)
{
    (void)run(&one, &scalar, clipped, 2);
    for (int t = 0; t < TENSORS; t++) {
        CHECK(one.steps[t] == (float)(t / 3) + 2.0f);
    }
    /* one element each of tensors 1 to 3, of which the second is of another group and the third at another step */
    (void)run(&one, &scalar, clipped, 1);
    const pfo_step_result result = run(&other, &scalar, clipped, 1);
    int64_t at = 0;
    for (int t = 1; t <= 3; at += sizes[t++]) {
        const pfo_adamw_scalars s =
            pfo_adamw_prepare(&groups[group_of(t)].adamw, (double)(t / 3) + 1.0, 1.0, result.clip_factor);
        float p = start.memory[PFO_ROLE_WEIGHT][at], m = start.memory[PFO_ROLE_STATE_1][at];
        float v = start.memory[PFO_ROLE_STATE_2][at];
        pfo_adamw_element(&s, start.memory[PFO_ROLE_GRAD][at], &p, &m, &v, NULL);
        CHECK(one.memory[PFO_ROLE_WEIGHT][at] == p && one.memory[PFO_ROLE_STATE_2][at] == v);
    }
}

static void
tensors_without_a_count_follow_that_of_the_run(void)
{
    float moved[2];
    for (int own = 0; own < 2; own++) {
        float weight = 1.0f, grad = 0.5f, exp_avg = 0.25f, exp_avg_sq = 0.25f, count = 6.0f;
        const pfo_plan_entry entry = {
            .data = { &weight, &grad, &exp_avg, &exp_avg_sq }, .count = 1, .step = own ? &count : NULL, .has_grad = 1
        };
        pfo_plan *plan;
        REQUIRE(pfo_plan_create(PFO_OP_ADAMW, &entry, 1, 1, &plan, NULL) == PFO_OK);
        pfo_step_request request = clipped;
        request.step = 7.0;
        pfo_step_result result;
        pfo_execute_step(plan, &scalar, groups, &request, &result);
        moved[own] = weight;
        pfo_plan_destroy(plan);
    }
    CHECK(moved[0] == moved[1] && moved[0] != 1.0f);
}

static void
a_skipped_step_changes_nothing(void)
{
    const int64_t places[] = { 0, 65610, 665000, 674714 - 1 };
    for (int k = 0; k < 4; k++) {
        const float good = start.memory[PFO_ROLE_GRAD][places[k]];
        start.memory[PFO_ROLE_GRAD][places[k]] = k % 2 ? NAN : INFINITY;
        pfo_step_request request = clipped;
        request.threads = 2;
        request.max_grad_norm = k < 2 ? 1.0 : -1.0;
        const pfo_step_result result = run(&one, &scalar, request, 2);
        CHECK(result.skipped && result.nonfinite);
        CHECK(memcmp(one.memory, start.memory, sizeof one.memory) == 0);
        for (int t = 0; t < TENSORS; t++) {
            CHECK(one.steps[t] == (float)(t / 3));
        }
        request.skip_nonfinite = 0;
        CHECK(!run(&one, &scalar, request, 1).skipped);
        CHECK(memcmp(one.memory, start.memory, sizeof one.memory) != 0 && one.steps[0] == 1.0f);
        start.memory[PFO_ROLE_GRAD][places[k]] = good;
    }
}

static void
tensors_without_gradient_are_left_out(void)
{
    memcpy(one.memory, start.memory, sizeof one.memory);
    pfo_plan *plan = plan_of(&one);
    for (int t = 0; t < TENSORS; t++) {
        if (t != 7) {
            REQUIRE(pfo_plan_set_grad(plan, t, 0, NULL, PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
        }
    }
    pfo_step_result result;
    pfo_execute_step(plan, &scalar, groups, &clipped, &result);
    double sum = 0.0;
    const int64_t at = 1 + 7 + 33 + 65535 + 65536 + 65537;
    for (int64_t i = at; i < at + 200000; i++) {
        sum += (double)start.memory[PFO_ROLE_GRAD][i] * (double)start.memory[PFO_ROLE_GRAD][i];
    }
    CHECK(fabs(result.norm / sqrt(sum) - 1.0) < 1e-11);
    const size_t head = (size_t)at * sizeof(float);
    CHECK(memcmp(one.memory[0], start.memory[0], head) == 0);
    CHECK(memcmp(&one.memory[0][at], &start.memory[0][at], 200000 * sizeof(float)) != 0);
    CHECK(memcmp(&one.memory[0][at + 200000], &start.memory[0][at + 200000], 64 * sizeof(float)) == 0);
    CHECK(one.steps[6] == 2.0f && one.steps[7] == 3.0f && one.steps[8] == 2.0f);
    pfo_plan_destroy(plan);
}

static void
unscale_multiplies_norm_and_gradients(void)
{
    pfo_step_request request = clipped;
    request.unscale = 0.25;
    const pfo_step_result scaled = run(&one, &scalar, request, 1);
    const pfo_step_result plain = run(&other, &scalar, clipped, 1);
    CHECK(scaled.norm == 0.25 * plain.norm);
    CHECK(fabs(scaled.clip_factor * 0.25 / plain.clip_factor - 1.0) < 1e-6);
    double worst = 0.0; /* both clip to the same norm, so the moments are the same but for rounding */
    for (int i = 0; i < ELEMENTS; i++) {
        const double error = fabs((double)one.memory[PFO_ROLE_STATE_1][i] - (double)other.memory[PFO_ROLE_STATE_1][i]);
        worst = error > worst ? error : worst;
    }
    CHECK(worst < 1e-6 && memcmp(one.memory[PFO_ROLE_STATE_1], start.memory[PFO_ROLE_STATE_1], 4096) != 0);
    request.max_grad_norm = -1.0; /* without clipping they are not */
    (void)run(&one, &scalar, request, 1);
    const double grad = (double)start.memory[PFO_ROLE_GRAD][0], before = (double)start.memory[PFO_ROLE_STATE_1][0];
    CHECK(fabs((double)one.memory[PFO_ROLE_STATE_1][0] - (0.9 * before + 0.1 * 0.25 * grad)) < 1e-6);
}

static void
without_clipping_and_check_pass_one_is_left_out(void)
{
    pfo_step_request request = clipped;
    request.max_grad_norm = -1.0;
    request.skip_nonfinite = 0;
    const pfo_step_result result = run(&one, &scalar, request, 1);
    CHECK(isnan(result.norm) && result.clip_factor == 1.0);
    request.skip_nonfinite = 1;
    CHECK(isfinite(run(&other, &scalar, request, 1).norm));
    CHECK(memcmp(one.memory, other.memory, sizeof one.memory) == 0);
}

static void
callers_float_mode_neither_matters_nor_changes(void)
{
#if defined(__SSE2__) || defined(__aarch64__)
    for (int i = 0; i < ELEMENTS; i++) {
        start.memory[PFO_ROLE_GRAD][i] *= 1e-38f; /* denormal moments and gradients */
        start.memory[PFO_ROLE_STATE_1][i] *= 1e-38f;
    }
    (void)run(&one, &scalar, clipped, 1);
    const uint64_t usual = float_mode(), flushing = usual | FLUSH_TO_ZERO;
    set_float_mode(flushing);
    CHECK(float_mode() == flushing);
    (void)run(&other, &scalar, clipped, 1);
    CHECK(float_mode() == flushing);
    set_float_mode(usual);
    CHECK(memcmp(one.memory, other.memory, sizeof one.memory) == 0);
#else
    CHECK(1);
#endif
}

static void
empty_plan_is_a_step_of_nothing(void)
{
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, NULL, 0, 0, &plan, NULL) == PFO_OK);
    pfo_step_result result;
    pfo_execute_step(plan, &scalar, NULL, &clipped, &result);
    CHECK(result.norm == 0.0 && !result.skipped && result.clip_factor == 1.0);
    pfo_plan_destroy(plan);
}

int
main(void)
{
    REQUIRE(pfo_engine_for(PFO_CPU_SCALAR, &scalar));
    fill(&start);
    RUN(any_number_of_threads_and_any_variant_give_the_same_bits);
    RUN(step_counts_are_each_tensors_own);
    RUN(tensors_without_a_count_follow_that_of_the_run);
    RUN(a_skipped_step_changes_nothing);
    RUN(tensors_without_gradient_are_left_out);
    RUN(unscale_multiplies_norm_and_gradients);
    RUN(without_clipping_and_check_pass_one_is_left_out);
    RUN(empty_plan_is_a_step_of_nothing);
    RUN(callers_float_mode_neither_matters_nor_changes);
    return FINISH();
}
