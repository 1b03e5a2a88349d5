/* array_args.c: see array_args.h. */
#define NO_IMPORT_ARRAY
#define PY_ARRAY_UNIQUE_SYMBOL pfo_train_array_api
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#include "bindings/train/array_args.h"
#include "bindings/train/dlpack.h"

#include <numpy/arrayobject.h>

#include <stdio.h>

static const struct {
    uint8_t code, bits;
    int type; /* of the NumPy array that shows it */
    pfo_dtype dtype;
} dl_types[] = { { DL_FLOAT, 32, NPY_FLOAT32, PFO_DTYPE_FLOAT32 },
                 { DL_FLOAT, 16, NPY_FLOAT16, PFO_DTYPE_FLOAT16 },
                 { DL_BFLOAT, 16, NPY_UINT16, PFO_DTYPE_BFLOAT16 },
                 { 10, 8, NPY_UINT8, PFO_DTYPE_FLOAT8_E4M3 },
                 { 12, 8, NPY_UINT8, PFO_DTYPE_FLOAT8_E5M2 } };
enum { DL_TYPES = sizeof dl_types / sizeof dl_types[0] };

/* In place of the BufferError that is set, by which an exporter refuses: a ValueError that says of which argument. */
static void
name_refusal(const char *name)
{
    PyObject *type, *refusal, *traceback;
    PyErr_Fetch(&type, &refusal, &traceback);
    PyErr_NormalizeException(&type, &refusal, &traceback);
    PyErr_Format(PyExc_ValueError, "%s: its __dlpack__() refuses: %S", name, refusal);
    Py_XDECREF(type);
    Py_XDECREF(refusal);
    Py_XDECREF(traceback);
}

/* What object.__dlpack__() gives, versioned if it knows of versions; NULL with an exception. */
static PyObject *
export_capsule(const pfo_train_state *state, PyObject *object, const char *name)
{
    PyObject *options = Py_BuildValue("{O(ii)}", state->string.max_version, DL_VERSION, 0);
    PyObject *method = options != NULL ? PyObject_GetAttr(object, state->string.dlpack) : NULL;
    PyObject *nothing = method != NULL ? PyTuple_New(0) : NULL;
    PyObject *capsule = nothing != NULL ? PyObject_Call(method, nothing, options) : NULL;
    if (capsule == NULL && nothing != NULL && PyErr_ExceptionMatches(PyExc_TypeError)) { /* from before version 1 */
        PyErr_Clear();
        capsule = PyObject_CallNoArgs(method);
    }
    if (capsule == NULL && PyErr_ExceptionMatches(PyExc_BufferError)) {
        name_refusal(name);
    }
    Py_XDECREF(nothing);
    Py_XDECREF(method);
    Py_XDECREF(options);
    return capsule;
}

/* The tensor of a capsule of either kind, and whether a change of its memory is allowed and reaches the exporter: a capsule without
 * version does not say, and is said to be. NULL without an exception for anything else. */
static const dl_tensor *
tensor_of_capsule(PyObject *capsule, int *writable)
{
    *writable = 1;
    if (PyCapsule_IsValid(capsule, "dltensor")) {
        return PyCapsule_GetPointer(capsule, "dltensor");
    }
    if (!PyCapsule_IsValid(capsule, "dltensor_versioned")) {
        return NULL;
    }
    const dl_managed_versioned *managed = PyCapsule_GetPointer(capsule, "dltensor_versioned");
    if (managed->version.major != DL_VERSION) {
        return NULL;
    }
    *writable = (managed->flags & (DL_FLAG_READ_ONLY | DL_FLAG_IS_COPIED)) == 0;
    return &managed->tensor;
}

