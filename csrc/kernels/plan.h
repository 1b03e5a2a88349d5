/* plan.h: many tensors as one piece of work: a table of parameters and a table of chunks over all of them.
 *
 * Contract: pfo_plan_create() checks everything once (counts, alignment, missing pointers, memory shared between tensors), so
 * that a step needs no checks but those of gradients that moved (pfo_plan_set_grad). Each tensor is cut into chunks of
 * PFO_CHUNK_ELEMENTS; tensor t owns chunks [first_chunk[t], first_chunk[t + 1]), a tensor of no elements owns none.
 * The cut depends on sizes alone, never on threads, so per-chunk results summed in chunk order are the same everywhere.
 * A tensor plays several roles in a step (its weight, gradient, state, ...), each with memory and a dtype of its own; a role that is not
 * there (no momentum kept, no copy wanted) has no memory.
 * Threads: a plan belongs to one run at a time; kernels read its tables from many threads while it does not change.
 * Memory: the plan owns its tables and never the tensors; the caller keeps those alive.
 */
#ifndef PFO_KERNELS_PLAN_H
#define PFO_KERNELS_PLAN_H

#include "base/status.h"
#include "kernels/operation.h"
#include "kernels/tensor.h"

/* X(enumerator, name in messages or NULL: that of the operation's state, 1 if every step writes it)
 * WEIGHT  what the update changes: the parameter, or its float32 master
 * GRAD    float32, bfloat16 or float16; zeroed by steps that are asked to
 * STATE_* what the operation keeps, in the order of kernels/operation.h
 * COPY    write-only image of the weight: the model's own low-precision parameter where WEIGHT is its master
 * EMA     exponential moving average of the weight */
#define PFO_ROLE_LIST(X)                                                                                               \
    X(WEIGHT, "params", 1)                                                                                             \
    X(GRAD, "grads", 0)                                                                                                \
    X(STATE_1, NULL, 1)                                                                                                \
    X(STATE_2, NULL, 1)                                                                                                \
    X(STATE_3, NULL, 1)                                                                                                \
    X(COPY, "copies", 1)                                                                                               \
    X(EMA, "emas", 1)

typedef enum pfo_role {
#define PFO_ROLE_ENUM(id, name, written) PFO_ROLE_##id,
    PFO_ROLE_LIST(PFO_ROLE_ENUM)
#undef PFO_ROLE_ENUM
        PFO_ROLE_COUNT
} pfo_role;

/* For messages: "grads", "exp_avgs", ... */
const char *pfo_role_name(pfo_op op, pfo_role role);

/* One parameter with everything that belongs to it. All tensors have `count` elements in the same order in memory. */
typedef struct pfo_plan_entry {
    void *data[PFO_ROLE_COUNT];      /* first elements; NULL: the tensor has no such role, or no elements */
    float *scales[PFO_STATE_COUNT];  /* of states in 8 bits: one for each PFO_SCALE_BLOCK elements; else NULL */
    float *step;                     /* this parameter's own step count, or NULL: the run's count is used */
    int64_t count;                   /* elements */
    int32_t group;                   /* index of the options that apply */
    int32_t stream;                  /* number of its stream of random bits: the parameter's place in the whole model */
    pfo_dtype dtype[PFO_ROLE_COUNT]; /* BLOCK8 and UBLOCK8 for states only */
    int has_grad;                    /* 0: the entry is left out of the step */
    int first;                       /* 1: its state holds nothing yet (a new SGD buffer); a step taken makes it 0 */
    int plain;                       /* set by the plan: all but the gradient is float32, and there is no COPY or EMA */
} pfo_plan_entry;

/* Result of pass 1 for one chunk. */
typedef struct pfo_norm_partial {
    double sum_of_squares;
    int64_t nonfinite; /* 1 if any element is inf or NaN */
} pfo_norm_partial;

typedef struct pfo_interval {
    uintptr_t begin, end; /* [begin, end) in bytes */
    int32_t tensor;
    pfo_role role;
    int is_scales; /* 1: the scales of the role */
} pfo_interval;

typedef struct pfo_plan {
    pfo_op op;
    int32_t tensor_count;
    int32_t group_count;
    int64_t chunk_count;
    int64_t element_count;      /* over all tensors */
    pfo_plan_entry *entries;    /* [tensor_count] */
    int64_t *first_chunk;       /* [tensor_count + 1], ascending */
    int32_t *chunk_tensor;      /* [chunk_count] */
    int32_t *scalars_of;        /* [tensor_count]: index into scalars, set by each run */
    pfo_scalars *scalars;       /* [tensor_count] at most; a run fills as many as differ */
    pfo_norm_partial *partials; /* [chunk_count] */
    pfo_interval *written;      /* [written_count], by address, disjoint */
    int64_t written_count;
    int grads_apart; /* 1: no two gradients share memory; -1: not known since one moved */
} pfo_plan;

/* Makes a plan for op over the entries (copied). NORM needs only gradients; updates need weights and what the operation always
 * keeps; gradients may come later. PFO_BAD_ARGUMENT names the tensor for: count < 0, NULL or misaligned data, a dtype that the
 * role cannot have, 8-bit state without scales, group outside [0, group_count), memory that is written and shared with another
 * tensor, more than INT32_MAX tensors. PFO_NO_MEMORY. On failure *plan is NULL. */
pfo_status pfo_plan_create(pfo_op op, const pfo_plan_entry *entries, int64_t tensor_count, int32_t group_count,
                           pfo_plan **plan, pfo_error *err);

void pfo_plan_destroy(pfo_plan *plan); /* NULL is allowed */

/* Gives tensor its gradient for the next step (present == 0: it has none, data is ignored by the step). PFO_BAD_ARGUMENT when
 * missing, misaligned, of a dtype no gradient has, or shared with memory the step writes; the entry is then as it was. Costs a
 * comparison when the gradient is the one already there. pre: 0 <= tensor < tensor_count. */
pfo_status pfo_plan_set_grad(pfo_plan *plan, int32_t tensor, int present, void *data, pfo_dtype dtype, pfo_error *err);

/* 1 if no two gradients share memory, so that each may be zeroed as soon as its own tensor is done; 0 if some do, or memory to find
 * out has run out. Costs nothing while gradients stay where they were at the last call. */
int pfo_plan_grads_are_apart(pfo_plan *plan);

#endif
