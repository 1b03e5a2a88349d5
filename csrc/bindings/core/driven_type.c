/* driven_type.c: Driven: stands in for a coroutine or generator and records when it runs and when it waits.
 *
 * It is awaited or iterated in place of the inner one and hands every send, throw and close on. Before each step the
 * range is resumed, after it suspended, and ended when the inner one has returned or raised; so tasks that take turns on
 * one thread do not see each other's time, and a generator may go on on another thread. An asynchronous generator is
 * driven step by step, each an awaitable of its own, and ended by its wrapper.
 * Whether it is recorded is decided at the first step. One that is never finished is in the tree with the time it ran, and
 * not counted. A Driven that is stepped while it runs (re-entered) is handed on as it is: the inner one raises.
 * Memory: owns the inner iterator between steps; cycles through it are broken by tp_clear.
 */
#include "bindings/core/profiler_objects.h"

#include "base/clock.h"
#include "base/platform.h"

typedef enum driven_state { DRIVEN_NEW, DRIVEN_WAITS, DRIVEN_RUNS, DRIVEN_OVER } driven_state;

typedef struct driven_object {
    PyObject_HEAD
    pfo_profiler_object *profiler;
    PyObject *text;
    PyObject *inner; /* iterator; NULL before the first step() and after tp_clear */
    pfo_suspending_range range;
    int64_t resident; /* bytes at the first step, where the profiler measures memory */
    driven_state state;
    int stepwise; /* a step's end is not the range's */
} driven_object;

/* The iterator of an awaitable or iterable: a new reference. Coroutines and generators are their own. */
static PyObject *
iterator_of(PyObject *thing)
{
    if (PyCoro_CheckExact(thing) || PyGen_CheckExact(thing)) {
        return Py_NewRef(thing);
    }
    const PyAsyncMethods *async = Py_TYPE(thing)->tp_as_async;
    if (async == NULL || async->am_await == NULL) {
        return PyObject_GetIter(thing);
    }
    PyObject *iterator = async->am_await(thing);
    if (iterator != NULL && !PyIter_Check(iterator)) { /* as `await` says it */
        PyErr_Format(PyExc_TypeError, "__await__() returned non-iterator of type '%.100s'", Py_TYPE(iterator)->tp_name);
        Py_CLEAR(iterator);
    }
    return iterator;
}

