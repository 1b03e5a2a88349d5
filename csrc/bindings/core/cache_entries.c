/* cache_entries.c: PerformanceCache, one key at a time: keys of objects, set, get, get_or_compute, delete, touch.
 *
 * Invariants, references and threads as in cache_type.c and cache_tiers.h.
 */
#include "bindings/core/cache_entries.h"

#include "bindings/common/errors.h"
#include "bindings/core/cache_options.h"
#include "bindings/core/content_key.h"

typedef pfo_performance_cache performance_cache;

/* Whose keys these are on disk: those of every PerformanceCache on the directory. */
static const pfo_digest disk_prefix = { { 'P', 'e', 'r', 'f', 'o', 'r', 'm', 'a', 'n', 'c', 'e', 'C', 'a', 'c', 'h',
                                          'e' } };

/* ---- keys ------------------------------------------------------------------------------------ */

static int
is_simple(PyObject *object)
{
    return PyUnicode_CheckExact(object) || PyLong_CheckExact(object);
}

static int
add_content_key(pfo_key_builder *builder, PyObject *object)
{
    const int answer = pfo_key_add_kept(builder, pfo_content_key_kept(object));
    return answer <= 0 ? answer : pfo_key_add_mark(builder, '!', 0); /* of a dead instance: a key that meets none */
}

/* 0 with a finished builder, or -1 with an exception. */
static int
build_key(const performance_cache *self, pfo_key_builder *builder, PyObject *object)
{
    if (is_simple(object)) {
        pfo_key_start_simple(builder, self->tiers.state, 0, object);
        return 0;
    }
    pfo_key_start(builder, self->tiers.state, 0);
    const int answer = Py_TYPE(object) == self->tiers.state->content_key ? add_content_key(builder, object)
                                                                         : pfo_key_add(builder, object);
    if (answer == 0) {
        pfo_key_finish(builder);
        return 0;
    }
    if (answer > 0) {
        PyErr_Format(
            PyExc_TypeError,
            "key: a %.200s object is neither hashable nor of a type whose content can be read; use a str, a number, an "
            "array, or a tuple of such",
            builder->culprit->tp_name);
    }
    pfo_key_drop(builder);
    return -1;
}

/* The same for a key that is to be kept: it remembers the object if keys() may give it back. */
static int
build_key_to_keep(const performance_cache *self, pfo_key_builder *builder, PyObject *object)
{
    if (build_key(self, builder, object) < 0) {
        return -1;
    }
    if (PyTuple_Check(object) || PyFrozenSet_Check(object)) {
        const int keeps = pfo_key_keeps_original(self->tiers.state, object, 0);
        if (keeps < 0) {
            pfo_key_drop(builder);
            return -1;
        }
        builder->original = keeps ? object : NULL;
    }
    return 0;
}

/* ---- set, get, get_or_compute, delete, touch ------------------------------------------------- */

/* persist, ttl and size, the last three of `found`. how->disk is set for a plain set(): what is on disk must not outlive it. */
static int
parse_keep(const performance_cache *self, PyObject *const *found, pfo_keep *how)
{
    const int persist = found[0] == NULL ? 0 : PyObject_IsTrue(found[0]);
    if (persist < 0 || pfo_parse_ttl(found[1], PFO_TTL_DEFAULT, &how->ttl_ns) < 0 ||
        pfo_parse_size(found[2], PFO_SIZE_MEASURE, &how->size) < 0) {
        return -1;
    }
    if (persist && self->cache_dir == NULL) {
        PyErr_SetString(PyExc_ValueError, "persist=True needs a directory: give the cache a cache_dir");
        return -1;
    }
    if (persist) {
        how->disk = PFO_KEEP_DISK_WRITE;
    }
    how->disk_prefix = &disk_prefix;
    return 0;
}

/* What an entry on disk is called in listings: a str or int key itself, of another its type. Labels that end in ")" are those of functions,
 * whose cache_clear() goes by them (perfopt/cache.py). New reference. */
