/* optimizer_plan_type.c: OptimizerPlan as a Python type: making and letting go, and what there is to a CUDA device.
 * See plan_object.h for what it is and how it is kept.
 */
#include "bindings/common/errors.h"
#include "bindings/train/plan_object.h"

#include "base/alloc.h"

static PyObject *
plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "operation", "param_groups", "state", "fresh", NULL };
    PyObject *operation, *param_groups, *state;
    PyObject *fresh = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "UOO|O:OptimizerPlan", names, &operation, &param_groups, &state,
                                     &fresh) ||
        pfo_plan_object_check_containers(param_groups, state) < 0) {
        return NULL;
    }
    if (fresh != Py_None && !PyAnySet_Check(fresh)) {
        PyErr_Format(PyExc_TypeError, "fresh is a %.80s; accepted: a set or None", Py_TYPE(fresh)->tp_name);
        return NULL;
    }
    pfo_train_state *module_state = pfo_train_state_of_type(type);
    plan_object *self = module_state != NULL ? (plan_object *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        return NULL;
    }
    self->module_state = module_state;
    self->device = PFO_DEVICE_COUNT;
    self->seal_wait = 1; /* whoever made the state still has it */
    self->running = 1;   /* found by gc.get_objects() while it is half made, it refuses to step */
    if (pfo_plan_object_set_operation(self, operation) < 0 ||
        pfo_plan_object_build(self, param_groups, state, fresh != Py_None ? fresh : NULL) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->running = 0;
    return (PyObject *)self;
}

/* ---- On a CUDA device ------------------------------------------------------------------------ */

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
    if (pfo_tensor_arg_from_tensor(self->module_state, args[0], "workspace", 0, PFO_ACCEPT_FLOAT32, &arg) < 0 ||
        pfo_plan_object_check_device(self, args[0], "workspace", 0, &arg) < 0) {
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

/* ---- Type ------------------------------------------------------------------------------------ */

static int
plan_traverse(PyObject *op, visitproc visit, void *arg)
{
    plan_object *self = (plan_object *)op;
    Py_VISIT(Py_TYPE(op));
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        Py_VISIT(self->slots[i].state);
        Py_VISIT(self->slots[i].grad);
    }
    for (Py_ssize_t i = 0; i < self->item_count; i++) {
        Py_VISIT(self->items[i].key);
        Py_VISIT(self->items[i].value);
    }
    for (Py_ssize_t i = 0; i < self->state_count; i++) {
        Py_VISIT(self->state_items[i].key);
        Py_VISIT(self->state_items[i].value);
    }
    for (Py_ssize_t i = 0; i < self->witness_count; i++) {
        Py_VISIT(self->witnesses[i].base);
        Py_VISIT(self->witnesses[i].tensor);
    }
    Py_VISIT(self->sealed_state);
    Py_VISIT(self->workspace);
    Py_VISIT(self->written);
    return 0;
}

/* References go only after the tables are out of reach: releasing a tensor may run user code that finds this object. */
static int
plan_clear(PyObject *op)
{
    plan_object *self = (plan_object *)op;
    pfo_plan_object_break_seal(self);
    plan_slot *slots = self->slots;
    plan_item *items = self->items;
    state_item *state_items = self->state_items;
    const Py_ssize_t slot_count = self->slot_count;
    const Py_ssize_t item_count = self->item_count;
    const Py_ssize_t state_count = self->state_count;
    self->slots = NULL;
    self->items = NULL;
    self->state_items = NULL;
    self->slot_count = 0;
    self->item_count = 0;
    self->item_capacity = 0;
    self->state_count = 0;
    self->group_count = -1; /* matches no list of groups: step() answers None from here on */
    for (Py_ssize_t i = 0; i < slot_count; i++) {
        Py_XDECREF(slots[i].state);
        Py_XDECREF(slots[i].grad);
    }
    for (Py_ssize_t i = 0; i < item_count; i++) {
        Py_XDECREF(items[i].key);
        Py_XDECREF(items[i].value);
    }
    for (Py_ssize_t i = 0; i < state_count; i++) {
        Py_XDECREF(state_items[i].key);
        Py_XDECREF(state_items[i].value);
    }
    pfo_free(slots);
    pfo_free(items);
    pfo_free(state_items);
    pfo_device_run_destroy(self->run);
    self->run = NULL;
    Py_CLEAR(self->workspace);
    Py_CLEAR(self->written);
    return 0;
}

static void
plan_dealloc(PyObject *op)
{
    plan_object *self = (plan_object *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)plan_clear(op);
    for (int part = 0; part < PART_COUNT; part++) {
        Py_XDECREF(self->names[part]);
    }
    pfo_plan_destroy(self->plan);
    pfo_free(self->options);
    pfo_free(self->keeps);
    pfo_free(self->lr_slots);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef plan_methods[] = {
    { "step", (PyCFunction)(void (*)(void))pfo_plan_object_step, METH_FASTCALL | METH_KEYWORDS,
      pfo_plan_object_step_doc },
    { "start", (PyCFunction)(void (*)(void))plan_start, METH_FASTCALL, plan_start_doc },
    { "read", plan_read, METH_O, plan_read_doc },
    { "seal", pfo_plan_object_seal, METH_O, pfo_plan_object_seal_doc },
    { "unseal", pfo_plan_object_unseal, METH_NOARGS, pfo_plan_object_unseal_doc },
    { "written", pfo_plan_object_written, METH_NOARGS, pfo_plan_object_written_doc },
    { NULL, NULL, 0, NULL },
};

static PyObject *
plan_nonfinite_word(PyObject *op, void *unused)
{
    (void)op;
    (void)unused;
    return PyLong_FromSize_t(offsetof(pfo_backend_state, nonfinite) / sizeof(int32_t));
}

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
    "OptimizerPlan(operation, param_groups, state, fresh=None)\n--\n\n"
    "Checked plan over the parameters and state of a torch-style optimizer.\n\n"
    "operation is 'adamw', 'adam', 'sgd', 'lion', 'adagrad' or 'rmsprop'; param_groups a list of dicts with ``params`` "
    "and\n"
    "the operation's options as torch names them, read at each step; state a dict from parameter to a dict of its\n"
    "tensors: the operation's own ('step', 'exp_avg', ...), and where wanted 'master_weight' or\n"
    "'low_precision_copy', 'ema' and, for state that is uint8, '<key>_scale' with one float32 for each 256 elements.\n"
    "fresh is a set of the parameters whose state holds nothing yet (a new momentum buffer of SGD). Parameters "
    "without\n"
    "the state they need wait for theirs.\n\n"
    "All tensors must be dense, on the CPU or all on one CUDA device, state laid out as its parameter: parameters,\n"
    "gradients, state, averages and copies float32, bfloat16 or float16, state also uint8;\n"
    "anything else raises TypeError or ValueError that names the tensor.");

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
