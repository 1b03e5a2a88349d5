/* instance_note_type.c: the callback of one weak reference in one kept key.
 *
 * A weak reference cannot be asked for its callback in the public API, so the pair lives in one object: the note is what the key holds;
 * it owns the weak reference, and the reference's callback is the note itself. That cycle (note -> reference -> note) is cut by
 * pfo_instance_forget(), which every key calls for each of its instance parts before it lets go.
 * owner and kept are borrowed: the key that holds the note belongs to the owner.
 */
#include "bindings/core/instance_note.h"

typedef struct instance_note {
    PyObject_HEAD
    PyObject *reference;
    PyObject *owner;
    void *kept;
    uint64_t hash;
    pfo_key_orphaned orphaned;
} instance_note;

PyObject *
pfo_instance_remember(pfo_core_state *state, PyObject *object, PyObject *owner, uint64_t hash, void *kept,
                      pfo_key_orphaned orphaned)
{
    instance_note *note = PyObject_GC_New(instance_note, state->instance_note);
    if (note == NULL) {
        return NULL;
    }
    note->reference = NULL;
    note->owner = owner;
    note->kept = kept;
    note->hash = hash;
    note->orphaned = orphaned;
    PyObject_GC_Track(note);
    note->reference = PyWeakref_NewRef(object, (PyObject *)note);
    if (note->reference == NULL) {
        Py_DECREF(note);
        return NULL;
    }
    return (PyObject *)note;
}

void
pfo_instance_disown(PyObject *op)
{
    instance_note *note = (instance_note *)op;
    note->owner = NULL;
    note->kept = NULL;
}

void
pfo_instance_forget(PyObject *op)
{
    pfo_instance_disown(op);
    Py_CLEAR(((instance_note *)op)->reference);
}

PyObject *
pfo_instance_of(PyObject *op)
{
    const instance_note *note = (instance_note *)op;
    if (note->reference == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *object;
    if (PyWeakref_GetRef(note->reference, &object) <= 0) {
        return NULL;
    }
    Py_DECREF(object); /* the caller of the lookup holds it if it is the one sought */
    return object;
#else
    PyObject *object = PyWeakref_GetObject(note->reference);
    return object == Py_None ? NULL : object;
#endif
}

static PyObject *
note_call(PyObject *op, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    instance_note *note = (instance_note *)op;
    if (note->owner != NULL) {
        PyObject *owner = Py_NewRef(note->owner);
        note->orphaned(owner, note->hash, note->kept);
        Py_DECREF(owner);
    }
    Py_RETURN_NONE;
}

static int
note_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((instance_note *)op)->reference);
    return 0;
}

static int
note_clear(PyObject *op)
{
    Py_CLEAR(((instance_note *)op)->reference);
    return 0;
}

static void
note_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)note_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot note_slots[] = {
    { Py_tp_doc, (void *)"Drops a cache entry when the instance in its key dies (internal)." },
    { Py_tp_call, (void *)note_call },
    { Py_tp_traverse, (void *)note_traverse },
    { Py_tp_clear, (void *)note_clear },
    { Py_tp_dealloc, (void *)note_dealloc },
    { 0, NULL },
};

PyType_Spec pfo_instance_note_spec = {
    .name = "perfopt._core.instance_note",
    .basicsize = sizeof(instance_note),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = note_slots,
};
