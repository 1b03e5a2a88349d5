/* cache_tiers.h: one cache as both its faces use it: PerformanceCache, and CachedFunction, which holds a PerformanceCache.
 *
 * A pfo_tiers is a memory store, the optional disk tier under it, the default time to live and the on_evict callback. It lives inside a
 * PerformanceCache object: pfo_tiers_of() gives it, and who uses it keeps a reference to that object.
 *
 * Keys: a builder (key.h), finished. In a cache that several functions share, each function adds pfo_key_add_owner() first, so that their
 * keys never meet; a function with a cache of its own, and PerformanceCache.set(), add none.
 * Disk: an entry is on disk under the digest of a prefix, which says whose key it is (of a function: its name and version), and the key's
 * content (pfo_key_persistent()); it is only computed where memory does not answer. A disk_prefix of NULL means "memory only", and it
 * is ignored where there is no disk tier.
 * Values: what is kept is what later callers get: read-only views of arrays, guards on the versions of tensors (cache_values.h).
 *
 * User code [re-entrancy]: __eq__ and __hash__ of keys, __del__ of keys and values, on_evict, pickles and the collector may run, and
 * other threads may come in, inside every function below that is not marked "runs no code". They run while the store is consistent and
 * may use this cache in any way, close it too. So a slot number is good only until the next call that may run code, and entries are read
 * through store.table.entries anew after it. What leaves the store is released, and on_evict called, before a function returns.
 * Errors: -1 or PFO_SLOT_FAILED with an exception. An exception in on_evict goes to sys.unraisablehook.
 * Threads: the GIL serialises; it is released around disk work.
 */
#ifndef PFO_BINDINGS_CACHE_TIERS_H
#define PFO_BINDINGS_CACHE_TIERS_H

#include "bindings/core/cache_changes.h"
#include "bindings/core/cache_values.h"
#include "bindings/core/disk_tier.h"
#include "bindings/core/flight.h"
#include "bindings/core/key.h"

enum { PFO_TIERS_STRIPES = 64 };

typedef struct pfo_tiers {
    pfo_store store; /* read by the hot paths; changed only through the functions here and pfo_store_hit() */
    pfo_core_state *state;
    PyObject *owner;     /* borrowed: the PerformanceCache that this is part of */
    PyObject *on_evict;  /* NULL, or called with key, value and reason */
    pfo_disk_tier *disk; /* NULL: memory only */
    uint64_t ttl_ns;     /* of entries that bring none; 0: for ever */
    uint64_t disk_hits;
    int measures; /* bounded by bytes: values without a size are measured */
    int closed;   /* keeps and finds nothing any more */
    pfo_changes
        under_way; /* computations, and where there is a disk what stores and deletes: the one that began last has the last word */
    /* Moved at the begin and the end of every change of a key whose hash falls on the stripe. Disk work lets other threads in; who reads the
     * disk and finds the number moved after it does not bring the value up to memory. [stripes] */
    uint64_t changes[PFO_TIERS_STRIPES];
} pfo_tiers;

typedef struct pfo_performance_cache {
    PyObject_HEAD
    pfo_tiers tiers;
    pfo_flights flights;     /* of get_or_compute() */
    PyObject *async_flights; /* perfopt._flights.Flights, once an async method has computed; else NULL */
    PyObject *cache_dir;     /* str or NULL */
    PyObject *weak_references;
} pfo_performance_cache;

/* pre: cache is an instance of state->performance_cache. Runs no code. */
static inline pfo_tiers *
pfo_tiers_of(PyObject *cache)
{
    return &((pfo_performance_cache *)cache)->tiers;
}

typedef struct pfo_tiers_options {
    const pfo_policy_ops *policy;
    pfo_bounds bounds;
    uint64_t ttl_ns;                   /* 0: for ever */
    PyObject *on_evict;                /* borrowed; NULL: none */
    const pfo_disk_tier_options *disk; /* NULL: memory only */
} pfo_tiers_options;

int pfo_tiers_init(pfo_tiers *tiers, pfo_core_state *state, PyObject *owner, const pfo_tiers_options *options);

