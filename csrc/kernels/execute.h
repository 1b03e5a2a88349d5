/* execute.h: one optimizer step over a plan: pass 1 reads the gradients, pass 2 does everything else.
 *
 * Pass 1 gives the global norm and whether any gradient is inf or NaN; it runs whenever clipping or the non-finite check is
 * asked for, because nothing may change before all gradients have been seen. It reads 4 bytes a float32 parameter; pass 2 (AdamW)
 * reads 16 and writes 12. The result is the same in every bit for any number of threads and any kernel variant.
 * Threads: runs on base/pool.h; the plan must not be used by another thread meanwhile. Never touches Python.
 */
#ifndef PFO_KERNELS_EXECUTE_H
#define PFO_KERNELS_EXECUTE_H

#include "kernels/dispatch.h"
#include "kernels/plan.h"

typedef struct pfo_step_request {
    double max_grad_norm;   /* < 0: no clipping */
    double unscale;         /* gradients are multiplied by it first (reciprocal of a loss scale), normally 1 */
    double step;            /* number of this step, >= 1, for entries without a step count of their own */
    double ema_decay;       /* of entries with an EMA: ema = decay * ema + (1 - decay) * weight, as torch.lerp */
    uint64_t seed;          /* of the random bits of this run */
    uint64_t rounding_step; /* number of this step, < 2^30: with the seed it fixes the random bits */
    int stochastic;         /* 1: what is below 32 bits is rounded at random (rounding_math.h) */
    int skip_nonfinite;     /* 1: inf or NaN in any gradient means that nothing at all changes */
    int found_inf;          /* 1: whoever unscaled the gradients saw inf or NaN: as above, without looking */
    int zero_grads;         /* 1: gradients are zero afterwards, also when the step was skipped */
    int threads;            /* <= 0: the pool's default */
} pfo_step_request;

typedef struct pfo_step_result {
    double norm;        /* of all gradients together, after unscale; NaN when pass 1 was not needed */
    double clip_factor; /* what the gradients were multiplied by, after unscale */
    int nonfinite;      /* pass 1 saw inf or NaN, or found_inf said so */
    int skipped;        /* nothing was changed */
} pfo_step_result;

/* Norm and non-finite flag of the plan's gradients. Cannot fail. unscale as above. */
void pfo_execute_norm(pfo_plan *plan, const pfo_engine *engine, double unscale, int threads, pfo_step_result *result);

/* One step of the plan's operation. groups: plan->group_count options. pre: plan->op is not PFO_OP_NORM; options are in the
 * ranges of <name>_math.h. Entries without gradient are left alone, their step counts too. Cannot fail. */
void pfo_execute_step(pfo_plan *plan, const pfo_engine *engine, const pfo_options *groups,
                      const pfo_step_request *request, pfo_step_result *result);

#endif
