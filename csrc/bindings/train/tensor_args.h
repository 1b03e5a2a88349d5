/* tensor_args.h: Python objects as memory the kernels can work on: NumPy arrays and torch tensors, checked.
 *
 * Accepted: float32, native byte order, on the CPU or (tensors) a CUDA device, dense (each element of the storage used exactly once, in whatever order of
 * dimensions). Everything else raises TypeError (no array, wrong dtype) or ValueError (device, layout, read-only) that names
 * the argument, its index, shape and dtype. Tensors of one parameter must be laid out alike (pfo_tensor_arg_same_layout),
 * for then element i of one's memory belongs to element i of the other's.
 * A pfo_tensor_arg borrows: it is valid while the object lives and is not resized. All functions need the GIL.
 */
#ifndef PFO_BINDINGS_TENSOR_ARGS_H
#define PFO_BINDINGS_TENSOR_ARGS_H

#include "bindings/train/train_state.h"

enum { PFO_TENSOR_MAX_DIMS = 64 };

typedef struct pfo_tensor_arg {
    void *data;
    int64_t count; /* elements */
    pfo_device device;
    int32_t device_index; /* 0 on the CPU */
    int ndim;
    int64_t shape[PFO_TENSOR_MAX_DIMS];
    int64_t strides[PFO_TENSOR_MAX_DIMS]; /* in elements */
} pfo_tensor_arg;

/* A NumPy array. list and index name it in messages ("grads", 3). 0, or -1 with an exception. */
int pfo_tensor_arg_from_array(PyObject *object, const char *list, Py_ssize_t index, int writable, pfo_tensor_arg *arg);

/* A torch tensor: read through the DLPack exchange API of its type where there is one (no Python call, no reference taken), else
 * through data_ptr(), dtype, shape, stride() and device, which any object may have. 0, or -1 with an exception. */
int pfo_tensor_arg_from_tensor(pfo_train_state *state, PyObject *object, const char *list, Py_ssize_t index,
                               pfo_tensor_arg *arg);

/* 1 if the tensor is flagged as negated: its value is minus what lies in its memory (torch makes such views of imaginary
 * parts). 0 if not, also for objects that know no such flag; -1 with an exception. */
int pfo_tensor_arg_is_negated(const pfo_train_state *state, PyObject *object);

/* 1 if shape and strides agree where they matter (dimensions of size 1 may have any stride). */
int pfo_tensor_arg_same_layout(const pfo_tensor_arg *a, const pfo_tensor_arg *b);

/* Sets exception: "list[index] (shape ..., dtype ..., device ...): problem". Returns -1. */
int pfo_tensor_arg_fail(PyObject *exception, PyObject *object, const char *list, Py_ssize_t index, const char *problem);

#endif
