/* cache_ledger_type.c: see cache_ledger.h. References: none, so the collector need not know it. Threads: the GIL. */
#include "bindings/core/cache_ledger.h"

PyObject *
pfo_cache_ledger_new(const pfo_core_state *state)
{
    return state->cache_ledger->tp_alloc(state->cache_ledger, 0);
}

static void
ledger_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot ledger_slots[] = {
    { Py_tp_doc, (void *)"What left a shared cache of the entries of one function (internal)." },
    { Py_tp_dealloc, (void *)ledger_dealloc },
    { 0, NULL },
};

PyType_Spec pfo_cache_ledger_spec = {
    .name = "perfopt._core.cache_ledger",
    .basicsize = sizeof(pfo_cache_ledger),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ledger_slots,
};