PyObject *
pfo_driven_new(pfo_profiler_object *profiler, PyObject *text, PyObject *inner)
{
    PyObject *iterator = NULL;
    if (inner != NULL) {
        iterator = iterator_of(inner);
        if (iterator == NULL) {
            return NULL;
        }
    }
    driven_object *self = PyObject_GC_New(driven_object, profiler->driven_type);
    if (self == NULL) {
        Py_XDECREF(iterator);
        return NULL;
    }
    self->profiler = (pfo_profiler_object *)Py_NewRef((PyObject *)profiler);
    self->text = Py_NewRef(text);
    self->inner = iterator;
    self->state = DRIVEN_NEW;
    self->stepwise = inner == NULL;
    self->resident = -1;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

/* ---- the range ------------------------------------------------------------------------------- */

/* Before a step. *runs = 1 if leave() is to follow it. -1 with an exception set. */
static int
enter(driven_object *self, int *runs)
{
    pfo_profiler_object *profiler = self->profiler;
    *runs = 0;
    if (self->state == DRIVEN_WAITS) {
        self->state = DRIVEN_RUNS;
        *runs = 1;
        pfo_recorder_resume(profiler->recorder, &self->range);
        return 0;
    }
    if (self->state != DRIVEN_NEW) {
        return 0;
    }
    if (!profiler->enabled) {
        self->state = DRIVEN_OVER;
        return 0;
    }
    pfo_name name;
    if (pfo_profiler_name(profiler, self->text, &name) < 0) {
        return -1;
    }
    if (profiler->memory) {
        self->resident = pfo_process_rss();
    }
    self->state = DRIVEN_RUNS;
    *runs = 1;
    pfo_recorder_begin_suspending(profiler->recorder, name, &self->range);
    return 0;
}

static void
end(driven_object *self, int64_t tick)
{
    self->state = DRIVEN_OVER;
    pfo_recorder_end_suspending(self->profiler->recorder, &self->range, tick);
    const int64_t now = self->resident < 0 ? -1 : pfo_process_rss();
    if (now >= 0) {
        pfo_recorder_add_memory(self->profiler->recorder, self->range.frame.name, now - self->resident);
    }
}

/* After a step that enter() said runs. */
static void
leave(driven_object *self, int finished)
{
    const int64_t tick = pfo_ticks();
    if (finished && !self->stepwise) {
        end(self, tick);
    } else {
        self->state = DRIVEN_WAITS;
        pfo_recorder_suspend(self->profiler->recorder, &self->range, tick);
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int
has_inner(const driven_object *self)
{
    if (self->inner == NULL || self->profiler == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "nothing to drive: no step() was given, or it was cleared already");
        return 0;
    }
    return 1;
}

static PySendResult
driven_am_send(PyObject *object, PyObject *value, PyObject **result)
{
    driven_object *self = (driven_object *)object;
    int runs = 0;
    *result = NULL;
    if (!has_inner(self) || enter(self, &runs) < 0) {
        return PYGEN_ERROR;
    }
    PyObject *inner = Py_NewRef(self->inner);
    const PySendResult sent = PyIter_Send(inner, value, result);
    if (runs) {
        leave(self, sent != PYGEN_NEXT);
    }
    Py_DECREF(inner);
    return sent;
}

/* As __next__ and send() give it: a value, or StopIteration with what was returned. */
static PyObject *
send_value(PyObject *self, PyObject *value)
{
    PyObject *result = NULL;
    const PySendResult sent = driven_am_send(self, value, &result);
    if (sent != PYGEN_RETURN) {
        return result;
    }
    if (result == Py_None) {
        PyErr_SetNone(PyExc_StopIteration);
    } else { /* an instance: a returned tuple or exception is a value here, not arguments */
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
        if (stop != NULL) {
            PyErr_SetObject(PyExc_StopIteration, stop);
            Py_DECREF(stop);
        }
    }
    Py_DECREF(result);
    return NULL;
}

static PyObject *
driven_next(PyObject *self)
{
    return send_value(self, Py_None);
}

PyDoc_STRVAR(send_doc, "send($self, value, /)\n--\n\nHands value to the inner one; gives what that yields next.");

PyDoc_STRVAR(throw_doc, "throw($self, exception, value=None, traceback=None, /)\n--\n\n"
                        "Raises an exception in the inner one; gives what that yields next.");

/* A method of the inner one. 0 and NULL if it has none: a plain iterator needs neither throw nor close. -1 with an
 * exception set. */
static int
find_method(const driven_object *self, const char *name, PyObject **method)
{
    *method = PyObject_GetAttrString(self->inner, name);
    if (*method == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
    }
    return 0;
}

/* Throwing into something without throw(): the exception comes out at once. NULL with it set. */
static PyObject *
raise_here(PyObject *args)
{
    PyObject *type = NULL;
    PyObject *value = NULL;
    PyObject *traceback = NULL; /* that of an exception that was raised before is kept with it */
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &traceback)) {
        return NULL;
    }
    if (PyExceptionInstance_Check(type)) {
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    } else if (PyExceptionClass_Check(type)) {
        PyErr_SetObject(type, value);
    } else {
        PyErr_Format(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException, not %.200s",
                     Py_TYPE(type)->tp_name);
    }
    return NULL;
}

