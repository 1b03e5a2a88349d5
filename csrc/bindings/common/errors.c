/* errors.c: status to exception. Every status of base/status.h is listed; tests/python/test_csource.py checks it. */
#include "bindings/common/errors.h"

static PyObject *
exception_for(pfo_status status)
{
    switch (status) {
    case PFO_NO_MEMORY:
        return PyExc_MemoryError;
    case PFO_BAD_ARGUMENT:
        return PyExc_ValueError;
    case PFO_BAD_TYPE:
        return PyExc_TypeError;
    case PFO_OVERFLOW:
        return PyExc_OverflowError;
    case PFO_UNAVAILABLE:
        return PyExc_NotImplementedError;
    case PFO_IO:
        return PyExc_OSError;
    case PFO_STATE:
    case PFO_DEVICE:
    case PFO_INTERRUPTED:
        return PyExc_RuntimeError;
    case PFO_OK:
    case PFO_STATUS_COUNT:
        break;
    }
    return PyExc_SystemError;
}

PyObject *
pfo_raise(pfo_status status, const pfo_error *err)
{
    if (status == PFO_INTERRUPTED && PyErr_Occurred()) {
        return NULL;
    }
    const char *text = err != NULL && err->text[0] != '\0' ? err->text : pfo_status_text(status);
    PyErr_SetString(exception_for(status), text);
    return NULL;
}
