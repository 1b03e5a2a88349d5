/* xxh_avx512.c: XXH3-128 with AVX512 instructions; empty where the architecture is another one. See xxh_ops.h. */
#include "base/cpu.h"

#if defined(__x86_64__)
#if !defined(__AVX512F__)
#error "compile this file with the flags of PFO_FILE_xxh_avx512 in csrc/flags.mk"
#endif
#define PFO_XXH_NAME pfo_xxh_avx512
#include "cache/xxh_body.h"
#endif
