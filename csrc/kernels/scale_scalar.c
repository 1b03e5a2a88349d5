/* scale_scalar.c: the kernels of scale.h with the baseline's instructions: the reference. */
#define PFO_SCALE_TABLE pfo_scale_kernels_scalar
#define PFO_SCALE_LEVEL PFO_CPU_SCALAR
#include "kernels/scale_body.h"
