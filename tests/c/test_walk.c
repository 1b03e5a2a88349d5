/* test_walk.c: steps over tensors that are not all float32: against the same step written out over whole tensors, for every
 * engine and any number of threads; copies, averages, zeroed gradients, random rounding. */
#include "kernels/walk.h"

#include "check.h"
#include "kernels/rounding_math.h"

#include <math.h>
#include <string.h>

static const int64_t sizes[] = { 0, 1, 255, 256, 257, 1023, 1025, 65535, 65537, 140000 };
enum { TENSORS = sizeof sizes / sizeof sizes[0], ELEMENTS = 280000, LONGEST = 140000 };

typedef struct setup {
    const char *name;
    pfo_op op;
    pfo_dtype dtype[PFO_ROLE_COUNT];
    int has[PFO_ROLE_COUNT];
    int zero_grads;
} setup;

#define F32 PFO_DTYPE_FLOAT32
#define BF16 PFO_DTYPE_BFLOAT16
#define F16 PFO_DTYPE_FLOAT16

static const setup setups[] = {
    { "copy, average, zeroing", PFO_OP_ADAMW, { F32, F32, F32, F32, F32, BF16, F32 }, { 1, 1, 1, 1, 0, 1, 1 }, 1 },
    { "all bfloat16", PFO_OP_ADAMW, { BF16, BF16, BF16, BF16, BF16, F32, BF16 }, { 1, 1, 1, 1, 1, 0, 1 }, 1 },
    { "masters", PFO_OP_ADAMW, { F32, F16, F32, F32, F32, F16, F32 }, { 1, 1, 1, 1, 0, 1, 0 }, 0 },
    { "8-bit state",
      PFO_OP_ADAMW,
      { F32, F32, PFO_DTYPE_BLOCK8, PFO_DTYPE_UBLOCK8, PFO_DTYPE_UBLOCK8, F32, F32 },
      { 1, 1, 1, 1, 1, 0, 0 },
      0 },
    { "mixed",
      PFO_OP_RMSPROP,
      { BF16, F16, PFO_DTYPE_UBLOCK8, BF16, PFO_DTYPE_BLOCK8, PFO_DTYPE_FLOAT8_E4M3, F32 },
      { 1, 1, 1, 1, 1, 1, 1 },
      1 },
    { "sgd", PFO_OP_SGD, { F16, BF16, F16, F32, F32, PFO_DTYPE_FLOAT8_E5M2, F16 }, { 1, 1, 1, 0, 0, 1, 1 }, 0 },
    { "lion", PFO_OP_LION, { BF16, F32, PFO_DTYPE_BLOCK8, F32, F32, F32, F32 }, { 1, 1, 1, 0, 0, 0, 0 }, 1 },
    { "adagrad", PFO_OP_ADAGRAD, { F32, BF16, PFO_DTYPE_UBLOCK8, F32, F32, F32, F32 }, { 1, 1, 1, 0, 0, 1, 0 }, 0 },
    { "nothing but zeroing", PFO_OP_SGD, { F32, F32, F32, F32, F32, F32, F32 }, { 1, 1, 1, 0, 0, 0, 0 }, 1 },
};
enum { SETUPS = sizeof setups / sizeof setups[0] };

typedef struct model {
    float memory[PFO_ROLE_COUNT][ELEMENTS]; /* as many bytes as the widest dtype needs */
    float scales[PFO_STATE_COUNT][ELEMENTS / PFO_SCALE_BLOCK + TENSORS];
    float steps[TENSORS];
    pfo_plan_entry entries[TENSORS];
} model;

static model start, one, other;
static pfo_engine scalar;

static pfo_options
options_of(pfo_op op)
{
    pfo_options options = { .adamw = { 1e-2, 0.9, 0.99, 1e-6, 0.1, 0, 1, 0 } };
    if (op == PFO_OP_RMSPROP) {
        options.rmsprop = (pfo_rmsprop_options){ 1e-2, 0.9, 1e-3, 0.1, 0.9, 1, 0 };
    } else if (op == PFO_OP_SGD) {
        options.sgd = (pfo_sgd_options){ 1e-2, 0.9, 0.1, 0.1, 0, 0 };
    } else if (op == PFO_OP_LION) {
        options.lion = (pfo_lion_options){ 1e-3, 0.9, 0.99, 0.1, 0 };
    } else if (op == PFO_OP_ADAGRAD) {
        options.adagrad = (pfo_adagrad_options){ 1e-2, 0.1, 1e-6, 0.1, 0 };
    }
    return options;
}

