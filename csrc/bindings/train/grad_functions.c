/* grad_functions.c: passes over a list of gradients (torch tensors of float32, bfloat16 or float16 on the CPU): clip, scale, clamp,
 * look for inf and NaN.
 *
 * Every tensor is read and checked before the first element changes, so a list that is refused is as it was, and the
 * caller may hand it to torch instead. The tensors are held by a tuple of their own while the GIL is released. Version counters
 * are the caller's: each function says what it has written.
 */
#include "bindings/common/errors.h"
#include "bindings/train/tensor_args.h"
#include "bindings/train/train_state.h"

#include "base/alloc.h"
#include "kernels/execute.h"
#include "kernels/scale.h"

typedef struct gradients {
    PyObject *held; /* strong: a tuple of the tensors */
    pfo_plan *plan;
    const pfo_engine *engine;
    const pfo_scale_kernels *scale_kernels;
} gradients;

static int
read_gradient(pfo_train_state *state, PyObject *tensor, Py_ssize_t index, int written, pfo_plan_entry *entry)
{
    pfo_tensor_arg arg;
    if (pfo_tensor_arg_from_tensor(state, tensor, "grads", index, PFO_ACCEPT_FLOATS, &arg) < 0) {
        return -1;
    }
    if (arg.device != PFO_DEVICE_CPU) {
        return pfo_tensor_arg_fail(PyExc_ValueError, tensor, "grads", index, "accepted: on the CPU");
    }
    const int negated = written ? pfo_tensor_arg_is_negated(state, tensor) : 0;
    if (negated != 0) {
        return negated < 0 ? -1
                           : pfo_tensor_arg_fail(PyExc_ValueError, tensor, "grads", index,
                                                 "it is a negated view; accepted: what its resolve_neg() gives");
    }
    *entry = (pfo_plan_entry){
        .data[PFO_ROLE_GRAD] = arg.data,
        .dtype[PFO_ROLE_GRAD] = arg.dtype,
        .has_grad = 1,
        .count = arg.count,
    };
    return 0;
}

static int
make_plan(gradients *self, pfo_train_state *state, int written)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(self->held);
    pfo_plan_entry *entries = pfo_alloc_array((size_t)count, sizeof *entries);
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (read_gradient(state, PyTuple_GET_ITEM(self->held, i), i, written, &entries[i]) < 0) {
            pfo_free(entries);
            return -1;
        }
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status = pfo_plan_create(PFO_OP_NORM, entries, count, 1, &self->plan, &err);
    pfo_free(entries);
    if (status == PFO_OK && written) {
        status = pfo_gradients_check_apart(self->plan, &err);
    }
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return 0;
}

static void
close_gradients(gradients *self)
{
    pfo_plan_destroy(self->plan);
    Py_XDECREF(self->held);
}

/* written: 1 when the operation changes them. 0, or -1 with an exception; close_gradients() in both cases. */
static int
open_gradients(PyObject *module, PyObject *list, int written, gradients *self)
{
    *self = (gradients){ NULL, NULL, NULL, NULL };
    if (!PyList_Check(list)) {
        PyErr_Format(PyExc_TypeError, "grads is a %.80s; accepted: a list of torch.Tensor", Py_TYPE(list)->tp_name);
        return -1;
    }
    pfo_train_state *state = pfo_train_state_of(module);
    self->engine = &state->engine;
    self->scale_kernels = pfo_scale_kernels_for(state->engine.kernels->level);
    if (self->scale_kernels == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this build has no kernels for gradients at the level in use");
        return -1;
    }
    self->held = PyList_AsTuple(list);
    return self->held == NULL ? -1 : make_plan(self, state, written);
}

PyDoc_STRVAR(
    clip_grads_norm_doc,
    "clip_grads_norm($module, grads, max_norm, keep_nonfinite, /)\n--\n\n"
    "Norm of all gradients together, and their clipping to it, in one or two passes.\n\n"
    "max_norm is a float; every gradient is multiplied by ``min(1, max_norm / (norm + 1e-6))``, and nothing is\n"
    "written when that is 1, or when keep_nonfinite is true and the norm is not finite. Returns ``(norm,\n"
    "nonfinite, written)``: a float summed in double, whether any gradient has an inf or NaN, whether any was "
    "written.");

