/* convert_avx512.c: no conversions of this level yet. */
#include "kernels/convert.h"

const pfo_convert_table *
pfo_converters_avx512(void)
{
    return pfo_converters_scalar();
}
