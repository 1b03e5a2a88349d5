/* operation.h: what there is to know about each operation besides its arithmetic: which state it keeps, and under which names.
 *
 * To add an operation: a line in PFO_OP_LIST (tensor.h) and in PFO_UPDATE_LIST, its <name>_math.h with its members in update_math.h, its
 * cases in operation.c, a function in kernels_scalar.c and in kernels_update.h.
 * Threads: constant tables and pure functions.
 */
#ifndef PFO_KERNELS_OPERATION_H
#define PFO_KERNELS_OPERATION_H

#include "kernels/tensor.h"
#include "kernels/update_math.h"

enum { PFO_STATE_COUNT = 3 };

/* X(enumerator, 1 if it counts steps, then for each state: key in torch's state dictionary ("": the operation has no such state)
 * and dtype of its 8-bit form; UBLOCK8 is for what is never negative). */
#define PFO_UPDATE_LIST(X)                                                                                             \
    X(ADAMW, 1, "exp_avg", BLOCK8, "exp_avg_sq", UBLOCK8, "max_exp_avg_sq", UBLOCK8)                                   \
    X(SGD, 0, "momentum_buffer", BLOCK8, "", BLOCK8, "", BLOCK8)                                                       \
    X(LION, 0, "exp_avg", BLOCK8, "", BLOCK8, "", BLOCK8)                                                              \
    X(ADAGRAD, 1, "sum", UBLOCK8, "", BLOCK8, "", BLOCK8)                                                              \
    X(RMSPROP, 1, "square_avg", UBLOCK8, "momentum_buffer", BLOCK8, "grad_avg", BLOCK8)

typedef struct pfo_operation {
    const char *name;
    int counts_steps;
    struct {
        const char *key;     /* of one tensor's state; NULL: the operation has no such state */
        const char *plural;  /* of many tensors', in messages */
        pfo_dtype eight_bit; /* how it is stored in 8 bits */
    } state[PFO_STATE_COUNT];
} pfo_operation;

/* PFO_OP_NORM keeps nothing. */
const pfo_operation *pfo_operation_of(pfo_op op);

/* 1 if a tensor in a group of these options keeps state k. */
int pfo_operation_keeps(pfo_op op, const pfo_options *options, int k);

/* One step's scalars. pre: step >= 1 is the count including this step (of no use to operations that count none); first == 1 when the
 * tensor's state holds nothing yet. */
pfo_scalars pfo_operation_prepare(pfo_op op, const pfo_options *options, double step, int first, double unscale,
                                  double clip_factor);

#endif
