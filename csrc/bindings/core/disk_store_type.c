/* disk_store_type.c: DiskStore: one cache directory by 16-byte keys, without a memory tier in front: the `perfopt cache` command and tests.
 *
 * Invariant: tier is NULL once the store is closed; every method but close() then raises RuntimeError.
 * Threads: the GIL serialises; disk_tier.h says what is allowed while it is released. Memory: the store owns its tier.
 */
#include "bindings/core/disk_tier.h"

#include "bindings/common/dicts.h"

#include <string.h>

typedef struct disk_store {
    PyObject_HEAD
    pfo_disk_tier *tier;
} disk_store;

/* The open tier, or NULL with an exception. */
static pfo_disk_tier *
tier_of(PyObject *op)
{
    pfo_disk_tier *tier = ((disk_store *)op)->tier;
    if (tier == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this DiskStore is closed");
    }
    return tier;
}

static int
parse_key(PyObject *object, pfo_digest *key)
{
    if (!PyBytes_Check(object) || PyBytes_GET_SIZE(object) != PFO_DIGEST_BYTES) {
        PyErr_Format(PyExc_ValueError, "key must be %d bytes, not %R", PFO_DIGEST_BYTES, object);
        return -1;
    }
    memcpy(key->bytes, PyBytes_AS_STRING(object), PFO_DIGEST_BYTES);
    return 0;
}

static PyObject *
disk_store_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "cache_dir",   "max_disk_bytes", "policy",     "durability",
                             "compression", "pickle_key",     "must_exist", NULL };
    pfo_disk_tier_options options = { .policy = "lru", .durability = "process", .compression = "auto" };
    unsigned long long max_disk_bytes = 10ULL << 30;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U|$KsssOp:DiskStore", names, &options.cache_dir, &max_disk_bytes,
                                     &options.policy, &options.durability, &options.compression, &options.pickle_key,
                                     &options.must_exist)) {
        return NULL;
    }
    options.max_disk_bytes = max_disk_bytes;
    pfo_core_state *state = pfo_core_state_of_type(type);
    disk_store *self = state == NULL ? NULL : (disk_store *)type->tp_alloc(type, 0);
    if (self != NULL && pfo_disk_tier_open(state, &options, &self->tier) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(get_doc, "get($self, key, default=None, /)\n--\n\n"
                      "The value under a 16-byte key, or default. Damage is a miss.");

static PyObject *
disk_store_get(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    pfo_digest key;
    PyObject *value;
    pfo_disk_times times;
    if (count < 1 || count > 2) {
        PyErr_Format(PyExc_TypeError, "get() takes a key and a default, not %zd arguments", count);
        return NULL;
    }
    pfo_disk_tier *tier = tier_of(op);
    if (tier == NULL || parse_key(args[0], &key) < 0 || pfo_disk_tier_get(tier, &key, &value, &times) < 0) {
        return NULL;
    }
    return value != NULL ? value : Py_NewRef(count == 2 ? args[1] : Py_None);
}

PyDoc_STRVAR(
    put_doc,
    "put($self, key, value, *, label=None, expires_ns=0)\n--\n\n"
    "Store value under a 16-byte key until the wall clock shows expires_ns (ns since 1970; 0: for ever).\n"
    "Returns whether it was stored: not when it alone exceeds the bound, or when the disk fails (warned of\n"
    "once). Raises TypeError for a value that no safe format holds, and what the value's own pickling raises.");

static PyObject *
disk_store_put(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "key", "value", "label", "expires_ns", NULL };
    PyObject *key_object, *value, *label = Py_None;
    unsigned long long expires_ns = 0;
    pfo_digest key;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$OK:put", names, &key_object, &value, &label, &expires_ns) ||
        parse_key(key_object, &key) < 0) {
        return NULL;
    }
    if (label != Py_None && !PyUnicode_Check(label)) {
        PyErr_Format(PyExc_TypeError, "label must be a str or None, not %.200s", Py_TYPE(label)->tp_name);
        return NULL;
    }
    pfo_disk_tier *tier = tier_of(op);
    int stored;
    PyTypeObject *culprit;
    const int result = tier == NULL ? -1
                                    : pfo_disk_tier_put(tier, &key, label == Py_None ? NULL : label, value, expires_ns,
                                                        NULL, &stored, &culprit);
    if (result > 0) {
        PyErr_Format(PyExc_TypeError, "value: a %.200s cannot be stored in a safe format (pickle_key= allows pickles)",
                     culprit->tp_name);
        Py_DECREF(culprit);
    }
    return result != 0 ? NULL : PyBool_FromLong(stored);
}

