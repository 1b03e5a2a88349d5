/* capture_export.c: Capture.export(): the exporters of csrc/profiler with a path or a Python file object at their end.
 *
 * The exporter runs without the GIL and takes it only to call write(). User code may run there: it sees a capture that cannot change, and a
 * source of spans of this call alone; the caller's reference keeps both. Its exception stays set and comes out as it is.
 */
#include "bindings/core/capture_object.h"

#include "bindings/common/errors.h"

#include "profiler/export_file.h"

const char pfo_capture_export_doc[] =
    "export($self, format, file, /)\n--\n\n"
    "Writes the capture for another tool. ``format``: chrome, perfetto, speedscope, collapsed, pstats, prometheus,\n"
    "otel or csv; docs/profiler-exports.md says which tool reads it and what it loses. ``file``: a path, which\n"
    "holds the whole export afterwards or what it held before, or an object with ``write(bytes)``, which is called\n"
    "with pieces of at most 64 KiB. Memory does not grow with the number of spans.\n"
    "Raises ValueError for an unknown format, TypeError for a file that is neither, OSError when it cannot be\n"
    "written, MemoryError, and whatever ``write`` raises.";

typedef struct file_sink {
    PyObject *write;
    PyThreadState *thread; /* while the GIL is released */
} file_sink;

/* One call of write(): how many bytes it took (a raw file may take fewer), -1 with an exception set. */
static Py_ssize_t
call_write(PyObject *write, const char *bytes, size_t length)
{
    PyObject *piece = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length);
    PyObject *answer = piece == NULL ? NULL : PyObject_CallOneArg(write, piece);
    Py_XDECREF(piece);
    if (answer == NULL) {
        return -1;
    }
    Py_ssize_t taken = (Py_ssize_t)length; /* who answers something else than a number took all */
    if (PyLong_Check(answer) && !PyBool_Check(answer)) {
        taken = PyLong_AsSsize_t(answer);
        if (!PyErr_Occurred() && (taken <= 0 || (size_t)taken > length)) {
            PyErr_Format(PyExc_OSError, "write() took %zd of %zu bytes", taken, length);
        }
    }
    Py_DECREF(answer);
    return PyErr_Occurred() ? -1 : taken;
}

static pfo_status
write_to_file(void *context, const void *bytes, size_t length, pfo_error *err)
{
    file_sink *sink = context;
    const char *at = bytes;
    Py_ssize_t taken = 0;
    PyEval_RestoreThread(sink->thread);
    for (; length > 0 && taken >= 0; at += taken, length -= (size_t)taken) {
        taken = call_write(sink->write, at, length);
        if (taken < 0) {
            break;
        }
    }
    sink->thread = PyEval_SaveThread();
    return taken < 0 ? pfo_fail(err, PFO_INTERRUPTED, "write() raised an exception") : PFO_OK;
}

static pfo_status
export_to_object(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source, PyObject *write,
                 pfo_error *err)
{
    file_sink context = { .write = write };
    const pfo_sink sink = { write_to_file, &context };
    context.thread = PyEval_SaveThread();
    const pfo_status status = pfo_export(format, capture, source, &sink, err);
    PyEval_RestoreThread(context.thread);
    return status;
}

/* PFO_INTERRUPTED: an exception is set. */
static pfo_status
export_to_path(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source, PyObject *file,
               pfo_error *err)
{
    PyObject *path = NULL;
    if (!PyUnicode_FSConverter(file, &path)) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "file must be a path or have a method write, not %.200s",
                         Py_TYPE(file)->tp_name);
        }
        return PFO_INTERRUPTED;
    }
    const char *bytes = PyBytes_AS_STRING(path);
    pfo_status status = PFO_OK;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_export_to_file(format, capture, source, bytes, err);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    return status;
}

/* With the spans open: to the one kind of file or the other. */
static pfo_status
export_with(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source, PyObject *file,
            pfo_error *err)
{
    PyObject *write = PyObject_GetAttrString(file, "write");
    if (write == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return PFO_INTERRUPTED;
        }
        PyErr_Clear();
        return export_to_path(format, capture, source, file, err);
    }
    const pfo_status status = export_to_object(format, capture, source, write, err);
    Py_DECREF(write);
    return status;
}

PyObject *
pfo_capture_export(const pfo_capture_object *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "export() takes 2 arguments, format and file (%zd given)", nargs);
    }
    if (!PyUnicode_Check(args[0])) {
        return PyErr_Format(PyExc_TypeError, "format must be a str, not %.200s", Py_TYPE(args[0])->tp_name);
    }
    Py_ssize_t length = 0;
    const char *name = PyUnicode_AsUTF8AndSize(args[0], &length);
    if (name == NULL) {
        return NULL;
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_export_format format = PFO_EXPORT_COUNT;
    pfo_span_source source;
    pfo_status status = pfo_export_find(name, (size_t)length, &format, &err);
    if (status == PFO_OK) {
        status = pfo_capture_open_spans(self->capture, &source, &err);
    }
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    status = export_with(format, self->capture, &source, args[1], &err);
    source.close(source.context);
    if (status != PFO_OK) {
        return PyErr_Occurred() ? NULL : pfo_raise(status, &err);
    }
    Py_RETURN_NONE;
}
