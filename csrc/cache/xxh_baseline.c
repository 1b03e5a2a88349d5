/* xxh_baseline.c: XXH3-128 with the architecture's baseline instructions (SSE2, NEON or scalar). See xxh_ops.h. */
#define PFO_XXH_NAME pfo_xxh_baseline
#include "cache/xxh_body.h"
