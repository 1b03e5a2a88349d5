/* profiled_function_type.c: ProfiledFunction: a callable that records each call as a range, without a Python frame of
 * its own.
 *
 * The open range is a local variable of the call, so recursion and threads need nothing more; the range is recorded
 * whether the call returns or raises. As a class attribute it binds like a function (Py_TPFLAGS_METHOD_DESCRIPTOR:
 * without making a bound object). The instance dict takes what functools.update_wrapper() gives it: __wrapped__,
 * __name__, __doc__ ...
 */
#include "bindings/core/profiler_objects.h"

#include "base/clock.h"
#include "base/platform.h"

#include <structmember.h>

typedef struct profiled_function {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    pfo_profiler_object *profiler;
    PyObject *function;
    PyObject *text; /* exact str */
    pfo_name name;  /* of the profiler's epoch, or looked up at the next call */
    PyObject *dict;
    PyObject *weak_references;
} profiled_function;

/* 1 and *name if this call is to be recorded, 0 if not, -1 with an exception set. */
static inline int
is_recorded(profiled_function *self, pfo_name *name)
{
    pfo_profiler_object *profiler = self->profiler;
    if (profiler == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this profiled function was already cleared by the garbage collector");
        return -1;
    }
    if (!profiler->enabled) {
        return 0;
    }
    *name = self->name;
    if (name->epoch != profiler->epoch) {
        if (pfo_profiler_name(profiler, self->text, name) < 0) {
            return -1;
        }
        self->name = *name;
    }
    return 1;
}

static PyObject *
call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    profiled_function *self = (profiled_function *)callable;
    pfo_name name;
    const int recorded = is_recorded(self, &name);
    if (recorded <= 0) {
        return recorded < 0 ? NULL : PyObject_Vectorcall(self->function, args, nargsf, kwnames);
    }
    pfo_recorder *recorder = self->profiler->recorder; /* alive: whoever calls holds self, self the profiler */
    pfo_open_range range;
    pfo_recorder_begin(recorder, name, &range);
    PyObject *result = PyObject_Vectorcall(self->function, args, nargsf, kwnames);
    pfo_recorder_end(recorder, &range, pfo_ticks());
    return result;
}

/* The same where the profiler measures memory, so that nobody else pays for the question. */
static PyObject *
call_measured(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    profiled_function *self = (profiled_function *)callable;
    pfo_name name;
    const int recorded = is_recorded(self, &name);
    if (recorded <= 0) {
        return recorded < 0 ? NULL : PyObject_Vectorcall(self->function, args, nargsf, kwnames);
    }
    pfo_recorder *recorder = self->profiler->recorder;
    pfo_open_range range;
    const int64_t before = pfo_process_rss();
    pfo_recorder_begin(recorder, name, &range);
    PyObject *result = PyObject_Vectorcall(self->function, args, nargsf, kwnames);
    pfo_recorder_end(recorder, &range, pfo_ticks());
    const int64_t after = pfo_process_rss();
    if (before >= 0 && after >= 0) {
        pfo_recorder_add_memory(recorder, name, after - before);
    }
    return result;
}

PyObject *
pfo_profiled_function_new(pfo_profiler_object *profiler, PyObject *function, PyObject *text)
{
    profiled_function *self = PyObject_GC_New(profiled_function, profiler->function_type);
    if (self == NULL) {
        return NULL;
    }
    Py_INCREF(profiler);
    Py_INCREF(function);
    Py_INCREF(text);
    self->vectorcall = profiler->memory ? call_measured : call;
    self->profiler = profiler;
    self->function = function;
    self->text = text;
    self->name = (pfo_name){ 0, 0 };
    self->dict = NULL;
    self->weak_references = NULL;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

static int
function_traverse(profiled_function *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->profiler);
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    return 0;
}

static int
function_clear(profiled_function *self)
{
    Py_CLEAR(self->profiler);
    Py_CLEAR(self->function);
    Py_CLEAR(self->dict);
    return 0;
}

static void
function_dealloc(profiled_function *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack((PyObject *)self);
    if (self->weak_references != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)function_clear(self);
    Py_CLEAR(self->text);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
function_bind(PyObject *self, PyObject *instance, PyObject *Py_UNUSED(type))
{
    if (instance == NULL || instance == Py_None) {
        Py_INCREF(self);
        return self;
    }
    return PyMethod_New(self, instance);
}

static PyObject *
function_repr(profiled_function *self)
{
    return PyUnicode_FromFormat("<perfopt profiled %R as %R>", self->function, self->text);
}

PyDoc_STRVAR(reduce_doc, "__reduce__($self, /)\n--\n\n"
                         "Pickles by qualified name, like a plain function.");

static PyObject *
function_reduce(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_GetAttrString(self, "__qualname__");
}

static PyMethodDef function_methods[] = {
    { "__reduce__", (PyCFunction)function_reduce, METH_NOARGS, reduce_doc },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef function_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(profiled_function, vectorcall), READONLY, NULL },
    { "__dictoffset__", T_PYSSIZET, offsetof(profiled_function, dict), READONLY, NULL },
    { "__weaklistoffset__", T_PYSSIZET, offsetof(profiled_function, weak_references), READONLY, NULL },
    { "operation", T_OBJECT_EX, offsetof(profiled_function, text), READONLY,
      "The name under which the calls are recorded." },
    { "profiler", T_OBJECT_EX, offsetof(profiled_function, profiler), READONLY, "The profiler that records them." },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef function_properties[] = {
    { "__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

PyDoc_STRVAR(function_doc, "A function whose calls are recorded by a profiler; made by profile_operation().");

static PyType_Slot function_slots[] = {
    { Py_tp_doc, (void *)function_doc },
    { Py_tp_dealloc, (void *)function_dealloc },
    { Py_tp_traverse, (void *)function_traverse },
    { Py_tp_clear, (void *)function_clear },
    { Py_tp_call, (void *)PyVectorcall_Call },
    { Py_tp_descr_get, (void *)function_bind },
    { Py_tp_repr, (void *)function_repr },
    { Py_tp_methods, function_methods },
    { Py_tp_members, function_members },
    { Py_tp_getset, function_properties },
    { 0, NULL },
};

PyType_Spec pfo_profiled_function_type_spec = {
    .name = "perfopt._core.ProfiledFunction",
    .basicsize = sizeof(profiled_function),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = function_slots,
};
