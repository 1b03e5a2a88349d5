/* tensor_args.c: see tensor_args.h.
 *
 * The DLPack structures are written down here as the interface they are (dlpack.h, version 1): a type that offers
 * `__dlpack_c_exchange_api__` gives a table of functions, one of which fills a DLTensor that borrows from the tensor.
 */
#define NO_IMPORT_ARRAY
#define PY_ARRAY_UNIQUE_SYMBOL pfo_train_array_api
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#include "bindings/train/tensor_args.h"

#include "bindings/train/dlpack.h"

#include <numpy/arrayobject.h>

#include <stdlib.h>
#include <string.h>

typedef struct dl_exchange_api {
    struct {
        uint32_t major, minor;
    } version;
    struct dl_exchange_api *previous;
    void *managed_tensor_allocator;
    void *managed_tensor_from_object;
    void *managed_tensor_to_object;
    pfo_dltensor_from_object dltensor_from_object; /* may be NULL */
    void *current_work_stream;
} dl_exchange_api;

int
pfo_tensor_arg_fail(PyObject *exception, PyObject *object, const char *list, Py_ssize_t index, const char *problem)
{
    PyObject *shape = PyObject_GetAttrString(object, "shape");
    PyObject *dtype = shape != NULL ? PyObject_GetAttrString(object, "dtype") : NULL;
    PyObject *shape_tuple = dtype != NULL ? PySequence_Tuple(shape) : NULL;
    if (shape_tuple == NULL) {
        PyErr_Clear();
        PyErr_Format(exception, "%s[%zd] (a %.80s): %s", list, index, Py_TYPE(object)->tp_name, problem);
    } else {
        PyObject *device = PyObject_GetAttrString(object, "device");
        if (device == NULL || PyUnicode_Check(device)) { /* torch's device says something, NumPy's "cpu" does not */
            PyErr_Clear();
            PyErr_Format(exception, "%s[%zd] (shape %S, dtype %S): %s", list, index, shape_tuple, dtype, problem);
        } else {
            PyErr_Format(exception, "%s[%zd] (shape %S, dtype %S, device %S): %s", list, index, shape_tuple, dtype,
                         device, problem);
        }
        Py_XDECREF(device);
    }
    Py_XDECREF(shape_tuple);
    Py_XDECREF(dtype);
    Py_XDECREF(shape);
    return -1;
}

int
pfo_tensor_arg_same_layout(const pfo_tensor_arg *a, const pfo_tensor_arg *b)
{
    if (a->ndim != b->ndim || a->count != b->count) {
        return 0;
    }
    for (int i = 0; i < a->ndim; i++) {
        if (a->shape[i] != b->shape[i] || (a->shape[i] > 1 && a->count > 0 && a->strides[i] != b->strides[i])) {
            return 0;
        }
    }
    return 1;
}

