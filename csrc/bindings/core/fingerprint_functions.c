/* fingerprint_functions.c: perfopt._core.fingerprint(): the content digest as Python sees it. */
#include "bindings/common/errors.h"
#include "bindings/core/content.h"

PyDoc_STRVAR(
    fingerprint_doc,
    "fingerprint(*objects)\n--\n\n"
    "The 16-byte content fingerprint of a sequence of objects: the same in every process and on every machine.\n\n"
    "Takes None, bool, int, float, complex, str, bytes-likes, tuples, lists, dicts and sets (without regard to "
    "order),\n"
    "NumPy arrays and scalars of every dtype, torch tensors and modules, dataclasses, enum members and paths. Types "
    "are\n"
    "part of the content: 1, 1.0, True, '1' and b'1' differ. An array counts with container kind, dtype, shape and all "
    "its\n"
    "bytes in logical C order, so a strided view equals its contiguous copy. Floats count with their bits.\n\n"
    "Raises TypeError naming the argument whose content cannot be read, and RecursionError for objects nested deeper "
    "than\n"
    "200 levels. The GIL is released while more than 64 KiB are hashed. Algorithm: XXH3-128 (Yann Collet).");

static PyObject *
fingerprint(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    pfo_content content = { .state = pfo_core_state_of(module) };
    pfo_encoder encoder;
    pfo_encoder_start(&encoder, NULL);
    for (Py_ssize_t i = 0; i < count; i++) {
        const int answer = pfo_content_encode(&content, &encoder, args[i], 0);
        if (answer != 0) {
            if (answer > 0) {
                PyErr_Format(PyExc_TypeError, "fingerprint() argument %zd: cannot read the content of a %.200s object",
                             i + 1, content.culprit->tp_name);
            }
            pfo_encoder_drop(&encoder);
            pfo_content_clear(&content);
            return NULL;
        }
    }
    pfo_digest digest;
    const pfo_status status = pfo_encoder_finish(&encoder, &digest);
    if (status != PFO_OK) {
        return pfo_raise(status, NULL);
    }
    return PyBytes_FromStringAndSize((const char *)digest.bytes, sizeof digest.bytes);
}

PyMethodDef pfo_fingerprint_functions[] = {
    { "fingerprint", (PyCFunction)(void (*)(void))fingerprint, METH_FASTCALL, fingerprint_doc },
    { NULL, NULL, 0, NULL },
};
