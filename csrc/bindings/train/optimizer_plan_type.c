/* optimizer_plan_type.c: OptimizerPlan: the parameters and state of a torch-style optimizer as one plan for the kernels.
 *
 * A plan is made from `param_groups` (a list of dicts with "params" and options) and `state` (a dict from parameter to a dict
 * with "step", "exp_avg", "exp_avg_sq"), checks every tensor once and holds references to all of them. Each step first compares
 * what the optimizer holds now with what the plan was made from, by identity and data pointer; any difference makes
 * step() answer None, and the caller makes a new plan. Gradients are read anew each step, only their pointers and layout.
 *
 * All tensors are on one device, that of the first parameter. On the CPU a step is done when step() returns. On a CUDA device
 * step() enqueues it on the caller's stream; start() has to give the workspace first, and read() waits for the outcome.
 *
 * Invariants: slots are in the order of param_groups; slot.entry is the index in the C plan, or -1 while the parameter has no
 * state. `running` is set from the first look at the arguments to the last use of the plan, so that neither another thread
 * nor user code reached through an attribute can start a second step; slot.grad is held only while running.
 */
#include "bindings/common/errors.h"
#include "bindings/train/tensor_args.h"
#include "bindings/train/train_state.h"

#include "backend/loader.h"
#include "base/alloc.h"
#include "kernels/execute_device.h"

#include <math.h>

enum { PARAM, EXP_AVG, EXP_AVG_SQ, STEP, HELD_TENSORS };

typedef struct plan_slot {
    PyObject *tensor[HELD_TENSORS]; /* strong; all but PARAM are NULL without state */
    PyObject *state;                /* strong: this parameter's state dict, or NULL */
    PyObject *grad;                 /* strong while a step runs, else NULL */
    void *step_data;
    int32_t entry;
    int32_t group;
} plan_slot;

typedef struct state_item {
    PyObject *key, *value; /* strong: one item of the optimizer's state, in the dict's order */
} state_item;

typedef struct plan_object {
    PyObject_HEAD
    pfo_train_state *module_state;
    pfo_plan *plan;
    plan_slot *slots;
    Py_ssize_t slot_count;
    state_item *state_items;
    Py_ssize_t state_count;
    pfo_adamw_options *options; /* [group_count], read at each step */
    int32_t group_count;
    int running;
    pfo_device device; /* of all tensors; PFO_DEVICE_COUNT while no parameter has been read */
    int32_t device_index;
    pfo_device_run *run;     /* NULL on the CPU */
    const float **lr_slots;  /* [group_count]: the learning rate's place on the device, or NULL */
    PyObject *workspace;     /* strong: the tensor the run's tables lie in */
    int64_t workspace_bytes; /* needed */
} plan_object;

static const char *const held_names[HELD_TENSORS] = { "params", "exp_avgs", "exp_avg_sqs", "steps" };

/* ---- Making a plan --------------------------------------------------------------------------- */

/* Borrowed list of a group's parameters, or NULL with an exception. */
static PyObject *
group_params(const pfo_train_state *state, PyObject *param_groups, Py_ssize_t index)
{
    PyObject *group = PyList_GET_ITEM(param_groups, index);
    PyObject *params = PyDict_Check(group) ? PyDict_GetItemWithError(group, state->string.params) : NULL;
    if (params == NULL || !PyList_Check(params)) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "param_groups[%zd] is no dict with a list under 'params'", index);
        }
        return NULL;
    }
    return params;
}

static int
check_containers(PyObject *param_groups, PyObject *state)
{
    if (!PyList_Check(param_groups)) {
        PyErr_Format(PyExc_TypeError, "param_groups is a %.80s; accepted: a list of dicts",
                     Py_TYPE(param_groups)->tp_name);
        return -1;
    }
    if (!PyDict_Check(state)) {
        PyErr_Format(PyExc_TypeError, "state is a %.80s; accepted: a dict", Py_TYPE(state)->tp_name);
        return -1;
    }
    return 0;
}

