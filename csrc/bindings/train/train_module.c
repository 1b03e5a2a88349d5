/* train_module.c: perfopt._train: the training kernels on NumPy arrays and on tensors by data pointer.
 *
 * Multi-phase init. NumPy does not support subinterpreters, so neither does this module. The op table of this machine is
 * chosen when the module is loaded (PERFOPT_CPU may force it).
 */
#define PY_ARRAY_UNIQUE_SYMBOL pfo_train_array_api
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#include "bindings/train/train_state.h"

#include <numpy/arrayobject.h>

#include "bindings/common/errors.h"

static int
add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec, int is_public)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (*slot == NULL) {
        return -1;
    }
    return is_public ? PyModule_AddType(module, *slot) : 0;
}

static int
train_exec(PyObject *module)
{
    pfo_train_state *state = pfo_train_state_of(module);
    import_array1(-1);
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_engine_select(&state->engine, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
#define PFO_TRAIN_MAKE_STRING(field, text)                                                                             \
    state->string.field = PyUnicode_InternFromString(text);                                                            \
    if (state->string.field == NULL) {                                                                                 \
        return -1;                                                                                                     \
    }
    PFO_TRAIN_STRINGS(PFO_TRAIN_MAKE_STRING)
#undef PFO_TRAIN_MAKE_STRING
#define PFO_TRAIN_ADD_TYPE(field, is_public)                                                                           \
    if (add_type(module, &state->field, &pfo_##field##_spec, is_public) < 0) {                                         \
        return -1;                                                                                                     \
    }
    PFO_TRAIN_TYPES(PFO_TRAIN_ADD_TYPE)
#undef PFO_TRAIN_ADD_TYPE
#define PFO_TRAIN_ADD_FUNCTIONS(name)                                                                                  \
    if (PyModule_AddFunctions(module, pfo_##name##_functions) < 0) {                                                   \
        return -1;                                                                                                     \
    }
    PFO_TRAIN_FUNCTIONS(PFO_TRAIN_ADD_FUNCTIONS)
#undef PFO_TRAIN_ADD_FUNCTIONS
    state->ready = 1;
    return 0;
}

static int
train_traverse(PyObject *module, visitproc visit, void *arg)
{
    pfo_train_state *state = pfo_train_state_of(module);
    for (int i = 0; i < PFO_TRAIN_TENSOR_TYPES; i++) {
        Py_VISIT(state->tensor_types[i].type);
    }
#define PFO_TRAIN_VISIT(field, is_public) Py_VISIT(state->field);
    PFO_TRAIN_TYPES(PFO_TRAIN_VISIT)
#undef PFO_TRAIN_VISIT
    return 0;
}

static int
train_clear(PyObject *module)
{
    pfo_train_state *state = pfo_train_state_of(module);
    for (int i = 0; i < PFO_TRAIN_TENSOR_TYPES; i++) {
        Py_CLEAR(state->tensor_types[i].type);
    }
#define PFO_TRAIN_CLEAR(field, is_public) Py_CLEAR(state->field);
    PFO_TRAIN_TYPES(PFO_TRAIN_CLEAR)
#undef PFO_TRAIN_CLEAR
    state->ready = 0;
    return 0;
}

static void
train_free(void *module)
{
    pfo_train_state *state = pfo_train_state_of((PyObject *)module);
    (void)train_clear((PyObject *)module);
#define PFO_TRAIN_DROP_STRING(field, text) Py_CLEAR(state->string.field);
    PFO_TRAIN_STRINGS(PFO_TRAIN_DROP_STRING)
#undef PFO_TRAIN_DROP_STRING
}

static PyModuleDef_Slot train_slots[] = {
    { Py_mod_exec, (void *)train_exec },
#if PY_VERSION_HEX >= 0x030C0000
    { Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED },
#endif
    { 0, NULL },
};

PyDoc_STRVAR(train_doc, "Training kernels of perfopt on NumPy arrays and on tensors by data pointer.");

struct PyModuleDef pfo_train_module = {
    PyModuleDef_HEAD_INIT,  .m_name = "perfopt._train",   .m_doc = train_doc,     .m_size = sizeof(pfo_train_state),
    .m_slots = train_slots, .m_traverse = train_traverse, .m_clear = train_clear, .m_free = train_free,
};

PyMODINIT_FUNC PyInit__train(void);

PyMODINIT_FUNC
PyInit__train(void)
{
    return PyModuleDef_Init(&pfo_train_module);
}
