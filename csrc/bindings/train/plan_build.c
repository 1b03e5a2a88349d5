/* plan_build.c: see plan_object.h: from containers of tensors to a checked plan of the kernels. */
#include "bindings/common/errors.h"
#include "bindings/train/operation_args.h"
#include "bindings/train/plan_object.h"

#include "backend/loader.h"
#include "base/alloc.h"

#include <string.h>

static int
set_name(plan_object *self, int part, PyObject *name)
{
    self->names[part] = name;
    return name != NULL ? 0 : -1;
}

int
pfo_plan_object_set_operation(plan_object *self, PyObject *name)
{
    if (pfo_operation_from_name(name, &self->op, &self->coupled) < 0) {
        return -1;
    }
    const pfo_operation *operation = pfo_operation_of(self->op);
    if ((operation->counts_steps && set_name(self, PART_STEP, PyUnicode_InternFromString("step")) < 0) ||
        set_name(self, PART_MASTER, PyUnicode_InternFromString("master_weight")) < 0 ||
        set_name(self, PART_EMA, PyUnicode_InternFromString("ema")) < 0 ||
        set_name(self, PART_COPY, PyUnicode_InternFromString("low_precision_copy")) < 0) {
        return -1;
    }
    for (int k = 0; k < PFO_STATE_COUNT && operation->state[k].key != NULL; k++) {
        const char *key = operation->state[k].key;
        if (set_name(self, PART_STATE_1 + k, PyUnicode_InternFromString(key)) < 0 ||
            set_name(self, PART_SCALE_1 + k, PyUnicode_FromFormat("%s_scale", key)) < 0) {
            return -1;
        }
    }
    return 0;
}

const char *
pfo_plan_object_part_name(const plan_object *self, plan_part part)
{
    static const char *const names[PART_COUNT] = { [PART_PARAM] = "params",
                                                   [PART_STEP] = "steps",
                                                   [PART_MASTER] = "master_weights",
                                                   [PART_EMA] = "emas",
                                                   [PART_COPY] = "low_precision_copies" };
    if (part >= PART_STATE_1 && part < PART_SCALE_1) {
        return pfo_operation_of(self->op)->state[part - PART_STATE_1].plural;
    }
    return part >= PART_SCALE_1 && part < PART_MASTER ? "state scales" : names[part];
}

int
pfo_plan_object_check_containers(PyObject *param_groups, PyObject *state)
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

PyObject *
pfo_plan_object_group_params(const pfo_train_state *state, PyObject *param_groups, Py_ssize_t index)
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

/* ---- Taking references ----------------------------------------------------------------------- */

