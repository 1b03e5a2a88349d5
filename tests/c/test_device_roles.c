/* Tests of cuda/roles.h without a device: whole steps of the fake backend, which walks it as the kernels do, against the CPU's, bit for
 * bit: every case of kernel_cases.h with every kind of storage, random rounding, copies, averages, zeroed gradients and skipped steps. */
#include "check.h"
#include "device_fixture.h"
#include "kernel_cases.h"

#include "../../cuda/roles.h"

#include "kernels/execute_device.h"

#include <string.h>

enum { TENSORS = 6, EIGHT_BIT = -1, NONE = -2 };

static const pfo_backend *backend;
static pfo_engine engine;
static const int64_t counts[TENSORS] = { 1000, 0, 256, 257, PFO_CHUNK_ELEMENTS + 300, 13 };

/* How a step is stored; EIGHT_BIT: as the operation keeps the state in 8 bits, NONE: not there. */
typedef struct storage {
    int weight, grad, state, copy, ema;
    int stochastic, zero_grads;
} storage;

static const storage storages[] = {
    { PFO_DTYPE_FLOAT32, PFO_DTYPE_FLOAT32, PFO_DTYPE_FLOAT32, NONE, NONE, 0, 0 },
    { PFO_DTYPE_FLOAT32, PFO_DTYPE_FLOAT32, PFO_DTYPE_FLOAT32, NONE, NONE, 0, 1 },
    { PFO_DTYPE_FLOAT32, PFO_DTYPE_BFLOAT16, PFO_DTYPE_FLOAT32, PFO_DTYPE_BFLOAT16, NONE, 0, 0 },
    { PFO_DTYPE_FLOAT32, PFO_DTYPE_FLOAT16, PFO_DTYPE_FLOAT32, PFO_DTYPE_FLOAT16, PFO_DTYPE_FLOAT32, 0, 1 },
    { PFO_DTYPE_BFLOAT16, PFO_DTYPE_BFLOAT16, PFO_DTYPE_BFLOAT16, NONE, NONE, 0, 0 },
    { PFO_DTYPE_BFLOAT16, PFO_DTYPE_BFLOAT16, PFO_DTYPE_BFLOAT16, NONE, PFO_DTYPE_FLOAT32, 1, 0 },
    { PFO_DTYPE_FLOAT16, PFO_DTYPE_FLOAT16, PFO_DTYPE_FLOAT16, NONE, PFO_DTYPE_BFLOAT16, 1, 0 },
    { PFO_DTYPE_FLOAT32, PFO_DTYPE_FLOAT32, EIGHT_BIT, NONE, NONE, 0, 0 },
    { PFO_DTYPE_FLOAT32, PFO_DTYPE_BFLOAT16, EIGHT_BIT, PFO_DTYPE_FLOAT8_E4M3, NONE, 1, 1 },
    { PFO_DTYPE_BFLOAT16, PFO_DTYPE_BFLOAT16, EIGHT_BIT, PFO_DTYPE_FLOAT8_E5M2, PFO_DTYPE_FLOAT16, 1, 0 },
};
enum { STORAGES = sizeof storages / sizeof storages[0] };

typedef struct model {
    pfo_plan_entry entries[TENSORS];
    float step[TENSORS];
    pfo_plan *plan;
} model;

static int
dtype_of(const kernel_case *c, const storage *s, int role)
{
    const int k = role - PFO_ROLE_STATE_1;
    if (role >= PFO_ROLE_STATE_1 && role <= PFO_ROLE_STATE_3) {
        return s->state == EIGHT_BIT ? (int)pfo_operation_of(c->op)->state[k].eight_bit : s->state;
    }
    const int others[PFO_ROLE_COUNT] = {
        [PFO_ROLE_WEIGHT] = s->weight, [PFO_ROLE_GRAD] = s->grad, [PFO_ROLE_COPY] = s->copy, [PFO_ROLE_EMA] = s->ema
    };
    return others[role];
}

/* Memory of a role with its values, as the CPU's converters store them. */
static void
fill_role(pfo_plan_entry *entry, const kernel_case *c, int role, int dtype, unsigned long long *seed)
{
    const size_t count = (size_t)entry->count;
    const pfo_rounding rounding = { .saturate = 1 };
    float *values = malloc((count + 1) * sizeof *values);
    float *scales = NULL;
    void *data = NULL;
    REQUIRE(values != NULL && posix_memalign(&data, 64, count * sizeof(float) + 64) == 0);
    for (size_t i = 0; i < count; i++) {
        values[i] = case_value(c, role, (float)(check_random(seed) >> 40) / 8388608.0f - 1.0f);
    }
    if (pfo_is_block_dtype(dtype)) {
        scales = calloc(count / PFO_SCALE_BLOCK + 1, sizeof *scales);
        REQUIRE(scales != NULL);
        entry->scales[role - PFO_ROLE_STATE_1] = scales;
    }
    engine.converters->store[dtype](values, data, scales, entry->count, &rounding, 0);
    entry->data[role] = data;
    entry->dtype[role] = (pfo_dtype)dtype;
    free(values);
}

