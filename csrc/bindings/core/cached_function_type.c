/* cached_function_type.c: CachedFunction: a function with its cache, callable without a Python frame on a hit.
 *
 * Call: key and hash once -> table probe -> policy touch -> new reference. A miss calls the function with no search in progress, then
 * searches again, because the call may have filled the entry (recursion, another thread); what is there first stays.
 * Invariants: user code (the function, __eq__, __hash__, __del__) only runs while the store is consistent; victims are released last.
 * References: owns function, the glue objects, and through the store keys, values and guards.
 * Threads: the GIL serialises; it may change hands wherever user code runs.
 */
#include "bindings/common/errors.h"
#include "bindings/core/cache_options.h"
#include "bindings/core/cache_values.h"
#include "bindings/core/key.h"

#include <structmember.h>

enum { MAX_BOUND_NAMES = 64 };

typedef struct cached_function {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    pfo_core_state *state;
    pfo_store store;
    PyObject *function;
    PyObject *key_function; /* NULL, or called with the arguments to give the key */
    PyObject *names;        /* NULL, or the parameter names, by which keyword and positional spelling become one */
    PyObject *ignored;      /* frozenset of parameter names that are no part of the key, or NULL */
    PyObject *info_type;
    PyObject *parameters;
    PyObject *owners; /* list of weak references to the classes it is a method of; NULL with is_method: of any */
    PyObject *dict;
    PyObject *weak_references;
    uint64_t ignored_slots; /* bit i: parameter i is ignored */
    Py_ssize_t positional;  /* how many of names may be given by position */
    Py_ssize_t positional_only;
    int fast_single; /* one exact int or str by position is its own key */
    int is_method;
    int copies;
    int closed; /* tp_clear has run: nothing is kept any more */
} cached_function;

typedef struct call_arguments {
    PyObject *const *args;
    size_t nargsf;
    PyObject *kwnames;
} call_arguments;

/* ---- key of a call --------------------------------------------------------------------------- */

static PyObject *
name_of_function(const cached_function *self)
{
    PyObject *name = PyObject_GetAttrString(self->function, "__qualname__");
    if (name == NULL || !PyUnicode_Check(name)) { /* a callable may answer with anything */
        PyErr_Clear();
        Py_XDECREF(name);
        name = PyObject_Str((PyObject *)Py_TYPE(self->function));
    }
    return name;
}

/* The class of a weak reference, borrowed and only good for comparing; NULL when it is gone. */
static PyTypeObject *
living_owner(PyObject *reference)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *owner;
    if (PyWeakref_GetRef(reference, &owner) <= 0) {
        return NULL;
    }
    Py_DECREF(owner);
#else
    PyObject *owner = PyWeakref_GetObject(reference);
#endif
    return PyType_Check(owner) ? (PyTypeObject *)owner : NULL;
}

/* Whether this first argument is the instance of a method. A function that is also an attribute of some class goes on
 * taking other first arguments, and those count by content. */
static int
is_instance(const cached_function *self, PyObject *first)
{
    if (!self->is_method || self->owners == NULL) {
        return self->is_method;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(self->owners); i++) {
        PyTypeObject *owner = living_owner(PyList_GET_ITEM(self->owners, i));
        if (owner != NULL && PyType_IsSubtype(Py_TYPE(first), owner)) {
            return 1;
        }
    }
    return 0;
}

