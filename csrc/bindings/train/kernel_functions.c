/* kernel_functions.c: grad_norm and adamw_step on lists of NumPy arrays, and the name of the variant in use.
 *
 * Every argument is read and checked before the first element changes; the arrays are held by a tuple of their own while
 * the GIL is released, so that a list changed by another thread cannot take them away.
 */
#define NO_IMPORT_ARRAY
#define PY_ARRAY_UNIQUE_SYMBOL pfo_train_array_api
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#include "bindings/common/errors.h"
#include "bindings/train/tensor_args.h"
#include "bindings/train/train_state.h"

#include "base/alloc.h"
#include "kernels/execute.h"

#include <numpy/arrayobject.h>

#include <math.h>

/* Lists of adamw_step(): parameters, gradients and the two moments, as the roles are numbered. */
enum { LIST_COUNT = PFO_ROLE_STATE_3 };

/* The caller's sequence as a tuple that holds its items; NULL with a TypeError that names the argument. */
static PyObject *
hold_items(PyObject *sequence, const char *name)
{
    if (PyArray_Check(sequence) || PyUnicode_Check(sequence)) {
        PyErr_Format(PyExc_TypeError, "%s is a %.80s; accepted: a list of numpy.ndarray", name,
                     Py_TYPE(sequence)->tp_name);
        return NULL;
    }
    PyObject *items = PySequence_Tuple(sequence);
    if (items == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Format(PyExc_TypeError, "%s is a %.80s; accepted: a list of numpy.ndarray", name,
                     Py_TYPE(sequence)->tp_name);
    }
    return items;
}

PyDoc_STRVAR(
    grad_norm_doc,
    "grad_norm($module, /, grads)\n--\n\n"
    "Euclidean norm over all elements of a list of arrays, and whether any of them is inf or NaN.\n\n"
    "Returns ``(norm, nonfinite)``: a float (summed in double in an order that depends on sizes alone, so that the\n"
    "result has the same bits on any number of threads) and a bool. Raises TypeError for anything but a list\n"
    "of ``numpy.ndarray`` of float32, float16 or (from ml_dtypes) bfloat16, and ValueError for arrays whose elements\n"
    "do not lie densely in memory.");

static PyObject *
grad_norm(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "grads", NULL };
    PyObject *grads;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:grad_norm", names, &grads)) {
        return NULL;
    }
    const pfo_engine *engine = &pfo_train_state_of(module)->engine;
    PyObject *items = hold_items(grads, "grads");
    if (items == NULL) {
        return NULL;
    }
    PyObject *answer = NULL;
    const Py_ssize_t count = PyTuple_GET_SIZE(items);
    pfo_error err = PFO_ERROR_INIT;
    pfo_plan *plan = NULL;
    pfo_plan_entry *entries = pfo_alloc_array((size_t)count, sizeof *entries);
    if (entries == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        pfo_tensor_arg arg;
        if (pfo_tensor_arg_from_array(PyTuple_GET_ITEM(items, i), "grads", i, PFO_ACCEPT_FLOATS, 0, &arg) < 0) {
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
    pfo_execute_norm(plan, engine, 1.0, 0, &result);
    Py_END_ALLOW_THREADS
    answer = Py_BuildValue("(dN)", result.norm, PyBool_FromLong(result.nonfinite));
done:
    pfo_plan_destroy(plan);
    pfo_free(entries);
    Py_DECREF(items);
    return answer;
}

/* Reads the four lists, item by item, into entries. items[role] are tuples of equal length. 0, or -1 with an exception.
 */
static int
read_entries(PyObject *const items[LIST_COUNT], pfo_plan_entry *entries)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(items[PFO_ROLE_WEIGHT]);
    for (Py_ssize_t i = 0; i < count; i++) {
        pfo_tensor_arg param, other;
        for (int role = 0; role < LIST_COUNT; role++) {
            pfo_tensor_arg *arg = role == PFO_ROLE_WEIGHT ? &param : &other;
            PyObject *item = PyTuple_GET_ITEM(items[role], i);
            const char *name = pfo_role_name(PFO_OP_ADAMW, (pfo_role)role);
            if (pfo_tensor_arg_from_array(item, name, i, PFO_ACCEPT_FLOAT32, role != PFO_ROLE_GRAD, arg) < 0) {
                return -1;
            }
            if (role != PFO_ROLE_WEIGHT && !pfo_tensor_arg_same_layout(&param, &other)) {
                return pfo_tensor_arg_fail(PyExc_ValueError, item, name, i,
                                           "shape and memory order must be those of params");
            }
            entries[i].data[role] = arg->data;
        }
        entries[i].count = param.count;
        entries[i].has_grad = 1;
    }
    return 0;
}

static int
check_at_least(const char *name, double value, double low, int allow_above_one)
{
    if (value >= low && (allow_above_one || value < 1.0)) {
        return 0;
    }
    PyObject *number = PyFloat_FromDouble(value);
    if (number != NULL) {
        PyErr_Format(PyExc_ValueError, "%s=%R; accepted: %s", name, number, allow_above_one ? ">= 0" : "0 <= beta < 1");
        Py_DECREF(number);
    }
    return -1;
}

