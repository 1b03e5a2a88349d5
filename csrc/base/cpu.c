/* cpu.c: processor levels by cpuid and xgetbv. See cpu.h. */
#include "base/cpu.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const level_names[PFO_CPU_LEVEL_COUNT] = {
#define PFO_CPU_NAME(id, name) name,
    PFO_CPU_LEVEL_LIST(PFO_CPU_NAME)
#undef PFO_CPU_NAME
};

const char *
pfo_cpu_level_name(pfo_cpu_level level)
{
    const int index = (int)level;
    return index >= 0 && index < PFO_CPU_LEVEL_COUNT ? level_names[index] : "unknown";
}

#if defined(__x86_64__)
enum {
    LEAF1_ECX = (1 << 12) | (1 << 27) | (1 << 28) | (1 << 29), /* FMA, OSXSAVE, AVX, F16C */
    LEAF7_EBX_AVX2 = 1 << 5,
    XCR0_AVX = 0x6,     /* SSE and AVX state */
    XCR0_AVX512 = 0xe6, /* and opmask, upper halves of zmm0-15, zmm16-31 */
};
static const unsigned leaf7_ebx_avx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31); /* F, DQ, BW, VL */

static uint64_t
os_saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

static pfo_cpu_level
best_level(void)
{
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & LEAF1_ECX) != LEAF1_ECX) {
        return PFO_CPU_SCALAR;
    }
    const uint64_t saved = os_saved_state();
    if ((saved & XCR0_AVX) != XCR0_AVX || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        (ebx & LEAF7_EBX_AVX2) == 0) {
        return PFO_CPU_SCALAR;
    }
    if ((saved & XCR0_AVX512) == XCR0_AVX512 && (ebx & leaf7_ebx_avx512) == leaf7_ebx_avx512) {
        return PFO_CPU_AVX512;
    }
    return PFO_CPU_AVX2;
}
#elif defined(__aarch64__)
static pfo_cpu_level
best_level(void)
{
    return PFO_CPU_NEON; /* part of the architecture's baseline */
}
#else
static pfo_cpu_level
best_level(void)
{
    return PFO_CPU_SCALAR;
}
#endif

int
pfo_cpu_supports(pfo_cpu_level level)
{
    const pfo_cpu_level best = best_level();
    if (level == PFO_CPU_SCALAR || level == best) {
        return 1;
    }
    return level == PFO_CPU_AVX2 && best == PFO_CPU_AVX512;
}

pfo_status
pfo_cpu_select(pfo_cpu_level *level, pfo_error *err)
{
    *level = PFO_CPU_SCALAR;
    const char *wanted = getenv("PERFOPT_CPU");
    if (wanted == NULL || wanted[0] == '\0') {
        *level = best_level();
        return PFO_OK;
    }
    for (int i = 0; i < PFO_CPU_LEVEL_COUNT; i++) {
        if (strcmp(wanted, level_names[i]) == 0) {
            if (!pfo_cpu_supports((pfo_cpu_level)i)) {
                return pfo_fail(err, PFO_UNAVAILABLE, "PERFOPT_CPU=%s, but this machine's best level is %s", wanted,
                                pfo_cpu_level_name(best_level()));
            }
            *level = (pfo_cpu_level)i;
            return PFO_OK;
        }
    }
    return pfo_fail(err, PFO_BAD_ARGUMENT, "PERFOPT_CPU=%.32s is unknown; accepted: scalar, avx2, avx512, neon",
                    wanted);
}