/* Takes references to all parameters; no user code runs here. 0, or -1 with an exception. */
static int
collect_slots(plan_object *self, PyObject *param_groups)
{
    const Py_ssize_t groups = PyList_GET_SIZE(param_groups);
    Py_ssize_t total = 0;
    for (Py_ssize_t g = 0; g < groups; g++) {
        PyObject *params = group_params(self->module_state, param_groups, g);
        if (params == NULL) {
            return -1;
        }
        total += PyList_GET_SIZE(params);
    }
    if (groups > INT32_MAX || total > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "too many parameters");
        return -1;
    }
    self->slots = pfo_alloc_array((size_t)total, sizeof *self->slots);
    self->options = pfo_alloc_array((size_t)groups, sizeof *self->options);
    if (self->slots == NULL || self->options == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->group_count = (int32_t)groups;
    for (Py_ssize_t g = 0; g < groups; g++) {
        PyObject *params = group_params(self->module_state, param_groups, g);
        for (Py_ssize_t i = 0; params != NULL && i < PyList_GET_SIZE(params) && self->slot_count < total; i++) {
            plan_slot *slot = &self->slots[self->slot_count++];
            slot->tensor[PARAM] = Py_NewRef(PyList_GET_ITEM(params, i));
            slot->entry = -1;
            slot->group = (int32_t)g;
        }
    }
    return 0;
}

static int
collect_state_items(plan_object *self, PyObject *state)
{
    const Py_ssize_t count = PyDict_GET_SIZE(state);
    self->state_items = pfo_alloc_array((size_t)count, sizeof *self->state_items);
    if (self->state_items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (self->state_count < count && PyDict_Next(state, &position, &key, &value)) {
        state_item *item = &self->state_items[self->state_count++];
        item->key = Py_NewRef(key);
        item->value = Py_NewRef(value);
    }
    return 0;
}

/* New reference to state[name] in slot->tensor[which]. 0, or -1 with an exception. */
static int
take_state_tensor(plan_slot *slot, int which, PyObject *name, Py_ssize_t index)
{
    PyObject *tensor = PyDict_GetItemWithError(slot->state, name);
    if (tensor == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError, "the state of params[%zd] has no '%U'", index, name);
        }
        return -1;
    }
    slot->tensor[which] = Py_NewRef(tensor);
    return 0;
}

