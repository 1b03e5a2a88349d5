/* capture_type.c: Capture: tables of a pfo_capture as Python lists, made when somebody asks.
 *
 * Times are in seconds here as everywhere in Python, except spans and anchors, which are whole nanoseconds. Text that is
 * no valid UTF-8 (a surrogate) is kept as it was where the capture was taken and has backslash escapes elsewhere.
 */
#include "bindings/core/capture_object.h"

#include "bindings/common/errors.h"

#include "base/alloc.h"
#include "profiler/capture_file.h"
#include "profiler/capture_live.h"
#include "profiler/capture_merge.h"

enum { QUANTILES = 4, RESET_TRIES = 100, SPANS_AT_ONCE = 1024 };

static const double quantiles[QUANTILES] = { 0.5, 0.9, 0.99, 0.999 };

const pfo_capture *
pfo_capture_from(const pfo_core_state *state, PyObject *object)
{
    if (!PyObject_TypeCheck(object, state->capture_type)) {
        PyErr_Format(PyExc_TypeError, "capture must be a Capture, not %.200s", Py_TYPE(object)->tp_name);
        return NULL;
    }
    return ((pfo_capture_object *)object)->capture;
}

PyObject *
pfo_capture_wrap(PyTypeObject *type, pfo_capture *capture, PyObject *names)
{
    pfo_capture_object *self = (pfo_capture_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        pfo_capture_destroy(capture);
        Py_XDECREF(names);
        return NULL;
    }
    self->capture = capture;
    self->names = names;
    return (PyObject *)self;
}

/* ---- from a recorder ------------------------------------------------------------------------- */

/* UTF-8 of a str: its own, or where it has none (surrogates), that of its escaped form, which *keeper then owns. */
static int
utf8_of(PyObject *text, pfo_text *utf8, PyObject **keeper)
{
    Py_ssize_t length = 0;
    utf8->bytes = PyUnicode_AsUTF8AndSize(text, &length);
    if (utf8->bytes == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return -1;
        }
        PyErr_Clear();
        *keeper = PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace");
        if (*keeper == NULL) {
            return -1;
        }
        utf8->bytes = PyBytes_AS_STRING(*keeper);
        length = PyBytes_GET_SIZE(*keeper);
    }
    utf8->length = (size_t)length;
    return 0;
}

/* names: tuple of str. Returns NULL with an exception set; PFO_STATE leaves *status so, without one. */
static pfo_capture *
take(pfo_profiler_object *profiler, uint64_t epoch, PyObject *names, pfo_status *status)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(names);
    pfo_capture *capture = NULL;
    pfo_text *texts = pfo_alloc_array((size_t)count + 1, sizeof *texts);
    PyObject *keepers = PyList_New(0);
    int ready = texts != NULL && keepers != NULL;
    if (texts == NULL) {
        PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; ready && i < count; i++) {
        PyObject *keeper = NULL;
        ready = utf8_of(PyTuple_GET_ITEM(names, i), &texts[i], &keeper) == 0 &&
                (keeper == NULL || PyList_Append(keepers, keeper) == 0);
        Py_XDECREF(keeper);
    }
    *status = PFO_NO_MEMORY;
    if (ready) {
        pfo_error err = PFO_ERROR_INIT;
        Py_BEGIN_ALLOW_THREADS
        *status = pfo_capture_take(profiler->recorder, epoch, texts, (int32_t)count, &capture, &err);
        Py_END_ALLOW_THREADS
        if (*status != PFO_OK && *status != PFO_STATE) {
            (void)pfo_raise(*status, &err);
        }
    }
    pfo_free(texts);
    Py_XDECREF(keepers);
    return capture;
}

