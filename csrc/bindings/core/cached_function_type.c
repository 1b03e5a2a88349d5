/* cached_function_type.c: the type CachedFunction: making one, the steps of a call whose result comes later, and what the user sees.
 *
 * Invariants, references and threads: see cached_function.h.
 */
#include "bindings/core/cached_function.h"

#include "base/clock.h"
#include "bindings/common/errors.h"
#include "bindings/core/cache_ledger.h"
#include "bindings/core/cache_options.h"
#include "bindings/core/pending_call.h"

#include <structmember.h>

/* ---- the steps of a call whose result comes later (async) ------------------------------------ */

/* A new pending call with its key; NULL without an exception when the call does not fit the parameters. */
static pfo_pending_call *
pending_of(pfo_cached_function *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    const pfo_call call = { .args = args, .nargsf = (size_t)nargs, .kwnames = kwnames };
    pfo_pending_call *pending = pfo_pending_call_new(self->state);
    if (pending != NULL && pfo_cached_build_key(self, &pending->key, &call) != 0) {
        Py_CLEAR(pending);
    }
    return pending;
}

PyDoc_STRVAR(begin_doc, "_begin($self, /, *args, **kwargs)\n--\n\n"
                        "(True, value) on a hit, else (False, pending call), where the pending call is None if the "
                        "arguments do not fit.\n"
                        "Internal: async functions.");

static PyObject *
begin(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    pfo_pending_call *pending = pending_of(self, args, nargs, kwnames);
    if (pending == NULL) {
        return PyErr_Occurred() ? NULL : Py_BuildValue("(OO)", Py_False, Py_None);
    }
    PyObject *value = NULL;
    const int found = pfo_cached_look_up(self, &pending->key, &value);
    if (found != 0) {
        Py_DECREF(pending);
        return found < 0 ? NULL : Py_BuildValue("(ON)", Py_True, value);
    }
    const pfo_call call = { .args = args, .nargsf = (size_t)nargs, .kwnames = kwnames };
    if (pfo_cached_check_persistent(self, &pending->key, &call) < 0) {
        Py_DECREF(pending);
        return NULL;
    }
    return Py_BuildValue("(ON)", Py_False, pending);
}

PyDoc_STRVAR(find_doc, "_find($self, pending, /)\n--\n\n"
                       "(True, value) on a hit, else (False, None). Internal: async functions.");

static PyObject *
find_pending(PyObject *op, PyObject *object)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    pfo_pending_call *pending = pfo_pending_call_check(self->state, object);
    if (pending == NULL) {
        return NULL;
    }
    PyObject *value = NULL;
    const int found = pfo_cached_look_up(self, &pending->key, &value);
    if (found == 0) {
        return Py_BuildValue("(OO)", Py_False, Py_None);
    }
    return found < 0 ? NULL : Py_BuildValue("(ON)", Py_True, value);
}

PyDoc_STRVAR(load_doc, "_load($self, pending, /)\n--\n\n"
                       "(value, None, True), what _share() hands out, of a result on disk, or None. Internal: async "
                       "functions.");

static PyObject *
load_pending(PyObject *op, PyObject *object)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    pfo_pending_call *pending = pfo_pending_call_check(self->state, object);
    if (pending == NULL) {
        return NULL;
    }
    PyObject *value = NULL;
    const int found = pfo_cached_load(self, &pending->key, &value);
    if (found == 0) {
        Py_RETURN_NONE;
    }
    return found < 0 ? NULL : Py_BuildValue("(NOO)", value, Py_None, Py_True);
}

PyDoc_STRVAR(depart_doc, "_depart($self, pending, /)\n--\n\n"
                         "Says that a pending call begins to be computed: the miss. Internal: async functions.");

static PyObject *
depart(PyObject *op, PyObject *object)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    pfo_pending_call *pending = pfo_pending_call_check(self->state, object);
    if (pending == NULL) {
        return NULL;
    }
    pfo_change_end(pending->change); /* of a task that did not come to its end */
    pending->change = pfo_cached_begin(self, &pending->key);
    pending->begun = pfo_ticks();
    return pending->change == NULL ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(
    finish_doc,
    "_finish($self, pending, result, /)\n--\n\n"
    "Keeps the result of a pending call, unless that was deleted meanwhile, and returns (value, guard, False): what "
    "_share() hands out.\nInternal: async functions.");

