/* profiler_type.c: Profiler: the Python face of a recorder: names and switch. What was recorded leaves
 * it as a Capture. The base class of perfopt.PerformanceProfiler.
 *
 * Memory: owns the recorder, the names and the Range objects kept for reuse. It only refers to strings and types, so it
 * is visited by the collector but needs no tp_clear: whatever closes a cycle through a subclass's instance dict is
 * cleared there.
 */
#include "bindings/core/profiler_objects.h"

#include "bindings/common/errors.h"

#include "base/clock.h"
#include "bindings/core/capture_object.h"

enum { DEFAULT_NAMES = 10000, DEFAULT_SPANS = 1000000 };

/* ---- names ----------------------------------------------------------------------------------- */

PyObject *
pfo_profiler_exact_text(PyObject *name)
{
    if (PyUnicode_CheckExact(name)) {
        Py_INCREF(name);
        return name;
    }
    if (!PyUnicode_Check(name)) {
        return PyErr_Format(PyExc_TypeError, "name must be a str, not %.200s", Py_TYPE(name)->tp_name);
    }
    return PyUnicode_FromObject(name);
}

/* A name that is not in `ids`: gives it an id while there is room. */
static int
add_name(pfo_profiler_object *self, PyObject *text, pfo_name *name)
{
    if (pfo_recorder_names(self->recorder) + 1 != PyList_GET_SIZE(self->texts)) {
        PyErr_SetString(PyExc_SystemError, "the profiler's names and its recorder's are out of step");
        return -1;
    }
    /* Room in both containers first, so that nothing can fail once the recorder has given out the id. */
    PyObject *id = PyLong_FromSsize_t(PyList_GET_SIZE(self->texts));
    if (id == NULL) {
        return -1;
    }
    if (PyDict_SetItem(self->ids, text, id) < 0) {
        Py_DECREF(id);
        return -1;
    }
    Py_DECREF(id);
    if (PyList_Append(self->texts, text) < 0) {
        (void)PyDict_DelItem(self->ids, text);
        return -1;
    }
    *name = pfo_recorder_add_name(self->recorder);
    return 0;
}

int
pfo_profiler_find_name(pfo_profiler_object *self, PyObject *text, pfo_name *name)
{
    PyObject *found = PyDict_GetItemWithError(self->ids, text); /* borrowed: the GIL is held until it is read */
    name->epoch = self->epoch;
    if (found != NULL) {
        name->id = (uint32_t)PyLong_AsUnsignedLong(found);
    } else if (PyErr_Occurred()) {
        return -1;
    } else if (PyList_GET_SIZE(self->texts) > pfo_recorder_max_names(self->recorder)) {
        /* Not remembered: such names come once and would push out those that come often. */
        name->id = PFO_RECORDER_OVERFLOW;
        pfo_recorder_note_overflow(self->recorder, (uint64_t)PyObject_Hash(text));
        return 0;
    } else if (add_name(self, text, name) < 0) {
        return -1;
    }
    pfo_recent_name *recent = pfo_recent_place(self, text);
    PyObject *old = recent->text;
    Py_INCREF(text);
    recent->text = text;
    recent->id = name->id;
    Py_XDECREF(old);
    return 0;
}