/* For tp_traverse, tp_clear and tp_dealloc of the owner: nothing is reported to on_evict any more. */
int pfo_tiers_traverse(const pfo_tiers *tiers, visitproc visit, void *arg);
void pfo_tiers_abandon(pfo_tiers *tiers); /* forgets all and keeps nothing from here on */
void pfo_tiers_free(pfo_tiers *tiers);

/* ---- the hot path ---- */

/* An exact int or str under a builder-less key: the object is its own key. Runs no code; the slot or PFO_SLOT_NONE. The caller takes the
 * value at once if the entry's `checks` are 0:
 *     pfo_store_hit(&tiers->store, slot); return Py_NewRef(entry->value);
 * and by pfo_tiers_take() otherwise. */
static inline uint32_t
pfo_tiers_find_simple(const pfo_tiers *tiers, PyObject *object)
{
    const uint64_t hash = (uint64_t)Py_TYPE(object)->tp_hash(object);
    return pfo_table_find_inline(&tiers->store.table, hash, object, pfo_key_equal_simple);
}

/* Keeps value under an exact int or str. pre: open, memory only. */
int pfo_tiers_set_simple(pfo_tiers *tiers, PyObject *object, PyObject *value);

/* ---- finding and taking ---- */

#define PFO_TTL_DEFAULT UINT64_MAX /* the cache's own */

/* The slot in memory, PFO_SLOT_NONE, or PFO_SLOT_FAILED. What it names may be due: pfo_tiers_take() or pfo_tiers_is_good() tell. */
uint32_t pfo_tiers_find(const pfo_tiers *tiers, const pfo_key_builder *builder);

/* 0 when the entry of a live slot is past its deadline. Runs no code, reads a clock only for an entry with a deadline. */
static inline int
pfo_tiers_is_good(const pfo_tiers *tiers, uint32_t slot)
{
    return (tiers->store.table.entries[slot].checks & PFO_CHECK_DEADLINE) == 0 ||
           pfo_store_time_left(&tiers->store, slot) > 0;
}

/* The value of the slot that was just found: 1 and a new reference, counted as a hit; 0 when the entry was due or its guard no longer
 * holds (it has then left); -1. Counts no miss. */
int pfo_tiers_take(pfo_tiers *tiers, uint32_t slot, PyObject **value);

/* The whole way of a lookup: memory, then disk (what is found there moves up to memory). 1 and a new reference; 0; -1. Counts one hit
 * or one miss. ttl_ns (PFO_TTL_DEFAULT: the cache's own): how long after it was stored an entry on disk is good that has no end of its
 * own; 0: for ever. */
int pfo_tiers_get(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix, uint64_t ttl_ns,
                  PyObject **value);

/* Moves with every change in memory, and of the key on disk by this cache: who finds it unmoved need not look again. Runs no code. */
uint64_t pfo_tiers_version(const pfo_tiers *tiers, const pfo_key_builder *builder);

/* Whether pfo_tiers_get() would find a good entry, with the cache's own time to live; counts nothing. */
int pfo_tiers_contains(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix);

/* ---- keeping ---- */

/* What becomes of the entry on disk. */
typedef enum pfo_keep_disk {
    PFO_KEEP_DISK_AS_IT_IS, /* of a function, whose value on disk is as good */
    PFO_KEEP_DISK_FORGET,   /* another value than the one given must not come back */
    PFO_KEEP_DISK_WRITE,
} pfo_keep_disk;

#define PFO_SIZE_MEASURE UINT64_MAX /* measured if the cache is bounded by bytes, else 0 */

