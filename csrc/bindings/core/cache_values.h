/* cache_values.h: what the cache types share: bounds, values as they are kept, and the release of what left a store.
 *
 * A kept value is what later callers get: arrays in it are read-only views, and if tensors are in it a guard remembers their
 * version counters. Threads: needs the GIL. References: as said at each function.
 */
#ifndef PFO_BINDINGS_CACHE_VALUES_H
#define PFO_BINDINGS_CACHE_VALUES_H

#include "bindings/core/core_state.h"

#include "cache/store.h"

/* None: unbounded; an int >= 0 otherwise. TypeError or ValueError naming max_size; -1. */
int pfo_parse_max_size(PyObject *object, uint64_t *max_entries);

/* The bound as Python sees it: an int, or None. New reference. */
PyObject *pfo_max_size_object(const pfo_store *store);

/* New reference to the value as it is to be kept, and in *guard a new reference or NULL. private_copy: nothing in it is shared
 * with the value given. NULL with an exception. May run user code. */
PyObject *pfo_value_prepare(pfo_core_state *state, PyObject *value, int private_copy, PyObject **guard);

/* A private copy of a kept value. */
PyObject *pfo_value_copy(pfo_core_state *state, PyObject *value);

/* 1 while every tensor still has the version it had when it was kept; 0; -1 exception. guard must be held by the
 * caller. */
int pfo_value_guard_holds(pfo_core_state *state, PyObject *guard);

/* Releases everything on the store's victim list; keeps an exception that is set. Runs user code. */
void pfo_release_victims(pfo_store *store);

/* Empties the store for good: keys are disowned first, so that no death of an instance reaches the owner. Runs user
 * code. */
void pfo_release_store(pfo_store *store);

int pfo_visit_store(const pfo_store *store, visitproc visit, void *arg);

#endif
