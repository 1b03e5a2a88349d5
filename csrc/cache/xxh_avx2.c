/* xxh_avx2.c: XXH3-128 with AVX2 instructions; empty where the architecture is another one. See xxh_ops.h. */
#include "base/cpu.h"

#if defined(__x86_64__)
#if !defined(__AVX2__)
#error "compile this file with the flags of PFO_FILE_xxh_avx2 in csrc/flags.mk"
#endif
#define PFO_XXH_NAME pfo_xxh_avx2
#include "cache/xxh_body.h"
#endif