static void
make_model(model *m, const kernel_case *c, const storage *s)
{
    unsigned long long seed = 11;
    memset(m, 0, sizeof *m);
    for (int t = 0; t < TENSORS; t++) {
        pfo_plan_entry *entry = &m->entries[t];
        m->step[t] = (float)(c->step - 1.0);
        entry->count = counts[t];
        entry->step = pfo_operation_of(c->op)->counts_steps ? &m->step[t] : NULL;
        entry->stream = t + 3;
        entry->first = c->first;
        entry->has_grad = t != 3;
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            const int dtype = dtype_of(c, s, role);
            if (dtype != NONE && (case_uses(c, role) || role >= PFO_ROLE_COPY)) {
                fill_role(entry, c, role, dtype, &seed);
            }
        }
    }
    pfo_error err = PFO_ERROR_INIT;
    if (pfo_plan_create(c->op, m->entries, TENSORS, 1, &m->plan, &err) != PFO_OK) {
        (void)fprintf(stderr, "%s: %s\n", c->name, err.text);
        REQUIRE(0);
    }
}

static void
free_model(model *m)
{
    pfo_plan_destroy(m->plan);
    for (int t = 0; t < TENSORS; t++) {
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            free(m->entries[t].data[role]);
        }
        for (int k = 0; k < PFO_STATE_COUNT; k++) {
            free(m->entries[t].scales[k]);
        }
    }
}

/* Number of the first role that differs, -1 if none does. */
static int
first_difference(const model *a, const model *b)
{
    for (int t = 0; t < TENSORS; t++) {
        const pfo_plan_entry *x = &a->entries[t];
        const pfo_plan_entry *y = &b->entries[t];
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            const size_t bytes = (size_t)x->count * pfo_dtype_bytes(x->dtype[role]);
            if (x->data[role] != NULL && memcmp(x->data[role], y->data[role], bytes) != 0) {
                return role;
            }
        }
        for (int k = 0; k < PFO_STATE_COUNT; k++) {
            const size_t bytes = (size_t)((x->count + PFO_SCALE_BLOCK - 1) / PFO_SCALE_BLOCK) * sizeof(float);
            if (x->scales[k] != NULL && memcmp(x->scales[k], y->scales[k], bytes) != 0) {
                return PFO_ROLE_COUNT + k;
            }
        }
    }
    return memcmp(a->step, b->step, sizeof a->step) == 0 ? -1 : 2 * PFO_ROLE_COUNT;
}

static int
is_zero(const model *m)
{
    for (int t = 0; t < TENSORS; t++) {
        const pfo_plan_entry *entry = &m->entries[t];
        const size_t bytes = (size_t)entry->count * pfo_dtype_bytes(entry->dtype[PFO_ROLE_GRAD]);
        const unsigned char *grad = entry->data[PFO_ROLE_GRAD];
        for (size_t i = 0; i < bytes && entry->has_grad; i++) {
            if (grad[i] != 0) {
                return 0;
            }
        }
    }
    return 1;
}

/* Three steps: taken, skipped by what the device was told, taken with the number of the step from the device. */
static void
compare(const kernel_case *c, const storage *s, int index)
{
    model cpu, device, untouched;
    make_model(&cpu, c, s);
    make_model(&device, c, s);
    make_model(&untouched, c, s);
    pfo_device_run *run;
    int64_t bytes = 0;
    void *workspace = NULL;
    REQUIRE(pfo_device_run_create(backend, 0, device.plan, &run, &bytes, NULL) == PFO_OK);
    REQUIRE(posix_memalign(&workspace, 256, (size_t)bytes) == 0);
    REQUIRE(pfo_device_run_start(run, workspace, bytes, NULL, NULL) == PFO_OK);
    const float *const no_slot = NULL;
    pfo_step_request request = { .max_grad_norm = -1.0,
                                 .unscale = c->unscale * c->clipping,
                                 .step = c->step,
                                 .ema_decay = 0.9,
                                 .seed = 77,
                                 .stochastic = s->stochastic,
                                 .zero_grads = s->zero_grads,
                                 .threads = 1 };
    for (int i = 0; i < 3; i++) {
        pfo_step_result result;
        const int64_t number = 100 + i;
        const float told = i == 1 ? 2.0f : 0.0f;
        const pfo_device_slots slots = { .found_inf = &told, .rounding_step = i == 2 ? &number : NULL };
        request.rounding_step = (uint64_t)number;
        request.found_inf = i == 1;
        pfo_execute_step(cpu.plan, &engine, &c->options, &request, &result);
        request.found_inf = 0;
        request.rounding_step = i == 2 ? 0 : (uint64_t)number;
        REQUIRE(pfo_execute_device_step(run, &c->options, &no_slot, &slots, &request, NULL, NULL) == PFO_OK);
        const int different = first_difference(&cpu, &device);
        CHECK(different == -1);
        if (different != -1) {
            (void)fprintf(stderr, "    %s, storage %d, step %d: role %d\n", c->name, index, i, different);
        }
        CHECK(!s->zero_grads || is_zero(&device));
    }
    CHECK(first_difference(&device, &untouched) != -1);
    pfo_backend_state state;
    CHECK(pfo_execute_device_read(run, NULL, &state, NULL) == PFO_OK && state.taken == 2 && state.skipped == 1);
    pfo_device_run_destroy(run);
    free(workspace);
    free_model(&cpu);
    free_model(&device);
    free_model(&untouched);
}