/* An array over the tensor's memory that keeps the capsule. Takes over the reference to capsule. */
static PyObject *
array_over(PyObject *capsule, const dl_tensor *tensor, int type, int writable)
{
    npy_intp shape[NPY_MAXDIMS], strides[NPY_MAXDIMS];
    const npy_intp item = tensor->dtype.bits / 8;
    npy_intp step = item;
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        shape[i] = (npy_intp)tensor->shape[i];
        strides[i] = tensor->strides != NULL ? (npy_intp)tensor->strides[i] * item : step;
        step *= shape[i];
    }
    char *data = tensor->data != NULL ? (char *)tensor->data + tensor->byte_offset : NULL;
    PyObject *array = data == NULL ? PyArray_SimpleNew(tensor->ndim, shape, type) /* no elements */
                                   : PyArray_New(&PyArray_Type, tensor->ndim, shape, type, strides, data, 0,
                                                 NPY_ARRAY_ALIGNED | (writable ? NPY_ARRAY_WRITEABLE : 0), NULL);
    if (array == NULL) {
        Py_DECREF(capsule);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, capsule) < 0) { /* takes the reference, also when it fails */
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

PyObject *
pfo_array_from_dlpack(pfo_train_state *state, PyObject *object, const char *name, pfo_dtype *dtype)
{
    const int negated = pfo_tensor_arg_is_negated(state, object); /* DLPack knows no such flag */
    if (negated != 0) {
        return negated < 0 ? NULL
                           : PyErr_Format(PyExc_ValueError,
                                          "%s is a negated view; accepted: what its resolve_neg() gives", name);
    }
    PyObject *capsule = export_capsule(state, object, name);
    if (capsule == NULL) {
        return NULL;
    }
    int writable;
    const dl_tensor *tensor = tensor_of_capsule(capsule, &writable);
    if (tensor == NULL) {
        PyErr_Format(PyExc_TypeError,
                     "%s: its __dlpack__() gives no capsule \"dltensor\" or \"dltensor_versioned\" of version %d", name,
                     DL_VERSION);
        Py_DECREF(capsule);
        return NULL;
    }
    int k = 0;
    while (k < DL_TYPES && (dl_types[k].code != tensor->dtype.code || dl_types[k].bits != tensor->dtype.bits)) {
        k++;
    }
    if (k == DL_TYPES || tensor->dtype.lanes != 1 || tensor->device.type != 1 || tensor->ndim > NPY_MAXDIMS) {
        PyErr_Format(PyExc_ValueError,
                     "%s (DLPack type %d of %d bits on device type %d); accepted: float32, float16, bfloat16, "
                     "float8_e4m3fn, float8_e5m2 on the CPU",
                     name, tensor->dtype.code, tensor->dtype.bits, (int)tensor->device.type);
        Py_DECREF(capsule);
        return NULL;
    }
    *dtype = dl_types[k].dtype;
    return array_over(capsule, tensor, dl_types[k].type, writable);
}

PyObject *
pfo_array_items(PyObject *sequence, const char *name)
{
    if (!PyArray_Check(sequence) && !PyUnicode_Check(sequence) &&
        !PyObject_HasAttrString((PyObject *)Py_TYPE(sequence), "__dlpack__")) {
        PyObject *iterator = PyObject_GetIter(sequence);
        PyObject *items = iterator != NULL ? PySequence_Tuple(iterator) : NULL;
        const int can_iterate = iterator != NULL;
        Py_XDECREF(iterator);
        if (can_iterate || !PyErr_ExceptionMatches(PyExc_TypeError)) {
            return items;
        }
    }
    PyErr_Format(PyExc_TypeError, "%s is a %.80s; accepted: a list of numpy.ndarray or objects with __dlpack__", name,
                 Py_TYPE(sequence)->tp_name);
    return NULL;
}

int
pfo_array_arg(pfo_train_state *state, PyObject *borrowed, PyObject *item, const char *list, Py_ssize_t index,
              unsigned accepted, int writable, pfo_tensor_arg *arg)
{
    if (PyArray_Check(item) || !PyObject_HasAttrString((PyObject *)Py_TYPE(item), "__dlpack__")) {
        return pfo_tensor_arg_from_array(item, list, index, accepted, writable, arg);
    }
    char name[80];
    (void)snprintf(name, sizeof name, "%s[%zd]", list, index);
    PyObject *array = pfo_array_from_dlpack(state, item, name, &arg->dtype);
    if (array == NULL) {
        return -1;
    }
    const int status = PyList_Append(borrowed, array);
    Py_DECREF(array); /* the list has it */
    return status < 0 ? -1 : pfo_tensor_arg_from_codes(item, array, list, index, accepted, writable, arg);
}