/* Finds the slot's state, if it has any. Hashing a parameter may run Python code; nothing here is visible to it yet. */
static int
find_state(plan_object *self, plan_slot *slot, PyObject *state, Py_ssize_t index)
{
    PyObject *found = PyDict_GetItemWithError(state, slot->tensor[PARAM]);
    if (found == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (!PyDict_Check(found)) {
        PyErr_Format(PyExc_TypeError, "the state of params[%zd] is a %.80s; accepted: a dict", index,
                     Py_TYPE(found)->tp_name);
        return -1;
    }
    slot->state = Py_NewRef(found);
    if (PyDict_GET_SIZE(found) == 0) {
        return 0;
    }
    const pfo_train_state *names = self->module_state;
    if (take_state_tensor(slot, EXP_AVG, names->string.exp_avg, index) < 0 ||
        take_state_tensor(slot, EXP_AVG_SQ, names->string.exp_avg_sq, index) < 0) {
        return -1;
    }
    return take_state_tensor(slot, STEP, names->string.step, index);
}

/* The first tensor decides the device of the plan. 0, or -1 with an exception for one that is elsewhere. */
static int
check_device(plan_object *self, PyObject *tensor, const char *list, Py_ssize_t index, const pfo_tensor_arg *arg)
{
    if (self->device == PFO_DEVICE_COUNT) {
        self->device = arg->device;
        self->device_index = arg->device_index;
    }
    if (arg->device != self->device || arg->device_index != self->device_index) {
        return pfo_tensor_arg_fail(PyExc_ValueError, tensor, list, index,
                                   self->device == PFO_DEVICE_CPU ? "accepted: on the CPU, as params[0] is"
                                                                  : "accepted: on the CUDA device of params[0]");
    }
    return 0;
}

/* Reads one tensor of a slot; moments must be laid out as the parameter. 0, or -1 with an exception. */
static int
read_held(plan_object *self, const plan_slot *slot, int which, Py_ssize_t index, const pfo_tensor_arg *param,
          pfo_tensor_arg *arg)
{
    PyObject *tensor = slot->tensor[which];
    if (pfo_tensor_arg_from_tensor(self->module_state, tensor, held_names[which], index, arg) < 0 ||
        check_device(self, tensor, held_names[which], index, arg) < 0) {
        return -1;
    }
    if (which == STEP && arg->count != 1) {
        return pfo_tensor_arg_fail(PyExc_ValueError, tensor, held_names[which], index, "accepted: one element");
    }
    if ((which == EXP_AVG || which == EXP_AVG_SQ) && !pfo_tensor_arg_same_layout(param, arg)) {
        return pfo_tensor_arg_fail(PyExc_ValueError, tensor, held_names[which], index,
                                   "shape and memory order must be those of its parameter");
    }
    return 0;
}

/* Tensors that a step writes must hold their value in memory, not its negative. 0, or -1 with an exception. */
static int
check_not_negated(const plan_object *self, const plan_slot *slot, Py_ssize_t index)
{
    for (int which = 0; which < HELD_TENSORS; which++) {
        PyObject *tensor = slot->tensor[which];
        const int negated = tensor != NULL ? pfo_tensor_arg_is_negated(self->module_state, tensor) : 0;
        if (negated != 0) {
            return negated < 0 ? -1
                               : pfo_tensor_arg_fail(PyExc_ValueError, tensor, held_names[which], index,
                                                     "it is a negated view; accepted: what its resolve_neg() gives");
        }
    }
    return 0;
}

static int
make_entry(plan_object *self, plan_slot *slot, Py_ssize_t index, pfo_plan_entry *entries, int32_t *used)
{
    pfo_tensor_arg param, other;
    if (read_held(self, slot, PARAM, index, NULL, &param) < 0) {
        return -1;
    }
    if (slot->tensor[STEP] == NULL) {
        return 0;
    }
    if (check_not_negated(self, slot, index) < 0) {
        return -1;
    }
    pfo_plan_entry *entry = &entries[*used];
    entry->data[PFO_ROLE_PARAM] = param.data;
    entry->count = param.count;
    entry->group = slot->group;
    if (read_held(self, slot, EXP_AVG, index, &param, &other) < 0) {
        return -1;
    }
    entry->data[PFO_ROLE_EXP_AVG] = other.data;
    if (read_held(self, slot, EXP_AVG_SQ, index, &param, &other) < 0) {
        return -1;
    }
    entry->data[PFO_ROLE_EXP_AVG_SQ] = other.data;
    if (read_held(self, slot, STEP, index, &param, &other) < 0) {
        return -1;
    }
    slot->step_data = other.data;
    entry->step = other.data;
    slot->entry = (*used)++;
    return 0;
}

/* The run on the plan's CUDA device; finding the backend may start the driver. 0, or -1 with an exception. */
static int
make_run(plan_object *self)
{
    const pfo_backend *backend;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    self->lr_slots = pfo_alloc_array((size_t)self->group_count, sizeof *self->lr_slots);
    if (self->lr_slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    status = pfo_backend_require(&backend, &err);
    Py_END_ALLOW_THREADS
    if (status == PFO_OK) {
        status =
            pfo_device_run_create(backend, self->device_index, self->plan, &self->run, &self->workspace_bytes, &err);
    }
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return 0;
}

static int
build(plan_object *self, PyObject *param_groups, PyObject *state)
{
    if (collect_slots(self, param_groups) < 0 || collect_state_items(self, state) < 0) {
        return -1;
    }
    pfo_plan_entry *entries = pfo_alloc_array((size_t)self->slot_count, sizeof *entries);
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int32_t used = 0;
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        if (find_state(self, &self->slots[i], state, i) < 0 ||
            make_entry(self, &self->slots[i], i, entries, &used) < 0) {
            pfo_free(entries);
            return -1;
        }
    }
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_plan_create(PFO_OP_ADAMW, entries, used, self->group_count, &self->plan, &err);
    pfo_free(entries);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return self->device == PFO_DEVICE_CUDA ? make_run(self) : 0;
}

static PyObject *
plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "param_groups", "state", NULL };
    PyObject *param_groups, *state;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:OptimizerPlan", names, &param_groups, &state) ||
        check_containers(param_groups, state) < 0) {
        return NULL;
    }
    pfo_train_state *module_state = pfo_train_state_of_type(type);
    plan_object *self = module_state != NULL ? (plan_object *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        return NULL;
    }
    self->module_state = module_state;
    self->device = PFO_DEVICE_COUNT;
    self->running = 1; /* found by gc.get_objects() while it is half made, it refuses to step */
    if (build(self, param_groups, state) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->running = 0;
    return (PyObject *)self;
}

