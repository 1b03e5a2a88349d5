/* pending_call.h: the key of a call whose result comes later (async), as a Python object.
 *
 * Contract: hashable and comparable like the key it holds, so that Python finds the flight of a key in a dict. It holds the arguments that are
 * in its key, instances too, while the call is pending. Immutable after it was made.
 * Threads: the GIL.
 */
#ifndef PFO_BINDINGS_PENDING_CALL_H
#define PFO_BINDINGS_PENDING_CALL_H

#include "bindings/core/cache_changes.h"
#include "bindings/core/key.h"

typedef struct pfo_pending_call {
    PyObject_HEAD
    pfo_key_builder key; /* finished, once the maker has returned it */
    int64_t begun;       /* tick at which it began to be computed */
    pfo_change *change;  /* what began then, or NULL */
} pfo_pending_call;

/* A new object with a started builder. */
pfo_pending_call *pfo_pending_call_new(pfo_core_state *state);

/* The object as what it is; NULL with TypeError. */
pfo_pending_call *pfo_pending_call_check(const pfo_core_state *state, PyObject *object);

#endif