int
pfo_tensor_arg_is_negated(pfo_train_state *state, PyObject *object)
{
    const pfo_tensor_type *type = pfo_tensor_type_of(state, object);
    PyObject *answer = type != NULL && type->is_neg != NULL ? type->is_neg(object, NULL)
                                                            : PyObject_CallMethodNoArgs(object, state->string.is_neg);
    if (answer == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    const int truth = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return truth;
}

/* Dense: taken by ascending stride, each dimension steps over exactly the ones below it. */
static int
is_dense(const pfo_tensor_arg *arg)
{
    int64_t expected = 1;
    uint64_t used = 0;
    if (arg->count == 0) {
        return 1;
    }
    for (int round = 0; round < arg->ndim; round++) {
        int found = 0;
        for (int i = arg->ndim - 1; i >= 0 && !found; i--) {
            if ((used >> i & 1) == 0 && (arg->shape[i] == 1 || arg->strides[i] == expected)) {
                used |= (uint64_t)1 << i;
                expected *= arg->shape[i];
                found = 1;
            }
        }
        if (!found) {
            return 0;
        }
    }
    return 1;
}

/* Fills count from shape; 0 when the product does not fit. */
static int
count_elements(pfo_tensor_arg *arg)
{
    int64_t count = 1;
    for (int i = 0; i < arg->ndim; i++) {
        if (arg->shape[i] < 0 || __builtin_mul_overflow(count, arg->shape[i], &count)) {
            return 0;
        }
    }
    arg->count = count;
    return 1;
}

static int
check_dense(PyObject *object, const char *list, Py_ssize_t index, pfo_tensor_arg *arg)
{
    if (!count_elements(arg)) {
        return pfo_tensor_arg_fail(PyExc_ValueError, object, list, index, "too many elements");
    }
    if (!is_dense(arg)) {
        return pfo_tensor_arg_fail(
            PyExc_ValueError, object, list, index,
            "its elements do not lie densely in memory; accepted: contiguous in any order of dimensions");
    }
    return 0;
}

/* PFO_DTYPE_COUNT for one that no step takes. bfloat16 is no dtype of NumPy itself: it has the name ml_dtypes gives it. */
static pfo_dtype
dtype_of_array(const PyArrayObject *array)
{
    if (!PyArray_ISNOTSWAPPED(array)) {
        return PFO_DTYPE_COUNT;
    }
    switch (PyArray_TYPE(array)) {
    case NPY_FLOAT32:
        return PFO_DTYPE_FLOAT32;
    case NPY_HALF:
        return PFO_DTYPE_FLOAT16;
    default:
        break;
    }
    const char *name = PyArray_DESCR(array)->typeobj->tp_name;
    const char *dot = strrchr(name, '.');
    const int is_bfloat16 = PyTypeNum_ISUSERDEF(PyArray_TYPE(array)) && PyArray_ITEMSIZE(array) == 2 &&
                            strcmp(dot != NULL ? dot + 1 : name, "bfloat16") == 0;
    return is_bfloat16 ? PFO_DTYPE_BFLOAT16 : PFO_DTYPE_COUNT;
}

int
pfo_tensor_arg_from_array(PyObject *object, const char *list, Py_ssize_t index, unsigned accepted, int writable,
                          pfo_tensor_arg *arg)
{
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s[%zd] is a %.80s; accepted: numpy.ndarray of float32%s", list, index,
                     Py_TYPE(object)->tp_name, accepted == PFO_ACCEPT_FLOAT32 ? "" : ", bfloat16 or float16");
        return -1;
    }
    arg->dtype = dtype_of_array((PyArrayObject *)object);
    return pfo_tensor_arg_from_codes(object, object, list, index, accepted, writable, arg);
}

int
pfo_tensor_arg_from_codes(PyObject *object, PyObject *codes, const char *list, Py_ssize_t index, unsigned accepted,
                          int writable, pfo_tensor_arg *arg)
{
    const int only_float32 = accepted == PFO_ACCEPT_FLOAT32;
    PyArrayObject *array = (PyArrayObject *)codes;
    if ((accepted >> arg->dtype & 1) == 0) {
        return pfo_tensor_arg_fail(PyExc_TypeError, object, list, index,
                                   only_float32 ? "accepted: float32 in native byte order"
                                                : "accepted: float32, bfloat16 or float16 in native byte order");
    }
    if (!PyArray_ISALIGNED(array)) {
        return pfo_tensor_arg_fail(PyExc_ValueError, object, list, index, "its memory is not aligned to its elements");
    }
    if (writable && !PyArray_ISWRITEABLE(array)) {
        return pfo_tensor_arg_fail(PyExc_ValueError, object, list, index, "it is read-only and a step writes it");
    }
    arg->data = PyArray_DATA(array);
    arg->device = PFO_DEVICE_CPU;
    arg->device_index = 0;
    arg->ndim = PyArray_NDIM(array);
    for (int i = 0; i < arg->ndim; i++) {
        arg->shape[i] = PyArray_DIM(array, i);
        const npy_intp stride = PyArray_STRIDE(array, i);
        const npy_intp bytes = (npy_intp)pfo_dtype_bytes(arg->dtype);
        arg->strides[i] = stride % bytes == 0 ? stride / bytes : -1;
    }
    return check_dense(object, list, index, arg);
}