typedef struct pfo_keep {
    uint64_t ttl_ns; /* PFO_TTL_DEFAULT, 0 for ever, or nanoseconds */
    uint64_t size;   /* PFO_SIZE_MEASURE or bytes */
    int first_wins;  /* a good entry that is there already stays; else it is replaced */
    int is_private;  /* keep a copy that shares nothing with the value given */
    pfo_keep_disk disk;
    const pfo_digest *disk_prefix; /* needed unless DISK_AS_IT_IS */
    PyObject *label;               /* what the entry is, for people who list the directory: str or NULL */
    PyTypeObject *
        *culprit; /* not NULL: a value that no safe format holds is no error; its type, a new reference, or NULL */
    uint64_t
        absent_at; /* the table's `mutations` at which a search found nothing: while they stay, it is not repeated. 0, a new
                           * table's, always holds */
    pfo_change *change;  /* NULL, or the caller's, begun before the value was computed; it is ended by the caller */
    int only_if_changes; /* this is no change of its own, and happens only while the stripe's number is `changes` */
    uint64_t changes;
} pfo_keep;

#define PFO_KEEP_DEFAULT { .ttl_ns = PFO_TTL_DEFAULT, .size = PFO_SIZE_MEASURE }

/* Keeps value in memory under the builder's key, or does not, if the bounds say so or the cache is closed: 1, 0, or -1; and on disk as
 * how->disk says. *kept (kept may be NULL): a new reference to what a caller of the function is to get: the value as it is kept, or with first_wins the
 * one that was there first. TypeError, and nothing changed, when key or value cannot be written in a safe format; OSError when the old
 * entry on disk cannot be removed. A disk that cannot be written to is no error (disk_tier.h). */
int pfo_tiers_keep(pfo_tiers *tiers, pfo_key_builder *builder, PyObject *value, const pfo_keep *how, PyObject **kept);

/* The same for what pfo_value_prepare() made of a value; is_private means nothing. Takes the reference to guard (which may be NULL) over. */
int pfo_tiers_keep_prepared(pfo_tiers *tiers, pfo_key_builder *builder, PyObject *prepared, PyObject *guard,
                            const pfo_keep *how, PyObject **kept);

/* The short way for the common case: keeps a value that is pfo_value_is_plain() in a cache without disk that need not measure it, if the table
 * still has the `mutations` at which a search for the key found nothing, and the change is not stale. 1; 0 when it is no such case, and
 * nothing was done; -1. */
int pfo_tiers_add_plain(pfo_tiers *tiers, const pfo_key_builder *builder, PyObject *value, uint64_t ttl_ns,
                        uint64_t absent_at, const pfo_change *change);

/* ---- the rest ---- */

/* 1 when there was an entry, 0, -1. What is under way for the key is not kept. */
int pfo_tiers_delete(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix);

/* A new time to live (PFO_TTL_DEFAULT: the cache's own). 1 when there was a good entry, 0, -1. */
int pfo_tiers_touch(pfo_tiers *tiers, pfo_key_builder *builder, const pfo_digest *disk_prefix, uint64_t ttl_ns);

/* Removes every entry in memory whose key has this owner part; what is under way for it is not kept. Counters stay. */
void pfo_tiers_clear_owner(pfo_tiers *tiers, const PyObject *owner);

/* Removes every entry on disk that was kept with this label; what is under way for the owner (all owners: NULL) is not kept. -1 with an
 * exception when the disk fails. */
int pfo_tiers_clear_label(pfo_tiers *tiers, const PyObject *owner, PyObject *label);

/* Removes every entry, also on disk, and sets the counters to 0. -1 with an exception when the disk fails; memory is then empty. */
int pfo_tiers_clear(pfo_tiers *tiers);

void pfo_tiers_reset_counters(pfo_tiers *tiers);

/* Removes what is due in both tiers; *removed: how many. */
int pfo_tiers_expire(pfo_tiers *tiers, uint64_t *removed);

int pfo_tiers_resize(pfo_tiers *tiers, const pfo_bounds *bounds);

/* A new list of the good entries: keys, or (key, value) pairs. Nothing is counted. */
PyObject *pfo_tiers_snapshot(pfo_tiers *tiers, int with_values);

/* Forgets all (on_evict: "cleared") and keeps nothing from here on. Idempotent. */
void pfo_tiers_close(pfo_tiers *tiers);

/* Calls on_evict for everything that has left, and releases it; keeps an exception that is set. For callers that removed entries by
 * pfo_store functions themselves. */
void pfo_tiers_release(pfo_tiers *tiers);

#endif
