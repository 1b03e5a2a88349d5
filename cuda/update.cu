/* update.cu: pass 2 of a step: an operation over every tensor that has a gradient, or nothing when the state says skip.
 *
 * Element arithmetic is that of kernels/<name>_math.h, the same operations in the same order as on the CPU. Two kernels an operation:
 * - plain: everything is float32; threads take quads (table.h). AdamW reads 16 and writes 12 bytes a parameter.
 * - general: every role has a dtype of its own; warps take blocks of 256 elements (roles.h), store low-precision roles by rounding to
 *   nearest or at random, and write copy, moving average and zeroed gradient while the new weight is in registers. dtypes are looked
 *   at once a role and block, the same way by all threads of a warp.
 * The first chunk of a tensor counts its step up; norm() read it before.
 */
#include "elements.cuh"

namespace {

constexpr int kWarps = PFO_CUDA_THREADS / PFO_BLOCK_LANES;
constexpr unsigned kFullWarp = 0xffffffffu;

/* States an operation can keep. */
template <int kOp> constexpr int states_of = kOp == PFO_OP_ADAMW || kOp == PFO_OP_RMSPROP ? 3 : 1;

/* One chunk of a tensor. */
struct chunk_work {
    const pfo_table_record *record;
    const void *grad;
    pfo_scalars scalars;
    int kept;      /* a bit for each state */
    int64_t begin; /* first element */
    int length;
};

/* Which states are kept is a constant here: an address that may be NULL would send the state through memory. */
template <int kOp, int kKept, int kCount>
__device__ __forceinline__ void
update_kept(const pfo_scalars &scalars, const float *grad, float *weight, float (*state)[kCount])
{
#pragma unroll
    for (int j = 0; j < kCount; j++) {
        pfo_update_element(kOp, &scalars, grad[j], &weight[j], kKept & 1 ? &state[0][j] : nullptr,
                           kKept & 2 ? &state[1][j] : nullptr, kKept & 4 ? &state[2][j] : nullptr);
    }
}

/* kept: a bit for each state; the combinations that the operations have. */
template <int kOp, int kCount>
__device__ __forceinline__ void
update_values(int kept, const pfo_scalars &scalars, const float *grad, float *weight, float (*state)[kCount])
{
    if constexpr (kOp == PFO_OP_ADAMW) {
        kept & 4 ? update_kept<kOp, 7>(scalars, grad, weight, state)
                 : update_kept<kOp, 3>(scalars, grad, weight, state);
    } else if constexpr (kOp == PFO_OP_SGD) {
        kept & 1 ? update_kept<kOp, 1>(scalars, grad, weight, state)
                 : update_kept<kOp, 0>(scalars, grad, weight, state);
    } else if constexpr (kOp == PFO_OP_RMSPROP) {
        if (kept & 4) {
            kept & 2 ? update_kept<kOp, 7>(scalars, grad, weight, state)
                     : update_kept<kOp, 5>(scalars, grad, weight, state);
        } else {
            kept & 2 ? update_kept<kOp, 3>(scalars, grad, weight, state)
                     : update_kept<kOp, 1>(scalars, grad, weight, state);
        }
    } else {
        update_kept<kOp, 1>(scalars, grad, weight, state);
    }
}

__device__ __forceinline__ int
kept_states(const pfo_table_record *record)
{
    int kept = 0;
    for (int k = 0; k < PFO_BACKEND_STATE_COUNT; k++) {
        kept |= (record->data[PFO_BACKEND_STATE_1 + k] != nullptr) << k;
    }
    return kept;
}

/* ---- everything is float32 ------------------------------------------------------------------- */

template <int kOp, int kCount, bool kAligned>
__device__ __forceinline__ void
update_neighbours(const chunk_work &work, int64_t index)
{
    constexpr int kStates = states_of<kOp>;
    const pfo_table_record *record = work.record;
    float grad[kCount], weight[kCount], state[3][kCount] = {};
    const auto read = [&](const void *data, float *values) {
        if constexpr (kCount == PFO_QUAD) {
            const pfo_codes codes = pfo_load_codes<PFO_DTYPE_FLOAT32, kAligned>(data, index);
#pragma unroll
            for (int j = 0; j < kCount; j++) {
                values[j] = __uint_as_float(codes.at[j]);
            }
        } else {
            values[0] = static_cast<const float *>(data)[index];
        }
    };
    const auto write = [&](void *data, const float *values) {
        if constexpr (kCount == PFO_QUAD) {
            pfo_codes codes;
#pragma unroll
            for (int j = 0; j < kCount; j++) {
                codes.at[j] = __float_as_uint(values[j]);
            }
            pfo_store_codes<PFO_DTYPE_FLOAT32, kAligned>(data, index, codes);
        } else {
            static_cast<float *>(data)[index] = values[0];
        }
    };
    read(pfo_global(work.grad), grad);
    read(pfo_global(record->data[PFO_BACKEND_WEIGHT]), weight);
#pragma unroll
    for (int k = 0; k < kStates; k++) {
        if (work.kept >> k & 1) {
            read(pfo_global(record->data[PFO_BACKEND_STATE_1 + k]), state[k]);
        }
    }
    update_values<kOp, kCount>(work.kept, work.scalars, grad, weight, state);
    write(pfo_global(record->data[PFO_BACKEND_WEIGHT]), weight);
#pragma unroll
    for (int k = 0; k < kStates; k++) {
        if (work.kept >> k & 1) {
            write(pfo_global(record->data[PFO_BACKEND_STATE_1 + k]), state[k]);
        }
    }
}

/* [quads] */
template <int kOp, bool kAligned>
__device__ __forceinline__ void
update_quads(const chunk_work &work)
{
    const int quads = pfo_table_quads(work.length);
    for (int quad = threadIdx.x; quad < quads; quad += PFO_CUDA_THREADS) {
        update_neighbours<kOp, PFO_QUAD, kAligned>(work, work.begin + quad * PFO_QUAD);
    }
    const int rest = quads * PFO_QUAD + (int)threadIdx.x;
    if (rest < work.length) {
        update_neighbours<kOp, 1, false>(work, work.begin + rest);
    }
}

/* ---- every role has a dtype of its own ------------------------------------------------------- */

/* One warp's block. */
struct block_work {
    const pfo_table_record *record;
    int64_t first; /* element of the tensor */
    int count;     /* elements, 1 .. PFO_SCALE_BLOCK */
    int lane;
    bool aligned;     /* quads of every role, the gradient's too */
    uint16_t *halves; /* [PFO_SCALE_BLOCK] of the warp's own shared memory */
};

template <int kDtype>
__device__ __forceinline__ pfo_octet
load_as(const block_work &block, const void *data, float scale)
{
    pfo_octet octet;
#pragma unroll
    for (int q = 0; q < PFO_OCTET; q += PFO_QUAD) {
        const int place = pfo_octet_place(block.lane, q);
        pfo_codes codes = {};
        if (block.aligned && place + PFO_QUAD <= block.count) {
            codes = pfo_load_codes<kDtype, true>(data, block.first + place);
        } else {
#pragma unroll
            for (int j = 0; j < PFO_QUAD; j++) {
                codes.at[j] = place + j < block.count ? pfo_role_code_at(kDtype, data, block.first + place + j) : 0u;
            }
        }
#pragma unroll
        for (int j = 0; j < PFO_QUAD; j++) {
            octet.at[q + j] = pfo_role_decode(kDtype, codes.at[j], scale);
        }
    }
    return octet;
}

__device__ __forceinline__ float
scale_of(const block_work &block, int role)
{
    const int k = role - PFO_BACKEND_STATE_1;
    const bool scaled = k >= 0 && k < PFO_BACKEND_STATE_COUNT && pfo_is_block_dtype(block.record->dtype[role]);
    return scaled ? block.record->scales[k][block.first / PFO_SCALE_BLOCK] : 1.0f;
}

/* Not inlined, like store_role(): a copy for each role of each operation would be most of the code of the backend. */
__device__ __noinline__ pfo_octet
load_role(const block_work &block, int role)
{
    pfo_octet octet;
    pfo_with_dtype(block.record->dtype[role], [&](auto tag) {
        octet = load_as<decltype(tag)::value>(block, pfo_global(block.record->data[role]), scale_of(block, role));
    });
    return octet;
}

/* Leaves each element's bits where pfo_block_random_place() says. */
__device__ __forceinline__ void
draw_random(const block_work &block, const pfo_role_rounding &rounding)
{
    const pfo_philox_words words = pfo_block_random(&rounding, block.first, block.lane);
    __syncwarp();
    *reinterpret_cast<uint4 *>(block.halves + 8 * block.lane) =
        make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]);
    __syncwarp();
}