/* TypeError for an argument that cannot be keyed. parameter: its name, or NULL and its position. */
static void
raise_cannot_key(const cached_function *self, const pfo_key_builder *builder, PyObject *parameter, Py_ssize_t position,
                 int instance)
{
    PyObject *name = name_of_function(self);
    PyObject *which =
        parameter != NULL ? PyUnicode_FromFormat("%R", parameter) : PyUnicode_FromFormat("%zd", position + 1);
    if (name != NULL && which != NULL) {
        const char *type = builder->culprit->tp_name;
        if (instance) {
            PyErr_Format(PyExc_TypeError,
                         "%U(): the instance of type %.200s cannot be weakly referenced; add '__weakref__' to its "
                         "__slots__, or pass "
                         "key= to cache_result",
                         name, type);
        } else {
            PyErr_Format(PyExc_TypeError,
                         "%U(): argument %U cannot be part of a cache key: a %.200s object is neither hashable nor of "
                         "a type whose "
                         "content can be read; pass key= (a function of the arguments) or ignore= (parameter names) to "
                         "cache_result",
                         name, which, type);
        }
    }
    Py_XDECREF(name);
    Py_XDECREF(which);
}

/* Index of a parameter name from first on; -1 if there is none, -2 on error. */
static Py_ssize_t
index_of_name(PyObject *names, PyObject *name, Py_ssize_t first)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = first; i < count; i++) {
        if (PyTuple_GET_ITEM(names, i) == name) {
            return i;
        }
    }
    for (Py_ssize_t i = first; i < count; i++) { /* a name that was not interned */
        const int same = PyUnicode_Compare(PyTuple_GET_ITEM(names, i), name);
        if (same == 0 || PyErr_Occurred()) {
            return same == 0 ? i : -2;
        }
    }
    return -1;
}

/* Arguments by parameter. 1 if they do not fit the parameters: then the function itself raises the TypeError. */
static int
bind_by_name(const cached_function *self, const call_arguments *call, PyObject **slots, Py_ssize_t *used)
{
    const Py_ssize_t nargs = PyVectorcall_NARGS(call->nargsf);
    const Py_ssize_t nkeywords = call->kwnames == NULL ? 0 : PyTuple_GET_SIZE(call->kwnames);
    if (nargs > self->positional) {
        return 1;
    }
    *used = nargs;
    for (Py_ssize_t i = 0; i < nargs; i++) {
        slots[i] = call->args[i];
    }
    if (nkeywords == 0) {
        return 0;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(self->names);
    for (Py_ssize_t i = nargs; i < count; i++) {
        slots[i] = NULL;
    }
    for (Py_ssize_t i = 0; i < nkeywords; i++) {
        const Py_ssize_t at = index_of_name(self->names, PyTuple_GET_ITEM(call->kwnames, i), self->positional_only);
        if (at < 0 || (at < nargs) || slots[at] != NULL) {
            return at == -2 ? -1 : 1;
        }
        slots[at] = call->args[nargs + i];
        *used = at >= *used ? at + 1 : *used;
    }
    return 0;
}

static int
add_argument(const cached_function *self, pfo_key_builder *builder, PyObject *object, PyObject *name,
             Py_ssize_t position)
{
    const int instance = position == 0 && is_instance(self, object);
    const int answer = instance ? pfo_key_add_instance(builder, object) : pfo_key_add(builder, object);
    if (answer > 0) {
        raise_cannot_key(self, builder, name, position, instance);
        return -1;
    }
    return answer;
}

static int
key_by_name(const cached_function *self, pfo_key_builder *builder, const call_arguments *call)
{
    PyObject *slots[MAX_BOUND_NAMES];
    Py_ssize_t used = 0;
    const int bound = bind_by_name(self, call, slots, &used);
    if (bound != 0) {
        return bound;
    }
    uint64_t gap = 0; /* parameters left out since the last one that counts; those at the end leave no trace */
    for (Py_ssize_t i = 0; i < used; i++) {
        if (slots[i] == NULL || (self->ignored_slots >> i & 1) != 0) {
            gap++;
            continue;
        }
        if ((gap > 0 && pfo_key_add_mark(builder, '-', gap) < 0) ||
            add_argument(self, builder, slots[i], PyTuple_GET_ITEM(self->names, i), i) < 0) {
            return -1;
        }
        gap = 0;
    }
    return 0;
}

/* Keywords in the order of their names, so that the order they are written in does not matter. */
static int
add_keywords(const cached_function *self, pfo_key_builder *builder, const call_arguments *call, Py_ssize_t nargs)
{
    PyObject *sorted = PySequence_List(call->kwnames);
    if (sorted == NULL || PyList_Sort(sorted) < 0) {
        Py_XDECREF(sorted);
        return -1;
    }
    int answer = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(sorted) && answer == 0; i++) {
        PyObject *name = PyList_GET_ITEM(sorted, i);
        const int skipped = self->ignored == NULL ? 0 : PySet_Contains(self->ignored, name);
        if (skipped != 0) {
            answer = skipped < 0 ? -1 : 0;
            continue;
        }
        const Py_ssize_t at = index_of_name(call->kwnames, name, 0);
        answer = pfo_key_add_mark(builder, '=', 0);
        answer = answer == 0 ? pfo_key_add(builder, name) : answer;
        answer = answer == 0 ? add_argument(self, builder, call->args[nargs + at], name, nargs + at) : answer;
    }
    Py_DECREF(sorted);
    return answer;
}

