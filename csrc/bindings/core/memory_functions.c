/* memory_functions.c: memory facts of this process, its container and its machine, and malloc's switches. */
#include "bindings/core/core_state.h"
#include "bindings/common/dicts.h"
#include "bindings/common/errors.h"

#include "base/alloc.h"
#include "base/cgroup.h"
#include "base/clock.h"
#include "base/platform.h"
#include "monitor/leak.h"
#include "monitor/nvml.h"
#include "monitor/probes.h"
#include "monitor/trend.h"

typedef struct memory_facts {
    int64_t rss, peak_rss, uss, minor_faults, major_faults, limit;
    pfo_heap_info heap;
    pfo_machine_memory machine;
    pfo_cgroup group;
    pfo_cgroup_memory cgroup;
    pfo_cgroup_events events;
    pfo_limit_source source;
} memory_facts;

static pfo_status
read_facts(const char *root, memory_facts *facts, pfo_error *err)
{
    PFO_TRY(pfo_cgroup_find(root, "memory", &facts->group, err));
    pfo_cgroup_memory_read(&facts->group, &facts->cgroup);
    facts->machine = pfo_machine_memory_read(root);
    facts->limit = pfo_effective_limit(&facts->cgroup, facts->group.version, facts->machine.total, &facts->source);
    facts->heap = pfo_heap_read();
    facts->rss = pfo_process_rss();
    facts->peak_rss = pfo_process_peak_rss();
    facts->uss = pfo_process_uss();
    pfo_cgroup_events_read(&facts->group, &facts->events);
    pfo_process_faults(&facts->minor_faults, &facts->major_faults);
    return PFO_OK;
}

