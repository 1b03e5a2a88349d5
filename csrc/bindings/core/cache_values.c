/* cache_values.c: see cache_values.h. perfopt._values knows NumPy and torch; this file only knows when to ask it. */
#include "bindings/core/cache_values.h"

#include "bindings/core/key.h"

int
pfo_parse_max_size(PyObject *object, uint64_t *max_entries)
{
    if (object == NULL || object == Py_None) {
        *max_entries = PFO_STORE_UNBOUNDED;
        return 0;
    }
    if (!PyLong_Check(object) || PyBool_Check(object)) {
        PyErr_Format(PyExc_TypeError, "max_size must be an int or None, not %.200s", Py_TYPE(object)->tp_name);
        return -1;
    }
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow < 0 || (overflow == 0 && number < 0)) {
        PyErr_Format(PyExc_ValueError, "max_size must be at least 0 (or None for no bound), not %S", object);
        return -1;
    }
    *max_entries = overflow > 0 ? PFO_STORE_UNBOUNDED : (uint64_t)number;
    return 0;
}

PyObject *
pfo_max_size_object(const pfo_store *store)
{
    if (store->bounds.max_entries == PFO_STORE_UNBOUNDED) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(store->bounds.max_entries);
}

/* *slot = perfopt._values.<name>, imported on first use. */
static PyObject *
values_function(PyObject **slot, const char *name)
{
    if (*slot == NULL) {
        PyObject *module = PyImport_ImportModule("perfopt._values");
        PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, name);
        Py_XDECREF(module);
        if (function == NULL) {
            return NULL;
        }
        Py_XSETREF(*slot, function);
    }
    return *slot;
}

static int
is_immutable_scalar(PyObject *value)
{
    return value == Py_None || PyLong_CheckExact(value) || PyUnicode_CheckExact(value) || PyFloat_CheckExact(value) ||
           PyBool_Check(value) || PyBytes_CheckExact(value) || PyComplex_CheckExact(value);
}

PyObject *
pfo_value_prepare(pfo_core_state *state, PyObject *value, int private_copy, PyObject **guard)
{
    *guard = NULL;
    if (is_immutable_scalar(value)) {
        return Py_NewRef(value);
    }
    PyObject *function = values_function(&state->values_prepare, "prepare_value");
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
    if (is_immutable_scalar(value)) {
        return Py_NewRef(value);
    }
    PyObject *function = values_function(&state->values_copy, "copy_value");
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

void
pfo_release_victims(pfo_store *store)
{
    pfo_victim victim;
    while (pfo_store_take_victim(store, &victim)) {
        pfo_key_release(victim.key);
        Py_XDECREF((PyObject *)victim.value);
        Py_XDECREF((PyObject *)victim.guard);
    }
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
pfo_release_store(pfo_store *store)
{
    for (uint32_t slot = 0; slot < store->table.used_slots; slot++) {
        pfo_key_disown(store->table.entries[slot].key);
    }
    pfo_store_clear(store);
    pfo_release_victims(store);
    pfo_store_free(store);
}
