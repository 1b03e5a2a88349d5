/* xxh_ops.c: which XXH3 variant runs here. See xxh_ops.h. */
#include "cache/xxh_ops.h"

#include <pthread.h>
#include <stdatomic.h>

static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;
static _Atomic(const pfo_xxh_ops *) chosen;

const pfo_xxh_ops *
pfo_xxh_ops_for(pfo_cpu_level level)
{
    if (!pfo_cpu_supports(level)) {
        return NULL;
    }
#if defined(__x86_64__)
    if (level == PFO_CPU_AVX512) {
        return &pfo_xxh_avx512;
    }
    if (level == PFO_CPU_AVX2) {
        return &pfo_xxh_avx2;
    }
#endif
    return &pfo_xxh_baseline;
}

static void
choose(void)
{
    pfo_cpu_level level;
    (void)pfo_cpu_select(&level,
                         NULL); /* an unusable PERFOPT_CPU is reported by cpu_info(); here it means the baseline */
    atomic_store_explicit(&chosen, pfo_xxh_ops_for(level), memory_order_release);
}

const pfo_xxh_ops *
pfo_xxh_ops_best(void)
{
    const pfo_xxh_ops *ops = atomic_load_explicit(&chosen, memory_order_acquire);
    if (ops == NULL) {
        (void)pthread_once(&chosen_once, choose);
        ops = atomic_load_explicit(&chosen, memory_order_acquire);
    }
    return ops;
}
