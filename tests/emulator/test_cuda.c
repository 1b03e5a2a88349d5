/* Tests of cuda/<name>.cu on the emulated device: what the double backend has not got: failing calls, captured graphs, the current device,
 * groups that travel through the workspace, and a norm that no number of blocks changes. */
#include "../c/check.h"
#include "../c/device_fixture.h"

#include "emulator.h"

#include "kernels/tensor.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS = 5, MOST_GROUPS = 40, WORKSPACE = 1 << 20, ROOM = 3 * PFO_CHUNK_ELEMENTS };

static const pfo_backend *backend;
static const emulator_controls *controls;
static const int64_t counts[TENSORS] = { 7, 0, 1000, 2 * PFO_CHUNK_ELEMENTS + 3, 256 };

/* SGD with momentum over a few tensors; all of its memory in one block, so that two can be compared. */
typedef struct model {
    float weight[ROOM], grad[ROOM], other_grad[ROOM], buffer[ROOM];
    pfo_backend_tensor tensors[TENSORS];
    pfo_backend_group groups[MOST_GROUPS];
    pfo_backend_step step;
    pfo_backend_plan *plan;
    void *workspace;
    int32_t group_count;
} model;

static void
fill(float *values, uint32_t seed)
{
    for (int i = 0; i < ROOM; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)((double)(seed >> 8) * 0x1p-23 - 1.0);
    }
}

static model *
make_model(int32_t group_count)
{
    model *made = calloc(1, sizeof *made);
    REQUIRE(made != NULL);
    fill(made->weight, 1);
    fill(made->grad, 2);
    fill(made->other_grad, 3);
    made->group_count = group_count;
    int64_t begin = 1; /* no tensor is aligned to four elements unless by chance */
    for (int t = 0; t < TENSORS; t++) {
        made->tensors[t] = (pfo_backend_tensor){
            .data = { &made->weight[begin], &made->grad[begin], &made->buffer[begin] },
            .count = counts[t],
            .group = (t * 13) % group_count,
            .has_grad = 1,
            .first = 1,
        };
        begin += counts[t] + 1;
    }
    for (int g = 0; g < group_count; g++) {
        made->groups[g].options.sgd = (pfo_sgd_options){ .lr = 0.01 * (g + 1), .momentum = 0.9, .dampening = 0.5 };
    }
    made->step = (pfo_backend_step){ .max_grad_norm = -1.0, .unscale = 1.0, .groups = made->groups };
    REQUIRE(posix_memalign(&made->workspace, 256, WORKSPACE) == 0);
    memset(made->workspace, 0x3f, WORKSPACE); /* as a double 4.8e-4 */
    return made;
}

static int32_t
create(model *m, pfo_backend_error *err)
{
    const pfo_backend_plan_spec spec = {
        .op = PFO_OP_SGD,
        .tensor_count = TENSORS,
        .tensors = m->tensors,
        .group_count = m->group_count,
        .workspace = m->workspace,
        .workspace_bytes = WORKSPACE,
    };
    return backend->plan_create(&spec, NULL, &m->plan, err);
}

static int32_t
take_step(model *m)
{
    int32_t code = backend->plan_update(m->plan, m->tensors, TENSORS, NULL, NULL);
    code = code == PFO_BACKEND_OK ? backend->norm(m->plan, &m->step, NULL, NULL) : code;
    return code == PFO_BACKEND_OK ? backend->update(m->plan, &m->step, NULL, NULL) : code;
}

static pfo_backend_state
state_of(model *m)
{
    pfo_backend_state state;
    REQUIRE(backend->read_state_and_wait(m->plan, NULL, &state, NULL) == PFO_BACKEND_OK);
    return state;
}

static int
same(const model *a, const model *b)
{
    return memcmp(a->weight, b->weight, sizeof a->weight) == 0 && memcmp(a->buffer, b->buffer, sizeof a->buffer) == 0;
}

static void
drop(model *m)
{
    backend->plan_destroy(m->plan);
    free(m->workspace);
    free(m);
}

