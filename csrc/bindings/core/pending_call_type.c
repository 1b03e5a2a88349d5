/* pending_call_type.c: see pending_call.h.
 *
 * References: the builder's parts, which the collector sees: arguments may refer back to whoever waits for the call.
 */
#include "bindings/core/pending_call.h"

pfo_pending_call *
pfo_pending_call_new(pfo_core_state *state)
{
    pfo_pending_call *pending = PyObject_GC_New(pfo_pending_call, state->pending_call);
    if (pending != NULL) {
        pfo_key_start(&pending->key, state, 1);
        pending->begun = 0;
        pending->change = NULL;
        PyObject_GC_Track(pending);
    }
    return pending;
}

pfo_pending_call *
pfo_pending_call_check(const pfo_core_state *state, PyObject *object)
{
    if (Py_TYPE(object) != state->pending_call) {
        PyErr_Format(PyExc_TypeError, "expected a pending call, not %.200s", Py_TYPE(object)->tp_name);
        return NULL;
    }
    return (pfo_pending_call *)object;
}

static Py_hash_t
pending_hash(PyObject *op)
{
    const Py_hash_t hash = (Py_hash_t)((pfo_pending_call *)op)->key.hash;
    return hash == -1 ? -2 : hash;
}

static PyObject *
pending_compare(PyObject *op, PyObject *other, int operation)
{
    if (Py_TYPE(other) != Py_TYPE(op) || (operation != Py_EQ && operation != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    const int same = pfo_key_same(&((pfo_pending_call *)op)->key, &((pfo_pending_call *)other)->key);
    return same < 0 ? NULL : PyBool_FromLong((operation == Py_EQ) == same);
}

static int
pending_traverse(PyObject *op, visitproc visit, void *arg)
{
    const pfo_key_builder *key = &((pfo_pending_call *)op)->key;
    Py_VISIT(Py_TYPE(op));
    for (Py_ssize_t i = 0; i < key->count; i++) {
        Py_VISIT(key->parts[i].object);
    }
    return 0;
}

static void
pending_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pfo_change_end(((pfo_pending_call *)op)->change);
    pfo_key_drop(&((pfo_pending_call *)op)->key);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot pending_slots[] = {
    { Py_tp_doc, (void *)"The key of an async call that is being computed (internal)." },
    { Py_tp_hash, (void *)pending_hash },
    { Py_tp_richcompare, (void *)pending_compare },
    { Py_tp_traverse, (void *)pending_traverse },
    { Py_tp_dealloc, (void *)pending_dealloc },
    { 0, NULL },
};

PyType_Spec pfo_pending_call_spec = {
    .name = "perfopt._core.pending_call",
    .basicsize = sizeof(pfo_pending_call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pending_slots,
};
