/* plan_step.c: see plan_object.h: one step: is the plan still true, where are the gradients, go.
 *
 * Ten thousand small tensors cost what looking at them costs. So a tensor that lies where it lay is recognized by one quick look
 * (pfo_tensor_peek_at); one that gives another answer is read again with all checks.
 */
#include "bindings/common/errors.h"
#include "bindings/train/plan_object.h"

#include <math.h>

int
pfo_plan_object_containers_match(const plan_object *self, PyObject *param_groups, PyObject *state, int with_state)
{
    if (PyList_GET_SIZE(param_groups) != self->group_count) {
        return 0;
    }
    Py_ssize_t seen = 0;
    for (Py_ssize_t g = 0; g < self->group_count; g++) {
        PyObject *params = pfo_plan_object_group_params(self->module_state, param_groups, g);
        if (params == NULL) {
            return -1;
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); i++, seen++) {
            if (seen >= self->slot_count || self->slots[seen].group != g ||
                self->items[self->slots[seen].first_item].value != PyList_GET_ITEM(params, i)) {
                return 0;
            }
        }
    }
    if (seen != self->slot_count || (with_state && PyDict_GET_SIZE(state) != self->state_count)) {
        return 0;
    }
    if (!with_state) {
        return 1;
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

/* 1 if the slot's state dict still holds what the plan holds, in the same order. */
int
pfo_plan_object_slot_matches(const plan_object *self, const plan_slot *slot)
{
    if (slot->state == NULL) {
        return 1;
    }
    if (PyDict_GET_SIZE(slot->state) != slot->item_count - 1) {
        return 0;
    }
    PyObject *key, *value;
    Py_ssize_t position = 0;
    const plan_item *item = &self->items[slot->first_item + 1];
    for (; PyDict_Next(slot->state, &position, &key, &value); item++) {
        if (item->key != key || item->value != value) {
            return 0;
        }
    }
    return 1;
}

int
pfo_plan_object_lies_where_it_lay(const plan_object *self, const plan_item *item, const pfo_tensor_peek *now)
{
    return now->data == item->data && now->dtype == item->dtype && now->device == self->device &&
           now->device_index == self->device_index;
}

static int
has_count(const pfo_tensor_peek *now, int64_t wanted)
{
    int64_t count = 1;
    for (int i = 0; i < now->ndim; i++) {
        count *= now->shape[i];
    }
    return count == wanted;
}

static int
has_layout(const pfo_tensor_peek *now, const pfo_tensor_arg *param)
{
    if (now->ndim != param->ndim) {
        return 0;
    }
    for (int i = 0; i < now->ndim; i++) {
        if (now->shape[i] != param->shape[i] || now->strides[i] != param->strides[i]) {
            return 0;
        }
    }
    return 1;
}

/* 1 if the tensor lies where the plan thinks, laid out as its parameter is; 0 if the plan is out of date; -1 with an exception. */
static int
check_item(plan_object *self, const plan_item *item, Py_ssize_t index, const pfo_tensor_arg *param)
{
    const int negated = pfo_tensor_arg_is_negated(self->module_state, item->value);
    if (negated != 0) {
        return negated < 0 ? -1 : 0; /* a new plan refuses it, with the words for it */
    }
    const int is_small = item->part == PART_STEP || (item->part >= PART_SCALE_1 && item->part < PART_MASTER);
    const int64_t blocks = param->count / PFO_SCALE_BLOCK + (param->count % PFO_SCALE_BLOCK != 0);
    pfo_tensor_peek now;
    if (pfo_tensor_peek_at(self->module_state, item->value, &now)) {
        if (pfo_plan_object_lies_where_it_lay(self, item, &now) &&
            (is_small ? has_count(&now, item->part == PART_STEP ? 1 : blocks) : has_layout(&now, param))) {
            return 1;
        }
    }
    pfo_tensor_arg
        arg; /* without the quick look, or after one that saw a change: which may be in strides that do not matter */
    if (pfo_plan_object_read_item(self, item, index, param, &arg) < 0) {
        return -1;
    }
    return arg.data == item->data && arg.dtype == item->dtype;
}

/* Takes a quick look for a whole reading: enough to compare the layout of others with. */
static void
take_peek(const pfo_tensor_peek *now, int64_t count, pfo_tensor_arg *param)
{
    param->data = now->data;
    param->count = count;
    param->dtype = now->dtype;
    param->device = now->device;
    param->device_index = now->device_index;
    param->ndim = now->ndim;
    for (int i = 0; i < now->ndim; i++) {
        param->shape[i] = now->shape[i];
        param->strides[i] = now->strides[i];
    }
}

/* 1 if the elements lie in C order, one behind the other, and are so many. */
static int
is_in_c_order(const pfo_tensor_peek *now, int64_t count)
{
    int64_t stride = 1;
    for (int i = now->ndim - 1; i >= 0; i--) {
        if (now->strides[i] != stride || __builtin_mul_overflow(stride, now->shape[i], &stride)) {
            return 0;
        }
    }
    return stride == count;
}

/* Reads the parameter, whose layout all others are compared with. As above. It can have become a negated view since the plan was
 * made, by `param.data = other`. */
static int
check_param(plan_object *self, const plan_slot *slot, Py_ssize_t index, pfo_tensor_arg *param)
{
    const plan_item *item = &self->items[slot->first_item];
    const int64_t count = self->plan->entries[slot->entry].count;
    const int negated = pfo_tensor_arg_is_negated(self->module_state, item->value);
    if (negated != 0) {
        return negated < 0 ? -1 : 0; /* a new plan refuses it, with the words for it */
    }
    pfo_tensor_peek now;
    if (pfo_tensor_peek_at(self->module_state, item->value, &now) && now.ndim <= PFO_TENSOR_MAX_DIMS &&
        pfo_plan_object_lies_where_it_lay(self, item, &now) && is_in_c_order(&now, count)) {
        take_peek(&now, count, param);
        return 1;
    }
    if (pfo_plan_object_read_item(self, item, index, NULL, param) < 0) {
        return -1;
    }
    return param->data == item->data && param->dtype == item->dtype && param->count == count;
}

/* Makes slot->grad one whose memory holds its value: a tensor only flagged as negated is replaced by a negated copy, which a step that
 * zeroes gradients would zero in its stead. 0, or -1 with an exception. */
static int
resolve_gradient(plan_object *self, plan_slot *slot, Py_ssize_t index, int zero_grads)
{
    const int negated = pfo_tensor_arg_is_negated(self->module_state, slot->grad);
    if (negated <= 0) {
        return negated;
    }
    if (zero_grads) {
        return pfo_tensor_arg_fail(PyExc_ValueError, slot->grad, "grads", index,
                                   "it is a negated view, which zero_grads cannot zero; accepted: what its "
                                   "resolve_neg() gives");
    }
    PyObject *resolved = PyObject_CallMethodNoArgs(slot->grad, self->module_state->string.resolve_neg);
    if (resolved == NULL) {
        return -1;
    }
    Py_SETREF(slot->grad, resolved);
    return 0;
}

/* Hands the plan the slot's gradient. 0, or -1 with an exception. */
static int
take_gradient(plan_object *self, plan_slot *slot, Py_ssize_t index, const pfo_tensor_arg *param, int zero_grads)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_tensor_arg grad;
    pfo_tensor_peek now;
    if (resolve_gradient(self, slot, index, zero_grads) < 0) {
        return -1;
    }
    if (pfo_tensor_peek_at(self->module_state, slot->grad, &now) && now.device == self->device &&
        now.device_index == self->device_index && (PFO_ACCEPT_FLOATS >> now.dtype & 1) != 0 &&
        has_layout(&now, param) && (now.data != NULL || param->count == 0)) {
        grad.data = now.data;
        grad.dtype = now.dtype;
    } else {
        if (pfo_tensor_arg_from_tensor(self->module_state, slot->grad, "grads", index, PFO_ACCEPT_FLOATS, &grad) < 0 ||
            pfo_plan_object_check_device(self, slot->grad, "grads", index, &grad) < 0) {
            return -1;
        }
        if (!pfo_tensor_arg_same_layout(param, &grad)) {
            return pfo_tensor_arg_fail(PyExc_ValueError, slot->grad, "grads", index,
                                       "shape and memory order must be those of its parameter");
        }
    }
    const pfo_status status = pfo_plan_set_grad(self->plan, slot->entry, 1, grad.data, grad.dtype, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return 0;
}

static PyObject *
read_grad(plan_object *self, PyObject *param)
{
    const pfo_tensor_type *type = pfo_tensor_type_of(self->module_state, param);
    if (type != NULL && type->grad != NULL) {
        return type->grad->get(param, type->grad->closure);
    }
    self->grad_by_user_code = 1;
    return PyObject_GetAttr(param, self->module_state->string.grad);
}

/* Compares a slot's tensors with the plan and hands the plan its gradient. 1 fine, 0 out of date, -1 exception. */
static int
refresh_slot(plan_object *self, plan_slot *slot, Py_ssize_t index, int zero_grads)
{
    const plan_item *items = &self->items[slot->first_item];
    const int look_at_state = self->sealed_state == NULL || !slot->covered;
    if (slot->grad == NULL) {
        slot->grad = read_grad(self, items[0].value);
    }
    if (slot->grad == NULL) {
        return -1;
    }
    if (look_at_state && !pfo_plan_object_slot_matches(self, slot)) {
        return 0;
    }
    if (slot->entry < 0) {
        return slot->grad == Py_None;
    }
    if (slot->grad == Py_None) {
        (void)pfo_plan_set_grad(self->plan, slot->entry, 0, NULL, PFO_DTYPE_FLOAT32, NULL);
        return 1;
    }
    pfo_tensor_arg param;
    int answer = check_param(self, slot, index, &param);
    for (int i = 1; look_at_state && i < slot->item_count && answer > 0; i++) {
        if (items[i].part != PART_OTHER) {
            answer = check_item(self, &items[i], index, &param);
        }
    }
    if (answer <= 0) {
        return answer;
    }
    return take_gradient(self, slot, index, &param, zero_grads) < 0 ? -1 : 1;
}

static void
check_seal(plan_object *self, PyObject *state)
{
    if (self->sealed_state != NULL && !pfo_plan_object_is_sealed(self, state)) {
        pfo_plan_object_break_seal(self);
    }
}

static int
refresh_slots(plan_object *self, int zero_grads)
{
    int answer = 1;
    for (Py_ssize_t i = 0; i < self->slot_count && answer > 0; i++) {
        answer = refresh_slot(self, &self->slots[i], i, zero_grads);
    }
    return answer;
}

/* 1 all slots are ready, 0 out of date, -1 exception. Options come first: reading them may run user code, the comparison after
 * it then sees what that code did. A gradient that is a subclass's property may move what was looked at before it: then all is looked at
 * once more, with the gradients at hand. */
static int
prepare(plan_object *self, PyObject *param_groups, PyObject *state, int zero_grads)
{
    pfo_tensor_types_read(self->module_state);
    int answer = pfo_plan_object_containers_match(self, param_groups, state, self->sealed_state == NULL);
    if (answer > 0) {
        answer = pfo_plan_object_read_options(self, param_groups);
    }
    check_seal(self, state);
    const int sealed = self->sealed_state != NULL;
    self->grad_by_user_code = 0;
    if (answer > 0) {
        answer = refresh_slots(self, zero_grads);
    }
    if (answer > 0 && self->grad_by_user_code) {
        check_seal(self, state);
        answer = refresh_slots(self, zero_grads);
    }
    if (sealed && self->sealed_state == NULL) { /* user code has had the state while this looked elsewhere */
        return answer < 0 ? -1 : 0;
    }
    return answer > 0 ? pfo_plan_object_containers_match(self, param_groups, state, !sealed) : answer;
}

/* Lets the gradients go, and the answer of written() if other parameters than last time had one. */
static void
drop_gradients(plan_object *self, int stepped)
{
    int same = 1;
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        plan_slot *slot = &self->slots[i];
        if (stepped && slot->entry >= 0) {
            const uint8_t has_grad = slot->grad != Py_None;
            same &= has_grad == slot->had_grad;
            slot->had_grad = has_grad;
        }
        Py_CLEAR(slot->grad);
    }
    if (!same) {
        Py_CLEAR(self->written);
    }
}