PyDoc_STRVAR(delete_doc, "delete($self, key, /)\n--\n\n"
                         "Remove an entry; returns whether there was one. Raises OSError when the disk fails.");

static PyObject *
disk_store_delete(PyObject *op, PyObject *key_object)
{
    pfo_digest key;
    int existed;
    pfo_disk_tier *tier = tier_of(op);
    if (tier == NULL || parse_key(key_object, &key) < 0 || pfo_disk_tier_delete(tier, &key, NULL, &existed) < 0) {
        return NULL;
    }
    return PyBool_FromLong(existed);
}

PyDoc_STRVAR(touch_doc, "touch($self, key, expires_ns, /)\n--\n\n"
                        "Give an entry a new end (wall clock, ns since 1970; 0: never); returns whether there is one.");

static PyObject *
disk_store_touch(PyObject *op, PyObject *args)
{
    PyObject *key_object;
    unsigned long long expires_ns;
    pfo_digest key;
    int existed;
    pfo_disk_tier *tier = tier_of(op);
    if (tier == NULL || !PyArg_ParseTuple(args, "OK:touch", &key_object, &expires_ns) ||
        parse_key(key_object, &key) < 0 || pfo_disk_tier_touch(tier, &key, expires_ns, &existed) < 0) {
        return NULL;
    }
    return PyBool_FromLong(existed);
}

PyDoc_STRVAR(clear_doc, "clear($self, /)\n--\n\nRemove every entry.");

static PyObject *
disk_store_clear(PyObject *op, PyObject *unused)
{
    (void)unused;
    pfo_disk_tier *tier = tier_of(op);
    return tier == NULL || pfo_disk_tier_clear(tier) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(expire_doc, "expire($self, /)\n--\n\nRemove what has expired; returns how many entries went.");

static PyObject *
disk_store_expire(PyObject *op, PyObject *unused)
{
    (void)unused;
    uint64_t removed;
    pfo_disk_tier *tier = tier_of(op);
    return tier == NULL || pfo_disk_tier_expire(tier, &removed) < 0 ? NULL : PyLong_FromUnsignedLongLong(removed);
}

PyDoc_STRVAR(flush_doc, "flush($self, /)\n--\n\nReturn once everything stored here would outlive a power cut.");

static PyObject *
disk_store_flush(PyObject *op, PyObject *unused)
{
    (void)unused;
    pfo_disk_tier *tier = tier_of(op);
    return tier == NULL || pfo_disk_tier_flush(tier) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(verify_doc,
             "verify($self, repair=False)\n--\n\n"
             "Check every entry; with repair remove what is damaged or belongs to nothing. A dict: checked,\n"
             "damaged, orphans, orphan_bytes, repaired (counts, bytes), index_rebuilt.");

static PyObject *
disk_store_verify(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "repair", NULL };
    int repair = 0;
    pfo_disk_tier *tier = tier_of(op);
    if (tier == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "|p:verify", names, &repair)) {
        return NULL;
    }
    return pfo_disk_tier_verify(tier, repair);
}

PyDoc_STRVAR(entries_doc,
             "entries($self, /)\n--\n\n"
             "One dict an entry, in no order: key, kind, label, stored_ns, expires_ns (wall clock), bytes (on disk),\n"
             "payload_bytes (before compression), is_file, is_compressed.");

static PyObject *
disk_store_entries(PyObject *op, PyObject *unused)
{
    (void)unused;
    pfo_disk_tier *tier = tier_of(op);
    return tier == NULL ? NULL : pfo_disk_tier_list(tier);
}

PyDoc_STRVAR(stats_doc,
             "stats($self, /)\n--\n\n"
             "A dict. Of the directory: entries, bytes, max_bytes, segments, payload_files, garbage_bytes; of this\n"
             "store: hits, misses, expirations, evictions, rejects, corrupt, write_failures.");

