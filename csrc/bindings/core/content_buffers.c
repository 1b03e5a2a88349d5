/* content_buffers.c: arrays and other exporters of memory as parts of a fingerprint; the types of libraries that may not be there. See
 * content.h and content_parts.h. */
#include "bindings/core/content_parts.h"

#include <stddef.h>
#include <string.h>

enum { DTYPE_TEXT = 32 };

/* ---- types that exist only once their library is imported ------------------------------------ */

typedef struct late_type {
    size_t slot;   /* of the type in pfo_core_state */
    size_t module; /* of its module's name, likewise */
    const char *attribute;
} late_type;

#define LATE_TYPE(slot, module, attribute)                                                                             \
    { offsetof(pfo_core_state, slot), offsetof(pfo_core_state, module), attribute }

static const late_type late_types[] = {
    LATE_TYPE(numpy_ndarray, name_numpy, "ndarray"),
    LATE_TYPE(numpy_memmap, name_numpy, "memmap"),
    LATE_TYPE(numpy_generic, name_numpy, "generic"),
    LATE_TYPE(numpy_generator, name_numpy_random, "Generator"),
    LATE_TYPE(numpy_bit_generator, name_numpy_random, "BitGenerator"),
    LATE_TYPE(numpy_random_state, name_numpy_random, "RandomState"),
    LATE_TYPE(torch_tensor, name_torch, "Tensor"),
    LATE_TYPE(torch_generator, name_torch, "Generator"),
    LATE_TYPE(torch_module, name_torch_nn, "Module"),
    LATE_TYPE(random_random, name_random, "Random"),
};

static PyObject **
object_at(pfo_core_state *state, size_t offset)
{
    return (PyObject **)(void *)((char *)state + offset);
}

