/* test_plan.c: the cut into chunks, every refusal, and every out-of-memory path. */
#include "kernels/plan.h"

#include "base/alloc.h"
#include "check.h"

#include <string.h>

static float memory[PFO_ROLE_COUNT][300000];

static pfo_plan_entry
entry_at(int64_t offset, int64_t count)
{
    pfo_plan_entry entry = { .count = count, .has_grad = 1 };
    for (int role = 0; role <= PFO_ROLE_STATE_2; role++) {
        entry.data[role] = &memory[role][offset];
    }
    return entry;
}

static void
sizes_around_the_chunk_are_cut_right(void)
{
    const int64_t chunk = PFO_CHUNK_ELEMENTS;
    const int64_t sizes[] = { 0, 1, chunk - 1, 0, chunk, chunk + 1, 0 };
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    pfo_plan_entry entries[COUNT];
    int64_t offset = 0;
    for (int t = 0; t < COUNT; t++) {
        entries[t] = entry_at(offset, sizes[t]);
        offset += sizes[t];
    }
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, entries, COUNT, 1, &plan, NULL) == PFO_OK);
    const int64_t first[] = { 0, 0, 1, 2, 2, 3, 5, 5 };
    CHECK(memcmp(plan->first_chunk, first, sizeof first) == 0);
    CHECK(plan->chunk_count == 5);
    CHECK(plan->element_count == offset);
    const int32_t tensor_of[] = { 1, 2, 4, 5, 5 };
    CHECK(memcmp(plan->chunk_tensor, tensor_of, sizeof tensor_of) == 0);
    pfo_plan_destroy(plan);
}

static void
no_tensors_make_an_empty_plan(void)
{
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_NORM, NULL, 0, 0, &plan, NULL) == PFO_OK);
    CHECK(plan->chunk_count == 0 && plan->first_chunk[0] == 0);
    pfo_plan_destroy(plan);
    pfo_plan_destroy(NULL);
}

/* Expects a refusal whose text contains `words`. */
static void
check_refused(const pfo_plan_entry *entries, int64_t count, const char *words)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_plan *plan = (pfo_plan *)&memory;
    CHECK(pfo_plan_create(PFO_OP_ADAMW, entries, count, 1, &plan, &err) == PFO_BAD_ARGUMENT);
    CHECK(plan == NULL);
    CHECK(strstr(err.text, words) != NULL);
}

static void
bad_entries_are_refused_by_name(void)
{
    pfo_plan_entry two[2] = { entry_at(0, 10), entry_at(10, 10) };
    check_refused(two, -1, "-1 tensors");
    check_refused(two, (int64_t)INT32_MAX + 1, "2147483648 tensors");
    two[1].count = -1;
    check_refused(two, 2, "tensor 1 has -1 elements");
    two[1].count = INT64_MAX / 2;
    check_refused(two, 2, "tensor 1 has 4611686018427387903 elements");
    two[1] = entry_at(10, 10);
    two[1].group = 1;
    check_refused(two, 2, "tensor 1 is in group 1 of 1");
    two[1] = entry_at(10, 10);
    two[1].data[PFO_ROLE_STATE_1] = NULL;
    check_refused(two, 2, "exp_avgs[1] has no memory");
    two[1] = entry_at(10, 10);
    two[1].data[PFO_ROLE_GRAD] = NULL;
    check_refused(two, 2, "grads[1] has no memory");
    two[1] = entry_at(10, 10);
    two[1].data[PFO_ROLE_WEIGHT] = (char *)two[1].data[PFO_ROLE_WEIGHT] + 1;
    check_refused(two, 2, "params[1] is not aligned");
}

static void
shared_memory_is_refused(void)
{
    pfo_plan_entry two[2] = { entry_at(0, 10), entry_at(9, 10) };
    check_refused(two, 2, "share memory");
    two[1] = entry_at(10, 10);
    two[0].data[PFO_ROLE_STATE_2] = two[1].data[PFO_ROLE_WEIGHT];
    check_refused(two, 2, "exp_avg_sqs[0] and params[1] share memory");
    two[0] = entry_at(0, 10);
    two[0].data[PFO_ROLE_GRAD] = two[1].data[PFO_ROLE_WEIGHT];
    check_refused(two, 2, "grads[0] and params[1] share memory");
    two[0] = entry_at(0, 10);
    two[0].data[PFO_ROLE_GRAD] = two[1].data[PFO_ROLE_GRAD]; /* only read: allowed */
    pfo_plan *plan;
    CHECK(pfo_plan_create(PFO_OP_ADAMW, two, 2, 1, &plan, NULL) == PFO_OK);
    pfo_plan_destroy(plan);
}

