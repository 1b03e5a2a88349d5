/* cached_function.c: a call of a CachedFunction, without a Python frame on a hit (see cached_function.h).
 *
 * Call: key and hash once -> table probe -> policy touch -> new reference. A miss takes off (flight.h): the first thread looks on disk, then calls
 * the function with no search in progress, then searches again, because the call may have filled the entry (recursion); what is there
 * first stays. Other threads sleep and get the same value. What was begun before cache_clear() or invalidate() is handed out, but not
 * kept (cache_changes.h).
 * Its cache is a PerformanceCache (cache_tiers.h): its own, where keys are bare, or a shared one, where each of its keys begins with its
 * ledger. The ledger counts what leaves the shared cache; it is a part of the keys so that these do not keep the function alive.
 * Invariants: user code (the function, __eq__, __hash__, __del__) only runs while the cache is consistent.
 * References: owns function, cache, ledger and the glue objects. tiers points into cache.
 * Threads: the GIL serialises; it may change hands wherever user code runs.
 */
#include "bindings/core/cached_function.h"

#include "base/clock.h"

/* ---- a hit ----------------------------------------------------------------------------------- */

/* Counts a hit; what a caller gets of a kept value, which it takes over. */
static PyObject *
hand_out(pfo_cached_function *self, PyObject *value)
{
    self->hits++;
    if (self->copies) {
        Py_SETREF(value, pfo_value_copy(self->state, value));
    }
    return value;
}

int
pfo_cached_look_up(pfo_cached_function *self, const pfo_key_builder *builder, PyObject **value)
{
    const uint32_t slot = pfo_tiers_find(self->tiers, builder);
    if (slot >= PFO_SLOT_FAILED) {
        return slot == PFO_SLOT_FAILED ? -1 : 0;
    }
    const int found = pfo_tiers_take(self->tiers, slot, value);
    if (found == 1) {
        *value = hand_out(self, *value);
        return *value == NULL ? -1 : 1;
    }
    return found;
}

const pfo_digest *
pfo_cached_disk_prefix(const pfo_cached_function *self)
{
    return self->persists ? &self->identity : NULL;
}

/* ---- keeping --------------------------------------------------------------------------------- */

/* Whether a result is to be kept: 1, 0, or -1 with an exception from cache_if. */
static int
is_wanted(const pfo_cached_function *self, PyObject *result)
{
    if (self->keep_if == NULL) {
        return 1;
    }
    PyObject *answer = PyObject_CallOneArg(self->keep_if, result);
    const int wanted = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return wanted;
}

/* Whether a second caller could do nothing with what the first one got: then 0, else -1 with TypeError. */
static int
check_reusable(const pfo_cached_function *self, PyObject *result)
{
    if (!PyGen_CheckExact(result) && !PyCoro_CheckExact(result) && !PyAsyncGen_CheckExact(result)) {
        return 0;
    }
    PyObject *name = pfo_signature_name(&self->signature);
    if (name != NULL) {
        PyErr_Format(
            PyExc_TypeError,
            "%U() returned a %.200s, which is used up by its first reader and cannot be cached: return a list or "
            "a tuple, or decorate the async function itself",
            name, Py_TYPE(result)->tp_name);
        Py_DECREF(name);
    }
    return -1;
}

static int
stores_nothing(const pfo_cached_function *self)
{
    return self->tiers->store.bounds.max_entries == 0 && !self->persists;
}

/* Once in the life of a cached function; -1 when the warning is an error. */
static int
warn_not_storable(pfo_cached_function *self, const PyTypeObject *type)
{
    if (self->has_warned) {
        return 0;
    }
    self->has_warned = 1;
    return PyErr_WarnFormat(
        PyExc_RuntimeWarning, 1,
        "%U: results of type %.200s cannot be stored on disk in a safe format and are kept in memory "
        "only; return what they are made of (numbers, text, bytes, containers, arrays, tensors), or "
        "give allow_pickle= a secret key",
        self->label, type->tp_name);
}

