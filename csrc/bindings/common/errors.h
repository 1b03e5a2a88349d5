/* errors.h: the one place where a pfo_status becomes a Python exception. */
#ifndef PFO_BINDINGS_ERRORS_H
#define PFO_BINDINGS_ERRORS_H

#include <Python.h>

#include "base/status.h"

/* Sets the exception for a failed status (never PFO_OK) with the detail text of err (may be NULL). Returns NULL, so that a
 * binding can write `return pfo_raise(status, &err);`. Needs the GIL. An exception already set stays (INTERRUPTED). */
PyObject *pfo_raise(pfo_status status, const pfo_error *err);

#endif
