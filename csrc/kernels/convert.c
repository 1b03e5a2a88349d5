/* convert.c: see convert.h. Compiled with baseline flags: it runs before the processor has been asked. */
#include "kernels/convert.h"

#include <stddef.h>

const pfo_convert_table *
pfo_converters_for(pfo_cpu_level level)
{
    if (!pfo_cpu_supports(level)) {
        return NULL;
    }
    switch (level) {
    case PFO_CPU_SCALAR:
        return pfo_converters_scalar();
    case PFO_CPU_AVX2:
        return pfo_converters_avx2();
    case PFO_CPU_AVX512:
        return pfo_converters_avx512();
    case PFO_CPU_NEON:
        return pfo_converters_neon();
    case PFO_CPU_LEVEL_COUNT:
        break;
    }
    return NULL;
}
