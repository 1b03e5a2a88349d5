/* cache_tiers.c: all entries of the tiers: their life, what becomes of those that leave, clear, expire, resize, snapshots. See cache_tiers.h;
 * cache_tiers_entries.c has what concerns one.
 *
 * Invariants: user code only runs while the store is consistent [re-entrancy]; what left the store is released last, one by one, and what
 * runs meanwhile may release the rest.
 * References: the store owns a kept key, a value and a guard for each entry.
 */
#include "bindings/core/cache_tiers.h"

#include "bindings/common/errors.h"
#include "bindings/core/cache_ledger.h"

int
pfo_tiers_init(pfo_tiers *tiers, pfo_core_state *state, PyObject *owner, const pfo_tiers_options *options)
{
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_store_init(&tiers->store, options->policy, &options->bounds, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    if (options->disk != NULL && pfo_disk_tier_open(state, options->disk, &tiers->disk) < 0) {
        pfo_store_free(&tiers->store);
        return -1;
    }
    tiers->state = state;
    tiers->owner = owner;
    tiers->on_evict = Py_XNewRef(options->on_evict);
    tiers->ttl_ns = options->ttl_ns;
    tiers->measures = options->bounds.max_bytes != PFO_STORE_UNBOUNDED;
    tiers->closed = 0;
    return 0;
}

int
pfo_tiers_traverse(const pfo_tiers *tiers, visitproc visit, void *arg)
{
    if (tiers->state == NULL) {
        return 0; /* not initialised */
    }
    Py_VISIT(tiers->on_evict);
    if (tiers->disk != NULL) {
        const int stop = pfo_disk_tier_traverse(tiers->disk, visit, arg);
        if (stop != 0) {
            return stop;
        }
    }
    return pfo_visit_store(&tiers->store, visit, arg);
}

static void
close_disk(pfo_tiers *tiers)
{
    pfo_disk_tier *disk = tiers->disk;
    tiers->disk = NULL;
    pfo_disk_tier_close(disk);
}

void
pfo_tiers_abandon(pfo_tiers *tiers)
{
    tiers->closed = 1;
    Py_CLEAR(tiers->on_evict);
    close_disk(tiers);
    pfo_store_clear(&tiers->store);
    pfo_tiers_release(tiers);
}

void
pfo_tiers_free(pfo_tiers *tiers)
{
    if (tiers->state == NULL) {
        return;
    }
    tiers->closed = 1;
    pfo_changes_free(&tiers->under_way);
    Py_CLEAR(tiers->on_evict);
    close_disk(tiers);
    pfo_disown_keys(&tiers->store);
    pfo_store_clear(&tiers->store);
    pfo_tiers_release(tiers);
    pfo_store_free(&tiers->store);
}

/* ---- what leaves ----------------------------------------------------------------------------- */

static void
report(const pfo_tiers *tiers, const pfo_victim *victim)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *on_evict = Py_NewRef(tiers->on_evict);
    PyObject *key = pfo_key_object(tiers->state, victim->key, victim->hash);
    if (key == NULL && PyErr_ExceptionMatches(PyExc_ReferenceError)) {
        PyErr_Clear();
        key = Py_NewRef(Py_None); /* the instance that it was for has died */
    }
    PyObject *reason = PyUnicode_FromString(pfo_leave_reason_text(victim->reason));
    PyObject *answer = key == NULL || reason == NULL
                           ? NULL
                           : PyObject_CallFunctionObjArgs(on_evict, key, (PyObject *)victim->value, reason, NULL);
    if (answer == NULL) {
        PyErr_WriteUnraisable(on_evict);
    }
    Py_XDECREF(answer);
    Py_XDECREF(reason);
    Py_XDECREF(key);
    Py_DECREF(on_evict);
    PyErr_Restore(type, value, traceback);
}

void
pfo_tiers_release(pfo_tiers *tiers)
{
    pfo_victim victim;
    while (pfo_store_take_victim(&tiers->store, &victim)) {
        pfo_cache_ledger_enter(tiers->state, pfo_key_owner(victim.key), victim.reason);
        if (tiers->on_evict != NULL) {
            report(tiers, &victim);
        }
        pfo_key_release(victim.key);
        Py_DECREF((PyObject *)victim.value);
        Py_XDECREF((PyObject *)victim.guard);
    }
}

/* ---- all at once ----------------------------------------------------------------------------- */

void
pfo_tiers_clear_owner(pfo_tiers *tiers, const PyObject *owner)
{
    pfo_changes_clear(&tiers->under_way, owner);
    for (uint32_t slot = 0; slot < tiers->store.table.used_slots; slot++) {
        const pfo_entry *entry = &tiers->store.table.entries[slot];
        if (entry->live && pfo_key_is_owned(entry->key, owner)) {
            pfo_store_remove(&tiers->store, slot, PFO_LEAVE_CLEARED);
        }
    }
    pfo_tiers_release(tiers);
}

/* One entry of the directory, as pfo_disk_tier_list() describes it. */
static int
delete_if_labelled(pfo_disk_tier *disk, PyObject *entry, PyObject *label)
{
    PyObject *its_label = PyDict_GetItemString(entry, "label");
    PyObject *its_key = PyDict_GetItemString(entry, "key");
    if (its_label == NULL || its_key == NULL || !PyUnicode_Check(its_label) || !PyBytes_Check(its_key) ||
        PyUnicode_Compare(its_label, label) != 0) {
        return 0;
    }
    pfo_digest key;
    int existed;
    memcpy(key.bytes, PyBytes_AS_STRING(its_key), sizeof key.bytes);
    return pfo_disk_tier_delete(disk, &key, NULL, &existed);
}

