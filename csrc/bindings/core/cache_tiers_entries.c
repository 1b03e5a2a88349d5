/* cache_tiers_entries.c: one entry of the tiers, by its key: find and take, keep, delete, touch; in memory, on disk, and between them. See
 * cache_tiers.h; cache_tiers.c has what concerns all entries.
 *
 * Invariants: user code only runs while the store is consistent [re-entrancy]; a slot is found anew after it.
 * References: the store owns a kept key, a value and a guard for each entry.
 */
#include "bindings/core/cache_tiers.h"

#include "bindings/common/errors.h"

#include <time.h>

static void
remove_slot(pfo_tiers *tiers, uint32_t slot, pfo_leave_reason reason)
{
    pfo_store_remove(&tiers->store, slot, reason);
    pfo_tiers_release(tiers);
}

/* The instance in a key has died [instances]. */
static void
drop_orphan(PyObject *owner, uint64_t hash, void *key)
{
    pfo_tiers *tiers = pfo_tiers_of(owner);
    const uint32_t slot = pfo_table_find_identity(&tiers->store.table, hash, key);
    if (slot != PFO_SLOT_NONE) {
        remove_slot(tiers, slot, PFO_LEAVE_INVALID);
    }
}

/* ---- finding and taking ---------------------------------------------------------------------- */

uint32_t
pfo_tiers_find(const pfo_tiers *tiers, const pfo_key_builder *builder)
{
    int exhausted;
    const uint32_t slot = pfo_table_find(&tiers->store.table, builder->hash, builder, pfo_key_equal, NULL, &exhausted);
    if (slot == PFO_SLOT_FAILED && exhausted) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the cache changed during every comparison of a key (does __eq__ use this cache?)");
    }
    return slot;
}

/* Whether the guard of a live slot holds; the check may run code, so *slot is found anew (PFO_SLOT_NONE if the entry is gone). */
static int
guard_holds(const pfo_tiers *tiers, uint32_t *slot)
{
    const pfo_entry *entry = &tiers->store.table.entries[*slot];
    PyObject *guard = Py_NewRef((PyObject *)entry->guard);
    void *key = entry->key;
    const uint64_t hash = entry->hash;
    const int holds = pfo_value_guard_holds(tiers->state, guard);
    *slot = pfo_table_find_identity(&tiers->store.table, hash, key);
    if (*slot != PFO_SLOT_NONE && tiers->store.table.entries[*slot].guard != guard) {
        *slot = PFO_SLOT_NONE;
    }
    Py_DECREF(guard);
    return holds;
}

/* 1 when the entry of a live slot is good; 0 when it was not, and has left; -1. *slot is where it is now, PFO_SLOT_NONE if it is gone. */
static int
leave_unless_good(pfo_tiers *tiers, uint32_t *slot)
{
    if (!pfo_tiers_is_good(tiers, *slot)) {
        remove_slot(tiers, *slot, PFO_LEAVE_EXPIRED);
        *slot = PFO_SLOT_NONE;
        return 0;
    }
    if ((tiers->store.table.entries[*slot].checks & PFO_CHECK_GUARD) == 0) {
        return 1;
    }
    const int holds = guard_holds(tiers, slot);
    if (holds == 0 && *slot != PFO_SLOT_NONE) {
        remove_slot(tiers, *slot, PFO_LEAVE_INVALID);
        *slot = PFO_SLOT_NONE;
    }
    return holds;
}

int
pfo_tiers_take(pfo_tiers *tiers, uint32_t slot, PyObject **value)
{
    *value = NULL;
    PyObject *found = Py_NewRef((PyObject *)tiers->store.table.entries[slot].value);
    const int good = leave_unless_good(tiers, &slot);
    if (good != 1) {
        Py_DECREF(found);
        return good;
    }
    if (slot != PFO_SLOT_NONE) {
        pfo_store_hit(&tiers->store, slot);
    } else {
        tiers->store.hits++;
    }
    *value = found;
    return 1;
}

