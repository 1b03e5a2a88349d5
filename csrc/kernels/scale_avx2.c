/* scale_avx2.c: the kernels of scale.h, eight float32 at a time. Entered only after cpu.h said yes (flags in csrc/flags.mk). */
#if defined(__AVX2__)
#define PFO_SCALE_TABLE pfo_scale_kernels_avx2
#define PFO_SCALE_LEVEL PFO_CPU_AVX2
#include "kernels/scale_body.h"
#else
#include "kernels/scale.h"

const pfo_scale_kernels *
pfo_scale_kernels_avx2(void)
{
    return NULL;
}
#endif