static int
key_by_position(const cached_function *self, pfo_key_builder *builder, const call_arguments *call)
{
    const Py_ssize_t nargs = PyVectorcall_NARGS(call->nargsf);
    for (Py_ssize_t i = 0; i < nargs; i++) {
        if (add_argument(self, builder, call->args[i], NULL, i) < 0) {
            return -1;
        }
    }
    if (call->kwnames == NULL || PyTuple_GET_SIZE(call->kwnames) == 0) {
        return 0;
    }
    return add_keywords(self, builder, call, nargs);
}

static int
key_by_function(const cached_function *self, pfo_key_builder *builder, const call_arguments *call)
{
    call_arguments rest = *call;
    if (PyVectorcall_NARGS(call->nargsf) > 0 &&
        is_instance(self, call->args[0])) { /* the function gets what the user wrote; the instance counts by itself */
        if (add_argument(self, builder, call->args[0], NULL, 0) < 0) {
            return -1;
        }
        rest.args = call->args + 1;
        rest.nargsf = (size_t)PyVectorcall_NARGS(call->nargsf) - 1;
    }
    PyObject *key =
        PyObject_Vectorcall(self->key_function, rest.args, rest.nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, rest.kwnames);
    if (key == NULL) {
        return -1;
    }
    const int answer = pfo_key_add(builder, key);
    if (answer > 0) {
        PyErr_Format(PyExc_TypeError, "key= returned a %.200s object, which cannot be part of a cache key",
                     builder->culprit->tp_name);
    }
    Py_DECREF(key);
    return answer == 0 ? 0 : -1;
}

/* 0: the builder is finished; 1: the call does not fit the function's parameters; -1 exception. */
static int
build_key(const cached_function *self, pfo_key_builder *builder, const call_arguments *call)
{
    int answer;
    if (self->is_method && self->owners == NULL && PyVectorcall_NARGS(call->nargsf) == 0) {
        return 1;
    }
    if (self->key_function != NULL) {
        answer = key_by_function(self, builder, call);
    } else if (self->names != NULL) {
        answer = key_by_name(self, builder, call);
    } else {
        answer = key_by_position(self, builder, call);
    }
    if (answer == 0) {
        pfo_key_finish(builder);
    }
    return answer;
}

/* ---- search and insertion -------------------------------------------------------------------- */

/* Releases what left the store; keeps an exception that is set. Runs user code. */
static void
release_victims(pfo_store *store)
{
    pfo_victim victim;
    while (pfo_store_take_victim(store, &victim)) {
        pfo_key_release(victim.key);
        Py_DECREF((PyObject *)victim.value);
        Py_XDECREF((PyObject *)victim.guard);
    }
}