/* ---- One step -------------------------------------------------------------------------------- */

/* Three-valued: 1 the plan still describes these containers, 0 it does not, -1 exception. Runs no user code. */
static int
containers_match(const plan_object *self, PyObject *param_groups, PyObject *state)
{
    if (PyList_GET_SIZE(param_groups) != self->group_count || PyDict_GET_SIZE(state) != self->state_count) {
        return 0;
    }
    Py_ssize_t seen = 0;
    for (Py_ssize_t g = 0; g < self->group_count; g++) {
        PyObject *params = group_params(self->module_state, param_groups, g);
        if (params == NULL) {
            return -1;
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); i++, seen++) {
            if (seen >= self->slot_count || self->slots[seen].group != g ||
                self->slots[seen].tensor[PARAM] != PyList_GET_ITEM(params, i)) {
                return 0;
            }
        }
    }
    if (seen != self->slot_count) {
        return 0;
    }
    PyObject *key, *value;
    Py_ssize_t position = 0;
    for (const state_item *item = self->state_items; PyDict_Next(state, &position, &key, &value); item++) {
        if (item->key != key || item->value != value) {
            return 0;
        }
    }
    return 1;
}

/* 1 if the slot's state dict still holds the tensors the plan holds. */
static int
state_matches(const plan_object *self, const plan_slot *slot)
{
    if (slot->entry < 0) {
        return slot->state == NULL || PyDict_GET_SIZE(slot->state) == 0;
    }
    const pfo_train_state *names = self->module_state;
    return PyDict_GetItemWithError(slot->state, names->string.exp_avg) == slot->tensor[EXP_AVG] &&
           PyDict_GetItemWithError(slot->state, names->string.exp_avg_sq) == slot->tensor[EXP_AVG_SQ] &&
           PyDict_GetItemWithError(slot->state, names->string.step) == slot->tensor[STEP];
}

/* Makes slot->grad one whose memory holds its value: a tensor only flagged as negated is replaced by a negated copy.
 * 0, or -1 with an exception. */
static int
resolve_gradient(const plan_object *self, plan_slot *slot)
{
    const int negated = pfo_tensor_arg_is_negated(self->module_state, slot->grad);
    if (negated <= 0) {
        return negated;
    }
    PyObject *resolved = PyObject_CallMethodNoArgs(slot->grad, self->module_state->string.resolve_neg);
    if (resolved == NULL) {
        return -1;
    }
    Py_SETREF(slot->grad, resolved);
    return 0;
}

/* Compares the memory of a slot's tensors with the plan and hands the plan its gradient. 1 fine, 0 out of date, -1
 * exception. */
static int
refresh_slot(plan_object *self, plan_slot *slot, Py_ssize_t index)
{
    slot->grad = PyObject_GetAttr(slot->tensor[PARAM], self->module_state->string.grad);
    if (slot->grad == NULL) {
        return -1;
    }
    if (!state_matches(self, slot)) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (slot->entry < 0) {
        return slot->grad == Py_None;
    }
    pfo_error err = PFO_ERROR_INIT;
    if (slot->grad == Py_None) {
        (void)pfo_plan_set_grad(self->plan, slot->entry, 0, NULL, &err);
        return 1;
    }
    const pfo_plan_entry *entry = &self->plan->entries[slot->entry];
    void *const expected[HELD_TENSORS] = {
        [PARAM] = entry->data[PFO_ROLE_PARAM],
        [EXP_AVG] = entry->data[PFO_ROLE_EXP_AVG],
        [EXP_AVG_SQ] = entry->data[PFO_ROLE_EXP_AVG_SQ],
        [STEP] = slot->step_data,
    };
    pfo_tensor_arg param, other;
    for (int which = 0; which < HELD_TENSORS; which++) {
        pfo_tensor_arg *arg = which == PARAM ? &param : &other;
        if (read_held(self, slot, which, index, &param, arg) < 0) {
            return -1;
        }
        if (arg->data != expected[which] || (which == PARAM && arg->count != entry->count)) {
            return 0;
        }
    }
    if (resolve_gradient(self, slot) < 0 ||
        pfo_tensor_arg_from_tensor(self->module_state, slot->grad, "grads", index, &other) < 0 ||
        check_device(self, slot->grad, "grads", index, &other) < 0) {
        return -1;
    }
    if (!pfo_tensor_arg_same_layout(&param, &other)) {
        return pfo_tensor_arg_fail(PyExc_ValueError, slot->grad, "grads", index,
                                   "shape and memory order must be those of its parameter");
    }
    const pfo_status status = pfo_plan_set_grad(self->plan, slot->entry, 1, other.data, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return 1;
}

/* group[name] as a number (a float or anything with __float__, such as a one-element tensor). */
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
read_betas(const pfo_train_state *state, PyObject *group, pfo_adamw_options *options)
{
    PyObject *betas = PyDict_GetItemWithError(group, state->string.betas);
    PyObject *pair = betas != NULL ? PySequence_Tuple(betas) : NULL;
    if (pair == NULL || PyTuple_GET_SIZE(pair) != 2) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "a parameter group's 'betas' are not two numbers");
        }
        Py_XDECREF(pair);
        return -1;
    }
    options->beta1 = PyFloat_AsDouble(PyTuple_GET_ITEM(pair, 0));
    options->beta2 = PyErr_Occurred() ? -1.0 : PyFloat_AsDouble(PyTuple_GET_ITEM(pair, 1));
    Py_DECREF(pair);
    return PyErr_Occurred() ? -1 : 0;
}

