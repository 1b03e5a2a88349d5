/* cached_function.h: CachedFunction, a function with its cache, as its files share it.
 *
 * cached_function.c is a call, from key to value; cached_function_type.c makes one, is what its user sees, and has the steps of a call
 * for coroutine functions.
 * References: owns function, cache, ledger and the glue objects. tiers points into cache.
 * Threads: the GIL serialises; it may change hands wherever user code runs, which is in every function here.
 */
#ifndef PFO_BINDINGS_CACHED_FUNCTION_H
#define PFO_BINDINGS_CACHED_FUNCTION_H

#include "bindings/core/cache_tiers.h"
#include "bindings/core/call_key.h"
#include "bindings/core/flight.h"

typedef struct pfo_cached_function {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    pfo_tiers *tiers;
    pfo_core_state *state;
    pfo_signature signature;
    pfo_flights flights;
    PyObject *function;
    PyObject *cache;
    PyObject *ledger;  /* NULL in a cache of its own */
    PyObject *keep_if; /* NULL, or asked whether a result is to be kept */
    PyObject *info_type;
    PyObject *parameters;
    PyObject *label; /* str: what its entries on disk are called; NULL without any */
    PyObject *dict;
    PyObject *weak_references;
    pfo_digest identity; /* what its keys on disk begin with */
    uint64_t ttl_ns;
    uint64_t hits;
    uint64_t misses;
    uint64_t rejects;
    int64_t hash_ticks;
    int64_t load_ticks;
    int64_t compute_ticks;
    int fast_single; /* one exact int or str by position is its own key */
    int copies;
    int single_flight;
    int persists;
    int has_warned; /* of a result that cannot be stored */
} pfo_cached_function;

/* The key of a call in a started builder; the answers of pfo_call_key_build(). */
int pfo_cached_build_key(pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call);

/* -1 with TypeError when a key that is to be found on disk has a part without content. */
int pfo_cached_check_persistent(const pfo_cached_function *self, pfo_key_builder *builder, const pfo_call *call);

/* In memory: 1 and a new reference for the caller, counted as a hit; 0 when nothing good is there; -1 exception. */
int pfo_cached_look_up(pfo_cached_function *self, const pfo_key_builder *builder, PyObject **value);

/* On disk, or meanwhile in memory: 1 and a new reference to the value as it is kept, 0, or -1. */
int pfo_cached_load(pfo_cached_function *self, pfo_key_builder *builder, PyObject **value);

/* What a computation was begun with. */
typedef struct pfo_departure {
    pfo_change *change;
    uint64_t absent_at; /* as in pfo_keep */
} pfo_departure;

/* A computation of this key begins; NULL with MemoryError. */
pfo_change *pfo_cached_begin(pfo_cached_function *self, const pfo_key_builder *builder);

/* Makes of a fresh result the value that everybody gets, and keeps it, unless the change is stale. New references in *value and
 * *guard (which may be NULL), or -1 with an exception. */
int pfo_cached_keep(pfo_cached_function *self, pfo_key_builder *builder, const pfo_departure *departure,
                    PyObject *result, PyObject **value, PyObject **guard);

/* What its keys on disk begin with; NULL when it does not persist. */
const pfo_digest *pfo_cached_disk_prefix(const pfo_cached_function *self);

/* The vectorcall of the type. */
PyObject *pfo_cached_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames);

#endif
