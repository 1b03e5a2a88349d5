/* device_array_type.c: see device_array.h; and hash_device_array(), which makes one.
 *
 * Holds what the fingerprint needs of an array: dtype, shape and the digest of its data, no memory of the device. Immutable.
 * Threads: any; the GIL is released while the device works. Memory: one digest per 256 KiB while it is made.
 */
#include "bindings/core/device_array.h"

#include "backend/loader.h"
#include "base/alloc.h"
#include "bindings/common/errors.h"

#include <string.h>

enum { DTYPE_ROOM = 8 };

typedef struct device_array {
    PyObject_HEAD
    char dtype[DTYPE_ROOM];
    int dimensions;
    int64_t shape[PFO_FINGERPRINT_MAX_DIMENSIONS];
    pfo_digest digest;
} device_array;

static const char kind[] = "ndarray";

void
pfo_device_array_encode(pfo_encoder *encoder, PyObject *object)
{
    const device_array *array = (const device_array *)object;
    pfo_encode_count(encoder, 'A', sizeof kind - 1);
    pfo_encode_raw(encoder, kind, sizeof kind - 1);
    pfo_encode_number(encoder, strlen(array->dtype));
    pfo_encode_raw(encoder, array->dtype, strlen(array->dtype));
    pfo_encode_number(encoder, (uint64_t)array->dimensions);
    for (int d = 0; d < array->dimensions; d++) {
        pfo_encode_number(encoder, (uint64_t)array->shape[d]);
    }
    pfo_encode_raw(encoder, array->digest.bytes, sizeof array->digest.bytes);
}

/* Item size of "<i4" and the like; 0 for anything else. */
static size_t
item_bytes_of(const char *dtype)
{
    static const struct {
        const char *name;
        size_t bytes;
    } known[] = { { "|u1", 1 }, { "<i2", 2 }, { "<i4", 4 }, { "<i8", 8 } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(dtype, known[i].name) == 0) {
            return known[i].bytes;
        }
    }
    return 0;
}

static int
read_shape(device_array *array, PyObject *shape)
{
    const Py_ssize_t dimensions = PyTuple_GET_SIZE(shape);
    if (dimensions > PFO_FINGERPRINT_MAX_DIMENSIONS) {
        PyErr_Format(PyExc_ValueError, "shape has %zd dimensions; accepted: up to %d", dimensions,
                     (int)PFO_FINGERPRINT_MAX_DIMENSIONS);
        return -1;
    }
    array->dimensions = (int)dimensions;
    for (Py_ssize_t d = 0; d < dimensions; d++) {
        array->shape[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, d));
        if (array->shape[d] == -1 && PyErr_Occurred()) {
            return -1;
        }
    }
    return 0;
}

/* The digest of the data rule (fingerprint.h) of more than PFO_FINGERPRINT_INLINE bytes, from those of the chunks. */
static pfo_status
hash_on_device(pfo_backend_pieces *pieces, void *stream, pfo_digest *digest, pfo_error *err)
{
    const pfo_backend *backend;
    const pfo_xxh_ops *ops = pfo_xxh_ops_best();
    pfo_backend_error reason = { 0, "" };
    unsigned char rest[PFO_BACKEND_SHORT_PIECE];
    PFO_TRY(pfo_backend_require(&backend, err));
    const size_t short_bytes = (size_t)(pieces->bytes % pieces->piece_bytes);
    const size_t count = (size_t)(pieces->bytes / pieces->piece_bytes) + (short_bytes > 0);
    pfo_digest *digests = pfo_alloc_array(count, sizeof *digests);
    if (digests == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for %zu digests", count);
    }
    pieces->digests = digests[0].bytes;
    pieces->rest = rest;
    const int32_t code = backend->digest_pieces_and_wait(pieces, stream, &reason);
    if (code == PFO_BACKEND_OK) {
        if (short_bytes > 0 && short_bytes <= sizeof rest) {
            ops->digest(rest, short_bytes, digests[count - 1].bytes);
        }
        if (count == 1) {
            *digest = digests[0];
        } else {
            ops->digest(digests, count * sizeof *digests, digest->bytes);
        }
    }
    pfo_free(digests);
    return code == PFO_BACKEND_OK
               ? PFO_OK
               : pfo_fail(err, code == PFO_BACKEND_BAD_ARGUMENT ? PFO_BAD_ARGUMENT : PFO_DEVICE, "%s", reason.text);
}

