/* flight_tasks.c: see flight_tasks.h. What it calls is in the module's state, put there by perfopt._flights when that is imported.
 *
 * References: as flight_tasks.h says. Threads: the GIL.
 */
#include "bindings/core/flight_tasks.h"

int
pfo_tasks_enter(pfo_core_state *state, PyObject **node)
{
    *node = PyObject_CallNoArgs(state->tasks_enter);
    return *node == NULL ? -1 : 0;
}

/* Calls a function that has nothing to say, with what it is to end, whose reference it takes over. Keeps an exception that is set. */
static void
finish(PyObject *function, PyObject *what)
{
    if (what == NULL) {
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *answer = PyObject_CallOneArg(function, what);
    if (answer == NULL) {
        PyErr_WriteUnraisable(function);
    }
    Py_XDECREF(answer);
    Py_DECREF(what);
    PyErr_Restore(type, value, traceback);
}

void
pfo_tasks_leave(pfo_core_state *state, PyObject *node)
{
    finish(state->tasks_leave, node);
}

int
pfo_tasks_begin_wait(pfo_core_state *state, PyObject *node, PyObject **wait)
{
    *wait = PyObject_CallOneArg(state->tasks_begin_wait, node);
    if (*wait == NULL) {
        return -1;
    }
    const int is_circle = *wait == Py_False;
    if (is_circle || *wait == Py_None) {
        Py_CLEAR(*wait);
    }
    return !is_circle;
}

void
pfo_tasks_end_wait(pfo_core_state *state, PyObject *wait)
{
    finish(state->tasks_end_wait, wait);
}

PyDoc_STRVAR(connect_doc,
             "_connect_flights(enter, leave, begin_wait, end_wait, /)\n--\n\n"
             "What the flights of threads are to know of those of tasks: perfopt._flights says it. Internal.");

static PyObject *
connect_flights(PyObject *module, PyObject *args)
{
    pfo_core_state *state = pfo_core_state_of(module);
    PyObject *enter, *leave, *begin_wait, *end_wait;
    if (!PyArg_ParseTuple(args, "OOOO:_connect_flights", &enter, &leave, &begin_wait, &end_wait)) {
        return NULL;
    }
    Py_XSETREF(state->tasks_leave, Py_NewRef(leave));
    Py_XSETREF(state->tasks_begin_wait, Py_NewRef(begin_wait));
    Py_XSETREF(state->tasks_end_wait, Py_NewRef(end_wait));
    Py_XSETREF(state->tasks_enter, Py_NewRef(enter)); /* the last: it says that all are there */
    Py_RETURN_NONE;
}

PyMethodDef pfo_flight_functions[] = {
    { "_connect_flights", connect_flights, METH_VARARGS, connect_doc },
    { NULL, NULL, 0, NULL },
};
