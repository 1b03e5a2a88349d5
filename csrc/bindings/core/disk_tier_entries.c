/* disk_tier_entries.c: see disk_tier.h. What is done to entries without a look at their values, listing and numbers. */
#define PY_SSIZE_T_CLEAN
#include "bindings/core/disk_tier_parts.h"

#include "base/alloc.h"
#include "bindings/common/dicts.h"

/* Runs call, which sets status, without the GIL; the tier stays open meanwhile. */
#define PFO_ON_DISK(tier, call)                                                                                        \
    do {                                                                                                               \
        (tier)->users++;                                                                                               \
        Py_BEGIN_ALLOW_THREADS                                                                                         \
        call;                                                                                                          \
        Py_END_ALLOW_THREADS                                                                                           \
        pfo_disk_tier_leave(tier);                                                                                     \
    } while (0)

static int
answer(pfo_status status, const pfo_error *err)
{
    if (status == PFO_OK) {
        return 0;
    }
    (void)pfo_disk_tier_raise(status, err);
    return -1;
}

int
pfo_disk_tier_delete(pfo_disk_tier *tier, const pfo_digest *key, const atomic_int *cancelled, int *existed)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    PFO_ON_DISK(tier, status = pfo_disk_delete_unless(tier->disk, key, cancelled, existed, &err));
    return answer(status, &err);
}

int
pfo_disk_tier_touch(pfo_disk_tier *tier, const pfo_digest *key, uint64_t expires_ns, int *existed)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    PFO_ON_DISK(tier, status = pfo_disk_touch(tier->disk, key, expires_ns, existed, &err));
    return answer(status, &err);
}

int
pfo_disk_tier_clear(pfo_disk_tier *tier)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    PFO_ON_DISK(tier, status = pfo_disk_clear(tier->disk, &err));
    return answer(status, &err);
}

int
pfo_disk_tier_expire(pfo_disk_tier *tier, uint64_t *removed)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    PFO_ON_DISK(tier, status = pfo_disk_expire(tier->disk, removed, &err));
    return answer(status, &err);
}

int
pfo_disk_tier_flush(pfo_disk_tier *tier)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    PFO_ON_DISK(tier, status = pfo_disk_flush(tier->disk, &err));
    return answer(status, &err);
}

PyObject *
pfo_disk_tier_verify(pfo_disk_tier *tier, int repair)
{
    pfo_disk_report report;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    PFO_ON_DISK(tier, status = pfo_disk_verify(tier->disk, repair, &report, &err));
    if (status != PFO_OK) {
        return pfo_disk_tier_raise(status, &err);
    }
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:O}", "checked", (unsigned long long)report.checked, "damaged",
                         (unsigned long long)report.damaged, "orphans", (unsigned long long)report.orphans,
                         "orphan_bytes", (unsigned long long)report.orphan_bytes, "repaired",
                         (unsigned long long)report.repaired, "index_rebuilt",
                         report.index_rebuilt ? Py_True : Py_False);
}

enum { LIST_BATCH = 64 };

/* Up to LIST_BATCH entries without the GIL; *more as pfo_disk_next(). */
static pfo_status
next_entries(pfo_disk *disk, uint64_t *cursor, pfo_disk_entry *entries, size_t *count, int *more, pfo_error *err)
{
    *count = 0;
    *more = 1;
    while (*count < LIST_BATCH) {
        PFO_TRY(pfo_disk_next(disk, cursor, &entries[*count], more, err));
        if (!*more) {
            break;
        }
        (*count)++;
    }
    return PFO_OK;
}

static PyObject *
entry_dict(const pfo_disk_entry *entry)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
    PyObject *kind = PyUnicode_DecodeUTF8(entry->kind, (Py_ssize_t)strnlen(entry->kind, PFO_DISK_KIND), "replace");
    PyObject *label = PyUnicode_DecodeUTF8(entry->label, (Py_ssize_t)strnlen(entry->label, PFO_DISK_LABEL), "replace");
    int failed = 0;
    failed |= pfo_dict_set_steal(dict, "kind", kind) < 0;
    failed |= pfo_dict_set_steal(dict, "label", label) < 0;
    if (!failed) {
        PyObject *key = PyBytes_FromStringAndSize((const char *)entry->key.bytes, PFO_DIGEST_BYTES);
        failed = pfo_dict_set_steal(dict, "key", key) < 0 ||
                 pfo_dict_set_steal(dict, "stored_ns", PyLong_FromUnsignedLongLong(entry->stored_ns)) < 0 ||
                 pfo_dict_set_steal(dict, "expires_ns", PyLong_FromUnsignedLongLong(entry->expires_ns)) < 0 ||
                 pfo_dict_set_steal(dict, "bytes", PyLong_FromUnsignedLongLong(entry->bytes)) < 0 ||
                 pfo_dict_set_steal(dict, "payload_bytes", PyLong_FromUnsignedLongLong(entry->payload_bytes)) < 0 ||
                 pfo_dict_set_steal(dict, "is_file", PyBool_FromLong(entry->is_file)) < 0 ||
                 pfo_dict_set_steal(dict, "is_compressed", PyBool_FromLong(entry->is_compressed)) < 0;
    }
    if (failed) {
        Py_CLEAR(dict);
    }
    return dict;
}

static int
append_entries(PyObject *list, const pfo_disk_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        PyObject *dict = entry_dict(&entries[i]);
        const int result = dict == NULL ? -1 : PyList_Append(list, dict);
        Py_XDECREF(dict);
        if (result < 0) {
            return -1;
        }
    }
    return PyErr_CheckSignals();
}

PyObject *
pfo_disk_tier_list(pfo_disk_tier *tier)
{
    PyObject *list = PyList_New(0);
    pfo_disk_entry *entries = pfo_alloc_array(LIST_BATCH, sizeof *entries);
    int failed = list == NULL || entries == NULL;
    if (failed && !PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    uint64_t cursor = 0;
    int more = 1;
    tier->users++; /* over the whole walk, which comes back between its batches */
    while (!failed && more) {
        pfo_error err = PFO_ERROR_INIT;
        pfo_status status;
        size_t count;
        PFO_ON_DISK(tier, status = next_entries(tier->disk, &cursor, entries, &count, &more, &err));
        failed = answer(status, &err) < 0 || append_entries(list, entries, count) < 0;
    }
    pfo_disk_tier_leave(tier);
    pfo_free(entries);
    if (failed) {
        Py_CLEAR(list);
    }
    return list;
}

void
pfo_disk_tier_get_stats(pfo_disk_tier *tier, pfo_disk_stats *stats)
{
    tier->users++; /* beyond the call: another thread may close the tier during it */
    PFO_ON_DISK(tier, pfo_disk_get_stats(tier->disk, stats));
    stats->hits -= tier->undecodable + tier->looked_twice;
    stats->misses += tier->undecodable;
    stats->corrupt += tier->undecodable;
    pfo_disk_tier_leave(tier);
}

void
pfo_disk_tier_reset_counters(pfo_disk_tier *tier)
{
    tier->undecodable = 0;
    tier->looked_twice = 0;
    PFO_ON_DISK(tier, pfo_disk_reset_counters(tier->disk));
}

int
pfo_disk_tier_traverse(pfo_disk_tier *tier, visitproc visit, void *arg)
{
    if (tier != NULL) {
        Py_VISIT(tier->cache_dir);
        Py_VISIT(tier->pickle_key);
        for (int i = 0; i < PFO_TIER_ARRAYS; i++) {
            Py_VISIT(tier->arrays[i].array);
        }
    }
    return 0;
}
