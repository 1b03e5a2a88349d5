/* thread_names.c: see thread_names.h.
 *
 * The recorder asks once a thread and epoch, on that thread, without a lock. threading.current_thread() may run Python
 * code and the collector; an exception that is on its way is kept over it. While the interpreter shuts down, or on a thread
 * without the GIL, the system's name serves.
 */
#include "bindings/core/thread_names.h"

#include "base/platform.h"
#include "profiler/recorder.h"

#include <Python.h>

#include <string.h>

static int
shutting_down(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* threading.current_thread().name, NULL with or without an exception. */
static PyObject *
python_name(void)
{
    PyObject *name = NULL;
    PyObject *key = PyUnicode_FromString("threading");
    PyObject *threading = key == NULL ? NULL : PyImport_GetModule(key); /* nobody has imported it: one thread */
    PyObject *thread = threading == NULL ? NULL : PyObject_CallMethod(threading, "current_thread", NULL);
    if (thread != NULL) {
        name = PyObject_GetAttrString(thread, "name");
    }
    Py_XDECREF(thread);
    Py_XDECREF(threading);
    Py_XDECREF(key);
    return name;
}

/* How many bytes of UTF-8 fit without cutting a character. */
static size_t
whole_characters(const char *text, size_t length, size_t room)
{
    if (length <= room) {
        return length;
    }
    while (room > 0 && ((unsigned char)text[room] & 0xC0) == 0x80) {
        room--;
    }
    return room;
}

static void
name_thread(char *name, size_t room)
{
    if (!PyGILState_Check() || shutting_down()) {
        pfo_thread_name(name, room);
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *found = python_name();
    Py_ssize_t length = 0;
    const char *text = found != NULL && PyUnicode_Check(found) ? PyUnicode_AsUTF8AndSize(found, &length) : NULL;
    if (text != NULL) {
        const size_t used = whole_characters(text, strlen(text), room - 1);
        memcpy(name, text, used);
        name[used] = '\0';
    } else {
        pfo_thread_name(name, room);
    }
    Py_XDECREF(found);
    PyErr_Restore(type, value, traceback);
}

void
pfo_thread_names_install(void)
{
    pfo_recorder_set_thread_namer(name_thread);
}