/* Gradients of the tensors: those in `grad`, or those in `other_grad`. */
static void
use_grads(model *m, int other)
{
    for (int t = 0; t < TENSORS; t++) {
        const ptrdiff_t at = (float *)m->tensors[t].data[PFO_BACKEND_WEIGHT] - m->weight;
        m->tensors[t].data[PFO_BACKEND_GRAD] = other ? &m->other_grad[at] : &m->grad[at];
    }
}

static void
a_plan_that_fails_anywhere_is_not_there(void)
{
    controls->use_device(1);
    int32_t code = PFO_BACKEND_DEVICE;
    for (long n = 1; code != PFO_BACKEND_OK; n++) {
        REQUIRE(n < 60);
        model *m = make_model(3);
        pfo_backend_error err = { 0, "" };
        controls->fail_at(n);
        code = create(m, &err);
        const int failed = controls->fail_at(0) == 0;
        CHECK(code == PFO_BACKEND_OK || (code == PFO_BACKEND_DEVICE && strstr(err.text, "made to fail") != NULL));
        CHECK((code == PFO_BACKEND_OK) == (m->plan != NULL));
        CHECK(controls->last_error() == 0);
        CHECK(failed || code == PFO_BACKEND_OK);
        controls->use_device(1);
        drop(m);
    }
    controls->use_device(0);
}

static void
running_out_of_host_memory_leaves_nothing_behind(void)
{
    int32_t code = PFO_BACKEND_NO_MEMORY;
    for (long n = 1; code != PFO_BACKEND_OK; n++) {
        REQUIRE(n < 20);
        model *m = make_model(3);
        controls->fail_alloc_at(n);
        code = create(m, NULL);
        controls->fail_alloc_at(0);
        CHECK(code == PFO_BACKEND_OK ? n == 7 : code == PFO_BACKEND_NO_MEMORY && m->plan == NULL);
        drop(m);
    }
}

/* A call that fails has enqueued nothing of its kind, so that the same call again makes the step what it would have been. */
static void
a_step_goes_on_where_it_failed(void)
{
    const int32_t group_counts[] = { 3, MOST_GROUPS };
    for (int i = 0; i < 2; i++) {
        model *plain = make_model(group_counts[i]);
        REQUIRE(create(plain, NULL) == PFO_BACKEND_OK);
        REQUIRE(take_step(plain) == PFO_BACKEND_OK);
        use_grads(plain, 1);
        for (int g = 0; g < plain->group_count; g++) {
            plain->groups[g].options.sgd.lr *= 0.5;
        }
        REQUIRE(take_step(plain) == PFO_BACKEND_OK);
        int failed = 1;
        for (long n = 1; failed; n++) {
            REQUIRE(n < 40);
            model *m = make_model(group_counts[i]);
            REQUIRE(create(m, NULL) == PFO_BACKEND_OK);
            REQUIRE(take_step(m) == PFO_BACKEND_OK);
            use_grads(m, 1);
            for (int g = 0; g < m->group_count; g++) {
                m->groups[g].options.sgd.lr *= 0.5;
            }
            failed = 0;
            controls->fail_at(n);
            while (backend->plan_update(m->plan, m->tensors, TENSORS, NULL, NULL) != PFO_BACKEND_OK) {
                failed = 1;
            }
            while (backend->norm(m->plan, &m->step, NULL, NULL) != PFO_BACKEND_OK) {
                failed = 1;
                REQUIRE(backend->plan_update(m->plan, m->tensors, TENSORS, NULL, NULL) == PFO_BACKEND_OK);
            }
            while (backend->update(m->plan, &m->step, NULL, NULL) != PFO_BACKEND_OK) {
                failed = 1;
            }
            controls->fail_at(0);
            CHECK(same(m, plain));
            CHECK(state_of(m).taken == 2 && controls->last_error() == 0);
            drop(m);
        }
        drop(plain);
    }
}

