/* fingerprint.cu: XXH3-128 of the pieces of an array on the device, the same digests as on the CPU.
 *
 * A block of threads takes a piece (xxh3.h): all of its threads form the sums of the piece's 1 KiB blocks, four threads to a stripe, so
 * that a warp reads whole sectors; eight threads then run the chain over the sums, while other blocks on the same
 * multiprocessor read theirs. Reads each byte once; what comes back to the host is 16 bytes for each piece.
 */
#include "common.cuh"

#include "xxh3.h"

namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 4;
constexpr int kSlots = PFO_BACKEND_PIECE_MAX / PFO_XXH3_BLOCK;
static_assert((int)PFO_XXH3_BLOCK == (int)PFO_BACKEND_PIECE_UNIT && (int)PFO_XXH3_SHORT == (int)PFO_BACKEND_SHORT_PIECE,
              "the backend's units are the algorithm's");

struct digest_arguments {
    const unsigned char *data;
    int64_t bytes;
    int64_t piece_bytes;
    int64_t pieces; /* that are hashed here */
    unsigned char *digests;
};

__constant__ uint64_t secret_words[PFO_XXH3_SECRET_WORDS] = PFO_XXH3_SECRET;

template <int kAlignment>
__device__ __forceinline__ void
sum_blocks(const unsigned char *piece, pfo_xxh3_shape shape, const uint64_t *secret, uint64_t *sums)
{
    const int units = (shape.whole_blocks + 1) * PFO_XXH3_PAIRS;
    for (int unit = threadIdx.x; unit < units; unit += kThreads) {
        const int slot = unit / PFO_XXH3_PAIRS;
        const int pair = unit % PFO_XXH3_PAIRS;
        const pfo_xxh3_pair sum = pfo_xxh3_block_sum(piece, shape, slot, pair, kAlignment, secret);
        sums[slot * PFO_XXH3_LANES + 2 * pair] = sum.at[0];
        sums[slot * PFO_XXH3_LANES + 2 * pair + 1] = sum.at[1];
    }
}

template <int kAlignment>
__global__ void
__launch_bounds__(kThreads, kBlocksPerSm) digest_kernel(const __grid_constant__ digest_arguments arguments)
{
    __shared__ uint64_t secret[PFO_XXH3_SECRET_WORDS];
    __shared__ uint64_t sums[kSlots * PFO_XXH3_LANES];
    __shared__ uint64_t lanes[PFO_XXH3_LANES];
    if (threadIdx.x < PFO_XXH3_SECRET_WORDS) {
        secret[threadIdx.x] = secret_words[threadIdx.x];
    }
    for (int64_t piece = blockIdx.x; piece < arguments.pieces; piece += gridDim.x) {
        const int64_t begin = piece * arguments.piece_bytes;
        const int64_t left = arguments.bytes - begin;
        const pfo_xxh3_shape shape = pfo_xxh3_shape_of(left < arguments.piece_bytes ? left : arguments.piece_bytes);
        __syncthreads(); /* the secret is there; the piece before has been read out */
        sum_blocks<kAlignment>(pfo_global(arguments.data + begin), shape, secret, sums);
        __syncthreads();
        if (threadIdx.x < PFO_XXH3_LANES) {
            lanes[threadIdx.x] = pfo_xxh3_chain(sums, shape.whole_blocks, (int)threadIdx.x, secret);
            __syncwarp((1u << PFO_XXH3_LANES) - 1);
            if (threadIdx.x == 0) {
                pfo_xxh3_finish(lanes, shape.bytes, secret, arguments.digests + piece * PFO_BACKEND_DIGEST_BYTES);
            }
        }
    }
}

const void *
kernel_for(const void *data)
{
    const uintptr_t address = reinterpret_cast<uintptr_t>(data);
    return address % 16 == 0  ? reinterpret_cast<const void *>(&digest_kernel<16>)
           : address % 4 == 0 ? reinterpret_cast<const void *>(&digest_kernel<4>)
                              : reinterpret_cast<const void *>(&digest_kernel<1>);
}