static PyObject *
label_of(const performance_cache *self, PyObject *key)
{
    if (Py_TYPE(key) == self->tiers.state->content_key) { /* may stand for a key of any type */
        PyObject *known = pfo_key_known(pfo_content_key_kept(key));
        key = known == NULL ? key : known;
    }
    if (!is_simple(key)) {
        return PyUnicode_FromFormat("<%s>", Py_TYPE(key)->tp_name);
    }
    const Py_ssize_t length = PyUnicode_Check(key) ? PyUnicode_GET_LENGTH(key) : 0;
    const int may_end_so = length > 0 && (PyUnicode_READ_CHAR(key, length - 1) == ')' ||
                                          PyUnicode_FindChar(key, '\0', 0, length, 1) != -1);
    return may_end_so ? PyObject_Repr(key) : PyObject_Str(key);
}

/* Keeps value under key as set() and get_or_compute() do. builder: finished; kept: NULL or where the kept value goes. */
static int
keep(performance_cache *self, pfo_key_builder *builder, PyObject *key, PyObject *value, pfo_keep *how, PyObject **kept)
{
    PyObject *label = NULL;
    if (how->disk == PFO_KEEP_DISK_WRITE) {
        label = label_of(self, key);
        if (label == NULL) {
            return -1;
        }
        how->label = label;
    }
    const int answer = pfo_tiers_keep(&self->tiers, builder, value, how, kept);
    Py_XDECREF(label);
    return answer < 0 ? -1 : 0;
}

const char pfo_cache_set_doc[] = PyDoc_STR(
    "set($self, /, key, value, persist=False, *, ttl=None, size=None)\n--\n\n"
    "Stores value under key; what no longer fits max_size or max_bytes leaves in the order of the policy, expired "
    "entries first.\n\n"
    "key: any hashable object, or one whose content can be read (arrays, tensors, lists, dicts, ...: by content).\n"
    "value: anything; NumPy arrays in it are kept as read-only views, tensors with their version counter.\n"
    "persist: also write it to cache_dir, where it outlives the process. False removes what was there under key.\n"
    "ttl: seconds (above 0) or a datetime.timedelta after which the entry is gone; None: that of the cache.\n"
    "size: bytes that the value counts for; None: measured where there is a max_bytes. A value above max_bytes is not "
    "stored.\n\n"
    "Raises TypeError for a key that can be neither hashed nor read, TypeError or ValueError naming ttl or size; with\n"
    "persist=True ValueError without a cache_dir, and TypeError, naming the type, for a key without content that could "
    "be "
    "read, and for\n"
    "a value that cannot be written in a safe format. A disk that is full or fails is no error: it is counted\n"
    "(write_failures) and warned of once, and the entry is kept in memory.");

