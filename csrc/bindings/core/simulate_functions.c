/* simulate_functions.c: perfopt._core.simulate() for `perfopt cache simulate`, and simulate_operations() for the tests of the policies.
 *
 * The GIL is released while a chunk is replayed; the simulation belongs to one call. No user code runs while it is in use but read().
 */
#include "bindings/common/dicts.h"
#include "bindings/common/errors.h"
#include "bindings/core/core_state.h"

#include "cache/simulate.h"

static const pfo_policy_ops *
policy_named(const char *name)
{
    const pfo_policy_ops *ops = pfo_policy_by_name(name);
    if (ops == NULL) {
        char accepted[200] = "";
        for (const char *const *known = pfo_policy_names; *known != NULL; known++) {
            (void)strncat(accepted, accepted[0] == '\0' ? "" : ", ", sizeof accepted - strlen(accepted) - 1);
            (void)strncat(accepted, *known, sizeof accepted - strlen(accepted) - 1);
        }
        PyErr_Format(PyExc_ValueError, "policy is '%.100s'; accepted: %s", name, accepted);
    }
    return ops;
}

/* None is unbounded. 0, or -1 with an exception. */
static int
bound_from(PyObject *given, uint64_t *bound)
{
    if (given == Py_None) {
        *bound = PFO_STORE_UNBOUNDED;
        return 0;
    }
    const unsigned long long number = PyLong_AsUnsignedLongLong(given);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) {
        return -1;
    }
    *bound = number;
    return 0;
}

PyDoc_STRVAR(policy_names_doc,
             "policy_names()\n--\n\nThe names of all eviction policies, in the order of the documentation.");

static PyObject *
policy_names(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *names = PyList_New(0);
    for (const char *const *name = pfo_policy_names; names != NULL && *name != NULL; name++) {
        PyObject *text = PyUnicode_FromString(*name);
        if (text == NULL || PyList_Append(names, text) < 0) {
            Py_CLEAR(names);
        }
        Py_XDECREF(text);
    }
    if (names == NULL) {
        return NULL;
    }
    PyObject *tuple = PyList_AsTuple(names);
    Py_DECREF(names);
    return tuple;
}

/* ---- a trace --------------------------------------------------------------------------------- */

static int
add_caches(pfo_simulation *simulation, PyObject *caches)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(caches); i++) {
        const char *name;
        PyObject *max_entries;
        PyObject *max_bytes;
        pfo_bounds bounds;
        PyObject *cache = PyTuple_GET_ITEM(caches, i);
        if (!PyTuple_Check(cache)) {
            PyErr_Format(PyExc_TypeError, "caches[%zd] must be a tuple (policy, max_entries, max_bytes), not %.100s", i,
                         Py_TYPE(cache)->tp_name);
            return -1;
        }
        if (!PyArg_ParseTuple(cache, "sOO:simulate", &name, &max_entries, &max_bytes) ||
            bound_from(max_entries, &bounds.max_entries) < 0 || bound_from(max_bytes, &bounds.max_bytes) < 0) {
            return -1;
        }
        const pfo_policy_ops *ops = policy_named(name);
        if (ops == NULL) {
            return -1;
        }
        pfo_error err = PFO_ERROR_INIT;
        const pfo_status status = pfo_simulation_add(simulation, ops, &bounds, &err);
        if (status != PFO_OK) {
            (void)pfo_raise(status, &err);
            return -1;
        }
    }
    return 0;
}