/* Every key changes. [stripes] */
static void
move_all_stripes(pfo_tiers *tiers)
{
    for (int i = 0; i < PFO_TIERS_STRIPES; i++) {
        tiers->changes[i]++;
    }
}

int
pfo_tiers_clear_label(pfo_tiers *tiers, const PyObject *owner, PyObject *label)
{
    pfo_changes_clear(&tiers->under_way, owner);
    PyObject *entries = tiers->disk == NULL ? PyList_New(0) : pfo_disk_tier_list(tiers->disk);
    int failed = entries == NULL ? -1 : 0;
    move_all_stripes(tiers);
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(entries) && tiers->disk != NULL; i++) {
        failed = delete_if_labelled(tiers->disk, PyList_GET_ITEM(entries, i), label);
    }
    move_all_stripes(tiers);
    pfo_changes_clear(&tiers->under_way, owner);
    Py_XDECREF(entries);
    return failed;
}

int
pfo_tiers_clear(pfo_tiers *tiers)
{
    pfo_changes_clear(&tiers->under_way, NULL);
    move_all_stripes(tiers);
    const int failed = tiers->disk == NULL ? 0 : pfo_disk_tier_clear(tiers->disk);
    move_all_stripes(tiers);
    pfo_changes_cleared(&tiers->under_way);
    pfo_tiers_reset_counters(tiers);
    pfo_store_clear(&tiers->store);
    pfo_tiers_release(tiers);
    return failed;
}

void
pfo_tiers_reset_counters(pfo_tiers *tiers)
{
    pfo_store_reset_counters(&tiers->store);
    tiers->disk_hits = 0;
    if (tiers->disk != NULL) {
        pfo_disk_tier_reset_counters(tiers->disk);
    }
}

int
pfo_tiers_expire(pfo_tiers *tiers, uint64_t *removed)
{
    *removed = pfo_store_expire(&tiers->store);
    pfo_tiers_release(tiers);
    uint64_t on_disk = 0;
    if (tiers->disk != NULL && pfo_disk_tier_expire(tiers->disk, &on_disk) < 0) {
        return -1;
    }
    *removed += on_disk;
    return 0;
}

int
pfo_tiers_resize(pfo_tiers *tiers, const pfo_bounds *bounds)
{
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_store_resize(&tiers->store, bounds, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    tiers->measures = bounds->max_bytes != PFO_STORE_UNBOUNDED;
    pfo_tiers_release(tiers);
    return 0;
}

void
pfo_tiers_close(pfo_tiers *tiers)
{
    tiers->closed = 1;
    close_disk(tiers);
    pfo_store_clear(&tiers->store);
    pfo_tiers_release(tiers);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

typedef struct held_entry {
    void *key;
    PyObject *value;
    PyObject *guard; /* or NULL */
    uint64_t hash;
} held_entry;

/* References to every entry before its deadline; runs no code. NULL with an exception without memory. */
static held_entry *
hold_entries(const pfo_tiers *tiers, Py_ssize_t *count)
{
    *count = 0;
    held_entry *held = PyMem_New(held_entry, tiers->store.table.count + 1);
    if (held == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (uint32_t slot = 0; slot < tiers->store.table.used_slots; slot++) {
        const pfo_entry *entry = &tiers->store.table.entries[slot];
        if (entry->live && pfo_tiers_is_good(tiers, slot)) {
            held[(*count)++] = (held_entry){
                .key = pfo_key_hold(entry->key),
                .value = Py_NewRef((PyObject *)entry->value),
                .guard = Py_XNewRef((PyObject *)entry->guard),
                .hash = entry->hash,
            };
        }
    }
    return held;
}

/* The key, or (key, value). NULL without an exception for what is no good entry any more. */
static PyObject *
snapshot_item(const pfo_tiers *tiers, const held_entry *held, int with_values)
{
    if (held->guard != NULL && pfo_value_guard_holds(tiers->state, held->guard) != 1) {
        return NULL;
    }
    PyObject *key = pfo_key_object(tiers->state, held->key, held->hash);
    if (key == NULL && PyErr_ExceptionMatches(PyExc_ReferenceError)) {
        PyErr_Clear(); /* an instance that died just now: its entry has left */
    }
    return key == NULL || !with_values ? key : Py_BuildValue("(NO)", key, held->value);
}

PyObject *
pfo_tiers_snapshot(pfo_tiers *tiers, int with_values)
{
    Py_ssize_t count;
    held_entry *held = hold_entries(tiers, &count);
    PyObject *list = held == NULL ? NULL : PyList_New(0);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = list == NULL ? NULL : snapshot_item(tiers, &held[i], with_values);
        if (list != NULL && (item == NULL ? PyErr_Occurred() != NULL : PyList_Append(list, item) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
        pfo_key_release(held[i].key);
        Py_DECREF(held[i].value);
        Py_XDECREF(held[i].guard);
    }
    PyMem_Free(held);
    return list;
}
