/* plan_object.h: OptimizerPlan's parts, shared by its files: plan_build.c makes a plan, plan_options.c reads what the user chose for each
 * group, plan_step.c steps, optimizer_plan_type.c is the Python type and what there is to a CUDA device.
 *
 * A plan is made from `param_groups` (a list of dicts with "params" and options) and `state` (a dict from parameter to a dict of its
 * tensors), checks every tensor once and holds references to all of them. Each step first compares what the optimizer holds now
 * with what the plan was made from, by identity and data pointer; any difference makes step() answer None, and the
 * caller makes a new plan. Gradients are read anew each step, only their pointers and layout.
 *
 * What a parameter's state holds says what is done with it (besides the operation's own keys, kernels/operation.h):
 *   "step"           float32, one element: the parameter's step count, where the operation counts
 *   "<key>_scale"    float32, one for each 256 elements: <key> is uint8, state in 8 bits
 *   "master_weight"  float32: the weight that steps change; the parameter is written from it
 *   "ema"            moving average of the weight
 *   "low_precision_copy"   image of the weight, written from it, in 16 bits as a rule. It may be there before all others; not beside
 *                    a master, whose image is the parameter
 * Other keys, and None, are left alone.
 *
 * All tensors are on one device, that of the first parameter. On the CPU a step is done when step() returns. On a CUDA device
 * step() enqueues it on the caller's stream; start() has to give the workspace first, and read() waits for the outcome.
 *
 * Invariants: slots are in the order of param_groups; slot.entry is the index in the C plan, or -1 while the parameter waits for
 * state. A slot's items are held[first_item .. first_item + item_count): the parameter, then its state's items in the dict's order.
 * `running` is set from the first look at the arguments to the last use of the plan, so that neither another thread nor user code
 * reached through an attribute can start a second step; slot.grad is held only while running.
 *
 * Sealed state. Where thousands of parameters are small, a step is mostly looks at their state, which is there to be found changed and
 * never is. What nobody else can reach cannot change, so seal() looks whether anybody can: when the optimizer holds the only reference
 * to its state dict, and it and the plan the only ones to each parameter's and to the tensors in it, the one way to them is the
 * optimizer's `state` attribute, whose getter calls unseal(). While sealed, steps leave out the state of each slot that is
 * `covered`: all its tensors lie in memory of witnesses. A witness is a tensor of the plan's own over the whole buffer that such
 * tensors are views of; each step looks where it lies, so that memory that is given back through an alias of the storage is noticed.
 * sealed_state is NULL unless sealed; then it is that dict.
 */
#ifndef PFO_BINDINGS_PLAN_OBJECT_H
#define PFO_BINDINGS_PLAN_OBJECT_H

#include "bindings/train/tensor_args.h"
#include "bindings/train/train_state.h"

#include "kernels/execute_device.h"

/* What an item of a parameter's state is to a step. */
typedef enum plan_part {
    PART_PARAM,
    PART_STEP,
    PART_STATE_1,
    PART_SCALE_1 = PART_STATE_1 + PFO_STATE_COUNT,
    PART_MASTER = PART_SCALE_1 + PFO_STATE_COUNT,
    PART_EMA,
    PART_COPY,
    PART_COUNT,
    PART_OTHER = PART_COUNT, /* nothing */
} plan_part;

typedef struct plan_item {
    PyObject *key;   /* strong: in the parameter's state; NULL for the parameter itself */
    PyObject *value; /* strong */
    void *data;      /* where it lay when the plan was made */
    plan_part part;
    pfo_dtype dtype;
} plan_item;

typedef struct plan_slot {
    PyObject *state; /* strong: this parameter's state dict, or NULL */
    PyObject *grad;  /* strong while a step runs, else NULL */
    Py_ssize_t first_item;
    int32_t item_count;
    int32_t entry;
    int32_t group;
    uint8_t had_grad; /* at the last step */
    uint8_t covered;  /* while sealed: its state is in memory of witnesses */
} plan_slot;

typedef struct state_item {
    PyObject *key, *value; /* strong: one item of the optimizer's state, in the dict's order */
} state_item;

typedef struct plan_witness {
    PyObject *base;   /* strong: the buffer as views' _base knows it */
    PyObject *tensor; /* strong: another one over the same memory, which nobody else has */
    char *begin, *end;
} plan_witness;

