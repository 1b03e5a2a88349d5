/* execute_device.c: see execute_device.h. Translates a plan's entries and options into the backend's words. */
#include "kernels/execute_device.h"

#include "base/alloc.h"

#include <string.h>

struct pfo_device_run {
    const pfo_backend *backend;
    pfo_plan *plan;
    pfo_backend_plan *device_plan; /* NULL until started */
    pfo_backend_tensor *tensors;   /* [plan->tensor_count] */
    pfo_backend_group *groups;     /* [plan->group_count] */
    int32_t device;
};

static pfo_status
answer(int32_t code, const pfo_backend_error *from, pfo_error *err)
{
    if (code == PFO_BACKEND_OK) {
        return PFO_OK;
    }
    const pfo_status status = code == PFO_BACKEND_BAD_ARGUMENT ? PFO_BAD_ARGUMENT
                              : code == PFO_BACKEND_NO_MEMORY  ? PFO_NO_MEMORY
                                                               : PFO_DEVICE;
    return pfo_fail(err, status, "%s", from->text);
}

_Static_assert((int)PFO_BACKEND_ROLE_COUNT == (int)PFO_ROLE_COUNT && (int)PFO_BACKEND_GRAD == (int)PFO_ROLE_GRAD &&
                   (int)PFO_BACKEND_STATE_1 == (int)PFO_ROLE_STATE_1 && (int)PFO_BACKEND_COPY == (int)PFO_ROLE_COPY &&
                   (int)PFO_BACKEND_EMA == (int)PFO_ROLE_EMA && (int)PFO_BACKEND_STATE_COUNT == (int)PFO_STATE_COUNT,
               "roles of backend.h and plan.h");

static void
fill_tensors(pfo_device_run *run)
{
    for (int32_t t = 0; t < run->plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &run->plan->entries[t];
        pfo_backend_tensor *tensor = &run->tensors[t];
        *tensor = (pfo_backend_tensor){
            .step = entry->step,
            .count = entry->count,
            .group = entry->group,
            .stream = entry->stream,
            .has_grad = entry->has_grad,
            .first = entry->first,
        };
        memcpy(tensor->data, entry->data, sizeof tensor->data);
        memcpy(tensor->scales, entry->scales, sizeof tensor->scales);
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            tensor->dtype[role] = (int32_t)entry->dtype[role];
        }
    }
}

static pfo_backend_plan_spec
spec_of(const pfo_device_run *run)
{
    return (pfo_backend_plan_spec){
        .device = run->device,
        .op = (int32_t)run->plan->op,
        .tensor_count = run->plan->tensor_count,
        .tensors = run->tensors,
        .group_count = run->plan->group_count < 1 ? 1 : run->plan->group_count,
    };
}

pfo_status
pfo_device_run_create(const pfo_backend *backend, int32_t device, pfo_plan *plan, pfo_device_run **run, int64_t *bytes,
                      pfo_error *err)
{
    *run = NULL;
    pfo_device_run *made = pfo_alloc_array(1, sizeof *made);
    if (made == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for a device run");
    }
    made->backend = backend;
    made->plan = plan;
    made->device = device;
    made->tensors = pfo_alloc_array((size_t)plan->tensor_count, sizeof *made->tensors);
    made->groups = pfo_alloc_array((size_t)plan->group_count, sizeof *made->groups);
    pfo_status status = PFO_OK;
    if (made->tensors == NULL || made->groups == NULL) {
        status =
            pfo_fail(err, PFO_NO_MEMORY, "out of memory for a device run over %d tensors", (int)plan->tensor_count);
    } else {
        fill_tensors(made);
        const pfo_backend_plan_spec spec = spec_of(made);
        pfo_backend_error reason = { 0, "" };
        status = answer(backend->plan_bytes(&spec, bytes, &reason), &reason, err);
    }
    if (status != PFO_OK) {
        pfo_device_run_destroy(made);
        return status;
    }
    *run = made;
    return PFO_OK;
}

void
pfo_device_run_destroy(pfo_device_run *run)
{
    if (run == NULL) {
        return;
    }
    if (run->device_plan != NULL) {
        run->backend->plan_destroy(run->device_plan);
    }
    pfo_free(run->tensors);
    pfo_free(run->groups);
    pfo_free(run);
}

pfo_status
pfo_device_run_start(pfo_device_run *run, void *workspace, int64_t bytes, void *stream, pfo_error *err)
{
    if (run->device_plan != NULL) {
        return pfo_fail(err, PFO_STATE, "the device run has been started already");
    }
    pfo_backend_plan_spec spec = spec_of(run);
    spec.workspace = workspace;
    spec.workspace_bytes = bytes;
    pfo_backend_error reason = { 0, "" };
    return answer(run->backend->plan_create(&spec, stream, &run->device_plan, &reason), &reason, err);
}

int
pfo_device_run_started(const pfo_device_run *run)
{
    return run->device_plan != NULL;
}

pfo_status
pfo_execute_device_step(pfo_device_run *run, const pfo_options *groups, const float *const *device_lr,
                        const pfo_device_slots *slots, const pfo_step_request *request, void *stream, pfo_error *err)
{
    const pfo_backend *backend = run->backend;
    pfo_backend_error reason = { 0, "" };
    if (run->device_plan == NULL) {
        return pfo_fail(err, PFO_STATE, "the device run has no workspace yet");
    }
    if (request->zero_grads && !pfo_plan_grads_are_apart(run->plan)) {
        return pfo_fail(
            err, PFO_BAD_ARGUMENT,
            "zero_grads: two gradients share memory; accepted on a device: gradients apart from each other");
    }
    for (int32_t g = 0; g < run->plan->group_count; g++) {
        run->groups[g] = (pfo_backend_group){ .options = groups[g], .device_lr = device_lr[g] };
    }
    const pfo_backend_step step = {
        .max_grad_norm = request->max_grad_norm,
        .unscale = request->unscale,
        .ema_decay = request->ema_decay,
        .grad_scale = slots != NULL ? slots->grad_scale : NULL,
        .found_inf = slots != NULL ? slots->found_inf : NULL,
        .device_rounding_step = slots != NULL ? slots->rounding_step : NULL,
        .groups = run->groups,
        .seed = request->seed,
        .rounding_step = request->rounding_step,
        .skip_nonfinite = request->skip_nonfinite,
        .skip_anyway = request->found_inf,
        .stochastic = request->stochastic,
        .zero_grads = request->zero_grads,
    };
    fill_tensors(run);
    PFO_TRY(answer(backend->plan_update(run->device_plan, run->tensors, run->plan->tensor_count, stream, &reason),
                   &reason, err));
    PFO_TRY(answer(backend->norm(run->device_plan, &step, stream, &reason), &reason, err));
    return answer(backend->update(run->device_plan, &step, stream, &reason), &reason, err);
}

pfo_status
pfo_execute_device_read(pfo_device_run *run, void *stream, pfo_backend_state *state, pfo_error *err)
{
    if (run->device_plan == NULL) {
        *state = (pfo_backend_state){ .norm = 0.0, .clip_factor = 1.0, .multiplier = 1.0 };
        return PFO_OK;
    }
    pfo_backend_error reason = { 0, "" };
    return answer(run->backend->read_state_and_wait(run->device_plan, stream, state, &reason), &reason, err);
}
