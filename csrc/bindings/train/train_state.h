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
#define PFO_TRAIN_FUNCTIONS(X) X(kernel) X(cast)

/* X(field, text): strings made once, for attribute and key look-ups. */
#define PFO_TRAIN_STRINGS(X)                                                                                           \
    X(amsgrad, "amsgrad")                                                                                              \
    X(betas, "betas")                                                                                                  \
    X(capturable, "capturable")                                                                                        \
    X(data_ptr, "data_ptr")                                                                                            \
    X(device, "device")                                                                                                \
    X(differentiable, "differentiable")                                                                                \
    X(dtype, "dtype")                                                                                                  \
    X(eps, "eps")                                                                                                      \
    X(exchange_api, "__dlpack_c_exchange_api__")                                                                       \
    X(exp_avg, "exp_avg")                                                                                              \
    X(exp_avg_sq, "exp_avg_sq")                                                                                        \
    X(grad, "grad")                                                                                                    \
    X(is_neg, "is_neg")                                                                                                \
    X(lr, "lr")                                                                                                        \
    X(maximize, "maximize")                                                                                            \
    X(params, "params")                                                                                                \
    X(resolve_neg, "resolve_neg")                                                                                      \
    X(shape, "shape")                                                                                                  \
    X(step, "step")                                                                                                    \
    X(stride, "stride")                                                                                                \
    X(weight_decay, "weight_decay")

/* Fills a DLTensor (see tensor_args.c) from a tensor object without Python calls. 0, or -1 with an exception. */
typedef int (*pfo_dltensor_from_object)(void *object, void *dltensor);

enum { PFO_TRAIN_TENSOR_TYPES = 4 };

typedef struct pfo_train_state {
    int ready;                       /* 1 once the module's exec slot has finished */
    const pfo_kernel_table *kernels; /* chosen when the module was loaded */
    struct {
        PyTypeObject *type;                 /* strong */
        pfo_dltensor_from_object function;  /* NULL: the type has no exchange API */
    } tensor_types[PFO_TRAIN_TENSOR_TYPES]; /* the types met so far, first come first kept */
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