/* The learning rate: its place when it is a tensor on the plan's CUDA device (read by each step there, so that it may change
 * under graph replay), else a number. 0, or -1 with an exception. */
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
        const int is_tensor = pfo_tensor_arg_from_tensor(self->module_state, lr, "lr", index, &arg) == 0;
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
read_group(plan_object *self, PyObject *group, Py_ssize_t index, pfo_adamw_options *options)
{
    const pfo_train_state *state = self->module_state;
    PyObject *const refused[] = { state->string.amsgrad, state->string.differentiable, state->string.capturable };
    const size_t refused_count = self->run != NULL ? 2 : 3; /* every step on a device can be captured */
    for (size_t i = 0; i < refused_count; i++) {
        const int truth = read_flag(group, refused[i]);
        if (truth != 0) {
            if (truth > 0) {
                PyErr_Format(PyExc_ValueError, "param_groups[%zd]['%U'] is true; accepted: false", index, refused[i]);
            }
            return -1;
        }
    }
    if (read_lr(self, group, index, &options->lr) < 0 || read_betas(state, group, options) < 0 ||
        read_number(group, state->string.eps, &options->eps) < 0 ||
        read_number(group, state->string.weight_decay, &options->weight_decay) < 0) {
        return -1;
    }
    options->maximize = read_flag(group, state->string.maximize);
    return options->maximize < 0 ? -1 : 0;
}

/* Reads the options of every group; numbers may come from user code, so each group is held while it is read. */
static int
read_options(plan_object *self, PyObject *param_groups)
{
    for (Py_ssize_t g = 0; g < self->group_count; g++) {
        if (g >= PyList_GET_SIZE(param_groups) || !PyDict_Check(PyList_GET_ITEM(param_groups, g))) {
            PyErr_SetString(PyExc_RuntimeError, "param_groups changed while a step was reading it");
            return -1;
        }
        PyObject *group = Py_NewRef(PyList_GET_ITEM(param_groups, g));
        const int status = read_group(self, group, g, &self->options[g]);
        Py_DECREF(group);
        if (status < 0) {
            return -1;
        }
    }
    return 0;
}

/* 1 all slots are ready, 0 out of date, -1 exception. Options come first: reading them may run user code, the comparison after
 * it then sees what that code did. */
static int
prepare(plan_object *self, PyObject *param_groups, PyObject *state)
{
    int answer = containers_match(self, param_groups, state);
    if (answer <= 0) {
        return answer;
    }
    if (read_options(self, param_groups) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        answer = refresh_slot(self, &self->slots[i], i);
        if (answer <= 0) {
            return answer;
        }
    }
    return containers_match(self, param_groups, state);
}

static void
drop_gradients(plan_object *self)
{
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        Py_CLEAR(self->slots[i].grad);
    }
}

