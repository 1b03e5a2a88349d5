/* profiler_type.c: Profiler: the Python face of a recorder: names, switch, and the sums as plain numbers.
 *
 * Ticks become seconds here and nowhere else, when somebody reads. The base class of perfopt.PerformanceProfiler.
 * Memory: owns the recorder, the names and the Range objects kept for reuse. It only refers to strings and types, so it
 * is visited by the collector but needs no tp_clear: whatever closes a cycle through a subclass's instance dict is
 * cleared there.
 */
#include "bindings/core/profiler_objects.h"

#include "bindings/common/errors.h"

#include "base/alloc.h"
#include "base/clock.h"

enum { QUANTILES = 3 };

static const double quantiles[QUANTILES] = { 0.5, 0.9, 0.99 };

typedef struct row {
    uint32_t id;
    uint64_t count;
    double sum, smallest, largest; /* ticks, as all figures here */
    double at[QUANTILES];
} row;

typedef struct row_list {
    row *rows;
    int64_t used;
    int64_t capacity;
} row_list;

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
        name->id =
            PFO_RECORDER_OVERFLOW; /* not remembered: such names come once and would push out those that come often */
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

static int
read_max_names(PyObject *given, long long *max_names)
{
    if (given == NULL) {
        *max_names = 10000;
        return 0;
    }
    if (!PyLong_Check(given) || PyBool_Check(given)) {
        PyErr_Format(PyExc_TypeError, "max_names must be an int, not %.200s", Py_TYPE(given)->tp_name);
        return -1;
    }
    int overflow = 0;
    *max_names = PyLong_AsLongLongAndOverflow(given, &overflow);
    if (overflow != 0 || *max_names < 1 || *max_names > PFO_RECORDER_MOST_NAMES) {
        PyErr_Format(PyExc_ValueError, "max_names must be from 1 to %d, not %R", (int)PFO_RECORDER_MOST_NAMES, given);
        return -1;
    }
    return 0;
}

