/* execute.c: see execute.h. Work is handed to the pool in ranges of chunks (kernels/walk.h). */
#include "kernels/execute.h"

#include "base/pool.h"
#include "kernels/float_environment.h"
#include "kernels/walk.h"

#include <math.h>

enum { ELEMENTS_WORTH_A_THREAD = 65536 };

static void
run_over_chunks(int threads, pfo_pool_body body, pfo_walk *walk)
{
    const pfo_plan *plan = walk->plan;
    if (plan->chunk_count == 0) {
        return;
    }
    const int64_t elements_per_chunk = plan->element_count / plan->chunk_count; /* >= 1: no chunk is empty */
    pfo_pool_run(threads, plan->chunk_count, 1 + (ELEMENTS_WORTH_A_THREAD - 1) / elements_per_chunk, body, walk);
}

void
pfo_execute_norm(pfo_plan *plan, const pfo_engine *engine, double unscale, int threads, pfo_step_result *result)
{
    pfo_walk walk = { .plan = plan, .engine = engine };
    run_over_chunks(threads, pfo_walk_norm, &walk);
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
prepare_scalars(pfo_plan *plan, const pfo_options *groups, const pfo_step_request *request, double clip_factor)
{
    int32_t used = 0;
    const pfo_plan_entry *last = NULL;
    double last_step = 0.0;
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &plan->entries[t];
        if (!entry->has_grad) {
            continue;
        }
        const double step = entry->step != NULL ? (double)(*entry->step + 1.0f) : request->step;
        if (last == NULL || entry->group != last->group || step != last_step || entry->first != last->first) {
            plan->scalars[used++] = pfo_operation_prepare(plan->op, &groups[entry->group], step, entry->first,
                                                          request->unscale, clip_factor);
            last = entry;
            last_step = step;
        }
        plan->scalars_of[t] = used - 1;
    }
}

static void
count_step(pfo_plan *plan)
{
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        pfo_plan_entry *entry = &plan->entries[t];
        if (!entry->has_grad) {
            continue;
        }
        entry->first = 0;
        if (entry->step != NULL) {
            *entry->step += 1.0f;
        }
    }
}

/* Decides whether the step is to be taken, and fills *result. */
static void
look_at_gradients(pfo_plan *plan, const pfo_engine *engine, const pfo_step_request *request, pfo_step_result *result)
{
    *result = (pfo_step_result){ .norm = (double)NAN, .clip_factor = 1.0 };
    if (request->found_inf) {
        result->nonfinite = 1;
        result->skipped = 1;
        return;
    }
    if (request->max_grad_norm >= 0.0 || request->skip_nonfinite) {
        pfo_execute_norm(plan, engine, request->unscale, request->threads, result);
    }
    result->skipped = result->nonfinite && request->skip_nonfinite;
}

void
pfo_execute_step(pfo_plan *plan, const pfo_engine *engine, const pfo_options *groups, const pfo_step_request *request,
                 pfo_step_result *result)
{
    pfo_walk walk = { .plan = plan, .engine = engine, .request = request };
    look_at_gradients(plan, engine, request, result);
    if (!result->skipped) {
        result->clip_factor = pfo_clip_factor(result->norm, request->max_grad_norm);
        const unsigned environment = pfo_enter_default_floats(); /* an eps or learning rate may be a denormal float32 */
        prepare_scalars(plan, groups, request, result->clip_factor);
        walk.ema = pfo_lerp_prepare(1.0 - request->ema_decay);
        pfo_leave_default_floats(environment);
        walk.zero_grads = request->zero_grads && pfo_plan_grads_are_apart(plan);
        run_over_chunks(request->threads, pfo_walk_update, &walk);
        count_step(plan);
    }
    if (request->zero_grads && !walk.zero_grads) {
        run_over_chunks(request->threads, pfo_walk_zero, &walk);
    }
}
