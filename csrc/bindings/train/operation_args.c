/* operation_args.c: see operation_args.h. */
#include "bindings/train/operation_args.h"

#include <stddef.h>

/* Operations by the name the user gives. */
static const struct {
    const char *name;
    pfo_op op;
    int coupled;
} operations[] = {
    { "adamw", PFO_OP_ADAMW, 0 }, { "adam", PFO_OP_ADAMW, 1 },      { "sgd", PFO_OP_SGD, 0 },
    { "lion", PFO_OP_LION, 0 },   { "adagrad", PFO_OP_ADAGRAD, 0 }, { "rmsprop", PFO_OP_RMSPROP, 0 },
};

int
pfo_operation_from_name(PyObject *name, pfo_op *op, int *coupled)
{
    const size_t count = sizeof operations / sizeof operations[0];
    size_t found = 0;
    while (found < count && PyUnicode_CompareWithASCIIString(name, operations[found].name) != 0) {
        found++;
    }
    if (found == count) {
        PyErr_Format(PyExc_ValueError, "operation=%R; accepted: 'adamw', 'adam', 'sgd', 'lion', 'adagrad' or 'rmsprop'",
                     name);
        return -1;
    }
    *op = operations[found].op;
    *coupled = operations[found].coupled;
    return 0;
}

int
pfo_option_number(PyObject *options, PyObject *name, double *number)
{
    PyObject *value = PyDict_GetItemWithError(options, name);
    if (value == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError, "a parameter group has no %R", name);
        }
        return -1;
    }
    Py_INCREF(value);
    *number = PyFloat_AsDouble(value);
    const int failed = *number == -1.0 && PyErr_Occurred();
    if (failed && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Format(PyExc_TypeError, "%U=%R; accepted: a number", name, value);
    }
    Py_DECREF(value);
    return failed ? -1 : 0;
}

int
pfo_option_flag(PyObject *options, PyObject *name)
{
    PyObject *value = PyDict_GetItemWithError(options, name);
    if (value == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_INCREF(value);
    const int truth = PyObject_IsTrue(value);
    Py_DECREF(value);
    return truth;
}

static int
read_betas(const pfo_train_state *state, PyObject *options, double *beta1, double *beta2)
{
    PyObject *betas = Py_XNewRef(PyDict_GetItemWithError(options, state->string.betas)); /* its __iter__ may drop it */
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
read_fields(const pfo_train_state *state, pfo_op op, PyObject *dict, pfo_options *options)
{
    for (int i = 0; i < OPTION_FIELDS && fields_of[op][i].name != 0; i++) {
        const option_field *field = &fields_of[op][i];
        PyObject *name = *(PyObject *const *)(const void *)((const char *)state + field->name);
        void *place = (char *)options + field->offset;
        if (field->is_flag) {
            const int truth = pfo_option_flag(dict, name);
            if (truth < 0) {
                return -1;
            }
            *(int *)place = truth;
        } else if (pfo_option_number(dict, name, place) < 0) {
            return -1;
        }
    }
    return 0;
}

int
pfo_options_from_dict(const pfo_train_state *state, pfo_op op, int coupled, PyObject *dict, pfo_options *options)
{
    if (read_fields(state, op, dict, options) < 0) {
        return -1;
    }
    if (op == PFO_OP_LION) {
        return read_betas(state, dict, &options->lion.beta1, &options->lion.beta2);
    }
    if (op == PFO_OP_ADAMW) {
        const int decoupled = coupled ? pfo_option_flag(dict, state->string.decoupled_weight_decay) : 1;
        options->adamw.coupled = !decoupled;
        return decoupled < 0 ? -1 : read_betas(state, dict, &options->adamw.beta1, &options->adamw.beta2);
    }
    return 0;
}