/* Where the entries of a model lie. */
static void
lay_out(model *m, const setup *s)
{
    int64_t at = 0, block = 0;
    for (int t = 0; t < TENSORS; t++) {
        pfo_plan_entry *entry = &m->entries[t];
        *entry = (pfo_plan_entry){ .has_grad = 1, .step = &m->steps[t], .count = sizes[t], .stream = t };
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            entry->dtype[role] = s->dtype[role];
            entry->data[role] =
                s->has[role] ? (char *)m->memory[role] + (size_t)at * pfo_dtype_bytes(s->dtype[role]) : NULL;
        }
        for (int k = 0; k < PFO_STATE_COUNT; k++) {
            const pfo_dtype dtype = s->dtype[PFO_ROLE_STATE_1 + k];
            entry->scales[k] = dtype == PFO_DTYPE_BLOCK8 || dtype == PFO_DTYPE_UBLOCK8 ? &m->scales[k][block] : NULL;
        }
        at += sizes[t];
        block += (sizes[t] + PFO_SCALE_BLOCK - 1) / PFO_SCALE_BLOCK;
    }
    REQUIRE(at <= ELEMENTS);
}

static float *
scales_of(const pfo_plan_entry *entry, int role)
{
    const int k = role - PFO_ROLE_STATE_1;
    return k >= 0 && k < PFO_STATE_COUNT ? entry->scales[k] : NULL;
}

static void
read_whole(const pfo_plan_entry *entry, int role, float *to)
{
    if (entry->dtype[role] == F32) {
        memcpy(to, entry->data[role], (size_t)entry->count * sizeof *to);
    } else {
        scalar.converters->load[entry->dtype[role]](entry->data[role], scales_of(entry, role), to, entry->count);
    }
}

static void
write_whole(const pfo_plan_entry *entry, int role, const float *from)
{
    const pfo_rounding rounding = {
        .stochastic = entry->dtype[role] == PFO_DTYPE_BLOCK8 || entry->dtype[role] == PFO_DTYPE_UBLOCK8,
        .saturate = 1,
        .exchanged = pfo_rounding_exchanged(entry->dtype[role], role),
        .seed = 7,
        .stream = pfo_rounding_stream(0, entry->stream, pfo_rounding_draw_role(entry->dtype[role], role)),
    };
    scalar.converters->store[entry->dtype[role]](from, entry->data[role], scales_of(entry, role), entry->count,
                                                 &rounding, 0);
}

static void
fill(model *m, const setup *s)
{
    static float values[LONGEST];
    unsigned long long seed = 3;
    memset(m, 0, sizeof *m);
    lay_out(m, s);
    for (int t = 0; t < TENSORS; t++) {
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            for (int64_t i = 0; i < sizes[t]; i++) {
                const float value = (float)(check_random(&seed) >> 40) / (float)(1 << 23) - 1.0f;
                values[i] = role == PFO_ROLE_GRAD      ? 0.1f * value
                            : role >= PFO_ROLE_STATE_1 ? 1.0f + value * value
                                                       : value;
            }
            if (m->entries[t].data[role] != NULL) {
                write_whole(&m->entries[t], role, values);
            }
        }
    }
}

static pfo_step_result
run(model *m, const setup *s, const pfo_engine *engine, pfo_step_request request, int steps)
{
    memcpy(m, &start, sizeof *m);
    lay_out(m, s);
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(s->op, m->entries, TENSORS, 1, &plan, NULL) == PFO_OK);
    const pfo_options options = options_of(s->op);
    pfo_step_result result = { 0 };
    for (int i = 0; i < steps; i++) {
        request.rounding_step = (uint64_t)i;
        pfo_execute_step(plan, engine, &options, &request, &result);
    }
    pfo_plan_destroy(plan);
    return result;
}

