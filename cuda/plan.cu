/* plan.cu: plans: checks, the tables in the workspace, and the launches of a step.
 *
 * The host keeps a mirror of the tables and enqueues what changed.
 * - [packets] Tables travel to the device as kernel parameters, never by a copy from host memory: no pinned buffer to
 *   keep alive, no synchronisation, and a captured graph holds its own.
 * - [graphs] A captured step uploads its whole table, so each replay runs on the pointers of its capture. When replays
 *   happen is not known here, so from the first capture on every eager update uploads everything too.
 *
 * Memory: host memory by base/alloc.h, freed by plan_destroy(); device memory is the caller's workspace.
 */
#include "common.cuh"
#include "roles.h"

#include <stdio.h>
#include <string.h>

extern "C" {
#include "base/alloc.h"
}

namespace {

/* [packets] Words for the device, in a kernel's parameters. Both sizes begin alike. */
template <int kBytes> struct packet {
    uint32_t *to;
    uint32_t count;
    uint32_t words[(kBytes - 16) / 4];
};

#if CUDART_VERSION >= 12010
constexpr int kLargePacket = PFO_CUDA_LARGE_PARAMETERS / 8 * 8;
#else
constexpr int kLargePacket = PFO_CUDA_PARAMETERS;
#endif
using small_packet = packet<PFO_CUDA_PARAMETERS>;
using large_packet = packet<kLargePacket>;
static_assert(sizeof(small_packet) <= PFO_CUDA_PARAMETERS && sizeof(large_packet) <= PFO_CUDA_LARGE_PARAMETERS,
              "parameters");

constexpr int kUploadThreads = 256;

template <typename Packet>
__global__ void
__launch_bounds__(kUploadThreads) upload_kernel(const __grid_constant__ Packet packet)
{
    const uint32_t word = blockIdx.x * kUploadThreads + threadIdx.x;
    if (word < packet.count) {
        packet.to[word] = packet.words[word];
    }
}

} // namespace

struct pfo_backend_plan {
    int32_t device;
    int32_t op;
    int32_t group_count;
    int norm_blocks;
    int update_blocks[2]; /* of the general kernel and of the plain one */
    int plain;            /* 1: every tensor is float32 throughout */
    int stale;            /* 1: an upload failed, the device's tables are not the mirror's */
    int captured;         /* 1: [graphs] */
    int groups_there;     /* 1: the device has what groups[] says */
    pfo_table_layout layout;
    pfo_table_view view; /* of device memory */
    pfo_table_record *records;
    const void **grads;
    int32_t *chunk_tensor;
    pfo_backend_group *groups; /* last uploaded; used when they do not fit into the parameters */
    large_packet *packet;
};

namespace {

constexpr const char *role_names[] = { "weight", "gradient", "state 1", "state 2", "state 3", "copy", "average" };
static_assert(sizeof role_names / sizeof *role_names == PFO_BACKEND_ROLE_COUNT, "a name for each role");

/* Whether a role may be of that dtype. */
bool
allows(int role, int32_t dtype)
{
    const bool is_state = role >= PFO_BACKEND_STATE_1 && role <= PFO_BACKEND_STATE_3;
    return dtype >= 0 && dtype < PFO_DTYPE_COUNT && (is_state || !pfo_is_block_dtype(dtype)) &&
           (role != PFO_BACKEND_GRAD || pfo_table_dtype_bytes(dtype) > 1);
}

int32_t
check_role(const pfo_backend_tensor *tensor, long long t, int role, bool needed, pfo_backend_error *err)
{
    const void *data = tensor->data[role];
    const int32_t dtype = tensor->dtype[role];
    if (data == NULL && !needed) {
        return PFO_BACKEND_OK;
    }
    if (!allows(role, dtype)) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "%s of tensor %lld cannot have dtype code %d",
                             role_names[role], t, (int)dtype);
    }
    const int bytes = pfo_table_dtype_bytes(dtype);
    if (data == NULL || (uintptr_t)data % (uintptr_t)bytes != 0) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "%s of tensor %lld is at address %p%s",
                             role_names[role], t, data, data == NULL ? "" : ", which is not aligned to its element");
    }
    const bool scaled = pfo_is_block_dtype(dtype);
    const float *scales = scaled ? tensor->scales[role - PFO_BACKEND_STATE_1] : NULL;
    if (scaled && (scales == NULL || (uintptr_t)scales % sizeof(float) != 0)) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "scales of %s of tensor %lld are at address %p", role_names[role], t,
                             static_cast<const void *>(scales));
    }
    return PFO_BACKEND_OK;
}

