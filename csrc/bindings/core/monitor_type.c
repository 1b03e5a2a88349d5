/* monitor_type.c: _core.MemorySampler, a Python handle on a pfo_sampler.
 *
 * The object holds no Python references, so it takes no part in garbage collection. The GIL is released wherever the C side may
 * wait (a join, another thread's sample); the sampling thread itself never asks for it.
 */
#include "bindings/core/core_state.h"
#include "bindings/common/dicts.h"
#include "bindings/common/errors.h"

#include "base/alloc.h"
#include "monitor/sampler.h"

#include <math.h>

typedef struct memory_sampler {
    PyObject_HEAD
    pfo_sampler *sampler; /* never NULL in an object Python code can see */
} memory_sampler;

static const size_t offsets[] = {
#define PFO_SAMPLE_OFFSET(field, text) offsetof(pfo_memory_sample, field),
    PFO_SAMPLE_FIELDS(PFO_SAMPLE_OFFSET)
#undef PFO_SAMPLE_OFFSET
};
enum { FIELDS = sizeof offsets / sizeof offsets[0] };

static pfo_sampler *
sampler_of(PyObject *self)
{
    return ((memory_sampler *)self)->sampler;
}

static int64_t
figure(const pfo_memory_sample *sample, int field)
{
    return *(const int64_t *)((const char *)sample + offsets[field]);
}

/* The names of a sample's figures, in their order: made once, as a name made for each dict would cost more than its figure. */
static PyObject *
make_names(void)
{
    static const char *const texts[] = {
#define PFO_SAMPLE_NAME(field, text) #field,
        PFO_SAMPLE_FIELDS(PFO_SAMPLE_NAME)
#undef PFO_SAMPLE_NAME
    };
    PyObject *names = PyTuple_New(FIELDS);
    for (int i = 0; names != NULL && i < FIELDS; i++) {
        PyObject *name = PyUnicode_InternFromString(texts[i]);
        if (name == NULL) {
            Py_CLEAR(names);
        } else {
            PyTuple_SET_ITEM(names, i, name);
        }
    }
    return names;
}

/* dict[name of the figure] = value; as pfo_dict_set_steal(). */
static int
set_named(PyObject *self, PyObject *dict, int field, PyObject *value)
{
    const pfo_core_state *state = pfo_core_state_of_type(Py_TYPE(self));
    const int result = value == NULL ? -1 : PyDict_SetItem(dict, PyTuple_GET_ITEM(state->sample_names, field), value);
    Py_XDECREF(value);
    return result;
}

/* Seconds as nanoseconds. 0 on success, -1 with an exception that names interval. */
static int
interval_from(PyObject *seconds, int64_t *nanoseconds)
{
    if (PyBool_Check(seconds) || !(PyFloat_Check(seconds) || PyLong_Check(seconds))) {
        PyErr_Format(PyExc_TypeError, "interval must be a number of seconds, not %.100s", Py_TYPE(seconds)->tp_name);
        return -1;
    }
    double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
        value = HUGE_VAL; /* an int beyond the range of double */
    }
    const double rounded = round(value * 1e9);
    if (!(rounded >= (double)PFO_SAMPLER_MIN_INTERVAL_NS && rounded <= (double)PFO_SAMPLER_MAX_INTERVAL_NS)) {
        PyErr_Format(PyExc_ValueError, "interval is %S s; accepted: 0.0001 to 86400 s", seconds);
        return -1;
    }
    *nanoseconds = (int64_t)rounded;
    return 0;
}

/* A number of samples; its range is the sampler's to check. 0 on success, -1 with an exception that names capacity. */
static int
capacity_from(PyObject *given, long long *capacity)
{
    if (PyBool_Check(given) || !PyIndex_Check(given)) {
        PyErr_Format(PyExc_TypeError, "capacity must be an int; %.100s cannot be interpreted as an integer",
                     Py_TYPE(given)->tp_name);
        return -1;
    }
    PyObject *number = PyNumber_Index(given);
    if (number == NULL) {
        return -1;
    }
    int overflow = 0;
    *capacity = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow != 0) {
        PyErr_Format(PyExc_ValueError, "capacity is %R; accepted: 1 to %d", number, (int)PFO_SAMPLER_MAX_CAPACITY);
    }
    Py_DECREF(number);
    return overflow != 0 ? -1 : 0;
}

