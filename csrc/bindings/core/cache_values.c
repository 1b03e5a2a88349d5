/* cache_values.c: see cache_values.h. perfopt._values knows NumPy and torch; this file only knows when to ask it. */
#include "bindings/core/cache_values.h"

#include "bindings/core/key.h"

PyObject *
pfo_bound_object(uint64_t bound)
{
    if (bound == PFO_STORE_UNBOUNDED) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(bound);
}

/* *slot = <module>.<name>, imported on first use. */
static PyObject *
python_function(PyObject **slot, const char *module_name, const char *name)
{
    if (*slot == NULL) {
        PyObject *module = PyImport_ImportModule(module_name);
        PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, name);
        Py_XDECREF(module);
        if (function == NULL) {
            return NULL;
        }
        Py_XSETREF(*slot, function);
    }
    return *slot;
}

enum { PLAIN_TUPLE_SIZE = 16 }; /* larger ones are worth a walk in Python */

int
pfo_value_is_plain_tuple(PyObject *value)
{
    if (PyTuple_GET_SIZE(value) > PLAIN_TUPLE_SIZE) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); i++) {
        if (!pfo_value_is_scalar(PyTuple_GET_ITEM(value, i))) {
            return 0;
        }
    }
    return 1;
}

PyObject *
pfo_value_prepare(pfo_core_state *state, PyObject *value, int private_copy, PyObject **guard)
{
    *guard = NULL;
    if (pfo_value_is_plain(value)) {
        return Py_NewRef(value);
    }
    PyObject *function = python_function(&state->values_prepare, "perfopt._values", "prepare_value");
    PyObject *pair = function == NULL
                         ? NULL
                         : PyObject_CallFunctionObjArgs(function, value, private_copy ? Py_True : Py_False, NULL);
    if (pair == NULL) {
        return NULL;
    }
    if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
        Py_DECREF(pair);
        PyErr_SetString(PyExc_SystemError, "perfopt._values.prepare_value() must return (value, guard)");
        return NULL;
    }
    PyObject *kept = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
    if (PyTuple_GET_ITEM(pair, 1) != Py_None) {
        *guard = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    }
    Py_DECREF(pair);
    return kept;
}

PyObject *
pfo_value_copy(pfo_core_state *state, PyObject *value)
{
    if (pfo_value_is_plain(value)) {
        return Py_NewRef(value);
    }
    PyObject *function = python_function(&state->values_copy, "perfopt._values", "copy_value");
    return function == NULL ? NULL : PyObject_CallOneArg(function, value);
}

/* guard: (tensor, version, tensor, version, ...) */
int
pfo_value_guard_holds(pfo_core_state *state, PyObject *guard)
{
    for (Py_ssize_t i = 0; i + 1 < PyTuple_GET_SIZE(guard); i += 2) {
        PyObject *version = PyObject_GetAttr(PyTuple_GET_ITEM(guard, i), state->name_version);
        if (version == NULL) {
            return -1;
        }
        const int same = PyObject_RichCompareBool(version, PyTuple_GET_ITEM(guard, i + 1), Py_EQ);
        Py_DECREF(version);
        if (same != 1) {
            return same;
        }
    }
    return 1;
}

int
pfo_value_bytes(pfo_core_state *state, PyObject *value, size_t *bytes)
{
    if (PyUnicode_CheckExact(value)) {
        *bytes = (size_t)PyUnicode_GET_LENGTH(value) * (size_t)PyUnicode_KIND(value);
        return 0;
    }
    if (PyBytes_CheckExact(value)) {
        *bytes = (size_t)PyBytes_GET_SIZE(value);
        return 0;
    }
    if (value == Py_None || PyFloat_CheckExact(value) || PyBool_Check(value) || PyComplex_CheckExact(value)) {
        *bytes = (size_t)Py_TYPE(value)->tp_basicsize;
        return 0;
    }
    if (PyLong_CheckExact(value)) {
        int overflow;
        const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow == 0) {
            const int digits = number > -(1LL << 30) && number < 1LL << 30 ? 1 : 3; /* of 30 bits */
            *bytes = (size_t)PyLong_Type.tp_basicsize + (size_t)digits * (size_t)PyLong_Type.tp_itemsize;
            return 0;
        }
    }
    PyObject *function = python_function(&state->sizes_measure, "perfopt._sizes", "measure");
    PyObject *number = function == NULL ? NULL : PyObject_CallOneArg(function, value);
    if (number == NULL) {
        return -1;
    }
    *bytes = PyLong_AsSize_t(number);
    Py_DECREF(number);
    return *bytes == (size_t)-1 && PyErr_Occurred() ? -1 : 0;
}

int
pfo_visit_store(const pfo_store *store, visitproc visit, void *arg)
{
    for (uint32_t slot = 0; slot < store->table.used_slots; slot++) {
        const pfo_entry *entry =
            &store->table.entries[slot]; /* free slots hold NULLs, waiting victims still own theirs */
        const int stop = pfo_key_visit(entry->key, visit, arg);
        if (stop != 0) {
            return stop;
        }
        Py_VISIT((PyObject *)entry->value);
        Py_VISIT((PyObject *)entry->guard);
    }
    return 0;
}

void
pfo_disown_keys(pfo_store *store)
{
    for (uint32_t slot = 0; slot < store->table.used_slots; slot++) {
        pfo_key_disown(store->table.entries[slot].key);
    }
}