/* The options of all groups are zero bytes: none is different from what a fresh plan remembers. */
static void
groups_of_zero_bytes_are_uploaded_too(void)
{
    model *m = make_model(MOST_GROUPS);
    model *untouched = make_model(MOST_GROUPS);
    memset(m->groups, 0, sizeof m->groups);
    REQUIRE(create(m, NULL) == PFO_BACKEND_OK);
    REQUIRE(take_step(m) == PFO_BACKEND_OK);
    CHECK(memcmp(m->weight, untouched->weight, sizeof m->weight) == 0); /* lr is 0 */
    drop(m);
    drop(untouched);
}

/* An upload of the groups that fails half way must not leave groups that are taken for those before. */
static void
groups_are_uploaded_again_after_a_failure(void)
{
    for (long n = 1; n < 12; n++) {
        model *m = make_model(MOST_GROUPS);
        model *plain = make_model(MOST_GROUPS);
        model *both[] = { m, plain };
        for (int i = 0; i < 2; i++) {
            REQUIRE(create(both[i], NULL) == PFO_BACKEND_OK);
            REQUIRE(take_step(both[i]) == PFO_BACKEND_OK);
        }
        const double rate = m->groups[0].options.sgd.lr;
        m->groups[0].options.sgd.lr = 77.0;
        controls->fail_at(n);
        (void)backend->norm(m->plan, &m->step, NULL, NULL);
        const int failed = controls->fail_at(0) == 0;
        m->groups[0].options.sgd.lr = rate;
        if (failed && state_of(m).taken == 1) {
            REQUIRE(take_step(m) == PFO_BACKEND_OK && take_step(plain) == PFO_BACKEND_OK);
            CHECK(same(m, plain));
        }
        drop(m);
        drop(plain);
    }
}

static void
replays_run_on_the_pointers_of_their_capture(void)
{
    const int32_t group_counts[] = { 2, MOST_GROUPS };
    for (int i = 0; i < 2; i++) {
        model *m = make_model(group_counts[i]);
        model *eager = make_model(group_counts[i]);
        REQUIRE(create(m, NULL) == PFO_BACKEND_OK && create(eager, NULL) == PFO_BACKEND_OK);
        REQUIRE(take_step(m) == PFO_BACKEND_OK && take_step(eager) == PFO_BACKEND_OK);
        controls->begin_capture();
        REQUIRE(take_step(m) == PFO_BACKEND_OK);
        CHECK(controls->end_capture() >= 4); /* records, gradients, norm, update */
        CHECK(same(m, eager));               /* a capture takes no step */
        for (int round = 0; round < 4; round++) {
            controls->replay();
            REQUIRE(take_step(eager) == PFO_BACKEND_OK);
            CHECK(same(m, eager));
            use_grads(m,
                      round % 2 == 0); /* an eager step between replays, on gradients elsewhere and at another rate */
            use_grads(eager, round % 2 == 0);
            m->groups[0].options.sgd.lr = eager->groups[0].options.sgd.lr = 3.0;
            REQUIRE(take_step(m) == PFO_BACKEND_OK && take_step(eager) == PFO_BACKEND_OK);
            CHECK(same(m, eager));
            use_grads(eager, 0);
            eager->groups[0].options.sgd.lr = 0.01;
        }
        CHECK(state_of(m).taken == 9);
        drop(m);
        drop(eager);
    }
}

static void
what_cannot_be_captured_is_refused(void)
{
    model *m = make_model(2);
    model *later = make_model(2);
    unsigned char digests[PFO_BACKEND_DIGEST_BYTES];
    unsigned char rest[PFO_BACKEND_SHORT_PIECE];
    _Alignas(16) unsigned char scratch[PFO_BACKEND_DIGEST_BYTES];
    const pfo_backend_pieces pieces = { m->weight, 1024, 1024, scratch, sizeof scratch, digests, rest, 0, 0 };
    pfo_backend_state state;
    pfo_backend_error err = { 0, "" };
    REQUIRE(create(m, NULL) == PFO_BACKEND_OK);
    controls->begin_capture();
    CHECK(create(later, &err) == PFO_BACKEND_BAD_ARGUMENT && later->plan == NULL);
    CHECK(strstr(err.text, "take a step before the capture") != NULL);
    CHECK(backend->read_state_and_wait(m->plan, NULL, &state, &err) == PFO_BACKEND_BAD_ARGUMENT);
    CHECK(backend->digest_pieces_and_wait(&pieces, NULL, &err) == PFO_BACKEND_BAD_ARGUMENT);
    CHECK(controls->end_capture() == 0);
    drop(m);
    drop(later);
}