/* The step over whole tensors, with nothing of the code under test but kernels and converters. */
static double
step_whole(model *m, const setup *s)
{
    static float image[PFO_ROLE_COUNT][LONGEST];
    const pfo_options options = options_of(s->op);
    double sum = 0.0;
    for (int t = 0; t < TENSORS; t++) {
        read_whole(&m->entries[t], PFO_ROLE_GRAD, image[PFO_ROLE_GRAD]);
        for (int64_t i = 0; i < sizes[t]; i++) {
            sum += (double)image[PFO_ROLE_GRAD][i] * (double)image[PFO_ROLE_GRAD][i];
        }
    }
    for (int t = 0; t < TENSORS; t++) {
        const pfo_plan_entry *entry = &m->entries[t];
        float *data[PFO_ROLE_COUNT] = { NULL };
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            if (s->has[role] && role != PFO_ROLE_COPY) {
                read_whole(entry, role, image[role]);
                data[role] = image[role];
            }
        }
        const pfo_scalars scalars = pfo_operation_prepare(s->op, &options, 1.0, 0, 1.0, 1.0);
        scalar.kernels->update[s->op](&scalars, data, entry->count);
        for (int role = 0; role < PFO_ROLE_COPY; role++) {
            if (s->has[role] && role != PFO_ROLE_GRAD) {
                write_whole(entry, role, image[role]);
            }
        }
        if (s->has[PFO_ROLE_COPY]) {
            write_whole(entry, PFO_ROLE_COPY, image[PFO_ROLE_WEIGHT]);
        }
        if (s->has[PFO_ROLE_EMA]) {
            read_whole(entry, PFO_ROLE_WEIGHT, image[PFO_ROLE_WEIGHT]);
            scalar.kernels->ema(pfo_lerp_prepare(1.0 - 0.75), image[PFO_ROLE_WEIGHT], image[PFO_ROLE_EMA],
                                entry->count);
            write_whole(entry, PFO_ROLE_EMA, image[PFO_ROLE_EMA]);
        }
        if (s->zero_grads) {
            memset(entry->data[PFO_ROLE_GRAD], 0, (size_t)entry->count * pfo_dtype_bytes(entry->dtype[PFO_ROLE_GRAD]));
        }
    }
    return sqrt(sum);
}

static int
same(const model *a, const model *b)
{
    return memcmp(a->memory, b->memory, sizeof a->memory) == 0 && memcmp(a->scales, b->scales, sizeof a->scales) == 0;
}

static pfo_step_request
request_of(const setup *s)
{
    return (pfo_step_request){ .max_grad_norm = 1e9,
                               .unscale = 1.0,
                               .ema_decay = 0.75,
                               .seed = 7,
                               .skip_nonfinite = 1,
                               .zero_grads = s->zero_grads,
                               .threads = 1 };
}

static void
tiles_give_what_whole_tensors_give_on_every_engine(void)
{
    for (int k = 0; k < SETUPS; k++) {
        fill(&start, &setups[k]);
        memcpy(&one, &start, sizeof one);
        lay_out(&one, &setups[k]);
        const double norm = step_whole(&one, &setups[k]);
        for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
            pfo_engine engine;
            if (!pfo_engine_for((pfo_cpu_level)level, &engine)) {
                continue;
            }
            for (int threads = 1; threads <= 8; threads += level == PFO_CPU_SCALAR ? 4 : 1) {
                pfo_step_request request = request_of(&setups[k]);
                request.threads = threads;
                const pfo_step_result result = run(&other, &setups[k], &engine, request, 1);
                CHECK(fabs(result.norm / norm - 1.0) < 1e-12 && result.clip_factor == 1.0);
                CHECK(same(&one, &other));
                if (!same(&one, &other)) {
                    (void)fprintf(stderr, "  %s, %s, %d threads\n", setups[k].name,
                                  pfo_cpu_level_name(engine.kernels->level), threads);
                }
            }
        }
    }
}

static void
random_rounding_depends_on_seed_step_and_place_alone(void)
{
    for (int k = 0; k < SETUPS; k++) {
        fill(&start, &setups[k]);
        pfo_step_request request = request_of(&setups[k]);
        request.stochastic = 1;
        request.zero_grads = 0;
        (void)run(&one, &setups[k], &scalar, request, 3);
        for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
            pfo_engine engine;
            for (int threads = 1; threads <= 8 && pfo_engine_for((pfo_cpu_level)level, &engine); threads += 3) {
                request.threads = threads;
                (void)run(&other, &setups[k], &engine, request, 3);
                CHECK(same(&one, &other));
            }
        }
        int rounds_when_asked = 0, rounds_always = 0;
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            const pfo_dtype dtype = setups[k].dtype[role];
            const int written = setups[k].has[role] && role != PFO_ROLE_GRAD && role != PFO_ROLE_COPY;
            rounds_when_asked |= written && (dtype == BF16 || dtype == F16);
            rounds_always |= written && (dtype == PFO_DTYPE_BLOCK8 || dtype == PFO_DTYPE_UBLOCK8);
        }
        request.seed++;
        (void)run(&other, &setups[k], &scalar, request, 3);
        CHECK(same(&one, &other) == !(rounds_when_asked || rounds_always));
        request.seed--;
        request.stochastic = 0;
        (void)run(&other, &setups[k], &scalar, request, 3);
        CHECK(same(&one, &other) == !rounds_when_asked);
    }
}