static int
check_options(const pfo_adamw_options *options, double step)
{
    if (!(step >= 1.0)) {
        PyErr_Format(PyExc_ValueError, "step=%lld; accepted: the number of this step, counted from 1", (long long)step);
        return -1;
    }
    if (check_at_least("lr", options->lr, 0.0, 1) < 0 || check_at_least("betas[0]", options->beta1, 0.0, 0) < 0 ||
        check_at_least("betas[1]", options->beta2, 0.0, 0) < 0 || check_at_least("eps", options->eps, 0.0, 1) < 0) {
        return -1;
    }
    return check_at_least("weight_decay", options->weight_decay, 0.0, 1);
}

/* None means no clipping. 0, or -1 with an exception. */
static int
read_max_norm(PyObject *object, double *max_norm)
{
    *max_norm = -1.0;
    if (object == Py_None) {
        return 0;
    }
    *max_norm = PyFloat_AsDouble(object);
    if (*max_norm == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    return check_at_least("max_grad_norm", *max_norm, 0.0, 1);
}

PyDoc_STRVAR(adamw_step_doc,
             "adamw_step($module, /, params, grads, exp_avgs, exp_avg_sqs, step, lr, betas=(0.9, 0.999), eps=1e-08, "
             "weight_decay=0.01, max_grad_norm=None, maximize=False, skip_nonfinite=True)\n--\n\n"
             "One AdamW step on lists of float32 arrays; see perfopt.kernels.adamw_step. Returns ``(norm, skipped,\n"
             "clip_factor)``; norm is NaN when neither clipping nor the non-finite check asked for it.");

static PyObject *
run_adamw(const pfo_engine *engine, PyObject *const items[LIST_COUNT], const pfo_options *options,
          const pfo_step_request *request)
{
    PyObject *answer = NULL;
    const Py_ssize_t count = PyTuple_GET_SIZE(items[PFO_ROLE_WEIGHT]);
    pfo_error err = PFO_ERROR_INIT;
    pfo_plan *plan = NULL;
    pfo_plan_entry *entries = pfo_alloc_array((size_t)count, sizeof *entries);
    if (entries == NULL) {
        return PyErr_NoMemory();
    }
    if (read_entries(items, entries) == 0) {
        const pfo_status status = pfo_plan_create(PFO_OP_ADAMW, entries, count, 1, &plan, &err);
        if (status != PFO_OK) {
            (void)pfo_raise(status, &err);
        } else {
            pfo_step_result result;
            Py_BEGIN_ALLOW_THREADS
            pfo_execute_step(plan, engine, options, request, &result);
            Py_END_ALLOW_THREADS
            answer = Py_BuildValue("(dNd)", result.norm, PyBool_FromLong(result.skipped), result.clip_factor);
        }
    }
    pfo_plan_destroy(plan);
    pfo_free(entries);
    return answer;
}

static PyObject *
adamw_step(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "params", "grads",        "exp_avgs",      "exp_avg_sqs", "step",           "lr", "betas",
                             "eps",    "weight_decay", "max_grad_norm", "maximize",    "skip_nonfinite", NULL };
    PyObject *lists[LIST_COUNT];
    PyObject *max_norm = Py_None;
    long long step;
    pfo_options options = { .adamw = { .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 1e-2 } };
    pfo_adamw_options *chosen = &options.adamw;
    pfo_step_request request = { .unscale = 1.0, .skip_nonfinite = 1 };
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOLd|(dd)ddOpp:adamw_step", names, &lists[PFO_ROLE_WEIGHT],
                                     &lists[PFO_ROLE_GRAD], &lists[PFO_ROLE_STATE_1], &lists[PFO_ROLE_STATE_2], &step,
                                     &chosen->lr, &chosen->beta1, &chosen->beta2, &chosen->eps, &chosen->weight_decay,
                                     &max_norm, &chosen->maximize, &request.skip_nonfinite)) {
        return NULL;
    }
    request.step = (double)step;
    if (check_options(chosen, request.step) < 0 || read_max_norm(max_norm, &request.max_grad_norm) < 0) {
        return NULL;
    }
    PyObject *items[LIST_COUNT] = { NULL };
    PyObject *answer = NULL;
    for (int role = 0; role < LIST_COUNT; role++) {
        items[role] = hold_items(lists[role], pfo_role_name(PFO_OP_ADAMW, (pfo_role)role));
        if (items[role] == NULL) {
            goto done;
        }
        if (PyTuple_GET_SIZE(items[role]) != PyTuple_GET_SIZE(items[PFO_ROLE_WEIGHT])) {
            PyErr_Format(PyExc_ValueError, "%s has %zd arrays and params has %zd; accepted: one for each parameter",
                         pfo_role_name(PFO_OP_ADAMW, (pfo_role)role), PyTuple_GET_SIZE(items[role]),
                         PyTuple_GET_SIZE(items[PFO_ROLE_WEIGHT]));
            goto done;
        }
    }
    answer = run_adamw(&pfo_train_state_of(module)->engine, items, &options, &request);
done:
    for (int role = 0; role < LIST_COUNT; role++) {
        Py_XDECREF(items[role]);
    }
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
    { "adamw_step", (PyCFunction)(void (*)(void))adamw_step, METH_VARARGS | METH_KEYWORDS, adamw_step_doc },
    { "variant", variant, METH_NOARGS, variant_doc },
    { NULL, NULL, 0, NULL },
};
