/* content_scalars.c: numbers, text and bytes as parts of a fingerprint. See content_parts.h. */
#include "bindings/core/content_parts.h"

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
    if (length >= PFO_RELEASE_GIL_BYTES) {
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

int
pfo_content_scalar(pfo_encoder *encoder, PyObject *object)
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
    if (PyByteArray_CheckExact(object)) {
        return encode_bytearray(encoder, object);
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
