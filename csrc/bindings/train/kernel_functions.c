/* kernel_functions.c: the norm and the steps on lists of arrays, and the name of the variant in use.
 *
 * Every argument is read and checked before the first element changes; the arrays are held by a tuple of their own while
 * the GIL is released, so that a list changed by another thread cannot take them away.
 */
#define NO_IMPORT_ARRAY
#define PY_ARRAY_UNIQUE_SYMBOL pfo_train_array_api
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#include "bindings/common/errors.h"
#include "bindings/train/array_args.h"
#include "bindings/train/operation_args.h"
#include "bindings/train/train_state.h"

#include "base/alloc.h"
#include "kernels/execute.h"

#include <numpy/arrayobject.h>

PyDoc_STRVAR(
    grad_norm_doc,
    "grad_norm($module, /, grads)\n--\n\n"
    "Euclidean norm over all elements of a list of arrays, and whether any of them is inf or NaN.\n\n"
    "Returns ``(norm, nonfinite)``: a float (summed in double in an order that depends on sizes alone, so that the\n"
    "result has the same bits on any number of threads) and a bool. Raises TypeError for anything but a list\n"
    "of ``numpy.ndarray`` of float32, float16 or (from ml_dtypes) bfloat16 or of objects with ``__dlpack__`` on the\n"
    "CPU, and ValueError for arrays whose elements do not lie densely in memory.");

static PyObject *
grad_norm(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "grads", NULL };
    PyObject *grads;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:grad_norm", names, &grads)) {
        return NULL;
    }
    pfo_train_state *state = pfo_train_state_of(module);
    PyObject *items = pfo_array_items(grads, "grads");
    if (items == NULL) {
        return NULL;
    }
    PyObject *answer = NULL;
    PyObject *borrowed = PyList_New(0);
    const Py_ssize_t count = PyTuple_GET_SIZE(items);
    pfo_error err = PFO_ERROR_INIT;
    pfo_plan *plan = NULL;
    pfo_plan_entry *entries = pfo_alloc_array((size_t)count, sizeof *entries);
    if (entries == NULL || borrowed == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        pfo_tensor_arg arg;
        if (pfo_array_arg(state, borrowed, PyTuple_GET_ITEM(items, i), "grads", i, PFO_ACCEPT_FLOATS, 0, &arg) < 0) {
            goto done;
        }
        entries[i].data[PFO_ROLE_GRAD] = arg.data;
        entries[i].dtype[PFO_ROLE_GRAD] = arg.dtype;
        entries[i].has_grad = 1;
        entries[i].count = arg.count;
    }
    const pfo_status status = pfo_plan_create(PFO_OP_NORM, entries, count, 1, &plan, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        goto done;
    }
    pfo_step_result result;
    Py_BEGIN_ALLOW_THREADS
    pfo_execute_norm(plan, &state->engine, 1.0, 0, &result);
    Py_END_ALLOW_THREADS
    answer = Py_BuildValue("(dN)", result.norm, PyBool_FromLong(result.nonfinite));
done:
    pfo_plan_destroy(plan);
    pfo_free(entries);
    Py_XDECREF(borrowed);
    Py_DECREF(items);
    return answer;
}

/* Most lists that a step takes: parameters, gradients and the operation's state, as the roles are numbered. */
enum { LIST_COUNT = PFO_ROLE_STATE_1 + PFO_STATE_COUNT };

/* What one step works on. */
typedef struct array_lists {
    pfo_op op;
    PyObject *items[LIST_COUNT]; /* strong: tuples of one length; NULL for state that is not kept */
    PyObject *borrowed;          /* strong: a list of the arrays over memory that came by DLPack */
} array_lists;

/* 1 if the operation has the list and these options ask for it. */
static int
takes_list(pfo_op op, const pfo_options *options, int role)
{
    return role < PFO_ROLE_STATE_1 || pfo_operation_keeps(op, options, role - PFO_ROLE_STATE_1);
}

/* Holds the lists that the options ask for. 0, or -1 with an exception. */
static int
hold_lists(array_lists *lists, PyObject *given, const pfo_options *options)
{
    for (int role = 0; role < LIST_COUNT; role++) {
        PyObject *list = role < PyTuple_GET_SIZE(given) ? PyTuple_GET_ITEM(given, role) : Py_None;
        const char *name = pfo_role_name(lists->op, (pfo_role)role);
        if (!takes_list(lists->op, options, role)) {
            if (list != Py_None) {
                PyErr_Format(PyExc_ValueError, "%s is a %.80s; accepted with these options: None", name,
                             Py_TYPE(list)->tp_name);
                return -1;
            }
            continue;
        }
        lists->items[role] = pfo_array_items(list, name);
        if (lists->items[role] == NULL) {
            return -1;
        }
        const Py_ssize_t count = PyTuple_GET_SIZE(lists->items[role]);
        const Py_ssize_t params = PyTuple_GET_SIZE(lists->items[PFO_ROLE_WEIGHT]);
        if (count != params) {
            PyErr_Format(PyExc_ValueError, "%s has %zd arrays and params has %zd; accepted: one for each parameter",
                         name, count, params);
            return -1;
        }
    }
    return 0;
}

