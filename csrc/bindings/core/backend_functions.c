/* backend_functions.c: what the loader found, for `perfopt info`, for reports and for the reason in messages. */
#include "bindings/core/core_state.h"

#include "backend/loader.h"

/* New dict of one device, or NULL with an exception. A device that cannot be described keeps its index and the reason.
 */
static PyObject *
device_dict(const pfo_backend *backend, int32_t index)
{
    pfo_backend_device device;
    pfo_backend_error err = { 0, "" };
    int32_t code;
    Py_BEGIN_ALLOW_THREADS
    code = backend->describe(index, &device, &err);
    Py_END_ALLOW_THREADS
    if (code != PFO_BACKEND_OK) {
        return Py_BuildValue("{s:i,s:s}", "index", (int)index, "reason", err.text);
    }
    PyObject *capability = PyUnicode_FromFormat("%d.%d", (int)device.compute_major, (int)device.compute_minor);
    if (capability == NULL) {
        return NULL;
    }
    return Py_BuildValue("{s:i,s:s,s:N,s:i,s:L}", "index", (int)index, "name", device.name, "compute_capability",
                         capability, "multiprocessors", (int)device.multiprocessors, "total_bytes",
                         (long long)device.total_bytes);
}

static PyObject *
device_list(const pfo_backend_info *info)
{
    PyObject *devices = PyList_New(0);
    for (int32_t i = 0; devices != NULL && i < info->device_count; i++) {
        PyObject *device = device_dict(info->backend, i);
        if (device == NULL || PyList_Append(devices, device) < 0) {
            Py_CLEAR(devices);
        }
        Py_XDECREF(device);
    }
    return devices;
}

/* A path or a text with a path in it, as the file system spells it. */
static PyObject *
path_text(const char *text)
{
    return PyUnicode_DecodeFSDefault(text);
}

PyDoc_STRVAR(
    backend_info_doc,
    "backend_info($module, /)\n--\n\n"
    "The CUDA backend of this process as a dict: ``available`` (bool), ``name`` (of the backend, '' when none could\n"
    "be opened), ``reason`` (why it is not available, else ''), ``path`` (of the file that was tried, or '') and\n"
    "``devices`` (dicts with ``index``, ``name``, ``compute_capability``, ``multiprocessors``, ``total_bytes``).\n"
    "The first call looks for the backend and starts the driver; the answer stays the same for the life of the "
    "process.");

static PyObject *
backend_info(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    const pfo_backend_info *info;
    Py_BEGIN_ALLOW_THREADS
    info = pfo_backend_describe();
    Py_END_ALLOW_THREADS
    PyObject *reason = path_text(info->reason);
    PyObject *path = reason != NULL ? path_text(info->path) : NULL;
    PyObject *devices = path != NULL ? device_list(info) : NULL;
    if (devices == NULL) {
        Py_XDECREF(path);
        Py_XDECREF(reason);
        return NULL;
    }
    return Py_BuildValue("{s:N,s:s,s:N,s:N,s:N}", "available", PyBool_FromLong(info->backend != NULL), "name",
                         info->name, "reason", reason, "path", path, "devices", devices);
}

PyMethodDef pfo_backend_functions[] = {
    { "backend_info", backend_info, METH_NOARGS, backend_info_doc },
    { NULL, NULL, 0, NULL },
};
