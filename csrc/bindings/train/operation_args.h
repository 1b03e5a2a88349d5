/* operation_args.h: an optimizer's operation by name, and its options from a dict such as a parameter group.
 *
 * A number is a float or anything with __float__, such as a one-element tensor; a flag that is missing is false. Ranges are for
 * the caller to check, who knows when the options were given; nothing here depends on them. Reading a number may run user code.
 * All functions need the GIL.
 */
#ifndef PFO_BINDINGS_OPERATION_ARGS_H
#define PFO_BINDINGS_OPERATION_ARGS_H

#include "bindings/train/train_state.h"

#include "kernels/operation.h"

/* The operation called `name` ("adamw", "adam", "sgd", "lion", "adagrad", "rmsprop"); *coupled is 1 for Adam, which is AdamW with
 * weight decay as part of the gradient. 0, or -1 with ValueError. */
int pfo_operation_from_name(PyObject *name, pfo_op *op, int *coupled);

/* Truth of options[name]; -1 with an exception. */
int pfo_option_flag(PyObject *options, PyObject *name);

/* options[name] as a number, which must be there. 0, or -1 with an exception. */
int pfo_option_number(PyObject *options, PyObject *name, double *number);

/* All options of an operation but the learning rate, which is the first member of every options struct. 0, or -1 with an exception. */
int pfo_options_from_dict(const pfo_train_state *state, pfo_op op, int coupled, PyObject *dict, pfo_options *options);

#endif
