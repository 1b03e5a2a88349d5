/* scale.h: what happens to gradients before a step: look for inf and NaN, multiply, clamp; in place, over a plan of gradients.
 *
 * Each operation is one pass over memory, and writes only what it has to: multiplying by 1 is a check that writes nothing, and a
 * clamp writes the tiles of PFO_CLAMP_TILE elements that hold a value out of range. Non-finite means the bits of inf or NaN
 * in a gradient as it was before the operation; no sum is taken, so large finite values raise no alarm.
 * Results have the same bits for any number of threads and any variant. On the CPU only; gradients of bfloat16 and float16 are
 * worked on as float32 and rounded to nearest where they are written.
 * Threads: runs on base/pool.h; neither the plan nor the gradients may be used by another thread meanwhile.
 * Memory: pfo_gradients_check_apart() allocates while it runs; nothing else does.
 */
#ifndef PFO_KERNELS_SCALE_H
#define PFO_KERNELS_SCALE_H

#include "base/cpu.h"
#include "base/status.h"
#include "kernels/plan.h"

enum { PFO_CLAMP_TILE = 1024 };

/* pre of all: count >= 0, data is aligned to its elements. */
typedef struct pfo_scale_kernels {
    pfo_cpu_level level;
    /* 1 if any element is inf or NaN, else 0. */
    int (*check)(const float *data, int64_t count);
    /* Multiplies; answers as check() does of the elements before. */
    int (*scale)(float *data, int64_t count, float factor);
    /* max(x, low), then min(that, high); NaN stays. 1 if anything was written. */
    int (*clamp)(float *data, int64_t count, float low, float high);
} pfo_scale_kernels;

/* The kernels for a level this machine can run, or NULL when it cannot. */
const pfo_scale_kernels *pfo_scale_kernels_for(pfo_cpu_level level);

/* PFO_BAD_ARGUMENT, naming both, when two of the plan's gradients share memory: they cannot be changed in place by several
 * threads. PFO_NO_MEMORY. */
pfo_status pfo_gradients_check_apart(const pfo_plan *plan, pfo_error *err);

/* 1 if any gradient has an inf or NaN. Stops early once one is found. threads as in base/pool.h. */
int pfo_gradients_nonfinite(const pfo_plan *plan, const pfo_scale_kernels *kernels, int threads);

/* Multiplies all gradients by factor (NaN and inf are factors like any other). 1 if any had an inf or NaN before.
 * pre: pfo_gradients_check_apart() found nothing. */
int pfo_gradients_scale(const pfo_plan *plan, const pfo_scale_kernels *kernels, float factor, int threads);

/* Clamps all gradients to [low, high]; with low > high all become high, as torch has it. 1 if anything was written.
 * pre: as above; low and high are not NaN. */
int pfo_gradients_clamp(const pfo_plan *plan, const pfo_scale_kernels *kernels, float low, float high, int threads);

/* One per variant file; NULL where the compiler's target has no such instructions. Use pfo_scale_kernels_for(). */
const pfo_scale_kernels *pfo_scale_kernels_scalar(void);
const pfo_scale_kernels *pfo_scale_kernels_avx2(void);
const pfo_scale_kernels *pfo_scale_kernels_avx512(void);

#endif