static void
forget_recent_names(pfo_profiler_object *self)
{
    for (int i = 0; i < PFO_RECENT_NAMES; i++) {
        Py_CLEAR(self->recent[i].text);
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static PyObject *
new_texts(void)
{
    PyObject *texts = PyList_New(1);
    if (texts != NULL) {
        Py_INCREF(Py_None);
        PyList_SET_ITEM(texts, 0, Py_None);
    }
    return texts;
}

/* An int argument from least to most; `fallback` if it was not given. */
static int
read_limit(PyObject *given, const char *what, long long least, long long most, long long fallback, long long *limit)
{
    *limit = fallback;
    if (given == NULL) {
        return 0;
    }
    if (!PyLong_Check(given) || PyBool_Check(given)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %.200s", what, Py_TYPE(given)->tp_name);
        return -1;
    }
    int overflow = 0;
    *limit = PyLong_AsLongLongAndOverflow(given, &overflow);
    if (overflow != 0 || *limit < least || *limit > most) {
        PyErr_Format(PyExc_ValueError, "%s must be from %lld to %lld, not %R", what, least, most, given);
        return -1;
    }
    return 0;
}

static int
read_switch(PyObject *given, const char *what, int *on)
{
    if (given != NULL && !PyBool_Check(given)) {
        PyErr_Format(PyExc_TypeError, "%s must be True or False, not %.200s", what, Py_TYPE(given)->tp_name);
        return -1;
    }
    *on = given == Py_True;
    return 0;
}

static PyObject *
profiler_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = { "max_names", "span_capacity", "trace", "memory", NULL };
    PyObject *given[4] = { NULL, NULL, NULL, NULL };
    long long max_names = 0;
    long long span_capacity = 0;
    int trace = 0;
    int memory = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOOO:Profiler", keywords, &given[0], &given[1], &given[2],
                                     &given[3]) ||
        read_limit(given[0], "max_names", 1, PFO_RECORDER_MOST_NAMES, DEFAULT_NAMES, &max_names) < 0 ||
        read_limit(given[1], "span_capacity", 1, PFO_SPANS_MOST, DEFAULT_SPANS, &span_capacity) < 0 ||
        read_switch(given[2], "trace", &trace) < 0 || read_switch(given[3], "memory", &memory) < 0) {
        return NULL;
    }
    const pfo_core_state *state = pfo_core_state_of_subtype(type);
    if (state == NULL) {
        return NULL;
    }
    pfo_profiler_object *self = (pfo_profiler_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_recorder_create(max_names, trace ? span_capacity : 0, &self->recorder, &err);
    if (status != PFO_OK) {
        Py_DECREF(self);
        return pfo_raise(status, &err);
    }
    self->epoch = pfo_recorder_epoch(self->recorder);
    self->enabled = 1;
    self->memory = memory;
    self->range_type = (PyTypeObject *)Py_NewRef((PyObject *)state->range_type);
    self->function_type = (PyTypeObject *)Py_NewRef((PyObject *)state->profiled_function_type);
    self->driven_type = (PyTypeObject *)Py_NewRef((PyObject *)state->driven_type);
    self->capture_type = (PyTypeObject *)Py_NewRef((PyObject *)state->capture_type);
    self->ids = PyDict_New();
    self->texts = new_texts();
    if (self->ids == NULL || self->texts == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
profiler_traverse(pfo_profiler_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->ids);
    Py_VISIT(self->texts);
    Py_VISIT(self->range_type);
    Py_VISIT(self->function_type);
    Py_VISIT(self->driven_type);
    Py_VISIT(self->capture_type);
    return 0;
}

static void
profiler_dealloc(pfo_profiler_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack((PyObject *)self);
    pfo_range_free_kept(self);
    forget_recent_names(self);
    Py_CLEAR(self->ids);
    Py_CLEAR(self->texts);
    Py_CLEAR(self->range_type);
    Py_CLEAR(self->function_type);
    Py_CLEAR(self->driven_type);
    Py_CLEAR(self->capture_type);
    pfo_recorder_destroy(self->recorder);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* ---- recording ------------------------------------------------------------------------------- */

PyDoc_STRVAR(profile_doc,
             "profile($self, name, /, *, memory=False)\n--\n\n"
             "A context manager that records the time from its beginning to its end under ``name`` (a str).\n\n"
             "Exceptions pass through and the range is recorded all the same. The same name may be nested. Ranges\n"
             "are recorded if the profiler is on when they begin. Beyond ``max_names`` different names, new ones are\n"
             "recorded together in one overflow row. ``memory=True`` also records by how many bytes the process's\n"
             "resident set changed (all threads' work is in it; two reads of about half a microsecond). Raises\n"
             "TypeError if name is not a str or memory not a bool.");

/* The value of the one keyword argument `memory`; -1 with TypeError for anything else. */
static int
memory_wanted(PyObject *const *values, PyObject *kwnames)
{
    const char *text = PyTuple_GET_SIZE(kwnames) == 1 ? PyUnicode_AsUTF8(PyTuple_GET_ITEM(kwnames, 0)) : NULL;
    if (text == NULL || strcmp(text, "memory") != 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "profile() takes one keyword argument, memory, not %R", kwnames);
        return -1;
    }
    int on = 0;
    return read_switch(values[0], "memory", &on) < 0 ? -1 : on;
}

static PyObject *
profiler_profile(pfo_profiler_object *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (nargs != 1) {
        return PyErr_Format(PyExc_TypeError, "profile() takes exactly 1 positional argument (%zd given)", nargs);
    }
    const int memory = kwnames == NULL ? 0 : memory_wanted(args + nargs, kwnames);
    if (memory < 0) {
        return NULL;
    }
    if (PyUnicode_CheckExact(args[0])) {
        return pfo_range_new(self, args[0], memory | self->memory);
    }
    PyObject *text = pfo_profiler_exact_text(args[0]);
    if (text == NULL) {
        return NULL;
    }
    PyObject *range = pfo_range_new(self, text, memory | self->memory);
    Py_DECREF(text);
    return range;
}

PyDoc_STRVAR(record_doc,
             "record($self, name, seconds, /)\n--\n\n"
             "Records a range that was timed elsewhere (on a device, in another process) as one of ``seconds`` that\n"
             "ends now. Nothing while the profiler is off. Raises TypeError for arguments of another type, ValueError\n"
             "unless seconds is finite and at least 0.");

static PyObject *
profiler_record(pfo_profiler_object *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "record() takes exactly 2 arguments (%zd given)", nargs);
    }
    const double seconds = PyFloat_AsDouble(args[1]);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    const double ticks = seconds * 1e9 / pfo_clock_ns_per_tick();
    if (!(ticks >= 0.0 && ticks < (double)INT64_MAX / 2)) {
        return PyErr_Format(PyExc_ValueError, "seconds must be finite and at least 0, not %R", args[1]);
    }
    PyObject *text = pfo_profiler_exact_text(args[0]);
    if (text == NULL) {
        return NULL;
    }
    pfo_name name;
    const int found = self->enabled ? pfo_profiler_find_name(self, text, &name) : 0;
    Py_DECREF(text);
    if (found < 0) {
        return NULL;
    }
    if (self->enabled) {
        pfo_open_range range;
        pfo_recorder_begin(self->recorder, name, &range);
        range.begin_tick -= (int64_t)ticks;
        pfo_recorder_end(self->recorder, &range, range.begin_tick + (int64_t)ticks);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(drive_doc,
             "drive($self, name, awaitable=None, /)\n--\n\n"
             "A Driven that is awaited (or iterated) in place of ``awaitable``, a coroutine, generator or other\n"
             "awaitable or iterable, and records one range from its first step to its end under ``name``: wall time,\n"
             "and active time while it ran. Without ``awaitable``, steps are driven one by one with ``step()``, until\n"
             "``end()``. Raises TypeError if name is not a str or the other neither awaitable nor iterable.");

static PyObject *
profiler_drive(pfo_profiler_object *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        return PyErr_Format(PyExc_TypeError, "drive() takes 1 or 2 arguments (%zd given)", nargs);
    }
    PyObject *text = pfo_profiler_exact_text(args[0]);
    if (text == NULL) {
        return NULL;
    }
    PyObject *driven = pfo_driven_new(self, text, nargs == 2 && args[1] != Py_None ? args[1] : NULL);
    Py_DECREF(text);
    return driven;
}

