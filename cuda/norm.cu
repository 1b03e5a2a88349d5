/* norm.cu: pass 1 of a step: one read of all gradients gives the global norm, the non-finite flag, the skip decision, the clip
 * factor and each tensor's scalars (bias corrections by pow, once per tensor and step, never in an element's path).
 *
 * Deterministic: each chunk's sum of squares is formed in a fixed order by one block and kept in the chunk's own slot; the block
 * that finishes last (atomic ticket) adds the slots in a fixed order. So the norm does not depend on the number of blocks, on
 * their timing or on alignment. Sums are double, of values read exactly as float32 from whatever dtype: a float32's square is exact there and cannot overflow, so large finite
 * gradients raise no false alarm; non-finiteness is a flag of its own, taken from the elements.
 */
#include "elements.cuh"

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
template <int kDtype, bool kAligned>
__device__ __forceinline__ double
sum_of_squares(const void *grad, int64_t begin, int length, bool *nonfinite)
{
    double sums[PFO_QUAD] = { 0.0, 0.0, 0.0, 0.0 };
    bool bad = false;
    const int quads = pfo_table_quads(length);
#pragma unroll 4
    for (int quad = threadIdx.x; quad < quads; quad += PFO_CUDA_THREADS) {
        const pfo_codes codes = pfo_load_codes<kDtype, kAligned>(grad, begin + quad * PFO_QUAD);
#pragma unroll
        for (int i = 0; i < PFO_QUAD; i++) {
            const float element = pfo_role_decode(kDtype, codes.at[i], 1.0f);
            const double value = (double)element;
            sums[i] = __fma_rn(value, value, sums[i]);
            bad |= is_nonfinite(element);
        }
    }
    const int rest = quads * PFO_QUAD + (int)threadIdx.x;
    if (rest < length) {
        const float last = pfo_role_decode(kDtype, pfo_role_code_at(kDtype, grad, begin + rest), 1.0f);
        const double value = (double)last;
        sums[0] = __fma_rn(value, value, sums[0]);
        bad |= is_nonfinite(last);
    }
    *nonfinite |= bad;
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

__device__ __forceinline__ double
sum_of_chunk(const void *grad, int dtype, pfo_table_chunk span, bool *nonfinite)
{
    double sum = 0.0;
    const bool aligned = pfo_table_is_aligned(grad, dtype);
    pfo_with_grad_dtype(dtype, [&](auto tag) {
        constexpr int kDtype = decltype(tag)::value;
        sum = aligned ? sum_of_squares<kDtype, true>(pfo_global(grad), span.begin, span.length, nonfinite)
                      : sum_of_squares<kDtype, false>(pfo_global(grad), span.begin, span.length, nonfinite);
    });
    return sum;
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
            const float steps = record->step != nullptr ? *record->step : 0.0f;
            const int first = record->first && !view.begun[t];
            view.scalars[t] = pfo_table_prepare(arguments.op, &groups[record->group], steps, first);
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
    const bool told = arguments.skip_anyway || (arguments.found_inf != nullptr && *arguments.found_inf != 0.0f);
    const double unscale =
        arguments.grad_scale != nullptr ? arguments.unscale / (double)*arguments.grad_scale : arguments.unscale;
    pfo_table_conclude(view.state, sum, nonfinite, unscale, arguments.max_grad_norm,
                       told || (nonfinite && arguments.skip_nonfinite));
    view.scratch->blocks_done = 0;
    view.scratch->nonfinite = 0;
}

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
        const void *grad = view.grads[tensor];
        double sum = 0.0;
        if (grad != nullptr) {
            const pfo_table_record *record = &view.records[tensor];
            sum = sum_of_chunk(grad, record->dtype[PFO_BACKEND_GRAD], pfo_table_chunk_at(record, chunk), &nonfinite);
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
pfo_cuda_norm_kernel(void)
{
    return reinterpret_cast<const void *>(&norm_kernel);
}

cudaError_t
pfo_cuda_launch_norm(const pfo_norm_arguments *arguments, int blocks, cudaStream_t stream)
{
    void *parameters[] = { const_cast<pfo_norm_arguments *>(arguments) };
    return cudaLaunchKernel(pfo_cuda_norm_kernel(), dim3((unsigned)blocks), dim3(PFO_CUDA_THREADS), parameters, 0,
                            stream);
}