static int
fill_facts(PyObject *dict, const memory_facts *facts)
{
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {
        { "rss", facts->rss },
        { "peak_rss", facts->peak_rss },
        { "uss", facts->uss },
        { "heap_in_use", facts->heap.in_use },
        { "heap_retained", facts->heap.retained },
        { "minor_faults", facts->minor_faults },
        { "major_faults", facts->major_faults },
        { "page_size", pfo_page_size() },
        { "machine_total", facts->machine.total },
        { "machine_available", facts->machine.available },
        { "cgroup_limit", facts->cgroup.limit },
        { "cgroup_high", facts->cgroup.high },
        { "cgroup_usage", facts->cgroup.usage },
        { "cgroup_inactive_file", facts->cgroup.inactive_file },
        { "cgroup_throttled", facts->events.high },
        { "cgroup_limit_hits", facts->events.max },
        { "cgroup_oom_kills", facts->events.oom_kill },
        { "limit", facts->limit },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (pfo_dict_set_steal(dict, numbers[i].name, pfo_int_or_none(numbers[i].value)) < 0) {
            return -1;
        }
    }
    PyObject *fullest = facts->cgroup.fullest < 0.0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(facts->cgroup.fullest);
    if (pfo_dict_set_steal(dict, "cgroup_fullest", fullest) < 0 ||
        pfo_dict_set_steal(dict, "cgroup_version", PyLong_FromLong(facts->group.version)) < 0 ||
        pfo_dict_set_steal(dict, "limit_source", PyUnicode_FromString(pfo_limit_source_name(facts->source))) < 0) {
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(
    memory_info_doc,
    "memory_info($module, /, root='')\n--\n\n"
    "Memory facts as a dict; bytes unless said otherwise, None where this system does not tell.\n\n"
    "Process: ``rss`` (resident set, shared pages included), ``peak_rss`` (its largest value so far),\n"
    "``uss`` (pages of this process alone), ``heap_in_use`` (handed out by malloc), ``heap_retained`` (free but kept "
    "by malloc), ``minor_faults`` and\n"
    "``major_faults`` (counts), ``page_size``. Machine: ``machine_total``, ``machine_available``. Container:\n"
    "``cgroup_version`` (0 none, 1, 2), ``cgroup_limit`` and ``cgroup_high`` (smallest over all ancestors),\n"
    "``cgroup_usage`` (charged to the own group, page cache included), ``cgroup_inactive_file`` (page cache in it\n"
    "that can go at once), ``cgroup_fullest`` (share, 0 to 1: largest (usage - inactive file) / limit among the\n"
    "groups that have a limit), ``cgroup_throttled``, ``cgroup_limit_hits``, ``cgroup_oom_kills`` (counts since\n"
    "the group was made). ``limit``: smallest of machine_total, cgroup_limit and cgroup_high;\n"
    "``limit_source``: machine, cgroup v1, cgroup v2 or unknown.\n\n"
    "root: prefix of the /proc and cgroup files that are read (tests); process figures do not use it.\n"
    "Raises OSError when those files exist but cannot be read, OverflowError for a path that is too long.");

static PyObject *
memory_info(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = { "root", NULL };
    const char *root = "";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|s:memory_info", names, &root)) {
        return NULL;
    }
    memory_facts facts;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = read_facts(root, &facts, &err);
    Py_END_ALLOW_THREADS
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    PyObject *dict = PyDict_New();
    if (dict != NULL && fill_facts(dict, &facts) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

PyDoc_STRVAR(
    resident_bytes_doc,
    "resident_bytes($module, /)\n--\n\n"
    "The resident set of this process in bytes: one read of a kept-open file. Raises NotImplementedError where\n"
    "the system does not tell.");

static PyObject *
resident_bytes(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    const int64_t rss = pfo_process_rss();
    if (rss < 0) {
        PyErr_SetString(PyExc_NotImplementedError, "this system does not tell the resident set");
        return NULL;
    }
    return PyLong_FromLongLong(rss);
}

PyDoc_STRVAR(trim_doc,
             "trim($module, /)\n--\n\n"
             "Give free pages of malloc's heap back to the system. Returns by how many bytes the resident set fell\n"
             "meanwhile (0 at least). Raises NotImplementedError where the C library has no malloc_trim().");

static PyObject *
trim(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    int64_t given_back;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_heap_trim(&given_back, &err);
    Py_END_ALLOW_THREADS
    return status == PFO_OK ? PyLong_FromLongLong(given_back) : pfo_raise(status, &err);
}

PyDoc_STRVAR(
    heap_retain_doc,
    "heap_retain($module, on, /)\n--\n\n"
    "Let malloc keep freed blocks for reuse (True), or give them back again (False, with a trim).\n\n"
    "Tensors that are allocated and freed in every training step then keep their pages instead of paying an munmap, "
    "an\n"
    "mmap and a page fault per 4 KiB. Works on the whole process; False sets fixed thresholds, since malloc does\n"
    "not adjust them by itself any more after a change. Returns the bytes given back (0 for True).\n"
    "Raises TypeError unless on is a bool, NotImplementedError where the C library has no such setting.");

static PyObject *
heap_retain(PyObject *module, PyObject *on)
{
    (void)module;
    if (!PyBool_Check(on)) {
        return PyErr_Format(PyExc_TypeError, "on must be True or False, not %.100s", Py_TYPE(on)->tp_name);
    }
    int64_t given_back;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_heap_retain(on == Py_True, &given_back, &err);
    Py_END_ALLOW_THREADS
    return status == PFO_OK ? PyLong_FromLongLong(given_back) : pfo_raise(status, &err);
}

PyDoc_STRVAR(
    trend_doc,
    "trend($module, /, times, values, minimum_change=0.0)\n--\n\n"
    "Whether a series rises or falls: Theil-Sen slope over window minima with a 95 % interval (see trend.h).\n\n"
    "times: seconds, not decreasing; values: numbers, as many. minimum_change: least change over the whole series\n"
    "that counts as a trend, in the unit of values. Returns a dict: ``trend`` (increasing, decreasing, stable or\n"
    "insufficient: fewer than 10 points or no time between them), ``slope``, ``low`` and ``high`` (per second),\n"
    "``change`` (slope times span), ``span`` (seconds), ``windows`` and ``samples``.\n"
    "Raises ValueError for lengths that differ, numbers that are not finite or beyond 1e100, and times that decrease.");

/* A sequence of numbers as a new array of doubles, NULL with an exception; *length is its length. */
static double *
doubles_of(PyObject *sequence, const char *name, Py_ssize_t *length)
{
    PyObject *items = PySequence_Fast(sequence, "");
    if (items == NULL) {
        PyErr_Format(PyExc_TypeError, "%s must be a sequence of numbers, not %.100s", name, Py_TYPE(sequence)->tp_name);
        return NULL;
    }
    *length = PySequence_Fast_GET_SIZE(items);
    double *numbers = pfo_alloc_array((size_t)*length, sizeof *numbers);
    if (numbers == NULL) {
        Py_DECREF(items);
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < *length; i++) {
        /* __float__ of an item is user code and may shorten a list that is being read. */
        if (i >= PySequence_Fast_GET_SIZE(items)) {
            PyErr_Format(PyExc_RuntimeError, "%s changed its length while it was read", name);
            break;
        }
        PyObject *item = Py_NewRef(PySequence_Fast_GET_ITEM(items, i));
        numbers[i] = PyFloat_AsDouble(item);
        Py_DECREF(item);
        if (numbers[i] == -1.0 && PyErr_Occurred()) {
            if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
                PyErr_Format(PyExc_ValueError, "%s[%zd] is an int beyond the range of float; numbers must be finite",
                             name, i);
            }
            break;
        }
    }
    Py_DECREF(items);
    if (PyErr_Occurred()) {
        pfo_free(numbers);
        return NULL;
    }
    return numbers;
}

static PyObject *
trend_of_arrays(const double *times, const double *values, Py_ssize_t count, double minimum_change)
{
    pfo_trend found;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_trend_estimate(times, values, (int64_t)count, minimum_change, &found, &err);
    Py_END_ALLOW_THREADS
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    return Py_BuildValue("{s:s,s:d,s:d,s:d,s:d,s:d,s:L,s:n}", "trend", pfo_trend_verdict_name(found.verdict), "slope",
                         found.slope, "low", found.low, "high", found.high, "change", found.change, "span", found.span,
                         "windows", (long long)found.windows, "samples", count);
}

/* Two series of one length as arrays. 0, or -1 with an exception and nothing to free. */
static int
two_series(PyObject *time_items, PyObject *value_items, const char *const names[2], double **times, double **values,
           Py_ssize_t *count)
{
    Py_ssize_t value_count = 0;
    *times = doubles_of(time_items, names[0], count);
    *values = *times == NULL ? NULL : doubles_of(value_items, names[1], &value_count);
    if (*values != NULL && *count == value_count) {
        return 0;
    }
    if (*values != NULL) {
        PyErr_Format(PyExc_ValueError, "%s has %zd numbers and %s %zd; they must be as many", names[0], *count,
                     names[1], value_count);
    }
    pfo_free(*times);
    pfo_free(*values);
    return -1;
}

static PyObject *
trend(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = { "times", "values", "minimum_change", NULL };
    static const char *const series[2] = { "times", "values" };
    PyObject *time_items;
    PyObject *value_items;
    double minimum_change = 0.0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|d:trend", names, &time_items, &value_items, &minimum_change)) {
        return NULL;
    }
    Py_ssize_t count = 0;
    double *times;
    double *values;
    if (two_series(time_items, value_items, series, &times, &values, &count) < 0) {
        return NULL;
    }
    PyObject *result = trend_of_arrays(times, values, count, minimum_change);
    pfo_free(times);
    pfo_free(values);
    return result;
}

PyDoc_STRVAR(leak_doc,
             "leak($module, /, seconds, bytes)\n--\n\n"
             "Whether a memory series grows without end; see leak.h for the method and perfopt.memory.leak_verdict.\n\n"
             "seconds: not decreasing; bytes: as many finite numbers. Returns a dict: ``verdict``, ``model``,\n"
             "``slope``, ``low`` and ``high`` (bytes per second), ``margin``, ``growth``, ``minimum``, ``level``,\n"
             "``noise`` (bytes), ``correlation``, ``span``, ``warm_up`` (seconds), ``windows``, ``steps``,\n"
             "``releases``, ``teeth``, ``samples``, ``last`` (the last of bytes; 0.0 without any). Raises ValueError "
             "for lengths\n"
             "that differ, numbers that are not finite or beyond 1e100, and seconds that decrease.");

static PyObject *
leak_of_arrays(const double *seconds, const double *bytes, Py_ssize_t count)
{
    pfo_leak found;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_leak_judge(seconds, bytes, (int64_t)count, &found, &err);
    Py_END_ALLOW_THREADS
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    return Py_BuildValue("{s:s,s:s,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:L,s:i,s:i,s:i,s:n,s:d}", "verdict",
                         pfo_leak_verdict_name(found.verdict), "model", pfo_leak_model_name(found.model), "slope",
                         found.slope, "low", found.low, "high", found.high, "margin", found.margin, "growth",
                         found.growth, "minimum", found.minimum, "level", found.level, "noise", found.noise,
                         "correlation", found.correlation, "span", found.span, "warm_up", found.warm_up, "windows",
                         (long long)found.windows, "steps", found.steps, "releases", found.releases, "teeth",
                         found.teeth, "samples", count, "last", count > 0 ? bytes[count - 1] : 0.0);
}

static PyObject *
leak(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = { "seconds", "bytes", NULL };
    static const char *const series[2] = { "seconds", "bytes" };
    PyObject *time_items;
    PyObject *value_items;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:leak", names, &time_items, &value_items)) {
        return NULL;
    }
    Py_ssize_t count = 0;
    double *seconds;
    double *bytes;
    if (two_series(time_items, value_items, series, &seconds, &bytes, &count) < 0) {
        return NULL;
    }
    PyObject *result = leak_of_arrays(seconds, bytes, count);
    pfo_free(seconds);
    pfo_free(bytes);
    return result;
}