static pfo_dltensor_from_object
exchange_function(const pfo_train_state *state, PyTypeObject *type)
{
    pfo_dltensor_from_object function = NULL;
    PyObject *capsule = PyObject_GetAttr((PyObject *)type, state->string.exchange_api);
    if (capsule != NULL && PyCapsule_IsValid(capsule, "dlpack_exchange_api")) {
        const dl_exchange_api *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
        while (api != NULL && api->version.major > DL_VERSION) {
            api = api->previous;
        }
        if (api != NULL && api->version.major == DL_VERSION) {
            function = api->dltensor_from_object;
        }
    }
    PyErr_Clear();
    Py_XDECREF(capsule);
    return function;
}

/* The getter a C type defined under this name, if instances of `type` are asked through it. The type that defined it owns it, and
 * `type` is one of its subclasses. */
static const PyGetSetDef *
getter_of(PyTypeObject *type, PyObject *name)
{
    PyObject *descriptor = PyObject_GetAttr((PyObject *)type, name);
    const int is_getter = descriptor != NULL && Py_IS_TYPE(descriptor, &PyGetSetDescr_Type) &&
                          PyType_IsSubtype(type, PyDescr_TYPE(descriptor));
    const PyGetSetDef *found = is_getter ? ((PyGetSetDescrObject *)descriptor)->d_getset : NULL;
    PyErr_Clear();
    Py_XDECREF(descriptor);
    return found;
}

static PyCFunction
method_of(PyTypeObject *type, PyObject *name)
{
    PyObject *descriptor = PyObject_GetAttr((PyObject *)type, name);
    const int is_method = descriptor != NULL && Py_IS_TYPE(descriptor, &PyMethodDescr_Type) &&
                          PyType_IsSubtype(type, PyDescr_TYPE(descriptor)) &&
                          ((PyMethodDescrObject *)descriptor)->d_method->ml_flags == METH_NOARGS;
    const PyCFunction method = is_method ? ((PyMethodDescrObject *)descriptor)->d_method->ml_meth : NULL;
    PyErr_Clear();
    Py_XDECREF(descriptor);
    return method;
}

static void
read_type(const pfo_train_state *state, pfo_tensor_type *entry)
{
    entry->grad = NULL;
    entry->base = NULL;
    entry->is_neg = NULL;
    if (entry->dltensor != NULL && entry->type->tp_getattro == PyObject_GenericGetAttr) {
        entry->grad = getter_of(entry->type, state->string.grad);
        entry->base = getter_of(entry->type, state->string.base);
        entry->is_neg = method_of(entry->type, state->string.is_neg);
    }
}

void
pfo_tensor_types_read(pfo_train_state *state)
{
    for (int i = 0; i < PFO_TRAIN_TENSOR_TYPES && state->tensor_types[i].type != NULL; i++) {
        read_type(state, &state->tensor_types[i]);
    }
}

const pfo_tensor_type *
pfo_tensor_type_of(pfo_train_state *state, PyObject *object)
{
    PyTypeObject *const type = Py_TYPE(object);
    int i = 0;
    for (; i < PFO_TRAIN_TENSOR_TYPES && state->tensor_types[i].type != NULL; i++) {
        if (state->tensor_types[i].type == type) {
            return &state->tensor_types[i];
        }
    }
    if (i == PFO_TRAIN_TENSOR_TYPES) {
        return NULL;
    }
    pfo_tensor_type entry = { .dltensor = exchange_function(state, type) }; /* may run the metaclass's code */
    entry.type = type;
    read_type(state, &entry);
    for (i = 0; i < PFO_TRAIN_TENSOR_TYPES && state->tensor_types[i].type != NULL; i++) {
        if (state->tensor_types[i].type == type) {
            return &state->tensor_types[i];
        }
    }
    if (i == PFO_TRAIN_TENSOR_TYPES) {
        return NULL;
    }
    Py_INCREF(type);
    state->tensor_types[i] = entry;
    return &state->tensor_types[i];
}