PyDoc_STRVAR(
    plan_step_doc,
    "step($self, param_groups, state, max_grad_norm, skip_nonfinite, stream=0, unscale=1.0, grad_scale=None,\n"
    "     found_inf=None, /)\n--\n\n"
    "One AdamW step over every parameter that has a gradient, with the GIL released.\n\n"
    "max_grad_norm is None or a float >= 0, skip_nonfinite a bool, stream the CUDA stream's address (0 on the CPU).\n"
    "Gradients are multiplied by unscale and, on a CUDA device, divided by the float32 in grad_scale; there, anything\n"
    "but 0 in found_inf skips the step (both None or tensors of one element on that device, None on the CPU). On a\n"
    "CUDA device the step is only enqueued and (nan, False, nan) returned: see read(). Returns ``(norm, skipped,\n"
    "clip_factor)``, or None when the containers hold other tensors than those the plan was made from (nothing has\n"
    "changed then: make a new plan). Raises TypeError or ValueError for a gradient of another dtype, device, shape or\n"
    "memory order, and RuntimeError when another thread is stepping this plan.");

static PyObject *
run_step(plan_object *self, PyObject *param_groups, PyObject *state, const pfo_step_request *request, void *stream)
{
    const int ready = prepare(self, param_groups, state);
    if (ready < 0) {
        return NULL;
    }
    if (ready == 0) {
        Py_RETURN_NONE;
    }
    pfo_step_result result = { .norm = Py_NAN, .clip_factor = Py_NAN };
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status = PFO_OK;
    Py_BEGIN_ALLOW_THREADS
    if (self->run != NULL) {
        status = pfo_execute_device_adamw(self->run, self->options, self->lr_slots, request, stream, &err);
    } else {
        pfo_execute_adamw(self->plan, self->module_state->kernels, self->options, request, &result);
    }
    Py_END_ALLOW_THREADS
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    return Py_BuildValue("(dNd)", result.norm, PyBool_FromLong(result.skipped), result.clip_factor);
}

/* None, or a tensor of one float32 on the plan's CUDA device. 0, or -1 with an exception. */
static int
read_device_number(plan_object *self, PyObject *object, const char *name, const float **number)
{
    pfo_tensor_arg arg;
    *number = NULL;
    if (object == Py_None) {
        return 0;
    }
    if (self->run == NULL) {
        PyErr_Format(PyExc_ValueError, "%s is a %.80s; accepted for a plan on the CPU: None", name,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    if (pfo_tensor_arg_from_tensor(self->module_state, object, name, 0, &arg) < 0 ||
        check_device(self, object, name, 0, &arg) < 0) {
        return -1;
    }
    if (arg.count != 1) {
        return pfo_tensor_arg_fail(PyExc_ValueError, object, name, 0, "accepted: one element");
    }
    *number = arg.data;
    return 0;
}

/* Arguments 2 and 3, and those of 5 to 7 that are there. 0, or -1 with an exception. */
static int
read_request(plan_object *self, PyObject *const *args, Py_ssize_t count, pfo_step_request *request)
{
    *request = (pfo_step_request){ .max_grad_norm = -1.0, .unscale = 1.0 };
    if (args[2] != Py_None) {
        request->max_grad_norm = PyFloat_AsDouble(args[2]);
        if (request->max_grad_norm == -1.0 && PyErr_Occurred()) {
            return -1;
        }
        if (!(request->max_grad_norm >= 0.0)) {
            PyErr_Format(PyExc_ValueError, "max_grad_norm=%R; accepted: None or a number >= 0", args[2]);
            return -1;
        }
    }
    request->skip_nonfinite = PyObject_IsTrue(args[3]);
    if (request->skip_nonfinite < 0) {
        return -1;
    }
    if (count > 5) {
        request->unscale = PyFloat_AsDouble(args[5]);
        if (request->unscale == -1.0 && PyErr_Occurred()) {
            return -1;
        }
    }
    if (count > 6 && read_device_number(self, args[6], "grad_scale", &request->device_grad_scale) < 0) {
        return -1;
    }
    return count > 7 ? read_device_number(self, args[7], "found_inf", &request->device_found_inf) : 0;
}

static PyObject *
plan_step(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    plan_object *self = (plan_object *)op;
    if (count < 4 || count > 8) {
        PyErr_Format(PyExc_TypeError, "step() takes 4 to 8 arguments (%zd given)", count);
        return NULL;
    }
    void *stream = count > 4 ? PyLong_AsVoidPtr(args[4]) : NULL;
    if (check_containers(args[0], args[1]) < 0 || (stream == NULL && PyErr_Occurred())) {
        return NULL;
    }
    pfo_step_request request;
    if (read_request(self, args, count, &request) < 0) {
        return NULL;
    }
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "this optimizer is already in a step on another thread");
        return NULL;
    }
    self->running = 1;
    PyObject *answer = run_step(self, args[0], args[1], &request, stream);
    drop_gradients(self);
    self->running = 0;
    return answer;
}