static PyObject *
finish(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    pfo_pending_call *pending = nargs == 2 ? pfo_pending_call_check(self->state, args[0]) : NULL;
    if (pending == NULL || pending->change == NULL) {
        PyErr_SetString(PyExc_TypeError, "_finish() takes a pending call that has departed, and its result");
        return NULL;
    }
    self->compute_ticks += pfo_ticks() - pending->begun;
    const pfo_departure departure = { .change = pending->change };
    pending->change = NULL;
    PyObject *value = NULL, *guard = NULL;
    const int failed = pfo_cached_keep(self, &pending->key, &departure, args[1], &value, &guard) < 0;
    pfo_change_end(departure.change);
    if (failed) {
        return NULL;
    }
    return Py_BuildValue("(NNO)", value, guard == NULL ? Py_NewRef(Py_None) : guard, Py_False);
}

PyDoc_STRVAR(share_doc, "_share($self, value, guard, is_hit, /)\n--\n\n"
                        "(True, what one caller gets of a finished value), or (False, None) when it was changed since. "
                        "Internal: async functions.");

static PyObject *
share(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    if (nargs != 3 || (args[1] != Py_None && !PyTuple_CheckExact(args[1]))) {
        PyErr_SetString(PyExc_TypeError, "_share() takes a value, a guard (a tuple or None) and a bool");
        return NULL;
    }
    const int holds = args[1] == Py_None ? 1 : pfo_value_guard_holds(self->state, args[1]);
    if (holds != 1) {
        return holds < 0 ? NULL : Py_BuildValue("(OO)", Py_False, Py_None);
    }
    self->hits += args[2] == Py_True;
    PyObject *value = self->copies ? pfo_value_copy(self->state, args[0]) : Py_NewRef(args[0]);
    return value == NULL ? NULL : Py_BuildValue("(ON)", Py_True, value);
}

PyDoc_STRVAR(pending_doc,
             "_pending($self, /, *args, **kwargs)\n--\n\n"
             "The pending call of these arguments, or None if they do not fit. Internal: async functions.");

