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
    case PFO_CPU_NEON:
        return pfo_kernels_neon();
    case PFO_CPU_LEVEL_COUNT:
        break;
    }
    return NULL;
}

int
pfo_engine_for(pfo_cpu_level level, pfo_engine *engine)
{
    engine->kernels = pfo_kernels_for(level);
    engine->converters = pfo_converters_for(level);
    if (engine->converters == NULL) {
        engine->converters = pfo_converters_scalar();
    }
    return engine->kernels != NULL;
}

pfo_status
pfo_engine_select(pfo_engine *engine, pfo_error *err)
{
    pfo_cpu_level level;
    PFO_TRY(pfo_cpu_select(&level, err));
    if (!pfo_engine_for(level, engine)) {
        return pfo_fail(err, PFO_UNAVAILABLE, "this build has no %s kernels", pfo_cpu_level_name(level));
    }
    return PFO_OK;
}

pfo_norm_partial
pfo_norm_fold(pfo_norm_lanes *lanes)
{
    for (int width = PFO_NORM_LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) {
            lanes->lane[j] += lanes->lane[j + width];
        }
    }
    return (pfo_norm_partial){ lanes->lane[0], lanes->nonfinite };
}