PyDoc_STRVAR(plan_start_doc,
             "start($self, workspace, stream, /)\n--\n\n"
             "Gives a plan on a CUDA device its workspace, once, before the first step: a float32 tensor of at least\n"
             "workspace_bytes on that device, kept until the plan goes. Raises ValueError for one that is too small or "
             "elsewhere and\n"
             "RuntimeError for a plan on the CPU, a second call, or what the device reports.");

static PyObject *
plan_start(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    plan_object *self = (plan_object *)op;
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "start() takes 2 arguments (%zd given)", count);
        return NULL;
    }
    void *stream = PyLong_AsVoidPtr(args[1]);
    if (stream == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (self->run == NULL || self->running) {
        PyErr_SetString(PyExc_RuntimeError, self->run == NULL
                                                ? "a plan on the CPU needs no workspace"
                                                : "this optimizer is already in a step on another thread");
        return NULL;
    }
    pfo_tensor_arg arg;
    self->running = 1;
    if (pfo_tensor_arg_from_tensor(self->module_state, args[0], "workspace", 0, &arg) < 0 ||
        check_device(self, args[0], "workspace", 0, &arg) < 0) {
        self->running = 0;
        return NULL;
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_device_run_start(self->run, arg.data, arg.count * (int64_t)sizeof(float), stream, &err);
    Py_END_ALLOW_THREADS
    if (status == PFO_OK) {
        self->workspace = Py_NewRef(args[0]);
    }
    self->running = 0;
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    plan_read_doc,
    "read($self, stream, /)\n--\n\n"
    "Waits for the stream and returns what the steps on a CUDA device did: ``(norm, clip_factor, nonfinite, taken,\n"
    "skipped)``, the first three of the last step, the counts since start(). Raises RuntimeError on the CPU.");

static PyObject *
plan_read(PyObject *op, PyObject *address)
{
    plan_object *self = (plan_object *)op;
    void *stream = PyLong_AsVoidPtr(address);
    if (stream == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (self->run == NULL || self->running) {
        PyErr_SetString(PyExc_RuntimeError, self->run == NULL
                                                ? "this plan is on the CPU; its steps return what they did"
                                                : "this optimizer is in a step on another thread");
        return NULL;
    }
    pfo_backend_state state;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    self->running = 1;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_execute_device_read(self->run, stream, &state, &err);
    Py_END_ALLOW_THREADS
    self->running = 0;
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    return Py_BuildValue("(ddNLL)", state.norm, state.clip_factor, PyBool_FromLong(state.nonfinite),
                         (long long)state.taken, (long long)state.skipped);
}

static PyObject *
plan_device(PyObject *op, void *unused)
{
    const plan_object *self = (const plan_object *)op;
    (void)unused;
    return PyLong_FromLong(self->device == PFO_DEVICE_CUDA ? self->device_index : -1);
}

static PyObject *
plan_workspace_bytes(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(((const plan_object *)op)->workspace_bytes);
}

static PyObject *
plan_nonfinite_word(PyObject *op, void *unused)
{
    (void)op;
    (void)unused;
    return PyLong_FromSize_t(offsetof(pfo_backend_state, nonfinite) / sizeof(int32_t));
}

PyDoc_STRVAR(plan_written_doc,
             "written($self, /)\n--\n\n"
             "List of the large tensors the last step wrote (each parameter that had a gradient and its two moments),\n"
             "for whoever keeps version counters.");

static PyObject *
plan_written(PyObject *op, PyObject *unused)
{
    plan_object *self = (plan_object *)op;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < self->slot_count; i++) {
        const plan_slot *slot = &self->slots[i];
        if (slot->entry < 0 || !self->plan->entries[slot->entry].has_grad) {
            continue;
        }
        for (int which = 0; which < STEP; which++) {
            if (PyList_Append(list, slot->tensor[which]) < 0) {
                Py_CLEAR(list);
                break;
            }
        }
    }
    return list;
}

/* ---- Type ------------------------------------------------------------------------------------ */

static int
plan_traverse(PyObject *op, visitproc visit, void *arg)
{
    plan_object *self = (plan_object *)op;
    Py_VISIT(Py_TYPE(op));
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        for (int which = 0; which < HELD_TENSORS; which++) {
            Py_VISIT(self->slots[i].tensor[which]);
        }
        Py_VISIT(self->slots[i].state);
        Py_VISIT(self->slots[i].grad);
    }
    for (Py_ssize_t i = 0; i < self->state_count; i++) {
        Py_VISIT(self->state_items[i].key);
        Py_VISIT(self->state_items[i].value);
    }
    Py_VISIT(self->workspace);
    return 0;
}