PyDoc_STRVAR(nvml_memory_doc,
             "nvml_memory($module, /, library='libnvidia-ml.so.1')\n--\n\n"
             "Memory of each NVIDIA device as the driver counts it, over all processes: a list of\n"
             "``(total, used, free, None)`` in bytes, or ``(None, None, None, reason)`` for a device that refuses.\n"
             "Raises NotImplementedError with the reason where there is none. After a restart of the driver\n"
             "a new session is opened, at first at once, then in ever longer intervals up to about a minute.");

static PyObject *
device_figures(const pfo_nvml_memory *device)
{
    if (device->reason[0] != '\0') {
        PyObject *reason = PyUnicode_DecodeUTF8(device->reason, (Py_ssize_t)strlen(device->reason), "replace");
        return reason == NULL ? NULL : Py_BuildValue("OOON", Py_None, Py_None, Py_None, reason);
    }
    return Py_BuildValue("LLLO", (long long)device->total, (long long)device->used, (long long)device->free, Py_None);
}

static PyObject *
nvml_memory_function(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = { "library", NULL };
    const char *library = "libnvidia-ml.so.1";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|s:nvml_memory", names, &library)) {
        return NULL;
    }
    pfo_nvml_memory devices[PFO_NVML_MAX_DEVICES];
    int count;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_nvml_read(library, pfo_monotonic_ns(), devices, &count, &err);
    Py_END_ALLOW_THREADS
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    PyObject *list = PyList_New(count);
    for (int i = 0; list != NULL && i < count; i++) {
        PyObject *figures = device_figures(&devices[i]);
        if (figures == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, i, figures);
        }
    }
    return list;
}

