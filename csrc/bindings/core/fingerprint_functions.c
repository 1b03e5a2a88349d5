/* fingerprint_functions.c: perfopt._core.fingerprint(): the content digest as Python sees it. */
#include "bindings/common/errors.h"
#include "bindings/core/content.h"

PyDoc_STRVAR(
    fingerprint_doc,
    "fingerprint(*objects)\n--\n\n"
    "The 16-byte content fingerprint of a sequence of objects: the same in every process and on every machine.\n\n"
    "Takes None, numbers (also Decimal and Fraction), text, bytes-likes, tuples, lists, dicts and sets (without regard "
    "to\n"
    "order) and the standard library's containers, dates, times and zones, UUIDs, addresses, paths, patterns, "
    "partials, enum\n"
    "members, dataclasses and random generators; NumPy arrays, scalars and generators, SciPy sparse arrays, torch "
    "tensors,\n"
    "modules and generators, pandas and Arrow data. Types are part of the content: 1, 1.0, True, '1' and b'1' differ. "
    "Floats\n"
    "count with their bits, arrays with container kind, dtype, shape and all their bytes in logical C order, so a "
    "strided view\n"
    "equals its contiguous copy; Arrow data without regard to chunks, offsets and what lies in null slots. CUDA "
    "tensors are\n"
    "hashed on their device where there is a backend, with the same digest, else copied to the CPU. Classes and "
    "functions count\n"
    "by the name under which an import finds them, not by their code.\n\n"
    "Raises TypeError naming the argument whose content cannot be read and why, and RecursionError for objects nested "
    "deeper\n"
    "than 200 levels. The GIL is released while more than 64 KiB are hashed. Algorithm: XXH3-128 (Yann Collet).");

static void
raise_no_content(const pfo_content *content, Py_ssize_t argument)
{
    PyObject *why = content->reason == NULL ? PyUnicode_FromString("") : PyUnicode_FromFormat(" (%U)", content->reason);
    if (why != NULL) {
        PyErr_Format(
            PyExc_TypeError,
            "fingerprint() argument %zd: cannot read the content of a %.200s object%U; give what it stands for "
            "instead: bytes, an array, a tuple of its fields, a dataclass",
            argument, content->culprit->tp_name, why);
        Py_DECREF(why);
    }
}

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
                raise_no_content(&content, i + 1);
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
