/* backend.cu: the one exported symbol: the table of the CUDA backend; and what all of it needs of the driver.
 *
 * The CUDA runtime is linked statically and shares the device's primary context with every other user in the process (torch
 * too), so pointers and streams pass freely between them.
 */
#include "common.cuh"

#include <cuda.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int32_t
pfo_cuda_fail(pfo_backend_error *err, int32_t code, cudaError_t error, const char *format, ...)
{
    if (error != cudaSuccess) {
        (void)cudaGetLastError(); /* reported here; who asks the runtime next begins clean */
    }
    if (err == NULL) {
        return code;
    }
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(err->text, sizeof err->text, format, arguments);
    va_end(arguments);
    err->device_code = (int32_t)error;
    if (error != cudaSuccess && length >= 0 && (size_t)length < sizeof err->text) {
        (void)snprintf(err->text + length, sizeof err->text - (size_t)length, ": %s", cudaGetErrorString(error));
    }
    return code;
}

/* 1 if this process already uses the device. */
static int
has_context(int device)
{
    typedef CUresult (*query)(CUdevice, unsigned int *, int *);
    void *found = NULL;
    cudaDriverEntryPointQueryResult outcome;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &found, 7000, cudaEnableDefault, &outcome);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuDevicePrimaryCtxGetState", &found, cudaEnableDefault, &outcome);
#endif
    if (error != cudaSuccess || outcome != cudaDriverEntryPointSuccess) {
        (void)cudaGetLastError(); /* the answer stands for it */
        return 1;
    }
    unsigned int flags = 0;
    int active = 0;
    return reinterpret_cast<query>(found)((CUdevice)device, &flags, &active) != CUDA_SUCCESS || active;
}

pfo_device_guard::pfo_device_guard(int device) : previous_(device), changed_(false), error_(cudaGetDevice(&previous_))
{
    if (error_ == cudaSuccess && previous_ != device) {
        error_ = cudaSetDevice(device);
        changed_ = error_ == cudaSuccess;
    }
}

pfo_device_guard::~pfo_device_guard()
{
    if (changed_ && has_context(previous_) && cudaSetDevice(previous_) != cudaSuccess) {
        (void)cudaGetLastError(); /* no later call of somebody else's is to tell it */
    }
}

cudaError_t
pfo_cuda_resident_blocks(const void *kernel, int threads, int device, int *blocks)
{
    int multiprocessors = 0;
    int each = 0;
    cudaError_t error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess) {
        error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, 0);
    }
    *blocks = multiprocessors * (each < 1 ? 1 : each);
    return error;
}

cudaError_t
pfo_cuda_is_capturing(cudaStream_t stream, bool *capturing)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(stream, &status);
    *capturing = status != cudaStreamCaptureStatusNone;
    return error;
}

static int32_t
probe(int32_t *device_count, pfo_backend_error *err)
{
    int driver = 0;
    int count = 0;
    *device_count = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        return pfo_cuda_fail(err, PFO_BACKEND_UNAVAILABLE, cudaSuccess, "no CUDA driver is installed");
    }
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice) {
        (void)cudaGetLastError();
    }
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
        return pfo_cuda_fail(err, PFO_BACKEND_UNAVAILABLE, cudaSuccess,
                             "the CUDA driver (version %d.%d) finds no device", driver / 1000, driver % 1000 / 10);
    }
    if (error != cudaSuccess) {
        return pfo_cuda_fail(err, PFO_BACKEND_UNAVAILABLE, error, "the CUDA driver (version %d.%d) does not start",
                             driver / 1000, driver % 1000 / 10);
    }
    *device_count = count;
    return PFO_BACKEND_OK;
}

static int32_t
describe(int32_t device, pfo_backend_device *out, pfo_backend_error *err)
{
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) {
        return pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot describe device %d", (int)device);
    }
    memset(out, 0, sizeof *out);
    (void)snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, properties.name);
    out->compute_major = properties.major;
    out->compute_minor = properties.minor;
    out->multiprocessors = properties.multiProcessorCount;
    out->total_bytes = (int64_t)properties.totalGlobalMem;
    return PFO_BACKEND_OK;
}

static int32_t
memory(int32_t device, pfo_backend_memory *out, pfo_backend_error *err)
{
    const pfo_device_guard guard(device);
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    const cudaError_t error = guard.error() == cudaSuccess ? cudaMemGetInfo(&free_bytes, &total_bytes) : guard.error();
    if (error != cudaSuccess) {
        return pfo_cuda_fail(err, PFO_BACKEND_DEVICE, error, "cannot read the memory of device %d", (int)device);
    }
    out->free_bytes = (int64_t)free_bytes;
    out->total_bytes = (int64_t)total_bytes;
    out->allocated_bytes = -1; /* the runtime does not tell processes apart */
    return PFO_BACKEND_OK;
}

static const pfo_backend table = {
    PFO_BACKEND_ABI_VERSION,
    sizeof(pfo_backend),
    "cuda",
    probe,
    describe,
    memory,
    pfo_cuda_plan_bytes,
    pfo_cuda_plan_create,
    pfo_cuda_plan_update,
    pfo_cuda_plan_destroy,
    pfo_cuda_norm,
    pfo_cuda_update,
    pfo_cuda_read_state_and_wait,
    pfo_cuda_digest_pieces_and_wait,
    pfo_cuda_matmul,
};

extern "C" __attribute__((visibility("default"))) const pfo_backend *perfopt_backend_v1(void);

extern "C" const pfo_backend *
perfopt_backend_v1(void)
{
    return &table;
}
