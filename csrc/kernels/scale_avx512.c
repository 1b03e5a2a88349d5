/* scale_avx512.c: the kernels of scale.h, sixteen float32 at a time. Entered only after cpu.h said yes (flags in csrc/flags.mk). */
#if defined(__AVX512F__)
#define PFO_SCALE_TABLE pfo_scale_kernels_avx512
#define PFO_SCALE_LEVEL PFO_CPU_AVX512
#include "kernels/scale_body.h"
#else
#include "kernels/scale.h"

const pfo_scale_kernels *
pfo_scale_kernels_avx512(void)
{
    return NULL;
}
#endif