static void
gradients_may_move_but_not_into_written_memory(void)
{
    pfo_plan_entry two[2] = { entry_at(0, 10), entry_at(10, 10) };
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, two, 2, 1, &plan, NULL) == PFO_OK);
    float other[10];
    CHECK(pfo_plan_set_grad(plan, 1, 1, other, PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
    CHECK(plan->entries[1].data[PFO_ROLE_GRAD] == other);
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_plan_set_grad(plan, 1, 1, &memory[PFO_ROLE_WEIGHT][1], PFO_DTYPE_FLOAT32, &err) == PFO_BAD_ARGUMENT);
    CHECK(strstr(err.text, "grads[1] and params[0] share memory") != NULL);
    CHECK(plan->entries[1].data[PFO_ROLE_GRAD] == other);
    err = (pfo_error)PFO_ERROR_INIT;
    CHECK(pfo_plan_set_grad(plan, 1, 1, (char *)other + 2, PFO_DTYPE_FLOAT32, &err) == PFO_BAD_ARGUMENT);
    CHECK(pfo_plan_set_grad(plan, 1, 1, NULL, PFO_DTYPE_FLOAT32, NULL) == PFO_BAD_ARGUMENT);
    CHECK(pfo_plan_set_grad(plan, 1, 0, NULL, PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
    CHECK(plan->entries[1].has_grad == 0);
    CHECK(pfo_plan_set_grad(plan, 0, 0, plan->entries[0].data[PFO_ROLE_GRAD], PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
    CHECK(plan->entries[0].has_grad == 0);
    pfo_plan_destroy(plan);
}

static void
dtypes_that_a_role_cannot_have_are_refused(void)
{
    pfo_plan_entry two[2] = { entry_at(0, 600), entry_at(600, 600) };
    two[1].dtype[PFO_ROLE_WEIGHT] = PFO_DTYPE_BLOCK8;
    check_refused(two, 2, "params[1] is of block8, in which a step cannot keep it");
    two[1] = entry_at(600, 600);
    two[1].dtype[PFO_ROLE_GRAD] = PFO_DTYPE_FLOAT8_E5M2;
    check_refused(two, 2, "grads[1] is of float8_e5m2");
    two[1] = entry_at(600, 600);
    two[1].dtype[PFO_ROLE_STATE_2] = PFO_DTYPE_UBLOCK8;
    check_refused(two, 2, "the scales of exp_avg_sqs[1] have no aligned memory");
    two[1].scales[1] = (float *)(void *)((char *)memory[PFO_ROLE_EMA] + 2);
    check_refused(two, 2, "the scales of exp_avg_sqs[1] have no aligned memory");
    two[1].scales[1] = memory[PFO_ROLE_EMA];
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, two, 2, 1, &plan, NULL) == PFO_OK);
    CHECK(plan->entries[0].plain && !plan->entries[1].plain && plan->written_count == 7);
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_plan_set_grad(plan, 0, 1, memory[PFO_ROLE_EMA] + 9, PFO_DTYPE_BLOCK8, &err) == PFO_BAD_ARGUMENT);
    CHECK(plan->entries[0].dtype[PFO_ROLE_GRAD] == PFO_DTYPE_FLOAT32);
    CHECK(pfo_plan_set_grad(plan, 0, 1, memory[PFO_ROLE_EMA] + 9, PFO_DTYPE_BFLOAT16, NULL) == PFO_OK);
    CHECK(plan->entries[0].dtype[PFO_ROLE_GRAD] == PFO_DTYPE_BFLOAT16);
    pfo_plan_destroy(plan);
}

static void
every_written_role_is_apart_from_every_other(void)
{
    pfo_plan_entry two[2] = { entry_at(0, 600), entry_at(600, 600) };
    two[0].data[PFO_ROLE_COPY] = memory[PFO_ROLE_COPY];
    two[0].dtype[PFO_ROLE_COPY] = PFO_DTYPE_BFLOAT16;
    two[1].data[PFO_ROLE_EMA] = memory[PFO_ROLE_COPY] + 299;
    check_refused(two, 2, "copies[0] and emas[1] share memory");
    two[1].data[PFO_ROLE_EMA] = memory[PFO_ROLE_COPY] + 300; /* 600 bfloat16 end there */
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, two, 2, 1, &plan, NULL) == PFO_OK);
    pfo_plan_destroy(plan);
    two[1].dtype[PFO_ROLE_STATE_1] = PFO_DTYPE_BLOCK8;
    two[1].scales[0] = memory[PFO_ROLE_COPY] + 898; /* three scales; the average has 600 float32 from 300 on */
    check_refused(two, 2, "the scales of exp_avgs[1] share memory");
    two[1].scales[0] = memory[PFO_ROLE_COPY] + 900;
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, two, 2, 1, &plan, NULL) == PFO_OK);
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_plan_set_grad(plan, 0, 1, memory[PFO_ROLE_COPY] + 902, PFO_DTYPE_FLOAT32, &err) == PFO_BAD_ARGUMENT);
    CHECK(strstr(err.text, "grads[0] and the scales of exp_avgs[1] share memory") != NULL);
    CHECK(pfo_plan_set_grad(plan, 0, 1, memory[PFO_ROLE_COPY] + 903, PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
    pfo_plan_destroy(plan);
}

static void
gradients_that_share_memory_are_known(void)
{
    pfo_plan_entry two[2] = { entry_at(0, 10), entry_at(10, 10) };
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, two, 2, 1, &plan, NULL) == PFO_OK);
    CHECK(pfo_plan_grads_are_apart(plan) && pfo_plan_grads_are_apart(plan));
    CHECK(pfo_plan_set_grad(plan, 1, 1, &memory[PFO_ROLE_GRAD][9], PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
    CHECK(!pfo_plan_grads_are_apart(plan));
    CHECK(pfo_plan_set_grad(plan, 1, 1, &memory[PFO_ROLE_GRAD][20], PFO_DTYPE_FLOAT32, NULL) == PFO_OK);
    pfo_alloc_fail_at(1);
    CHECK(!pfo_plan_grads_are_apart(plan)); /* not known: not relied on */
    CHECK(pfo_plan_grads_are_apart(plan));
    pfo_plan_destroy(plan);
}

static void
operations_name_and_need_their_own_state(void)
{
    const struct {
        pfo_op op;
        int needed;
        const char *names[PFO_STATE_COUNT];
    } cases[] = {
        { PFO_OP_ADAMW, 2, { "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs" } },
        { PFO_OP_SGD, 0, { "momentum_buffers" } },
        { PFO_OP_LION, 1, { "exp_avgs" } },
        { PFO_OP_ADAGRAD, 1, { "sums" } },
        { PFO_OP_RMSPROP, 1, { "square_avgs", "momentum_buffers", "grad_avgs" } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int k = 0; k < PFO_STATE_COUNT; k++) {
            pfo_plan_entry entry = entry_at(0, 10);
            entry.data[PFO_ROLE_STATE_1 + k] = NULL;
            pfo_error err = PFO_ERROR_INIT;
            pfo_plan *plan;
            const pfo_status status = pfo_plan_create(cases[i].op, &entry, 1, 1, &plan, &err);
            CHECK((status == PFO_OK) == (k >= cases[i].needed));
            CHECK(status == PFO_OK || strstr(err.text, cases[i].names[k]) != NULL);
            CHECK((cases[i].names[k] == NULL) == (pfo_operation_of(cases[i].op)->state[k].key == NULL));
            pfo_plan_destroy(plan);
        }
    }
}

static void
options_say_which_state_is_kept(void)
{
    pfo_options options = { .rmsprop = { .momentum = 0.0 } };
    CHECK(pfo_operation_keeps(PFO_OP_RMSPROP, &options, 0) && !pfo_operation_keeps(PFO_OP_RMSPROP, &options, 1));
    options.rmsprop.momentum = 0.9;
    CHECK(pfo_operation_keeps(PFO_OP_RMSPROP, &options, 1) && !pfo_operation_keeps(PFO_OP_RMSPROP, &options, 2));
    options.rmsprop.centered = 1;
    CHECK(pfo_operation_keeps(PFO_OP_RMSPROP, &options, 2));
    options = (pfo_options){ .sgd = { .momentum = 0.9 } };
    CHECK(pfo_operation_keeps(PFO_OP_SGD, &options, 0) && !pfo_operation_keeps(PFO_OP_SGD, &options, 1));
    options = (pfo_options){ .adamw = { .amsgrad = 1 } };
    CHECK(pfo_operation_keeps(PFO_OP_ADAMW, &options, 2) && !pfo_operation_keeps(PFO_OP_LION, &options, 1));
    CHECK(!pfo_operation_keeps(PFO_OP_NORM, &options, 0));
}

static void
running_out_of_memory_anywhere_leaves_nothing_behind(void)
{
    const pfo_plan_entry two[2] = { entry_at(0, 10), entry_at(10, 70000) };
    pfo_status status = PFO_NO_MEMORY;
    long failures = 0;
    for (long n = 1; status != PFO_OK && n < 100; n++) {
        pfo_plan *plan;
        pfo_alloc_fail_at(n);
        status = pfo_plan_create(PFO_OP_ADAMW, two, 2, 1, &plan, NULL);
        pfo_alloc_fail_at(0);
        CHECK(status == PFO_OK || (status == PFO_NO_MEMORY && plan == NULL));
        failures += status != PFO_OK;
        pfo_plan_destroy(plan);
    }
    CHECK(status == PFO_OK && failures == 8);
}

int
main(void)
{
    RUN(sizes_around_the_chunk_are_cut_right);
    RUN(no_tensors_make_an_empty_plan);
    RUN(bad_entries_are_refused_by_name);
    RUN(shared_memory_is_refused);
    RUN(gradients_may_move_but_not_into_written_memory);
    RUN(dtypes_that_a_role_cannot_have_are_refused);
    RUN(every_written_role_is_apart_from_every_other);
    RUN(gradients_that_share_memory_are_known);
    RUN(operations_name_and_need_their_own_state);
    RUN(options_say_which_state_is_kept);
    RUN(running_out_of_memory_anywhere_leaves_nothing_behind);
    return FINISH();
}
