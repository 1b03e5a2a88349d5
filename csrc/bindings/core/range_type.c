/* range_type.c: Range: the context manager that Profiler.profile() returns.
 *
 * The open range lives in the object made for this one `with`, so recursion, threads and interleaved tasks cannot mix
 * theirs. Whether it is recorded is decided when it begins: profiler off then, nothing is recorded; switched off or on
 * meanwhile changes nothing. A reset meanwhile discards it with everything else that began before. Memory: closed
 * objects are kept by their profiler (at most PFO_FREE_RANGES) and hold no reference while they wait. A cycle through
 * a Range also passes through an instance dict of a Profiler subclass, which the collector clears; hence no tp_clear
 * here.
 */
#include "bindings/core/profiler_objects.h"

#include "base/clock.h"
#include "base/platform.h"

typedef enum range_state { RANGE_IDLE, RANGE_RECORDING, RANGE_UNRECORDED } range_state;

struct pfo_range_object {
    PyObject_HEAD
    pfo_profiler_object *profiler; /* owned while the range is alive; NULL while it waits for reuse */
    PyObject *text;
    pfo_range_object *next_free;
    pfo_open_range open;
    int64_t resident; /* bytes when it began, where `memory` is set */
    range_state state;
    int memory;
};

PyObject *
pfo_range_new(pfo_profiler_object *profiler, PyObject *text, int memory)
{
    pfo_range_object *self = profiler->free_ranges;
    if (self != NULL) {
        profiler->free_ranges = self->next_free;
        profiler->free_count--;
        (void)PyObject_Init((PyObject *)self, profiler->range_type);
    } else {
        self = PyObject_GC_New(pfo_range_object, profiler->range_type);
        if (self == NULL) {
            return NULL;
        }
    }
    Py_INCREF(profiler);
    self->profiler = profiler;
    Py_INCREF(text);
    self->text = text;
    self->state = RANGE_IDLE;
    self->memory = memory;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

static void
range_dealloc(pfo_range_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    pfo_profiler_object *profiler = self->profiler;
    PyObject_GC_UnTrack((PyObject *)self);
    if (self->state == RANGE_RECORDING) { /* entered, and now nobody is left who could close it */
        pfo_recorder_abandon(profiler->recorder, &self->open, pfo_ticks());
    }
    Py_DECREF(self->text); /* an exact str: runs no user code */
    self->profiler = NULL;
    self->text = NULL;
    if (profiler->free_count < PFO_FREE_RANGES) {
        self->next_free = profiler->free_ranges;
        profiler->free_ranges = self;
        profiler->free_count++;
    } else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(profiler); /* may free the kept ranges, this one among them */
    Py_DECREF(type);
}

void
pfo_range_free_kept(pfo_profiler_object *profiler)
{
    while (profiler->free_ranges != NULL) {
        pfo_range_object *kept = profiler->free_ranges;
        profiler->free_ranges = kept->next_free;
        PyObject_GC_Del(kept);
    }
    profiler->free_count = 0;
}

static int
range_traverse(pfo_range_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->profiler);
    return 0;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\n"
                        "Begins the range and returns it. Raises RuntimeError if it is already open.");

static PyObject *
range_enter(pfo_range_object *self, PyObject *Py_UNUSED(ignored))
{
    if (self->state != RANGE_IDLE) {
        return PyErr_Format(PyExc_RuntimeError,
                            "range %R is already open; call profile() once for each nested or concurrent range",
                            self->text);
    }
    Py_INCREF(self);
    if (!self->profiler->enabled) {
        self->state = RANGE_UNRECORDED;
        return (PyObject *)self;
    }
    pfo_name name;
    if (pfo_profiler_name(self->profiler, self->text, &name) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (self->memory) {
        self->resident = pfo_process_rss();
    }
    self->state = RANGE_RECORDING;
    pfo_recorder_begin(self->profiler->recorder, name, &self->open);
    return (PyObject *)self;
}

static void
add_memory(const pfo_range_object *self)
{
    const int64_t now = pfo_process_rss();
    if (now >= 0 && self->resident >= 0) {
        pfo_recorder_add_memory(self->profiler->recorder, self->open.name, now - self->resident);
    }
}

PyDoc_STRVAR(exit_doc, "__exit__($self, exc_type=None, exc_value=None, traceback=None, /)\n--\n\n"
                       "Ends and records the range, whether or not an exception is passing, and lets that pass.\n"
                       "Raises RuntimeError if the range is not open.");

static PyObject *
range_exit(pfo_range_object *self, PyObject *const *Py_UNUSED(args), Py_ssize_t nargs)
{
    const int64_t end_tick = pfo_ticks(); /* first, for the same reason */
    if (nargs > 3) {
        return PyErr_Format(PyExc_TypeError, "__exit__() takes at most 3 arguments (%zd given)", nargs);
    }
    const range_state state = self->state;
    self->state = RANGE_IDLE;
    if (state == RANGE_RECORDING) {
        pfo_recorder_end(self->profiler->recorder, &self->open, end_tick);
        if (self->memory) {
            add_memory(self);
        }
    } else if (state == RANGE_IDLE) {
        return PyErr_Format(PyExc_RuntimeError, "range %R is not open: it was closed already or never entered",
                            self->text);
    }
    Py_RETURN_NONE;
}

static PyObject *
range_repr(pfo_range_object *self)
{
    return PyUnicode_FromFormat("<perfopt range %R, %s>", self->text, self->state == RANGE_IDLE ? "not open" : "open");
}

static PyMethodDef range_methods[] = {
    { "__enter__", (PyCFunction)range_enter, METH_NOARGS, enter_doc },
    { "__exit__", (PyCFunction)(void (*)(void))range_exit, METH_FASTCALL, exit_doc },
    { NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(range_doc, "One profiled range, made by Profiler.profile(): a context manager.\n\n"
                        "It can be used again once it is closed, but not entered twice at a time.");

static PyType_Slot range_slots[] = {
    { Py_tp_doc, (void *)range_doc },           { Py_tp_dealloc, (void *)range_dealloc },
    { Py_tp_traverse, (void *)range_traverse }, { Py_tp_repr, (void *)range_repr },
    { Py_tp_methods, range_methods },           { 0, NULL },
};

PyType_Spec pfo_range_type_spec = {
    .name = "perfopt._core.Range",
    .basicsize = sizeof(pfo_range_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = range_slots,
};