PyObject *
pfo_cache_set(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "value", "persist", "ttl", "size" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[5] = { nargs > 0 ? args[0] : NULL, nargs > 1 ? args[1] : NULL, NULL, NULL, NULL };
    pfo_keep how = PFO_KEEP_DEFAULT;
    how.disk = PFO_KEEP_DISK_FORGET;
    how.disk_prefix = &disk_prefix;
    if (nargs != 2 || kwnames != NULL) {
        if (pfo_parse_arguments("set", names, 5, 3, 2, args, nargs, kwnames, found) < 0 ||
            parse_keep(self, found + 2, &how) < 0) {
            return NULL;
        }
    } else if (is_simple(found[0]) && self->tiers.disk == NULL && !self->tiers.closed) {
        if (pfo_tiers_set_simple(&self->tiers, found[0], found[1]) < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    pfo_key_builder builder;
    if (pfo_cache_check_open(self) < 0 || build_key_to_keep(self, &builder, found[0]) < 0) {
        return NULL;
    }
    const int failed = keep(self, &builder, found[0], found[1], &how, NULL);
    pfo_key_drop(&builder);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

const char pfo_cache_get_doc[] =
    PyDoc_STR("get($self, /, key, default=None)\n--\n\n"
              "The value stored under key, which counts as a use of it; default if there is none, if it has "
              "expired, or if it is a\n"
              "tensor that was modified in place since it was stored. NumPy arrays come back read-only.\n\n"
              "Raises TypeError for a key that can be neither hashed nor read.");

/* 1 and a new reference, 0, or -1. */
static int
look_up(performance_cache *self, PyObject *object, PyObject **value)
{
    pfo_key_builder builder;
    if (pfo_cache_check_open(self) < 0 || build_key(self, &builder, object) < 0) {
        return -1;
    }
    const int found = pfo_tiers_get(&self->tiers, &builder, &disk_prefix, PFO_TTL_DEFAULT, value);
    pfo_key_drop(&builder);
    return found;
}

PyObject *
pfo_cache_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "default" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[2] = { nargs > 0 ? args[0] : NULL, NULL };
    if ((nargs != 1 || kwnames != NULL) &&
        pfo_parse_arguments("get", names, 2, 2, 1, args, nargs, kwnames, found) < 0) {
        return NULL;
    }
    if (is_simple(found[0])) {
        const uint32_t slot = pfo_tiers_find_simple(&self->tiers, found[0]);
        if (slot == PFO_SLOT_NONE) {
            if (self->tiers.disk == NULL && !self->tiers.closed) {
                self->tiers.store.misses++;
                return Py_NewRef(found[1] == NULL ? Py_None : found[1]);
            }
        } else if (self->tiers.store.table.entries[slot].checks == 0) {
            pfo_store_hit(&self->tiers.store, slot);
            return Py_NewRef((PyObject *)self->tiers.store.table.entries[slot].value);
        }
    }
    PyObject *value;
    const int answer = look_up(self, found[0], &value);
    if (answer != 0) {
        return answer < 0 ? NULL : value;
    }
    return Py_NewRef(found[1] == NULL ? Py_None : found[1]);
}

/* ---- get_or_compute -------------------------------------------------------------------------- */

/* A call of get_or_compute() on its way. */
typedef struct computation {
    PyObject *key;
    PyObject *fn;
    pfo_keep *how;
} computation;

/* A lookup that goes on counts once. The counters may have been reset since it began. */
static void
uncount_miss(performance_cache *self)
{
    self->tiers.store.misses -= self->tiers.store.misses > 0;
}

/* The common case of keep() by the shortest way: 1; 0 when it is no such case; -1. */
static int
keep_plain(performance_cache *self, const pfo_key_builder *builder, PyObject *value, const pfo_keep *how)
{
    const int is_common =
        how->disk != PFO_KEEP_DISK_WRITE && how->size == PFO_SIZE_MEASURE && pfo_value_is_plain(value);
    return is_common ? pfo_tiers_add_plain(&self->tiers, builder, value, how->ttl_ns, how->absent_at, how->change) : 0;
}

/* Keeps what fn returned, unless the key was deleted since how->change began; what callers get of it, or NULL with an exception. */
static PyObject *
keep_computed(performance_cache *self, pfo_key_builder *builder, PyObject *key, PyObject *computed, pfo_keep *how,
              PyObject **guard)
{
    *guard = NULL;
    if (pfo_change_is_stale(how->change)) {
        return pfo_value_prepare(self->tiers.state, computed, 0, guard);
    }
    const int is_kept = keep_plain(self, builder, computed, how);
    if (is_kept != 0) {
        return is_kept < 0 ? NULL : Py_NewRef(computed);
    }
    PyObject *kept;
    if (keep(self, builder, key, computed, how, &kept) < 0) {
        return NULL;
    }
    PyObject *value = pfo_value_prepare(self->tiers.state, kept, 0, guard); /* again, for the guard */
    Py_DECREF(kept);
    return value;
}

/* Computes and keeps the value, and tells those who wait. */
static PyObject *
compute(performance_cache *self, pfo_key_builder *builder, const computation *call, pfo_flight *flight)
{
    PyObject *guard = NULL;
    call->how->change = pfo_change_begin(&self->tiers.under_way, builder->hash, NULL);
    PyObject *computed = call->how->change == NULL ? NULL : PyObject_CallNoArgs(call->fn);
    PyObject *value = computed == NULL ? NULL : keep_computed(self, builder, call->key, computed, call->how, &guard);
    pfo_change_end(call->how->change);
    Py_XDECREF(computed);
    if (value != NULL) {
        pfo_flight_land(flight, value, guard);
    } else {
        pfo_flight_fail(flight);
    }
    Py_XDECREF(guard);
    return value;
}

/* The computation is this thread's, unless another flight of the key may have landed since the version that the lookup saw. */
static PyObject *
compute_in_flight(performance_cache *self, pfo_key_builder *builder, const computation *call, pfo_flight *flight,
                  uint64_t version)
{
    if (pfo_tiers_version(&self->tiers, builder) != version) {
        PyObject *value = NULL;
        uncount_miss(self); /* this lookup counts in place of the first */
        call->how->absent_at = self->tiers.store.table.mutations;
        if (pfo_tiers_get(&self->tiers, builder, &disk_prefix, PFO_TTL_DEFAULT, &value) != 0) {
            pfo_flight_give_up(flight);
            return value;
        }
    }
    return compute(self, builder, call, flight);
}

/* What another thread computed, or NULL: an exception is set, or a tensor in it was modified and all begins anew. */
static PyObject *
take_landed(const performance_cache *self, const pfo_boarded *boarded)
{
    const int holds = boarded->guard == NULL ? 1 : pfo_value_guard_holds(self->tiers.state, boarded->guard);
    Py_XDECREF(boarded->guard);
    if (holds != 1) {
        Py_DECREF(boarded->value);
        return NULL;
    }
    return boarded->value;
}

static PyObject *
find_or_compute(performance_cache *self, pfo_key_builder *builder, const computation *call)
{
    for (;;) {
        PyObject *value = NULL;
        const uint64_t version = pfo_tiers_version(&self->tiers, builder); /* the disk lets other threads in */
        call->how->absent_at = self->tiers.store.table.mutations;
        if (pfo_tiers_get(&self->tiers, builder, &disk_prefix, PFO_TTL_DEFAULT, &value) != 0) {
            return value;
        }
        pfo_boarded boarded;
        switch (pfo_flight_board(&self->flights, builder, &boarded)) {
        case PFO_FLIGHT_MINE:
            return compute_in_flight(self, builder, call, boarded.flight, version);
        case PFO_FLIGHT_ALONE:
            return compute(self, builder, call, boarded.flight);
        case PFO_FLIGHT_LANDED:
            value = take_landed(self, &boarded);
            if (value != NULL || PyErr_Occurred()) {
                return value;
            }
            break;
        case PFO_FLIGHT_AGAIN:
            break;
        case PFO_FLIGHT_FAILED:
            return NULL;
        }
        uncount_miss(self); /* the next lookup counts anew */
    }
}

const char pfo_cache_get_or_compute_doc[] = PyDoc_STR(
    "get_or_compute($self, /, key, fn, persist=False, *, ttl=None, size=None)\n--\n\n"
    "The value stored under key; if there is none, fn() is called without arguments, and what it returns is stored as "
    "set() would and\n"
    "returned as get() would. If meanwhile another call has stored a value, that one stays and is returned.\n\n"
    "Of all threads that miss one key at once, one calls its fn and the others wait for the outcome, also an "
    "exception; a fn that asks\n"
    "for its own key, over any number of keys and threads, computes it anew. If the key is deleted or the cache "
    "cleared meanwhile, the\n"
    "value is returned and not stored, also by the calls for the key that run inside one another at that moment; what "
    "is begun after\n"
    "it is stored. Raises what set() and fn raise; nothing is stored then.");

/* The arguments of what stores a computed value: key, what is named `second`, persist, ttl, size; and how they say that it is kept. */
static int
parse_computed(const performance_cache *self, const char *function, const char *second, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames, PyObject *found[5], pfo_keep *how)
{
    const char *const names[] = { "key", second, "persist", "ttl", "size" };
    *how = (pfo_keep)PFO_KEEP_DEFAULT;
    how->first_wins = 1;
    how->disk_prefix = &disk_prefix;
    if (nargs == 2 && kwnames == NULL) {
        memset(found, 0, 5 * sizeof *found);
        found[0] = args[0];
        found[1] = args[1];
        return 0;
    }
    return pfo_parse_arguments(function, names, 5, 3, 2, args, nargs, kwnames, found) < 0
               ? -1
               : parse_keep(self, found + 2, how);
}

/* What get_or_compute() and aget_or_compute() are called with, before anything is computed. 0 with a finished builder, or -1. */
static int
parse_computation(const performance_cache *self, const char *function, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames, PyObject *found[5], pfo_keep *how, pfo_key_builder *builder)
{
    if (parse_computed(self, function, "fn", args, nargs, kwnames, found, how) < 0) {
        return -1;
    }
    if (!PyCallable_Check(found[1])) {
        PyErr_Format(PyExc_TypeError, "fn must be callable, not %.200s", Py_TYPE(found[1])->tp_name);
        return -1;
    }
    return pfo_cache_check_open(self) < 0 ? -1 : build_key_to_keep(self, builder, found[0]);
}

PyObject *
pfo_cache_get_or_compute(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    performance_cache *self = (performance_cache *)op;
    PyObject *found[5];
    pfo_keep how;
    pfo_key_builder builder;
    if (parse_computation(self, "get_or_compute", args, nargs, kwnames, found, &how, &builder) < 0) {
        return NULL;
    }
    const computation call = { .key = found[0], .fn = found[1], .how = &how };
    Py_INCREF(op); /* fn may drop the last reference to the cache that it is for */
    PyObject *value = find_or_compute(self, &builder, &call);
    pfo_key_drop(&builder);
    Py_DECREF(op);
    return value;
}

const char pfo_cache_delete_doc[] = PyDoc_STR(
    "delete($self, key, /)\n--\n\n"
    "Removes the entry of key: True if there was one. Raises TypeError for a key that can be neither hashed nor read.");

/* What an async method computes for this key is handed to those who wait, but not kept. Runs Python code. */
static int
delist_async(performance_cache *self, const pfo_key_builder *builder)
{
    if (self->async_flights == NULL) {
        return 0;
    }
    PyObject *flights = Py_NewRef(self->async_flights);
    PyObject *token = pfo_content_key_of_builder(builder);
    PyObject *answer = token == NULL ? NULL : PyObject_CallMethodOneArg(flights, self->tiers.state->name_delist, token);
    Py_XDECREF(token);
    Py_DECREF(flights);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

PyObject *
pfo_cache_delete(PyObject *op, PyObject *object)
{
    performance_cache *self = (performance_cache *)op;
    pfo_key_builder builder;
    if (pfo_cache_check_open(self) < 0 || build_key(self, &builder, object) < 0) {
        return NULL;
    }
    int existed = pfo_flight_detach(&self->flights, &builder);
    if (existed == 0) {
        existed = delist_async(self, &builder);
    }
    if (existed == 0) {
        existed = pfo_tiers_delete(&self->tiers, &builder, &disk_prefix);
    }
    pfo_key_drop(&builder);
    return existed < 0 ? NULL : PyBool_FromLong(existed);
}

const char pfo_cache_touch_doc[] =
    PyDoc_STR("touch($self, /, key, ttl=None)\n--\n\n"
              "Gives the entry of key a new time to live, from now: True if there was one.\n\n"
              "ttl: seconds (above 0) or a datetime.timedelta; None: that of the cache, for ever if it has "
              "none.\n"
              "Raises TypeError or ValueError naming ttl, TypeError for a key that can be neither hashed nor "
              "read.");

PyObject *
pfo_cache_touch(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "ttl" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[2];
    uint64_t ttl_ns;
    pfo_key_builder builder;
    if (pfo_parse_arguments("touch", names, 2, 2, 1, args, nargs, kwnames, found) < 0 ||
        pfo_parse_ttl(found[1], PFO_TTL_DEFAULT, &ttl_ns) < 0 || pfo_cache_check_open(self) < 0 ||
        build_key(self, &builder, found[0]) < 0) {
        return NULL;
    }
    const int existed = pfo_tiers_touch(&self->tiers, &builder, &disk_prefix, ttl_ns);
    pfo_key_drop(&builder);
    return existed < 0 ? NULL : PyBool_FromLong(existed);
}

int
pfo_cache_contains(PyObject *op, PyObject *object)
{
    performance_cache *self = (performance_cache *)op;
    pfo_key_builder builder;
    if (pfo_cache_check_open(self) < 0 || build_key(self, &builder, object) < 0) {
        return -1;
    }
    const int found = pfo_tiers_contains(&self->tiers, &builder, &disk_prefix);
    pfo_key_drop(&builder);
    return found;
}

/* ---- for the async methods (perfopt/_performance_cache.py) ------------------------------------ */

/* (True, value) on a hit in memory, else (False, key as a ContentKey). */
static PyObject *
peek(performance_cache *self, const pfo_key_builder *builder)
{
    PyObject *value = NULL;
    const uint32_t slot = pfo_tiers_find(&self->tiers, builder);
    int answer = slot == PFO_SLOT_FAILED ? -1 : slot == PFO_SLOT_NONE ? 0 : pfo_tiers_take(&self->tiers, slot, &value);
    if (answer == 0) {
        value = pfo_content_key_of_builder(builder);
        answer = value == NULL ? -1 : 0;
    }
    return answer < 0 ? NULL : Py_BuildValue("(NN)", PyBool_FromLong(answer), value);
}

const char pfo_cache_peek_doc[] = PyDoc_STR(
    "_peek($self, key, /)\n--\n\n"
    "(True, value) on a hit in memory, else (False, key as a ContentKey), which is then no lookup. Internal.");

PyObject *
pfo_cache_peek(PyObject *op, PyObject *object)
{
    performance_cache *self = (performance_cache *)op;
    pfo_key_builder builder;
    if (pfo_cache_check_open(self) < 0 || build_key_to_keep(self, &builder, object) < 0) {
        return NULL;
    }
    PyObject *answer = peek(self, &builder);
    pfo_key_drop(&builder);
    return answer;
}

const char pfo_cache_begin_doc[] = PyDoc_STR(
    "_begin($self, /, key, fn, persist=False, *, ttl=None, size=None)\n--\n\n"
    "Checks what aget_or_compute() was given, as get_or_compute() does, and answers as _peek() does. Internal.");

PyObject *
pfo_cache_begin(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    performance_cache *self = (performance_cache *)op;
    PyObject *found[5];
    pfo_keep how;
    pfo_key_builder builder;
    if (parse_computation(self, "aget_or_compute", args, nargs, kwnames, found, &how, &builder) < 0) {
        return NULL;
    }
    PyObject *answer = peek(self, &builder);
    pfo_key_drop(&builder);
    return answer;
}

static const char change_name[] = "perfopt.change";

static void
end_change(PyObject *capsule)
{
    pfo_change_end(PyCapsule_GetPointer(capsule, change_name));
}

const char pfo_cache_depart_doc[] =
    PyDoc_STR("_depart($self, key, /)\n--\n\n"
              "Says that a value of the key begins to be computed: what _keep() needs, a capsule. Internal.");

PyObject *
pfo_cache_depart(PyObject *op, PyObject *object)
{
    performance_cache *self = (performance_cache *)op;
    pfo_key_builder builder;
    if (build_key(self, &builder, object) < 0) {
        return NULL;
    }
    pfo_change *change = pfo_change_begin(&self->tiers.under_way, builder.hash, NULL);
    pfo_key_drop(&builder);
    PyObject *capsule = change == NULL ? NULL : PyCapsule_New(change, change_name, end_change);
    if (capsule == NULL) {
        pfo_change_end(change);
    }
    return capsule;
}

const char pfo_cache_keep_doc[] =
    PyDoc_STR("_keep($self, departure, key, value, persist=False, /, *, ttl=None, size=None)\n--\n\n"
              "Stores a computed value as get_or_compute() does, unless the key was deleted since the departure, and "
              "returns what it returns; also of a\nclosed cache. Internal.");

PyObject *
pfo_cache_keep(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    performance_cache *self = (performance_cache *)op;
    PyObject *found[5];
    pfo_keep how;
    pfo_key_builder builder;
    pfo_change *change = nargs > 0 ? PyCapsule_GetPointer(args[0], change_name) : NULL;
    if (change == NULL) {
        PyErr_SetString(PyExc_TypeError, "_keep() takes what _depart() returned first");
        return NULL;
    }
    if (parse_computed(self, "_keep", "value", args + 1, nargs - 1, kwnames, found, &how) < 0 ||
        build_key_to_keep(self, &builder, found[0]) < 0) {
        return NULL;
    }
    how.change = change;
    PyObject *guard;
    PyObject *value = keep_computed(self, &builder, found[0], found[1], &how, &guard);
    Py_XDECREF(guard);
    pfo_key_drop(&builder);
    return value;
}
