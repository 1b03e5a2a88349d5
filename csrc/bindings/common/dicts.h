/* dicts.h: the two steps in which C figures become entries of a Python dict. Both need the GIL. */
#ifndef PFO_BINDINGS_DICTS_H
#define PFO_BINDINGS_DICTS_H

#include <Python.h>

#include <stdint.h>

/* New reference: value as an int, or None for a value below 0 ("unknown"). NULL with an exception without memory. */
static inline PyObject *
pfo_int_or_none(int64_t value)
{
    if (value < 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLongLong(value);
}

/* dict[name] = value; takes the reference to value, which may be NULL with an exception set. 0, or -1 with an
 * exception. */
static inline int
pfo_dict_set_steal(PyObject *dict, const char *name, PyObject *value)
{
    const int result = value == NULL ? -1 : PyDict_SetItemString(dict, name, value);
    Py_XDECREF(value);
    return result;
}

#endif