int
pfo_cached_keep(pfo_cached_function *self, pfo_key_builder *builder, const pfo_departure *departure, PyObject *result,
                PyObject **value, PyObject **guard)
{
    *value = NULL;
    *guard = NULL;
    const int wanted = is_wanted(self, result);
    if (wanted < 0 || (wanted && check_reusable(self, result) < 0)) {
        return -1;
    }
    *value = pfo_value_prepare(self->state, result, self->copies, guard);
    if (*value == NULL) {
        return -1;
    }
    if (!wanted || pfo_change_is_stale(departure->change) || stores_nothing(self)) {
        return 0;
    }
    PyTypeObject *culprit = NULL;
    const pfo_keep how = {
        .ttl_ns = self->ttl_ns,
        .size = PFO_SIZE_MEASURE,
        .first_wins = 1,
        .disk = self->persists ? PFO_KEEP_DISK_WRITE : PFO_KEEP_DISK_AS_IT_IS,
        .disk_prefix = pfo_cached_disk_prefix(self),
        .label = self->label,
        .culprit = &culprit,
        .absent_at = departure->absent_at,
        .change = departure->change,
    };
    PyObject *kept = NULL;
    int is_kept = pfo_tiers_keep_prepared(self->tiers, builder, *value, Py_XNewRef(*guard), &how, &kept);
    self->rejects +=
        culprit != NULL || (is_kept == 0 && !self->tiers->closed && !pfo_change_is_stale(departure->change));
    if (culprit != NULL && is_kept >= 0 && warn_not_storable(self, culprit) < 0) {
        is_kept = -1;
    }
    Py_XDECREF(culprit);
    if (is_kept < 0) {
        Py_XDECREF(kept);
        Py_CLEAR(*value);
        Py_CLEAR(*guard);
        return -1;
    }
    if (kept != *value) { /* what was there first */
        Py_CLEAR(*guard);
    }
    Py_SETREF(*value, kept);
    return 0;
}

/* The common case of pfo_cached_keep() by the shortest way: 1; 0 when it is no such case; -1. */
static int
keep_plain(const pfo_cached_function *self, const pfo_key_builder *builder, const pfo_departure *departure,
           PyObject *result)
{
    if (self->keep_if != NULL || self->persists || !pfo_value_is_plain(result) ||
        pfo_change_is_stale(departure->change)) {
        return 0;
    }
    return pfo_tiers_add_plain(self->tiers, builder, result, self->ttl_ns, departure->absent_at, departure->change);
}

/* ---- a miss ---------------------------------------------------------------------------------- */

int
pfo_cached_load(pfo_cached_function *self, pfo_key_builder *builder, PyObject **value)
{
    const int64_t begun = pfo_ticks();
    const int found = pfo_tiers_get(self->tiers, builder, pfo_cached_disk_prefix(self), self->ttl_ns, value);
    self->load_ticks += pfo_ticks() - begun;
    return found;
}

pfo_change *
pfo_cached_begin(pfo_cached_function *self, const pfo_key_builder *builder)
{
    self->misses++;
    self->tiers->store.misses += !self->persists; /* pfo_cached_load() has counted it */
    return pfo_change_begin(&self->tiers->under_way, builder->hash, self->ledger);
}

/* Calls the function and keeps what it returns: new references to that, to the value as everybody gets it, and to its guard or NULL. 0, or
 * -1 with an exception. */
static int
compute_and_keep(pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call,
                 const pfo_departure *departure, PyObject **result, PyObject **value, PyObject **guard)
{
    const int64_t begun = pfo_ticks();
    *result = PyObject_Vectorcall(self->function, call->args, call->nargsf, call->kwnames);
    self->compute_ticks += pfo_ticks() - begun;
    const int is_kept = *result == NULL ? -1 : keep_plain(self, builder, departure, *result);
    if (is_kept > 0) {
        *value = Py_NewRef(*result);
        return 0;
    }
    if (is_kept == 0 && pfo_cached_keep(self, builder, departure, *result, value, guard) == 0) {
        return 0;
    }
    Py_CLEAR(*result);
    return -1;
}

/* What is not in memory: from disk, or computed and kept. flight: NULL without single flight. absent_at: as in pfo_keep. */
static PyObject *
compute(pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call, pfo_flight *flight,
        uint64_t absent_at)
{
    PyObject *result = NULL, *value = NULL, *guard = NULL;
    const int found = self->persists ? pfo_cached_load(self, builder, &value) : 0;
    if (found != 0) {
        if (flight != NULL) {
            pfo_flight_give_up(flight);
        }
        return found < 0 ? NULL : hand_out(self, value);
    }
    const pfo_departure departure = { .change = pfo_cached_begin(self, builder), .absent_at = absent_at };
    const int failed =
        departure.change == NULL || compute_and_keep(self, builder, call, &departure, &result, &value, &guard) < 0;
    pfo_change_end(departure.change);
    if (flight != NULL && failed) {
        pfo_flight_fail(flight);
    } else if (flight != NULL) {
        pfo_flight_land(flight, value, guard);
    }
    if (failed) {
        return NULL;
    }
    Py_XDECREF(guard);
    Py_DECREF(self->copies ? value : result);
    return self->copies ? result : value;
}

/* What a waiter gets of the value that another thread computed: a new reference; NULL with an exception, or without one when the value has been
 * changed since. Takes the references in boarded over. */
static PyObject *
take_landed(pfo_cached_function *self, const pfo_boarded *boarded)
{
    const int holds = boarded->guard == NULL ? 1 : pfo_value_guard_holds(self->state, boarded->guard);
    Py_XDECREF(boarded->guard);
    if (holds != 1) {
        Py_DECREF(boarded->value);
        return NULL;
    }
    return hand_out(self, boarded->value);
}

