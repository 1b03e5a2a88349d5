/* train_state.h: the per-module state of perfopt._train and the lists from which train_module.c builds the module.
 *
 * To add a type: give its file a `PyType_Spec pfo_<field>_spec` and add one line to PFO_TRAIN_TYPES.
 * To add functions: give their file a `PyMethodDef pfo_<name>_functions[]` and add one line to PFO_TRAIN_FUNCTIONS.
 * NumPy's API table is one per process (PY_ARRAY_UNIQUE_SYMBOL); only train_module.c imports it.
 */
#ifndef PFO_BINDINGS_TRAIN_STATE_H
#define PFO_BINDINGS_TRAIN_STATE_H

#include <Python.h>

#include "kernels/dispatch.h"

/* X(field, public): the heap type is kept in state->field; public types become module attributes. */
#define PFO_TRAIN_TYPES(X) X(optimizer_plan, 1)

/* X(name): functions of pfo_<name>_functions become functions of the module. */
#define PFO_TRAIN_FUNCTIONS(X) X(kernel) X(grad) X(cast)

/* X(field, text): strings made once, for attribute and key look-ups. */
#define PFO_TRAIN_STRINGS(X)                                                                                           \
    X(alpha, "alpha")                                                                                                  \
    X(amsgrad, "amsgrad")                                                                                              \
    X(base, "_base")                                                                                                   \
    X(betas, "betas")                                                                                                  \
    X(capturable, "capturable")                                                                                        \
    X(centered, "centered")                                                                                            \
    X(dampening, "dampening")                                                                                          \
    X(data_ptr, "data_ptr")                                                                                            \
    X(decoupled_weight_decay, "decoupled_weight_decay")                                                                \
    X(detach, "detach")                                                                                                \
    X(device, "device")                                                                                                \
    X(differentiable, "differentiable")                                                                                \
    X(dlpack, "__dlpack__")                                                                                            \
    X(dtype, "dtype")                                                                                                  \
    X(ema_decay, "ema_decay")                                                                                          \
    X(eps, "eps")                                                                                                      \
    X(exchange_api, "__dlpack_c_exchange_api__")                                                                       \
    X(found_inf, "found_inf")                                                                                          \
    X(grad, "grad")                                                                                                    \
    X(grad_scale, "grad_scale")                                                                                        \
    X(is_neg, "is_neg")                                                                                                \
    X(lr, "lr")                                                                                                        \
    X(lr_decay, "lr_decay")                                                                                            \
    X(max_version, "max_version")                                                                                      \
    X(maximize, "maximize")                                                                                            \
    X(momentum, "momentum")                                                                                            \
    X(nesterov, "nesterov")                                                                                            \
    X(param_groups, "param_groups")                                                                                    \
    X(params, "params")                                                                                                \
    X(resolve_neg, "resolve_neg")                                                                                      \
    X(rounding_step, "rounding_step")                                                                                  \
    X(seed, "seed")                                                                                                    \
    X(shape, "shape")                                                                                                  \
    X(state, "state")                                                                                                  \
    X(step, "step")                                                                                                    \
    X(stochastic_rounding, "stochastic_rounding")                                                                      \
    X(stride, "stride")                                                                                                \
    X(weight_decay, "weight_decay")                                                                                    \
    X(zero_grads, "zero_grads")

/* Fills a DLTensor (see tensor_args.c) from a tensor object without Python calls. 0, or -1 with an exception. */
typedef int (*pfo_dltensor_from_object)(void *object, void *dltensor);

enum { PFO_TRAIN_TENSOR_TYPES = 8 };

/* A type of tensors, and how C code asks them without a search for the attribute by name. Where a member is NULL the type has something
 * else under that name (a subclass's property, say) and the attribute is for PyObject_GetAttr(). */
typedef struct pfo_tensor_type {
    PyTypeObject *type;                /* strong; NULL: a place not taken */
    pfo_dltensor_from_object dltensor; /* NULL: the type has no exchange API */
    const PyGetSetDef *grad, *base;    /* `grad`, `_base` */
    PyCFunction is_neg;                /* the method, without arguments */
} pfo_tensor_type;

typedef struct pfo_train_state {
    int ready;                                            /* 1 once the module's exec slot has finished */
    pfo_engine engine;                                    /* chosen when the module was loaded */
    pfo_tensor_type tensor_types[PFO_TRAIN_TENSOR_TYPES]; /* the types met so far, first come first kept */
#define PFO_TRAIN_FIELD(field, public) PyTypeObject *field;
    PFO_TRAIN_TYPES(PFO_TRAIN_FIELD)
#undef PFO_TRAIN_FIELD
    struct {
#define PFO_TRAIN_STRING(field, text) PyObject *field;
        PFO_TRAIN_STRINGS(PFO_TRAIN_STRING)
#undef PFO_TRAIN_STRING
    } string;
} pfo_train_state;

extern struct PyModuleDef pfo_train_module;

static inline pfo_train_state *
pfo_train_state_of(PyObject *module)
{
    return (pfo_train_state *)PyModule_GetState(module);
}

/* State of the module that made this heap type; NULL with an exception set if the type is not ours. */
static inline pfo_train_state *
pfo_train_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModule(type);
    return module == NULL ? NULL : pfo_train_state_of(module);
}

#define PFO_TRAIN_DECLARE_TYPE(field, public) extern PyType_Spec pfo_##field##_spec;
PFO_TRAIN_TYPES(PFO_TRAIN_DECLARE_TYPE)
#undef PFO_TRAIN_DECLARE_TYPE

#define PFO_TRAIN_DECLARE_FUNCTIONS(name) extern PyMethodDef pfo_##name##_functions[];
PFO_TRAIN_FUNCTIONS(PFO_TRAIN_DECLARE_FUNCTIONS)
#undef PFO_TRAIN_DECLARE_FUNCTIONS

#endif
