/* execute_device.c: see execute_device.h. Translates a plan's entries and options into the backend's words. */
#include "kernels/execute_device.h"

#include "base/alloc.h"

struct pfo_device_run {
    const pfo_backend *backend;
    const pfo_plan *plan;
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

static void
fill_tensors(pfo_device_run *run)
{
    for (int32_t t = 0; t < run->plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &run->plan->entries[t];
        run->tensors[t] = (pfo_backend_tensor){
            .param = entry->data[PFO_ROLE_WEIGHT],
            .grad = entry->data[PFO_ROLE_GRAD],
            .exp_avg = entry->data[PFO_ROLE_STATE_1],
            .exp_avg_sq = entry->data[PFO_ROLE_STATE_2],
            .step = entry->step,
            .count = entry->count,
            .group = entry->group,
            .dtype = (int32_t)PFO_DTYPE_FLOAT32,
            .has_grad = entry->has_grad,
        };
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

/* What the backend cannot do yet is refused here, with its name. */
static pfo_status
check_plan(const pfo_plan *plan, pfo_error *err)
{
    if (plan->op != PFO_OP_ADAMW) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "operation %s runs on the CPU only; accepted on a device: adamw",
                        pfo_operation_of(plan->op)->name);
    }
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &plan->entries[t];
        if (!entry->plain || entry->data[PFO_ROLE_STATE_3] != NULL) {
            return pfo_fail(
                err, PFO_BAD_ARGUMENT,
                "tensor %d has memory that is not float32, a copy, an average or AMSGrad state; accepted on a "
                "device: float32 without them",
                (int)t);
        }
    }
    return PFO_OK;
}

static pfo_status
check_step(const pfo_device_run *run, const pfo_options *groups, const pfo_step_request *request, pfo_error *err)
{
    for (int32_t g = 0; g < run->plan->group_count; g++) {
        if (groups[g].adamw.coupled) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "group %d couples weight decay (Adam); accepted on a device: AdamW",
                            (int)g);
        }
    }
    for (int32_t t = 0; t < run->plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &run->plan->entries[t];
        if (entry->has_grad && entry->dtype[PFO_ROLE_GRAD] != PFO_DTYPE_FLOAT32) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "grads[%d] is of %s; accepted on a device: float32", (int)t,
                            pfo_dtype_name(entry->dtype[PFO_ROLE_GRAD]));
        }
    }
    if (request->zero_grads || request->found_inf || request->stochastic) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "%s works on the CPU only",
                        request->zero_grads  ? "zero_grads"
                        : request->found_inf ? "found_inf"
                                             : "stochastic rounding");
    }
    return PFO_OK;
}

pfo_status
pfo_device_run_create(const pfo_backend *backend, int32_t device, const pfo_plan *plan, pfo_device_run **run,
                      int64_t *bytes, pfo_error *err)
{
    *run = NULL;
    PFO_TRY(check_plan(plan, err));
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
                        const pfo_step_request *request, void *stream, pfo_error *err)
{
    const pfo_backend *backend = run->backend;
    pfo_backend_error reason = { 0, "" };
    if (run->device_plan == NULL) {
        return pfo_fail(err, PFO_STATE, "the device run has no workspace yet");
    }
    PFO_TRY(check_step(run, groups, request, err));
    for (int32_t g = 0; g < run->plan->group_count; g++) {
        const pfo_adamw_options *options = &groups[g].adamw;
        run->groups[g] = (pfo_backend_group){
            .lr = options->lr,
            .beta1 = options->beta1,
            .beta2 = options->beta2,
            .eps = options->eps,
            .weight_decay = options->weight_decay,
            .device_lr = device_lr[g],
            .maximize = options->maximize,
        };
    }
    const pfo_backend_step step = {
        .max_grad_norm = request->max_grad_norm,
        .unscale = request->unscale,
        .grad_scale = request->device_grad_scale,
        .found_inf = request->device_found_inf,
        .groups = run->groups,
        .skip_nonfinite = request->skip_nonfinite,
    };
    fill_tensors(run);
    PFO_TRY(answer(backend->plan_update(run->device_plan, run->tensors, run->plan->tensor_count, stream, &reason),
                   &reason, err));
    PFO_TRY(answer(backend->norm(run->device_plan, &step, stream, &reason), &reason, err));
    return answer(backend->adamw(run->device_plan, stream, &reason), &reason, err);
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