PyDoc_STRVAR(
    hash_device_array_doc,
    "hash_device_array($module, dtype, shape, data, device, stream, scratch, scratch_bytes, /)\n--\n\n"
    "An object that counts in fingerprint() as the contiguous NumPy array of that dtype, shape and content does, made "
    "by\n"
    "hashing more than 256 bytes where they are: in the memory of a CUDA device.\n\n"
    "``dtype``: '|u1', '<i2', '<i4' or '<i8'; ``shape``: tuple of int; ``data``: address; ``device``: index;\n"
    "``stream``: cudaStream_t as int; ``scratch``: address of 16 bytes on the device for each 256 KiB, aligned to 16.\n"
    "Waits for the stream. Raises RuntimeError with the reason without a backend or when the device fails, ValueError "
    "for\n"
    "what the backend refuses, such as a stream that is being captured.");

static PyObject *
hash_device_array(PyObject *module, PyObject *args)
{
    const char *dtype;
    PyObject *shape;
    unsigned long long data, stream, scratch;
    long long scratch_bytes;
    int device;
    if (!PyArg_ParseTuple(args, "sO!KiKKL:hash_device_array", &dtype, &PyTuple_Type, &shape, &data, &device, &stream,
                          &scratch, &scratch_bytes)) {
        return NULL;
    }
    const size_t item_bytes = item_bytes_of(dtype);
    if (item_bytes == 0) {
        return PyErr_Format(PyExc_ValueError, "dtype is '%.40s'; accepted: |u1, <i2, <i4, <i8", dtype);
    }
    PyTypeObject *type = pfo_core_state_of(module)->device_array;
    device_array *array = PyObject_New(device_array, type);
    if (array == NULL || read_shape(array, shape) < 0) {
        Py_XDECREF(array);
        return NULL;
    }
    (void)strcpy(array->dtype, dtype);
    const pfo_array_view view = { .shape = array->shape, .item_bytes = item_bytes, .dimensions = array->dimensions };
    size_t bytes = 0;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status = pfo_array_view_bytes(&view, &bytes);
    if (status == PFO_OK && bytes <= PFO_FINGERPRINT_INLINE) {
        status = pfo_fail(&err, PFO_BAD_ARGUMENT, "%zu bytes; accepted: more than %d, fewer are content themselves",
                          bytes, (int)PFO_FINGERPRINT_INLINE);
    }
    if (status == PFO_OK) {
        pfo_backend_pieces pieces = {
            .data = (const void *)(uintptr_t)data,
            .bytes = (int64_t)bytes,
            .piece_bytes = PFO_FINGERPRINT_CHUNK,
            .scratch = (void *)(uintptr_t)scratch,
            .scratch_bytes = scratch_bytes,
            .device = device,
        };
        Py_BEGIN_ALLOW_THREADS
        status = hash_on_device(&pieces, (void *)(uintptr_t)stream, &array->digest, &err);
        Py_END_ALLOW_THREADS
    }
    if (status != PFO_OK) {
        Py_DECREF(array);
        return pfo_raise(status, &err);
    }
    return (PyObject *)array;
}

PyMethodDef pfo_device_array_functions[] = {
    { "hash_device_array", hash_device_array, METH_VARARGS, hash_device_array_doc },
    { NULL, NULL, 0, NULL },
};

static void
device_array_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_Free(op);
    Py_DECREF(type);
}

static PyType_Slot device_array_slots[] = {
    { Py_tp_doc, (void *)"An array on a device by its dtype, shape and digest (internal)." },
    { Py_tp_dealloc, (void *)device_array_dealloc },
    { 0, NULL },
};

PyType_Spec pfo_device_array_spec = {
    .name = "perfopt._core.device_array",
    .basicsize = sizeof(device_array),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = device_array_slots,
};
