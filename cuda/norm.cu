/* norm.cu: pass 1 of a step: one read of all gradients gives the global norm, the non-finite flag, the skip decision, the clip
 * factor and each tensor's scalars (bias corrections by pow, once per tensor and step, never in an element's path).
 *
 * Deterministic: each chunk's sum of squares is formed in a fixed order by one block and kept in the chunk's own slot; the block
 * that finishes last (atomic ticket) adds the slots in a fixed order. So the norm does not depend on the number of blocks, on
 * their timing or on alignment. Sums are double: a float32's square is exact there and cannot overflow, so large finite
 * gradients raise no false alarm; non-finiteness is a flag of its own, taken from the elements.
 */
#include "common.cuh"

namespace {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarps = PFO_CUDA_THREADS / 32;

__device__ __forceinline__ bool
is_nonfinite(float value)
{
    return (__float_as_uint(value) & 0x7f800000u) == 0x7f800000u;
}

/* Sum over the block in a fixed order, valid in thread 0. Ends with all threads past the use of `shared`. */
__device__ __forceinline__ double
block_sum(double value, double *shared)
{
    for (int width = 16; width > 0; width /= 2) {
        value += __shfl_down_sync(kFullWarp, value, width);
    }
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    if (lane == 0) {
        shared[warp] = value;
    }
    __syncthreads();
    if (warp == 0) {
        value = lane < kWarps ? shared[lane] : 0.0;
        for (int width = kWarps / 2; width > 0; width /= 2) {
            value += __shfl_down_sync(kFullWarp, value, width);
        }
    }
    __syncthreads();
    return value;
}

/* This thread's share of a chunk's sum of squares. [quads] */
template <typename Grad, bool kAligned>
__device__ __forceinline__ double
sum_of_squares(const Grad *grad, int length, bool *nonfinite)
{
    double sums[4] = { 0.0, 0.0, 0.0, 0.0 };
    bool bad = false;
    const int quads = pfo_table_quads(length);
#pragma unroll 4
    for (int quad = threadIdx.x; quad < quads; quad += PFO_CUDA_THREADS) {
        const pfo_quad values = pfo_load_quad<Grad, kAligned>(grad + quad * 4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const double value = (double)values.at[i];
            sums[i] = __fma_rn(value, value, sums[i]);
            bad |= is_nonfinite(values.at[i]);
        }
    }
    const int rest = quads * 4 + threadIdx.x;
    if (rest < length) {
        const float last = pfo_element<Grad>::load(grad + rest);
        const double value = (double)last;
        sums[0] = __fma_rn(value, value, sums[0]);
        bad |= is_nonfinite(last);
    }
    *nonfinite |= bad;
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

/* Scalars of the tensors, spread over the grid block by block, so that no block waits for many of them. */
__device__ __forceinline__ void
prepare_scalars(const pfo_norm_arguments &arguments)
{
    const pfo_table_view &view = arguments.view;
    if (view.scalars == nullptr) {
        return;
    }
    const int64_t threads = (int64_t)gridDim.x * PFO_CUDA_THREADS;
    for (int64_t t = blockIdx.x + (int64_t)gridDim.x * threadIdx.x; t < view.tensor_count; t += threads) {
        if (view.grads[t] != nullptr) {
            const pfo_table_record *record = &view.records[t];
            const pfo_backend_group *groups = arguments.groups_inside ? arguments.groups : view.groups;
            view.scalars[t] = pfo_table_prepare(&groups[record->group], *record->step);
        }
    }
}

/* True for the threads of exactly one block: the last to get here. Sees what all blocks wrote before. */
__device__ __forceinline__ bool
is_last_block(pfo_table_scratch *scratch)
{
    __shared__ bool last;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(&scratch->blocks_done, 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    return last;
}

__device__ __forceinline__ void
conclude(const pfo_norm_arguments &arguments, double sum)
{
    const pfo_table_view &view = arguments.view;
    const int nonfinite = __ldcg(&view.scratch->nonfinite) != 0;
    const bool told = arguments.found_inf != nullptr && *arguments.found_inf != 0.0f;
    const double unscale =
        arguments.grad_scale != nullptr ? arguments.unscale / (double)*arguments.grad_scale : arguments.unscale;
    pfo_table_conclude(view.state, sum, nonfinite, unscale, arguments.max_grad_norm,
                       told || (nonfinite && arguments.skip_nonfinite));
    view.scratch->blocks_done = 0;
    view.scratch->nonfinite = 0;
}

template <typename Grad>
__global__ void
__launch_bounds__(PFO_CUDA_THREADS, PFO_CUDA_BLOCKS_PER_SM)
    norm_kernel(const __grid_constant__ pfo_norm_arguments arguments)
{
    __shared__ double shared[kWarps];
    const pfo_table_view &view = arguments.view;
    prepare_scalars(arguments);
    bool nonfinite = false;
    for (int64_t chunk = blockIdx.x; chunk < view.chunk_count; chunk += gridDim.x) {
        const int32_t tensor = view.chunk_tensor[chunk];
        const Grad *grad = static_cast<const Grad *>(view.grads[tensor]);
        double sum = 0.0;
        if (grad != nullptr) {
            const pfo_table_chunk span = pfo_table_chunk_at(&view.records[tensor], chunk);
            grad = pfo_global(grad + span.begin);
            sum = pfo_quad_aligned(grad) ? sum_of_squares<Grad, true>(grad, span.length, &nonfinite)
                                         : sum_of_squares<Grad, false>(grad, span.length, &nonfinite);
        }
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) {
            view.partials[chunk] = sum;
        }
    }
    if (__syncthreads_or(nonfinite) && threadIdx.x == 0) {
        atomicOr(&view.scratch->nonfinite, 1u);
    }
    if (!is_last_block(view.scratch)) {
        return;
    }
    double total = 0.0;
    for (int64_t chunk = threadIdx.x; chunk < view.chunk_count; chunk += PFO_CUDA_THREADS) {
        total += __ldcg(&view.partials[chunk]);
    }
    total = block_sum(total, shared);
    if (threadIdx.x == 0) {
        conclude(arguments, total);
    }
}

} // namespace

const void *
pfo_cuda_norm_kernel(int32_t dtype)
{
    return dtype == PFO_BACKEND_FLOAT32 ? reinterpret_cast<const void *>(&norm_kernel<float>) : nullptr;
}

cudaError_t
pfo_cuda_launch_norm(const pfo_norm_arguments *arguments, int32_t dtype, int blocks, cudaStream_t stream)
{
    void *parameters[] = { const_cast<pfo_norm_arguments *>(arguments) };
    return cudaLaunchKernel(pfo_cuda_norm_kernel(dtype), dim3((unsigned)blocks), dim3(PFO_CUDA_THREADS), parameters, 0,
                            stream);
}
