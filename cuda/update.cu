/* update.cu: pass 2 of a step: AdamW over every tensor that has a gradient, or nothing when the state says skip.
 *
 * Reads 16 and writes 12 bytes a float32 parameter. Element arithmetic is pfo_adamw_element() of kernels/update_math.h, the
 * same operations in the same order as on the CPU. The first chunk of a tensor counts its step up; norm() read it before.
 */
#include "common.cuh"

namespace {

template <typename Param> struct chunk_pointers {
    const Param *grad;
    Param *param;
    Param *exp_avg;
    Param *exp_avg_sq;
};

/* [quads] */
template <typename Param, bool kAligned>
__device__ __forceinline__ void
update_chunk(const pfo_adamw_scalars &scalars, const chunk_pointers<Param> &at, int length)
{
    const int quads = pfo_table_quads(length);
    for (int quad = threadIdx.x; quad < quads; quad += PFO_CUDA_THREADS) {
        const int first = quad * 4;
        const pfo_quad grad = pfo_load_quad<Param, kAligned>(at.grad + first);
        pfo_quad param = pfo_load_quad<Param, kAligned>(at.param + first);
        pfo_quad exp_avg = pfo_load_quad<Param, kAligned>(at.exp_avg + first);
        pfo_quad exp_avg_sq = pfo_load_quad<Param, kAligned>(at.exp_avg_sq + first);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            pfo_adamw_element(&scalars, grad.at[i], &param.at[i], &exp_avg.at[i], &exp_avg_sq.at[i], nullptr);
        }
        pfo_store_quad<Param, kAligned>(at.param + first, param);
        pfo_store_quad<Param, kAligned>(at.exp_avg + first, exp_avg);
        pfo_store_quad<Param, kAligned>(at.exp_avg_sq + first, exp_avg_sq);
    }
    const int rest = quads * 4 + threadIdx.x;
    if (rest < length) {
        float param = pfo_element<Param>::load(at.param + rest);
        float exp_avg = pfo_element<Param>::load(at.exp_avg + rest);
        float exp_avg_sq = pfo_element<Param>::load(at.exp_avg_sq + rest);
        pfo_adamw_element(&scalars, pfo_element<Param>::load(at.grad + rest), &param, &exp_avg, &exp_avg_sq, nullptr);
        pfo_element<Param>::store(at.param + rest, param);
        pfo_element<Param>::store(at.exp_avg + rest, exp_avg);
        pfo_element<Param>::store(at.exp_avg_sq + rest, exp_avg_sq);
    }
}

template <typename Param>
__global__ void
__launch_bounds__(PFO_CUDA_THREADS, PFO_CUDA_BLOCKS_PER_SM) adamw_kernel(const __grid_constant__ pfo_table_view view)
{
    if (view.state->skip) {
        return;
    }
    const double multiplier = view.state->multiplier;
    for (int64_t chunk = blockIdx.x; chunk < view.chunk_count; chunk += gridDim.x) {
        const int32_t tensor = view.chunk_tensor[chunk];
        const Param *grad = static_cast<const Param *>(view.grads[tensor]);
        if (grad == nullptr) {
            continue;
        }
        const pfo_table_record *record = &view.records[tensor];
        const pfo_table_chunk span = pfo_table_chunk_at(record, chunk);
        pfo_adamw_scalars scalars = view.scalars[tensor];
        scalars.grad_multiplier = (float)((double)scalars.grad_multiplier * multiplier);
        if (span.first && threadIdx.x == 0) {
            *record->step += 1.0f;
        }
        const chunk_pointers<Param> at = {
            pfo_global(grad + span.begin),
            pfo_global(static_cast<Param *>(record->param) + span.begin),
            pfo_global(static_cast<Param *>(record->exp_avg) + span.begin),
            pfo_global(static_cast<Param *>(record->exp_avg_sq) + span.begin),
        };
        if (pfo_quad_aligned(at.grad) && pfo_quad_aligned(at.param) && pfo_quad_aligned(at.exp_avg) &&
            pfo_quad_aligned(at.exp_avg_sq)) {
            update_chunk<Param, true>(scalars, at, span.length);
        } else {
            update_chunk<Param, false>(scalars, at, span.length);
        }
    }
}

} // namespace

const void *
pfo_cuda_adamw_kernel(int32_t dtype)
{
    return dtype == PFO_BACKEND_FLOAT32 ? reinterpret_cast<const void *>(&adamw_kernel<float>) : nullptr;
}

cudaError_t
pfo_cuda_launch_adamw(const pfo_table_view *view, int32_t dtype, int blocks, cudaStream_t stream)
{
    void *parameters[] = { const_cast<pfo_table_view *>(view) };
    return cudaLaunchKernel(pfo_cuda_adamw_kernel(dtype), dim3((unsigned)blocks), dim3(PFO_CUDA_THREADS), parameters, 0,
                            stream);
}
