/* cache_entries.h: what PerformanceCache does with one key: its methods for the method table in cache_type.c, with their docstrings.
 *
 * References: as Python methods have them. Threads: the GIL serialises; it may change hands wherever user code runs [re-entrancy].
 */
#ifndef PFO_BINDINGS_CACHE_ENTRIES_H
#define PFO_BINDINGS_CACHE_ENTRIES_H

#include "bindings/core/cache_tiers.h"

/* ValueError and -1 when the cache is closed, else 0. */
static inline int
pfo_cache_check_open(const pfo_performance_cache *self)
{
    if (self->tiers.closed) {
        PyErr_SetString(PyExc_ValueError, "the cache is closed");
        return -1;
    }
    return 0;
}

PyObject *pfo_cache_set(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *pfo_cache_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *pfo_cache_get_or_compute(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *pfo_cache_begin(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *pfo_cache_keep(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *pfo_cache_delete(PyObject *op, PyObject *object);
PyObject *pfo_cache_touch(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
int pfo_cache_contains(PyObject *op, PyObject *object);
PyObject *pfo_cache_peek(PyObject *op, PyObject *object);
PyObject *pfo_cache_depart(PyObject *op, PyObject *object);

extern const char pfo_cache_set_doc[];
extern const char pfo_cache_get_doc[];
extern const char pfo_cache_get_or_compute_doc[];
extern const char pfo_cache_begin_doc[];
extern const char pfo_cache_keep_doc[];
extern const char pfo_cache_delete_doc[];
extern const char pfo_cache_touch_doc[];
extern const char pfo_cache_peek_doc[];
extern const char pfo_cache_depart_doc[];

#endif