static PyObject *
disk_store_stats(PyObject *op, PyObject *unused)
{
    (void)unused;
    pfo_disk_tier *tier = tier_of(op);
    PyObject *dict = tier == NULL ? NULL : PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
    pfo_disk_stats stats;
    pfo_disk_tier_get_stats(tier, &stats);
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        { "entries", stats.entries },
        { "bytes", stats.bytes },
        { "max_bytes", stats.max_bytes },
        { "segments", stats.segments },
        { "payload_files", stats.payload_files },
        { "garbage_bytes", stats.garbage_bytes },
        { "hits", stats.hits },
        { "misses", stats.misses },
        { "expirations", stats.expirations },
        { "evictions", stats.evictions },
        { "rejects", stats.rejects },
        { "corrupt", stats.corrupt },
        { "write_failures", stats.write_failures },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (pfo_dict_set_steal(dict, numbers[i].name, PyLong_FromUnsignedLongLong(numbers[i].value)) < 0) {
            Py_DECREF(dict);
            return NULL;
        }
    }
    return dict;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nLet go of the directory. Values that were got stay good.");

static PyObject *
disk_store_close(PyObject *op, PyObject *unused)
{
    (void)unused;
    disk_store *self = (disk_store *)op;
    pfo_disk_tier *tier = self->tier;
    self->tier = NULL;
    pfo_disk_tier_close(tier);
    Py_RETURN_NONE;
}

static PyObject *
disk_store_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return tier_of(op) == NULL ? NULL : Py_NewRef(op);
}

static PyObject *
disk_store_exit(PyObject *op, PyObject *args)
{
    (void)args;
    Py_XDECREF(disk_store_close(op, NULL));
    Py_RETURN_FALSE;
}

static int
disk_store_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return pfo_disk_tier_traverse(((disk_store *)op)->tier, visit, arg);
}

static void
disk_store_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pfo_disk_tier_close(((disk_store *)op)->tier);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef disk_store_methods[] = {
    { "get", (PyCFunction)(void (*)(void))disk_store_get, METH_FASTCALL, get_doc },
    { "put", (PyCFunction)(void (*)(void))disk_store_put, METH_VARARGS | METH_KEYWORDS, put_doc },
    { "delete", disk_store_delete, METH_O, delete_doc },
    { "touch", disk_store_touch, METH_VARARGS, touch_doc },
    { "clear", disk_store_clear, METH_NOARGS, clear_doc },
    { "expire", disk_store_expire, METH_NOARGS, expire_doc },
    { "flush", disk_store_flush, METH_NOARGS, flush_doc },
    { "verify", (PyCFunction)(void (*)(void))disk_store_verify, METH_VARARGS | METH_KEYWORDS, verify_doc },
    { "entries", disk_store_entries, METH_NOARGS, entries_doc },
    { "stats", disk_store_stats, METH_NOARGS, stats_doc },
    { "close", disk_store_close, METH_NOARGS, close_doc },
    { "__enter__", disk_store_enter, METH_NOARGS, NULL },
    { "__exit__", disk_store_exit, METH_VARARGS, NULL },
    { NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(
    disk_store_doc,
    "DiskStore(cache_dir, *, max_disk_bytes=10737418240, policy='lru', durability='process',\n"
    "          compression='auto', pickle_key=None, must_exist=False)\n--\n\n"
    "Values in a cache directory by 16-byte keys, without a memory tier. must_exist: OSError instead of a new\n"
    "directory. pickle_key: 16 bytes or more, which sign the pickles of values that no safe format holds.");

static PyType_Slot disk_store_slots[] = {
    { Py_tp_doc, (void *)disk_store_doc },         { Py_tp_new, (void *)disk_store_new },
    { Py_tp_methods, (void *)disk_store_methods }, { Py_tp_traverse, (void *)disk_store_traverse },
    { Py_tp_dealloc, (void *)disk_store_dealloc }, { 0, NULL },
};

PyType_Spec pfo_disk_store_spec = {
    .name = "perfopt._core.DiskStore",
    .basicsize = sizeof(disk_store),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = disk_store_slots,
};
