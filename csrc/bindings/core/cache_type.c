/* cache_type.c: PerformanceCache: a bounded memory cache with set, get and delete.
 *
 * Invariants and references as in cached_function_type.c; keys are held strongly here, because the user put them in by hand.
 * Threads: the GIL serialises; it may change hands wherever user code runs.
 */
#include "bindings/common/errors.h"
#include "bindings/core/cache_values.h"
#include "bindings/core/key.h"

#include <structmember.h>
#include <sys/stat.h>

typedef struct performance_cache {
    PyObject_HEAD
    pfo_core_state *state;
    pfo_store store;
    PyObject *cache_dir; /* str or NULL */
    PyObject *weak_references;
} performance_cache;

/* ---- keys and search ------------------------------------------------------------------------- */

/* 0 with a finished builder, or -1 with an exception. */
static int
build_key(const performance_cache *self, pfo_key_builder *builder, PyObject *object)
{
    pfo_key_start(builder, self->state, 0);
    const int answer = pfo_key_add(builder, object);
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

static uint32_t
find_built(const performance_cache *self, const pfo_key_builder *builder)
{
    int exhausted;
    const uint32_t slot = pfo_table_find(&self->store.table, builder->hash, builder, pfo_key_equal, NULL, &exhausted);
    if (slot == PFO_SLOT_FAILED && exhausted) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the cache changed during every comparison of a key (does __eq__ use this cache?)");
    }
    return slot;
}

static uint32_t
find(const performance_cache *self, PyObject *object)
{
    if (PyUnicode_CheckExact(object) || PyLong_CheckExact(object)) {
        const uint64_t hash = (uint64_t)Py_TYPE(object)->tp_hash(object);
        return pfo_table_find_inline(&self->store.table, hash, object, pfo_key_equal_simple);
    }
    pfo_key_builder builder;
    if (build_key(self, &builder, object) < 0) {
        return PFO_SLOT_FAILED;
    }
    const uint32_t slot = find_built(self, &builder);
    if (builder.count == 1 && builder.parts[0].kind != PFO_PART_OBJECT) {
        pfo_key_drop(&builder); /* runs no user code: the slot stays good */
        return slot;
    }
    const uint64_t mutations = self->store.table.mutations;
    void *key = slot < PFO_SLOT_FAILED ? self->store.table.entries[slot].key : NULL;
    const uint64_t hash = builder.hash;
    pfo_key_drop(&builder);
    if (slot < PFO_SLOT_FAILED && self->store.table.mutations != mutations) {
        return pfo_table_find_identity(&self->store.table, hash, key);
    }
    return slot;
}

static void
never_orphaned(PyObject *owner, uint64_t hash, void *key)
{
    (void)owner;
    (void)hash;
    (void)key;
}

/* ---- set, get, delete ------------------------------------------------------------------------ */

/* Puts key, value and guard, all of which it takes over, where a search just found slot. */
static int
put_at(performance_cache *self, uint32_t slot, uint64_t hash, void *key, PyObject *value, PyObject *guard)
{
    pfo_error err = PFO_ERROR_INIT;
    int stored = 0;
    const pfo_status status = slot == PFO_SLOT_NONE
                                  ? pfo_store_insert(&self->store, hash, key, value, guard, 0, &stored, &err)
                                  : pfo_store_replace(&self->store, slot, value, guard, 0, &stored, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
    }
    if (!stored || slot != PFO_SLOT_NONE) {
        pfo_key_release(key);
    }
    if (!stored) {
        Py_DECREF(value);
        Py_XDECREF(guard);
    }
    pfo_release_victims(&self->store);
    return status == PFO_OK ? 0 : -1;
}

/* Takes value and guard over. */
static int
put(performance_cache *self, PyObject *object, PyObject *value, PyObject *guard)
{
    if (PyUnicode_CheckExact(object) || PyLong_CheckExact(object)) {
        const uint64_t hash = (uint64_t)Py_TYPE(object)->tp_hash(object);
        const uint32_t slot = pfo_table_find_inline(&self->store.table, hash, object, pfo_key_equal_simple);
        return put_at(self, slot, hash, Py_NewRef(object), value, guard);
    }
    pfo_key_builder builder;
    int failed = build_key(self, &builder, object);
    if (!failed) {
        void *key = pfo_key_keep(&builder, (PyObject *)self, never_orphaned);
        const uint32_t slot = key == NULL ? PFO_SLOT_FAILED : find_built(self, &builder);
        if (slot != PFO_SLOT_FAILED) {
            failed = put_at(self, slot, builder.hash, key, value, guard);
            pfo_key_drop(&builder);
            return failed;
        }
        pfo_key_release(key);
        pfo_key_drop(&builder);
    }
    Py_DECREF(value);
    Py_XDECREF(guard);
    return -1;
}