/* 1 fed, 0 at the end, -1 with an exception. */
static int
feed_chunk(pfo_simulation *simulation, PyObject *read)
{
    PyObject *chunk = PyObject_CallNoArgs(read);
    if (chunk == NULL) {
        return -1;
    }
    char *text;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(chunk, &text, &length) < 0) {
        Py_DECREF(chunk);
        return -1;
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = length == 0 ? pfo_simulation_finish(simulation, &err)
                         : pfo_simulation_feed(simulation, text, (size_t)length, &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(chunk);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return length > 0;
}

static PyObject *
result_of(const pfo_simulation *simulation, const pfo_simulated *cache)
{
    PyObject *result = PyDict_New();
    if (result != NULL &&
        (pfo_dict_set_steal(result, "requests", PyLong_FromUnsignedLongLong(simulation->requests)) < 0 ||
         pfo_dict_set_steal(result, "hits", PyLong_FromUnsignedLongLong(cache->hits)) < 0 ||
         pfo_dict_set_steal(result, "misses", PyLong_FromUnsignedLongLong(cache->misses)) < 0 ||
         pfo_dict_set_steal(result, "bytes_requested", PyLong_FromUnsignedLongLong(simulation->bytes_requested)) < 0 ||
         pfo_dict_set_steal(result, "bytes_missed", PyLong_FromUnsignedLongLong(cache->bytes_missed)) < 0 ||
         pfo_dict_set_steal(result, "evictions", PyLong_FromUnsignedLongLong(cache->cache.evictions)) < 0)) {
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
results_of(const pfo_simulation *simulation)
{
    PyObject *results = PyList_New((Py_ssize_t)simulation->count);
    for (size_t i = 0; results != NULL && i < simulation->count; i++) {
        PyObject *result = result_of(simulation, &simulation->caches[i]);
        if (result == NULL) {
            Py_CLEAR(results);
        } else {
            PyList_SET_ITEM(results, (Py_ssize_t)i, result);
        }
    }
    return results;
}

PyDoc_STRVAR(
    simulate_doc,
    "simulate(read, caches, /)\n--\n\n"
    "Replays a trace on simulated caches and counts exactly, in constant memory besides the caches.\n\n"
    "read: called until it returns b\"\"; gives the next bytes of the trace, cut anywhere. One request a line,\n"
    "``key`` or ``key,size``, size in bytes, 1 without one; keys are hashed with XXH3.\n"
    "caches: a tuple of (policy, max_entries, max_bytes), None for no bound.\n"
    "Returns a list of dicts of ints, one for each cache: requests, hits, misses, bytes_requested, bytes_missed,\n"
    "evictions. Raises ValueError for an unknown policy, and for a bad line with its number.");

static PyObject *
simulate(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *read;
    PyObject *caches;
    if (!PyArg_ParseTuple(args, "OO!:simulate", &read, &PyTuple_Type, &caches)) {
        return NULL;
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_simulation simulation;
    const pfo_status status = pfo_simulation_init(&simulation, (size_t)PyTuple_GET_SIZE(caches), &err);
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    PyObject *results = NULL;
    if (add_caches(&simulation, caches) == 0) {
        int fed;
        do {
            fed = feed_chunk(&simulation, read);
        } while (fed > 0);
        results = fed == 0 ? results_of(&simulation) : NULL;
    }
    pfo_simulation_free(&simulation);
    return results;
}

/* ---- operations, for the tests --------------------------------------------------------------- */

typedef struct replay {
    pfo_shadow cache;
    PyObject *evicted; /* of the operation under way; NULL after a failure, with an exception */
} replay;

static void
note_eviction(void *context, uint64_t hash)
{
    replay *self = context;
    PyObject *number = self->evicted == NULL ? NULL : PyLong_FromUnsignedLongLong(hash);
    if (number == NULL || PyList_Append(self->evicted, number) < 0) {
        Py_CLEAR(self->evicted);
    }
    Py_XDECREF(number);
}

/* One operation's answer: a request's or a deletion's hit, else 0; -1 with an exception. */
static int
operate(replay *self, const char *name, PyObject *first, PyObject *second)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status = PFO_OK;
    int hit = 0;
    uint64_t a;
    uint64_t b;
    if (bound_from(first, &a) < 0 || bound_from(second, &b) < 0) {
        return -1;
    }
    if (strcmp(name, "request") == 0) {
        status = pfo_shadow_request(&self->cache, a, (size_t)b, &hit, &err);
    } else if (strcmp(name, "set") == 0) {
        status = pfo_shadow_set(&self->cache, a, (size_t)b, &err);
    } else if (strcmp(name, "delete") == 0) {
        hit = pfo_shadow_delete(&self->cache, a);
    } else if (strcmp(name, "resize") == 0) {
        status = pfo_shadow_resize(&self->cache, &(pfo_bounds){ a, b }, &err);
    } else if (strcmp(name, "clear") == 0) {
        pfo_shadow_clear(&self->cache);
    } else {
        PyErr_Format(PyExc_ValueError, "operation is '%.100s'; accepted: request, set, delete, resize, clear", name);
        return -1;
    }
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    if (self->evicted != NULL && !pfo_shadow_is_consistent(&self->cache)) {
        PyErr_SetString(PyExc_AssertionError, "the simulated cache is not consistent");
        return -1;
    }
    return self->evicted == NULL ? -1 : hit;
}

/* New reference: (hit, [evicted]). */
static PyObject *
answer_operation(replay *self, PyObject *operation)
{
    const char *name;
    PyObject *first = Py_None;
    PyObject *second = Py_None;
    if (!PyTuple_Check(operation)) {
        PyErr_SetString(PyExc_TypeError, "an operation must be a tuple (name, ...)");
        return NULL;
    }
    if (!PyArg_ParseTuple(operation, "s|OO", &name, &first, &second)) {
        return NULL;
    }
    self->evicted = PyList_New(0);
    const int hit = self->evicted == NULL ? -1 : operate(self, name, first, second);
    PyObject *answer = hit < 0 ? NULL : Py_BuildValue("(OO)", hit ? Py_True : Py_False, self->evicted);
    Py_CLEAR(self->evicted);
    return answer;
}

PyDoc_STRVAR(
    simulate_operations_doc,
    "simulate_operations(policy, max_entries, max_bytes, operations, /)\n--\n\n"
    "Runs operations on one simulated cache and says after each what it evicted (internal, for tests).\n\n"
    "operations: a list of tuples: (\"request\", hash, size) looks up and brings in, (\"set\", hash, size), "
    "(\"delete\", hash),\n"
    "(\"resize\", max_entries, max_bytes), (\"clear\",); None is no bound. Returns a list of (hit, [evicted hashes]).\n"
    "Raises AssertionError when the structure is not whole after an operation, ValueError for an unknown name.");

static PyObject *
simulate_operations(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    PyObject *max_entries;
    PyObject *max_bytes;
    PyObject *operations;
    pfo_bounds bounds;
    if (!PyArg_ParseTuple(args, "sOOO!:simulate_operations", &name, &max_entries, &max_bytes, &PyList_Type,
                          &operations) ||
        bound_from(max_entries, &bounds.max_entries) < 0 || bound_from(max_bytes, &bounds.max_bytes) < 0) {
        return NULL;
    }
    const pfo_policy_ops *ops = policy_named(name);
    if (ops == NULL) {
        return NULL;
    }
    replay self = { .evicted = NULL };
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_shadow_init(&self.cache, ops, &bounds, &err);
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    self.cache.evicted = note_eviction;
    self.cache.context = &self;
    PyObject *answers = PyList_New(0);
    for (Py_ssize_t i = 0; answers != NULL && i < PyList_GET_SIZE(operations); i++) {
        PyObject *operation = PyList_GET_ITEM(operations, i);
        Py_INCREF(operation); /* a garbage collection may change the list */
        PyObject *answer = answer_operation(&self, operation);
        Py_DECREF(operation);
        if (answer == NULL || PyList_Append(answers, answer) < 0) {
            Py_CLEAR(answers);
        }
        Py_XDECREF(answer);
    }
    self.cache.evicted = NULL;
    pfo_shadow_free(&self.cache);
    return answers;
}

PyMethodDef pfo_simulate_functions[] = {
    { "policy_names", policy_names, METH_NOARGS, policy_names_doc },
    { "simulate", simulate, METH_VARARGS, simulate_doc },
    { "simulate_operations", simulate_operations, METH_VARARGS, simulate_operations_doc },
    { NULL, NULL, 0, NULL },
};