PyDoc_STRVAR(wrap_doc, "wrap($self, function, name, /)\n--\n\n"
                       "A ProfiledFunction that calls ``function`` and records each call under ``name`` (a str).\n\n"
                       "Raises TypeError if function is not callable or name is not a str.");

static PyObject *
profiler_wrap(pfo_profiler_object *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "wrap() takes exactly 2 arguments (%zd given)", nargs);
    }
    if (!PyCallable_Check(args[0])) {
        return PyErr_Format(PyExc_TypeError, "function must be callable, not %.200s", Py_TYPE(args[0])->tp_name);
    }
    PyObject *text = pfo_profiler_exact_text(args[1]);
    if (text == NULL) {
        return NULL;
    }
    PyObject *wrapped = pfo_profiled_function_new(self, args[0], text);
    Py_DECREF(text);
    return wrapped;
}

PyDoc_STRVAR(start_doc, "start($self, /)\n--\n\n"
                        "Switches recording on (it is on at first) for ranges that begin from now on.");

static PyObject *
profiler_start(pfo_profiler_object *self, PyObject *Py_UNUSED(ignored))
{
    self->enabled = 1;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc, "stop($self, /)\n--\n\n"
                       "Switches recording off for ranges that begin from now on; what was recorded stays.");

static PyObject *
profiler_stop(pfo_profiler_object *self, PyObject *Py_UNUSED(ignored))
{
    self->enabled = 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(reset_doc, "reset($self, /)\n--\n\n"
                        "Forgets everything recorded and all names. Ranges that are open meanwhile are not recorded.");

static PyObject *
profiler_reset(pfo_profiler_object *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *ids = PyDict_New();
    PyObject *texts = new_texts();
    if (ids == NULL || texts == NULL) {
        Py_XDECREF(ids);
        Py_XDECREF(texts);
        return NULL;
    }
    PyObject *old_ids = self->ids;
    PyObject *old_texts = self->texts;
    self->ids = ids;
    self->texts = texts;
    self->epoch = pfo_recorder_reset(self->recorder);
    forget_recent_names(self);
    Py_DECREF(old_ids);
    Py_DECREF(old_texts);
    Py_RETURN_NONE;
}

/* ---- reading --------------------------------------------------------------------------------- */

PyDoc_STRVAR(capture_doc, "capture($self, /)\n--\n\n"
                          "What was recorded so far, over all threads, as a Capture. Recording goes on beside it.\n\n"
                          "Ranges that are still open are not counted in it.");

static PyObject *
profiler_capture(pfo_profiler_object *self, PyObject *Py_UNUSED(ignored))
{
    return pfo_capture_of_recorder(self);
}

PyDoc_STRVAR(usage_doc, "usage($self, /)\n--\n\n"
                        "What recording holds: a dict of ``threads`` (sets of per-thread data, at work or waiting for\n"
                        "a thread), ``memory_bytes`` and ``dropped`` (ranges lost because memory was out).");

static PyObject *
profiler_usage(pfo_profiler_object *self, PyObject *Py_UNUSED(ignored))
{
    pfo_recorder_usage usage;
    Py_BEGIN_ALLOW_THREADS
    usage = pfo_recorder_measure(self->recorder);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("{s:L,s:n,s:K}", "threads", (long long)usage.threads, "memory_bytes", (Py_ssize_t)usage.bytes,
                         "dropped", (unsigned long long)usage.dropped);
}

static PyObject *
get_enabled(pfo_profiler_object *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->enabled);
}