/* The scale of the block's new values, told to memory by its first lane. */
__device__ __forceinline__ float
make_scale(const block_work &block, int role, int dtype, const pfo_octet &octet)
{
    uint32_t largest = 0;
#pragma unroll
    for (int j = 0; j < PFO_OCTET; j++) {
        const uint32_t magnitude = pfo_magnitude_bits(octet.at[j]);
        if (pfo_octet_place(block.lane, j) < block.count && magnitude > largest) {
            largest = magnitude;
        }
    }
    largest = __reduce_max_sync(kFullWarp, largest);
    uint32_t tally = pfo_role_no_tally(dtype);
#pragma unroll
    for (int j = 0; j < PFO_OCTET; j++) {
        if (pfo_octet_place(block.lane, j) < block.count) {
            tally = pfo_role_join_tallies(dtype, tally, pfo_role_tally(dtype, octet.at[j], largest));
        }
    }
    tally = dtype == PFO_DTYPE_UBLOCK8 ? __reduce_min_sync(kFullWarp, tally) : __reduce_add_sync(kFullWarp, tally);
    const float scale = pfo_role_scale(dtype, largest, tally);
    if (block.lane == 0) {
        block.record->scales[role - PFO_BACKEND_STATE_1][block.first / PFO_SCALE_BLOCK] = scale;
    }
    return scale;
}