/* ---- The request ----------------------------------------------------------------------------- */

static int
read_double(PyObject *object, double *number)
{
    *number = PyFloat_AsDouble(object);
    return *number == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static int
read_max_grad_norm(PyObject *object, pfo_step_request *request)
{
    if (object == Py_None) {
        return 0;
    }
    if (read_double(object, &request->max_grad_norm) < 0) {
        return -1;
    }
    if (!(request->max_grad_norm >= 0.0)) {
        PyErr_Format(PyExc_ValueError, "max_grad_norm=%R; accepted: None or a number >= 0", object);
        return -1;
    }
    return 0;
}

static int
read_grad_scale(PyObject *object, pfo_step_request *request)
{
    double scale;
    if (read_double(object, &scale) < 0) {
        return -1;
    }
    if (!(scale > 0.0) || isinf(scale)) {
        PyErr_Format(PyExc_ValueError, "grad_scale=%R; accepted: None or a finite number > 0", object);
        return -1;
    }
    request->unscale = 1.0 / scale;
    return 0;
}

static int
read_ema_decay(PyObject *object, pfo_step_request *request)
{
    if (read_double(object, &request->ema_decay) < 0) {
        return -1;
    }
    if (!(request->ema_decay >= 0.0 && request->ema_decay <= 1.0)) {
        PyErr_Format(PyExc_ValueError, "ema_decay=%R; accepted: None or a number from 0 to 1", object);
        return -1;
    }
    return 0;
}

static int
read_counter(PyObject *object, const char *name, uint64_t limit, uint64_t *number)
{
    *number = PyLong_AsUnsignedLongLong(object);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (*number > limit) {
        PyErr_Format(PyExc_ValueError, "%s=%R; accepted: up to %llu", name, object, (unsigned long long)limit);
        return -1;
    }
    return 0;
}

/* A tensor of one float32 on the plan's CUDA device, which the host does not wait for. */
static int
read_device_number(plan_object *self, PyObject *object, const char *name, const float **number)
{
    pfo_tensor_arg arg;
    if (pfo_tensor_arg_from_tensor(self->module_state, object, name, 0, PFO_ACCEPT_FLOAT32, &arg) < 0 ||
        pfo_plan_object_check_device(self, object, name, 0, &arg) < 0) {
        return -1;
    }
    if (arg.count != 1) {
        return pfo_tensor_arg_fail(PyExc_ValueError, object, name, 0, "accepted: one element");
    }
    *number = arg.data;
    return 0;
}

/* A tensor of one int64 on the plan's CUDA device, likewise. */
static int
read_device_counter(plan_object *self, PyObject *object, const char *name, const int64_t **number)
{
    pfo_tensor_arg arg;
    if (pfo_tensor_arg_int64(self->module_state, object, name, &arg) < 0 ||
        pfo_plan_object_check_device(self, object, name, 0, &arg) < 0) {
        return -1;
    }
    *number = arg.data;
    return 0;
}

/* What the caller asks of one step. */
typedef struct step_arguments {
    pfo_step_request request;
    pfo_device_slots slots; /* numbers that stay on the device */
    void *stream;
} step_arguments;

/* One keyword of step(). None is as if it were not given. */
static int
read_keyword(plan_object *self, PyObject *name, PyObject *value, step_arguments *arguments)
{
    pfo_step_request *request = &arguments->request;
    const pfo_train_state *state = self->module_state;
    if (value == Py_None) {
        return 0;
    }
    if (PyUnicode_Compare(name, state->string.found_inf) == 0) {
        if (self->run != NULL && !PyFloat_Check(value) && !PyLong_Check(value)) {
            return read_device_number(self, value, "found_inf", &arguments->slots.found_inf);
        }
        double found;
        if (read_double(value, &found) < 0) {
            return -1;
        }
        request->found_inf = found != 0.0; /* a sum over devices may be 2, a NaN is no good sign either */
        return 0;
    }
    if (PyUnicode_Compare(name, state->string.grad_scale) == 0) {
        if (self->run != NULL && !PyFloat_Check(value) && !PyLong_Check(value)) {
            return read_device_number(self, value, "grad_scale", &arguments->slots.grad_scale);
        }
        return read_grad_scale(value, request);
    }
    if (PyUnicode_Compare(name, state->string.ema_decay) == 0) {
        return read_ema_decay(value, request);
    }
    if (PyUnicode_Compare(name, state->string.zero_grads) == 0) {
        request->zero_grads = PyObject_IsTrue(value);
        return request->zero_grads < 0 ? -1 : 0;
    }
    if (PyUnicode_Compare(name, state->string.stochastic_rounding) == 0) {
        request->stochastic = PyObject_IsTrue(value);
        return request->stochastic < 0 ? -1 : 0;
    }
    if (PyUnicode_Compare(name, state->string.seed) == 0) {
        return read_counter(value, "seed", UINT64_MAX, &request->seed);
    }
    if (PyUnicode_Compare(name, state->string.rounding_step) == 0) {
        if (self->run != NULL && !PyLong_Check(value)) {
            return read_device_counter(self, value, "rounding_step", &arguments->slots.rounding_step);
        }
        return read_counter(value, "rounding_step", ((uint64_t)1 << 30) - 1, &request->rounding_step);
    }
    PyErr_Format(PyExc_TypeError, "step() got an unexpected keyword argument %R", name);
    return -1;
}

/* Reads all arguments but the containers; numbers may run user code. */
static int
read_arguments(plan_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
               step_arguments *arguments)
{
    arguments->stream = count == 5 ? PyLong_AsVoidPtr(args[4]) : NULL;
    if ((arguments->stream == NULL && PyErr_Occurred()) || read_max_grad_norm(args[2], &arguments->request) < 0) {
        return -1;
    }
    arguments->request.skip_nonfinite = PyObject_IsTrue(args[3]);
    if (arguments->request.skip_nonfinite < 0) {
        return -1;
    }
    const Py_ssize_t keyword_count = keywords != NULL ? PyTuple_GET_SIZE(keywords) : 0;
    for (Py_ssize_t i = 0; i < keyword_count; i++) {
        if (read_keyword(self, PyTuple_GET_ITEM(keywords, i), args[count + i], arguments) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- step() and written() -------------------------------------------------------------------- */

const char pfo_plan_object_step_doc[] =
    "step($self, param_groups, state, max_grad_norm, skip_nonfinite, stream=0, /, *, found_inf=None, grad_scale=None,\n"
    "     ema_decay=None, zero_grads=False, stochastic_rounding=False, seed=0, rounding_step=0)\n--\n\n"
    "One step over every parameter that has a gradient, with the GIL released.\n\n"
    "max_grad_norm is None or a float >= 0, skip_nonfinite a bool, stream the CUDA stream's address (0 on the CPU).\n"
    "found_inf: anything but 0 skips the step. grad_scale: gradients are divided by it first. Both are numbers or, on "
    "a\n"
    "CUDA device, tensors of one float32 there, which nobody waits for. ema_decay: of the\n"
    "averages kept under 'ema' (None: 0, the average becomes the weight). zero_grads: gradients are zero afterwards, "
    "also\n"
    "when the step was skipped. stochastic_rounding: what is stored below 32 bits is rounded at random, by bits that\n"
    "depend on seed, rounding_step (the number of this step, below 2**30; on a CUDA device also a tensor of one int64\n"
    "there, which a captured step reads at each replay) and place alone; state in 8 bits always is.\n\n"
    "On a CUDA device the step is only enqueued and (nan, False, nan) returned: see read(). Returns ``(norm, skipped,\n"
    "clip_factor)``, or None when the containers hold other tensors than those the plan was made from (nothing has "
    "changed\n"
    "then: make a new plan). Raises TypeError or ValueError for a gradient of another dtype, device, shape or memory "
    "order,\n"
    "and RuntimeError when another thread is stepping this plan.";

static PyObject *
run_step(plan_object *self, PyObject *param_groups, PyObject *state, const step_arguments *arguments, int *stepped)
{
    const int ready = prepare(self, param_groups, state, arguments->request.zero_grads);
    if (ready < 0) {
        return NULL;
    }
    if (ready == 0) {
        Py_RETURN_NONE;
    }
    *stepped = 1;
    pfo_step_result result = { .norm = Py_NAN, .clip_factor = Py_NAN };
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status = PFO_OK;
    Py_BEGIN_ALLOW_THREADS
    if (self->run != NULL) {
        status = pfo_execute_device_step(self->run, self->options, self->lr_slots, &arguments->slots,
                                         &arguments->request, arguments->stream, &err);
    } else {
        pfo_execute_step(self->plan, &self->module_state->engine, self->options, &arguments->request, &result);
    }
    Py_END_ALLOW_THREADS
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    return Py_BuildValue("(dNd)", result.norm, PyBool_FromLong(result.skipped), result.clip_factor);
}

PyObject *
pfo_plan_object_step(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    plan_object *self = (plan_object *)op;
    if (count != 4 && count != 5) {
        PyErr_Format(PyExc_TypeError, "step() takes 4 arguments and an optional stream (%zd given)", count);
        return NULL;
    }
    step_arguments arguments = { .request = { .max_grad_norm = -1.0, .unscale = 1.0 } };
    if (pfo_plan_object_check_containers(args[0], args[1]) < 0 ||
        read_arguments(self, args, count, keywords, &arguments) < 0) {
        return NULL;
    }
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "this optimizer is already in a step on another thread");
        return NULL;
    }
    int stepped = 0;
    self->running = 1;
    PyObject *answer = run_step(self, args[0], args[1], &arguments, &stepped);
    drop_gradients(self, stepped);
    self->running = 0;
    return answer;
}

const char pfo_plan_object_written_doc[] =
    "written($self, /)\n--\n\n"
    "Tuple of the large tensors the last step wrote (each parameter that had a gradient, its state, master weight and\n"
    "average), for whoever keeps version counters: of views of one tensor, which have its counter, that tensor once.\n"
    "Gradients that zero_grads made zero are not in it: the plan lets them go when the step ends.";

static int
is_large_output(plan_part part)
{
    return part == PART_PARAM || (part >= PART_STATE_1 && part < PART_COUNT);
}

/* Appends the tensor, or the one it is a view of unless that one is in `bases` already. 0, or -1 with an exception. */
static int
add_counted(const plan_object *self, PyObject *tensor, PyObject *list, PyObject *bases)
{
    PyObject *base = PyObject_GetAttr(tensor, self->module_state->string.base);
    if (base == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        base = Py_NewRef(Py_None);
    }
    if (base == NULL || base == Py_None) {
        Py_XDECREF(base);
        return base == NULL ? -1 : PyList_Append(list, tensor);
    }
    PyObject *identity = PyLong_FromVoidPtr(base); /* the list keeps the base alive, so nothing else gets its address */
    int status = identity != NULL ? PySet_Contains(bases, identity) : -1;
    if (status == 0) {
        status = PySet_Add(bases, identity) < 0 ? -1 : PyList_Append(list, base);
    }
    Py_XDECREF(identity);
    Py_DECREF(base);
    return status < 0 ? -1 : 0;
}

static int
add_slot(const plan_object *self, const plan_slot *slot, PyObject *list, PyObject *bases)
{
    for (int k = 0; k < slot->item_count; k++) {
        const plan_item *item = &self->items[slot->first_item + k];
        if (is_large_output(item->part) && add_counted(self, item->value, list, bases) < 0) {
            return -1;
        }
    }
    return 0;
}

PyObject *
pfo_plan_object_written(PyObject *op, PyObject *unused)
{
    plan_object *self = (plan_object *)op;
    (void)unused;
    if (self->written != NULL) {
        return Py_NewRef(self->written);
    }
    PyObject *list = PyList_New(0);
    PyObject *bases = PySet_New(NULL);
    int status = list != NULL && bases != NULL ? 0 : -1;
    for (Py_ssize_t i = 0; status == 0 && i < self->slot_count; i++) {
        const plan_slot *slot = &self->slots[i];
        if (slot->entry >= 0 && slot->had_grad) {
            status = add_slot(self, slot, list, bases);
        }
    }
    PyObject *tuple = status == 0 ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    Py_XDECREF(bases);
    if (tuple != NULL && !self->running) {
        Py_XSETREF(self->written, Py_NewRef(tuple));
    }
    return tuple;
}