/* Slot, PFO_SLOT_NONE, or PFO_SLOT_FAILED with an exception. */
static uint32_t
find(const cached_function *self, const pfo_key_builder *builder)
{
    int exhausted;
    const uint32_t slot = pfo_table_find(&self->store.table, builder->hash, builder, pfo_key_equal, NULL, &exhausted);
    if (slot == PFO_SLOT_FAILED && exhausted) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the cache changed during every comparison of a key (does __eq__ use this cache?)");
    }
    return slot;
}

/* The value of a live slot for a caller: counts the hit. *valid = 0 and NULL when its guard no longer holds: the entry is then
 * gone. NULL and *valid = 1: exception. */
static PyObject *
take_hit(cached_function *self, uint32_t slot, int *valid)
{
    const pfo_entry *entry = &self->store.table.entries[slot];
    PyObject *value = Py_NewRef((PyObject *)entry->value);
    *valid = 1;
    if (entry->guard != NULL) {
        PyObject *guard = Py_NewRef((PyObject *)entry->guard);
        void *key = entry->key;
        const uint64_t hash = entry->hash;
        const int holds = pfo_value_guard_holds(self->state, guard);
        slot = pfo_table_find_identity(&self->store.table, hash, key); /* the guard's check may have run other code */
        if (holds == 0 && slot != PFO_SLOT_NONE && self->store.table.entries[slot].guard == guard) {
            pfo_store_remove(&self->store, slot, PFO_LEAVE_INVALID);
        }
        Py_DECREF(guard);
        if (holds != 1) {
            *valid = holds != 0;
            Py_DECREF(value);
            release_victims(&self->store);
            return NULL;
        }
    }
    if (slot != PFO_SLOT_NONE) {
        pfo_store_hit(&self->store, slot);
    }
    if (self->copies) {
        Py_SETREF(value, pfo_value_copy(self->state, value));
    }
    return value;
}

static void
drop_orphan(PyObject *owner, uint64_t hash, void *key)
{
    cached_function *self = (cached_function *)owner;
    const uint32_t slot = pfo_table_find_identity(&self->store.table, hash, key);
    if (slot != PFO_SLOT_NONE) {
        pfo_store_remove(&self->store, slot, PFO_LEAVE_INVALID);
        release_victims(&self->store);
    }
}

/* Keeps a fresh result (steals it) under the builder's key; returns what the caller of the function gets. */
static PyObject *
keep_result(cached_function *self, const pfo_key_builder *builder, PyObject *result)
{
    if (self->store.bounds.max_entries == 0 || self->closed) {
        return result;
    }
    PyObject *guard;
    PyObject *value = pfo_value_prepare(self->state, result, self->copies, &guard);
    void *key = value == NULL ? NULL : pfo_key_keep(builder, (PyObject *)self, drop_orphan);
    const uint32_t slot = key == NULL ? PFO_SLOT_FAILED : find(self, builder);
    int stored = 0;
    if (slot == PFO_SLOT_NONE) {
        pfo_error err = PFO_ERROR_INIT;
        const pfo_item item = { .hash = builder->hash, .key = key, .value = Py_XNewRef(value), .guard = guard };
        const pfo_status status = pfo_store_insert(&self->store, &item, &stored, &err);
        if (status != PFO_OK) {
            (void)pfo_raise(status, &err);
            Py_CLEAR(result);
        }
        if (!stored) {
            Py_DECREF(value);
        }
    } else if (slot == PFO_SLOT_FAILED) {
        Py_CLEAR(result);
    } else if (self->store.table.entries[slot].guard == NULL && !self->copies) {
        Py_XSETREF(value, Py_NewRef((PyObject *)self->store.table.entries[slot].value)); /* what came first stays */
    }
    if (!stored) {
        pfo_key_release(key);
        Py_XDECREF(guard);
    }
    release_victims(&self->store);
    if (result == NULL || self->copies) {
        Py_XDECREF(value);
        return result;
    }
    Py_DECREF(result);
    return value;
}