/* Bit counts of a mean: many equal weights, one step; their mean must be that of float32. */
static void
random_rounding_is_right_on_average(void)
{
    static uint16_t weight[65536];
    static float grad[65536];
    const float before = 1.0f; /* bfloat16 neighbours: 1 - 2^-8 and 1 + 2^-7 */
    for (int i = 0; i < 65536; i++) {
        weight[i] = 0x3f80;
        grad[i] = 1.0f;
    }
    pfo_plan_entry entry = { .data = { weight, grad }, .count = 65536, .has_grad = 1 };
    entry.dtype[PFO_ROLE_WEIGHT] = BF16;
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_SGD, &entry, 1, 1, &plan, NULL) == PFO_OK);
    const pfo_options options = { .sgd = { .lr = 1e-3 } };
    const pfo_step_request request = { .max_grad_norm = -1.0, .unscale = 1.0, .stochastic = 1, .seed = 5 };
    pfo_step_result result;
    pfo_execute_step(plan, &scalar, &options, &request, &result);
    double sum = 0.0;
    for (int i = 0; i < 65536; i++) {
        CHECK(weight[i] == 0x3f80 || weight[i] == 0x3f7f);
        sum += weight[i] == 0x3f80 ? 1.0 : 1.0 - 1.0 / 256.0;
    }
    CHECK(fabs(sum / 65536.0 - ((double)before - 1e-3)) < 4.0 * 0.5 / 256.0 / 256.0);
    int alike = 0; /* the next step's bits are others: from 1 as before, of 4 weights 1 goes down and 3 stay */
    static uint16_t first[65536];
    memcpy(first, weight, sizeof first);
    for (int i = 0; i < 65536; i++) {
        weight[i] = 0x3f80;
    }
    pfo_step_request next = request;
    next.rounding_step = 1;
    pfo_execute_step(plan, &scalar, &options, &next, &result);
    for (int i = 0; i < 65536; i++) {
        alike += first[i] == weight[i];
    }
    CHECK(alike > 32768 && alike < 49152);
    pfo_plan_destroy(plan);
}

static void
a_skipped_step_zeroes_gradients_if_asked_and_changes_nothing_else(void)
{
    const setup *s = &setups[1];
    fill(&start, s);
    pfo_step_request request = request_of(s);
    request.found_inf = 2; /* a sum over devices: anything but 0 */
    const pfo_step_result result = run(&one, s, &scalar, request, 1);
    CHECK(result.skipped && result.nonfinite && isnan(result.norm));
    static const float zeros[ELEMENTS];
    CHECK(memcmp(one.memory[PFO_ROLE_GRAD], zeros, ELEMENTS * 2) == 0);
    memcpy(one.memory[PFO_ROLE_GRAD], start.memory[PFO_ROLE_GRAD], sizeof one.memory[0]);
    CHECK(same(&one, &start) && memcmp(one.steps, start.steps, sizeof one.steps) == 0);
    request.zero_grads = 0;
    (void)run(&one, s, &scalar, request, 1);
    CHECK(same(&one, &start));
}

static void
gradients_that_share_memory_are_zeroed_after_the_last_has_used_them(void)
{
    float weight[2][8] = { { 0.0f } }, grad[8];
    pfo_plan_entry entries[2];
    for (int t = 0; t < 2; t++) {
        entries[t] = (pfo_plan_entry){ .data = { weight[t], grad }, .count = 8, .has_grad = 1 };
    }
    for (int i = 0; i < 8; i++) {
        grad[i] = 1.0f;
    }
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_SGD, entries, 2, 1, &plan, NULL) == PFO_OK);
    const pfo_options options = { .sgd = { .lr = 1.0 } };
    const pfo_step_request request = { .max_grad_norm = -1.0, .unscale = 1.0, .zero_grads = 1 };
    pfo_step_result result;
    pfo_execute_step(plan, &scalar, &options, &request, &result);
    for (int i = 0; i < 8; i++) {
        CHECK(weight[0][i] == -1.0f && weight[1][i] == -1.0f && grad[i] == 0.0f);
    }
    pfo_plan_destroy(plan);
}

