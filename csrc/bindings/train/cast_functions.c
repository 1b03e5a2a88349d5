/* cast_functions.c: conversions between dtypes on NumPy arrays, scaling in place.
 *
 * perfopt/_kernels_cast.py is the caller: it finds the dtypes and makes the outputs. Here every array is checked
 * once more for what the kernels rely on (bytes of an element, density, alignment, room, no overlap), so that no
 * call from Python can reach memory that is not its own. The arguments keep their arrays alive while the GIL is
 * released.
 */
#define NO_IMPORT_ARRAY
#define PY_ARRAY_UNIQUE_SYMBOL pfo_train_array_api
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#include "bindings/train/array_args.h"
#include "bindings/train/train_state.h"

#include "kernels/cast.h"

#include <numpy/arrayobject.h>

#include <string.h>

/* The dtype of that name. 0, or -1 with ValueError. */
static int
read_dtype(const char *name, const char *argument, pfo_dtype *dtype)
{
    static const char *const names[] = {
#define DTYPE_NAME(id, text, bytes) [PFO_DTYPE_##id] = text,
        PFO_DTYPE_LIST(DTYPE_NAME)
#undef DTYPE_NAME
    };
    for (int k = 0; k < PFO_DTYPE_COUNT; k++) {
        if (strcmp(name, names[k]) == 0) {
            *dtype = (pfo_dtype)k;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "%s='%.40s' is no dtype of the kernels", argument, name);
    return -1;
}

/* The array's first element if it can stand for elements of dtype; NULL with an exception. */
static void *
elements_of(PyObject *object, const char *argument, pfo_dtype dtype, int writable)
{
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s is a %.80s; accepted: numpy.ndarray", argument, Py_TYPE(object)->tp_name);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if ((size_t)PyArray_ITEMSIZE(array) != pfo_dtype_bytes(dtype) || PyArray_ISBYTESWAPPED(array) ||
        PyDataType_REFCHK(PyArray_DESCR(array))) {
        PyErr_Format(PyExc_TypeError, "%s has elements of dtype %S; accepted: elements of %zu bytes in native order",
                     argument, (PyObject *)PyArray_DESCR(array), pfo_dtype_bytes(dtype));
        return NULL;
    }
    if (!PyArray_IS_C_CONTIGUOUS(array) && !PyArray_IS_F_CONTIGUOUS(array)) {
        PyErr_Format(PyExc_ValueError, "%s is strided; accepted: an array whose elements lie densely", argument);
        return NULL;
    }
    if (!PyArray_ISALIGNED(array) || (writable && !PyArray_ISWRITEABLE(array))) {
        PyErr_Format(PyExc_ValueError, "%s is %s", argument,
                     PyArray_ISALIGNED(array) ? "read-only and is written" : "not aligned to its elements");
        return NULL;
    }
    return PyArray_DATA(array);
}

/* The scales of an array in blocks, one float32 for each block of count elements; *scales is NULL for other dtypes.
 * 0, or -1 with an exception. */
static int
read_scales(PyObject *object, const char *argument, pfo_dtype dtype, npy_intp count, int writable, float **scales)
{
    *scales = NULL;
    if (dtype != PFO_DTYPE_BLOCK8 && dtype != PFO_DTYPE_UBLOCK8) {
        return 0;
    }
    *scales = elements_of(object, argument, PFO_DTYPE_FLOAT32, writable);
    if (*scales == NULL) {
        return -1;
    }
    const npy_intp blocks = count / PFO_SCALE_BLOCK + (count % PFO_SCALE_BLOCK != 0);
    if (PyArray_TYPE((PyArrayObject *)object) != NPY_FLOAT32 || PyArray_SIZE((PyArrayObject *)object) != blocks) {
        PyErr_Format(PyExc_ValueError,
                     "%s has %zd elements of dtype %S; accepted: %zd of float32, one for each %d codes", argument,
                     PyArray_SIZE((PyArrayObject *)object), (PyObject *)PyArray_DESCR((PyArrayObject *)object), blocks,
                     PFO_SCALE_BLOCK);
        return -1;
    }
    return 0;
}

