/* plan_seal.c: see plan_object.h, "Sealed state".
 *
 * Who can reach a tensor is told by reference counts. Weak references are a way too. Tensors that share memory with a state tensor are
 * none (their `.data` is not its), but for the storage they share: which is what witnesses are for. Only tensors whose attributes
 * are C getters are covered, so that looking runs no user code; a collection of garbage may, wherever memory is taken:
 * `shown` tells whether it had the state.
 */
#include "bindings/train/plan_object.h"

#include "base/alloc.h"

enum {
    OWNERS_OF_STATE = 2,  /* the optimizer's state dict: the optimizer, seal() itself */
    OWNERS_OF_ENTRY = 3,  /* a parameter's state dict: the optimizer's state dict, plan_slot, state_item */
    OWNERS_OF_TENSOR = 2, /* a tensor in it: that dict, plan_item */
    MOST_FAILURES = 6     /* after so many in a row, seal() looks every 64th time */
};

void
pfo_plan_object_break_seal(plan_object *self)
{
    PyObject *const state = self->sealed_state;
    plan_witness *const witnesses = self->witnesses;
    const Py_ssize_t count = self->witness_count;
    self->sealed_state = NULL;
    self->witnesses = NULL;
    self->witness_count = 0;
    self->witness_capacity = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_DECREF(witnesses[i].base);
        Py_DECREF(witnesses[i].tensor);
    }
    pfo_free(witnesses);
    Py_XDECREF(state);
}

int
pfo_plan_object_is_sealed(const plan_object *self, PyObject *state)
{
    int holds = self->sealed_state == state;
    for (Py_ssize_t i = 0; i < self->witness_count && holds; i++) {
        pfo_tensor_peek now;
        holds = pfo_tensor_peek_at(self->module_state, self->witnesses[i].tensor, &now) &&
                now.data == self->witnesses[i].begin;
    }
    return holds;
}

/* ---- Who else has it ------------------------------------------------------------------------- */

static int
has_weak_references(PyObject *object)
{
    return PyType_SUPPORTS_WEAKREFS(Py_TYPE(object)) && *PyObject_GET_WEAKREFS_LISTPTR(object) != NULL;
}

static int
has_owners(PyObject *object, Py_ssize_t count)
{
    return Py_REFCNT(object) == count && !has_weak_references(object);
}

/* 1 if the way to what is in the slot's state leads through the optimizer's state dict alone. */
static int
is_ours_alone(const plan_object *self, const plan_slot *slot)
{
    int alone = has_owners(slot->state, OWNERS_OF_ENTRY);
    for (int k = 1; k < slot->item_count && alone; k++) {
        const plan_item *item = &self->items[slot->first_item + k];
        alone = item->part == PART_OTHER || has_owners(item->value, OWNERS_OF_TENSOR);
    }
    return alone;
}

/* ---- Witnesses ------------------------------------------------------------------------------- */

