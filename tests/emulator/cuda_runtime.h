/* cuda_runtime.h: CUDA's runtime and device functions as far as cuda/<name>.cu uses them, for a compiler of the host: so that the kernels
 * themselves run in tests where there is no device. Found in place of the toolkit's header by the order of -I.
 *
 * - [threads] The threads of a block are fibers (emulator.cpp), which switch at barriers and shuffles only, and begin in an order drawn
 *   at random for each launch: what depends on an order that CUDA does not promise has other bits from run to run. Blocks run one after
 *   the other. A barrier that not all of its threads reach ends the process and says so.
 * - [memory] The device's memory is the host's. Shared memory is static: never that of two blocks at once.
 * - [calls] Work is done when it is enqueued, or kept when the stream is captured. Every call of the runtime can be made to fail.
 *   The controls are in emulator.h.
 * Host threads: launches are one at a time. Not emulated: sizes of registers and grids, timing, memory order weaker than the host's.
 */
#ifndef PFO_EMULATOR_CUDA_RUNTIME_H
#define PFO_EMULATOR_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define __CUDACC__ 1
#define CUDART_VERSION 13000
#define __host__
#define __device__
#define __global__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__

/* ---- types ------------------------------------------------------------------------------------ */

typedef enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInjected = 900, /* made up: emulator_fail_at() */
} cudaError_t;
typedef struct emulator_stream *cudaStream_t;
typedef enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone = 0,
    cudaStreamCaptureStatusActive = 1
} cudaStreamCaptureStatus;
typedef enum cudaMemcpyKind { cudaMemcpyDeviceToHost = 2 } cudaMemcpyKind;
typedef enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 } cudaDeviceAttr;
typedef enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0 } cudaDriverEntryPointQueryResult;
enum { cudaEnableDefault = 0 };

struct cudaDeviceProp {
    char name[256];
    int major;
    int minor;
    int multiProcessorCount;
    size_t totalGlobalMem;
};

struct dim3 {
    unsigned x, y, z;
    explicit dim3(unsigned size) : x(size), y(1), z(1)
    {
    }
};
struct emulator_index {
    unsigned x;
};
struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

static inline uint2
make_uint2(unsigned x, unsigned y)
{
    return { x, y };
}

static inline uint4
make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return { x, y, z, w };
}

/* ---- [threads] -------------------------------------------------------------------------------- */

extern emulator_index threadIdx, blockIdx, gridDim;

extern "C" {
void emulator_wait_for_block(void);
void emulator_wait_for_warp(unsigned mask);
/* Gives every lane of the mask what each of them handed in, as [32]. */
const uint64_t *emulator_gather(unsigned mask, uint64_t word);
int emulator_any_in_block(int predicate);
/* Tells the emulator how a kernel is called: cudaLaunchKernel() does not know its type. Returns 1. */
int emulator_add_kernel(const void *kernel, void (*call)(const void *kernel, const void *arguments), size_t bytes);
}

template <typename Arguments>
void
emulator_call(const void *kernel, const void *arguments)
{
    reinterpret_cast<void (*)(Arguments)>(const_cast<void *>(kernel))(*static_cast<const Arguments *>(arguments));
}

template <typename Arguments>
int
emulator_add(void (*kernel)(Arguments))
{
    return emulator_add_kernel(reinterpret_cast<const void *>(kernel), &emulator_call<Arguments>, sizeof(Arguments));
}

static inline void
__syncthreads()
{
    emulator_wait_for_block();
}

static inline int
__syncthreads_or(int predicate)
{
    return emulator_any_in_block(predicate);
}

static inline void
__syncwarp(unsigned mask = 0xffffffffu)
{
    emulator_wait_for_warp(mask);
}

static inline double
__shfl_down_sync(unsigned mask, double value, unsigned delta)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    const uint64_t *all = emulator_gather(mask, word);
    const unsigned from = threadIdx.x % 32 + delta;
    memcpy(&value, &all[from < 32 ? from : threadIdx.x % 32], sizeof value);
    return value;
}

template <typename Fold>
static inline unsigned
emulator_reduce(unsigned mask, unsigned value, Fold fold)
{
    const uint64_t *all = emulator_gather(mask, value);
    for (int lane = 0; lane < 32; lane++) {
        if (lane != (int)(threadIdx.x % 32) && mask >> lane & 1) {
            value = fold(value, (unsigned)all[lane]);
        }
    }
    return value;
}

static inline unsigned
__reduce_max_sync(unsigned mask, unsigned value)
{
    return emulator_reduce(mask, value, [](unsigned a, unsigned b) { return a > b ? a : b; });
}

static inline unsigned
__reduce_min_sync(unsigned mask, unsigned value)
{
    return emulator_reduce(mask, value, [](unsigned a, unsigned b) { return a < b ? a : b; });
}

static inline unsigned
__reduce_add_sync(unsigned mask, unsigned value)
{
    return emulator_reduce(mask, value, [](unsigned a, unsigned b) { return a + b; });
}

static inline unsigned
atomicAdd(unsigned *at, unsigned value)
{
    const unsigned before = *at;
    *at += value;
    return before;
}

static inline unsigned
atomicOr(unsigned *at, unsigned value)
{
    const unsigned before = *at;
    *at |= value;
    return before;
}

static inline void
__threadfence()
{
}

template <typename Value>
static inline Value
__ldcg(const Value *at)
{
    return *at;
}

static inline double
__fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}

static inline unsigned
__float_as_uint(float value)
{
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float
__uint_as_float(unsigned bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A promise to the compiler, kept to here. */
static inline void
__builtin_assume(bool promise)
{
    if (!promise) {
        fputs("emulator: a promise to the compiler does not hold\n", stderr);
        abort();
    }
}

static inline bool
__isGlobal(const void *address)
{
    return address != nullptr;
}

/* ---- [calls] ---------------------------------------------------------------------------------- */

extern "C" {
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *outcome);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t shared);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **parameters, size_t shared,
                             cudaStream_t stream);
}

#endif
