/* cache_ledger.h: what left a shared cache of the entries of one function.
 *
 * Contract: a ledger is the owner part (key.h [prefix]) of all keys of one function in a cache that it shares, so that whoever releases a key there
 * can count for whom. It has no content and refers to nothing. It outlives the function while a key of it is left.
 * Threads: the GIL.
 */
#ifndef PFO_BINDINGS_CACHE_LEDGER_H
#define PFO_BINDINGS_CACHE_LEDGER_H

#include "bindings/core/core_state.h"

#include "cache/store.h"

#include <stdint.h>

typedef struct pfo_cache_ledger {
    PyObject_HEAD
    uint64_t evictions;
    uint64_t expirations;
} pfo_cache_ledger;

/* New reference, all figures 0; NULL with an exception. */
PyObject *pfo_cache_ledger_new(const pfo_core_state *state);

/* Counts an entry that leaves, if its key's owner part (or NULL) is a ledger. */
static inline void
pfo_cache_ledger_enter(const pfo_core_state *state, PyObject *owner, pfo_leave_reason reason)
{
    if (owner != NULL && Py_TYPE(owner) == state->cache_ledger) {
        pfo_cache_ledger *ledger = (pfo_cache_ledger *)owner;
        ledger->evictions += reason == PFO_LEAVE_EVICTED;
        ledger->expirations += reason == PFO_LEAVE_EXPIRED;
    }
}

static inline void
pfo_cache_ledger_reset(PyObject *ledger)
{
    ((pfo_cache_ledger *)ledger)->evictions = 0;
    ((pfo_cache_ledger *)ledger)->expirations = 0;
}

#endif