static PyObject *
compute(cached_function *self, const pfo_key_builder *builder, const call_arguments *call)
{
    self->store.misses++;
    PyObject *result = PyObject_Vectorcall(self->function, call->args, call->nargsf, call->kwnames);
    return result == NULL ? NULL : keep_result(self, builder, result);
}

static PyObject *
call_by_key(cached_function *self, const call_arguments *call)
{
    pfo_key_builder builder;
    pfo_key_start(&builder, self->state, 1);
    PyObject *result = NULL;
    const int answer = build_key(self, &builder, call);
    if (answer > 0) {
        result = PyObject_Vectorcall(self->function, call->args, call->nargsf, call->kwnames);
    } else if (answer == 0) {
        const uint32_t slot = find(self, &builder);
        int valid = slot != PFO_SLOT_NONE;
        if (valid && slot != PFO_SLOT_FAILED) {
            result = take_hit(self, slot, &valid);
        }
        if (!valid) {
            result = compute(self, &builder, call);
        }
    }
    pfo_key_drop(&builder);
    return result;
}

static PyObject *
cached_function_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    cached_function *self = (cached_function *)op;
    if (self->fast_single && PyVectorcall_NARGS(nargsf) == 1 && kwnames == NULL) {
        PyObject *argument = args[0];
        if (PyLong_CheckExact(argument) || PyUnicode_CheckExact(argument)) {
            const uint64_t hash = (uint64_t)Py_TYPE(argument)->tp_hash(argument);
            const uint32_t slot = pfo_table_find_inline(&self->store.table, hash, argument, pfo_key_equal_simple);
            if (slot != PFO_SLOT_NONE) {
                const pfo_entry *entry = &self->store.table.entries[slot];
                if (entry->checks == 0 && !self->copies) {
                    pfo_store_hit(&self->store, slot);
                    return Py_NewRef((PyObject *)entry->value);
                }
            }
        }
    }
    const call_arguments call = { .args = args, .nargsf = nargsf, .kwnames = kwnames };
    Py_INCREF(op); /* the function may drop the last reference to its own cache */
    PyObject *result = call_by_key(self, &call);
    Py_DECREF(op);
    return result;
}

/* ---- the two halves of a call, for functions whose result comes later (async) ---------------- */

static const char pending_name[] = "perfopt._core.pending_key";

static void
release_pending(PyObject *capsule)
{
    pfo_key_builder *builder = PyCapsule_GetPointer(capsule, pending_name);
    if (builder != NULL) {
        pfo_key_drop(builder);
        PyMem_Free(builder);
    }
}

PyDoc_STRVAR(
    begin_doc,
    "_begin($self, /, *args, **kwargs)\n--\n\n"
    "(True, value) on a hit, else (False, pending key), where the pending key may be None. Internal: async functions.");

static PyObject *
begin(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    cached_function *self = (cached_function *)op;
    const call_arguments call = { .args = args, .nargsf = (size_t)nargs, .kwnames = kwnames };
    pfo_key_builder *builder = PyMem_Malloc(sizeof *builder);
    if (builder == NULL) {
        return PyErr_NoMemory();
    }
    pfo_key_start(builder, self->state, 1);
    PyObject *capsule = PyCapsule_New(builder, pending_name, release_pending);
    if (capsule == NULL) {
        PyMem_Free(builder);
        return NULL;
    }
    PyObject *result = NULL;
    const int answer = build_key(self, builder, &call);
    if (answer > 0) {
        result = Py_BuildValue("(OO)", Py_False, Py_None);
    } else if (answer == 0) {
        const uint32_t slot = find(self, builder);
        int valid = slot != PFO_SLOT_NONE;
        if (valid && slot != PFO_SLOT_FAILED) {
            PyObject *value = take_hit(self, slot, &valid);
            result = value == NULL ? NULL : Py_BuildValue("(ON)", Py_True, value);
        }
        if (!valid) {
            self->store.misses++;
            result = Py_BuildValue("(OO)", Py_False, capsule);
        }
    }
    Py_DECREF(capsule);
    return result;
}

