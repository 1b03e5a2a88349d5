/* cache_options.h: the arguments of a cache, from Python objects to numbers; each error names the argument, what it was and what is accepted.
 *
 * All return 0, or -1 with TypeError, ValueError or OverflowError. Need the GIL; reading a number may run user code.
 */
#ifndef PFO_BINDINGS_CACHE_OPTIONS_H
#define PFO_BINDINGS_CACHE_OPTIONS_H

#include <Python.h>

#include "cache/policy.h"

/* An int >= 0, or None (or NULL): PFO_STORE_UNBOUNDED. */
int pfo_parse_bound(PyObject *object, const char *name, uint64_t *bound);

/* Seconds as a float or int > 0 and finite, or a datetime.timedelta > 0, to nanoseconds (at least 1). None or NULL: `otherwise`. */
int pfo_parse_ttl(PyObject *object, uint64_t otherwise, uint64_t *ttl_ns);

/* Bytes, an int >= 0. None or NULL: `otherwise`. */
int pfo_parse_size(PyObject *object, uint64_t otherwise, uint64_t *size);

/* A str that names a policy. NULL: "lru". */
int pfo_parse_policy(PyObject *object, const pfo_policy_ops **policy);

/* A str that is one of `accepted` (ended by NULL); *chosen is that string. NULL object: the first. */
int pfo_parse_choice(PyObject *object, const char *name, const char *const *accepted, const char **chosen);

/* A new str of a directory that exists or can be made later; NULL with an exception. */
PyObject *pfo_parse_cache_dir(PyObject *object);

/* None or False: *key = NULL. bytes of at least 16: *key borrowed. */
int pfo_parse_allow_pickle(PyObject *object, PyObject **key);

/* Arguments by position or name, without a format string: found[i] stays NULL where names[i] was not given. The first `positional` may
 * be given by position. */
int pfo_parse_arguments(const char *function, const char *const *names, Py_ssize_t count, Py_ssize_t positional,
                        Py_ssize_t required, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                        PyObject **found);

#endif