/* The key on disk: 0; 1 when there is no disk, or nothing of this key can be there; -1. */
static int
disk_key(const pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix, pfo_digest *key)
{
    if (tiers->disk == NULL || disk_prefix == NULL) {
        return 1;
    }
    const int answer = pfo_key_persistent(builder, disk_prefix, key);
    return answer == 0 && tiers->disk == NULL ? 1 : answer; /* reading a part may have run code that closed the cache */
}

static size_t
stripe_number(const pfo_key_builder *builder)
{
    return (size_t)(pfo_table_mix(builder->hash) % PFO_TIERS_STRIPES);
}

static uint64_t *
stripe_of(pfo_tiers *tiers, const pfo_key_builder *builder)
{
    return &tiers->changes[stripe_number(builder)];
}

uint64_t
pfo_tiers_version(const pfo_tiers *tiers, const pfo_key_builder *builder)
{
    return tiers->store.table.mutations + tiers->changes[stripe_number(builder)];
}

static uint64_t
wall_clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* The end of a time to live on the wall clock, as the disk keeps it; 0: never. */
static uint64_t
wall_clock_end(uint64_t ttl_ns)
{
    const uint64_t now_ns = wall_clock_ns();
    return ttl_ns == 0 ? 0 : ttl_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + ttl_ns;
}

/* From now to an end on the wall clock; at least 1 ns, because 0 would be for ever. */
static uint64_t
time_left(uint64_t end_ns)
{
    const uint64_t now_ns = wall_clock_ns();
    return end_ns > now_ns ? end_ns - now_ns : 1;
}

/* The good value on disk as a new reference, or NULL; *end_ns: its end on the wall clock, 0 for never. 0, or -1 with an exception. */
static int
read_disk(const pfo_tiers *tiers, const pfo_digest *key, uint64_t ttl_ns, PyObject **found, uint64_t *end_ns,
          int *is_prepared)
{
    pfo_disk_times times;
    if (pfo_disk_tier_get(tiers->disk, key, found, &times) < 0) {
        return -1;
    }
    *end_ns = times.expires_ns;
    *is_prepared = times.is_prepared;
    if (*found == NULL || (times.expires_ns == 0 && ttl_ns == 0)) {
        return 0;
    }
    if (times.expires_ns == 0) {
        *end_ns = ttl_ns > UINT64_MAX - times.stored_ns ? UINT64_MAX : times.stored_ns + ttl_ns;
    }
    const uint64_t now_ns = wall_clock_ns();
    if (now_ns >= *end_ns || now_ns < times.stored_ns) { /* over, or nobody knows: the clock was set back */
        Py_CLEAR(*found);
    }
    return 0;
}

/* The value on disk, which moves up to memory unless the key was changed meanwhile [stripes]. 1, 0, -1. */
static int
get_from_disk(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix, uint64_t ttl_ns,
              PyObject **value)
{
    pfo_digest key;
    const int answer = disk_key(tiers, builder, disk_prefix, &key);
    if (answer != 0) {
        return answer < 0 ? -1 : 0;
    }
    const uint64_t changes = *stripe_of(tiers, builder);
    PyObject *found;
    uint64_t end_ns;
    int is_prepared;
    if (read_disk(tiers, &key, ttl_ns == PFO_TTL_DEFAULT ? tiers->ttl_ns : ttl_ns, &found, &end_ns, &is_prepared) < 0) {
        return -1;
    }
    if (found == NULL) {
        return 0;
    }
    if (tiers->store.bounds.max_entries == 0) { /* there is no memory to move up to */
        PyObject *guard = NULL;
        *value = is_prepared ? Py_NewRef(found) : pfo_value_prepare(tiers->state, found, 0, &guard);
        Py_XDECREF(guard);
        Py_DECREF(found);
        return *value == NULL ? -1 : 1;
    }
    const pfo_keep how = {
        .ttl_ns = end_ns == 0 ? 0 : time_left(end_ns),
        .size = PFO_SIZE_MEASURE,
        .first_wins = 1,
        .only_if_changes = 1,
        .changes = changes,
    };
    const int failed = pfo_tiers_keep(tiers, builder, found, &how, value) < 0;
    Py_DECREF(found);
    return failed ? -1 : 1;
}

