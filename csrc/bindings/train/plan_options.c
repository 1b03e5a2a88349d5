/* plan_options.c: see plan_object.h: what the user chose for each group, read at every step, because schedulers change it in between.
 *
 * Numbers and their ranges: operation_args.h.
 */
#include "bindings/train/operation_args.h"
#include "bindings/train/plan_object.h"

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
        PyErr_Clear(); /* no such tensor: a number then, or pfo_option_number() finds the words */
        if (is_tensor && arg.device == self->device && arg.device_index == self->device_index && arg.count == 1) {
            self->lr_slots[index] = arg.data;
            *number = 0.0;
            return 0;
        }
    }
    return pfo_option_number(group, self->module_state->string.lr, number);
}

static int
refuse_modes(const plan_object *self, PyObject *group, Py_ssize_t index)
{
    const pfo_train_state *state = self->module_state;
    PyObject *const refused[] = { state->string.differentiable, state->string.capturable };
    const size_t refused_count = self->device == PFO_DEVICE_CPU ? 2 : 1; /* every step on a device can be captured */
    for (size_t i = 0; i < refused_count; i++) {
        const int truth = pfo_option_flag(group, refused[i]);
        if (truth != 0) {
            if (truth > 0) {
                PyErr_Format(PyExc_ValueError, "param_groups[%zd]['%U'] is true; accepted: false", index, refused[i]);
            }
            return -1;
        }
    }
    return 0;
}

/* lr is the first member of every options struct. */
static int
read_group(plan_object *self, PyObject *group, Py_ssize_t index, pfo_options *options)
{
    if (refuse_modes(self, group, index) < 0 || read_lr(self, group, index, &options->adamw.lr) < 0) {
        return -1;
    }
    return pfo_options_from_dict(self->module_state, self->op, self->coupled, group, options);
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
