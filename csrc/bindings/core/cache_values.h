/* cache_values.h: what the cache types share: values as they are kept, what they count for, and walks over a store.
 *
 * A kept value is what later callers get: arrays in it are read-only views, and if tensors are in it a guard remembers their
 * version counters. Threads: needs the GIL. References: as said at each function.
 */
#ifndef PFO_BINDINGS_CACHE_VALUES_H
#define PFO_BINDINGS_CACHE_VALUES_H

#include "bindings/core/core_state.h"

#include "cache/store.h"

/* A bound as Python sees it: an int, or None for PFO_STORE_UNBOUNDED. New reference. */
PyObject *pfo_bound_object(uint64_t bound);

static inline int
pfo_value_is_scalar(PyObject *value)
{
    return PyLong_CheckExact(value) || PyUnicode_CheckExact(value) || PyFloat_CheckExact(value) || value == Py_None ||
           PyBool_Check(value) || PyBytes_CheckExact(value) || PyComplex_CheckExact(value);
}

int pfo_value_is_plain_tuple(PyObject *value);

/* Whether a value is kept and handed out as it is, because nothing in it can be changed: a scalar, or a short tuple of such. Runs no code. */
static inline int
pfo_value_is_plain(PyObject *value)
{
    return pfo_value_is_scalar(value) || (PyTuple_CheckExact(value) && pfo_value_is_plain_tuple(value));
}

/* New reference to the value as it is to be kept, and in *guard a new reference or NULL. private_copy: nothing in it is shared
 * with the value given. NULL with an exception. May run user code. */
PyObject *pfo_value_prepare(pfo_core_state *state, PyObject *value, int private_copy, PyObject **guard);

/* A private copy of a kept value. */
PyObject *pfo_value_copy(pfo_core_state *state, PyObject *value);

/* 1 while every tensor still has the version it had when it was kept; 0; -1 exception. guard must be held by the
 * caller. */
int pfo_value_guard_holds(pfo_core_state *state, PyObject *guard);

/* What a value counts for in a cache bounded by bytes: arrays and tensors by the memory they keep alive, text and bytes by their
 * length, containers with their members (shared ones once), anything else by sys.getsizeof. -1 exception. May run user code, not for
 * plain scalars. */
int pfo_value_bytes(pfo_core_state *state, PyObject *value, size_t *bytes);

/* No death of an instance in a key reaches the owner any more: it is going. Runs no code. */
void pfo_disown_keys(pfo_store *store);

int pfo_visit_store(const pfo_store *store, visitproc visit, void *arg);

#endif