static void
c_order_strides(pfo_tensor_arg *arg)
{
    int64_t stride = 1;
    for (int i = arg->ndim - 1; i >= 0; i--) {
        arg->strides[i] = stride;
        stride *= arg->shape[i];
    }
}

/* PFO_DTYPE_COUNT for one that no step takes. */
static pfo_dtype
dtype_of_dl(const dl_tensor *tensor)
{
    if (tensor->dtype.lanes != 1) {
        return PFO_DTYPE_COUNT;
    }
    switch (tensor->dtype.code << 8 | tensor->dtype.bits) {
    case DL_FLOAT << 8 | 32:
        return PFO_DTYPE_FLOAT32;
    case DL_FLOAT << 8 | 16:
        return PFO_DTYPE_FLOAT16;
    case DL_BFLOAT << 8 | 16:
        return PFO_DTYPE_BFLOAT16;
    case DL_UINT << 8 | 8:
        return PFO_DTYPE_BLOCK8;
    default:
        return PFO_DTYPE_COUNT;
    }
}

/* 1: arg is filled; 0: the tensor is of a kind this path does not take (the attribute path finds the words for it). */
static int
read_by_exchange(pfo_dltensor_from_object function, PyObject *object, unsigned accepted, pfo_tensor_arg *arg)
{
    dl_tensor tensor;
    if (function(object, &tensor) != 0) {
        PyErr_Clear();
        return 0;
    }
    arg->dtype = dtype_of_dl(&tensor);
    if ((tensor.device.type != DL_CPU && tensor.device.type != DL_CUDA) || (accepted >> arg->dtype & 1) == 0 ||
        tensor.ndim > PFO_TENSOR_MAX_DIMS) {
        return 0;
    }
    arg->data = tensor.data != NULL ? (char *)tensor.data + tensor.byte_offset : NULL;
    arg->device = tensor.device.type == DL_CUDA ? PFO_DEVICE_CUDA : PFO_DEVICE_CPU;
    arg->device_index = tensor.device.type == DL_CUDA ? tensor.device.id : 0;
    arg->ndim = tensor.ndim;
    for (int i = 0; i < arg->ndim; i++) {
        arg->shape[i] = tensor.shape[i];
        if (tensor.strides != NULL) {
            arg->strides[i] = tensor.strides[i];
        }
    }
    if (tensor.strides == NULL) {
        c_order_strides(arg);
    }
    return 1;
}

int
pfo_tensor_peek_at(pfo_train_state *state, PyObject *object, pfo_tensor_peek *peek)
{
    const pfo_tensor_type *type = pfo_tensor_type_of(state, object);
    dl_tensor tensor;
    if (type == NULL || type->dltensor == NULL) {
        return 0;
    }
    if (type->dltensor(object, &tensor) != 0) {
        PyErr_Clear();
        return 0;
    }
    if ((tensor.device.type != DL_CPU && tensor.device.type != DL_CUDA) || tensor.strides == NULL) {
        return 0;
    }
    const int on_cuda = tensor.device.type == DL_CUDA;
    *peek = (pfo_tensor_peek){
        .data = tensor.data != NULL ? (char *)tensor.data + tensor.byte_offset : NULL,
        .shape = tensor.shape,
        .strides = tensor.strides,
        .ndim = tensor.ndim,
        .dtype = dtype_of_dl(&tensor),
        .device = on_cuda ? PFO_DEVICE_CUDA : PFO_DEVICE_CPU,
        .device_index = on_cuda ? tensor.device.id : 0,
    };
    return 1;
}

