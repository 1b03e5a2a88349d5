/* cache_type.c: PerformanceCache: a bounded cache of key-value pairs (cache_tiers.h) as a Python type; what concerns one key is in
 * cache_entries.c.
 *
 * References: the tiers own keys, values and guards; keys are held strongly, because the user put them in by hand.
 * Threads: the GIL serialises; it may change hands wherever user code runs [re-entrancy].
 */
#include "bindings/common/dicts.h"
#include "bindings/common/errors.h"
#include "bindings/core/cache_entries.h"
#include "bindings/core/cache_options.h"
#include "bindings/core/cache_tiers.h"
#include "bindings/core/content_key.h"

#include <structmember.h>

typedef pfo_performance_cache performance_cache;

/* ---- the whole cache ------------------------------------------------------------------------- */

PyDoc_STRVAR(clear_doc,
             "clear($self, /)\n--\n\nForgets every entry, also those on disk, and sets the counters to 0.\n\n"
             "Raises OSError when the directory cannot be cleared.");

/* What async methods compute is handed to those who wait, but not kept. Runs Python code. */
static int
delist_all_async(performance_cache *self)
{
    if (self->async_flights == NULL) {
        return 0;
    }
    PyObject *flights = Py_NewRef(self->async_flights);
    PyObject *answer = PyObject_CallMethodNoArgs(flights, self->tiers.state->name_delist_all);
    Py_DECREF(flights);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

static PyObject *
cache_clear(PyObject *op, PyObject *unused)
{
    (void)unused;
    performance_cache *self = (performance_cache *)op;
    if (pfo_cache_check_open(self) < 0) {
        return NULL;
    }
    pfo_flight_detach_all(&self->flights);
    if (delist_all_async(self) < 0 || pfo_tiers_clear(&self->tiers) < 0) {
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
    if (pfo_cache_check_open(self) < 0 || pfo_tiers_expire(&self->tiers, &removed) < 0) {
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
    if (pfo_parse_arguments("resize", names, 2, 0, 0, args, nargs, kwnames, found) < 0 ||
        (found[0] != NULL && pfo_parse_bound(found[0], names[0], &bounds.max_entries) < 0) ||
        (found[1] != NULL && pfo_parse_bound(found[1], names[1], &bounds.max_bytes) < 0) ||
        pfo_cache_check_open(self) < 0 || pfo_tiers_resize(&self->tiers, &bounds) < 0) {
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
    return pfo_cache_check_open(self) < 0 ? NULL : pfo_tiers_snapshot(&self->tiers, 0);
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
    return pfo_cache_check_open(self) < 0 ? NULL : pfo_tiers_snapshot(&self->tiers, 1);
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
    if (pfo_cache_check_open(self) < 0 || (self->tiers.disk != NULL && pfo_disk_tier_flush(self->tiers.disk) < 0)) {
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
    if (pfo_parse_arguments("verify", names, 1, 1, 0, args, nargs, kwnames, found) < 0 ||
        pfo_cache_check_open(self) < 0) {
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
    return pfo_cache_check_open((performance_cache *)op) < 0 ? NULL : Py_NewRef(op);
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
    "    What is found on disk keeps the end it was stored with; where that is none, it is good for ttl from when it "
    "was "
    "stored (in whole\n"
    "    seconds, on the wall clock).\n"
    "policy: which entry leaves when room is needed, by name; an expired one always leaves first.\n"
    "compression: 'auto' (where a sample shows that it pays), 'zstd' (always) or 'none', on disk.\n"
    "durability: 'process': what set() wrote survives the death of the process, and after a power cut entries may be "
    "missing, never\n"
    "    wrong; 'power': it survives a power cut, at the price of a flush for each set().\n"
    "allow_pickle: None or False: a value that has no safe format is refused, and nothing is ever unpickled. A secret "
    "key "
    "(bytes, at\n"
    "    least 16): such a value is pickled, and a pickle is only read when it carries a valid HMAC under this key.\n"
    "    What the value's own __reduce__ or __getstate__ raises comes out of set().\n"
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
    Py_VISIT(((performance_cache *)op)->async_flights);
    return pfo_tiers_traverse(&((performance_cache *)op)->tiers, visit, arg);
}

static int
performance_cache_tp_clear(PyObject *op)
{
    Py_CLEAR(((performance_cache *)op)->async_flights);
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
    Py_CLEAR(self->async_flights);
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
    { "set", FAST(pfo_cache_set), METH_FASTCALL | METH_KEYWORDS, pfo_cache_set_doc },
    { "get", FAST(pfo_cache_get), METH_FASTCALL | METH_KEYWORDS, pfo_cache_get_doc },
    { "get_or_compute", FAST(pfo_cache_get_or_compute), METH_FASTCALL | METH_KEYWORDS, pfo_cache_get_or_compute_doc },
    { "delete", pfo_cache_delete, METH_O, pfo_cache_delete_doc },
    { "touch", FAST(pfo_cache_touch), METH_FASTCALL | METH_KEYWORDS, pfo_cache_touch_doc },
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
    { "_begin", FAST(pfo_cache_begin), METH_FASTCALL | METH_KEYWORDS, pfo_cache_begin_doc },
    { "_keep", FAST(pfo_cache_keep), METH_FASTCALL | METH_KEYWORDS, pfo_cache_keep_doc },
    { "_peek", pfo_cache_peek, METH_O, pfo_cache_peek_doc },
    { "_depart", pfo_cache_depart, METH_O, pfo_cache_depart_doc },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef performance_cache_members[] = {
    { "__weaklistoffset__", T_PYSSIZET, offsetof(performance_cache, weak_references), READONLY, NULL },
    { "_flights", T_OBJECT_EX, offsetof(performance_cache, async_flights), 0,
      "What async methods compute: absent until the first of them does. Internal." },
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
    { Py_sq_contains, (void *)pfo_cache_contains },       { Py_mp_length, (void *)cache_length },
    { Py_tp_methods, performance_cache_methods },         { Py_tp_members, performance_cache_members },
    { Py_tp_getset, performance_cache_getset },           { 0, NULL },
};

PyType_Spec pfo_performance_cache_spec = {
    .name = "perfopt._core.PerformanceCache",
    .basicsize = sizeof(performance_cache),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE,
    .slots = performance_cache_slots,
};