int
pfo_tiers_get(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix, uint64_t ttl_ns,
              PyObject **value)
{
    *value = NULL;
    const uint32_t slot = pfo_tiers_find(tiers, builder);
    if (slot == PFO_SLOT_FAILED) {
        return -1;
    }
    int found = slot == PFO_SLOT_NONE ? 0 : pfo_tiers_take(tiers, slot, value);
    if (found == 0 && tiers->disk != NULL) {
        found = get_from_disk(tiers, builder, disk_prefix, ttl_ns, value);
        tiers->disk_hits += found == 1;
    }
    tiers->store.misses += found == 0;
    return found;
}

int
pfo_tiers_contains(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix)
{
    uint32_t slot = pfo_tiers_find(tiers, builder);
    if (slot == PFO_SLOT_FAILED) {
        return -1;
    }
    if (slot != PFO_SLOT_NONE && pfo_tiers_is_good(tiers, slot)) {
        const int has_guard = (tiers->store.table.entries[slot].checks & PFO_CHECK_GUARD) != 0;
        const int holds = has_guard ? guard_holds(tiers, &slot) : 1;
        if (holds != 0) {
            return holds;
        }
    }
    pfo_digest key;
    const int answer = disk_key(tiers, builder, disk_prefix, &key);
    if (answer != 0) {
        return answer < 0 ? -1 : 0;
    }
    PyObject *found;
    uint64_t end_ns;
    int is_prepared;
    if (read_disk(tiers, &key, tiers->ttl_ns, &found, &end_ns, &is_prepared) < 0) {
        return -1;
    }
    const int good = found != NULL;
    Py_XDECREF(found);
    return good;
}

/* ---- keeping --------------------------------------------------------------------------------- */

static int
measure(const pfo_tiers *tiers, PyObject *value, uint64_t size, size_t *bytes)
{
    if (size != PFO_SIZE_MEASURE) {
        *bytes = (size_t)size;
        return 0;
    }
    *bytes = 0;
    return tiers->measures ? pfo_value_bytes(tiers->state, value, bytes) : 0;
}

/* Puts an item, all of whose references it takes over, where a search just found slot: 1, 0 when it does not fit, -1. */
static int
put_at(pfo_tiers *tiers, uint32_t slot, const pfo_item *item)
{
    pfo_error err;
    err.code = PFO_OK; /* the whole of it would cost more than the insertion */
    err.text[0] = '\0';
    int stored = 0;
    const pfo_status status = slot == PFO_SLOT_NONE ? pfo_store_insert(&tiers->store, item, &stored, &err)
                                                    : pfo_store_replace(&tiers->store, slot, item, &stored, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
    }
    pfo_tiers_release(tiers);
    if (!stored) {
        pfo_key_release(item->key);
        Py_DECREF((PyObject *)item->value);
        Py_XDECREF((PyObject *)item->guard);
    }
    return status == PFO_OK ? stored : -1;
}

int
pfo_tiers_set_simple(pfo_tiers *tiers, PyObject *object, PyObject *value)
{
    PyObject *guard;
    PyObject *prepared = pfo_value_prepare(tiers->state, value, 0, &guard);
    size_t bytes = 0;
    if (prepared == NULL || measure(tiers, prepared, PFO_SIZE_MEASURE, &bytes) < 0) {
        Py_XDECREF(prepared);
        Py_XDECREF(guard);
        return -1;
    }
    if (tiers->closed) { /* by code that preparing and measuring ran */
        Py_DECREF(prepared);
        Py_XDECREF(guard);
        return 0;
    }
    const pfo_item item = {
        .hash = (uint64_t)Py_TYPE(object)->tp_hash(object),
        .key = Py_NewRef(object),
        .value = prepared,
        .guard = guard,
        .bytes = bytes,
        .ttl_ns = tiers->ttl_ns,
    };
    return put_at(tiers, pfo_table_find_inline(&tiers->store.table, item.hash, object, pfo_key_equal_simple), &item);
}

