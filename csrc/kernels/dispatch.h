/* dispatch.h: the op tables: for each processor level, one function per operation and dtype.
 *
 * Every variant gives bit for bit what the scalar reference (kernels_scalar.c) gives, for finite inputs; with NaN inputs the
 * same elements are NaN. A new dtype or operation is a new column or row here and a function per variant.
 * Threads: tables are constant; kernels have no state.
 */
#ifndef PFO_KERNELS_DISPATCH_H
#define PFO_KERNELS_DISPATCH_H

#include "base/cpu.h"
#include "kernels/plan.h"
#include "kernels/tensor.h"

/* Lanes of the sum of squares: element i of a chunk is added to double accumulator i % PFO_NORM_LANES in order of i; the lanes
 * are then folded in halves (lane j += lane j + 16, then + 8, 4, 2, 1). Every variant keeps to this, so all agree in every bit. */
enum { PFO_NORM_LANES = 32 };

/* pre: count >= 0; grad has count elements. */
typedef void (*pfo_norm_kernel)(const void *grad, int64_t count, pfo_norm_partial *partial);

/* pre: scalars belongs to the operation; data[role] points at the chunk's first element of each role the operation
 * uses. */
typedef void (*pfo_update_kernel)(const void *scalars, void *const data[PFO_ROLE_COUNT], int64_t count);

typedef struct pfo_kernel_table {
    pfo_cpu_level level;
    pfo_norm_kernel norm[PFO_DTYPE_COUNT];
    pfo_update_kernel update[PFO_OP_COUNT][PFO_DTYPE_COUNT]; /* NULL in row PFO_OP_NORM, which is not an update */
} pfo_kernel_table;

/* The table for a level this machine can run, or NULL when it cannot or perfopt has no kernels of that level. */
const pfo_kernel_table *pfo_kernels_for(pfo_cpu_level level);

/* The table for the level pfo_cpu_select() gives (PERFOPT_CPU, else the best). Same errors; *table is then NULL. */
pfo_status pfo_kernels_select(const pfo_kernel_table **table, pfo_error *err);

/* One per variant file; NULL where the compiler's target has no such instructions. Use pfo_kernels_for(), which asks the
 * processor first. */
const pfo_kernel_table *pfo_kernels_scalar(void);
const pfo_kernel_table *pfo_kernels_avx2(void);
const pfo_kernel_table *pfo_kernels_avx512(void);

#endif