template <int kDtype>
__device__ __forceinline__ void
store_as(const block_work &block, int role, const pfo_octet &octet, const pfo_role_rounding &rounding)
{
    const bool random = kDtype != PFO_DTYPE_FLOAT32 && rounding.stochastic;
    float scale = 1.0f;
    if constexpr (kDtype == PFO_DTYPE_BLOCK8 || kDtype == PFO_DTYPE_UBLOCK8) {
        scale = make_scale(block, role, kDtype, octet);
    }
    const float inverse = pfo_block_inverse(scale);
    if (random) {
        draw_random(block, rounding);
    }
    void *data = pfo_global(block.record->data[role]);
#pragma unroll
    for (int q = 0; q < PFO_OCTET; q += PFO_QUAD) {
        const int place = pfo_octet_place(block.lane, q);
        pfo_codes codes;
#pragma unroll
        for (int j = 0; j < PFO_QUAD; j++) {
            const uint32_t bits =
                random ? pfo_role_random(&rounding, block.halves[pfo_block_random_place(place + j)]) : 0u;
            codes.at[j] = pfo_role_encode(kDtype, octet.at[q + j], scale, inverse, random, bits);
        }
        if (block.aligned && place + PFO_QUAD <= block.count) {
            pfo_store_codes<kDtype, true>(data, block.first + place, codes);
        } else {
#pragma unroll
            for (int j = 0; j < PFO_QUAD; j++) {
                if (place + j < block.count) {
                    pfo_role_put_code(kDtype, data, block.first + place + j, codes.at[j]);
                }
            }
        }
    }
}

__device__ __noinline__ void
store_role(const pfo_update_arguments &arguments, uint64_t rounding_step, const block_work &block, int role,
           const pfo_octet &octet)
{
    const int dtype = block.record->dtype[role];
    const pfo_role_rounding rounding =
        pfo_role_rounding_of(role, dtype, arguments.stochastic, arguments.seed, rounding_step, block.record->stream);
    pfo_with_dtype(dtype, [&](auto tag) { store_as<decltype(tag)::value>(block, role, octet, rounding); });
}

