/* float_environment.h: the floating point environment is part of a kernel's result.
 *
 * A caller that flushes denormals (torch.set_flush_denormal, a library built with -ffast-math) would make its own thread's chunks
 * differ from those of the pool's workers, so every range of chunks runs under the default environment and the caller's is put
 * back. Threads: the environment belongs to the calling thread. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_FLOAT_ENVIRONMENT_H
#define PFO_KERNELS_FLOAT_ENVIRONMENT_H

#if defined(__SSE2__)
#include <xmmintrin.h>
enum { PFO_DEFAULT_MXCSR = 0x1f80 }; /* round to nearest, no flushing, exceptions masked */
#elif defined(__aarch64__)
#include <stdint.h> /* FPCR of all zeros says the same; its upper half is reserved */
#endif

/* Returns what pfo_leave_default_floats() takes. */
static inline unsigned
pfo_enter_default_floats(void)
{
#if defined(__SSE2__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr(PFO_DEFAULT_MXCSR);
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
    return (unsigned)before;
#else
    return 0;
#endif
}

static inline void
pfo_leave_default_floats(unsigned before)
{
#if defined(__SSE2__)
    _mm_setcsr(before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)before) : "memory");
#else
    (void)before;
#endif
}

#endif