static PyObject *
clip_grads_norm(PyObject *module, PyObject *args)
{
    PyObject *list;
    double max_norm;
    int keep_nonfinite;
    if (!PyArg_ParseTuple(args, "Odp:clip_grads_norm", &list, &max_norm, &keep_nonfinite)) {
        return NULL;
    }
    gradients grads;
    PyObject *answer = NULL;
    if (open_gradients(module, list, 1, &grads) == 0) {
        pfo_step_result result;
        int written = 0;
        Py_BEGIN_ALLOW_THREADS
        pfo_execute_norm(grads.plan, grads.engine, 1.0, 0, &result);
        const double ratio = max_norm / (result.norm + 1e-6);
        const float factor = (float)(ratio > 1.0 ? 1.0 : ratio);
        if (factor != 1.0f && !(result.nonfinite && keep_nonfinite)) {
            (void)pfo_gradients_scale(grads.plan, grads.scale_kernels, factor, 0);
            written = 1;
        }
        Py_END_ALLOW_THREADS
        answer = Py_BuildValue("(dNN)", result.norm, PyBool_FromLong(result.nonfinite), PyBool_FromLong(written));
    }
    close_gradients(&grads);
    return answer;
}

PyDoc_STRVAR(scale_grads_doc,
             "scale_grads($module, grads, factor, /)\n--\n\n"
             "Multiplies all gradients by a number, rounded to float32 first, in one pass; by 1 it only reads.\n"
             "Returns whether any had an inf or NaN before.");

static PyObject *
scale_grads(PyObject *module, PyObject *args)
{
    PyObject *list;
    float factor;
    if (!PyArg_ParseTuple(args, "Of:scale_grads", &list, &factor)) {
        return NULL;
    }
    gradients grads;
    PyObject *answer = NULL;
    if (open_gradients(module, list, factor != 1.0f, &grads) == 0) {
        int nonfinite;
        Py_BEGIN_ALLOW_THREADS
        nonfinite = pfo_gradients_scale(grads.plan, grads.scale_kernels, factor, 0);
        Py_END_ALLOW_THREADS
        answer = PyBool_FromLong(nonfinite);
    }
    close_gradients(&grads);
    return answer;
}

PyDoc_STRVAR(clamp_grads_doc,
             "clamp_grads($module, grads, low, high, /)\n--\n\n"
             "Brings all elements into [low, high] (rounded to float32 first) in one pass; NaN stays. Returns whether\n"
             "anything was written.");

static PyObject *
clamp_grads(PyObject *module, PyObject *args)
{
    PyObject *list;
    float low, high;
    if (!PyArg_ParseTuple(args, "Off:clamp_grads", &list, &low, &high)) {
        return NULL;
    }
    if (low != low || high != high) {
        PyErr_SetString(PyExc_ValueError, "low or high is NaN; accepted: numbers");
        return NULL;
    }
    gradients grads;
    PyObject *answer = NULL;
    if (open_gradients(module, list, 1, &grads) == 0) {
        int written;
        Py_BEGIN_ALLOW_THREADS
        written = pfo_gradients_clamp(grads.plan, grads.scale_kernels, low, high, 0);
        Py_END_ALLOW_THREADS
        answer = PyBool_FromLong(written);
    }
    close_gradients(&grads);
    return answer;
}

PyMethodDef pfo_grad_functions[] = {
    { "clip_grads_norm", clip_grads_norm, METH_VARARGS, clip_grads_norm_doc },
    { "scale_grads", scale_grads, METH_VARARGS, scale_grads_doc },
    { "clamp_grads", clamp_grads, METH_VARARGS, clamp_grads_doc },
    { NULL, NULL, 0, NULL },
};