int32_t
check_tensor(const pfo_backend_plan_spec *spec, int64_t t, pfo_backend_error *err)
{
    const pfo_backend_tensor *tensor = &spec->tensors[t];
    if (tensor->count < 0 || tensor->count > PTRDIFF_MAX / 4) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "tensor %lld has %lld elements", (long long)t,
                             (long long)tensor->count);
    }
    if (tensor->group < 0 || tensor->group >= spec->group_count) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "tensor %lld is in group %d of %d",
                             (long long)t, (int)tensor->group, (int)spec->group_count);
    }
    const bool updates = spec->op != PFO_OP_NORM;
    if (updates && (uintptr_t)tensor->step % sizeof(float) != 0) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "step of tensor %lld is at address %p",
                             (long long)t, static_cast<void *>(tensor->step));
    }
    for (int role = 0; role < PFO_BACKEND_ROLE_COUNT && tensor->count > 0; role++) {
        const bool first_states = role == PFO_BACKEND_STATE_1 ? spec->op != PFO_OP_SGD
                                                              : role == PFO_BACKEND_STATE_2 && spec->op == PFO_OP_ADAMW;
        const bool needed =
            role == PFO_BACKEND_GRAD ? tensor->has_grad != 0 : updates && (role == PFO_BACKEND_WEIGHT || first_states);
        const bool looked_at = role == PFO_BACKEND_GRAD ? tensor->has_grad != 0 : updates;
        const int32_t code = looked_at ? check_role(tensor, (long long)t, role, needed, err) : PFO_BACKEND_OK;
        if (code != PFO_BACKEND_OK) {
            return code;
        }
    }
    return PFO_BACKEND_OK;
}

/* Checks all but the workspace and lays it out. */
int32_t
check_spec(const pfo_backend_plan_spec *spec, pfo_table_layout *layout, pfo_backend_error *err)
{
    if (spec->op < 0 || spec->op >= PFO_OP_COUNT) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "operation code %d is unknown", (int)spec->op);
    }
    if (spec->tensor_count < 0 || spec->tensor_count > INT32_MAX || spec->group_count < 1) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "%lld tensors in %d groups",
                             (long long)spec->tensor_count, (int)spec->group_count);
    }
    int64_t chunks = 0;
    for (int64_t t = 0; t < spec->tensor_count; t++) {
        const int32_t code = check_tensor(spec, t, err);
        if (code != PFO_BACKEND_OK) {
            return code;
        }
        chunks += pfo_table_chunks_of(spec->tensors[t].count);
        if (chunks > INT32_MAX) {
            return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "more than %d chunks of %d elements",
                                 INT32_MAX, (int)PFO_CHUNK_ELEMENTS);
        }
    }
    *layout = pfo_table_lay_out(spec->tensor_count, chunks, spec->group_count, spec->op != PFO_OP_NORM);
    return PFO_BACKEND_OK;
}

int32_t
check_workspace(const pfo_backend_plan_spec *spec, const pfo_table_layout *layout, pfo_backend_error *err)
{
    if (spec->workspace == NULL || (uintptr_t)spec->workspace % PFO_TABLE_ALIGNMENT != 0 ||
        spec->workspace_bytes < layout->bytes) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "workspace of %lld bytes at address %p; needed: %lld bytes, aligned to %d",
                             (long long)spec->workspace_bytes, spec->workspace, (long long)layout->bytes,
                             (int)PFO_TABLE_ALIGNMENT);
    }
    return PFO_BACKEND_OK;
}

/* Whether the plain kernel can do all tensors that have a gradient. */
int
is_plain(const pfo_backend_plan *plan)
{
    for (int64_t t = 0; t < plan->layout.tensor_count; t++) {
        const pfo_table_record *record = &plan->records[t];
        if (plan->grads[t] != NULL && (!record->plain || record->dtype[PFO_BACKEND_GRAD] != PFO_DTYPE_FLOAT32)) {
            return 0;
        }
    }
    return 1;
}