__device__ __forceinline__ void
zero_elements(void *grad, int dtype, int64_t first, int count, int thread, int threads)
{
    for (int i = thread; i < count; i += threads) {
        pfo_role_put_code(dtype, grad, first + i, 0u);
    }
}

template <int kOp>
__device__ __forceinline__ void
update_block(const pfo_update_arguments &arguments, uint64_t rounding_step, const chunk_work &work,
             const block_work &block)
{
    constexpr int kStates = states_of<kOp>;
    const pfo_table_record *record = block.record;
    const int grad_dtype = record->dtype[PFO_BACKEND_GRAD];
    pfo_octet grad;
    pfo_with_grad_dtype(grad_dtype,
                        [&](auto tag) { grad = load_as<decltype(tag)::value>(block, pfo_global(work.grad), 1.0f); });
    pfo_octet weight = load_role(block, PFO_BACKEND_WEIGHT);
    float state[3][PFO_OCTET] = {};
#pragma unroll
    for (int k = 0; k < kStates; k++) {
        if (work.kept >> k & 1) {
            const pfo_octet octet = load_role(block, PFO_BACKEND_STATE_1 + k);
#pragma unroll
            for (int j = 0; j < PFO_OCTET; j++) {
                state[k][j] = octet.at[j];
            }
        }
    }
    update_values<kOp, PFO_OCTET>(work.kept, work.scalars, grad.at, weight.at, state);
    if (record->data[PFO_BACKEND_COPY] != nullptr) {
        store_role(arguments, rounding_step, block, PFO_BACKEND_COPY, weight);
    }
    store_role(arguments, rounding_step, block, PFO_BACKEND_WEIGHT, weight);
#pragma unroll
    for (int k = 0; k < kStates; k++) {
        if (work.kept >> k & 1) {
            pfo_octet octet;
#pragma unroll
            for (int j = 0; j < PFO_OCTET; j++) {
                octet.at[j] = state[k][j];
            }
            store_role(arguments, rounding_step, block, PFO_BACKEND_STATE_1 + k, octet);
        }
    }
    if (record->data[PFO_BACKEND_EMA] != nullptr) {
        if (record->dtype[PFO_BACKEND_WEIGHT] != PFO_DTYPE_FLOAT32) {
            weight = load_role(block, PFO_BACKEND_WEIGHT); /* as it is stored: what the model computes with */
        }
        pfo_octet average = load_role(block, PFO_BACKEND_EMA);
#pragma unroll
        for (int j = 0; j < PFO_OCTET; j++) {
            average.at[j] = pfo_lerp_element(arguments.ema, average.at[j], weight.at[j]);
        }
        store_role(arguments, rounding_step, block, PFO_BACKEND_EMA, average);
    }
    if (arguments.zero_grads) {
        __syncwarp(); /* other lanes have read theirs */
        zero_elements(const_cast<void *>(work.grad), grad_dtype, block.first, block.count, block.lane, PFO_BLOCK_LANES);
    }
}

template <int kOp>
__device__ __forceinline__ void
update_blocks(const pfo_update_arguments &arguments, uint64_t rounding_step, const chunk_work &work, bool aligned)
{
    alignas(16) __shared__ uint16_t halves[kWarps][PFO_SCALE_BLOCK];
    const int warp = threadIdx.x / PFO_BLOCK_LANES;
    for (int offset = warp * PFO_SCALE_BLOCK; offset < work.length; offset += kWarps * PFO_SCALE_BLOCK) {
        const int left = work.length - offset;
        const block_work block = { work.record,
                                   work.begin + offset,
                                   left < PFO_SCALE_BLOCK ? left : PFO_SCALE_BLOCK,
                                   (int)threadIdx.x % PFO_BLOCK_LANES,
                                   aligned,
                                   halves[warp] };
        update_block<kOp>(arguments, rounding_step, work, block);
    }
}