int
pfo_tiers_add_plain(pfo_tiers *tiers, const pfo_key_builder *builder, PyObject *value, uint64_t ttl_ns,
                    uint64_t absent_at, const pfo_change *change)
{
    if (tiers->disk != NULL || tiers->measures || tiers->store.table.mutations != absent_at) {
        return 0;
    }
    void *key = pfo_key_keep(builder, tiers->owner, drop_orphan);
    if (key == NULL) {
        return -1;
    }
    if (tiers->closed || tiers->store.bounds.max_entries == 0 || tiers->store.table.mutations != absent_at ||
        pfo_change_is_stale(change)) {
        pfo_key_release(key);
        return 0;
    }
    const pfo_item item = {
        .hash = builder->hash,
        .key = key,
        .value = Py_NewRef(value),
        .ttl_ns = ttl_ns == PFO_TTL_DEFAULT ? tiers->ttl_ns : ttl_ns,
    };
    return put_at(tiers, PFO_SLOT_NONE, &item);
}

/* What stays although another value was to be kept: *first is a new reference to the good value that first_wins finds, or NULL. *slot is
 * where the key is now, PFO_SLOT_NONE or PFO_SLOT_FAILED. 0, or -1 with an exception. */
static int
find_first(pfo_tiers *tiers, const pfo_key_builder *builder, const pfo_keep *how, uint32_t *slot, PyObject **first)
{
    *first = NULL;
    *slot = tiers->store.table.mutations == how->absent_at ? PFO_SLOT_NONE : pfo_tiers_find(tiers, builder);
    if (*slot == PFO_SLOT_FAILED) {
        return -1;
    }
    if (!how->first_wins || *slot == PFO_SLOT_NONE) {
        return 0;
    }
    PyObject *value = Py_NewRef((PyObject *)tiers->store.table.entries[*slot].value);
    const int good = leave_unless_good(tiers, slot);
    if (good == 1) {
        *first = value;
        return 0;
    }
    Py_DECREF(value);
    *slot = good < 0 ? PFO_SLOT_FAILED : pfo_tiers_find(tiers, builder);
    return *slot == PFO_SLOT_FAILED ? -1 : 0;
}

static int
raise_not_storable(PyTypeObject *culprit)
{
    PyErr_Format(
        PyExc_TypeError,
        "value: an object of type %.200s cannot be stored on disk in a safe format; store what it is made of (numbers, "
        "text, bytes, containers, arrays, tensors), or give allow_pickle= a secret key for authenticated pickles",
        culprit->tp_name);
    Py_DECREF(culprit);
    return -1;
}

/* What keep() has to do on disk, unless another change has made this one stale. *stored: whether it was written there. 0, or -1 with an
 * exception. */
static int
keep_on_disk(pfo_tiers *tiers, pfo_key_builder *builder, PyObject *value, const pfo_keep *how, uint64_t ttl_ns,
             const pfo_change *change, int *stored)
{
    *stored = 0;
    pfo_digest key;
    const int answer = disk_key(tiers, builder, how->disk_prefix, &key);
    if (answer != 0) {
        if (answer < 0) {
            return -1;
        }
        if (how->disk == PFO_KEEP_DISK_WRITE && builder->culprit != NULL) {
            PyErr_Format(
                PyExc_TypeError,
                "key: an object of type %.200s has no content that can be read, so it is no key of an entry on disk",
                builder->culprit->tp_name);
            return -1;
        }
        return 0;
    }
    if (how->disk == PFO_KEEP_DISK_FORGET) {
        int existed;
        return pfo_disk_tier_delete(tiers->disk, &key, &change->is_stale, &existed);
    }
    int existed;
    PyTypeObject *culprit;
    const int put = pfo_disk_tier_put(tiers->disk, &key, how->label, value, wall_clock_end(ttl_ns), &change->is_stale,
                                      stored, &culprit);
    if (put == 1 && how->culprit != NULL) {
        *how->culprit = culprit;
        return 0;
    }
    if (put == 0 && !*stored && !how->first_wins && tiers->disk != NULL) { /* the old value must not come back */
        return pfo_disk_tier_delete(tiers->disk, &key, &change->is_stale, &existed);
    }
    return put == 1 ? raise_not_storable(culprit) : put;
}

