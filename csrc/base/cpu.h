/* cpu.h: what this processor and its operating system can run, found once.
 *
 * A level counts as present only when cpuid reports the instructions AND xgetbv shows that the operating system saves
 * their registers. The environment variable PERFOPT_CPU (scalar | avx2 | avx512 | neon) forces a level.
 * This file is compiled with baseline flags and without link-time optimization, so that no newer instruction can
 * slip into the code that decides about them.
 */
#ifndef PFO_BASE_CPU_H
#define PFO_BASE_CPU_H

#include "base/status.h"

/* X(enumerator, name): order is the order of preference. */
#define PFO_CPU_LEVEL_LIST(X)                                                                                          \
    X(SCALAR, "scalar")                                                                                                \
    X(NEON, "neon")                                                                                                    \
    X(AVX2, "avx2")                                                                                                    \
    X(AVX512, "avx512")

typedef enum pfo_cpu_level {
#define PFO_CPU_ENUM(id, name) PFO_CPU_##id,
    PFO_CPU_LEVEL_LIST(PFO_CPU_ENUM)
#undef PFO_CPU_ENUM
        PFO_CPU_LEVEL_COUNT
} pfo_cpu_level;

const char *pfo_cpu_level_name(pfo_cpu_level level);

/* 1 if this machine can run the level (scalar always). avx2 implies FMA and F16C; avx512 implies F, BW, VL and DQ. */
int pfo_cpu_supports(pfo_cpu_level level);

/* The level to use: PERFOPT_CPU if set, else the best one supported. PFO_BAD_ARGUMENT for an unknown name,
 * PFO_UNAVAILABLE for one this machine cannot run; *level is then PFO_CPU_SCALAR. */
pfo_status pfo_cpu_select(pfo_cpu_level *level, pfo_error *err);

#endif
