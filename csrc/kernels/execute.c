/* execute.c: see execute.h. Work is handed out in ranges of chunks; each range looks its tensor up once and walks on.
 */
#include "kernels/execute.h"

#include "base/pool.h"
#include "kernels/float_environment.h"

#include <math.h>

enum { ELEMENTS_WORTH_A_THREAD = 65536 };

typedef struct run_context {
    pfo_plan *plan;
    const pfo_kernel_table *kernels;
} run_context;

/* Offset in bytes and number of elements of a chunk within its tensor. */
static size_t
chunk_span(const pfo_plan *plan, int64_t chunk, int32_t tensor, int64_t *count)
{
    const int64_t begin = (chunk - plan->first_chunk[tensor]) * PFO_CHUNK_ELEMENTS;
    const int64_t left = plan->entries[tensor].count - begin;
    *count = left < PFO_CHUNK_ELEMENTS ? left : PFO_CHUNK_ELEMENTS;
    return (size_t)begin * pfo_dtype_bytes(plan->entries[tensor].dtype);
}

static void
norm_chunks(void *context, int64_t begin, int64_t end)
{
    const run_context *run = context;
    pfo_plan *plan = run->plan;
    const unsigned environment = pfo_enter_default_floats();
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int32_t tensor = plan->chunk_tensor[chunk];
        const pfo_plan_entry *entry = &plan->entries[tensor];
        if (!entry->has_grad) {
            plan->partials[chunk] = (pfo_norm_partial){ 0.0, 0 };
            continue;
        }
        int64_t count;
        const size_t offset = chunk_span(plan, chunk, tensor, &count);
        const char *grad = (const char *)entry->data[PFO_ROLE_GRAD] + offset;
        run->kernels->norm[entry->dtype](grad, count, &plan->partials[chunk]);
    }
    pfo_leave_default_floats(environment);
}

static void
update_chunks(void *context, int64_t begin, int64_t end)
{
    const run_context *run = context;
    const pfo_plan *plan = run->plan;
    const unsigned environment = pfo_enter_default_floats();
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int32_t tensor = plan->chunk_tensor[chunk];
        const pfo_plan_entry *entry = &plan->entries[tensor];
        if (!entry->has_grad) {
            continue;
        }
        int64_t count;
        const size_t offset = chunk_span(plan, chunk, tensor, &count);
        void *data[PFO_ROLE_COUNT];
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            data[role] = (char *)entry->data[role] + offset;
        }
        const pfo_adamw_scalars *scalars = &plan->scalars[plan->scalars_of[tensor]];
        run->kernels->update[plan->op][entry->dtype](scalars, data, count);
    }
    pfo_leave_default_floats(environment);
}

static void
run_over_chunks(const pfo_plan *plan, int threads, pfo_pool_body body, run_context *context)
{
    if (plan->chunk_count == 0) {
        return;
    }
    const int64_t elements_per_chunk = plan->element_count / plan->chunk_count; /* >= 1: no chunk is empty */
    pfo_pool_run(threads, plan->chunk_count, 1 + (ELEMENTS_WORTH_A_THREAD - 1) / elements_per_chunk, body, context);
}

void
pfo_execute_norm(pfo_plan *plan, const pfo_kernel_table *kernels, double unscale, int threads, pfo_step_result *result)
{
    run_context context = { plan, kernels };
    run_over_chunks(plan, threads, norm_chunks, &context);
    double sum = 0.0;
    int64_t nonfinite = 0;
    for (int64_t chunk = 0; chunk < plan->chunk_count; chunk++) {
        sum += plan->partials[chunk].sum_of_squares;
        nonfinite |= plan->partials[chunk].nonfinite;
    }
    result->norm = sqrt(sum) * fabs(unscale);
    result->clip_factor = 1.0;
    result->nonfinite = nonfinite != 0;
    result->skipped = 0;
}

/* Scalars of every tensor that takes part: neighbours mostly share group and step count, so they share one entry. */
static void
prepare_scalars(pfo_plan *plan, const pfo_adamw_options *groups, const pfo_step_request *request, double clip_factor)
{
    int32_t used = 0;
    int32_t group = -1;
    double step = 0.0;
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &plan->entries[t];
        if (!entry->has_grad) {
            continue;
        }
        const double own_step = entry->step != NULL ? (double)(*entry->step + 1.0f) : request->step;
        if (used == 0 || entry->group != group || own_step != step) {
            group = entry->group;
            step = own_step;
            plan->scalars[used++] = pfo_adamw_prepare(&groups[group], step, request->unscale, clip_factor);
        }
        plan->scalars_of[t] = used - 1;
    }
}

static void
count_step(pfo_plan *plan)
{
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &plan->entries[t];
        if (entry->has_grad && entry->step != NULL) {
            *entry->step += 1.0f;
        }
    }
}

void
pfo_execute_adamw(pfo_plan *plan, const pfo_kernel_table *kernels, const pfo_adamw_options *groups,
                  const pfo_step_request *request, pfo_step_result *result)
{
    *result = (pfo_step_result){ .norm = (double)NAN, .clip_factor = 1.0 };
    if (request->max_grad_norm >= 0.0 || request->skip_nonfinite) {
        pfo_execute_norm(plan, kernels, request->unscale, request->threads, result);
    }
    if (result->nonfinite && request->skip_nonfinite) {
        result->skipped = 1;
        return;
    }
    result->clip_factor = pfo_clip_factor(result->norm, request->max_grad_norm);
    prepare_scalars(plan, groups, request, result->clip_factor);
    run_context context = { plan, kernels };
    run_over_chunks(plan, request->threads, update_chunks, &context);
    count_step(plan);
}
