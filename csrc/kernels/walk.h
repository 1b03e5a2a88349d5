/* walk.h: ranges of a plan's chunks, worked on by one thread: what execute.c hands to the pool.
 *
 * A chunk whose roles are all float32 goes to the kernel as it lies. Any other is taken in tiles: roles that are stored otherwise
 * are read into float32 images in the first cache (kernels/convert.h), worked on there and written back; the copy of the weight,
 * its moving average and the zeroing of the gradient are done on the tile while it is there. Each is memory-bound, so each
 * byte is moved once and the images cost nearly nothing.
 * Threads: any number at a time on disjoint ranges; results do not depend on how the chunks are cut into ranges.
 */
#ifndef PFO_KERNELS_WALK_H
#define PFO_KERNELS_WALK_H

#include "kernels/execute.h"

typedef struct pfo_walk {
    pfo_plan *plan;
    const pfo_engine *engine;
    const pfo_step_request *request; /* of updates; NULL for the norm */
    pfo_lerp ema;                    /* what request->ema_decay means */
    int zero_grads;                  /* 1: pfo_walk_update() zeroes each gradient when it has been used */
} pfo_walk;

/* Pool bodies; context is a pfo_walk. norm fills plan->partials, update needs plan->scalars, zero clears the gradients. */
void pfo_walk_norm(void *context, int64_t begin, int64_t end);
void pfo_walk_update(void *context, int64_t begin, int64_t end);
void pfo_walk_zero(void *context, int64_t begin, int64_t end);

#endif