/* Arguments by position or name, without a format string: found[i] stays NULL where names[i] was not given. */
static int
parse_arguments(const char *function, const char *const *names, Py_ssize_t count, Py_ssize_t required,
                PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **found)
{
    if (nargs > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments (%zd given)", function, count, nargs);
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

PyDoc_STRVAR(
    set_doc,
    "set($self, /, key, value, persist=False)\n--\n\n"
    "Stores value under key and makes it the most recently used entry; the least recently used one leaves when "
    "max_size is\n"
    "exceeded.\n\n"
    "key: any hashable object, or one whose content can be read (arrays, tensors, lists, dicts, ...: by content).\n"
    "value: anything; NumPy arrays in it are kept as read-only views, tensors with their version counter.\n"
    "persist: only False for now.\n"
    "Raises TypeError for a key that can be neither hashed nor read, and NotImplementedError for persist=True.");

static PyObject *
cache_set(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "value", "persist" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[3] = { nargs > 0 ? args[0] : NULL, nargs > 1 ? args[1] : NULL, NULL };
    if ((nargs != 2 || kwnames != NULL) && parse_arguments("set", names, 3, 2, args, nargs, kwnames, found) < 0) {
        return NULL;
    }
    const int persist = found[2] == NULL ? 0 : PyObject_IsTrue(found[2]);
    if (persist != 0) {
        if (persist > 0) {
            PyErr_SetString(PyExc_NotImplementedError,
                            "persist=True needs the disk tier, which this version does not have; "
                            "entries are kept in memory only");
        }
        return NULL;
    }
    PyObject *guard;
    PyObject *kept = pfo_value_prepare(self->state, found[1], 0, &guard);
    if (kept == NULL || put(self, found[0], kept, guard) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* New reference to a live slot's value, counted as a hit; NULL without an exception when its guard no longer holds. */
static PyObject *
take_guarded(performance_cache *self, uint32_t slot)
{
    const pfo_entry *entry = &self->store.table.entries[slot];
    PyObject *value = Py_NewRef((PyObject *)entry->value);
    PyObject *guard = Py_NewRef((PyObject *)entry->guard);
    void *key = entry->key;
    const uint64_t hash = entry->hash;
    const int holds = pfo_value_guard_holds(self->state, guard);
    slot = pfo_table_find_identity(&self->store.table, hash, key); /* the check may have run other code */
    const int still_there = slot != PFO_SLOT_NONE && self->store.table.entries[slot].guard == guard;
    if (holds == 1 && still_there) {
        pfo_store_hit(&self->store, slot);
    } else if (holds == 0 && still_there) {
        pfo_store_remove(&self->store, slot);
    }
    Py_DECREF(guard);
    if (holds != 1) {
        Py_CLEAR(value);
    }
    pfo_release_victims(&self->store);
    return value;
}

PyDoc_STRVAR(get_doc, "get($self, /, key, default=None)\n--\n\n"
                      "The value stored under key, which becomes the most recently used entry; default if there is "
                      "none, or if it is a tensor\n"
                      "that was modified in place since it was stored. NumPy arrays come back read-only.\n\n"
                      "Raises TypeError for a key that can be neither hashed nor read.");

static PyObject *
cache_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = { "key", "default" };
    performance_cache *self = (performance_cache *)op;
    PyObject *found[2] = { nargs > 0 ? args[0] : NULL, NULL };
    if ((nargs != 1 || kwnames != NULL) && parse_arguments("get", names, 2, 1, args, nargs, kwnames, found) < 0) {
        return NULL;
    }
    const uint32_t slot = find(self, found[0]);
    if (slot < PFO_SLOT_FAILED) {
        const pfo_entry *entry = &self->store.table.entries[slot];
        if (entry->guard == NULL) {
            pfo_store_hit(&self->store, slot);
            return Py_NewRef((PyObject *)entry->value);
        }
        PyObject *value = take_guarded(self, slot);
        if (value != NULL) {
            return value;
        }
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    self->store.misses++;
    return Py_NewRef(found[1] == NULL ? Py_None : found[1]);
}

PyDoc_STRVAR(
    delete_doc,
    "delete($self, key, /)\n--\n\n"
    "Removes the entry of key: True if there was one. Raises TypeError for a key that can be neither hashed nor read.");

static PyObject *
cache_delete(PyObject *op, PyObject *object)
{
    performance_cache *self = (performance_cache *)op;
    const uint32_t slot = find(self, object);
    if (slot == PFO_SLOT_FAILED) {
        return NULL;
    }
    if (slot == PFO_SLOT_NONE) {
        Py_RETURN_FALSE;
    }
    pfo_store_remove(&self->store, slot);
    pfo_release_victims(&self->store);
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(clear_doc, "clear($self, /)\n--\n\nForgets every entry and sets the counters to 0.");

static PyObject *
cache_clear(PyObject *op, PyObject *unused)
{
    (void)unused;
    performance_cache *self = (performance_cache *)op;
    pfo_store_clear(&self->store);
    pfo_store_reset_counters(&self->store);
    pfo_release_victims(&self->store);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(reset_stats_doc, "reset_stats($self, /)\n--\n\nSets the counters to 0; every entry stays.");

static PyObject *
cache_reset_stats(PyObject *op, PyObject *unused)
{
    (void)unused;
    pfo_store_reset_counters(&((performance_cache *)op)->store);
    Py_RETURN_NONE;
}

static int
cache_contains(PyObject *op, PyObject *object)
{
    const uint32_t slot = find((performance_cache *)op, object);
    return slot == PFO_SLOT_FAILED ? -1 : slot != PFO_SLOT_NONE;
}

static Py_ssize_t
cache_length(PyObject *op)
{
    return (Py_ssize_t)((performance_cache *)op)->store.table.count;
}

PyDoc_STRVAR(get_stats_doc,
             "get_stats($self, /)\n--\n\n"
             "Counters as a new dict of plain numbers: cache_hit_rate (hits per lookup, 0.0 to 1.0; 0.0 before the "
             "first lookup),\n"
             "memory_cache_size (entries now), hits, misses, evictions, and max_size (None when unbounded).");

static PyObject *
cache_get_stats(PyObject *op, PyObject *unused)
{
    (void)unused;
    const performance_cache *self = (performance_cache *)op;
    PyObject *max_size = pfo_max_size_object(&self->store);
    if (max_size == NULL) {
        return NULL;
    }
    const uint64_t lookups = self->store.hits + self->store.misses;
    const double rate = lookups == 0 ? 0.0 : (double)self->store.hits / (double)lookups;
    return Py_BuildValue("{s:d,s:k,s:K,s:K,s:K,s:N}", "cache_hit_rate", rate, "memory_cache_size",
                         (unsigned long)self->store.table.count, "hits", (unsigned long long)self->store.hits, "misses",
                         (unsigned long long)self->store.misses, "evictions", (unsigned long long)self->store.evictions,
                         "max_size", max_size);
}

/* ---- making one ------------------------------------------------------------------------------ */

/* A str of a directory that exists or can be made later; NULL with an exception. */
static PyObject *
parse_cache_dir(PyObject *object)
{
    PyObject *path = PyOS_FSPath(object);
    if (path == NULL || !PyUnicode_Check(path)) {
        if (path != NULL || PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "cache_dir must be a str, a path or None, not %.200s",
                         Py_TYPE(object)->tp_name);
        }
        Py_XDECREF(path);
        return NULL;
    }
    PyObject *encoded = NULL;
    if (!PyUnicode_FSConverter(path, &encoded)) { /* ValueError for an embedded null */
        Py_DECREF(path);
        return NULL;
    }
    struct stat found;
    const char *text = PyBytes_AS_STRING(encoded);
    const int is_file = text[0] != '\0' && stat(text, &found) == 0 && !S_ISDIR(found.st_mode);
    if (text[0] == '\0') {
        PyErr_SetString(PyExc_ValueError, "cache_dir must not be empty");
        Py_CLEAR(path);
    } else if (is_file) {
        PyErr_Format(PyExc_ValueError, "cache_dir %R exists and is not a directory", path);
        Py_CLEAR(path);
    }
    Py_DECREF(encoded);
    return path;
}

PyDoc_STRVAR(performance_cache_doc,
             "PerformanceCache(max_size=1000, cache_dir=None)\n--\n\n"
             "A cache of key-value pairs in memory, bounded by a number of entries; the least recently used one leaves "
             "first.\n\n"
             "max_size: entries, at least 0 (0 stores nothing); None for no bound.\n"
             "cache_dir: a directory (str or path) for entries that are to outlive the process; remembered and not "
             "used by this version.\n\n"
             "Keys are typed (1, 1.0, True and '1' are four keys). Arrays, tensors and containers of them are keyed by "
             "their content,\n"
             "other objects by their own hash and equality. NumPy arrays are kept as read-only views and come back "
             "read-only; the array\n"
             "given to set() stays as it is. A tensor that was modified in place after set() is a miss.\n\n"
             "Raises TypeError or ValueError naming max_size or cache_dir. Safe to use from several threads.");

static PyObject *
performance_cache_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static const char *const words[] = { "max_size", "cache_dir", NULL };
    PyObject *max_size = NULL;
    PyObject *cache_dir = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:PerformanceCache", (char **)(uintptr_t)words, &max_size,
                                     &cache_dir)) {
        return NULL;
    }
    uint64_t max_entries = 1000;
    if (max_size != NULL && pfo_parse_max_size(max_size, &max_entries) < 0) {
        return NULL;
    }
    pfo_core_state *state = pfo_core_state_of_subtype(type);
    if (state == NULL) {
        return NULL;
    }
    PyObject *directory = NULL;
    if (cache_dir != Py_None) {
        directory = parse_cache_dir(cache_dir);
        if (directory == NULL) {
            return NULL;
        }
    }
    performance_cache *self = (performance_cache *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(directory);
        return NULL;
    }
    const pfo_bounds bounds = { .max_entries = max_entries, .max_bytes = PFO_STORE_UNBOUNDED };
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_store_init(&self->store, &pfo_policy_lru, &bounds, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        Py_XDECREF(directory);
        Py_DECREF(self);
        return NULL;
    }
    self->state = state;
    self->cache_dir = directory;
    return (PyObject *)self;
}

static int
performance_cache_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return pfo_visit_store(&((performance_cache *)op)->store, visit, arg);
}

static int
performance_cache_tp_clear(PyObject *op)
{
    performance_cache *self = (performance_cache *)op;
    self->store.bounds.max_entries = 0; /* what finalizers put in from here on is not kept */
    pfo_store_clear(&self->store);
    pfo_release_victims(&self->store);
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
    if (self->state != NULL) {
        pfo_release_store(&self->store);
    }
    Py_CLEAR(self->cache_dir);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
performance_cache_repr(PyObject *op)
{
    const performance_cache *self = (performance_cache *)op;
    PyObject *max_size = pfo_max_size_object(&self->store);
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
    return pfo_max_size_object(&((performance_cache *)op)->store);
}

static PyObject *
get_cache_dir(PyObject *op, void *unused)
{
    (void)unused;
    const performance_cache *self = (performance_cache *)op;
    return Py_NewRef(self->cache_dir == NULL ? Py_None : self->cache_dir);
}

static PyMethodDef performance_cache_methods[] = {
    { "set", (PyCFunction)(void (*)(void))cache_set, METH_FASTCALL | METH_KEYWORDS, set_doc },
    { "get", (PyCFunction)(void (*)(void))cache_get, METH_FASTCALL | METH_KEYWORDS, get_doc },
    { "delete", cache_delete, METH_O, delete_doc },
    { "clear", cache_clear, METH_NOARGS, clear_doc },
    { "reset_stats", cache_reset_stats, METH_NOARGS, reset_stats_doc },
    { "get_stats", cache_get_stats, METH_NOARGS, get_stats_doc },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef performance_cache_members[] = {
    { "__weaklistoffset__", T_PYSSIZET, offsetof(performance_cache, weak_references), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef performance_cache_getset[] = {
    { "max_size", get_max_size, NULL, "The bound in entries; None when there is none.", NULL },
    { "cache_dir", get_cache_dir, NULL, "The directory given, as a str; None when there is none.", NULL },
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