static void
an_unchanged_step_is_two_launches(void)
{
    model *m = make_model(MOST_GROUPS);
    REQUIRE(create(m, NULL) == PFO_BACKEND_OK);
    REQUIRE(take_step(m) == PFO_BACKEND_OK);
    const long before = controls->launches();
    REQUIRE(take_step(m) == PFO_BACKEND_OK);
    CHECK(controls->launches() == before + 2);
    drop(m);
}

static void
the_norm_is_the_same_for_any_number_of_blocks_and_any_alignment(void)
{
    double first = 0.0;
    model *m = make_model(1);
    static float shifted[4 + 2 * PFO_CHUNK_ELEMENTS + 3];
    const float *values = m->tensors[3].data[PFO_BACKEND_GRAD];
    for (int shift = 0; shift < 4; shift++) {
        memcpy(shifted + shift, values, (size_t)counts[3] * sizeof *values);
        m->tensors[3].data[PFO_BACKEND_GRAD] = shifted + shift;
        for (int multiprocessors = 1; multiprocessors < 5; multiprocessors++) {
            controls->set_multiprocessors(multiprocessors);
            REQUIRE(create(m, NULL) == PFO_BACKEND_OK);
            REQUIRE(backend->norm(m->plan, &m->step, NULL, NULL) == PFO_BACKEND_OK);
            const double norm = state_of(m).norm;
            first = shift == 0 && multiprocessors == 1 ? norm : first;
            CHECK(norm > 100.0 && memcmp(&norm, &first, sizeof norm) == 0);
            backend->plan_destroy(m->plan);
            m->plan = NULL;
        }
    }
    controls->set_multiprocessors(2);
    drop(m);
}

static void
every_call_leaves_the_current_device(void)
{
    model *m = make_model(2);
    pfo_backend_memory memory;
    controls->use_device(1);
    REQUIRE(create(m, NULL) == PFO_BACKEND_OK && controls->current_device() == 1);
    REQUIRE(take_step(m) == PFO_BACKEND_OK && controls->current_device() == 1);
    CHECK(state_of(m).taken == 1 && controls->current_device() == 1);
    CHECK(backend->memory(0, &memory, NULL) == PFO_BACKEND_OK && controls->current_device() == 1);
    CHECK(backend->memory(7, &memory, NULL) == PFO_BACKEND_DEVICE && controls->current_device() == 1);
    controls->use_device(0);
    drop(m);
}

int
main(int argc, char **argv)
{
    backend = open_device(argc, argv);
    Dl_info library;
    REQUIRE(dladdr(backend, &library) != 0);
    void *opened = dlopen(library.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    REQUIRE(opened != NULL);
    const emulator_controls *(*entry)(void);
    *(void **)&entry = dlsym(opened, EMULATOR_SYMBOL);
    REQUIRE(entry != NULL);
    controls = entry();
    RUN(a_plan_that_fails_anywhere_is_not_there);
    RUN(running_out_of_host_memory_leaves_nothing_behind);
    RUN(a_step_goes_on_where_it_failed);
    RUN(groups_of_zero_bytes_are_uploaded_too);
    RUN(groups_are_uploaded_again_after_a_failure);
    RUN(replays_run_on_the_pointers_of_their_capture);
    RUN(what_cannot_be_captured_is_refused);
    RUN(an_unchanged_step_is_two_launches);
    RUN(the_norm_is_the_same_for_any_number_of_blocks_and_any_alignment);
    RUN(every_call_leaves_the_current_device);
    return FINISH();
}