typedef struct plan_object {
    PyObject_HEAD
    pfo_train_state *module_state;
    pfo_plan *plan;
    pfo_op op;
    int coupled;                 /* of ADAMW: it is to be Adam */
    PyObject *names[PART_COUNT]; /* strong: key of each part in a state dict, or NULL */
    plan_slot *slots;
    Py_ssize_t slot_count;
    plan_item *items;
    Py_ssize_t item_count;
    Py_ssize_t item_capacity;
    state_item *state_items;
    Py_ssize_t state_count;
    pfo_options *options; /* [group_count], read at each step */
    int *keeps;           /* [group_count]: bit k: tensors keep state k; as it was when the plan was made */
    int32_t group_count;
    int running;
    int grad_by_user_code;  /* of this step: a gradient was not read by torch's own getter */
    PyObject *sealed_state; /* strong: the optimizer's state dict while sealed, else NULL */
    plan_witness *witnesses;
    Py_ssize_t witness_count;
    Py_ssize_t witness_capacity;
    int seal_wait;     /* calls of seal() to let pass */
    int seal_failures; /* in a row */
    unsigned shown;    /* calls of unseal() */
    PyObject *written; /* strong: what written() answers while the same parameters have gradients, or NULL */
    pfo_device device; /* of all tensors; PFO_DEVICE_COUNT while no parameter has been read */
    int32_t device_index;
    pfo_device_run *run;     /* NULL on the CPU */
    const float **lr_slots;  /* [group_count]: the learning rate's place on the device, or NULL */
    PyObject *workspace;     /* strong: the tensor the run's tables lie in */
    int64_t workspace_bytes; /* needed */
} plan_object;

/* plan_build.c. All: 0, or -1 with an exception. */
int pfo_plan_object_check_containers(PyObject *param_groups, PyObject *state);
int pfo_plan_object_set_operation(plan_object *self, PyObject *name);
/* fresh: a set of the parameters whose state holds nothing yet, or NULL. */
int pfo_plan_object_build(plan_object *self, PyObject *param_groups, PyObject *state, PyObject *fresh);
int pfo_plan_object_check_device(plan_object *self, PyObject *tensor, const char *list, Py_ssize_t index,
                                 const pfo_tensor_arg *arg);

/* Reads and checks one of a slot's tensors; param is its parameter's, NULL for the parameter itself. */
int pfo_plan_object_read_item(plan_object *self, const plan_item *item, Py_ssize_t index, const pfo_tensor_arg *param,
                              pfo_tensor_arg *arg);

/* Borrowed list of a group's parameters, or NULL with an exception. */
PyObject *pfo_plan_object_group_params(const pfo_train_state *state, PyObject *param_groups, Py_ssize_t index);

/* Name of a part in messages: "params", "exp_avgs", ... */
const char *pfo_plan_object_part_name(const plan_object *self, plan_part part);

/* plan_options.c: reads the options of every group; numbers may come from user code. 1, 0 when a group's tensors now keep other state
 * than they did when the plan was made, -1 with an exception. */
int pfo_plan_object_read_options(plan_object *self, PyObject *param_groups);

/* plan_step.c. containers_match: 1 if the parameters, and where with_state is 1 the state dict, are still those of the plan; 0; -1 with an
 * exception. The others: 1 or 0. None runs user code. */
int pfo_plan_object_containers_match(const plan_object *self, PyObject *param_groups, PyObject *state, int with_state);
int pfo_plan_object_slot_matches(const plan_object *self, const plan_slot *slot);
int pfo_plan_object_lies_where_it_lay(const plan_object *self, const plan_item *item, const pfo_tensor_peek *now);
PyObject *pfo_plan_object_step(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *pfo_plan_object_written(PyObject *op, PyObject *unused);

/* plan_seal.c. is_sealed: 1 if this dict is sealed and the witnesses lie where they lay. */
PyObject *pfo_plan_object_seal(PyObject *op, PyObject *holder);
PyObject *pfo_plan_object_unseal(PyObject *op, PyObject *unused);
void pfo_plan_object_break_seal(plan_object *self);
int pfo_plan_object_is_sealed(const plan_object *self, PyObject *state);

extern const char pfo_plan_object_seal_doc[];
extern const char pfo_plan_object_unseal_doc[];
extern const char pfo_plan_object_step_doc[];
extern const char pfo_plan_object_written_doc[];

#endif