PyDoc_STRVAR(finish_doc,
             "_finish($self, pending, value, /)\n--\n\n"
             "Keeps the value under the pending key and returns what the caller is to get. Internal: async functions.");

static PyObject *
finish(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "_finish() takes a pending key and a value");
        return NULL;
    }
    if (args[0] == Py_None) {
        return Py_NewRef(args[1]);
    }
    const pfo_key_builder *builder = PyCapsule_GetPointer(args[0], pending_name);
    return builder == NULL ? NULL : keep_result((cached_function *)op, builder, Py_NewRef(args[1]));
}

/* ---- making one ------------------------------------------------------------------------------ */

static int
set_names(cached_function *self, PyObject *names, PyObject *ignored)
{
    if (names != Py_None && PyTuple_GET_SIZE(names) <= MAX_BOUND_NAMES) {
        self->names = Py_NewRef(names);
    }
    if (ignored == Py_None) {
        return 0;
    }
    self->ignored = PyFrozenSet_New(ignored);
    if (self->ignored == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; self->names != NULL && i < PyTuple_GET_SIZE(self->names); i++) {
        const int found = PySet_Contains(self->ignored, PyTuple_GET_ITEM(self->names, i));
        if (found < 0) {
            return -1;
        }
        self->ignored_slots |= (uint64_t)found << i;
    }
    return 0;
}

PyDoc_STRVAR(cached_function_doc, "CachedFunction(function, /, *, max_size, names, positional, positional_only, "
                                  "ignored, key, copies, info_type, parameters)\n"
                                  "--\n\n"
                                  "A function with its cache; made by perfopt.cache_result(), which documents it.");