static plan_item *
add_item(plan_object *self, plan_slot *slot, PyObject *key, PyObject *value)
{
    if (self->item_count == self->item_capacity) {
        const Py_ssize_t capacity = self->item_capacity * 2 + 16;
        plan_item *grown = pfo_realloc_array(self->items, (size_t)capacity, sizeof *grown);
        if (grown == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        self->items = grown;
        self->item_capacity = capacity;
    }
    plan_item *item = &self->items[self->item_count++];
    *item = (plan_item){ .key = Py_XNewRef(key), .value = Py_NewRef(value), .part = PART_OTHER };
    slot->item_count++;
    return item;
}

/* Takes references to all parameters; no user code runs here. */
static int
collect_slots(plan_object *self, PyObject *param_groups)
{
    const Py_ssize_t groups = PyList_GET_SIZE(param_groups);
    Py_ssize_t total = 0;
    for (Py_ssize_t g = 0; g < groups; g++) {
        PyObject *params = pfo_plan_object_group_params(self->module_state, param_groups, g);
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
    self->keeps = pfo_alloc_array((size_t)groups, sizeof *self->keeps);
    self->options = pfo_alloc_array((size_t)groups, sizeof *self->options);
    if (self->slots == NULL || self->keeps == NULL || self->options == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->group_count = (int32_t)groups;
    for (Py_ssize_t g = 0; g < groups; g++) {
        PyObject *params = pfo_plan_object_group_params(self->module_state, param_groups, g);
        for (Py_ssize_t i = 0; params != NULL && i < PyList_GET_SIZE(params) && self->slot_count < total; i++) {
            plan_slot *slot = &self->slots[self->slot_count++];
            slot->entry = -1;
            slot->group = (int32_t)g;
            slot->first_item = self->item_count;
            plan_item *item = add_item(self, slot, NULL, PyList_GET_ITEM(params, i));
            if (item == NULL) {
                return -1;
            }
            item->part = PART_PARAM;
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

/* What a key of a state dict stands for. Compares exact strings only, so that no user code runs. */
static plan_part
part_of(const plan_object *self, PyObject *key, PyObject *value)
{
    for (int part = PART_STEP; part < PART_COUNT && value != Py_None && PyUnicode_CheckExact(key); part++) {
        PyObject *name = self->names[part];
        if (name != NULL && (key == name || PyUnicode_Compare(key, name) == 0)) {
            return (plan_part)part;
        }
    }
    return PART_OTHER;
}

/* Finds the slot's state, if it has any, and takes its items. Hashing a parameter may run Python code; nothing here is visible to it
 * yet. */
static int
collect_state(plan_object *self, plan_slot *slot, PyObject *state, Py_ssize_t index)
{
    PyObject *const param = self->items[slot->first_item].value;
    PyObject *found = PyDict_GetItemWithError(state, param);
    if (found == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (!PyDict_Check(found)) {
        PyErr_Format(PyExc_TypeError, "the state of params[%zd] is a %.80s; accepted: a dict", index,
                     Py_TYPE(found)->tp_name);
        return -1;
    }
    slot->state = Py_NewRef(found);
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(found, &position, &key, &value)) {
        plan_item *item = add_item(self, slot, key, value);
        if (item == NULL) {
            return -1;
        }
        item->part = part_of(self, key, value);
    }
    return 0;
}

/* All that the plan will hold: parameters first, then the items of each are moved behind their parameter. */
static int
collect_items(plan_object *self, PyObject *state)
{
    plan_item *params = self->items;
    const Py_ssize_t param_count = self->item_count;
    self->items = NULL;
    self->item_count = 0;
    self->item_capacity = 0;
    int status = 0;
    for (Py_ssize_t i = 0; i < param_count && status == 0; i++) {
        plan_slot *slot = &self->slots[i];
        slot->first_item = self->item_count;
        slot->item_count = 0;
        plan_item *item = add_item(self, slot, NULL, params[i].value);
        status = item != NULL ? 0 : -1;
        if (status == 0) {
            item->part = PART_PARAM;
            status = collect_state(self, slot, state, i);
        }
    }
    for (Py_ssize_t i = 0; i < param_count; i++) {
        Py_DECREF(params[i].value);
    }
    pfo_free(params);
    return status;
}

/* ---- Reading tensors ------------------------------------------------------------------------- */

int
pfo_plan_object_check_device(plan_object *self, PyObject *tensor, const char *list, Py_ssize_t index,
                             const pfo_tensor_arg *arg)
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

static unsigned
accepted_for(plan_part part)
{
    if (part == PART_PARAM || part == PART_EMA || part == PART_COPY) {
        return PFO_ACCEPT_FLOATS;
    }
    return part >= PART_STATE_1 && part < PART_SCALE_1 ? PFO_ACCEPT_STATE : PFO_ACCEPT_FLOAT32;
}

/* Tensors that a step writes must hold their value in memory, not its negative. */
static int
check_not_negated(const plan_object *self, const plan_item *item, Py_ssize_t index)
{
    const int negated = pfo_tensor_arg_is_negated(self->module_state, item->value);
    if (negated > 0) {
        return pfo_tensor_arg_fail(PyExc_ValueError, item->value, pfo_plan_object_part_name(self, item->part), index,
                                   "it is a negated view; accepted: what its resolve_neg() gives");
    }
    return negated;
}

int
pfo_plan_object_read_item(plan_object *self, const plan_item *item, Py_ssize_t index, const pfo_tensor_arg *param,
                          pfo_tensor_arg *arg)
{
    const char *list = pfo_plan_object_part_name(self, item->part);
    if (pfo_tensor_arg_from_tensor(self->module_state, item->value, list, index, accepted_for(item->part), arg) < 0 ||
        pfo_plan_object_check_device(self, item->value, list, index, arg) < 0) {
        return -1;
    }
    if (item->part == PART_PARAM) {
        return 0;
    }
    if (item->part == PART_STEP) {
        return arg->count == 1
                   ? 0
                   : pfo_tensor_arg_fail(PyExc_ValueError, item->value, list, index, "accepted: one element");
    }
    if (item->part >= PART_SCALE_1 && item->part < PART_MASTER) {
        const int64_t blocks = param->count / PFO_SCALE_BLOCK + (param->count % PFO_SCALE_BLOCK != 0);
        return arg->count == blocks ? 0
                                    : pfo_tensor_arg_fail(PyExc_ValueError, item->value, list, index,
                                                          "accepted: one scale for each 256 elements of the parameter");
    }
    return pfo_tensor_arg_same_layout(param, arg)
               ? 0
               : pfo_tensor_arg_fail(PyExc_ValueError, item->value, list, index,
                                     "shape and memory order must be those of its parameter");
}

/* Puts a tensor into the plan's entry. */
static void
place_item(const plan_object *self, const plan_item *item, pfo_plan_entry *entry)
{
    const int keeps = self->keeps[entry->group];
    if (item->part == PART_STEP) {
        entry->step = item->data;
    } else if (item->part == PART_EMA) {
        entry->data[PFO_ROLE_EMA] = item->data;
        entry->dtype[PFO_ROLE_EMA] = item->dtype;
    } else if (item->part == PART_COPY) {
        entry->data[PFO_ROLE_COPY] = item->data;
        entry->dtype[PFO_ROLE_COPY] = item->dtype;
    } else if (item->part == PART_MASTER) { /* the parameter itself, which comes first, becomes its copy */
        entry->data[PFO_ROLE_COPY] = entry->data[PFO_ROLE_WEIGHT];
        entry->dtype[PFO_ROLE_COPY] = entry->dtype[PFO_ROLE_WEIGHT];
        entry->data[PFO_ROLE_WEIGHT] = item->data;
        entry->dtype[PFO_ROLE_WEIGHT] = item->dtype;
    } else if (item->part >= PART_SCALE_1) {
        entry->scales[item->part - PART_SCALE_1] = item->data;
    } else if (item->part == PART_PARAM) {
        entry->data[PFO_ROLE_WEIGHT] = item->data;
        entry->dtype[PFO_ROLE_WEIGHT] = item->dtype;
    } else if (keeps >> (item->part - PART_STATE_1) & 1) {
        const int k = item->part - PART_STATE_1;
        const pfo_dtype eight_bit = pfo_operation_of(self->op)->state[k].eight_bit;
        entry->data[PFO_ROLE_STATE_1 + k] = item->data;
        entry->dtype[PFO_ROLE_STATE_1 + k] = item->dtype == PFO_DTYPE_BLOCK8 ? eight_bit : item->dtype;
    }
}

/* 1 if the slot has what its steps need, 0 if it still waits for all of it, -1 with an exception if for some of it. */
static int
has_needed_state(const plan_object *self, const plan_slot *slot, Py_ssize_t index)
{
    int needed = self->names[PART_STEP] != NULL ? 1 << PART_STEP : 0;
    needed |= self->keeps[slot->group] << PART_STATE_1;
    int found = 0;
    for (int i = 1; i < slot->item_count; i++) {
        found |= 1 << self->items[slot->first_item + i].part;
    }
    if ((found & needed) == needed) {
        return 1;
    }
    if ((found & ~(1 << PART_OTHER | 1 << PART_COPY)) == 0) { /* a copy may be there before the first step */
        return 0;
    }
    int missing = PART_STEP;
    while (((needed & ~found) >> missing & 1) == 0) {
        missing++;
    }
    PyErr_Format(PyExc_ValueError, "the state of params[%zd] has no '%U'", index, self->names[missing]);
    return -1;
}

static int
read_new_item(plan_object *self, plan_item *item, Py_ssize_t index, const pfo_tensor_arg *param, pfo_tensor_arg *arg)
{
    if (pfo_plan_object_read_item(self, item, index, param, arg) < 0) {
        return -1;
    }
    item->data = arg->data;
    item->dtype = arg->dtype;
    return 0;
}

static int
make_entry(plan_object *self, plan_slot *slot, Py_ssize_t index, int first, pfo_plan_entry *entries, int32_t *used)
{
    plan_item *items = &self->items[slot->first_item];
    pfo_tensor_arg param, other;
    if (read_new_item(self, &items[0], index, NULL, &param) < 0) {
        return -1;
    }
    const int ready = has_needed_state(self, slot, index);
    if (ready <= 0) {
        return ready;
    }
    pfo_plan_entry *entry = &entries[*used];
    entry->count = param.count;
    entry->group = slot->group;
    entry->stream = (int32_t)index;
    entry->first = first;
    for (int i = 0; i < slot->item_count; i++) {
        if (items[i].part == PART_OTHER) {
            continue;
        }
        if (check_not_negated(self, &items[i], index) < 0 ||
            (i > 0 && read_new_item(self, &items[i], index, &param, &other) < 0)) {
            return -1;
        }
        if ((items[i].part == PART_MASTER || items[i].part == PART_COPY) && entry->data[PFO_ROLE_COPY] != NULL) {
            return pfo_tensor_arg_fail(PyExc_ValueError, items[i].value, pfo_plan_object_part_name(self, items[i].part),
                                       index, "the parameter of a master is its copy; accepted: one of the two");
        }
        place_item(self, &items[i], entry);
    }
    slot->entry = (*used)++;
    return 0;
}

/* The run on the plan's CUDA device; finding the backend may start the driver. */
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
make_entries(plan_object *self, PyObject *fresh, pfo_plan_entry *entries, int32_t *used)
{
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        PyObject *param = self->items[self->slots[i].first_item].value;
        const int first = fresh != NULL ? PySet_Contains(fresh, param) : 0;
        if (first < 0 || make_entry(self, &self->slots[i], i, first, entries, used) < 0) {
            return -1;
        }
    }
    return 0;
}

/* What is no parameter is refused first: options may be missing with it. */
static int
read_params(plan_object *self)
{
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        pfo_tensor_arg param;
        if (read_new_item(self, &self->items[self->slots[i].first_item], i, NULL, &param) < 0) {
            return -1;
        }
    }
    return 0;
}

int
pfo_plan_object_build(plan_object *self, PyObject *param_groups, PyObject *state, PyObject *fresh)
{
    if (collect_slots(self, param_groups) < 0 || collect_state_items(self, state) < 0 ||
        collect_items(self, state) < 0 || read_params(self) < 0 ||
        pfo_plan_object_read_options(self, param_groups) < 0) {
        return -1;
    }
    pfo_plan_entry *entries = pfo_alloc_array((size_t)self->slot_count, sizeof *entries);
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int32_t used = 0;
    if (make_entries(self, fresh, entries, &used) < 0) {
        pfo_free(entries);
        return -1;
    }
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_plan_create(self->op, entries, used, self->group_count, &self->plan, &err);
    pfo_free(entries);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return self->device == PFO_DEVICE_CUDA ? make_run(self) : 0;
}
