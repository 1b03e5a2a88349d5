/* plan_options.c: see plan_object.h: what the user chose for each group, read at every step, because schedulers change it in between.
 *
 * A number is a float or anything with __float__, such as a one-element tensor. Ranges are the optimizer's to check, which knows when
 * they were given; nothing here depends on them.
 */
#include "bindings/train/plan_object.h"

#include <stddef.h>

/* group[name] as a number. */
static int
read_number(PyObject *group, PyObject *name, double *number)
{
    PyObject *value = PyDict_GetItemWithError(group, name);
    if (value == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError, "a parameter group has no %R", name);
        }
        return -1;
    }
    Py_INCREF(value);
    *number = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *number == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* Truth of group[name], missing meaning false; -1 with an exception. */
static int
read_flag(PyObject *group, PyObject *name)
{
    PyObject *value = PyDict_GetItemWithError(group, name);
    if (value == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_INCREF(value);
    const int truth = PyObject_IsTrue(value);
    Py_DECREF(value);
    return truth;
}

static int
read_betas(const pfo_train_state *state, PyObject *group, double *beta1, double *beta2)
{
    PyObject *betas = Py_XNewRef(PyDict_GetItemWithError(group, state->string.betas)); /* its __iter__ may drop it */
    PyObject *pair = betas != NULL ? PySequence_Tuple(betas) : NULL;
    Py_XDECREF(betas);
    if (pair == NULL || PyTuple_GET_SIZE(pair) != 2) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "a parameter group's 'betas' are not two numbers");
        }
        Py_XDECREF(pair);
        return -1;
    }
    *beta1 = PyFloat_AsDouble(PyTuple_GET_ITEM(pair, 0));
    *beta2 = PyErr_Occurred() ? -1.0 : PyFloat_AsDouble(PyTuple_GET_ITEM(pair, 1));
    Py_DECREF(pair);
    return PyErr_Occurred() ? -1 : 0;
}

/* The learning rate: its place when it is a tensor on the plan's CUDA device (read by each step there, so that it may change
 * under graph replay), else a number. */
static int
read_lr(plan_object *self, PyObject *group, Py_ssize_t index, double *number)
{
    PyObject *lr = self->run != NULL ? PyDict_GetItemWithError(group, self->module_state->string.lr) : NULL;
    if (self->run != NULL) {
        self->lr_slots[index] = NULL;
    }
    if (lr != NULL && !PyFloat_Check(lr) && !PyLong_Check(lr)) {
        pfo_tensor_arg arg;
        Py_INCREF(lr);
        const int is_tensor =
            pfo_tensor_arg_from_tensor(self->module_state, lr, "lr", index, PFO_ACCEPT_FLOAT32, &arg) == 0;
        Py_DECREF(lr);
        PyErr_Clear(); /* no such tensor: a number then, or read_number() finds the words */
        if (is_tensor && arg.device == self->device && arg.device_index == self->device_index && arg.count == 1) {
            self->lr_slots[index] = arg.data;
            *number = 0.0;
            return 0;
        }
    }
    return read_number(group, self->module_state->string.lr, number);
}

static int
refuse_modes(const plan_object *self, PyObject *group, Py_ssize_t index)
{
    const pfo_train_state *state = self->module_state;
    PyObject *const refused[] = { state->string.differentiable, state->string.capturable };
    const size_t refused_count = self->device == PFO_DEVICE_CPU ? 2 : 1; /* every step on a device can be captured */
    for (size_t i = 0; i < refused_count; i++) {
        const int truth = read_flag(group, refused[i]);
        if (truth != 0) {
            if (truth > 0) {
                PyErr_Format(PyExc_ValueError, "param_groups[%zd]['%U'] is true; accepted: false", index, refused[i]);
            }
            return -1;
        }
    }
    return 0;
}

/* One line of an operation's options, besides the learning rate and betas. */
typedef struct option_field {
    size_t name;   /* offset of its key in pfo_train_state */
    size_t offset; /* in pfo_options */
    int is_flag;
} option_field;

