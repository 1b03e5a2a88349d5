/* dispatch.c: see dispatch.h. Compiled with baseline flags: it runs before the processor has been asked. */
#include "kernels/dispatch.h"

#include <stddef.h>

const pfo_kernel_table *
pfo_kernels_for(pfo_cpu_level level)
{
    if (!pfo_cpu_supports(level)) {
        return NULL;
    }
    switch (level) {
    case PFO_CPU_SCALAR:
        return pfo_kernels_scalar();
    case PFO_CPU_AVX2:
        return pfo_kernels_avx2();
    case PFO_CPU_AVX512:
        return pfo_kernels_avx512();
    case PFO_CPU_NEON: /* no kernels of its own yet: the compiler vectorizes the scalar ones for the baseline it has */
        return pfo_kernels_scalar();
    case PFO_CPU_LEVEL_COUNT:
        break;
    }
    return NULL;
}

pfo_status
pfo_kernels_select(const pfo_kernel_table **table, pfo_error *err)
{
    pfo_cpu_level level;
    *table = NULL;
    PFO_TRY(pfo_cpu_select(&level, err));
    *table = pfo_kernels_for(level);
    if (*table == NULL) {
        return pfo_fail(err, PFO_UNAVAILABLE, "this build has no %s kernels", pfo_cpu_level_name(level));
    }
    return PFO_OK;
}