static PyObject *
pending_call(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    pfo_pending_call *pending = pending_of((pfo_cached_function *)op, args, nargs, kwnames);
    if (pending == NULL && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return (PyObject *)pending;
}

/* ---- making one ------------------------------------------------------------------------------ */

PyDoc_STRVAR(
    cached_function_doc,
    "CachedFunction(function, /, *, cache, shared, ttl, identity, names, positional, positional_only, ignored, key, "
    "copies, keep_if, single_flight, info_type, parameters)\n"
    "--\n\n"
    "A function with its cache; made by perfopt.cache_result(), which documents it.");

static int
check_names(PyObject *names, Py_ssize_t positional, Py_ssize_t positional_only)
{
    if (names != Py_None && !PyTuple_CheckExact(names)) {
        PyErr_Format(PyExc_TypeError, "names must be a tuple or None, not %.200s", Py_TYPE(names)->tp_name);
        return -1;
    }
    if (positional_only < 0 || positional < positional_only ||
        positional > (names == Py_None ? 0 : PyTuple_GET_SIZE(names))) {
        PyErr_SetString(PyExc_ValueError,
                        "positional_only, positional and the number of names must not descend from 0");
        return -1;
    }
    return 0;
}

static PyObject *
or_null(PyObject *object)
{
    return object == Py_None ? NULL : Py_NewRef(object);
}

/* identity: None for a function that does not persist, or (label, digest). */
static int
set_identity(pfo_cached_function *self, PyObject *identity)
{
    if (identity == Py_None) {
        return 0;
    }
    PyObject *label, *digest;
    if (!PyTuple_Check(identity) || !PyArg_ParseTuple(identity, "US", &label, &digest) ||
        PyBytes_GET_SIZE(digest) != (Py_ssize_t)sizeof self->identity) {
        PyErr_Format(PyExc_TypeError, "identity must be None or a str and %zu bytes, not %R", sizeof self->identity,
                     identity);
        return -1;
    }
    memcpy(&self->identity, PyBytes_AS_STRING(digest), sizeof self->identity);
    self->label = Py_NewRef(label);
    self->persists = 1;
    self->signature.by_content = 1;
    return 0;
}

static PyObject *
cached_function_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static const char *const words[] = { "",       "cache",      "shared",          "ttl",       "identity",
                                         "names",  "positional", "positional_only", "ignored",   "key",
                                         "copies", "keep_if",    "single_flight",   "info_type", "parameters",
                                         NULL };
    PyObject *function, *cache, *ttl, *identity, *names, *ignored, *key, *keep_if, *info_type, *parameters;
    Py_ssize_t positional, positional_only;
    int shared, copies, single_flight;
    pfo_core_state *state = pfo_core_state_of_type(type);
    if (state == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O$O!pOOOnnOOpOpOO:CachedFunction", (char **)(uintptr_t)words,
                                     &function, state->performance_cache, &cache, &shared, &ttl, &identity, &names,
                                     &positional, &positional_only, &ignored, &key, &copies, &keep_if, &single_flight,
                                     &info_type, &parameters)) {
        return NULL;
    }
    if (!PyCallable_Check(function)) {
        PyErr_Format(PyExc_TypeError, "function must be callable, not %.200s", Py_TYPE(function)->tp_name);
        return NULL;
    }
    uint64_t ttl_ns;
    if (check_names(names, positional, positional_only) < 0 || pfo_parse_ttl(ttl, PFO_TTL_DEFAULT, &ttl_ns) < 0) {
        return NULL;
    }
    pfo_cached_function *self = (pfo_cached_function *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    pfo_flights_init(&self->flights);
    self->state = state;
    self->vectorcall = pfo_cached_call;
    self->function = Py_NewRef(function);
    self->cache = Py_NewRef(cache);
    self->tiers = pfo_tiers_of(cache);
    self->ttl_ns = ttl_ns;
    self->keep_if = or_null(keep_if);
    self->info_type = Py_NewRef(info_type);
    self->parameters = Py_NewRef(parameters);
    self->copies = copies;
    self->single_flight = single_flight;
    self->signature = (pfo_signature){
        .function = function,
        .key_function = or_null(key),
        .positional = positional,
        .positional_only = positional_only,
    };
    if ((shared && (self->ledger = pfo_cache_ledger_new(state)) == NULL) || set_identity(self, identity) < 0 ||
        pfo_signature_set_names(&self->signature, names, ignored) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->fast_single = !shared && key == Py_None && (self->signature.ignored_slots & 1) == 0 &&
                        (self->signature.names == NULL || positional > 0);
    return (PyObject *)self;
}

static int
cached_function_traverse(PyObject *op, visitproc visit, void *arg)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->function);
    Py_VISIT(self->cache);
    Py_VISIT(self->keep_if);
    Py_VISIT(self->info_type);
    Py_VISIT(self->parameters);
    Py_VISIT(self->dict);
    return pfo_signature_visit(&self->signature, visit, arg);
}

/* The rest stays until dealloc, so that a call that a finalizer makes after this still has it; a cycle through the cache is cut by the
 * cache, one through the function by what refers to this from there. */
static int
cached_function_clear(PyObject *op)
{
    Py_CLEAR(((pfo_cached_function *)op)->dict);
    return 0;
}

static void
cached_function_dealloc(PyObject *op)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weak_references != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    if (self->ledger != NULL) {
        pfo_tiers_clear_owner(self->tiers, self->ledger); /* nobody can ask for these entries any more */
    }
    pfo_flights_free(&self->flights);
    pfo_signature_clear(&self->signature);
    Py_CLEAR(self->dict);
    Py_CLEAR(self->function);
    Py_CLEAR(self->cache);
    Py_CLEAR(self->ledger);
    Py_CLEAR(self->keep_if);
    Py_CLEAR(self->info_type);
    Py_CLEAR(self->parameters);
    Py_CLEAR(self->label);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ---- what the user sees ---------------------------------------------------------------------- */