#define NUMBER(op, field) { offsetof(pfo_train_state, string.field), offsetof(pfo_options, op.field), 0 }
#define FLAG(op, field) { offsetof(pfo_train_state, string.field), offsetof(pfo_options, op.field), 1 }

enum { OPTION_FIELDS = 6 };

static const option_field fields_of[PFO_OP_COUNT][OPTION_FIELDS] = {
    [PFO_OP_ADAMW] = { NUMBER(adamw, eps), NUMBER(adamw, weight_decay), FLAG(adamw, maximize), FLAG(adamw, amsgrad) },
    [PFO_OP_SGD] = { NUMBER(sgd, momentum), NUMBER(sgd, dampening), NUMBER(sgd, weight_decay), FLAG(sgd, nesterov),
                     FLAG(sgd, maximize) },
    [PFO_OP_LION] = { NUMBER(lion, weight_decay), FLAG(lion, maximize) },
    [PFO_OP_ADAGRAD] = { NUMBER(adagrad, lr_decay), NUMBER(adagrad, eps), NUMBER(adagrad, weight_decay),
                         FLAG(adagrad, maximize) },
    [PFO_OP_RMSPROP] = { NUMBER(rmsprop, alpha), NUMBER(rmsprop, eps), NUMBER(rmsprop, weight_decay),
                         NUMBER(rmsprop, momentum), FLAG(rmsprop, centered), FLAG(rmsprop, maximize) },
};

static int
read_fields(const plan_object *self, PyObject *group, pfo_options *options)
{
    for (int i = 0; i < OPTION_FIELDS && fields_of[self->op][i].name != 0; i++) {
        const option_field *field = &fields_of[self->op][i];
        PyObject *name = *(PyObject *const *)(const void *)((const char *)self->module_state + field->name);
        void *place = (char *)options + field->offset;
        if (field->is_flag) {
            const int truth = read_flag(group, name);
            if (truth < 0) {
                return -1;
            }
            *(int *)place = truth;
        } else if (read_number(group, name, place) < 0) {
            return -1;
        }
    }
    return 0;
}

/* What differs between operations; lr is the first member of every options struct. */
static int
read_group(plan_object *self, PyObject *group, Py_ssize_t index, pfo_options *options)
{
    const pfo_train_state *state = self->module_state;
    if (refuse_modes(self, group, index) < 0 || read_lr(self, group, index, &options->adamw.lr) < 0 ||
        read_fields(self, group, options) < 0) {
        return -1;
    }
    if (self->op == PFO_OP_LION) {
        return read_betas(state, group, &options->lion.beta1, &options->lion.beta2);
    }
    if (self->op == PFO_OP_ADAMW) {
        const int decoupled = self->coupled ? read_flag(group, state->string.decoupled_weight_decay) : 1;
        options->adamw.coupled = !decoupled;
        return decoupled < 0 ? -1 : read_betas(state, group, &options->adamw.beta1, &options->adamw.beta2);
    }
    return 0;
}

static int
kept_states(pfo_op op, const pfo_options *options)
{
    int keeps = 0;
    for (int k = 0; k < PFO_STATE_COUNT; k++) {
        keeps |= pfo_operation_keeps(op, options, k) << k;
    }
    return keeps;
}

int
pfo_plan_object_read_options(plan_object *self, PyObject *param_groups)
{
    const int is_new = self->plan == NULL;
    int same = 1;
    for (Py_ssize_t g = 0; g < self->group_count; g++) {
        if (g >= PyList_GET_SIZE(param_groups) || !PyDict_Check(PyList_GET_ITEM(param_groups, g))) {
            PyErr_SetString(PyExc_RuntimeError, "param_groups changed while a step was reading it");
            return -1;
        }
        pfo_options options = { .adamw = { 0.0 } };
        PyObject *group = Py_NewRef(PyList_GET_ITEM(param_groups, g)); /* user code may take it out of the list */
        const int status = read_group(self, group, g, &options);
        Py_DECREF(group);
        if (status < 0) {
            return -1;
        }
        const int keeps = kept_states(self->op, &options);
        same &= is_new || keeps == self->keeps[g];
        self->options[g] = options;
        self->keeps[g] = is_new ? keeps : self->keeps[g];
    }
    return same;
}
