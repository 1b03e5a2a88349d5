/* cuda.h: the little that cuda/backend.cu uses of CUDA's driver; see cuda_runtime.h beside it. */
#ifndef PFO_EMULATOR_CUDA_H
#define PFO_EMULATOR_CUDA_H

typedef int CUdevice;
typedef enum CUresult { CUDA_SUCCESS = 0 } CUresult;

#endif