/* Puts prepared and guard (which it takes over) into memory: 1, 0, -1. on_disk: it was written there. *first: a new reference to the value
 * that stays instead, or NULL. */
static int
keep_in_memory(pfo_tiers *tiers, pfo_key_builder *builder, PyObject *prepared, PyObject *guard, const pfo_keep *how,
               uint64_t ttl_ns, const pfo_change *change, int on_disk, PyObject **first)
{
    size_t bytes = 0;
    void *key =
        measure(tiers, prepared, how->size, &bytes) < 0 ? NULL : pfo_key_keep(builder, tiers->owner, drop_orphan);
    uint32_t slot = PFO_SLOT_FAILED;
    const int failed = key == NULL || find_first(tiers, builder, how, &slot, first) < 0;
    const int is_overtaken = how->only_if_changes && *stripe_of(tiers, builder) != how->changes; /* [stripes] */
    const int is_stale = change != NULL && pfo_change_is_stale(change); /* asked last: all of this ran code */
    const int is_on_disk_only = change != NULL && change->is_touched && on_disk;
    if (failed || tiers->closed || *first != NULL || is_overtaken || is_stale || is_on_disk_only) {
        if (!failed && !is_stale && is_on_disk_only && slot != PFO_SLOT_NONE) {
            remove_slot(tiers, slot, PFO_LEAVE_REPLACED);
        }
        pfo_key_release(key);
        Py_XDECREF(guard);
        return failed ? -1 : *first != NULL;
    }
    const pfo_item item = {
        .hash = builder->hash,
        .key = key,
        .value = Py_NewRef(prepared),
        .guard = guard,
        .bytes = bytes,
        .ttl_ns = ttl_ns,
    };
    return put_at(tiers, slot, &item);
}

/* *change: the caller's, or a new one where the disk will let other threads in, or NULL. -1 with MemoryError. */
static int
begin_to_store(pfo_tiers *tiers, const pfo_key_builder *builder, const pfo_keep *how, pfo_change **change)
{
    *change = how->change;
    if (*change == NULL && tiers->disk != NULL && !how->only_if_changes) {
        *change = pfo_change_begin(&tiers->under_way, builder->hash, NULL);
        if (*change == NULL) {
            return -1;
        }
    }
    if (*change != NULL) {
        pfo_change_store(*change, how->first_wins);
    }
    return 0;
}

int
pfo_tiers_keep_prepared(pfo_tiers *tiers, pfo_key_builder *builder, PyObject *prepared, PyObject *guard,
                        const pfo_keep *how, PyObject **kept)
{
    const uint64_t ttl_ns = how->ttl_ns == PFO_TTL_DEFAULT ? tiers->ttl_ns : how->ttl_ns;
    uint64_t *changes = stripe_of(tiers, builder);
    PyObject *first = NULL;
    pfo_change *change;
    int on_disk = 0;
    int answer = begin_to_store(tiers, builder, how, &change);
    *changes += !how->only_if_changes;
    if (answer == 0 && how->first_wins && how->disk == PFO_KEEP_DISK_WRITE) { /* it stays on disk, too */
        uint32_t slot;
        answer = find_first(tiers, builder, how, &slot, &first);
    }
    if (answer == 0 && first == NULL && how->disk != PFO_KEEP_DISK_AS_IT_IS) {
        answer = keep_on_disk(tiers, builder, prepared, how, ttl_ns, change, &on_disk);
    }
    if (answer == 0 && first == NULL) {
        answer = keep_in_memory(tiers, builder, prepared, guard, how, ttl_ns, change, on_disk, &first);
    } else {
        Py_XDECREF(guard);
        answer = answer < 0 ? -1 : 1;
    }
    *changes += !how->only_if_changes;
    if (change != how->change) {
        pfo_change_end(change);
    }
    if (kept != NULL) {
        *kept = answer < 0 ? NULL : first != NULL ? Py_NewRef(first) : Py_NewRef(prepared);
    }
    Py_XDECREF(first);
    return answer;
}