/* Two states in 8 bits have one draw, in two orders of its bytes; every other role and dtype has its own. */
static void
states_in_8_bits_share_draws_in_pairs(void)
{
    const pfo_dtype block = PFO_DTYPE_BLOCK8, ublock = PFO_DTYPE_UBLOCK8;
    CHECK(pfo_rounding_draw_role(block, PFO_ROLE_STATE_1) == PFO_ROLE_STATE_1);
    CHECK(pfo_rounding_draw_role(ublock, PFO_ROLE_STATE_2) == PFO_ROLE_STATE_1);
    CHECK(pfo_rounding_draw_role(ublock, PFO_ROLE_STATE_3) == PFO_ROLE_STATE_3);
    CHECK(!pfo_rounding_exchanged(block, PFO_ROLE_STATE_1) && pfo_rounding_exchanged(ublock, PFO_ROLE_STATE_2));
    CHECK(!pfo_rounding_exchanged(ublock, PFO_ROLE_STATE_3));
    for (int role = 0; role < PFO_ROLE_COUNT; role++) {
        CHECK(pfo_rounding_draw_role(PFO_DTYPE_BFLOAT16, role) == role);
        CHECK(!pfo_rounding_exchanged(PFO_DTYPE_BFLOAT16, role));
    }
}

/* Each is a function of all three; two stores that draw the same bits would round alike. */
static void
steps_tensors_and_roles_draw_from_streams_of_their_own(void)
{
    uint64_t seen[3 * 3 * PFO_ROLE_COUNT];
    int count = 0;
    const uint64_t steps[] = { 0, 1, (1u << 30) - 1 };
    const int32_t tensors[] = { 0, 1, INT32_MAX };
    for (int i = 0; i < 9 * PFO_ROLE_COUNT; i++) {
        seen[count] = pfo_rounding_stream(steps[i % 3], tensors[i / 3 % 3], i / 9);
        for (int k = 0; k < count; k++) {
            CHECK(seen[k] != seen[count]);
        }
        count++;
    }
}

static void
neighbours_take_their_own_first_steps(void)
{
    float weight[2] = { 0.0f }, grad[2] = { 2.0f, 2.0f }, buffer[2] = { 8.0f, 8.0f };
    pfo_plan_entry entries[2];
    for (int t = 0; t < 2; t++) {
        entries[t] = (pfo_plan_entry){ .data = { &weight[t], &grad[t], &buffer[t] }, .count = 1, .has_grad = 1 };
        entries[t].first = t;
    }
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_SGD, entries, 2, 1, &plan, NULL) == PFO_OK);
    const pfo_options options = { .sgd = { .lr = 1.0, .momentum = 0.5 } };
    const pfo_step_request request = { .max_grad_norm = -1.0, .unscale = 1.0 };
    pfo_step_result result;
    pfo_execute_step(plan, &scalar, &options, &request, &result);
    CHECK(buffer[0] == 6.0f && buffer[1] == 2.0f && grad[0] == 2.0f);
    pfo_plan_destroy(plan);
}

static void
the_first_step_of_a_buffer_is_the_gradient_and_happens_once(void)
{
    float weight[8] = { 0.0f }, grad[8], buffer[8];
    for (int i = 0; i < 8; i++) {
        grad[i] = 2.0f;
        buffer[i] = NAN; /* what lies in it is not looked at */
    }
    const pfo_plan_entry entry = { .data = { weight, grad, buffer }, .count = 8, .has_grad = 1, .first = 1 };
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_SGD, &entry, 1, 1, &plan, NULL) == PFO_OK);
    const pfo_options options = { .sgd = { .lr = 1.0, .momentum = 0.5, .dampening = 0.75 } };
    pfo_step_request request = { .max_grad_norm = -1.0, .unscale = 1.0, .found_inf = 1 };
    pfo_step_result result;
    pfo_execute_step(plan, &scalar, &options, &request, &result);
    CHECK(plan->entries[0].first == 1); /* skipped: it still is to come */
    request.found_inf = 0;
    pfo_execute_step(plan, &scalar, &options, &request, &result);
    CHECK(plan->entries[0].first == 0 && buffer[7] == 2.0f && weight[7] == -2.0f);
    pfo_execute_step(plan, &scalar, &options, &request, &result);
    CHECK(buffer[7] == 1.5f && weight[7] == -3.5f);
    pfo_plan_destroy(plan);
}

int
main(void)
{
    REQUIRE(pfo_engine_for(PFO_CPU_SCALAR, &scalar));
    RUN(tiles_give_what_whole_tensors_give_on_every_engine);
    RUN(random_rounding_depends_on_seed_step_and_place_alone);
    RUN(random_rounding_is_right_on_average);
    RUN(a_skipped_step_zeroes_gradients_if_asked_and_changes_nothing_else);
    RUN(gradients_that_share_memory_are_zeroed_after_the_last_has_used_them);
    RUN(states_in_8_bits_share_draws_in_pairs);
    RUN(steps_tensors_and_roles_draw_from_streams_of_their_own);
    RUN(neighbours_take_their_own_first_steps);
    RUN(the_first_step_of_a_buffer_is_the_gradient_and_happens_once);
    return FINISH();
}
