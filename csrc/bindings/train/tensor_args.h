/* tensor_args.h: Python objects as memory the kernels can work on: NumPy arrays and torch tensors, checked.
 *
 * Accepted: float32 (also bfloat16, float16 and, of tensors, uint8 where the caller says so), native byte order, on the CPU or
 * (tensors) a CUDA device, dense (each element of the storage used exactly once, in whatever order of
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
    int64_t count;   /* elements */
    pfo_dtype dtype; /* BLOCK8 stands for torch.uint8 */
    pfo_device device;
    int32_t device_index; /* 0 on the CPU */
    int ndim;
    int64_t shape[PFO_TENSOR_MAX_DIMS];
    int64_t strides[PFO_TENSOR_MAX_DIMS]; /* in elements */
} pfo_tensor_arg;

/* Sets of dtypes. */
enum {
    PFO_ACCEPT_FLOAT32 = 1 << PFO_DTYPE_FLOAT32,
    PFO_ACCEPT_FLOATS = PFO_ACCEPT_FLOAT32 | 1 << PFO_DTYPE_BFLOAT16 | 1 << PFO_DTYPE_FLOAT16,
    PFO_ACCEPT_STATE = PFO_ACCEPT_FLOATS | 1 << PFO_DTYPE_BLOCK8
};

/* A NumPy array of one of the dtypes of a set (bfloat16 is that of ml_dtypes). list and index name it in messages ("grads", 3). 0, or -1
 * with an exception. */
int pfo_tensor_arg_from_array(PyObject *object, const char *list, Py_ssize_t index, unsigned accepted, int writable,
                              pfo_tensor_arg *arg);

/* As above of a NumPy array whose elements are arg->dtype, given by the caller; messages describe `object`. */
int pfo_tensor_arg_from_codes(PyObject *object, PyObject *codes, const char *list, Py_ssize_t index, unsigned accepted,
                              int writable, pfo_tensor_arg *arg);

/* A torch tensor: read through the DLPack exchange API of its type where there is one (no Python call, no reference taken), else
 * through data_ptr(), dtype, shape, stride() and device, which any object may have. accepted: a set of dtypes as above. 0, or -1
 * with an exception. */
int pfo_tensor_arg_from_tensor(pfo_train_state *state, PyObject *object, const char *list, Py_ssize_t index,
                               unsigned accepted, pfo_tensor_arg *arg);

/* A torch tensor of one int64: its data and device. list names it in messages. 0, or -1 with an exception. */
int pfo_tensor_arg_int64(const pfo_train_state *state, PyObject *object, const char *list, pfo_tensor_arg *arg);

/* 1 if the tensor is flagged as negated: its value is minus what lies in its memory (torch makes such views of imaginary
 * parts). 0 if not, also for objects that know no such flag; -1 with an exception. */
int pfo_tensor_arg_is_negated(pfo_train_state *state, PyObject *object);

/* 1 if shape and strides agree where they matter (dimensions of size 1 may have any stride). */
int pfo_tensor_arg_same_layout(const pfo_tensor_arg *a, const pfo_tensor_arg *b);

/* A tensor as it lies there now, borrowed from it: valid until anything else happens. */
typedef struct pfo_tensor_peek {
    void *data;
    const int64_t *shape, *strides; /* in elements */
    int ndim;
    pfo_dtype dtype; /* PFO_DTYPE_COUNT for one that no step takes */
    pfo_device device;
    int32_t device_index;
} pfo_tensor_peek;

/* What is known of a tensor's type, or NULL: as many types as there is room for have been met. Valid until the module goes. */
const pfo_tensor_type *pfo_tensor_type_of(pfo_train_state *state, PyObject *object);

/* Reads the attributes of all known types again: somebody may have given one another `grad`. At the start of each step. */
void pfo_tensor_types_read(pfo_train_state *state);

/* The quick look of every step, through the exchange API alone: 1, or 0 (no exception) where that does not tell. Checks nothing. */
int pfo_tensor_peek_at(pfo_train_state *state, PyObject *object, pfo_tensor_peek *peek);

/* Sets exception: "list[index] (shape ..., dtype ..., device ...): problem". Returns -1. */
int pfo_tensor_arg_fail(PyObject *exception, PyObject *object, const char *list, Py_ssize_t index, const char *problem);

#endif