int
pfo_tiers_keep(pfo_tiers *tiers, pfo_key_builder *builder, PyObject *value, const pfo_keep *how, PyObject **kept)
{
    PyObject *guard;
    PyObject *prepared = pfo_value_prepare(tiers->state, value, how->is_private, &guard);
    if (prepared == NULL) {
        if (kept != NULL) {
            *kept = NULL;
        }
        return -1;
    }
    const int answer = pfo_tiers_keep_prepared(tiers, builder, prepared, guard, how, kept);
    Py_DECREF(prepared);
    return answer;
}

/* ---- forgetting and prolonging --------------------------------------------------------------- */

/* 0; 1 when a later change of the key has the last word; -1 with an exception. */
static int
delete_on_disk(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix, int *existed)
{
    *existed = 0;
    if (tiers->disk == NULL) {
        return 0;
    }
    pfo_change *change = pfo_change_begin(&tiers->under_way, builder->hash, NULL);
    if (change == NULL) {
        return -1;
    }
    pfo_change_store(change, 0);
    pfo_digest key;
    const int answer = disk_key(tiers, builder, disk_prefix, &key);
    ++*stripe_of(tiers, builder);
    const int failed =
        answer < 0 || (answer == 0 && pfo_disk_tier_delete(tiers->disk, &key, &change->is_stale, existed) < 0);
    ++*stripe_of(tiers, builder);
    const int is_stale = pfo_change_is_stale(change);
    pfo_change_end(change);
    return failed ? -1 : is_stale;
}

int
pfo_tiers_delete(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix)
{
    int on_disk;
    pfo_changes_delete(&tiers->under_way, builder->hash);
    const int answer = delete_on_disk(tiers, builder, disk_prefix, &on_disk);
    if (answer != 0) {
        return answer < 0 ? -1 : on_disk;
    }
    uint32_t slot = pfo_tiers_find(tiers, builder);
    if (slot == PFO_SLOT_FAILED) {
        return -1;
    }
    if (slot == PFO_SLOT_NONE) {
        return on_disk;
    }
    const int existed = leave_unless_good(tiers, &slot);
    if (slot != PFO_SLOT_NONE) {
        remove_slot(tiers, slot, PFO_LEAVE_DELETED);
    }
    return existed < 0 ? -1 : existed || on_disk;
}

/* 1 when there was a good entry in memory, 0, -1. */
static int
touch_in_memory(pfo_tiers *tiers, const pfo_key_builder *builder, uint64_t ttl_ns)
{
    uint32_t slot = pfo_tiers_find(tiers, builder);
    if (slot == PFO_SLOT_FAILED) {
        return -1;
    }
    const int good = slot == PFO_SLOT_NONE ? 0 : leave_unless_good(tiers, &slot);
    if (good != 1 || slot == PFO_SLOT_NONE) {
        return good < 0 ? -1 : 0;
    }
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_store_touch(&tiers->store, slot, ttl_ns, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return 1;
}

int
pfo_tiers_touch(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix, uint64_t ttl_ns)
{
    const uint64_t new_ttl_ns = ttl_ns == PFO_TTL_DEFAULT ? tiers->ttl_ns : ttl_ns;
    pfo_digest key;
    int on_disk = 0;
    const int answer = disk_key(tiers, builder, disk_prefix, &key);
    ++*stripe_of(tiers, builder); /* who reads the disk now must not bring the old deadline into memory */
    pfo_changes_touch(&tiers->under_way, builder->hash);
    if (answer < 0 ||
        (answer == 0 && pfo_disk_tier_touch(tiers->disk, &key, wall_clock_end(new_ttl_ns), &on_disk) < 0)) {
        return -1;
    }
    ++*stripe_of(tiers, builder);
    pfo_changes_touch(&tiers->under_way, builder->hash);
    const int in_memory = touch_in_memory(tiers, builder, new_ttl_ns);
    return in_memory < 0 ? -1 : in_memory || on_disk;
}
