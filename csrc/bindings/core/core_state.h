/* core_state.h: the per-module state of perfopt._core and the lists from which core_module.c builds the module.
 *
 * To add a type: give its file a `PyType_Spec pfo_<field>_spec` and add one line to PFO_CORE_TYPES.
 * To add functions: give their file a `PyMethodDef pfo_<name>_functions[]` and add one line to PFO_CORE_FUNCTIONS.
 */
#ifndef PFO_BINDINGS_CORE_STATE_H
#define PFO_BINDINGS_CORE_STATE_H

#include <Python.h>

/* X(field, public): the heap type is kept in state->field; public types become module attributes. */
#define PFO_CORE_TYPES(X)

/* X(name): functions of pfo_<name>_functions become functions of the module. */
#define PFO_CORE_FUNCTIONS(X) \
    X(info)                   \
    X(backend)

typedef struct pfo_core_state {
    int ready; /* 1 once the module's exec slot has finished */
#define PFO_CORE_FIELD(field, public) PyTypeObject *field;
    PFO_CORE_TYPES(PFO_CORE_FIELD)
#undef PFO_CORE_FIELD
} pfo_core_state;

extern struct PyModuleDef pfo_core_module;

static inline pfo_core_state *
pfo_core_state_of(PyObject *module)
{
    return (pfo_core_state *)PyModule_GetState(module);
}

/* State of the module that made this heap type; NULL with an exception set if the type is not ours. */
static inline pfo_core_state *
pfo_core_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModule(type);
    return module == NULL ? NULL : pfo_core_state_of(module);
}

#define PFO_CORE_DECLARE_TYPE(field, public) extern PyType_Spec pfo_##field##_spec;
PFO_CORE_TYPES(PFO_CORE_DECLARE_TYPE)
#undef PFO_CORE_DECLARE_TYPE

#define PFO_CORE_DECLARE_FUNCTIONS(name) extern PyMethodDef pfo_##name##_functions[];
PFO_CORE_FUNCTIONS(PFO_CORE_DECLARE_FUNCTIONS)
#undef PFO_CORE_DECLARE_FUNCTIONS

#endif