/* Appends an empty witness, or NULL. */
static plan_witness *
grow_witnesses(plan_object *self)
{
    if (self->witness_count == self->witness_capacity) {
        const Py_ssize_t capacity = self->witness_capacity * 2 + 16;
        plan_witness *grown = pfo_realloc_array(self->witnesses, (size_t)capacity, sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        self->witnesses = grown;
        self->witness_capacity = capacity;
    }
    return &self->witnesses[self->witness_count++];
}

/* The witness over the buffer `base`, or NULL (perhaps with an exception). detach() may let another thread or user code in, and that
 * break the seal: so the table is looked at only after it. */
static const plan_witness *
add_witness(plan_object *self, PyObject *base)
{
    pfo_tensor_peek now;
    PyObject *tensor = PyObject_CallMethodNoArgs(base, self->module_state->string.detach);
    const int is_buffer = tensor != NULL && pfo_tensor_peek_at(self->module_state, tensor, &now) && now.ndim == 1 &&
                          now.strides[0] == 1 && now.dtype != PFO_DTYPE_COUNT && now.data != NULL &&
                          now.device == self->device && now.device_index == self->device_index;
    plan_witness *witness = is_buffer ? grow_witnesses(self) : NULL;
    if (witness == NULL) {
        Py_XDECREF(tensor);
        return NULL;
    }
    *witness = (plan_witness){ .base = Py_NewRef(base), .tensor = tensor, .begin = now.data };
    witness->end = witness->begin + (size_t)now.shape[0] * pfo_dtype_bytes(now.dtype);
    return witness;
}

/* Views of one buffer are mostly neighbours, and there are few buffers in turn: the last ones are looked through. */
static const plan_witness *
witness_of(plan_object *self, PyObject *base)
{
    enum { LOOKED_THROUGH = 16 };
    for (Py_ssize_t i = self->witness_count - 1; i >= 0 && i >= self->witness_count - LOOKED_THROUGH; i--) {
        if (self->witnesses[i].base == base) {
            return &self->witnesses[i];
        }
    }
    return add_witness(self, base);
}

/* 1 if the tensor is where the plan thinks and as it needs it, a view within a witness. The last look at it for long. */
static int
is_covered(plan_object *self, const plan_item *item, Py_ssize_t index, const pfo_tensor_arg *param)
{
    const pfo_tensor_type *type = pfo_tensor_type_of(self->module_state, item->value);
    pfo_tensor_arg arg;
    if (type == NULL || type->base == NULL || pfo_plan_object_read_item(self, item, index, param, &arg) < 0 ||
        arg.data != item->data || arg.dtype != item->dtype ||
        pfo_tensor_arg_is_negated(self->module_state, item->value) != 0) {
        return 0;
    }
    PyObject *base = type->base->get(item->value, type->base->closure);
    const pfo_tensor_type *base_type =
        base != NULL && base != Py_None ? pfo_tensor_type_of(self->module_state, base) : NULL;
    const plan_witness *witness = base_type != NULL && base_type->base != NULL ? witness_of(self, base) : NULL;
    const char *const begin = arg.data;
    const int within = witness != NULL && begin >= witness->begin && begin <= witness->end &&
                       arg.count <= (witness->end - begin) / (int64_t)pfo_dtype_bytes(arg.dtype);
    Py_XDECREF(base);
    return within;
}

static int
cover_slot(plan_object *self, plan_slot *slot, Py_ssize_t index)
{
    const plan_item *items = &self->items[slot->first_item];
    pfo_tensor_arg param;
    if (slot->state == NULL || slot->entry < 0 || !is_ours_alone(self, slot) ||
        !pfo_plan_object_slot_matches(self, slot) || pfo_plan_object_read_item(self, items, index, NULL, &param) < 0) {
        return 0;
    }
    for (int k = 1; k < slot->item_count; k++) {
        if (items[k].part != PART_OTHER && !is_covered(self, &items[k], index, &param)) {
            return 0;
        }
    }
    return 1;
}

/* ---- seal() and unseal() --------------------------------------------------------------------- */

/* 1 if something is gained. No exception is left. */
static int
try_to_seal(plan_object *self, PyObject *param_groups, PyObject *state)
{
    Py_ssize_t covered = 0;
    const unsigned shown = self->shown;
    if (!has_owners(state, OWNERS_OF_STATE) || pfo_plan_object_containers_match(self, param_groups, state, 1) <= 0) {
        PyErr_Clear();
        return 0;
    }
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        plan_slot *slot = &self->slots[i];
        slot->covered = (uint8_t)cover_slot(self, slot, i);
        covered += slot->covered;
        PyErr_Clear();
    }
    if (covered == 0 || self->shown != shown || !has_owners(state, OWNERS_OF_STATE)) {
        return 0;
    }
    self->sealed_state = Py_NewRef(state);
    return 1;
}

const char pfo_plan_object_seal_doc[] =
    "seal($self, holder, /)\n--\n\n"
    "Before a step: whether steps need not look at the state of small parameters from here on.\n\n"
    "holder is the dict of the optimizer's attributes, with 'param_groups' and 'state', through which alone the state "
    "must "
    "be\n"
    "reached; it looks for other references only now and then while it finds some. Whoever hands the state out calls\n"
    "unseal() first.";

PyObject *
pfo_plan_object_seal(PyObject *op, PyObject *holder)
{
    plan_object *self = (plan_object *)op;
    if (!PyDict_Check(holder)) {
        PyErr_Format(PyExc_TypeError, "holder is a %.80s; accepted: a dict", Py_TYPE(holder)->tp_name);
        return NULL;
    }
    if (self->running || self->sealed_state != NULL) {
        return PyBool_FromLong(self->sealed_state != NULL);
    }
    if (self->seal_wait > 0) {
        self->seal_wait--;
        Py_RETURN_FALSE;
    }
    PyObject *param_groups = PyDict_GetItemWithError(holder, self->module_state->string.param_groups);
    PyObject *state = param_groups != NULL ? PyDict_GetItemWithError(holder, self->module_state->string.state) : NULL;
    if (state == NULL || !PyList_Check(param_groups) || !PyDict_Check(state)) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    }
    self->running = 1;
    Py_INCREF(param_groups);
    Py_INCREF(state);
    pfo_tensor_types_read(self->module_state);
    const int sealed = try_to_seal(self, param_groups, state);
    Py_DECREF(state);
    Py_DECREF(param_groups);
    self->running = 0;
    if (!sealed) {
        pfo_plan_object_break_seal(self);
        self->seal_failures += self->seal_failures < MOST_FAILURES;
        self->seal_wait = (1 << self->seal_failures) - 1;
    } else {
        self->seal_failures = 0;
    }
    return PyBool_FromLong(sealed);
}

const char pfo_plan_object_unseal_doc[] =
    "unseal($self, /)\n--\n\n"
    "From the next step on the state is looked at again: somebody gets a reference to it.";

PyObject *
pfo_plan_object_unseal(PyObject *op, PyObject *unused)
{
    plan_object *self = (plan_object *)op;
    (void)unused;
    self->shown++;
    self->seal_wait += self->seal_wait == 0; /* whoever asks at every step has it before every step */
    pfo_plan_object_break_seal(self);
    Py_RETURN_NONE;
}