static void
steps_of_every_case_and_storage_equal_the_cpus(void)
{
    for (int c = 0; c < KERNEL_CASES; c++) {
        for (int s = 0; s < STORAGES; s++) {
            compare(&kernel_cases[c], &storages[s], s);
        }
    }
}

static void
random_bits_are_dealt_as_on_the_cpu(void)
{
    const pfo_role_rounding rounding = { .stochastic = 1, .seed = 0x123456789abcdef0u, .stream = 0xfedcba9876543210u };
    const int64_t firsts[] = { 0, 256, 65536, (int64_t)1 << 40 };
    for (size_t f = 0; f < sizeof firsts / sizeof firsts[0]; f++) {
        uint16_t halves[PFO_SCALE_BLOCK];
        for (int lane = 0; lane < PFO_BLOCK_LANES; lane++) {
            const pfo_philox_words words = pfo_block_random(&rounding, firsts[f], lane);
            memcpy(&halves[8 * lane], words.word, sizeof words.word);
        }
        for (int place = 0; place < PFO_SCALE_BLOCK; place++) {
            CHECK(halves[pfo_block_random_place(place)] ==
                  pfo_random16(rounding.seed, rounding.stream, (uint64_t)(firsts[f] + place)));
        }
    }
}

static void
lanes_share_out_a_block(void)
{
    int seen[PFO_SCALE_BLOCK] = { 0 };
    for (int lane = 0; lane < PFO_BLOCK_LANES; lane++) {
        for (int j = 0; j < PFO_OCTET; j++) {
            seen[pfo_octet_place(lane, j)]++;
            CHECK(pfo_octet_place(lane, j) == pfo_octet_place(lane, j / PFO_QUAD * PFO_QUAD) + j % PFO_QUAD);
        }
    }
    for (int i = 0; i < PFO_SCALE_BLOCK; i++) {
        CHECK(seen[i] == 1);
    }
}

static void
a_bad_number_in_a_block_is_not_hidden(void)
{
    for (int dtype = PFO_DTYPE_BLOCK8; dtype <= PFO_DTYPE_UBLOCK8; dtype++) {
        const uint32_t largest = pfo_magnitude_bits(NAN);
        const float scale = pfo_role_scale(dtype, largest, pfo_role_tally(dtype, NAN, largest));
        const uint32_t code = pfo_role_encode(dtype, 1.0f, scale, pfo_block_inverse(scale), 1, 0xffffu);
        CHECK(isnan(scale) && code == 0 && isnan(pfo_role_decode(dtype, code, scale)));
    }
}

static void
shared_gradients_are_not_zeroed_on_a_device(void)
{
    static float memory[2][PFO_ROLE_COUNT][16];
    pfo_plan_entry entries[2];
    memset(entries, 0, sizeof entries);
    for (int t = 0; t < 2; t++) {
        entries[t].count = 16;
        entries[t].has_grad = 1;
        entries[t].data[PFO_ROLE_WEIGHT] = memory[t][PFO_ROLE_WEIGHT];
        entries[t].data[PFO_ROLE_GRAD] = memory[0][PFO_ROLE_GRAD];
    }
    pfo_plan *plan;
    pfo_device_run *run;
    int64_t bytes;
    void *workspace = NULL;
    pfo_error err = PFO_ERROR_INIT;
    const float *const no_slot = NULL;
    const pfo_options options = { .sgd = { .lr = 0.1 } };
    const pfo_step_request request = { .max_grad_norm = -1.0, .unscale = 1.0, .zero_grads = 1 };
    REQUIRE(pfo_plan_create(PFO_OP_SGD, entries, 2, 1, &plan, NULL) == PFO_OK);
    REQUIRE(pfo_device_run_create(backend, 0, plan, &run, &bytes, NULL) == PFO_OK);
    REQUIRE(posix_memalign(&workspace, 256, (size_t)bytes) == 0);
    REQUIRE(pfo_device_run_start(run, workspace, bytes, NULL, NULL) == PFO_OK);
    CHECK(pfo_execute_device_step(run, &options, &no_slot, NULL, &request, NULL, &err) == PFO_BAD_ARGUMENT);
    CHECK(strstr(err.text, "two gradients share memory") != NULL);
    pfo_device_run_destroy(run);
    free(workspace);
    pfo_plan_destroy(plan);
}

int
main(int argc, char **argv)
{
    backend = open_device(argc, argv);
    REQUIRE(pfo_engine_for(PFO_CPU_SCALAR, &engine));
    RUN(lanes_share_out_a_block);
    RUN(random_bits_are_dealt_as_on_the_cpu);
    RUN(a_bad_number_in_a_block_is_not_hidden);
    RUN(steps_of_every_case_and_storage_equal_the_cpus);
    RUN(shared_gradients_are_not_zeroed_on_a_device);
    return FINISH();
}