static int
set_enabled(pfo_profiler_object *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "enabled must be True or False, not %.200s",
                     value == NULL ? "deleted" : Py_TYPE(value)->tp_name);
        return -1;
    }
    self->enabled = value == Py_True;
    return 0;
}

static PyObject *
get_tracing(pfo_profiler_object *self, void *Py_UNUSED(closure))
{
    uint64_t first = 0;
    return PyBool_FromLong(pfo_recorder_spans(self->recorder, &first) != NULL);
}

static PyObject *
get_max_names(pfo_profiler_object *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong((long long)pfo_recorder_max_names(self->recorder));
}

static PyMethodDef profiler_methods[] = {
    { "profile", (PyCFunction)(void (*)(void))profiler_profile, METH_FASTCALL | METH_KEYWORDS, profile_doc },
    { "record", (PyCFunction)(void (*)(void))profiler_record, METH_FASTCALL, record_doc },
    { "drive", (PyCFunction)(void (*)(void))profiler_drive, METH_FASTCALL, drive_doc },
    { "wrap", (PyCFunction)(void (*)(void))profiler_wrap, METH_FASTCALL, wrap_doc },
    { "start", (PyCFunction)profiler_start, METH_NOARGS, start_doc },
    { "stop", (PyCFunction)profiler_stop, METH_NOARGS, stop_doc },
    { "reset", (PyCFunction)profiler_reset, METH_NOARGS, reset_doc },
    { "capture", (PyCFunction)profiler_capture, METH_NOARGS, capture_doc },
    { "usage", (PyCFunction)profiler_usage, METH_NOARGS, usage_doc },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef profiler_properties[] = {
    { "enabled", (getter)get_enabled, (setter)set_enabled, "True while ranges that begin are recorded; can be set.",
      NULL },
    { "tracing", (getter)get_tracing, NULL, "True where spans are kept one by one.", NULL },
    { "max_names", (getter)get_max_names, NULL, "Names recorded apart; all beyond share one row.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

PyDoc_STRVAR(
    profiler_doc,
    "Profiler(*, max_names=10000, span_capacity=1000000, trace=False, memory=False)\n--\n\n"
    "Records how often and how long named ranges run, per thread and without locks.\n\n"
    "``trace`` also keeps the last ``span_capacity`` ranges of all threads one by one, 32 bytes each, taken up\n"
    "as they come. ``memory`` measures the resident set around every range. Raises TypeError\n"
    "for arguments of another type, ValueError unless max_names is from 1 to 16777216 and span_capacity from\n"
    "1 to 1073741824.");

static PyType_Slot profiler_slots[] = {
    { Py_tp_doc, (void *)profiler_doc },
    { Py_tp_new, (void *)profiler_new },
    { Py_tp_dealloc, (void *)profiler_dealloc },
    { Py_tp_traverse, (void *)profiler_traverse },
    { Py_tp_methods, profiler_methods },
    { Py_tp_getset, profiler_properties },
    { 0, NULL },
};

PyType_Spec pfo_profiler_type_spec = {
    .name = "perfopt._core.Profiler",
    .basicsize = sizeof(pfo_profiler_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = profiler_slots,
};
