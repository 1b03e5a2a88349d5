/* common.cuh: what the backend's CUDA files share: launch shape, kernel arguments, error text, element access.
 *
 * Threads per block are fixed, so that the order of additions is; the number of blocks is the device's to choose (persistent
 * grid), because no result depends on it.
 */
#ifndef PFO_CUDA_COMMON_CUH
#define PFO_CUDA_COMMON_CUH

#include <cuda_runtime.h>

#include <stddef.h>

#include "table.h"

static_assert(sizeof(void *) == 8, "64-bit hosts only");

enum {
    PFO_CUDA_THREADS = 512,     /* 2 blocks fill the 64 K registers of a multiprocessor at 64 registers a thread */
    PFO_CUDA_BLOCKS_PER_SM = 2, /* promised to the compiler; the launch asks the occupancy calculator */
    PFO_CUDA_PARAMETERS = 4096, /* bytes of kernel parameters every device takes */
    PFO_CUDA_LARGE_PARAMETERS = 32764, /* from sm_70 and CUDA 12.1 on */
};

/* Arguments of pass 1. Groups travel inside while they fit. */
struct pfo_norm_arguments {
    pfo_table_view view;
    double max_grad_norm;
    double unscale;
    const float *grad_scale;
    const float *found_inf;
    int32_t op;
    int32_t skip_nonfinite;
    int32_t skip_anyway;
    int32_t groups_inside; /* 1: groups[] below, 0: view.groups */
    pfo_backend_group groups[PFO_TABLE_INLINE_GROUPS];
};
static_assert(sizeof(pfo_norm_arguments) <= PFO_CUDA_PARAMETERS, "kernel parameters");

/* Fills *err (may be NULL): "text: driver's reason". Returns code. */
int32_t pfo_cuda_fail(pfo_backend_error *err, int32_t code, cudaError_t error, const char *format, ...);

/* Makes `device` current for its lifetime. Goes back to the device before only where that one is in use, because asking for it
 * would create its context. */
class pfo_device_guard {
  public:
    explicit pfo_device_guard(int device);
    ~pfo_device_guard();
    pfo_device_guard(const pfo_device_guard &) = delete;
    pfo_device_guard &operator=(const pfo_device_guard &) = delete;
    cudaError_t
    error() const
    {
        return error_;
    }

  private:
    int previous_;
    bool changed_;
    cudaError_t error_;
};

/* Blocks that a kernel keeps resident on the whole device; also makes the driver load the kernel now and not in a
 * capture. */
cudaError_t pfo_cuda_resident_blocks(const void *kernel, int threads, int device, int *blocks);

/* Whether work on the stream goes into a graph instead of to the device. */
cudaError_t pfo_cuda_is_capturing(cudaStream_t stream, bool *capturing);

/* Arguments of pass 2. */
struct pfo_update_arguments {
    pfo_table_view view;
    uint64_t seed;
    uint64_t rounding_step;
    const int64_t *device_rounding_step;
    pfo_lerp ema;
    int32_t stochastic;
    int32_t zero_grads;
};

/* norm.cu, update.cu: kernels, NULL for an operation that has none; and the launches, which return the launch's error. plain: every
 * tensor is float32 throughout and nothing but the update is asked for. */
const void *pfo_cuda_norm_kernel(void);
const void *pfo_cuda_update_kernel(int32_t op, int plain);
cudaError_t pfo_cuda_launch_norm(const pfo_norm_arguments *arguments, int blocks, cudaStream_t stream);
cudaError_t pfo_cuda_launch_update(const pfo_update_arguments *arguments, int32_t op, int plain, int blocks,
                                   cudaStream_t stream);

/* plan.cu: the table's plan functions and read_state_and_wait(). */
int32_t pfo_cuda_plan_bytes(const pfo_backend_plan_spec *spec, int64_t *bytes, pfo_backend_error *err);
int32_t pfo_cuda_plan_create(const pfo_backend_plan_spec *spec, void *stream, pfo_backend_plan **plan,
                             pfo_backend_error *err);
int32_t pfo_cuda_plan_update(pfo_backend_plan *plan, const pfo_backend_tensor *tensors, int64_t tensor_count,
                             void *stream, pfo_backend_error *err);
void pfo_cuda_plan_destroy(pfo_backend_plan *plan);
int32_t pfo_cuda_norm(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err);
int32_t pfo_cuda_update(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err);
int32_t pfo_cuda_read_state_and_wait(pfo_backend_plan *plan, void *stream, pfo_backend_state *out,
                                     pfo_backend_error *err);

/* fingerprint.cu */
int32_t pfo_cuda_digest_pieces_and_wait(const pfo_backend_pieces *pieces, void *stream, pfo_backend_error *err);

/* matmul.cu */
int32_t pfo_cuda_matmul(const pfo_backend_matmul *product, void *stream, pfo_backend_error *err);

#if defined(__CUDACC__)
/* Addresses out of the table are generic to the compiler; said to be global they cost a plain global access. */
template <typename T>
static __device__ __forceinline__ T *
pfo_global(T *address)
{
    __builtin_assume(__isGlobal(address));
    return address;
}

#endif

#endif