int32_t
make_mirror(pfo_backend_plan *plan, const pfo_backend_plan_spec *spec, pfo_backend_error *err)
{
    const size_t tensors = (size_t)plan->layout.tensor_count;
    plan->records = static_cast<pfo_table_record *>(pfo_alloc_array(tensors, sizeof *plan->records));
    plan->grads = static_cast<const void **>(pfo_alloc_array(tensors, sizeof *plan->grads));
    plan->chunk_tensor =
        static_cast<int32_t *>(pfo_alloc_array((size_t)plan->layout.chunk_count, sizeof *plan->chunk_tensor));
    plan->groups = static_cast<pfo_backend_group *>(pfo_alloc_array((size_t)plan->group_count, sizeof *plan->groups));
    plan->packet = static_cast<large_packet *>(pfo_alloc_array(1, sizeof *plan->packet));
    if (plan->records == NULL || plan->grads == NULL || plan->chunk_tensor == NULL || plan->groups == NULL ||
        plan->packet == NULL) {
        return pfo_cuda_fail(err, PFO_BACKEND_NO_MEMORY, cudaSuccess, "out of host memory for a plan over %zu tensors",
                             tensors);
    }
    pfo_table_fill(spec->tensors, spec->tensor_count, plan->records, plan->chunk_tensor);
    (void)pfo_table_update_grads(spec->tensors, spec->tensor_count, plan->grads);
    plan->plain = is_plain(plan);
    return PFO_BACKEND_OK;
}

/* Enqueues the writing of bytes (a multiple of 4) to device memory. [packets] */
cudaError_t
upload(pfo_backend_plan *plan, void *to, const void *from, int64_t bytes, cudaStream_t stream)
{
    const char *source = static_cast<const char *>(from);
    char *target = static_cast<char *>(to);
    while (bytes > 0) {
        const int64_t room = bytes <= (int64_t)sizeof plan->packet->words ? bytes : (int64_t)sizeof plan->packet->words;
        const bool small = room <= (int64_t)sizeof(small_packet::words);
        plan->packet->to = reinterpret_cast<uint32_t *>(target);
        plan->packet->count = (uint32_t)(room / 4);
        memcpy(plan->packet->words, source, (size_t)room);
        const void *kernel = small ? reinterpret_cast<const void *>(&upload_kernel<small_packet>)
                                   : reinterpret_cast<const void *>(&upload_kernel<large_packet>);
        const unsigned blocks = (plan->packet->count + kUploadThreads - 1) / kUploadThreads;
        void *parameters[] = { plan->packet };
        const cudaError_t error = cudaLaunchKernel(kernel, dim3(blocks), dim3(kUploadThreads), parameters, 0, stream);
        if (error != cudaSuccess) {
            plan->stale = 1;
            return error;
        }
        source += room;
        target += room;
        bytes -= room;
    }
    return cudaSuccess;
}

cudaError_t
upload_records(pfo_backend_plan *plan, pfo_table_range range, cudaStream_t stream)
{
    return upload(plan, plan->view.records + range.begin, plan->records + range.begin,
                  (range.end - range.begin) * (int64_t)sizeof *plan->records, stream);
}

cudaError_t
upload_grads(pfo_backend_plan *plan, pfo_table_range range, cudaStream_t stream)
{
    return upload(plan, plan->view.grads + range.begin, plan->grads + range.begin,
                  (range.end - range.begin) * (int64_t)sizeof *plan->grads, stream);
}

int32_t
start_plan(pfo_backend_plan *plan, cudaStream_t stream, pfo_backend_error *err)
{
    cudaError_t error =
        pfo_cuda_resident_blocks(pfo_cuda_norm_kernel(), PFO_CUDA_THREADS, plan->device, &plan->norm_blocks);
    for (int plain = 0; plain < 2 && plan->op != PFO_OP_NORM && error == cudaSuccess; plain++) {
        error = pfo_cuda_resident_blocks(pfo_cuda_update_kernel(plan->op, plain), PFO_CUDA_THREADS, plan->device,
                                         &plan->update_blocks[plain]);
    }
    int unused;
    if (error == cudaSuccess) {
        error = pfo_cuda_resident_blocks(reinterpret_cast<const void *>(&upload_kernel<large_packet>), kUploadThreads,
                                         plan->device, &unused);
    }
    if (error == cudaSuccess) {
        error = pfo_cuda_resident_blocks(reinterpret_cast<const void *>(&upload_kernel<small_packet>), kUploadThreads,
                                         plan->device, &unused);
    }
    if (error != cudaSuccess) {
        return pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot load the kernels on device %d", (int)plan->device);
    }
    const pfo_table_range all = { 0, plan->layout.tensor_count };
    error = cudaMemsetAsync(plan->view.state, 0, (size_t)plan->layout.groups, stream);
    if (error == cudaSuccess) {
        error = upload_records(plan, all, stream);
    }
    if (error == cudaSuccess) {
        error = upload_grads(plan, all, stream);
    }
    if (error == cudaSuccess) {
        error = upload(plan, plan->view.chunk_tensor, plan->chunk_tensor,
                       plan->layout.chunk_count * (int64_t)sizeof *plan->chunk_tensor, stream);
    }
    if (error != cudaSuccess) {
        return pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot enqueue the plan's tables");
    }
    return PFO_BACKEND_OK;
}