/* References go only after the tables are out of reach: releasing a tensor may run user code that finds this object. */
static int
plan_clear(PyObject *op)
{
    plan_object *self = (plan_object *)op;
    plan_slot *slots = self->slots;
    state_item *items = self->state_items;
    const Py_ssize_t slot_count = self->slot_count;
    const Py_ssize_t state_count = self->state_count;
    self->slots = NULL;
    self->state_items = NULL;
    self->slot_count = 0;
    self->state_count = 0;
    self->group_count = -1; /* matches no list of groups: step() answers None from here on */
    for (Py_ssize_t i = 0; i < slot_count; i++) {
        for (int which = 0; which < HELD_TENSORS; which++) {
            Py_XDECREF(slots[i].tensor[which]);
        }
        Py_XDECREF(slots[i].state);
        Py_XDECREF(slots[i].grad);
    }
    for (Py_ssize_t i = 0; i < state_count; i++) {
        Py_XDECREF(items[i].key);
        Py_XDECREF(items[i].value);
    }
    pfo_free(slots);
    pfo_free(items);
    pfo_device_run_destroy(self->run);
    self->run = NULL;
    Py_CLEAR(self->workspace);
    return 0;
}

static void
plan_dealloc(PyObject *op)
{
    plan_object *self = (plan_object *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)plan_clear(op);
    pfo_plan_destroy(self->plan);
    pfo_free(self->options);
    pfo_free(self->lr_slots);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef plan_methods[] = {
    { "step", (PyCFunction)(void (*)(void))plan_step, METH_FASTCALL, plan_step_doc },
    { "start", (PyCFunction)(void (*)(void))plan_start, METH_FASTCALL, plan_start_doc },
    { "read", plan_read, METH_O, plan_read_doc },
    { "written", plan_written, METH_NOARGS, plan_written_doc },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef plan_getset[] = {
    { "device", plan_device, NULL, "Index of the CUDA device all tensors are on, or -1 on the CPU.", NULL },
    { "workspace_bytes", plan_workspace_bytes, NULL, "Bytes of device memory start() needs; 0 on the CPU.", NULL },
    { "nonfinite_word", plan_nonfinite_word, NULL,
      "Where, counted in int32, a step on a CUDA device leaves in its workspace whether a gradient had an inf or NaN.",
      NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

PyDoc_STRVAR(
    plan_doc,
    "OptimizerPlan(param_groups, state)\n--\n\n"
    "Checked plan over the parameters and state of a torch-style AdamW optimizer: a list of dicts with ``params`` and\n"
    "options, and a dict from parameter to ``{'step', 'exp_avg', 'exp_avg_sq'}``. Parameters without state wait for\n"
    "theirs. All tensors must be dense float32 on the CPU or all on one CUDA device, moments laid out as their "
    "parameter; anything else raises\n"
    "TypeError or ValueError that names the tensor.");

static PyType_Slot plan_slots[] = {
    { Py_tp_new, (void *)plan_new },           { Py_tp_dealloc, (void *)plan_dealloc },
    { Py_tp_traverse, (void *)plan_traverse }, { Py_tp_clear, (void *)plan_clear },
    { Py_tp_methods, plan_methods },           { Py_tp_getset, plan_getset },
    { Py_tp_doc, (void *)plan_doc },           { 0, NULL },
};

PyType_Spec pfo_optimizer_plan_spec = {
    .name = "perfopt._train.OptimizerPlan",
    .basicsize = sizeof(plan_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = plan_slots,
};