int32_t
check_pieces(const pfo_backend_pieces *given, int64_t count, pfo_backend_error *err)
{
    if (given->bytes < 0 || (given->bytes > 0 && given->data == NULL)) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess, "%lld bytes at address %p",
                             (long long)given->bytes, given->data);
    }
    if (given->scratch_bytes < count * PFO_BACKEND_DIGEST_BYTES ||
        (count > 0 && (given->scratch == NULL || (uintptr_t)given->scratch % 16 != 0))) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "scratch of %lld bytes at address %p; needed: %lld bytes, aligned to 16",
                             (long long)given->scratch_bytes, given->scratch,
                             (long long)count * PFO_BACKEND_DIGEST_BYTES);
    }
    return PFO_BACKEND_OK;
}

cudaError_t
launch(const pfo_backend_pieces *given, const digest_arguments *arguments, cudaStream_t stream)
{
    const void *kernel = kernel_for(given->data);
    int blocks = 0;
    cudaError_t error = pfo_cuda_resident_blocks(kernel, kThreads, given->device, &blocks);
    if (error == cudaSuccess) {
        void *parameters[] = { const_cast<digest_arguments *>(arguments) };
        const int64_t grid = arguments->pieces < blocks ? arguments->pieces : blocks;
        error = cudaLaunchKernel(kernel, dim3((unsigned)grid), dim3(kThreads), parameters, 0, stream);
    }
    return error == cudaSuccess
               ? cudaMemcpyAsync(given->digests, given->scratch, (size_t)arguments->pieces * PFO_BACKEND_DIGEST_BYTES,
                                 cudaMemcpyDeviceToHost, stream)
               : error;
}

cudaError_t
enqueue(const pfo_backend_pieces *given, const digest_arguments *arguments, cudaStream_t stream)
{
    cudaError_t error = arguments->pieces > 0 ? launch(given, arguments, stream) : cudaSuccess;
    const int64_t hashed = arguments->pieces * given->piece_bytes;
    if (error == cudaSuccess && hashed < given->bytes) {
        error = cudaMemcpyAsync(given->rest, arguments->data + hashed, (size_t)(given->bytes - hashed),
                                cudaMemcpyDeviceToHost, stream);
    }
    return error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
}

} // namespace

int32_t
pfo_cuda_digest_pieces_and_wait(const pfo_backend_pieces *pieces, void *stream, pfo_backend_error *err)
{
    if (pieces->piece_bytes < PFO_BACKEND_PIECE_UNIT || pieces->piece_bytes > PFO_BACKEND_PIECE_MAX ||
        pieces->piece_bytes % PFO_BACKEND_PIECE_UNIT != 0) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "pieces of %lld bytes; accepted: a multiple of %d up to %d",
                             (long long)pieces->piece_bytes, (int)PFO_BACKEND_PIECE_UNIT, (int)PFO_BACKEND_PIECE_MAX);
    }
    const int64_t whole = pieces->bytes / pieces->piece_bytes;
    const int64_t last = pieces->bytes % pieces->piece_bytes;
    const int32_t code = check_pieces(pieces, whole + (last > 0), err);
    if (code != PFO_BACKEND_OK) {
        return code;
    }
    const pfo_device_guard guard(pieces->device);
    bool capturing = false;
    cudaError_t error = guard.error();
    if (error == cudaSuccess) {
        error = pfo_cuda_is_capturing(static_cast<cudaStream_t>(stream), &capturing);
    }
    if (capturing) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "the content of device memory cannot be read while a graph is captured");
    }
    const digest_arguments arguments = { static_cast<const unsigned char *>(pieces->data), pieces->bytes,
                                         pieces->piece_bytes, whole + (last > PFO_BACKEND_SHORT_PIECE),
                                         static_cast<unsigned char *>(pieces->scratch) };
    if (error == cudaSuccess) {
        error = enqueue(pieces, &arguments, static_cast<cudaStream_t>(stream));
    }
    return error == cudaSuccess ? PFO_BACKEND_OK
                                : pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot read %lld bytes on device %d",
                                                (long long)pieces->bytes, (int)pieces->device);
}