/* Entries of this function in memory, and their bytes. */
static void
count_entries(const pfo_cached_function *self, uint64_t *entries, uint64_t *bytes)
{
    const pfo_store *store = &self->tiers->store;
    *entries = store->table.count;
    *bytes = store->bytes;
    if (self->ledger == NULL) {
        return;
    }
    *entries = 0;
    *bytes = 0;
    for (uint32_t slot = 0; slot < store->table.used_slots; slot++) {
        const pfo_entry *entry = &store->table.entries[slot];
        if (entry->live && pfo_key_is_owned(entry->key, self->ledger)) {
            *entries += 1;
            *bytes += entry->bytes;
        }
    }
}

static PyObject *
bound_object(uint64_t bound)
{
    if (bound == PFO_STORE_UNBOUNDED) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(bound);
}

PyDoc_STRVAR(cache_info_doc,
             "cache_info($self, /)\n--\n\n"
             "Figures of this function in its cache: a named tuple (hits, misses, evictions, expirations, "
             "rejects, currsize, maxsize,\n"
             "bytes, max_bytes, hash_seconds, load_seconds, compute_seconds); perfopt.cache.CacheInfo "
             "says what they count.");

static PyObject *
cache_info(PyObject *op, PyObject *unused)
{
    (void)unused;
    const pfo_cached_function *self = (pfo_cached_function *)op;
    const pfo_store *store = &self->tiers->store;
    const pfo_cache_ledger *ledger = (pfo_cache_ledger *)self->ledger;
    const double seconds = pfo_clock_ns_per_tick() * 1e-9;
    uint64_t entries, bytes;
    count_entries(self, &entries, &bytes);
    return PyObject_CallFunction(
        self->info_type, "KKKKKKNKNddd", (unsigned long long)self->hits, (unsigned long long)self->misses,
        (unsigned long long)(ledger == NULL ? store->evictions : ledger->evictions),
        (unsigned long long)(ledger == NULL ? store->expirations : ledger->expirations),
        (unsigned long long)self->rejects, (unsigned long long)entries, bound_object(store->bounds.max_entries),
        (unsigned long long)bytes, bound_object(store->bounds.max_bytes), (double)self->hash_ticks * seconds,
        (double)self->load_ticks * seconds, (double)self->compute_ticks * seconds);
}

PyDoc_STRVAR(cache_clear_doc,
             "cache_clear($self, /)\n--\n\n"
             "Forgets every entry of this function, in memory and on disk, and sets its figures to 0. What is being "
             "computed at this\n"
             "moment is handed to those who wait for it, but not kept.");