PyDoc_STRVAR(report_unraisable_doc,
             "report_unraisable($module, error, where, /)\n--\n\n"
             "Hand an exception that nobody can catch to sys.unraisablehook; where: the object it came from.\n"
             "Raises TypeError unless error is an exception.");

static PyObject *
report_unraisable(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *error;
    PyObject *where;
    if (!PyArg_ParseTuple(args, "OO:report_unraisable", &error, &where)) {
        return NULL;
    }
    if (!PyExceptionInstance_Check(error)) {
        return PyErr_Format(PyExc_TypeError, "error must be an exception, not %.100s", Py_TYPE(error)->tp_name);
    }
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), Py_NewRef(error), PyException_GetTraceback(error));
    PyErr_WriteUnraisable(where);
    Py_RETURN_NONE;
}

PyMethodDef pfo_memory_functions[] = {
    { "memory_info", (PyCFunction)(void (*)(void))memory_info, METH_VARARGS | METH_KEYWORDS, memory_info_doc },
    { "resident_bytes", resident_bytes, METH_NOARGS, resident_bytes_doc },
    { "trim", trim, METH_NOARGS, trim_doc },
    { "heap_retain", heap_retain, METH_O, heap_retain_doc },
    { "trend", (PyCFunction)(void (*)(void))trend, METH_VARARGS | METH_KEYWORDS, trend_doc },
    { "leak", (PyCFunction)(void (*)(void))leak, METH_VARARGS | METH_KEYWORDS, leak_doc },
    { "nvml_memory", (PyCFunction)(void (*)(void))nvml_memory_function, METH_VARARGS | METH_KEYWORDS, nvml_memory_doc },
    { "report_unraisable", report_unraisable, METH_VARARGS, report_unraisable_doc },
    { NULL, NULL, 0, NULL },
};