static int
overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    return a_bytes > 0 && b_bytes > 0 && (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

PyDoc_STRVAR(
    convert_doc,
    "convert($module, source, source_dtype, source_scales, out, out_dtype, out_scales, saturate, stochastic, seed, "
    "stream, /)\n--\n\n"
    "Writes every element of source, stored as source_dtype, into out as out_dtype; both names as torch spells\n"
    "them, or block8 and ublock8, which have scales. See perfopt.kernels.cast. Raises TypeError or ValueError for\n"
    "arrays that are not dense, aligned, apart and of one size.");

static PyObject *
convert(PyObject *module, PyObject *args)
{
    PyObject *source, *source_scales, *out, *out_scales;
    const char *source_name, *out_name;
    unsigned long long seed, stream;
    pfo_cast_request request = { .threads = 0 };
    if (!PyArg_ParseTuple(args, "OsOOsOppKK:convert", &source, &source_name, &source_scales, &out, &out_name,
                          &out_scales, &request.rounding.saturate, &request.rounding.stochastic, &seed, &stream)) {
        return NULL;
    }
    if (read_dtype(source_name, "source_dtype", &request.from_dtype) < 0 ||
        read_dtype(out_name, "out_dtype", &request.to_dtype) < 0) {
        return NULL;
    }
    request.rounding.seed = seed;
    request.rounding.stream = stream;
    request.from = elements_of(source, "source", request.from_dtype, 0);
    request.to = request.from != NULL ? elements_of(out, "out", request.to_dtype, 1) : NULL;
    if (request.to == NULL) {
        return NULL;
    }
    const npy_intp count = PyArray_SIZE((PyArrayObject *)source);
    if (PyArray_SIZE((PyArrayObject *)out) != count) {
        PyErr_Format(PyExc_ValueError, "out has %zd elements and source %zd; accepted: as many",
                     PyArray_SIZE((PyArrayObject *)out), count);
        return NULL;
    }
    float *from_scales;
    if (read_scales(source_scales, "source_scales", request.from_dtype, count, 0, &from_scales) < 0 ||
        read_scales(out_scales, "out_scales", request.to_dtype, count, 1, &request.to_scales) < 0) {
        return NULL;
    }
    request.from_scales = from_scales;
    request.count = count;
    const size_t from_bytes = (size_t)count * pfo_dtype_bytes(request.from_dtype);
    const size_t to_bytes = (size_t)count * pfo_dtype_bytes(request.to_dtype);
    const size_t scale_bytes = ((size_t)count + PFO_SCALE_BLOCK - 1) / PFO_SCALE_BLOCK * sizeof(float);
    if (overlap(request.from, from_bytes, request.to, to_bytes) ||
        (from_scales != NULL && overlap(from_scales, scale_bytes, request.to, to_bytes)) ||
        (request.to_scales != NULL && (overlap(request.to_scales, scale_bytes, request.to, to_bytes) ||
                                       overlap(request.to_scales, scale_bytes, request.from, from_bytes)))) {
        PyErr_SetString(PyExc_ValueError, "out shares memory with source or scales; accepted: memory of its own");
        return NULL;
    }
    const pfo_convert_table *table = pfo_train_state_of(module)->engine.converters;
    Py_BEGIN_ALLOW_THREADS
    pfo_cast(table, &request);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyDoc_STRVAR(scale_doc,
             "scale($module, array, dtype, factor, /)\n--\n\n"
             "Multiplies array in place by factor, in float32; True if any product was inf or NaN. dtype, what the\n"
             "elements are: float32, bfloat16 or float16.");

static PyObject *
scale(PyObject *module, PyObject *args)
{
    PyObject *array;
    const char *name;
    double factor;
    pfo_dtype dtype;
    if (!PyArg_ParseTuple(args, "Osd:scale", &array, &name, &factor) || read_dtype(name, "dtype", &dtype) < 0) {
        return NULL;
    }
    if (dtype != PFO_DTYPE_FLOAT32 && dtype != PFO_DTYPE_BFLOAT16 && dtype != PFO_DTYPE_FLOAT16) {
        PyErr_Format(PyExc_ValueError, "dtype='%s'; accepted: float32, bfloat16, float16", name);
        return NULL;
    }
    void *data = elements_of(array, "array", dtype, 1);
    if (data == NULL) {
        return NULL;
    }
    const int64_t count = PyArray_SIZE((PyArrayObject *)array);
    const pfo_convert_table *table = pfo_train_state_of(module)->engine.converters;
    int nonfinite;
    Py_BEGIN_ALLOW_THREADS
    nonfinite = pfo_scale(table, data, dtype, count, (float)factor, 0);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(nonfinite);
}

PyDoc_STRVAR(
    from_dlpack_doc,
    "from_dlpack($module, object, name, /)\n--\n\n"
    "``(array, dtype)`` over the memory of an object with ``__dlpack__``, on the CPU: float32 and float16 as they\n"
    "are, bfloat16 and the 8-bit floats as uint16 and uint8. Raises TypeError and ValueError that call it ``name``.");

static PyObject *
from_dlpack(PyObject *module, PyObject *args)
{
    PyObject *object;
    const char *name;
    pfo_dtype dtype;
    if (!PyArg_ParseTuple(args, "Os:from_dlpack", &object, &name)) {
        return NULL;
    }
    PyObject *array = pfo_array_from_dlpack(pfo_train_state_of(module), object, name, &dtype);
    return array == NULL ? NULL : Py_BuildValue("(Ns)", array, pfo_dtype_name(dtype));
}

PyMethodDef pfo_cast_functions[] = {
    { "convert", convert, METH_VARARGS, convert_doc },
    { "scale", scale, METH_VARARGS, scale_doc },
    { "from_dlpack", from_dlpack, METH_VARARGS, from_dlpack_doc },
    { NULL, NULL, 0, NULL },
};