/* *slot = attribute of a module that is already imported; stays NULL while it is not. -1 on error. */
static int
find_type(PyObject **slot, PyObject *module_name, const char *attribute)
{
    if (*slot != NULL) {
        return 0;
    }
    PyObject *module = PyDict_GetItemWithError(PyImport_GetModuleDict(), module_name);
    if (module == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *found = PyObject_GetAttrString(module, attribute);
    if (found == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear(); /* still being imported */
        return 0;
    }
    if (*slot == NULL && PyType_Check(found)) {
        *slot = found;
        return 0;
    }
    Py_DECREF(found);
    return 0;
}

static int
find_types(pfo_core_state *state)
{
    for (size_t i = 0; i < sizeof late_types / sizeof *late_types; i++) {
        const late_type *late = &late_types[i];
        PyObject **slot = object_at(state, late->slot);
        if (*slot == NULL && find_type(slot, *object_at(state, late->module), late->attribute) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
is_instance(PyObject *object, PyObject *type)
{
    return type != NULL && PyObject_TypeCheck(object, (PyTypeObject *)type);
}

int
pfo_content_goes_before_hash(pfo_core_state *state, PyObject *object)
{
    if (PyTuple_Check(object) || PyList_Check(object) || PyDict_Check(object) || PyAnySet_Check(object) ||
        (PyObject_CheckBuffer(object) && !PyBytes_Check(object))) {
        return 1;
    }
    if (PyUnicode_Check(object) || PyLong_Check(object) || PyType_Check(object) || PyFunction_Check(object)) {
        return 0;
    }
    if (find_types(state) < 0) {
        return -1;
    }
    PyObject *const by_content[] = { state->torch_tensor,    state->torch_module,        state->torch_generator,
                                     state->numpy_generator, state->numpy_bit_generator, state->numpy_random_state,
                                     state->random_random };
    for (size_t i = 0; i < sizeof by_content / sizeof *by_content; i++) {
        if (is_instance(object, by_content[i])) {
            return 1;
        }
    }
    return 0;
}

/* ---- arrays by the buffer protocol ----------------------------------------------------------- */

/* The struct-module format of one plain number as a NumPy type string ("<f4"); 0 if it is anything else. Extended precision is
 * refused because its padding bytes are arbitrary; perfopt._keys_arrays describes such arrays. */
static size_t
plain_dtype(const char *format, Py_ssize_t item_bytes, char out[DTYPE_TEXT])
{
    const union {
        unsigned short number;
        unsigned char first;
    } probe = { 1 };
    char order = probe.first ? '<' : '>';
    if (format == NULL) {
        format = "B";
    }
    if (strchr("@=<>!^", format[0]) != NULL && format[0] != '\0') {
        order = format[0] == '<' ? '<' : format[0] == '>' || format[0] == '!' ? '>' : order;
        format++;
    }
    int repeated = 0;
    while (*format >= '0' && *format <= '9') {
        repeated = 1;
        format++;
    }
    const int is_complex = *format == 'Z';
    format += is_complex;
    if (format[0] == '\0' || format[1] != '\0') {
        return 0;
    }
    char kind;
    Py_ssize_t size = item_bytes;
    if (is_complex) {
        kind = strchr("fd", *format) != NULL ? 'c' : 0;
    } else if (repeated && strchr("sw", *format) == NULL) {
        return 0;
    } else if (strchr("bhilqn", *format) != NULL) {
        kind = 'i';
    } else if (strchr("BHILQN", *format) != NULL) {
        kind = 'u';
    } else if (strchr("efd", *format) != NULL) {
        kind = 'f';
    } else if (*format == '?') {
        kind = 'b';
    } else if (strchr("sc", *format) != NULL) {
        kind = 'S';
    } else if (*format == 'w') {
        kind = 'U';
        size /= 4;
    } else {
        return 0;
    }
    if (kind == 0 || (item_bytes != 1 && strchr("bB?", *format) != NULL)) {
        return 0; /* ctypes calls unions and packed structures wide bytes, pointers in them and all */
    }
    if (kind == 'S' || (item_bytes == 1 && kind != 'U')) {
        order = '|';
    }
    return (size_t)PyOS_snprintf(out, DTYPE_TEXT, "%c%c%zd", order, kind, size);
}

static int
encode_view(pfo_encoder *encoder, const Py_buffer *view, const char *kind, size_t kind_length)
{
    char dtype[DTYPE_TEXT];
    const size_t dtype_length = plain_dtype(view->format, view->itemsize, dtype);
    if (dtype_length == 0) {
        return 1;
    }
    int64_t shape[PFO_FINGERPRINT_MAX_DIMENSIONS];
    int64_t strides[PFO_FINGERPRINT_MAX_DIMENSIONS];
    if (view->ndim > PFO_FINGERPRINT_MAX_DIMENSIONS) {
        return 1;
    }
    Py_ssize_t packed = view->itemsize; /* ctypes, for one, leaves strides out of what PyBUF_FULL_RO asks for */
    for (int d = view->ndim - 1; d >= 0; d--) {
        if (view->shape == NULL || (view->suboffsets != NULL && view->suboffsets[d] >= 0)) {
            return 1;
        }
        shape[d] = view->shape[d];
        strides[d] = view->strides != NULL ? view->strides[d] : packed;
        packed *= view->shape[d];
    }
    const pfo_array_view array = {
        .data = view->buf,
        .shape = shape,
        .strides = strides,
        .item_bytes = (size_t)view->itemsize,
        .dimensions = view->ndim,
        .kind = kind,
        .kind_length = kind_length,
        .dtype = dtype,
        .dtype_length = dtype_length,
    };
    if (view->len >= PFO_RELEASE_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS
        pfo_encode_array(encoder, &array, 0);
        Py_END_ALLOW_THREADS
    } else {
        pfo_encode_array(encoder, &array, 1);
    }
    return 0;
}

/* "module.qualname" as a new str; what other exporters of memory than NumPy's are called in the fingerprint. */
static PyObject *
name_of_type(PyTypeObject *type)
{
    PyObject *module = PyObject_GetAttrString((PyObject *)type, "__module__");
    PyObject *name = module == NULL ? NULL : PyObject_GetAttrString((PyObject *)type, "__qualname__");
    PyObject *full = name == NULL ? NULL : PyUnicode_FromFormat("%S.%S", module, name);
    Py_XDECREF(module);
    Py_XDECREF(name);
    return full;
}

int
pfo_content_exporter(pfo_content *content, pfo_encoder *encoder, PyObject *object, int known_to_be_bare)
{
    pfo_core_state *state = content->state;
    if (find_types(state) < 0) {
        return -1;
    }
    PyTypeObject *type = Py_TYPE(object);
    const int is_array = (PyObject *)type == state->numpy_ndarray || (PyObject *)type == state->numpy_memmap;
    if (!is_array && (is_instance(object, state->numpy_ndarray) || is_instance(object, state->numpy_generic) ||
                      PyBytes_Check(object) || PyByteArray_Check(object))) {
        return 1; /* subclasses may carry more than their memory */
    }
    if (!is_array && !known_to_be_bare && PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)) {
        return 1;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_FULL_RO) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_BufferError) && !PyErr_ExceptionMatches(PyExc_ValueError)) {
            return -1;
        }
        PyErr_Clear(); /* dates, for one, are not exported */
        return 1;
    }
    int answer;
    if (is_array) {
        answer = encode_view(encoder, &view, "ndarray", 7);
    } else {
        PyObject *name = name_of_type(type);
        Py_ssize_t length = 0;
        const char *text = name == NULL ? NULL : PyUnicode_AsUTF8AndSize(name, &length);
        answer = text == NULL ? -1 : encode_view(encoder, &view, text, (size_t)length);
        Py_XDECREF(name);
    }
    PyBuffer_Release(&view);
    return answer;
}