int
at_most(int blocks, int64_t chunks)
{
    return chunks < blocks ? (chunks < 1 ? 1 : (int)chunks) : blocks;
}

/* The groups go into the parameters, or to the workspace when they are too many and not there yet. */
cudaError_t
give_groups(pfo_backend_plan *plan, const pfo_backend_group *groups, pfo_norm_arguments *arguments, cudaStream_t stream)
{
    const size_t bytes = (size_t)plan->group_count * sizeof *groups;
    arguments->groups_inside = plan->group_count <= PFO_TABLE_INLINE_GROUPS;
    if (arguments->groups_inside) {
        memcpy(arguments->groups, groups, bytes);
        return cudaSuccess;
    }
    if (!plan->captured && plan->groups_there && memcmp(plan->groups, groups, bytes) == 0) {
        return cudaSuccess;
    }
    memcpy(plan->groups, groups, bytes);
    plan->groups_there = 0;
    const cudaError_t error = upload(plan, plan->view.groups, groups, (int64_t)bytes, stream);
    plan->groups_there = error == cudaSuccess;
    return error;
}

int32_t
refuse_stale(pfo_backend_error *err)
{
    return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                         "an earlier upload of this plan's tables failed; plan_update() has to succeed first");
}

} // namespace

int32_t
pfo_cuda_plan_bytes(const pfo_backend_plan_spec *spec, int64_t *bytes, pfo_backend_error *err)
{
    pfo_table_layout layout = {};
    const int32_t code = check_spec(spec, &layout, err);
    *bytes = layout.bytes;
    return code;
}

int32_t
pfo_cuda_plan_create(const pfo_backend_plan_spec *spec, void *stream, pfo_backend_plan **plan, pfo_backend_error *err)
{
    *plan = NULL;
    pfo_table_layout layout;
    int32_t code = check_spec(spec, &layout, err);
    if (code == PFO_BACKEND_OK) {
        code = check_workspace(spec, &layout, err);
    }
    if (code != PFO_BACKEND_OK) {
        return code;
    }
    const pfo_device_guard guard(spec->device);
    bool capturing = false;
    const cudaError_t error = guard.error() == cudaSuccess
                                  ? pfo_cuda_is_capturing(static_cast<cudaStream_t>(stream), &capturing)
                                  : guard.error();
    if (error != cudaSuccess) {
        return pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot use device %d", (int)spec->device);
    }
    if (capturing) { /* each replay would begin the plan anew, and until the first there would be none */
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "a plan cannot be made while the stream is captured; take a step before the capture");
    }
    pfo_backend_plan *made = static_cast<pfo_backend_plan *>(pfo_alloc_array(1, sizeof *made));
    if (made == NULL) {
        return pfo_cuda_fail(err, PFO_BACKEND_NO_MEMORY, cudaSuccess, "out of host memory for a plan");
    }
    made->device = spec->device;
    made->op = spec->op;
    made->group_count = spec->group_count;
    made->layout = layout;
    made->view = pfo_table_view_of(spec->workspace, &layout);
    code = make_mirror(made, spec, err);
    if (code == PFO_BACKEND_OK) {
        code = start_plan(made, static_cast<cudaStream_t>(stream), err);
    }
    if (code != PFO_BACKEND_OK) {
        pfo_cuda_plan_destroy(made);
        return code;
    }
    *plan = made;
    return PFO_BACKEND_OK;
}

int32_t
pfo_cuda_plan_update(pfo_backend_plan *plan, const pfo_backend_tensor *tensors, int64_t tensor_count, void *stream,
                     pfo_backend_error *err)
{
    const pfo_backend_plan_spec spec = { plan->device, plan->op, tensor_count, tensors, plan->group_count, 0, NULL, 0 };
    if (tensor_count != plan->layout.tensor_count) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "%lld tensors, but the plan was made for %lld",
                             (long long)tensor_count, (long long)plan->layout.tensor_count);
    }
    for (int64_t t = 0; t < tensor_count; t++) {
        const int32_t code = check_tensor(&spec, t, err);
        if (code != PFO_BACKEND_OK) {
            return code;
        }
        if (tensors[t].count != plan->records[t].count || tensors[t].group != plan->records[t].group) {
            return pfo_cuda_fail(
                err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                "tensor %lld has %lld elements in group %d, but the plan was made for %lld in group %d", (long long)t,
                (long long)tensors[t].count, (int)tensors[t].group, (long long)plan->records[t].count,
                (int)plan->records[t].group);
        }
    }
    const pfo_device_guard guard(plan->device);
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    bool capturing = false;
    cudaError_t error = guard.error() == cudaSuccess ? pfo_cuda_is_capturing(on, &capturing) : guard.error();
    if (error != cudaSuccess) {
        return pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot use the stream on device %d", (int)plan->device);
    }
    plan->captured |= capturing;
    pfo_table_range records = pfo_table_update_records(tensors, tensor_count, plan->records);
    pfo_table_range grads = pfo_table_update_grads(tensors, tensor_count, plan->grads);
    plan->plain = is_plain(plan);
    if (plan->stale || plan->captured) {
        const pfo_table_range all = { 0, tensor_count };
        records = grads = all;
    }
    error = upload_records(plan, records, on);
    if (error == cudaSuccess) {
        error = upload_grads(plan, grads, on);
    }
    if (error != cudaSuccess) {
        plan->stale = 1;
        return pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot enqueue the plan's tables");
    }
    plan->stale = 0;
    return PFO_BACKEND_OK;
}

