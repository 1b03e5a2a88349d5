/* Tests of kernels/execute_device.c on the fake backend, whose device is the host's memory. */
#include "check.h"
#include "device_fixture.h"

#include "base/alloc.h"
#include "kernels/execute_device.h"

#include <math.h>
#include <string.h>

enum { TENSORS = 3, LONGEST = 70000 };

static const pfo_backend *backend;
static const int64_t counts[TENSORS] = { LONGEST, 0, 13 };
static const pfo_options options = { .adamw = {
                                         .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1 } };
static pfo_engine engine;

typedef struct fixture {
    float *data[TENSORS][PFO_ROLE_STATE_3];
    float step[TENSORS];
    pfo_plan *plan;
} fixture;

static void
set_up(fixture *f)
{
    unsigned long long seed = 7;
    pfo_plan_entry entries[TENSORS];
    memset(f, 0, sizeof *f);
    memset(entries, 0, sizeof entries);
    for (int t = 0; t < TENSORS; t++) {
        for (int role = 0; role < PFO_ROLE_STATE_3; role++) {
            f->data[t][role] = calloc((size_t)counts[t] + 1, sizeof(float));
            REQUIRE(f->data[t][role] != NULL);
            for (int64_t i = 0; i < counts[t] && role <= (int)PFO_ROLE_GRAD; i++) {
                f->data[t][role][i] = (float)(check_random(&seed) >> 40) / 8388608.0f - 1.0f;
            }
            entries[t].data[role] = f->data[t][role];
        }
        entries[t].has_grad = 1;
        entries[t].step = &f->step[t];
        entries[t].count = counts[t];
    }
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, entries, TENSORS, 1, &f->plan, NULL) == PFO_OK);
}

static void
tear_down(fixture *f)
{
    pfo_plan_destroy(f->plan);
    for (int t = 0; t < TENSORS; t++) {
        for (int role = 0; role < PFO_ROLE_STATE_3; role++) {
            free(f->data[t][role]);
        }
    }
}

static int
same(const fixture *a, const fixture *b)
{
    for (int t = 0; t < TENSORS; t++) {
        for (int role = 0; role < PFO_ROLE_STATE_3; role++) {
            if (memcmp(a->data[t][role], b->data[t][role], (size_t)counts[t] * sizeof(float)) != 0) {
                return 0;
            }
        }
    }
    return memcmp(a->step, b->step, sizeof a->step) == 0;
}

static void
steps_equal_the_cpus(void)
{
    fixture cpu, device;
    set_up(&cpu);
    set_up(&device);
    pfo_device_run *run;
    int64_t bytes = 0;
    REQUIRE(pfo_device_run_create(backend, 0, device.plan, &run, &bytes, NULL) == PFO_OK);
    void *workspace = NULL;
    REQUIRE(bytes > 0 && posix_memalign(&workspace, 256, (size_t)bytes) == 0);

    const pfo_step_request request = {
        .max_grad_norm = 1.0, .unscale = 1.0, .step = 1.0, .skip_nonfinite = 1, .threads = 1
    };
    const float *const no_slot = NULL;
    pfo_backend_state state;
    CHECK(!pfo_device_run_started(run));
    CHECK(pfo_execute_device_read(run, NULL, &state, NULL) == PFO_OK && state.taken == 0 && state.skipped == 0);
    CHECK(pfo_execute_device_step(run, &options, &no_slot, NULL, &request, NULL, NULL) == PFO_STATE);
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_device_run_start(run, workspace, bytes - 1, NULL, &err) == PFO_BAD_ARGUMENT);
    CHECK(strstr(err.text, "workspace") != NULL);
    CHECK(pfo_device_run_start(run, workspace, bytes, NULL, NULL) == PFO_OK && pfo_device_run_started(run));
    CHECK(pfo_device_run_start(run, workspace, bytes, NULL, NULL) == PFO_STATE);

    pfo_step_result result;
    for (int i = 0; i < 4; i++) {
        if (i == 2) { /* a gradient is missing once */
            CHECK(pfo_plan_set_grad(cpu.plan, 2, 0, NULL, PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
            CHECK(pfo_plan_set_grad(device.plan, 2, 0, NULL, PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
        } else {
            CHECK(pfo_plan_set_grad(cpu.plan, 2, 1, cpu.data[2][PFO_ROLE_GRAD], PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
            CHECK(pfo_plan_set_grad(device.plan, 2, 1, device.data[2][PFO_ROLE_GRAD], PFO_DTYPE_FLOAT32, NULL) ==
                  PFO_OK);
        }
        if (i == 3) {
            cpu.data[2][PFO_ROLE_GRAD][12] = device.data[2][PFO_ROLE_GRAD][12] = NAN;
        }
        pfo_execute_step(cpu.plan, &engine, &options, &request, &result);
        CHECK(pfo_execute_device_step(run, &options, &no_slot, NULL, &request, NULL, NULL) == PFO_OK);
        CHECK(same(&cpu, &device));
    }
    CHECK(result.skipped && cpu.step[0] > 2.5f && cpu.step[2] < 2.5f);
    CHECK(pfo_execute_device_read(run, NULL, &state, NULL) == PFO_OK);
    CHECK(state.taken == 3 && state.skipped == 1 && state.nonfinite == 1 && state.skip == 1);
    pfo_device_run_destroy(run);
    pfo_device_run_destroy(NULL);
    free(workspace);
    tear_down(&cpu);
    tear_down(&device);
}

static void
running_out_of_memory_anywhere_leaves_nothing_behind(void)
{
    fixture f;
    set_up(&f);
    pfo_status status = PFO_NO_MEMORY;
    for (long n = 1; status != PFO_OK; n++) {
        REQUIRE(n < 20);
        pfo_device_run *run;
        int64_t bytes;
        pfo_alloc_fail_at(n);
        status = pfo_device_run_create(backend, 0, f.plan, &run, &bytes, NULL);
        pfo_alloc_fail_at(0);
        CHECK(status == PFO_OK ? n == 4 && run != NULL : status == PFO_NO_MEMORY && run == NULL);
        pfo_device_run_destroy(run);
    }
    tear_down(&f);
}

int
main(int argc, char **argv)
{
    backend = open_device(argc, argv);
    REQUIRE(pfo_engine_for(PFO_CPU_SCALAR, &engine));
    RUN(steps_equal_the_cpus);
    RUN(running_out_of_memory_anywhere_leaves_nothing_behind);
    return FINISH();
}