/* A sequence of integers into numbers; its length, or -1 with an exception. */
static int
read_numbers(PyObject *sequence, int64_t numbers[PFO_TENSOR_MAX_DIMS])
{
    PyObject *tuple = sequence != NULL ? PySequence_Tuple(sequence) : NULL;
    if (tuple == NULL) {
        return -1;
    }
    const Py_ssize_t length = PyTuple_GET_SIZE(tuple);
    if (length > PFO_TENSOR_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "a tensor of %zd dimensions; accepted: up to %d", length, PFO_TENSOR_MAX_DIMS);
        Py_DECREF(tuple);
        return -1;
    }
    for (Py_ssize_t i = 0; i < length; i++) {
        numbers[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
        if (numbers[i] == -1 && PyErr_Occurred()) {
            Py_DECREF(tuple);
            return -1;
        }
    }
    Py_DECREF(tuple);
    return (int)length;
}

/* Reads str(object.dtype), "torch.float32" or "float32" and so on. 0, or -1 with an exception; PFO_DTYPE_COUNT for another one. */
static int
read_dtype(PyObject *object, PyObject *name, pfo_dtype *dtype)
{
    static const struct {
        const char *text;
        pfo_dtype dtype;
    } known[] = {
        { "float32", PFO_DTYPE_FLOAT32 },
        { "bfloat16", PFO_DTYPE_BFLOAT16 },
        { "float16", PFO_DTYPE_FLOAT16 },
        { "uint8", PFO_DTYPE_BLOCK8 },
    };
    PyObject *value = PyObject_GetAttr(object, name);
    PyObject *written = value != NULL ? PyObject_Str(value) : NULL;
    Py_XDECREF(value);
    const char *text = written != NULL ? PyUnicode_AsUTF8(written) : NULL;
    if (text == NULL) {
        Py_XDECREF(written);
        return -1;
    }
    text = strncmp(text, "torch.", 6) == 0 ? text + 6 : text;
    *dtype = PFO_DTYPE_COUNT;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(text, known[i].text) == 0) {
            *dtype = known[i].dtype;
        }
    }
    Py_DECREF(written);
    return 0;
}

static const char *
accepted_text(unsigned accepted)
{
    return accepted == PFO_ACCEPT_FLOAT32  ? "accepted: float32 on the CPU or CUDA"
           : accepted == PFO_ACCEPT_FLOATS ? "accepted: float32, bfloat16 or float16 on the CPU or CUDA"
                                           : "accepted: float32, bfloat16, float16 or uint8 on the CPU or CUDA";
}

/* Reads str(object.device), "cpu" or "cuda:N", into arg. 1, 0 for another device, -1 with an exception. */
static int
read_device(PyObject *object, PyObject *name, pfo_tensor_arg *arg)
{
    PyObject *value = PyObject_GetAttr(object, name);
    PyObject *written = value != NULL ? PyObject_Str(value) : NULL;
    const char *text = written != NULL ? PyUnicode_AsUTF8(written) : NULL;
    Py_XDECREF(value);
    if (text == NULL) {
        Py_XDECREF(written);
        return -1;
    }
    int known = 1;
    arg->device_index = 0;
    if (strcmp(text, "cpu") == 0 || strcmp(text, "cpu:0") == 0) {
        arg->device = PFO_DEVICE_CPU;
    } else if (strncmp(text, "cuda:", 5) == 0) {
        arg->device = PFO_DEVICE_CUDA;
        arg->device_index = (int32_t)strtol(text + 5, NULL, 10);
    } else {
        known = 0;
    }
    Py_DECREF(written);
    return known;
}

