/* array_args.h: lists of arrays as memory the kernels can work on: NumPy arrays, and what gives its memory by DLPack.
 *
 * What is read is borrowed from the objects: whoever releases the GIL holds them, the tuple of items and the list of what was
 * borrowed, so that a list changed by another thread cannot take them away. All functions need the GIL.
 */
#ifndef PFO_BINDINGS_ARRAY_ARGS_H
#define PFO_BINDINGS_ARRAY_ARGS_H

#include "bindings/train/tensor_args.h"

/* A new NumPy array over the memory of an object with __dlpack__, on the CPU, and what its elements are: float32 and float16 as they are,
 * bfloat16 and the 8-bit floats as uint16 and uint8. It keeps the memory; it is read-only where the
 * exporter says that its memory is, or that this is a copy of it. NULL with TypeError or ValueError that calls it `name`. */
PyObject *pfo_array_from_dlpack(pfo_train_state *state, PyObject *object, const char *name, pfo_dtype *dtype);

/* A new tuple of the caller's items; NULL with a TypeError that names the argument. */
PyObject *pfo_array_items(PyObject *sequence, const char *name);

/* Reads an item: a NumPy array, or an object with __dlpack__, whose array is appended to the list `borrowed`. As
 * pfo_tensor_arg_from_array(). */
int pfo_array_arg(pfo_train_state *state, PyObject *borrowed, PyObject *item, const char *list, Py_ssize_t index,
                  unsigned accepted, int writable, pfo_tensor_arg *arg);

#endif