/* ---- kernels --------------------------------------------------------------------------------- */

/* A skipped step changes nothing, but gradients are to be zero after it, too. */
__device__ __forceinline__ void
zero_all(const pfo_table_view &view)
{
    for (int64_t chunk = blockIdx.x; chunk < view.chunk_count; chunk += gridDim.x) {
        const int32_t tensor = view.chunk_tensor[chunk];
        const pfo_table_record *record = &view.records[tensor];
        void *grad = const_cast<void *>(view.grads[tensor]);
        if (grad != nullptr) {
            const pfo_table_chunk span = pfo_table_chunk_at(record, chunk);
            zero_elements(grad, record->dtype[PFO_BACKEND_GRAD], span.begin, span.length, threadIdx.x,
                          PFO_CUDA_THREADS);
        }
    }
}

template <int kOp, bool kPlain>
__global__ void
__launch_bounds__(PFO_CUDA_THREADS, kPlain ? PFO_CUDA_BLOCKS_PER_SM : 1)
    update_kernel(const __grid_constant__ pfo_update_arguments arguments)
{
    const pfo_table_view &view = arguments.view;
    if (view.state->skip) {
        if (!kPlain && arguments.zero_grads) {
            zero_all(view);
        }
        return;
    }
    const double multiplier = view.state->multiplier;
    const uint64_t rounding_step =
        arguments.device_rounding_step != nullptr ? (uint64_t)*arguments.device_rounding_step : arguments.rounding_step;
    for (int64_t chunk = blockIdx.x; chunk < view.chunk_count; chunk += gridDim.x) {
        const int32_t tensor = view.chunk_tensor[chunk];
        const void *grad = view.grads[tensor];
        if (grad == nullptr) {
            continue;
        }
        const pfo_table_record *record = &view.records[tensor];
        const pfo_table_chunk span = pfo_table_chunk_at(record, chunk);
        chunk_work work = { record, grad, view.scalars[tensor], kept_states(record), span.begin, span.length };
        work.scalars.adamw.grad_multiplier = (float)((double)work.scalars.adamw.grad_multiplier * multiplier);
        if (span.first && threadIdx.x == 0) {
            view.begun[tensor] = 1;
            if (record->step != nullptr) {
                *record->step += 1.0f;
            }
        }
        const bool aligned = record->aligned && pfo_table_is_aligned(grad, record->dtype[PFO_BACKEND_GRAD]);
        if constexpr (!kPlain) {
            update_blocks<kOp>(arguments, rounding_step, work, aligned);
        } else if (aligned) {
            update_quads<kOp, true>(work);
        } else {
            update_quads<kOp, false>(work);
        }
    }
}

template <int kOp>
const void *
kernel_of(int plain)
{
    return plain ? reinterpret_cast<const void *>(&update_kernel<kOp, true>)
                 : reinterpret_cast<const void *>(&update_kernel<kOp, false>);
}

} // namespace

const void *
pfo_cuda_update_kernel(int32_t op, int plain)
{
    switch (op) {
    case PFO_OP_ADAMW:
        return kernel_of<PFO_OP_ADAMW>(plain);
    case PFO_OP_SGD:
        return kernel_of<PFO_OP_SGD>(plain);
    case PFO_OP_LION:
        return kernel_of<PFO_OP_LION>(plain);
    case PFO_OP_ADAGRAD:
        return kernel_of<PFO_OP_ADAGRAD>(plain);
    case PFO_OP_RMSPROP:
        return kernel_of<PFO_OP_RMSPROP>(plain);
    default:
        return nullptr;
    }
}

cudaError_t
pfo_cuda_launch_update(const pfo_update_arguments *arguments, int32_t op, int plain, int blocks, cudaStream_t stream)
{
    void *parameters[] = { const_cast<pfo_update_arguments *>(arguments) };
    return cudaLaunchKernel(pfo_cuda_update_kernel(op, plain), dim3((unsigned)blocks), dim3(PFO_CUDA_THREADS),
                            parameters, 0, stream);
}