static PyObject *
profiler_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = { "max_names", NULL };
    PyObject *given = NULL;
    long long max_names = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:Profiler", keywords, &given) ||
        read_max_names(given, &max_names) < 0) {
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
    const pfo_status status = pfo_recorder_create(max_names, &self->recorder, &err);
    if (status != PFO_OK) {
        Py_DECREF(self);
        return pfo_raise(status, &err);
    }
    self->epoch = pfo_recorder_epoch(self->recorder);
    self->enabled = 1;
    self->range_type = (PyTypeObject *)Py_NewRef((PyObject *)state->range_type);
    self->function_type = (PyTypeObject *)Py_NewRef((PyObject *)state->profiled_function_type);
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
    pfo_recorder_destroy(self->recorder);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* ---- recording ------------------------------------------------------------------------------- */

PyDoc_STRVAR(profile_doc,
             "profile($self, name, /)\n--\n\n"
             "A context manager that records the time from its beginning to its end under ``name`` (a str).\n\n"
             "Exceptions pass through and the range is recorded all the same. The same name may be nested. Ranges\n"
             "are recorded if the profiler is on when they begin. Beyond ``max_names`` different names, new ones are\n"
             "recorded together in one overflow row. Raises TypeError if name is not a str.");

static PyObject *
profiler_profile(pfo_profiler_object *self, PyObject *name)
{
    if (PyUnicode_CheckExact(name)) {
        return pfo_range_new(self, name);
    }
    PyObject *text = pfo_profiler_exact_text(name);
    if (text == NULL) {
        return NULL;
    }
    PyObject *range = pfo_range_new(self, text);
    Py_DECREF(text);
    return range;
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

static void
take_row(void *context, uint32_t id, const pfo_histogram *merged)
{
    row_list *list = context;
    if (list->used == list->capacity) {
        return; /* a name that appeared after the rows were allocated */
    }
    row *to = &list->rows[list->used++];
    to->id = id;
    to->count = pfo_histogram_count(merged);
    to->sum = (double)pfo_histogram_sum(merged);
    to->smallest = (double)pfo_histogram_min(merged);
    to->largest = (double)pfo_histogram_max(merged);
    pfo_histogram_quantiles(merged, quantiles, QUANTILES, to->at);
}

static PyObject *
rows_as_list(const row_list *list, PyObject *texts, double seconds_per_tick)
{
    PyObject *result = PyList_New((Py_ssize_t)list->used);
    for (int64_t i = 0; result != NULL && i < list->used; i++) {
        const row *from = &list->rows[i];
        const double s = seconds_per_tick;
        PyObject *item = Py_BuildValue("(OKddddddd)", PyList_GET_ITEM(texts, from->id), (unsigned long long)from->count,
                                       from->sum * s, from->sum * s / (double)from->count, from->smallest * s,
                                       from->largest * s, from->at[0] * s, from->at[1] * s, from->at[2] * s);
        if (item == NULL) {
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, (Py_ssize_t)i, item);
    }
    return result;
}

PyDoc_STRVAR(read_doc, "read($self, /)\n--\n\n"
                       "What was recorded, summed over all threads, as a dict of:\n\n"
                       "``rows``: list of (name, count, total, mean, min, max, p50, p90, p99), times in seconds as "
                       "float, in the order in which\n"
                       "the names appeared; name is None for the overflow row. Count, total, min and max are exact, "
                       "quantiles (nearest rank,\n"
                       "log-linear histogram of 64 buckets an octave) are within 1 %.\n"
                       "``dropped``: ranges lost because memory was out. ``threads``: sets of per-thread data. "
                       "``memory_bytes``: their size.");

static PyObject *
profiler_read(pfo_profiler_object *self, PyObject *Py_UNUSED(ignored))
{
    row_list list = { NULL, 0, pfo_recorder_names(self->recorder) + 1 };
    list.rows = pfo_alloc_array((size_t)list.capacity, sizeof *list.rows);
    if (list.rows == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *texts = self->texts; /* of this epoch: a reset meanwhile puts a new list in its place */
    Py_INCREF(texts);
    const uint64_t epoch = self->epoch;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    pfo_recorder_usage usage;
    double seconds_per_tick;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_recorder_visit(self->recorder, epoch, take_row, &list, &err);
    usage = pfo_recorder_measure(self->recorder);
    seconds_per_tick = pfo_clock_ns_per_tick() * 1e-9;
    Py_END_ALLOW_THREADS
    PyObject *rows = status == PFO_OK ? rows_as_list(&list, texts, seconds_per_tick) : pfo_raise(status, &err);
    Py_DECREF(texts);
    pfo_free(list.rows);
    if (rows == NULL) {
        return NULL;
    }
    return Py_BuildValue("{s:N,s:K,s:L,s:n}", "rows", rows, "dropped", (unsigned long long)usage.dropped, "threads",
                         (long long)usage.threads, "memory_bytes", (Py_ssize_t)usage.bytes);
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
get_max_names(pfo_profiler_object *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong((long long)pfo_recorder_max_names(self->recorder));
}

static PyMethodDef profiler_methods[] = {
    { "profile", (PyCFunction)profiler_profile, METH_O, profile_doc },
    { "wrap", (PyCFunction)(void (*)(void))profiler_wrap, METH_FASTCALL, wrap_doc },
    { "start", (PyCFunction)profiler_start, METH_NOARGS, start_doc },
    { "stop", (PyCFunction)profiler_stop, METH_NOARGS, stop_doc },
    { "reset", (PyCFunction)profiler_reset, METH_NOARGS, reset_doc },
    { "read", (PyCFunction)profiler_read, METH_NOARGS, read_doc },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef profiler_properties[] = {
    { "enabled", (getter)get_enabled, (setter)set_enabled, "True while ranges that begin are recorded; can be set.",
      NULL },
    { "max_names", (getter)get_max_names, NULL, "Names recorded apart; all beyond share one row.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

PyDoc_STRVAR(profiler_doc, "Profiler(*, max_names=10000)\n--\n\n"
                           "Records how often and how long named ranges run, per thread and without locks.\n\n"
                           "Raises TypeError if max_names is not an int, ValueError unless it is from 1 to 16777216.");

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