static PyObject *
cached_function_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static const char *const words[] = { "",        "max_size", "names",  "positional", "positional_only",
                                         "ignored", "key",      "copies", "info_type",  "parameters",
                                         NULL };
    PyObject *function, *max_size, *names, *ignored, *key, *info_type, *parameters;
    Py_ssize_t positional, positional_only;
    int copies;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$OOnnOOpOO:CachedFunction", (char **)(uintptr_t)words, &function,
                                     &max_size, &names, &positional, &positional_only, &ignored, &key, &copies,
                                     &info_type, &parameters)) {
        return NULL;
    }
    if (!PyCallable_Check(function)) {
        PyErr_Format(PyExc_TypeError, "function must be callable, not %.200s", Py_TYPE(function)->tp_name);
        return NULL;
    }
    if (names != Py_None && !PyTuple_CheckExact(names)) {
        PyErr_Format(PyExc_TypeError, "names must be a tuple or None, not %.200s", Py_TYPE(names)->tp_name);
        return NULL;
    }
    if (positional_only < 0 || positional < positional_only ||
        positional > (names == Py_None ? 0 : PyTuple_GET_SIZE(names))) {
        PyErr_SetString(PyExc_ValueError,
                        "positional_only, positional and the number of names must not descend from 0");
        return NULL;
    }
    uint64_t max_entries;
    pfo_core_state *state = pfo_core_state_of_type(type);
    if (state == NULL || pfo_parse_bound(max_size, "max_size", &max_entries) < 0) {
        return NULL;
    }
    cached_function *self = (cached_function *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    const pfo_bounds bounds = { .max_entries = max_entries, .max_bytes = PFO_STORE_UNBOUNDED };
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_store_init(&self->store, &pfo_policy_lru, &bounds, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        Py_DECREF(self);
        return NULL;
    }
    self->state = state;
    self->vectorcall = cached_function_call;
    self->function = Py_NewRef(function);
    self->key_function = key == Py_None ? NULL : Py_NewRef(key);
    self->info_type = Py_NewRef(info_type);
    self->parameters = Py_NewRef(parameters);
    self->positional = positional;
    self->positional_only = positional_only;
    self->copies = copies;
    if (set_names(self, names, ignored) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->fast_single =
        self->key_function == NULL && (self->ignored_slots & 1) == 0 && (self->names == NULL || self->positional > 0);
    return (PyObject *)self;
}

static int
cached_function_traverse(PyObject *op, visitproc visit, void *arg)
{
    cached_function *self = (cached_function *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->function);
    Py_VISIT(self->key_function);
    Py_VISIT(self->names);
    Py_VISIT(self->ignored);
    Py_VISIT(self->info_type);
    Py_VISIT(self->parameters);
    Py_VISIT(self->owners);
    Py_VISIT(self->dict);
    return pfo_visit_store(&self->store, visit, arg);
}

/* function, names and info_type stay until dealloc, so that a call that a finalizer makes after this still has them. */
static int
cached_function_clear(PyObject *op)
{
    cached_function *self = (cached_function *)op;
    self->closed = 1;
    pfo_store_clear(&self->store);
    release_victims(&self->store);
    Py_CLEAR(self->dict);
    return 0;
}

static void
cached_function_dealloc(PyObject *op)
{
    cached_function *self = (cached_function *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weak_references != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    self->closed = 1;
    if (self->state != NULL) {
        pfo_disown_keys(&self->store);
        pfo_store_clear(&self->store);
        release_victims(&self->store);
        pfo_store_free(&self->store);
    }
    Py_CLEAR(self->dict);
    Py_CLEAR(self->function);
    Py_CLEAR(self->key_function);
    Py_CLEAR(self->names);
    Py_CLEAR(self->ignored);
    Py_CLEAR(self->info_type);
    Py_CLEAR(self->parameters);
    Py_CLEAR(self->owners);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ---- what the user sees ---------------------------------------------------------------------- */

PyDoc_STRVAR(
    cache_info_doc,
    "cache_info($self, /)\n--\n\n"
    "Counters of this cache: a named tuple (hits, misses, evictions, currsize, maxsize), in entries and calls.");

static PyObject *
cache_info(PyObject *op, PyObject *unused)
{
    (void)unused;
    const cached_function *self = (cached_function *)op;
    PyObject *max_size = pfo_bound_object(self->store.bounds.max_entries);
    if (max_size == NULL) {
        return NULL;
    }
    return PyObject_CallFunction(self->info_type, "KKKkN", (unsigned long long)self->store.hits,
                                 (unsigned long long)self->store.misses, (unsigned long long)self->store.evictions,
                                 (unsigned long)self->store.table.count, max_size);
}

PyDoc_STRVAR(cache_clear_doc, "cache_clear($self, /)\n--\n\nForgets every entry and sets the counters to 0.");

static PyObject *
cache_clear(PyObject *op, PyObject *unused)
{
    (void)unused;
    cached_function *self = (cached_function *)op;
    pfo_store_clear(&self->store);
    pfo_store_reset_counters(&self->store);
    release_victims(&self->store);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cache_parameters_doc,
             "cache_parameters($self, /)\n--\n\n"
             "What cache_result() was given, as a new dict: name, max_size, policy, copy, ignore.");

static PyObject *
cache_parameters(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyDict_Copy(((cached_function *)op)->parameters);
}

PyDoc_STRVAR(
    set_name_doc,
    "__set_name__($self, owner, name, /)\n--\n\n"
    "Called when the function becomes a method of a class: an instance of owner (of any class if owner is None) as "
    "the first\n"
    "argument is then held weakly.");

static int
add_owner(cached_function *self, PyObject *owner)
{
    PyObject *reference = PyWeakref_NewRef(owner, NULL);
    PyObject *owners = reference == NULL ? NULL : PyList_New(0);
    int failed = owners == NULL || PyList_Append(owners, reference) < 0;
    for (Py_ssize_t i = 0; !failed && self->owners != NULL && i < PyList_GET_SIZE(self->owners); i++) {
        PyObject *other = PyList_GET_ITEM(self->owners, i);
        if (other != reference && living_owner(other) != NULL) {
            failed = PyList_Append(owners, other) < 0;
        }
    }
    Py_XDECREF(reference);
    if (failed) {
        Py_XDECREF(owners);
        return -1;
    }
    Py_XSETREF(self->owners, owners);
    return 0;
}

static PyObject *
set_name(PyObject *op, PyObject *args)
{
    PyObject *owner, *name;
    if (!PyArg_ParseTuple(args, "OO:__set_name__", &owner, &name)) {
        return NULL;
    }
    cached_function *self = (cached_function *)op;
    if (owner == Py_None) {
        Py_CLEAR(self->owners);
        self->fast_single = 0;
    } else if (!PyType_Check(owner)) {
        PyErr_Format(PyExc_TypeError, "owner must be a class or None, not %.200s", Py_TYPE(owner)->tp_name);
        return NULL;
    } else if (add_owner(self, owner) < 0) {
        return NULL;
    }
    self->is_method = 1;
    Py_RETURN_NONE;
}

static PyObject *
reduce(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyObject_GetAttrString(op, "__qualname__"); /* pickled by name, as functions are */
}

static PyObject *
itself(PyObject *op, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(op);
}

static PyObject *
get_bound(PyObject *op, PyObject *instance, PyObject *owner)
{
    (void)owner;
    return instance == NULL || instance == Py_None ? Py_NewRef(op) : PyMethod_New(op, instance);
}

static PyObject *
cached_function_repr(PyObject *op)
{
    PyObject *name = name_of_function((cached_function *)op);
    PyObject *text = name == NULL ? NULL : PyUnicode_FromFormat("<cached function %U at %p>", name, (void *)op);
    Py_XDECREF(name);
    return text;
}

static PyMethodDef cached_function_methods[] = {
    { "cache_info", cache_info, METH_NOARGS, cache_info_doc },
    { "cache_clear", cache_clear, METH_NOARGS, cache_clear_doc },
    { "cache_parameters", cache_parameters, METH_NOARGS, cache_parameters_doc },
    { "_begin", (PyCFunction)(void (*)(void))begin, METH_FASTCALL | METH_KEYWORDS, begin_doc },
    { "_finish", (PyCFunction)(void (*)(void))finish, METH_FASTCALL, finish_doc },
    { "__set_name__", set_name, METH_VARARGS, set_name_doc },
    { "__reduce__", reduce, METH_NOARGS, NULL },
    { "__copy__", itself, METH_NOARGS, NULL },
    { "__deepcopy__", itself, METH_O, NULL },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef cached_function_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(cached_function, vectorcall), READONLY, NULL },
    { "__dictoffset__", T_PYSSIZET, offsetof(cached_function, dict), READONLY, NULL },
    { "__weaklistoffset__", T_PYSSIZET, offsetof(cached_function, weak_references), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef cached_function_getset[] = {
    { "__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot cached_function_slots[] = {
    { Py_tp_doc, (void *)cached_function_doc },
    { Py_tp_new, (void *)cached_function_new },
    { Py_tp_dealloc, (void *)cached_function_dealloc },
    { Py_tp_traverse, (void *)cached_function_traverse },
    { Py_tp_clear, (void *)cached_function_clear },
    { Py_tp_call, (void *)PyVectorcall_Call },
    { Py_tp_descr_get, (void *)get_bound },
    { Py_tp_repr, (void *)cached_function_repr },
    { Py_tp_methods, cached_function_methods },
    { Py_tp_members, cached_function_members },
    { Py_tp_getset, cached_function_getset },
    { 0, NULL },
};

PyType_Spec pfo_cached_function_spec = {
    .name = "perfopt._core.CachedFunction",
    .basicsize = sizeof(cached_function),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = cached_function_slots,
};