static int
read_by_attributes(pfo_train_state *state, PyObject *object, const char *list, Py_ssize_t index, unsigned accepted,
                   pfo_tensor_arg *arg)
{
    const int readable = read_dtype(object, state->string.dtype, &arg->dtype) == 0;
    const int device_known = readable ? read_device(object, state->string.device, arg) : -1;
    if (device_known < 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s[%zd] is a %.80s; accepted: a torch.Tensor of float32 on the CPU or CUDA",
                     list, index, Py_TYPE(object)->tp_name);
        return -1;
    }
    if ((accepted >> arg->dtype & 1) == 0) {
        return pfo_tensor_arg_fail(PyExc_TypeError, object, list, index, accepted_text(accepted));
    }
    if (!device_known) {
        return pfo_tensor_arg_fail(PyExc_ValueError, object, list, index, accepted_text(accepted));
    }
    PyObject *shape = PyObject_GetAttr(object, state->string.shape);
    PyObject *stride = shape != NULL ? PyObject_CallMethodNoArgs(object, state->string.stride) : NULL;
    PyObject *pointer = stride != NULL ? PyObject_CallMethodNoArgs(object, state->string.data_ptr) : NULL;
    int status = -1;
    if (pointer != NULL) {
        arg->ndim = read_numbers(shape, arg->shape);
        arg->data = PyLong_AsVoidPtr(pointer);
        if (arg->ndim >= 0 && read_numbers(stride, arg->strides) == arg->ndim && !PyErr_Occurred()) {
            status = 0;
        }
    }
    Py_XDECREF(pointer);
    Py_XDECREF(stride);
    Py_XDECREF(shape);
    if (status < 0) {
        PyErr_Clear();
        return pfo_tensor_arg_fail(PyExc_ValueError, object, list, index,
                                   "it has no strided memory of its own (sparse?); accepted: dense tensors");
    }
    return 0;
}

int
pfo_tensor_arg_from_tensor(pfo_train_state *state, PyObject *object, const char *list, Py_ssize_t index,
                           unsigned accepted, pfo_tensor_arg *arg)
{
    const pfo_tensor_type *type = pfo_tensor_type_of(state, object);
    if ((type == NULL || type->dltensor == NULL || !read_by_exchange(type->dltensor, object, accepted, arg)) &&
        read_by_attributes(state, object, list, index, accepted, arg) < 0) {
        return -1;
    }
    if (check_dense(object, list, index, arg) < 0) {
        return -1;
    }
    if (arg->data == NULL && arg->count > 0) {
        return pfo_tensor_arg_fail(PyExc_ValueError, object, list, index, "it has no memory");
    }
    return 0;
}

/* 1 if str(object.dtype) is that name, 0 if not, -1 with an exception. */
static int
has_dtype(const pfo_train_state *state, PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttr(object, state->string.dtype);
    PyObject *written = value != NULL ? PyObject_Str(value) : NULL;
    Py_XDECREF(value);
    const int answer = written == NULL ? -1 : PyUnicode_CompareWithASCIIString(written, name) == 0;
    Py_XDECREF(written);
    return answer;
}

int
pfo_tensor_arg_int64(const pfo_train_state *state, PyObject *object, const char *list, pfo_tensor_arg *arg)
{
    const int is_int64 = has_dtype(state, object, "torch.int64");
    const int device_known = is_int64 > 0 ? read_device(object, state->string.device, arg) : 0;
    PyObject *shape = device_known > 0 ? PyObject_GetAttr(object, state->string.shape) : NULL;
    PyObject *pointer = shape != NULL ? PyObject_CallMethodNoArgs(object, state->string.data_ptr) : NULL;
    int status = -1;
    if (pointer != NULL) {
        arg->ndim = read_numbers(shape, arg->shape);
        arg->data = PyLong_AsVoidPtr(pointer);
        status = arg->ndim >= 0 && !PyErr_Occurred() && count_elements(arg) && arg->count == 1 ? 0 : -1;
    }
    Py_XDECREF(pointer);
    Py_XDECREF(shape);
    if (status < 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s=%R; accepted: a whole number, or a tensor of one int64", list, object);
    }
    return status;
}
