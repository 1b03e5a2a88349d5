/* content_key_type.c: ContentKey, see content_key.h.
 *
 * It owns a kept key of its own: sharing the entry's would show the collector one reference twice. Instances in it are held
 * weakly and report to nobody.
 * Threads: the GIL; immutable after it was made.
 */
#include "bindings/core/content_key.h"

typedef struct content_key {
    PyObject_HEAD
    pfo_core_state *state;
    void *kept;
    uint64_t hash;
} content_key;

PyObject *
pfo_content_key_of_builder(const pfo_key_builder *builder)
{
    void *kept = pfo_key_keep(builder, NULL, NULL);
    if (kept == NULL) {
        return NULL;
    }
    content_key *self = PyObject_GC_New(content_key, builder->state->content_key);
    if (self == NULL) {
        pfo_key_release(kept);
        return NULL;
    }
    self->state = builder->state;
    self->kept = kept;
    self->hash = builder->hash;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyObject *
pfo_content_key_of(pfo_core_state *state, const void *kept, uint64_t hash)
{
    pfo_key_builder builder;
    pfo_key_start(&builder, state, 1);
    PyObject *made = NULL;
    const int answer = pfo_key_add_kept(&builder, kept);
    if (answer == 0) {
        builder.hash = hash;
        made = pfo_content_key_of_builder(&builder);
    } else if (answer > 0) {
        PyErr_SetString(PyExc_ReferenceError, "the object that this key is for is gone");
    }
    pfo_key_drop(&builder);
    return made;
}

const void *
pfo_content_key_kept(PyObject *op)
{
    return ((content_key *)op)->kept;
}

static Py_hash_t
content_key_hash(PyObject *op)
{
    const Py_hash_t hash = (Py_hash_t)((content_key *)op)->hash;
    return hash == -1 ? -2 : hash;
}

static PyObject *
content_key_compare(PyObject *left, PyObject *right, int operation)
{
    const content_key *self = (content_key *)left;
    if ((operation != Py_EQ && operation != Py_NE) || Py_TYPE(right) != self->state->content_key) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    const content_key *other = (content_key *)right;
    int same = left == right;
    if (!same && self->hash == other->hash) {
        pfo_key_builder builder;
        pfo_key_start(&builder, self->state, 1);
        const int answer = pfo_key_add_kept(&builder, self->kept);
        if (answer == 0) {
            same = pfo_key_equal(NULL, &builder, other->kept);
        }
        pfo_key_drop(&builder);
        if (answer < 0 || same < 0) {
            return NULL;
        }
    }
    return PyBool_FromLong(same == (operation == Py_EQ));
}

static PyObject *
content_key_repr(PyObject *op)
{
    char text[48];
    (void)PyOS_snprintf(text, sizeof text, "<ContentKey %016llx>", (unsigned long long)((content_key *)op)->hash);
    return PyUnicode_FromString(text);
}

static int
content_key_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return pfo_key_visit(((content_key *)op)->kept, visit, arg);
}

static void
content_key_dealloc(PyObject *op)
{
    content_key *self = (content_key *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pfo_key_release(self->kept);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(content_key_doc,
             "A key of a PerformanceCache that is known by its content only, as keys() gives it: the object itself is "
             "not kept.\n\n"
             "Stands for its entry in get, set, delete, touch and 'in' of that cache; hashable, equal to a ContentKey "
             "of the same content.");

static PyType_Slot content_key_slots[] = {
    { Py_tp_doc, (void *)content_key_doc },
    { Py_tp_hash, (void *)content_key_hash },
    { Py_tp_richcompare, (void *)content_key_compare },
    { Py_tp_repr, (void *)content_key_repr },
    { Py_tp_traverse, (void *)content_key_traverse },
    { Py_tp_dealloc, (void *)content_key_dealloc },
    { 0, NULL },
};

PyType_Spec pfo_content_key_spec = {
    .name = "perfopt._core.ContentKey",
    .basicsize = sizeof(content_key),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = content_key_slots,
};