/* The computation is this thread's. */
static PyObject *
compute_in_flight(pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call, pfo_flight *flight,
                  uint64_t absent_at)
{
    if (self->tiers->store.table.mutations != absent_at) { /* another flight of this key may have landed meanwhile */
        absent_at = self->tiers->store.table.mutations;
        PyObject *value = NULL;
        if (pfo_cached_look_up(self, builder, &value) != 0) {
            pfo_flight_give_up(flight);
            return value;
        }
    }
    return compute(self, builder, call, flight, absent_at);
}

int
pfo_cached_check_persistent(const pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call)
{
    pfo_digest unused;
    const int answer = self->persists ? pfo_key_persistent(builder, &self->identity, &unused) : 0;
    if (answer > 0) {
        pfo_call_raise_not_persistent(&self->signature, self->state, call);
    }
    return answer == 0 ? 0 : -1;
}

/* A search at these `mutations` of the table found nothing. NULL without an exception: all begins anew. */
static PyObject *
compute_or_wait(pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call, uint64_t absent_at)
{
    if (pfo_cached_check_persistent(self, builder, call) < 0) {
        return NULL;
    }
    if (!self->single_flight || stores_nothing(self)) {
        return compute(self, builder, call, NULL, absent_at);
    }
    pfo_boarded boarded;
    switch (pfo_flight_board(&self->flights, builder, &boarded)) {
    case PFO_FLIGHT_MINE:
        return compute_in_flight(self, builder, call, boarded.flight, absent_at);
    case PFO_FLIGHT_ALONE:
        return compute(self, builder, call, boarded.flight, absent_at);
    case PFO_FLIGHT_LANDED:
        return take_landed(self, &boarded);
    case PFO_FLIGHT_AGAIN:
    case PFO_FLIGHT_FAILED:
        break;
    }
    return NULL;
}

static PyObject *
find_or_compute(pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call)
{
    for (;;) {
        const uint64_t absent_at = self->tiers->store.table.mutations;
        PyObject *value = NULL;
        if (pfo_cached_look_up(self, builder, &value) != 0) {
            return value;
        }
        value = compute_or_wait(self, builder, call, absent_at);
        if (value != NULL || PyErr_Occurred()) {
            return value;
        }
    }
}

int
pfo_cached_build_key(pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call)
{
    if (self->ledger != NULL && pfo_key_add_owner(builder, self->ledger) < 0) {
        return -1;
    }
    const int answer = pfo_call_key_build(&self->signature, builder, call);
    self->hash_ticks += builder->content_ticks;
    return answer;
}

static PyObject *
call_by_key(pfo_cached_function *self, const pfo_call *call)
{
    pfo_key_builder builder;
    pfo_key_start(&builder, self->state, 1);
    PyObject *result = NULL;
    const int answer = pfo_cached_build_key(self, &builder, call);
    if (answer > 0) {
        result = PyObject_Vectorcall(self->function, call->args, call->nargsf, call->kwnames);
    } else if (answer == 0) {
        result = find_or_compute(self, &builder, call);
    }
    pfo_key_drop(&builder);
    return result;
}

/* A call with one exact int or str, its own key, that a search just did not find. */
static PyObject *
miss_simple(pfo_cached_function *self, const pfo_call *call)
{
    pfo_key_builder builder;
    pfo_key_start_simple(&builder, self->state, 1, call->args[0]);
    PyObject *result = compute_or_wait(self, &builder, call, self->tiers->store.table.mutations);
    if (result == NULL && !PyErr_Occurred()) {
        result = find_or_compute(self, &builder, call);
    }
    pfo_key_drop(&builder);
    return result;
}

PyObject *
pfo_cached_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    pfo_cached_function *self = (pfo_cached_function *)op;
    int is_missing = 0;
    if (self->fast_single && PyVectorcall_NARGS(nargsf) == 1 && kwnames == NULL) {
        PyObject *argument = args[0];
        if (PyLong_CheckExact(argument) || PyUnicode_CheckExact(argument)) {
            pfo_store *store = &self->tiers->store;
            const uint32_t slot = pfo_tiers_find_simple(self->tiers, argument);
            is_missing = slot == PFO_SLOT_NONE;
            if (!is_missing) {
                const pfo_entry *entry = &store->table.entries[slot];
                if (entry->checks == 0 && !self->copies) {
                    pfo_store_hit(store, slot);
                    self->hits++;
                    return Py_NewRef((PyObject *)entry->value);
                }
            }
        }
    }
    const pfo_call call = { .args = args, .nargsf = nargsf, .kwnames = kwnames };
    Py_INCREF(op); /* the function may drop the last reference to its own cache */
    PyObject *result = is_missing ? miss_simple(self, &call) : call_by_key(self, &call);
    Py_DECREF(op);
    return result;
}
