/* cache_type.c: PerformanceCache: a bounded cache of key-value pairs (cache_tiers.h) as a Python type.
 *
 * References: the tiers own keys, values and guards; keys are held strongly, because the user put them in by hand.
 * Threads: the GIL serialises; it may change hands wherever user code runs [re-entrancy].
 */
#include "bindings/common/dicts.h"
#include "bindings/common/errors.h"
#include "bindings/core/cache_options.h"
#include "bindings/core/cache_tiers.h"
#include "bindings/core/content_key.h"

#include <structmember.h>

typedef pfo_performance_cache performance_cache;

/* Whose keys these are on disk: those of every PerformanceCache on the directory. */
static const pfo_digest disk_prefix = { { 'P', 'e', 'r', 'f', 'o', 'r', 'm', 'a', 'n', 'c', 'e', 'C', 'a', 'c', 'h',
                                          'e' } };

/* ---- keys ------------------------------------------------------------------------------------ */

static int
check_open(const performance_cache *self)
{
    if (self->tiers.closed) {
        PyErr_SetString(PyExc_ValueError, "the cache is closed");
        return -1;
    }
    return 0;
}

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

/* Arguments by position or name, without a format string: found[i] stays NULL where names[i] was not given. The first `positional` may
 * be given by position. */
static int
parse_arguments(const char *function, const char *const *names, Py_ssize_t count, Py_ssize_t positional,
                Py_ssize_t required, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **found)
{
    if (nargs > positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd positional arguments (%zd given)", function, positional,
                     nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        found[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t k = 0; kwnames != NULL && k < PyTuple_GET_SIZE(kwnames); k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t at = 0;
        while (at < count && PyUnicode_CompareWithASCIIString(name, names[at]) != 0) {
            at++;
        }
        if (at == count || found[at] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         at == count ? "%s() got an unexpected keyword argument %R"
                                     : "%s() got multiple values for argument %R",
                         function, name);
            return -1;
        }
        found[at] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (found[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s'", function, names[i]);
            return -1;
        }
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

PyDoc_STRVAR(
    set_doc,
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

static PyObject *
cache_set(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "value", "persist", "ttl", "size" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[5] = { nargs > 0 ? args[0] : NULL, nargs > 1 ? args[1] : NULL, NULL, NULL, NULL };
    pfo_keep how = PFO_KEEP_DEFAULT;
    how.disk = PFO_KEEP_DISK_FORGET;
    how.disk_prefix = &disk_prefix;
    if (nargs != 2 || kwnames != NULL) {
        if (parse_arguments("set", names, 5, 3, 2, args, nargs, kwnames, found) < 0 ||
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
    if (check_open(self) < 0 || build_key_to_keep(self, &builder, found[0]) < 0) {
        return NULL;
    }
    const int failed = keep(self, &builder, found[0], found[1], &how, NULL);
    pfo_key_drop(&builder);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_doc, "get($self, /, key, default=None)\n--\n\n"
                      "The value stored under key, which counts as a use of it; default if there is none, if it has "
                      "expired, or if it is a\n"
                      "tensor that was modified in place since it was stored. NumPy arrays come back read-only.\n\n"
                      "Raises TypeError for a key that can be neither hashed nor read.");

/* 1 and a new reference, 0, or -1. */
static int
look_up(performance_cache *self, PyObject *object, PyObject **value)
{
    pfo_key_builder builder;
    if (check_open(self) < 0 || build_key(self, &builder, object) < 0) {
        return -1;
    }
    const int found = pfo_tiers_get(&self->tiers, &builder, &disk_prefix, value);
    pfo_key_drop(&builder);
    return found;
}

static PyObject *
cache_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "default" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[2] = { nargs > 0 ? args[0] : NULL, NULL };
    if ((nargs != 1 || kwnames != NULL) && parse_arguments("get", names, 2, 2, 1, args, nargs, kwnames, found) < 0) {
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

/* Keeps what fn returned, unless the key was deleted meanwhile, and tells those who wait. flight: NULL when nobody does. */
static PyObject *
compute(performance_cache *self, pfo_key_builder *builder, const computation *call, pfo_flight *flight)
{
    PyObject *value = NULL;
    PyObject *guard = NULL;
    PyObject *computed = PyObject_CallNoArgs(call->fn);
    if (computed != NULL && flight != NULL && pfo_flight_is_stale(flight)) {
        value = pfo_value_prepare(self->tiers.state, computed, 0, &guard);
    } else if (computed != NULL && keep(self, builder, call->key, computed, call->how, &value) == 0 && flight != NULL) {
        const int is_stale =
            call->how->disk == PFO_KEEP_DISK_WRITE && pfo_flight_is_stale(flight); /* since the check */
        PyObject *kept = value; /* prepared already: this is for the guard */
        value = is_stale && pfo_tiers_delete(&self->tiers, builder, &disk_prefix) < 0
                    ? NULL
                    : pfo_value_prepare(self->tiers.state, kept, 0, &guard);
        Py_DECREF(kept);
    }
    Py_XDECREF(computed);
    if (flight != NULL && value != NULL) {
        pfo_flight_land(flight, value, guard);
    } else if (flight != NULL) {
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
        if (pfo_tiers_get(&self->tiers, builder, &disk_prefix, &value) != 0) {
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
        if (pfo_tiers_get(&self->tiers, builder, &disk_prefix, &value) != 0) {
            return value;
        }
        pfo_boarded boarded;
        switch (pfo_flight_board(&self->flights, builder, &boarded)) {
        case PFO_FLIGHT_MINE:
            return compute_in_flight(self, builder, call, boarded.flight, version);
        case PFO_FLIGHT_ALONE:
            return compute(self, builder, call, NULL);
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

PyDoc_STRVAR(
    get_or_compute_doc,
    "get_or_compute($self, /, key, fn, persist=False, *, ttl=None, size=None)\n--\n\n"
    "The value stored under key; if there is none, fn() is called without arguments, and what it returns is stored as "
    "set() would and\n"
    "returned as get() would. If meanwhile another call has stored a value, that one stays and is returned.\n\n"
    "Of all threads that miss one key at once, one calls its fn and the others wait for the outcome, also an "
    "exception; "
    "a fn that asks\n"
    "for its own key, over any number of keys and threads, computes it anew. If the key is deleted or the cache "
    "cleared "
    "meanwhile, the\n"
    "value is returned and not stored. Raises what set() and fn raise; nothing is stored then.");

static PyObject *
cache_get_or_compute(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "fn", "persist", "ttl", "size" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[5];
    pfo_keep how = PFO_KEEP_DEFAULT;
    how.first_wins = 1;
    if (parse_arguments("get_or_compute", names, 5, 3, 2, args, nargs, kwnames, found) < 0 ||
        parse_keep(self, found + 2, &how) < 0) {
        return NULL;
    }
    if (!PyCallable_Check(found[1])) {
        PyErr_Format(PyExc_TypeError, "fn must be callable, not %.200s", Py_TYPE(found[1])->tp_name);
        return NULL;
    }
    pfo_key_builder builder;
    if (check_open(self) < 0 || build_key_to_keep(self, &builder, found[0]) < 0) {
        return NULL;
    }
    const computation call = { .key = found[0], .fn = found[1], .how = &how };
    Py_INCREF(op); /* fn may drop the last reference to the cache that it is for */
    PyObject *value = find_or_compute(self, &builder, &call);
    pfo_key_drop(&builder);
    Py_DECREF(op);
    return value;
}

PyDoc_STRVAR(keep_doc,
             "_keep($self, /, key, value, persist=False, *, ttl=None, size=None)\n--\n\n"
             "Stores a computed value as get_or_compute() does, and returns what it returns; also of a closed "
             "cache. Internal: async\n"
             "methods.");

static PyObject *
cache_keep(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "value", "persist", "ttl", "size" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[5];
    pfo_keep how = PFO_KEEP_DEFAULT;
    how.first_wins = 1;
    pfo_key_builder builder;
    if (parse_arguments("_keep", names, 5, 3, 2, args, nargs, kwnames, found) < 0 ||
        parse_keep(self, found + 2, &how) < 0 || build_key_to_keep(self, &builder, found[0]) < 0) {
        return NULL;
    }
    PyObject *value = NULL;
    (void)keep(self, &builder, found[0], found[1], &how, &value);
    pfo_key_drop(&builder);
    return value;
}

PyDoc_STRVAR(
    delete_doc,
    "delete($self, key, /)\n--\n\n"
    "Removes the entry of key: True if there was one. Raises TypeError for a key that can be neither hashed nor read.");

static PyObject *
cache_delete(PyObject *op, PyObject *object)
{
    performance_cache *self = (performance_cache *)op;
    pfo_key_builder builder;
    if (check_open(self) < 0 || build_key(self, &builder, object) < 0) {
        return NULL;
    }
    const int existed =
        pfo_flight_detach(&self->flights, &builder) < 0 ? -1 : pfo_tiers_delete(&self->tiers, &builder, &disk_prefix);
    pfo_key_drop(&builder);
    return existed < 0 ? NULL : PyBool_FromLong(existed);
}

PyDoc_STRVAR(touch_doc, "touch($self, /, key, ttl=None)\n--\n\n"
                        "Gives the entry of key a new time to live, from now: True if there was one.\n\n"
                        "ttl: seconds (above 0) or a datetime.timedelta; None: that of the cache, for ever if it has "
                        "none.\n"
                        "Raises TypeError or ValueError naming ttl, TypeError for a key that can be neither hashed nor "
                        "read.");

static PyObject *
cache_touch(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "ttl" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[2];
    uint64_t ttl_ns;
    pfo_key_builder builder;
    if (parse_arguments("touch", names, 2, 2, 1, args, nargs, kwnames, found) < 0 ||
        pfo_parse_ttl(found[1], PFO_TTL_DEFAULT, &ttl_ns) < 0 || check_open(self) < 0 ||
        build_key(self, &builder, found[0]) < 0) {
        return NULL;
    }
    const int existed = pfo_tiers_touch(&self->tiers, &builder, &disk_prefix, ttl_ns);
    pfo_key_drop(&builder);
    return existed < 0 ? NULL : PyBool_FromLong(existed);
}

static int
cache_contains(PyObject *op, PyObject *object)
{
    performance_cache *self = (performance_cache *)op;
    pfo_key_builder builder;
    if (check_open(self) < 0 || build_key(self, &builder, object) < 0) {
        return -1;
    }
    const int found = pfo_tiers_contains(&self->tiers, &builder, &disk_prefix);
    pfo_key_drop(&builder);
    return found;
}

PyDoc_STRVAR(peek_doc, "_peek($self, key, /)\n--\n\n"
                       "(True, value) on a hit in memory, else (False, key as a ContentKey), which is then no lookup. "
                       "Internal: async methods.");

static PyObject *
cache_peek(PyObject *op, PyObject *object)
{
    performance_cache *self = (performance_cache *)op;
    pfo_key_builder builder;
    if (check_open(self) < 0 || build_key_to_keep(self, &builder, object) < 0) {
        return NULL;
    }
    PyObject *value = NULL;
    const uint32_t slot = pfo_tiers_find(&self->tiers, &builder);
    int answer = slot == PFO_SLOT_FAILED ? -1 : slot == PFO_SLOT_NONE ? 0 : pfo_tiers_take(&self->tiers, slot, &value);
    if (answer == 0) {
        value = pfo_content_key_of_builder(&builder);
        answer = value == NULL ? -1 : 0;
    }
    pfo_key_drop(&builder);
    return answer < 0 ? NULL : Py_BuildValue("(NN)", PyBool_FromLong(answer), value);
}

PyDoc_STRVAR(token_doc, "_token($self, key, /)\n--\n\nThe key as a ContentKey. Internal: async methods.");

static PyObject *
cache_token(PyObject *op, PyObject *object)
{
    pfo_key_builder builder;
    if (build_key_to_keep((performance_cache *)op, &builder, object) < 0) {
        return NULL;
    }
    PyObject *token = pfo_content_key_of_builder(&builder);
    pfo_key_drop(&builder);
    return token;
}

/* ---- the whole cache ------------------------------------------------------------------------- */

PyDoc_STRVAR(clear_doc,
             "clear($self, /)\n--\n\nForgets every entry, also those on disk, and sets the counters to 0.\n\n"
             "Raises OSError when the directory cannot be cleared.");

static PyObject *
cache_clear(PyObject *op, PyObject *unused)
{
    (void)unused;
    performance_cache *self = (performance_cache *)op;
    if (check_open(self) < 0) {
        return NULL;
    }
    pfo_flight_detach_all(&self->flights);
    if (pfo_tiers_clear(&self->tiers) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(expire_doc,
             "expire($self, /)\n--\n\n"
             "Removes every expired entry: how many, one in memory and on disk counted twice. Not needed for "
             "correctness: an expired entry is never "
             "returned, and leaves\n"
             "when room is needed or when entries with a ttl are added; it only frees memory and disk at once.\n\n"
             "Raises OSError when the disk fails or cannot be written to.");

static PyObject *
cache_expire(PyObject *op, PyObject *unused)
{
    (void)unused;
    performance_cache *self = (performance_cache *)op;
    uint64_t removed;
    if (check_open(self) < 0 || pfo_tiers_expire(&self->tiers, &removed) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(removed);
}

PyDoc_STRVAR(resize_doc,
             "resize($self, /, *, max_size=..., max_bytes=...)\n--\n\n"
             "New bounds; one that is not given stays, None is no bound. What no longer fits is evicted at once.\n\n"
             "Entries that were stored while there was no max_bytes count with the size they were given, or 0.\n"
             "Raises TypeError or ValueError naming max_size or max_bytes.");

static PyObject *
cache_resize(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "max_size", "max_bytes" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[2];
    pfo_bounds bounds = self->tiers.store.bounds;
    if (parse_arguments("resize", names, 2, 0, 0, args, nargs, kwnames, found) < 0 ||
        (found[0] != NULL && pfo_parse_bound(found[0], names[0], &bounds.max_entries) < 0) ||
        (found[1] != NULL && pfo_parse_bound(found[1], names[1], &bounds.max_bytes) < 0) || check_open(self) < 0 ||
        pfo_tiers_resize(&self->tiers, &bounds) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(keys_doc, "keys($self, /)\n--\n\n"
                       "A new list of the keys of all entries in memory, in no order. Hashable keys come back as they "
                       "were given; for a key that\n"
                       "is known by its content only (an array, a list, a dict, ...) there is a ContentKey, which "
                       "stands for the same entry in\n"
                       "get, delete and touch.");

static PyObject *
cache_keys(PyObject *op, PyObject *unused)
{
    (void)unused;
    performance_cache *self = (performance_cache *)op;
    return check_open(self) < 0 ? NULL : pfo_tiers_snapshot(&self->tiers, 0);
}

PyDoc_STRVAR(items_doc,
             "items($self, /)\n--\n\n"
             "A new list of (key, value) of all entries in memory, in no order, keys as keys() gives them. Counts as "
             "no use of them.");

static PyObject *
cache_items(PyObject *op, PyObject *unused)
{
    (void)unused;
    performance_cache *self = (performance_cache *)op;
    return check_open(self) < 0 ? NULL : pfo_tiers_snapshot(&self->tiers, 1);
}

PyDoc_STRVAR(reset_stats_doc, "reset_stats($self, /)\n--\n\nSets the counters to 0; every entry stays.");

static PyObject *
cache_reset_stats(PyObject *op, PyObject *unused)
{
    (void)unused;
    pfo_tiers_reset_counters(&((performance_cache *)op)->tiers);
    Py_RETURN_NONE;
}

static Py_ssize_t
cache_length(PyObject *op)
{
    return (Py_ssize_t)((performance_cache *)op)->tiers.store.table.count;
}

PyDoc_STRVAR(
    get_stats_doc,
    "get_stats($self, /)\n--\n\n"
    "Counters as a new dict of plain numbers. Lookups: cache_hit_rate (hits per lookup, 0.0 to 1.0; 0.0 before "
    "the first lookup),\n"
    "hits, misses, memory_hits, disk_hits. Memory: memory_cache_size (entries now, expired ones that have not "
    "left yet included),\n"
    "max_size, bytes, max_bytes (None when unbounded), evictions (left to make room), expirations (left because "
    "their time was up),\n"
    "rejects (larger than max_bytes, so not stored). Disk, 0 without a cache_dir: disk_entries, disk_bytes, "
    "disk_evictions,\n"
    "corrupt_entries (found damaged, treated as a miss), write_failures.");

static PyObject *
cache_get_stats(PyObject *op, PyObject *unused)
{
    (void)unused;
    const pfo_tiers *tiers = &((performance_cache *)op)->tiers;
    const pfo_store *store = &tiers->store;
    pfo_disk_stats disk = { .entries = 0 };
    if (tiers->disk != NULL) {
        pfo_disk_tier_get_stats(tiers->disk, &disk);
    }
    PyObject *stats = PyDict_New();
    if (stats == NULL) {
        return NULL;
    }
    const uint64_t hits = store->hits + tiers->disk_hits;
    const uint64_t lookups = hits + store->misses;
    const double rate = lookups == 0 ? 0.0 : (double)hits / (double)lookups;
    const struct {
        const char *name;
        uint64_t number;
    } numbers[] = {
        { "memory_cache_size", store->table.count },
        { "hits", hits },
        { "misses", store->misses },
        { "memory_hits", store->hits },
        { "disk_hits", tiers->disk_hits },
        { "evictions", store->evictions },
        { "expirations", store->expirations },
        { "rejects", store->rejects },
        { "bytes", store->bytes },
        { "disk_entries", disk.entries },
        { "disk_bytes", disk.bytes },
        { "disk_evictions", disk.evictions },
        { "corrupt_entries", disk.corrupt },
        { "write_failures", disk.write_failures },
    };
    int failed = pfo_dict_set_steal(stats, "cache_hit_rate", PyFloat_FromDouble(rate)) < 0 ||
                 pfo_dict_set_steal(stats, "max_size", pfo_bound_object(store->bounds.max_entries)) < 0 ||
                 pfo_dict_set_steal(stats, "max_bytes", pfo_bound_object(store->bounds.max_bytes)) < 0;
    for (size_t i = 0; !failed && i < sizeof numbers / sizeof numbers[0]; i++) {
        failed = pfo_dict_set_steal(stats, numbers[i].name, PyLong_FromUnsignedLongLong(numbers[i].number)) < 0;
    }
    if (failed) {
        Py_CLEAR(stats);
    }
    return stats;
}

PyDoc_STRVAR(flush_doc,
             "flush($self, /)\n--\n\n"
             "Returns when everything that this cache wrote would survive a power cut. Nothing to do without "
             "a cache_dir.\n\n"
             "Raises OSError when the disk fails.");

static PyObject *
cache_flush(PyObject *op, PyObject *unused)
{
    (void)unused;
    performance_cache *self = (performance_cache *)op;
    if (check_open(self) < 0 || (self->tiers.disk != NULL && pfo_disk_tier_flush(self->tiers.disk) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(verify_doc,
             "verify($self, /, repair=False)\n--\n\n"
             "Reads and checks every entry on disk and looks for files that belong to none: a new dict of counts "
             "(checked, damaged, orphans,\n"
             "orphan_bytes, repaired, index_rebuilt).\n\n"
             "repair: remove what is damaged or belongs to nothing.\n"
             "Raises ValueError without a cache_dir, OSError when the disk fails.");

static PyObject *
cache_verify(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "repair" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[1];
    if (parse_arguments("verify", names, 1, 1, 0, args, nargs, kwnames, found) < 0 || check_open(self) < 0) {
        return NULL;
    }
    const int repair = found[0] == NULL ? 0 : PyObject_IsTrue(found[0]);
    if (repair < 0) {
        return NULL;
    }
    if (self->tiers.disk == NULL) {
        PyErr_SetString(PyExc_ValueError, "verify() checks entries on disk: this cache has no cache_dir");
        return NULL;
    }
    return pfo_disk_tier_verify(self->tiers.disk, repair);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Forgets the entries in memory, keeps those on disk; every later use raises ValueError, "
                        "besides close() and the statistics. "
                        "Leaving a with block does it.");

static PyObject *
cache_close(PyObject *op, PyObject *unused)
{
    (void)unused;
    performance_cache *self = (performance_cache *)op;
    if (!self->tiers.closed) {
        pfo_flight_detach_all(&self->flights);
        pfo_tiers_close(&self->tiers);
    }
    Py_RETURN_NONE;
}

static PyObject *
cache_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return check_open((performance_cache *)op) < 0 ? NULL : Py_NewRef(op);
}

static PyObject *
cache_exit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    (void)args;
    (void)nargs;
    return cache_close(op, NULL);
}

/* ---- making one ------------------------------------------------------------------------------ */

PyDoc_STRVAR(
    performance_cache_doc,
    "PerformanceCache(max_size=1000, cache_dir=None, *, max_bytes=None, max_disk_bytes=10737418240, ttl=None, "
    "policy='lru', "
    "compression='auto', durability='process', allow_pickle=None, on_evict=None)\n--\n\n"
    "A cache of key-value pairs: in memory, bounded by a number of entries and by bytes, and under it, where a "
    "cache_dir "
    "is given, on disk.\n\n"
    "max_size: entries, at least 0 (0 stores nothing); None for no bound.\n"
    "cache_dir: a directory (str or path) for the entries that are set with persist=True, made (mode 0700) if it is "
    "missing. Caches in any\n"
    "    number of processes may use one directory at once. A lookup that memory does not answer goes to it, and what "
    "is "
    "found moves up.\n"
    "max_bytes: of all values together; None for no bound. A value counts for the size given to set(), else it is "
    "measured: arrays and\n"
    "    tensors by the memory they keep alive, text and bytes by their length, containers with their members (shared "
    "ones once), other\n"
    "    objects by sys.getsizeof. Keys and the cache's own structure (about 80 bytes an entry) do not count.\n"
    "max_disk_bytes: of everything in cache_dir; None for no bound.\n"
    "ttl: seconds (above 0, also fractions) or a datetime.timedelta after which an entry is gone, on a monotonic "
    "clock; "
    "None: never.\n"
    "policy: which entry leaves when room is needed, by name; an expired one always leaves first.\n"
    "compression: 'auto' (where a sample shows that it pays), 'zstd' (always) or 'none', on disk.\n"
    "durability: 'process': what set() wrote survives the death of the process, and after a power cut entries may be "
    "missing, never\n"
    "    wrong; 'power': it survives a power cut, at the price of a flush for each set().\n"
    "allow_pickle: None or False: a value that has no safe format is refused, and nothing is ever unpickled. A secret "
    "key "
    "(bytes, at\n"
    "    least 16): such a value is pickled, and a pickle is only read when it carries a valid HMAC under this key.\n"
    "on_evict: called as on_evict(key, value, reason) after an entry has left; reason is 'evicted' (to make room), "
    "'expired', 'replaced'\n"
    "    (by set), 'deleted', 'cleared' (by clear or close) or 'invalid' (a tensor modified in place). It may use the "
    "cache; its exceptions\n"
    "    go to sys.unraisablehook. Not called when the cache itself is destroyed.\n\n"
    "Keys are typed (1, 1.0, True and '1' are four keys). Arrays, tensors and containers of them are keyed by "
    "their content,\n"
    "other objects by their own hash and equality. NumPy arrays are kept as read-only views and come back "
    "read-only; the array\n"
    "given to set() stays as it is. A tensor that was modified in place after set() is a miss.\n\n"
    "Raises TypeError or ValueError naming the argument. Safe to use from several threads.");

/* What the constructor was given, as numbers; objects are borrowed. */
typedef struct cache_arguments {
    PyObject *cache_dir;
    pfo_tiers_options tiers;
    pfo_disk_tier_options disk;
} cache_arguments;

static int
parse_constructor(PyObject *args, PyObject *kwargs, cache_arguments *parsed)
{
    static const char *const words[] = { "max_size",    "cache_dir",  "max_bytes",    "max_disk_bytes", "ttl", "policy",
                                         "compression", "durability", "allow_pickle", "on_evict",       NULL };
    static const char *const compressions[] = { "auto", "zstd", "none", NULL };
    static const char *const durabilities[] = { "process", "power", NULL };
    PyObject *max_size = NULL, *max_bytes = NULL, *max_disk_bytes = NULL, *ttl = NULL, *policy = NULL;
    PyObject *compression = NULL, *durability = NULL, *allow_pickle = NULL, *on_evict = Py_None;
    *parsed = (cache_arguments){ .cache_dir = Py_None };
    parsed->tiers.bounds.max_entries = 1000;
    parsed->disk.max_disk_bytes = UINT64_C(10) << 30;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO$OOOOOOOO:PerformanceCache", (char **)(uintptr_t)words,
                                     &max_size, &parsed->cache_dir, &max_bytes, &max_disk_bytes, &ttl, &policy,
                                     &compression, &durability, &allow_pickle, &on_evict) ||
        (max_size != NULL && pfo_parse_bound(max_size, "max_size", &parsed->tiers.bounds.max_entries) < 0) ||
        pfo_parse_bound(max_bytes, "max_bytes", &parsed->tiers.bounds.max_bytes) < 0 ||
        (max_disk_bytes != NULL &&
         pfo_parse_bound(max_disk_bytes, "max_disk_bytes", &parsed->disk.max_disk_bytes) < 0) ||
        pfo_parse_ttl(ttl, 0, &parsed->tiers.ttl_ns) < 0 || pfo_parse_policy(policy, &parsed->tiers.policy) < 0 ||
        pfo_parse_choice(compression, "compression", compressions, &parsed->disk.compression) < 0 ||
        pfo_parse_choice(durability, "durability", durabilities, &parsed->disk.durability) < 0 ||
        pfo_parse_allow_pickle(allow_pickle, &parsed->disk.pickle_key) < 0) {
        return -1;
    }
    if (on_evict != Py_None && !PyCallable_Check(on_evict)) {
        PyErr_Format(PyExc_TypeError, "on_evict must be callable or None, not %.200s", Py_TYPE(on_evict)->tp_name);
        return -1;
    }
    parsed->tiers.on_evict = on_evict == Py_None ? NULL : on_evict;
    parsed->disk.policy = parsed->tiers.policy->name;
    return 0;
}

static PyObject *
performance_cache_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    cache_arguments parsed;
    pfo_core_state *state = pfo_core_state_of_subtype(type);
    if (state == NULL || parse_constructor(args, kwargs, &parsed) < 0) {
        return NULL;
    }
    PyObject *directory = NULL;
    if (parsed.cache_dir != Py_None) {
        directory = pfo_parse_cache_dir(parsed.cache_dir);
        if (directory == NULL) {
            return NULL;
        }
        parsed.disk.cache_dir = directory;
        parsed.tiers.disk = &parsed.disk;
    }
    performance_cache *self = (performance_cache *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(directory);
        return NULL;
    }
    self->cache_dir = directory;
    pfo_flights_init(&self->flights);
    if (pfo_tiers_init(&self->tiers, state, (PyObject *)self, &parsed.tiers) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
performance_cache_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return pfo_tiers_traverse(&((performance_cache *)op)->tiers, visit, arg);
}

static int
performance_cache_tp_clear(PyObject *op)
{
    pfo_tiers_abandon(&((performance_cache *)op)->tiers);
    return 0;
}

static void
performance_cache_dealloc(PyObject *op)
{
    performance_cache *self = (performance_cache *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weak_references != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pfo_tiers_free(&self->tiers);
    pfo_flights_free(&self->flights);
    Py_CLEAR(self->cache_dir);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
performance_cache_repr(PyObject *op)
{
    const performance_cache *self = (performance_cache *)op;
    PyObject *max_size = pfo_bound_object(self->tiers.store.bounds.max_entries);
    if (max_size == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat("PerformanceCache(max_size=%S, cache_dir=%R)", max_size,
                                          self->cache_dir == NULL ? Py_None : self->cache_dir);
    Py_DECREF(max_size);
    return text;
}

static PyObject *
get_max_size(PyObject *op, void *unused)
{
    (void)unused;
    return pfo_bound_object(((performance_cache *)op)->tiers.store.bounds.max_entries);
}

static PyObject *
get_max_bytes(PyObject *op, void *unused)
{
    (void)unused;
    return pfo_bound_object(((performance_cache *)op)->tiers.store.bounds.max_bytes);
}

static PyObject *
get_policy(PyObject *op, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((performance_cache *)op)->tiers.store.policy.ops->name);
}

static PyObject *
get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((performance_cache *)op)->tiers.closed);
}

static PyObject *
get_cache_dir(PyObject *op, void *unused)
{
    (void)unused;
    const performance_cache *self = (performance_cache *)op;
    return Py_NewRef(self->cache_dir == NULL ? Py_None : self->cache_dir);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef performance_cache_methods[] = {
    { "set", FAST(cache_set), METH_FASTCALL | METH_KEYWORDS, set_doc },
    { "get", FAST(cache_get), METH_FASTCALL | METH_KEYWORDS, get_doc },
    { "get_or_compute", FAST(cache_get_or_compute), METH_FASTCALL | METH_KEYWORDS, get_or_compute_doc },
    { "delete", cache_delete, METH_O, delete_doc },
    { "touch", FAST(cache_touch), METH_FASTCALL | METH_KEYWORDS, touch_doc },
    { "clear", cache_clear, METH_NOARGS, clear_doc },
    { "expire", cache_expire, METH_NOARGS, expire_doc },
    { "resize", FAST(cache_resize), METH_FASTCALL | METH_KEYWORDS, resize_doc },
    { "keys", cache_keys, METH_NOARGS, keys_doc },
    { "items", cache_items, METH_NOARGS, items_doc },
    { "reset_stats", cache_reset_stats, METH_NOARGS, reset_stats_doc },
    { "get_stats", cache_get_stats, METH_NOARGS, get_stats_doc },
    { "flush", cache_flush, METH_NOARGS, flush_doc },
    { "verify", FAST(cache_verify), METH_FASTCALL | METH_KEYWORDS, verify_doc },
    { "close", cache_close, METH_NOARGS, close_doc },
    { "__enter__", cache_enter, METH_NOARGS, NULL },
    { "__exit__", FAST(cache_exit), METH_FASTCALL, NULL },
    { "_keep", FAST(cache_keep), METH_FASTCALL | METH_KEYWORDS, keep_doc },
    { "_peek", cache_peek, METH_O, peek_doc },
    { "_token", cache_token, METH_O, token_doc },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef performance_cache_members[] = {
    { "__weaklistoffset__", T_PYSSIZET, offsetof(performance_cache, weak_references), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef performance_cache_getset[] = {
    { "max_size", get_max_size, NULL, "The bound in entries; None when there is none.", NULL },
    { "max_bytes", get_max_bytes, NULL, "The bound in bytes of values; None when there is none.", NULL },
    { "policy", get_policy, NULL, "The name of the eviction policy.", NULL },
    { "cache_dir", get_cache_dir, NULL, "The directory given, as a str; None when there is none.", NULL },
    { "closed", get_closed, NULL, "Whether close() was called.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot performance_cache_slots[] = {
    { Py_tp_doc, (void *)performance_cache_doc },         { Py_tp_new, (void *)performance_cache_new },
    { Py_tp_dealloc, (void *)performance_cache_dealloc }, { Py_tp_traverse, (void *)performance_cache_traverse },
    { Py_tp_clear, (void *)performance_cache_tp_clear },  { Py_tp_repr, (void *)performance_cache_repr },
    { Py_sq_contains, (void *)cache_contains },           { Py_mp_length, (void *)cache_length },
    { Py_tp_methods, performance_cache_methods },         { Py_tp_members, performance_cache_members },
    { Py_tp_getset, performance_cache_getset },           { 0, NULL },
};

PyType_Spec pfo_performance_cache_spec = {
    .name = "perfopt._core.PerformanceCache",
    .basicsize = sizeof(performance_cache),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE,
    .slots = performance_cache_slots,
};
