/* content.c: see content.h. The order of the tests is the order of frequency. */
#include "bindings/core/content.h"

#include "bindings/common/errors.h"

#include <string.h>

enum { RELEASE_GIL_BYTES = 64 * 1024, DTYPE_TEXT = 32 };

void
pfo_content_clear(pfo_content *content)
{
    Py_CLEAR(content->types);
    Py_CLEAR(content->culprit);
}

static int
no_content(pfo_content *content, PyObject *object)
{
    if (content->culprit == NULL) {
        content->culprit = (PyTypeObject *)Py_NewRef(Py_TYPE(object));
    }
    return 1;
}

int
pfo_content_check_depth(int depth)
{
    if (depth > PFO_CONTENT_MAX_DEPTH) {
        PyErr_Format(PyExc_RecursionError,
                     "cannot fingerprint an object nested deeper than %d levels (does it contain itself?)",
                     PFO_CONTENT_MAX_DEPTH);
        return -1;
    }
    return PyErr_CheckSignals(); /* a few levels that share their members can be a walk without end */
}

/* ---- types that exist only once their library is imported ------------------------------------ */

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
    if (state->numpy_ndarray == NULL || state->numpy_generic == NULL || state->numpy_memmap == NULL) {
        if (find_type(&state->numpy_ndarray, state->name_numpy, "ndarray") < 0 ||
            find_type(&state->numpy_memmap, state->name_numpy, "memmap") < 0 ||
            find_type(&state->numpy_generic, state->name_numpy, "generic") < 0) {
            return -1;
        }
    }
    if (state->torch_tensor == NULL || state->torch_module == NULL) {
        if (find_type(&state->torch_tensor, state->name_torch, "Tensor") < 0 ||
            find_type(&state->torch_module, state->name_torch_nn, "Module") < 0) {
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
    return is_instance(object, state->torch_tensor) || is_instance(object, state->torch_module);
}

/* ---- arrays by the buffer protocol ----------------------------------------------------------- */

/* The struct-module format of one plain number as a NumPy type string ("<f4"); 0 if it is anything else. Extended precision is
 * refused because its padding bytes are arbitrary; perfopt._keys describes such arrays. */
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
    if (kind == 0) {
        return 0;
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
    if (view->len >= RELEASE_GIL_BYTES) {
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

/* Arrays and other exporters of plain memory; 1 if the object is none. */
static int
encode_exporter(pfo_content *content, pfo_encoder *encoder, PyObject *object)
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

/* ---- scalars --------------------------------------------------------------------------------- */

static int
encode_int(pfo_encoder *encoder, PyObject *object)
{
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (!overflow) {
        if (number == -1 && PyErr_Occurred()) {
            return -1;
        }
        pfo_encode_int64(encoder, number);
        return 0;
    }
    PyObject *bits = PyObject_CallMethod(object, "bit_length", NULL);
    if (bits == NULL) {
        return -1;
    }
    const Py_ssize_t length = PyLong_AsSsize_t(bits) / 8 + 1;
    Py_DECREF(bits);
    PyObject *method = PyObject_GetAttrString(object, "to_bytes");
    PyObject *arguments = Py_BuildValue("(ns)", length, "little");
    PyObject *options = Py_BuildValue("{s:O}", "signed", Py_True);
    PyObject *bytes = NULL;
    if (method != NULL && arguments != NULL && options != NULL) {
        bytes = PyObject_Call(method, arguments, options);
    }
    Py_XDECREF(method);
    Py_XDECREF(arguments);
    Py_XDECREF(options);
    if (bytes == NULL) {
        return -1;
    }
    pfo_encode_big_int(encoder, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    return 0;
}

/* Immutable memory kept alive by the caller, so the GIL may go while it is read. */
static void
encode_payload(pfo_encoder *encoder, char tag, const void *bytes, Py_ssize_t length)
{
    if (length >= RELEASE_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS
        pfo_encode_payload(encoder, tag, bytes, (size_t)length);
        Py_END_ALLOW_THREADS
    } else {
        pfo_encode_payload(encoder, tag, bytes, (size_t)length);
    }
}

static int
encode_text(pfo_encoder *encoder, PyObject *object)
{
    if (PyUnicode_IS_COMPACT_ASCII(object)) {
        encode_payload(encoder, 's', PyUnicode_1BYTE_DATA(object), PyUnicode_GET_LENGTH(object));
        return 0;
    }
    /* Not PyUnicode_AsUTF8: that would leave a second copy of the text in the object for the rest of its life. */
    PyObject *bytes = PyUnicode_AsEncodedString(object, "utf-8", "surrogatepass");
    if (bytes == NULL) {
        return -1;
    }
    encode_payload(encoder, 's', PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    return 0;
}

static int
encode_bytearray(pfo_encoder *encoder, PyObject *object)
{
    Py_buffer view; /* held, so that nobody resizes it meanwhile */
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    encode_payload(encoder, 'y', view.buf, view.len);
    PyBuffer_Release(&view);
    return 0;
}

/* 1 if the object is no scalar. */
static int
encode_scalar(pfo_encoder *encoder, PyObject *object)
{
    if (PyLong_CheckExact(object)) {
        return encode_int(encoder, object);
    }
    if (PyUnicode_CheckExact(object)) {
        return encode_text(encoder, object);
    }
    if (PyFloat_CheckExact(object)) {
        pfo_encode_double(encoder, PyFloat_AS_DOUBLE(object));
        return 0;
    }
    if (PyBytes_CheckExact(object)) {
        encode_payload(encoder, 'b', PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object));
        return 0;
    }
    if (PyComplex_CheckExact(object)) {
        pfo_encode_complex(encoder, PyComplex_RealAsDouble(object), PyComplex_ImagAsDouble(object));
        return 0;
    }
    const char tag = object == Py_None             ? 'N'
                     : object == Py_True           ? 'T'
                     : object == Py_False          ? 'F'
                     : object == Py_Ellipsis       ? 'E'
                     : object == Py_NotImplemented ? 'Z'
                                                   : 0;
    if (tag == 0) {
        return 1;
    }
    pfo_encode_tag(encoder, tag);
    return 0;
}

/* ---- containers ------------------------------------------------------------------------------ */

/* items: a tuple nobody else changes. */
static int
encode_sequence(pfo_content *content, pfo_encoder *encoder, char tag, PyObject *items, Py_ssize_t first, int depth)
{
    const Py_ssize_t size = PyTuple_GET_SIZE(items);
    pfo_encode_count(encoder, tag, (uint64_t)(size - first));
    for (Py_ssize_t i = first; i < size; i++) {
        const int answer = pfo_content_encode(content, encoder, PyTuple_GET_ITEM(items, i), depth + 1);
        if (answer != 0) {
            return answer;
        }
    }
    return 0;
}

static int
finish_digest(pfo_encoder *encoder, int answer, pfo_digest *digest)
{
    if (answer != 0) {
        pfo_encoder_drop(encoder);
        return answer;
    }
    const pfo_status status = pfo_encoder_finish(encoder, digest);
    if (status != PFO_OK) {
        (void)pfo_raise(status, NULL);
        return -1;
    }
    return 0;
}

/* The stream of one dict item (a pair) or one set element, on its own. */
static int
digest_member(pfo_content *content, PyObject *member, int is_pair, int depth, pfo_digest *digest)
{
    pfo_encoder encoder;
    pfo_encoder_start(&encoder, NULL);
    int answer = 0;
    if (is_pair) {
        answer = pfo_content_encode(content, &encoder, PyTuple_GET_ITEM(member, 0), depth + 1);
        member = PyTuple_GET_ITEM(member, 1);
    }
    if (answer == 0) {
        answer = pfo_content_encode(content, &encoder, member, depth + 1);
    }
    return finish_digest(&encoder, answer, digest);
}

/* members: a list of our own. */
static int
encode_unordered(pfo_content *content, pfo_encoder *encoder, char tag, PyObject *members, int is_pair, int depth)
{
    const Py_ssize_t size = PyList_GET_SIZE(members);
    pfo_digest *digests = PyMem_Malloc((size_t)(size > 0 ? size : 1) * sizeof *digests);
    if (digests == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int answer = 0;
    for (Py_ssize_t i = 0; i < size && answer == 0; i++) {
        answer = digest_member(content, PyList_GET_ITEM(members, i), is_pair, depth, &digests[i]);
    }
    if (answer == 0) {
        pfo_encode_count(encoder, tag, (uint64_t)size);
        pfo_encode_unordered(encoder, digests, (size_t)size);
    }
    PyMem_Free(digests);
    return answer;
}

/* The snapshots are taken because reading a part may run user code or let other threads in. */
static int
encode_container(pfo_content *content, pfo_encoder *encoder, PyObject *object, int depth)
{
    PyObject *snapshot;
    int answer;
    if (PyTuple_CheckExact(object)) {
        return encode_sequence(content, encoder, '(', object, 0, depth);
    }
    if (PyList_CheckExact(object)) {
        snapshot = PyList_AsTuple(object);
        answer = snapshot == NULL ? -1 : encode_sequence(content, encoder, '[', snapshot, 0, depth);
    } else if (PyDict_CheckExact(object)) {
        snapshot = PyDict_Items(object);
        answer = snapshot == NULL ? -1 : encode_unordered(content, encoder, '{', snapshot, 1, depth);
    } else {
        snapshot = PySequence_List(object);
        const char tag = PyFrozenSet_CheckExact(object) ? '>' : '<';
        answer = snapshot == NULL ? -1 : encode_unordered(content, encoder, tag, snapshot, 0, depth);
    }
    Py_XDECREF(snapshot);
    return answer;
}

/* ---- everything else ------------------------------------------------------------------------- */

int
pfo_content_reduce(pfo_content *content, PyObject *object, PyObject **reduction)
{
    pfo_core_state *state = content->state;
    *reduction = NULL;
    if (state->keys_reduce == NULL) {
        PyObject *module = PyImport_ImportModule("perfopt._keys");
        PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, "reduce");
        Py_XDECREF(module);
        if (function == NULL) {
            return -1;
        }
        Py_XSETREF(state->keys_reduce, function);
    }
    PyObject *found = PyObject_CallOneArg(state->keys_reduce, object);
    if (found == NULL) {
        return -1;
    }
    if (found == Py_NotImplemented) {
        Py_DECREF(found);
        return no_content(content, object);
    }
    if (!PyTuple_CheckExact(found) || PyTuple_GET_SIZE(found) < 2) {
        Py_DECREF(found);
        PyErr_SetString(PyExc_SystemError, "perfopt._keys.reduce() must return NotImplemented or (class, text, ...)");
        return -1;
    }
    PyObject *type = PyTuple_GET_ITEM(found, 0);
    if (content->types != NULL && type != Py_None && PyList_Append(content->types, type) < 0) {
        Py_DECREF(found);
        return -1;
    }
    *reduction = found;
    return 0;
}

int
pfo_content_encode(pfo_content *content, pfo_encoder *encoder, PyObject *object, int depth)
{
    int answer = encode_scalar(encoder, object);
    if (answer != 1) {
        return answer;
    }
    if (pfo_content_check_depth(depth) < 0) {
        return -1;
    }
    if (PyTuple_CheckExact(object) || PyList_CheckExact(object) || PyDict_CheckExact(object) ||
        PyAnySet_CheckExact(object)) {
        return encode_container(content, encoder, object, depth);
    }
    if (PyByteArray_CheckExact(object)) {
        return encode_bytearray(encoder, object);
    }
    if (PyObject_CheckBuffer(object)) {
        answer = encode_exporter(content, encoder, object);
        if (answer != 1) {
            return answer;
        }
    }
    PyObject *reduction;
    answer = pfo_content_reduce(content, object, &reduction);
    if (answer != 0) {
        return answer;
    }
    answer = encode_sequence(content, encoder, 'R', reduction, 1, depth);
    Py_DECREF(reduction);
    return answer;
}

int
pfo_content_digest(pfo_content *content, PyObject *object, int depth, pfo_digest *digest)
{
    pfo_encoder encoder;
    pfo_encoder_start(&encoder, NULL);
    return finish_digest(&encoder, pfo_content_encode(content, &encoder, object, depth), digest);
}
