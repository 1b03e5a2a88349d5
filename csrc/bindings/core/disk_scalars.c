/* disk_scalars.c: see disk_scalars.h. Numbers are little-endian; text is UTF-8, lone surrogates as if they were characters. */
#include "bindings/core/disk_scalars.h"

#include <string.h>

static void
store_number(pfo_scalar *out, const char *kind, uint64_t bits)
{
    for (int i = 0; i < 8; i++) {
        out->number[i] = (unsigned char)(bits >> (8 * i));
    }
    out->kind = kind;
    out->data = out->number;
    out->length = sizeof out->number;
}

static uint64_t
load_number(const unsigned char *data)
{
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) {
        bits |= (uint64_t)data[i] << (8 * i);
    }
    return bits;
}

static int
encode_text(PyObject *value, pfo_scalar *out)
{
    out->kind = "str/1";
    out->suffix = ".txt";
    if (PyUnicode_IS_COMPACT_ASCII(value)) {
        out->data = PyUnicode_DATA(value);
        out->length = (size_t)PyUnicode_GET_LENGTH(value);
        return 1;
    }
    out->owner = PyUnicode_AsEncodedString(value, "utf-8", "surrogatepass");
    if (out->owner == NULL) {
        return -1;
    }
    out->data = PyBytes_AS_STRING(out->owner);
    out->length = (size_t)PyBytes_GET_SIZE(out->owner);
    return 1;
}

int
pfo_scalar_encode(PyObject *value, pfo_scalar *out)
{
    *out = (pfo_scalar){ .suffix = ".bin", .data = "" };
    if (value == Py_None) {
        out->kind = "none/1";
        return 1;
    }
    if (PyUnicode_CheckExact(value)) {
        return encode_text(value, out);
    }
    if (PyBytes_CheckExact(value)) {
        out->kind = "bytes/1";
        out->data = PyBytes_AS_STRING(value);
        out->length = (size_t)PyBytes_GET_SIZE(value);
        return 1;
    }
    if (PyBool_Check(value)) {
        store_number(out, "bool/1", value == Py_True);
        out->length = 1;
        return 1;
    }
    if (PyLong_CheckExact(value)) {
        int overflow;
        const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        store_number(out, "int/1", (uint64_t)number);
        return overflow == 0;
    }
    if (PyFloat_CheckExact(value)) {
        const double number = PyFloat_AS_DOUBLE(value);
        uint64_t bits;
        memcpy(&bits, &number, sizeof bits);
        store_number(out, "float/1", bits);
        return 1;
    }
    return 0;
}

/* The decoders give NULL, perhaps with an exception, for bytes that pfo_scalar_encode() did not write. */

static PyObject *
decode_none(const unsigned char *data, size_t length)
{
    (void)data;
    return length == 0 ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
decode_bool(const unsigned char *data, size_t length)
{
    return length == 1 && data[0] <= 1 ? PyBool_FromLong(data[0]) : NULL;
}

static PyObject *
decode_int(const unsigned char *data, size_t length)
{
    return length == 8 ? PyLong_FromLongLong((int64_t)load_number(data)) : NULL;
}

static PyObject *
decode_float(const unsigned char *data, size_t length)
{
    if (length != 8) {
        return NULL;
    }
    const uint64_t bits = load_number(data);
    double number;
    memcpy(&number, &bits, sizeof number);
    return PyFloat_FromDouble(number);
}

static PyObject *
decode_text(const unsigned char *data, size_t length)
{
    return PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)length, "surrogatepass");
}

static PyObject *
decode_bytes(const unsigned char *data, size_t length)
{
    return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)length);
}

static const struct {
    char kind[PFO_DISK_KIND];
    pfo_scalar_decode decode;
} scalar_kinds[] = {
    { "str/1", decode_text },    { "bytes/1", decode_bytes }, { "int/1", decode_int },
    { "float/1", decode_float }, { "bool/1", decode_bool },   { "none/1", decode_none },
};

pfo_scalar_decode
pfo_scalar_decoder(const char kind[PFO_DISK_KIND])
{
    for (size_t i = 0; i < sizeof scalar_kinds / sizeof scalar_kinds[0]; i++) {
        if (memcmp(kind, scalar_kinds[i].kind, PFO_DISK_KIND) == 0) {
            return scalar_kinds[i].decode;
        }
    }
    return NULL;
}