void
pfo_cuda_plan_destroy(pfo_backend_plan *plan)
{
    if (plan == NULL) {
        return;
    }
    pfo_free(plan->records);
    pfo_free(plan->grads);
    pfo_free(plan->chunk_tensor);
    pfo_free(plan->groups);
    pfo_free(plan->packet);
    pfo_free(plan);
}

int32_t
pfo_cuda_norm(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err)
{
    if (plan->stale) {
        return refuse_stale(err);
    }
    if (plan->op != PFO_OP_NORM && step->groups == NULL) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "a step of this plan needs the options of its groups");
    }
    const pfo_device_guard guard(plan->device);
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    pfo_norm_arguments arguments;
    arguments.view = plan->view;
    arguments.max_grad_norm = step->max_grad_norm;
    arguments.unscale = step->unscale;
    arguments.grad_scale = step->grad_scale;
    arguments.found_inf = step->found_inf;
    arguments.op = plan->op;
    arguments.skip_nonfinite = step->skip_nonfinite;
    arguments.skip_anyway = step->skip_anyway;
    arguments.groups_inside = 1;
    memset(arguments.groups, 0, sizeof arguments.groups);
    cudaError_t error = guard.error();
    if (error == cudaSuccess && step->groups != NULL) {
        error = give_groups(plan, step->groups, &arguments, on);
    }
    if (error == cudaSuccess) {
        error = pfo_cuda_launch_norm(&arguments, at_most(plan->norm_blocks, plan->layout.chunk_count), on);
    }
    return error == cudaSuccess ? PFO_BACKEND_OK
                                : pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot enqueue the norm on device %d",
                                                (int)plan->device);
}

int32_t
pfo_cuda_update(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err)
{
    if (plan->stale) {
        return refuse_stale(err);
    }
    if (plan->op == PFO_OP_NORM) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "this plan was made for the norm alone");
    }
    const pfo_device_guard guard(plan->device);
    const int plain = plan->plain && !step->zero_grads;
    pfo_update_arguments arguments = {};
    arguments.view = plan->view;
    arguments.seed = step->seed;
    arguments.rounding_step = step->rounding_step;
    arguments.device_rounding_step = step->device_rounding_step;
    arguments.ema = pfo_lerp_prepare(1.0 - step->ema_decay);
    arguments.stochastic = step->stochastic;
    arguments.zero_grads = step->zero_grads;
    cudaError_t error = guard.error();
    if (error == cudaSuccess) {
        const int blocks = at_most(plan->update_blocks[plain], plan->layout.chunk_count);
        error = pfo_cuda_launch_update(&arguments, plan->op, plain, blocks, static_cast<cudaStream_t>(stream));
    }
    return error == cudaSuccess ? PFO_BACKEND_OK
                                : pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error,
                                                "cannot enqueue the update on device %d", (int)plan->device);
}

int32_t
pfo_cuda_read_state_and_wait(pfo_backend_plan *plan, void *stream, pfo_backend_state *out, pfo_backend_error *err)
{
    const pfo_device_guard guard(plan->device);
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    bool capturing = false;
    cudaError_t error = guard.error() == cudaSuccess ? pfo_cuda_is_capturing(on, &capturing) : guard.error();
    if (error == cudaSuccess && capturing) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "the state cannot be read while the stream is captured");
    }
    if (error == cudaSuccess) {
        error = cudaMemcpyAsync(out, plan->view.state, sizeof *out, cudaMemcpyDeviceToHost, on);
    }
    if (error == cudaSuccess) {
        error = cudaStreamSynchronize(on);
    }
    return error == cudaSuccess ? PFO_BACKEND_OK
                                : pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot read the state from device %d",
                                                (int)plan->device);
}