/* Reads the lists, item by item, into entries. 0, or -1 with an exception. */
static int
read_entries(pfo_train_state *state, const array_lists *lists, int first, pfo_plan_entry *entries)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(lists->items[PFO_ROLE_WEIGHT]);
    for (Py_ssize_t i = 0; i < count; i++) {
        pfo_tensor_arg param, other;
        for (int role = 0; role < LIST_COUNT; role++) {
            if (lists->items[role] == NULL) {
                continue;
            }
            pfo_tensor_arg *arg = role == PFO_ROLE_WEIGHT ? &param : &other;
            PyObject *item = PyTuple_GET_ITEM(lists->items[role], i);
            const char *name = pfo_role_name(lists->op, (pfo_role)role);
            if (pfo_array_arg(state, lists->borrowed, item, name, i, PFO_ACCEPT_FLOATS, role != PFO_ROLE_GRAD, arg) <
                0) {
                return -1;
            }
            if (role != PFO_ROLE_WEIGHT && !pfo_tensor_arg_same_layout(&param, &other)) {
                return pfo_tensor_arg_fail(PyExc_ValueError, item, name, i,
                                           "shape and memory order must be those of params");
            }
            entries[i].data[role] = arg->data;
            entries[i].dtype[role] = arg->dtype;
        }
        entries[i].count = param.count;
        entries[i].has_grad = 1;
        entries[i].first = first;
    }
    return 0;
}

static PyObject *
run_step(pfo_train_state *state, const array_lists *lists, int first, const pfo_options *options,
         const pfo_step_request *request)
{
    PyObject *answer = NULL;
    const Py_ssize_t count = PyTuple_GET_SIZE(lists->items[PFO_ROLE_WEIGHT]);
    pfo_error err = PFO_ERROR_INIT;
    pfo_plan *plan = NULL;
    pfo_plan_entry *entries = pfo_alloc_array((size_t)count, sizeof *entries);
    if (entries == NULL) {
        return PyErr_NoMemory();
    }
    if (read_entries(state, lists, first, entries) == 0) {
        const pfo_status status = pfo_plan_create(lists->op, entries, count, 1, &plan, &err);
        if (status != PFO_OK) {
            (void)pfo_raise(status, &err);
        } else {
            pfo_step_result result;
            Py_BEGIN_ALLOW_THREADS
            pfo_execute_step(plan, &state->engine, options, request, &result);
            Py_END_ALLOW_THREADS
            answer = Py_BuildValue("(dNd)", result.norm, PyBool_FromLong(result.skipped), result.clip_factor);
        }
    }
    pfo_plan_destroy(plan);
    pfo_free(entries);
    return answer;
}

PyDoc_STRVAR(
    step_arrays_doc,
    "step_arrays($module, operation, lists, options, step, first, max_grad_norm, inv_scale, found_inf, "
    "skip_nonfinite, threads, /)\n--\n\n"
    "One step of an operation ('adamw', 'adam', 'sgd', 'lion', 'adagrad', 'rmsprop') on lists of arrays; see\n"
    "perfopt.kernels. lists is a tuple: parameters, gradients, then the operation's state in the order of\n"
    "kernels/operation.h, None for what these options do not keep; options a dict with torch's names; first: the "
    "state\n"
    "holds nothing yet; max_grad_norm < 0: no clipping; threads <= 0: as many as there are. Returns ``(norm, skipped,\n"
    "clip_factor)``; norm is NaN when neither clipping nor the non-finite check asked for it.");

static PyObject *
step_arrays(PyObject *module, PyObject *args)
{
    pfo_train_state *state = pfo_train_state_of(module);
    PyObject *operation, *given, *dict;
    int first, coupled;
    pfo_options options = { .adamw = { 0.0 } };
    pfo_step_request request = { .unscale = 1.0 };
    array_lists lists = { .op = PFO_OP_NORM };
    if (!PyArg_ParseTuple(args, "UO!O!dpddppi:step_arrays", &operation, &PyTuple_Type, &given, &PyDict_Type, &dict,
                          &request.step, &first, &request.max_grad_norm, &request.unscale, &request.found_inf,
                          &request.skip_nonfinite, &request.threads) ||
        pfo_operation_from_name(operation, &lists.op, &coupled) < 0 ||
        pfo_option_number(dict, state->string.lr, &options.adamw.lr) < 0 ||
        pfo_options_from_dict(state, lists.op, coupled, dict, &options) < 0) {
        return NULL;
    }
    PyObject *answer = NULL;
    lists.borrowed = PyList_New(0);
    if (lists.borrowed != NULL && hold_lists(&lists, given, &options) == 0) {
        answer = run_step(state, &lists, first, &options, &request);
    }
    for (int role = 0; role < LIST_COUNT; role++) {
        Py_XDECREF(lists.items[role]);
    }
    Py_XDECREF(lists.borrowed);
    return answer;
}

PyDoc_STRVAR(variant_doc,
             "variant($module, /)\n--\n\n"
             "Name of the kernel variant in use: scalar, avx2 or avx512 (chosen when the module was loaded).");

static PyObject *
variant(PyObject *module, PyObject *unused)
{
    (void)unused;
    return PyUnicode_FromString(pfo_cpu_level_name(pfo_train_state_of(module)->engine.kernels->level));
}

PyMethodDef pfo_kernel_functions[] = {
    { "grad_norm", (PyCFunction)(void (*)(void))grad_norm, METH_VARARGS | METH_KEYWORDS, grad_norm_doc },
    { "step_arrays", step_arrays, METH_VARARGS, step_arrays_doc },
    { "variant", variant, METH_NOARGS, variant_doc },
    { NULL, NULL, 0, NULL },
};