static PyObject *
cache_clear(PyObject *op, PyObject *unused)
{
    (void)unused;
    pfo_cached_function *self = (pfo_cached_function *)op;
    pfo_flight_detach_all(&self->flights);
    pfo_changes_clear(&self->tiers->under_way, self->ledger);
    if (self->label != NULL && pfo_tiers_clear_label(self->tiers, self->ledger, self->label) < 0) {
        return NULL;
    }
    self->hits = 0;
    self->misses = 0;
    self->rejects = 0;
    self->hash_ticks = 0;
    self->load_ticks = 0;
    self->compute_ticks = 0;
    if (self->ledger == NULL) {
        pfo_tiers_reset_counters(self->tiers);
        pfo_store_clear(&self->tiers->store);
        pfo_tiers_release(self->tiers);
    } else {
        pfo_cache_ledger_reset(self->ledger);
        pfo_tiers_clear_owner(self->tiers, self->ledger);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(invalidate_doc,
             "invalidate($self, /, *args, **kwargs)\n--\n\n"
             "Forgets the result for these arguments; True if there was one. What is being computed for them at this "
             "moment is handed to\n"
             "those who wait for it, but not kept. Raises TypeError for arguments that do not fit or cannot be keyed.");

static PyObject *
invalidate(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    const pfo_call call = { .args = args, .nargsf = (size_t)nargs, .kwnames = kwnames };
    pfo_key_builder builder;
    pfo_key_start(&builder, self->state, 1);
    int answer = pfo_cached_build_key(self, &builder, &call);
    if (answer > 0) {
        PyObject *name = pfo_signature_name(&self->signature);
        if (name != NULL) {
            PyErr_Format(PyExc_TypeError, "invalidate(): the arguments do not fit %U()", name);
            Py_DECREF(name);
        }
        answer = -1;
    }
    if (answer == 0) {
        answer = pfo_flight_detach(&self->flights, &builder);
    }
    if (answer == 0) {
        answer = pfo_tiers_delete(self->tiers, &builder, pfo_cached_disk_prefix(self));
    }
    pfo_key_drop(&builder);
    return answer < 0 ? NULL : PyBool_FromLong(answer);
}

PyDoc_STRVAR(cache_parameters_doc,
             "cache_parameters($self, /)\n--\n\n"
             "What cache_result() was given, as a new dict, with the bounds and the policy of a shared cache: name, "
             "max_size, max_bytes,\n"
             "ttl, policy, persist, version, ignore, copy, single_flight.");

static PyObject *
cache_parameters(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyDict_Copy(((pfo_cached_function *)op)->parameters);
}

PyDoc_STRVAR(
    set_name_doc,
    "__set_name__($self, owner, name, /)\n--\n\n"
    "Called when the function becomes a method of a class: an instance of owner (of any class if owner is None) as "
    "the first\n"
    "argument is then held weakly.");

static PyObject *
set_name(PyObject *op, PyObject *args)
{
    PyObject *owner, *name;
    if (!PyArg_ParseTuple(args, "OO:__set_name__", &owner, &name)) {
        return NULL;
    }
    pfo_cached_function *self = (pfo_cached_function *)op;
    if (owner == Py_None) {
        Py_CLEAR(self->signature.owners);
        self->fast_single = 0;
    } else if (!PyType_Check(owner)) {
        PyErr_Format(PyExc_TypeError, "owner must be a class or None, not %.200s", Py_TYPE(owner)->tp_name);
        return NULL;
    } else if (pfo_signature_add_owner(&self->signature, owner) < 0) {
        return NULL;
    }
    self->signature.is_method = 1;
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
    PyObject *name = pfo_signature_name(&((pfo_cached_function *)op)->signature);
    PyObject *text = name == NULL ? NULL : PyUnicode_FromFormat("<cached function %U at %p>", name, (void *)op);
    Py_XDECREF(name);
    return text;
}

static PyMethodDef cached_function_methods[] = {
    { "cache_info", cache_info, METH_NOARGS, cache_info_doc },
    { "cache_clear", cache_clear, METH_NOARGS, cache_clear_doc },
    { "cache_parameters", cache_parameters, METH_NOARGS, cache_parameters_doc },
    { "invalidate", (PyCFunction)(void (*)(void))invalidate, METH_FASTCALL | METH_KEYWORDS, invalidate_doc },
    { "_begin", (PyCFunction)(void (*)(void))begin, METH_FASTCALL | METH_KEYWORDS, begin_doc },
    { "_find", find_pending, METH_O, find_doc },
    { "_load", load_pending, METH_O, load_doc },
    { "_depart", depart, METH_O, depart_doc },
    { "_finish", (PyCFunction)(void (*)(void))finish, METH_FASTCALL, finish_doc },
    { "_share", (PyCFunction)(void (*)(void))share, METH_FASTCALL, share_doc },
    { "_pending", (PyCFunction)(void (*)(void))pending_call, METH_FASTCALL | METH_KEYWORDS, pending_doc },
    { "__set_name__", set_name, METH_VARARGS, set_name_doc },
    { "__reduce__", reduce, METH_NOARGS, NULL },
    { "__copy__", itself, METH_NOARGS, NULL },
    { "__deepcopy__", itself, METH_O, NULL },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef cached_function_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(pfo_cached_function, vectorcall), READONLY, NULL },
    { "__dictoffset__", T_PYSSIZET, offsetof(pfo_cached_function, dict), READONLY, NULL },
    { "__weaklistoffset__", T_PYSSIZET, offsetof(pfo_cached_function, weak_references), READONLY, NULL },
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
    .basicsize = sizeof(pfo_cached_function),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = cached_function_slots,
};
