/* dispatch.h: the op tables: for each processor level, one function per operation, on float32.
 *
 * Arithmetic is float32 only; what is stored otherwise is converted on its way (kernels/convert.h). Every variant gives bit for
 * bit what the scalar reference (kernels_scalar.c) gives, for finite inputs; with NaN inputs the same elements are NaN. A new
 * operation is a new row here and a function per variant.
 * Threads: tables are constant; kernels have no state.
 */
#ifndef PFO_KERNELS_DISPATCH_H
#define PFO_KERNELS_DISPATCH_H

#include "base/cpu.h"
#include "kernels/convert.h"
#include "kernels/plan.h"
#include "kernels/tensor.h"

/* Lanes of the sum of squares: element i of a chunk is added to double accumulator i % PFO_NORM_LANES in order of i; the lanes
 * are then folded in halves (lane j += lane j + 16, then + 8, 4, 2, 1). Every variant keeps to this, so all agree in every bit,
 * also when a chunk is read in pieces whose lengths are multiples of PFO_NORM_LANES. */
enum { PFO_NORM_LANES = 32 };

typedef struct pfo_norm_lanes {
    double lane[PFO_NORM_LANES];
    int64_t nonfinite; /* 1 if any element was inf or NaN */
} pfo_norm_lanes;

/* Adds count elements to the lanes, the first of them to lane 0. */
typedef void (*pfo_norm_kernel)(const float *grad, int64_t count, pfo_norm_lanes *lanes);

pfo_norm_partial pfo_norm_fold(pfo_norm_lanes *lanes); /* uses the lanes up */

/* pre: scalars belongs to the operation; data[role] points at count elements of each role the tensor has and is NULL for states it
 * does not have; COPY and EMA are not looked at. They do not overlap. */
typedef void (*pfo_update_kernel)(const pfo_scalars *scalars, float *const data[PFO_ROLE_COUNT], int64_t count);

/* ema = lerp from ema to weight. */
typedef void (*pfo_ema_kernel)(pfo_lerp lerp, const float *weight, float *ema, int64_t count);

typedef struct pfo_kernel_table {
    pfo_cpu_level level;
    pfo_norm_kernel norm;
    pfo_update_kernel update[PFO_OP_COUNT]; /* NULL for PFO_OP_NORM, which is not an update */
    pfo_ema_kernel ema;
} pfo_kernel_table;

/* The table for a level this machine can run, or NULL when it cannot or perfopt has no kernels of that level. */
const pfo_kernel_table *pfo_kernels_for(pfo_cpu_level level);

/* What a step is made of: the tables of one level. */
typedef struct pfo_engine {
    const pfo_kernel_table *kernels;
    const pfo_convert_table *converters; /* those of the scalar level where the level has none of its own */
} pfo_engine;

/* 1 and both tables, or 0 when this machine cannot run the level or perfopt has no kernels of it. */
int pfo_engine_for(pfo_cpu_level level, pfo_engine *engine);

/* The engine of the level pfo_cpu_select() gives (PERFOPT_CPU, else the best). Same errors. */
pfo_status pfo_engine_select(pfo_engine *engine, pfo_error *err);

/* One per variant file; NULL where the compiler's target has no such instructions. Use pfo_kernels_for(), which asks the
 * processor first. */
const pfo_kernel_table *pfo_kernels_scalar(void);
const pfo_kernel_table *pfo_kernels_avx2(void);
const pfo_kernel_table *pfo_kernels_avx512(void);
const pfo_kernel_table *pfo_kernels_neon(void);

#endif