PyObject *
pfo_capture_of_recorder(pfo_profiler_object *profiler)
{
    pfo_status status = PFO_STATE;
    for (int tries = 0; status == PFO_STATE && tries < RESET_TRIES; tries++) {
        const uint64_t epoch = profiler->epoch;
        PyObject *names = PyTuple_New(PyList_GET_SIZE(profiler->texts) - 1); /* [0] is the overflow row */
        if (names == NULL) {
            return NULL;
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
            PyTuple_SET_ITEM(names, i, Py_NewRef(PyList_GET_ITEM(profiler->texts, i + 1)));
        }
        pfo_capture *capture = take(profiler, epoch, names, &status);
        if (capture != NULL) {
            return pfo_capture_wrap(profiler->capture_type, capture, names);
        }
        Py_DECREF(names);
    }
    if (status == PFO_STATE) {
        PyErr_SetString(PyExc_RuntimeError, "the profiler is reset again and again while it is read");
    }
    return NULL;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static PyObject *
text_of(pfo_text text)
{
    return PyUnicode_DecodeUTF8(text.bytes, (Py_ssize_t)text.length, "replace");
}

/* The name with this index; None for the overflow row. */
static PyObject *
name_at(const pfo_capture_object *self, int32_t index)
{
    if (index < 0) {
        Py_RETURN_NONE;
    }
    return self->names != NULL ? Py_NewRef(PyTuple_GET_ITEM(self->names, index)) : text_of(self->capture->names[index]);
}

/* A list of `count` items that make() gives. */
static PyObject *
list_of(const pfo_capture_object *self, int32_t count, PyObject *(*make)(const pfo_capture_object *, int32_t))
{
    PyObject *list = PyList_New(count);
    for (int32_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = make(self, i);
        if (item == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static PyObject *
memory_of(const pfo_capture_row *row)
{
    if (row->memory_count == 0) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("{s:K,s:d,s:d,s:d}", "count", (unsigned long long)row->memory_count, "total", row->memory_sum,
                         "min", row->memory_least, "max", row->memory_greatest);
}

static PyObject *
row_at(const pfo_capture_object *self, int32_t index)
{
    const pfo_capture_row *row = &self->capture->rows[index];
    const double s = 1e-9;
    double at[QUANTILES];
    pfo_histogram_quantiles(row->ticks, quantiles, QUANTILES, at);
    const double ns = row->ns_per_tick; /* in the same order as the rest, so that p99 <= max holds after rounding */
    return Py_BuildValue("{s:N,s:K,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:N}", "name",
                         name_at(self, row->name), "count", (unsigned long long)row->count, "total", row->total_ns * s,
                         "mean", row->mean_ns * s, "min", row->least_ns * s, "max", row->greatest_ns * s, "p50",
                         at[0] * ns * s, "p90", at[1] * ns * s, "p99", at[2] * ns * s, "p99.9", at[3] * ns * s, "sd",
                         row->deviation_ns * s, "error", row->error, "active", row->active_ns * s, "self",
                         row->self_ns * s, "memory", memory_of(row));
}

static PyObject *
node_at(const pfo_capture_object *self, int32_t index)
{
    const pfo_capture_node *node = &self->capture->nodes[index];
    return Py_BuildValue("{s:i,s:N,s:i,s:K,s:d,s:d}", "parent", (int)node->parent, "name", name_at(self, node->name),
                         "thread", (int)node->thread, "count", (unsigned long long)node->count, "total",
                         node->total_ns * 1e-9, "self", node->self_ns * 1e-9);
}

static PyObject *
thread_at(const pfo_capture_object *self, int32_t index)
{
    const pfo_capture_thread *thread = &self->capture->threads[index];
    return Py_BuildValue("{s:i,s:L,s:N}", "process", (int)thread->process, "id", (long long)thread->id, "name",
                         text_of(thread->name));
}

static PyObject *
process_at(const pfo_capture_object *self, int32_t index)
{
    const pfo_capture_process *process = &self->capture->processes[index];
    return Py_BuildValue("{s:L,s:K,s:L,s:L,s:N}", "pid", (long long)process->pid, "pid_namespace",
                         (unsigned long long)process->pid_namespace, "monotonic_ns", (long long)process->monotonic_ns,
                         "epoch_ns", (long long)process->epoch_ns, "command", text_of(process->command));
}

PyDoc_STRVAR(rows_doc,
             "rows($self, /)\n--\n\n"
             "What is known of each name that has records, in order of first use, the overflow row last: a list of\n"
             "dicts of ``name`` (None: the overflow row), ``count``, ``total``, ``mean``, ``min``, ``max``, ``p50``,\n"
             "``p90``, ``p99``, ``p99.9``, ``sd`` (of the sample), ``error`` (bound of the relative error of the\n"
             "percentiles), ``active``, ``self`` and ``memory`` (None, or a dict of ``count``, ``total``, ``min``,\n"
             "``max`` in bytes). Times are in seconds; count, total, min and max are exact.");

static PyObject *
capture_rows(const pfo_capture_object *self, PyObject *Py_UNUSED(ignored))
{
    return list_of(self, self->capture->row_count, row_at);
}

PyDoc_STRVAR(nodes_doc,
             "nodes($self, /)\n--\n\n"
             "The calling-context tree: a list of dicts of ``parent`` (index into this list, always before\n"
             "its children; -1: a root), ``name``, ``thread`` (index), ``count``, ``total`` and ``self`` in\n"
             "seconds of active time.");

static PyObject *
capture_nodes(const pfo_capture_object *self, PyObject *Py_UNUSED(ignored))
{
    return list_of(self, self->capture->node_count, node_at);
}

PyDoc_STRVAR(spans_doc,
             "spans($self, limit=None, /)\n--\n\n"
             "The latest ranges one by one, at most ``limit`` of them: a list of tuples (name, thread index, begin,\n"
             "duration, depth, suspends). Times are whole nanoseconds; begin counts from ``base_epoch_ns``. Spans of\n"
             "one thread come in the order of their ends. Raises ValueError for a negative limit, OSError if the file\n"
             "that the capture was loaded from cannot be read any more.");

static int
append_spans(const pfo_capture_object *self, PyObject *list, const pfo_span *spans, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const pfo_span *span = &spans[i];
        PyObject *item =
            Py_BuildValue("(NiLLIO)", name_at(self, span->name), (int)span->thread, (long long)span->begin_ns,
                          (long long)span->duration_ns, (unsigned int)span->depth,
                          (span->flags & PFO_SPAN_SUSPENDS) != 0 ? Py_True : Py_False);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_XDECREF(item);
            return -1;
        }
        Py_DECREF(item);
    }
    return 0;
}

/* Fills the list from the source; -1 with an exception set. */
static int
read_spans(const pfo_capture_object *self, const pfo_span_source *source, int64_t limit, PyObject *list)
{
    pfo_span *spans = pfo_alloc_array(SPANS_AT_ONCE, sizeof *spans);
    if (spans == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    pfo_error err = PFO_ERROR_INIT;
    int64_t got = 1;
    int failed = 0;
    while (got > 0 && limit > 0 && !failed) {
        const int64_t room = limit < SPANS_AT_ONCE ? limit : SPANS_AT_ONCE;
        Py_BEGIN_ALLOW_THREADS
        got = source->read(source->context, spans, room, &err);
        Py_END_ALLOW_THREADS
        limit -= got;
        failed = append_spans(self, list, spans, got) < 0;
    }
    if (got < 0) {
        (void)pfo_raise(err.code, &err);
    }
    pfo_free(spans);
    return failed || got < 0 ? -1 : 0;
}

static PyObject *
capture_spans(const pfo_capture_object *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs > 1) {
        return PyErr_Format(PyExc_TypeError, "spans() takes at most 1 argument (%zd given)", nargs);
    }
    long long limit = INT64_MAX;
    if (nargs == 1 && args[0] != Py_None) {
        limit = PyLong_AsLongLong(args[0]);
        if (limit == -1 && PyErr_Occurred()) {
            return NULL;
        }
        if (limit < 0) {
            return PyErr_Format(PyExc_ValueError, "limit must be None or at least 0, not %lld", limit);
        }
    }
    pfo_span_source source;
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_capture_open_spans(self->capture, &source, &err);
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    PyObject *list = PyList_New(0);
    if (list != NULL && read_spans(self, &source, limit, list) < 0) {
        Py_CLEAR(list);
    }
    source.close(source.context);
    return list;
}

/* ---- files and merging ----------------------------------------------------------------------- */

PyDoc_STRVAR(dump_doc,
             "dump($self, path, /)\n--\n\n"
             "Writes the capture to a file, which is whole when this returns and replaces an old one. Raises\n"
             "OSError if it cannot be written.");

static PyObject *
capture_dump(const pfo_capture_object *self, PyObject *path)
{
    PyObject *bytes = NULL;
    if (!PyUnicode_FSConverter(path, &bytes)) {
        return NULL;
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_capture_save(self->capture, PyBytes_AS_STRING(bytes), &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(bytes);
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(load_doc,
             "load(path, /)\n--\n\n"
             "The capture in a file that dump() wrote. The whole file is checked; its spans are read from it\n"
             "when asked for. Raises OSError if it cannot be read, is no capture, is damaged, or was written by\n"
             "a later version.");

static PyObject *
capture_load(PyTypeObject *type, PyObject *path)
{
    PyObject *bytes = NULL;
    if (!PyUnicode_FSConverter(path, &bytes)) {
        return NULL;
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    pfo_capture *capture = NULL;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_capture_load(PyBytes_AS_STRING(bytes), &capture, &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(bytes);
    return status == PFO_OK ? pfo_capture_wrap(type, capture, NULL) : pfo_raise(status, &err);
}

PyDoc_STRVAR(
    merge_doc,
    "merge(captures, /)\n--\n\n"
    "One capture of several: names and their rows are summed, as if all had been recorded in one place;\n"
    "processes, threads, trees and spans stand side by side. Raises ValueError if there is none, or one has no\n"
    "clock anchor, TypeError if something else is among them.");

static PyObject *
capture_merge(PyTypeObject *type, PyObject *given)
{
    PyObject *captures = PySequence_Tuple(given); /* holds them while they are read */
    if (captures == NULL) {
        return NULL;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(captures);
    const pfo_capture **all = pfo_alloc_array((size_t)count + 1, sizeof *all);
    pfo_capture *merged = NULL;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status = all == NULL ? pfo_fail(&err, PFO_NO_MEMORY, "no memory to merge captures") : PFO_OK;
    for (Py_ssize_t i = 0; i < count && status == PFO_OK; i++) {
        PyObject *item = PyTuple_GET_ITEM(captures, i);
        if (Py_TYPE(item) != type) {
            status = pfo_fail(&err, PFO_BAD_TYPE, "merge takes captures, not %.100s", Py_TYPE(item)->tp_name);
        } else {
            all[i] = ((pfo_capture_object *)item)->capture;
        }
    }
    if (status == PFO_OK) {
        Py_BEGIN_ALLOW_THREADS
        status = pfo_capture_merge(all, (int32_t)count, &merged, &err);
        Py_END_ALLOW_THREADS
    }
    pfo_free((void *)all);
    Py_DECREF(captures);
    return status == PFO_OK ? pfo_capture_wrap(type, merged, NULL) : pfo_raise(status, &err);
}

/* ---- properties ------------------------------------------------------------------------------ */

static PyObject *
get_names(const pfo_capture_object *self, void *Py_UNUSED(closure))
{
    return list_of(self, self->capture->name_count, name_at);
}

static PyObject *
get_threads(const pfo_capture_object *self, void *Py_UNUSED(closure))
{
    return list_of(self, self->capture->thread_count, thread_at);
}

static PyObject *
get_processes(const pfo_capture_object *self, void *Py_UNUSED(closure))
{
    return list_of(self, self->capture->process_count, process_at);
}

#define COUNTER(name, type, from)                                                                                      \
    static PyObject *get_##name(const pfo_capture_object *self, void *Py_UNUSED(closure))                              \
    {                                                                                                                  \
        return from((type)self->capture->name);                                                                        \
    }
COUNTER(base_epoch_ns, long long, PyLong_FromLongLong)
COUNTER(taken_ns, long long, PyLong_FromLongLong)
COUNTER(span_count, long long, PyLong_FromLongLong)
COUNTER(dropped_records, unsigned long long, PyLong_FromUnsignedLongLong)
COUNTER(dropped_spans, unsigned long long, PyLong_FromUnsignedLongLong)
COUNTER(overflow_names, unsigned long long, PyLong_FromUnsignedLongLong)

static void
capture_dealloc(pfo_capture_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    pfo_capture_destroy(self->capture);
    Py_XDECREF(self->names);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef capture_methods[] = {
    { "rows", (PyCFunction)capture_rows, METH_NOARGS, rows_doc },
    { "nodes", (PyCFunction)capture_nodes, METH_NOARGS, nodes_doc },
    { "spans", (PyCFunction)(void (*)(void))capture_spans, METH_FASTCALL, spans_doc },
    { "dump", (PyCFunction)capture_dump, METH_O, dump_doc },
    { "load", (PyCFunction)capture_load, METH_O | METH_CLASS, load_doc },
    { "merge", (PyCFunction)capture_merge, METH_O | METH_CLASS, merge_doc },
    { "export", (PyCFunction)(void (*)(void))pfo_capture_export, METH_FASTCALL, pfo_capture_export_doc },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef capture_properties[] = {
    { "names", (getter)get_names, NULL, "The names, as a list; rows, nodes and spans refer to them.", NULL },
    { "threads", (getter)get_threads, NULL,
      "List of dicts of process (index), id (the system's) and name. A thread that began after another had ended may "
      "continue its row, and then gives it its own id and name.",
      NULL },
    { "processes", (getter)get_processes, NULL,
      "List of dicts of pid, pid_namespace (inode, 0 unknown), command, and monotonic_ns and epoch_ns: one moment on "
      "CLOCK_MONOTONIC and as nanoseconds since 1970.",
      NULL },
    { "base_epoch_ns", (getter)get_base_epoch_ns, NULL, "The moment from which spans count, ns since 1970.", NULL },
    { "taken_ns", (getter)get_taken_ns, NULL, "When the capture was taken, ns since base_epoch_ns.", NULL },
    { "span_count", (getter)get_span_count, NULL, "Spans that spans() gives, at most.", NULL },
    { "dropped_records", (getter)get_dropped_records, NULL, "Ranges lost because memory was out.", NULL },
    { "dropped_spans", (getter)get_dropped_spans, NULL, "Spans overwritten by later ones.", NULL },
    { "overflow_names", (getter)get_overflow_names, NULL,
      "Names beyond max_names; at least so many different ones there were.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

PyDoc_STRVAR(capture_doc, "Everything that was recorded up to one moment, unchangeable; made by Profiler.capture().");

static PyType_Slot capture_slots[] = {
    { Py_tp_doc, (void *)capture_doc },
    { Py_tp_dealloc, (void *)capture_dealloc },
    { Py_tp_methods, capture_methods },
    { Py_tp_getset, capture_properties },
    { 0, NULL },
};

PyType_Spec pfo_capture_type_spec = {
    .name = "perfopt._core.Capture",
    .basicsize = sizeof(pfo_capture_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = capture_slots,
};