static PyObject *
driven_throw(driven_object *self, PyObject *args)
{
    int runs = 0;
    PyObject *method = NULL;
    if (!has_inner(self) || find_method(self, "throw", &method) < 0) {
        return NULL;
    }
    if (enter(self, &runs) < 0) {
        Py_XDECREF(method);
        return NULL;
    }
    PyObject *result = method == NULL ? raise_here(args) : PyObject_Call(method, args, NULL);
    if (runs) {
        leave(self, result == NULL);
    }
    Py_XDECREF(method);
    return result;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Closes the inner one, and ends the range if one had begun.");

static PyObject *
driven_close(driven_object *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *method = NULL;
    if (!has_inner(self) || find_method(self, "close", &method) < 0) {
        return NULL;
    }
    int runs = 0;
    if (self->state == DRIVEN_WAITS) {
        (void)enter(self, &runs); /* cannot fail: it has begun */
    } else if (self->state == DRIVEN_NEW && !self->stepwise) {
        self->state = DRIVEN_OVER; /* it never ran, and a later step finds it finished */
    }
    PyObject *result = method == NULL ? Py_NewRef(Py_None) : PyObject_CallNoArgs(method);
    if (runs) {
        leave(self, 1);
    }
    Py_XDECREF(method);
    return result;
}

PyDoc_STRVAR(step_doc, "step($self, awaitable, /)\n--\n\n"
                       "Takes the next awaitable to drive and returns self, to be awaited.");

static PyObject *
driven_step(driven_object *self, PyObject *awaitable)
{
    PyObject *iterator = iterator_of(awaitable);
    if (iterator == NULL) {
        return NULL;
    }
    PyObject *old = self->inner;
    self->inner = iterator;
    Py_XDECREF(old);
    return Py_NewRef((PyObject *)self);
}

PyDoc_STRVAR(end_doc, "end($self, /)\n--\n\nEnds the range, if one had begun and has not ended.");

static PyObject *
driven_end(driven_object *self, PyObject *Py_UNUSED(ignored))
{
    int runs = 0;
    if (self->state == DRIVEN_WAITS) {
        (void)enter(self, &runs);
    }
    if (runs) {
        end(self, self->range.frame.begin_tick); /* it did not run since */
    }
    Py_RETURN_NONE;
}

/* ---- the type -------------------------------------------------------------------------------- */

static int
driven_traverse(driven_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->profiler);
    Py_VISIT(self->inner);
    return 0;
}

static int
driven_clear(driven_object *self)
{
    Py_CLEAR(self->inner);
    return 0;
}

static void
driven_dealloc(driven_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack((PyObject *)self);
    Py_CLEAR(self->inner); /* may run the inner one's clean-up, which needs the rest */
    Py_CLEAR(self->profiler);
    Py_CLEAR(self->text);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
driven_self(PyObject *self)
{
    return Py_NewRef(self);
}

static PyObject *
driven_repr(driven_object *self)
{
    return PyUnicode_FromFormat("<perfopt driven %R around %R>", self->text,
                                self->inner == NULL ? Py_None : self->inner);
}

static PyMethodDef driven_methods[] = {
    { "send", (PyCFunction)send_value, METH_O, send_doc },
    { "throw", (PyCFunction)driven_throw, METH_VARARGS, throw_doc },
    { "close", (PyCFunction)driven_close, METH_NOARGS, close_doc },
    { "step", (PyCFunction)driven_step, METH_O, step_doc },
    { "end", (PyCFunction)driven_end, METH_NOARGS, end_doc },
    { NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(driven_doc, "A coroutine or generator whose running and waiting is recorded; made by Profiler.drive().");

static PyType_Slot driven_slots[] = {
    { Py_tp_doc, (void *)driven_doc },
    { Py_tp_dealloc, (void *)driven_dealloc },
    { Py_tp_traverse, (void *)driven_traverse },
    { Py_tp_clear, (void *)driven_clear },
    { Py_tp_iter, (void *)driven_self },
    { Py_tp_iternext, (void *)driven_next },
    { Py_am_await, (void *)driven_self },
    { Py_am_send, (void *)driven_am_send },
    { Py_tp_repr, (void *)driven_repr },
    { Py_tp_methods, driven_methods },
    { 0, NULL },
};

PyType_Spec pfo_driven_type_spec = {
    .name = "perfopt._core.Driven",
    .basicsize = sizeof(driven_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = driven_slots,
};