static PyObject *
sampler_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "interval", "capacity", NULL };
    PyObject *interval = NULL;
    PyObject *given_capacity = NULL;
    long long capacity = 16384;
    int64_t interval_ns = INT64_C(100000000);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:MemorySampler", names, &interval, &given_capacity)) {
        return NULL;
    }
    if (interval != NULL && interval_from(interval, &interval_ns) < 0) {
        return NULL;
    }
    if (given_capacity != NULL && capacity_from(given_capacity, &capacity) < 0) {
        return NULL;
    }
    pfo_core_state *state = pfo_core_state_of_type(type);
    if (state->sample_names == NULL && (state->sample_names = make_names()) == NULL) {
        return NULL;
    }
    memory_sampler *self = (memory_sampler *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_sampler_create(interval_ns, capacity, NULL, NULL, &self->sampler, &err);
    if (status != PFO_OK) {
        Py_DECREF(self);
        return pfo_raise(status, &err);
    }
    return (PyObject *)self;
}

static void
sampler_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    /* Joins with the GIL held: the thread never takes it and is at most one sample away from its end. */
    pfo_sampler_destroy(sampler_of(self));
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
dict_of_sample(PyObject *self, const pfo_memory_sample *sample)
{
    PyObject *dict = PyDict_New();
    for (int i = 0; dict != NULL && i < FIELDS; i++) {
        if (set_named(self, dict, i, pfo_int_or_none(figure(sample, i))) < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

PyDoc_STRVAR(start_doc, "start($self, /, interval=None)\n--\n\n"
                        "Start the sampling thread; its first sample is taken at once.\n\n"
                        "interval: seconds between samples from now on (0.0001 to 86400); None keeps the present one.\n"
                        "Raises RuntimeError if it runs already, NotImplementedError if the system gives no thread.");

static PyObject *
sampler_start(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "interval", NULL };
    PyObject *interval = Py_None;
    int64_t interval_ns = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:start", names, &interval)) {
        return NULL;
    }
    if (interval != Py_None && interval_from(interval, &interval_ns) < 0) {
        return NULL;
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_sampler_start(sampler_of(self), interval_ns, &err);
    Py_END_ALLOW_THREADS
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
             "stop($self, /)\n--\n\n"
             "Stop the sampling thread and wait until it is gone. Does nothing if it does not run. Samples are kept.");

static PyObject *
sampler_stop(PyObject *self, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    pfo_sampler_stop(sampler_of(self));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyDoc_STRVAR(sample_doc, "sample($self, /)\n--\n\n"
                         "Take one sample now, on this thread, into the ring; return it as a dict (see samples()).");

static PyObject *
sampler_sample(PyObject *self, PyObject *unused)
{
    (void)unused;
    pfo_memory_sample sample;
    Py_BEGIN_ALLOW_THREADS
    pfo_sampler_sample(sampler_of(self), &sample);
    Py_END_ALLOW_THREADS
    return dict_of_sample(self, &sample);
}

PyDoc_STRVAR(
    samples_doc,
    "samples($self, /)\n--\n\n"
    "Everything in the ring, oldest first, as a dict of lists of equal length.\n\n"
    "``time_ns`` is CLOCK_MONOTONIC in nanoseconds (as time.monotonic_ns()); in bytes: ``rss`` (resident set),\n"
    "``cgroup_usage`` (charged to the container, page cache included), ``limit`` (smallest of the container's\n"
    "limits and the machine's memory), ``heap_in_use`` and ``heap_retained`` (malloc's blocks in use, and free\n"
    "but kept), ``uss`` (pages of this process alone); counts since the process began: ``minor_faults`` and\n"
    "``major_faults``; counts of the container since it was made: ``throttled`` (at memory.high), ``limit_hits``\n"
    "(allocations that met the limit) and ``oom_kills``. None: not known here. Growth of ``rss`` by page faults shows "
    "in\n"
    "the next sample; its falls, usage, heap and faults are up to 100 ms old, events and uss a second, the limit five\n"
    "(the machine's part a minute), and what needs a walk (heap, uss) older where the walk would take more than "
    "1/4000\n"
    "of the time. ``cuda_allocated``, ``cuda_reserved``, ``cuda_total``: as note_cuda() was told at ``cuda_time_ns``.");

static PyObject *
column(const pfo_memory_sample *samples, int64_t count, int field)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (int64_t i = 0; list != NULL && i < count; i++) {
        PyObject *value = pfo_int_or_none(figure(&samples[i], field));
        if (value == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, value);
        }
    }
    return list;
}

static PyObject *
dict_of_samples(PyObject *self, const pfo_memory_sample *samples, int64_t count)
{
    PyObject *dict = PyDict_New();
    for (int i = 0; dict != NULL && i < FIELDS; i++) {
        if (set_named(self, dict, i, column(samples, count, i)) < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

static PyObject *
sampler_samples(PyObject *self, PyObject *unused)
{
    (void)unused;
    pfo_sampler *sampler = sampler_of(self);
    pfo_sampler_counts counts;
    pfo_memory_sample *samples;
    int64_t count = 0;
    Py_BEGIN_ALLOW_THREADS
    pfo_sampler_count(sampler, &counts);
    samples = pfo_alloc_array((size_t)counts.held, sizeof *samples);
    if (samples != NULL) {
        count = pfo_sampler_copy(sampler, samples, counts.held);
    }
    Py_END_ALLOW_THREADS
    if (samples == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *dict = dict_of_samples(self, samples, count);
    pfo_free(samples);
    return dict;
}

PyDoc_STRVAR(
    note_cuda_doc,
    "note_cuda($self, allocated, reserved, total, /)\n--\n\n"
    "The CUDA figures of now, in bytes: later samples repeat them as ``cuda_allocated``, ``cuda_reserved`` and\n"
    "``cuda_total``, with the time returned as ``cuda_time_ns``, until the next note, clear() or fork.\n"
    "Raises ValueError for a negative figure, TypeError and OverflowError for what is no 64-bit int.");

static PyObject *
sampler_note_cuda(PyObject *self, PyObject *args)
{
    static const char *const names[3] = { "allocated", "reserved", "total" };
    long long figures[3];
    if (!PyArg_ParseTuple(args, "LLL:note_cuda", &figures[0], &figures[1], &figures[2])) {
        return NULL;
    }
    for (int i = 0; i < 3; i++) {
        if (figures[i] < 0) {
            return PyErr_Format(PyExc_ValueError, "%s is %lld bytes; accepted: 0 or more", names[i], figures[i]);
        }
    }
    int64_t noted;
    Py_BEGIN_ALLOW_THREADS
    noted = pfo_sampler_note_cuda(sampler_of(self), figures[0], figures[1], figures[2]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(noted);
}

PyDoc_STRVAR(
    clear_doc,
    "clear($self, /)\n--\n\nForget all samples, what was noted, the peak and the counters; a running thread goes on.");

static PyObject *
sampler_clear(PyObject *self, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    pfo_sampler_clear(sampler_of(self));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyDoc_STRVAR(peak_since_doc,
             "peak_since($self, time_ns, /)\n--\n\n"
             "Largest resident set in bytes among the samples held that were taken at or after time_ns\n"
             "(``time.monotonic_ns()``); None with none.");

static PyObject *
sampler_peak_since(PyObject *self, PyObject *argument)
{
    const long long time_ns = PyLong_AsLongLong(argument);
    if (time_ns == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int64_t peak;
    Py_BEGIN_ALLOW_THREADS
    peak = pfo_sampler_peak_since(sampler_of(self), time_ns);
    Py_END_ALLOW_THREADS
    return pfo_int_or_none(peak);
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nStart the sampling thread; see start().");

static PyObject *
sampler_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_sampler_start(sampler_of(self), 0, &err);
    Py_END_ALLOW_THREADS
    return status == PFO_OK ? Py_NewRef(self) : pfo_raise(status, &err);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exc_info)\n--\n\nStop the sampling thread; see stop().");

static PyObject *
sampler_exit(PyObject *self, PyObject *args)
{
    (void)args;
    PyObject *none = sampler_stop(self, NULL);
    Py_XDECREF(none);
    Py_RETURN_FALSE;
}

static pfo_sampler_counts
count(PyObject *self)
{
    pfo_sampler_counts counts;
    Py_BEGIN_ALLOW_THREADS
    pfo_sampler_count(sampler_of(self), &counts);
    Py_END_ALLOW_THREADS
    return counts;
}

static PyObject *
get_running(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(count(self).running);
}

static PyObject *
get_interval(PyObject *self, void *unused)
{
    (void)unused;
    return PyFloat_FromDouble((double)count(self).interval_ns * 1e-9);
}

static PyObject *
get_capacity(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(count(self).capacity);
}

static PyObject *
get_taken(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(count(self).taken);
}

static PyObject *
get_dropped(PyObject *self, void *unused)
{
    (void)unused;
    const pfo_sampler_counts counts = count(self);
    return PyLong_FromLongLong(counts.taken - counts.held);
}

static PyObject *
get_missed(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(count(self).missed);
}

static PyObject *
get_peak_rss(PyObject *self, void *unused)
{
    (void)unused;
    return pfo_int_or_none(count(self).peak_rss);
}

static PyObject *
get_sample_cost_ns(PyObject *self, void *unused)
{
    (void)unused;
    const pfo_sampler_counts counts = count(self);
    return PyFloat_FromDouble(counts.taken > 0 ? (double)counts.probe_ns / (double)counts.taken : 0.0);
}

static PyObject *
get_cpu_ns(PyObject *self, void *unused)
{
    (void)unused;
    return pfo_int_or_none(count(self).cpu_ns);
}

static PyObject *
get_latest(PyObject *self, void *unused)
{
    (void)unused;
    pfo_memory_sample sample;
    int64_t copied;
    Py_BEGIN_ALLOW_THREADS
    copied = pfo_sampler_copy(sampler_of(self), &sample, 1);
    Py_END_ALLOW_THREADS
    if (copied == 0) {
        Py_RETURN_NONE;
    }
    return dict_of_sample(self, &sample);
}

static Py_ssize_t
sampler_length(PyObject *self)
{
    return (Py_ssize_t)count(self).held;
}

static PyMethodDef sampler_methods[] = {
    { "start", (PyCFunction)(void (*)(void))sampler_start, METH_VARARGS | METH_KEYWORDS, start_doc },
    { "stop", sampler_stop, METH_NOARGS, stop_doc },
    { "sample", sampler_sample, METH_NOARGS, sample_doc },
    { "samples", sampler_samples, METH_NOARGS, samples_doc },
    { "note_cuda", sampler_note_cuda, METH_VARARGS, note_cuda_doc },
    { "clear", sampler_clear, METH_NOARGS, clear_doc },
    { "peak_since", sampler_peak_since, METH_O, peak_since_doc },
    { "__enter__", sampler_enter, METH_NOARGS, enter_doc },
    { "__exit__", sampler_exit, METH_VARARGS, exit_doc },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef sampler_properties[] = {
    { "running", get_running, NULL, "Whether the sampling thread runs (never in a freshly forked child).", NULL },
    { "interval", get_interval, NULL, "Seconds between samples.", NULL },
    { "capacity", get_capacity, NULL, "Samples the ring can hold.", NULL },
    { "taken", get_taken, NULL, "Samples taken since creation, clear() or fork.", NULL },
    { "dropped", get_dropped, NULL, "Samples among them that newer ones have overwritten.", NULL },
    { "missed", get_missed, NULL, "Turns the thread skipped because it was late for them.", NULL },
    { "peak_rss", get_peak_rss, NULL, "Largest resident set in any sample taken, in bytes; None without samples.",
      NULL },
    { "sample_cost_ns", get_sample_cost_ns, NULL, "Mean wall-clock nanoseconds one sample took; 0.0 without samples.",
      NULL },
    { "cpu_ns", get_cpu_ns, NULL,
      "Processor nanoseconds the sampling thread has used, waking up included; None where the system does not tell.",
      NULL },
    { "latest", get_latest, NULL, "The newest sample as a dict, or None.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

PyDoc_STRVAR(
    sampler_doc,
    "MemorySampler(interval=0.1, capacity=16384)\n--\n\n"
    "A thread in C that samples this process's memory into a ring of fixed size, without the GIL.\n\n"
    "interval: seconds between samples, 0.0001 to 86400. capacity: samples kept, 128 bytes each; older ones are\n"
    "overwritten and counted in ``dropped``. Used as a context manager it runs inside the block. len() is the\n"
    "number of samples held. After fork the child's copy is stopped and empty.\n"
    "Raises TypeError and ValueError naming the argument, MemoryError for a ring that does not fit.");

static PyType_Slot sampler_slots[] = {
    { Py_tp_doc, (void *)sampler_doc },
    { Py_tp_new, (void *)sampler_new },
    { Py_tp_dealloc, (void *)sampler_dealloc },
    { Py_tp_methods, sampler_methods },
    { Py_tp_getset, sampler_properties },
    { Py_sq_length, (void *)sampler_length },
    { 0, NULL },
};

PyType_Spec pfo_memory_sampler_type_spec = {
    .name = "perfopt._core.MemorySampler",
    .basicsize = sizeof(memory_sampler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sampler_slots,
};
