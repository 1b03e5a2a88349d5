/* core_module.c: perfopt._core: cache, profiler, memory monitor and backend loader, without NumPy.
 *
 * Multi-phase init; all state lives in pfo_core_state, so every interpreter has its own. Types are heap types made from the
 * list in core_state.h; there is no static Python object. Process-wide C state (clock anchor, thread pool) is started here.
 */
#include "bindings/core/core_state.h"
#include "bindings/core/thread_names.h"

#include "base/clock.h"

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
intern_names(pfo_core_state *state)
{
    const struct {
        PyObject **name;
        const char *text;
    } names[] = {
        { &state->name_numpy, "numpy" },           { &state->name_torch, "torch" },
        { &state->name_torch_nn, "torch.nn" },     { &state->name_numpy_random, "numpy.random" },
        { &state->name_random, "random" },         { &state->name_delist, "delist" },
        { &state->name_delist_all, "delist_all" }, { &state->name_version, "_version" },
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        *names[i].name = PyUnicode_InternFromString(names[i].text);
        if (*names[i].name == NULL) {
            return -1;
        }
    }
    return 0;
}

static int
core_exec(PyObject *module)
{
    pfo_core_state *state = pfo_core_state_of(module);
    pfo_clock_start();
    pfo_thread_names_install();
    if (intern_names(state) < 0) {
        return -1;
    }
#define PFO_CORE_ADD_TYPE(field, is_public)                                                                            \
    if (add_type(module, &state->field, &pfo_##field##_spec, is_public) < 0) {                                         \
        return -1;                                                                                                     \
    }
    PFO_CORE_TYPES(PFO_CORE_ADD_TYPE)
#undef PFO_CORE_ADD_TYPE
#define PFO_CORE_ADD_FUNCTIONS(name)                                                                                   \
    if (PyModule_AddFunctions(module, pfo_##name##_functions) < 0) {                                                   \
        return -1;                                                                                                     \
    }
    PFO_CORE_FUNCTIONS(PFO_CORE_ADD_FUNCTIONS)
#undef PFO_CORE_ADD_FUNCTIONS
    return 0;
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    pfo_core_state *state = pfo_core_state_of(module);
#define PFO_CORE_VISIT(field, is_public) Py_VISIT(state->field);
    PFO_CORE_TYPES(PFO_CORE_VISIT)
#undef PFO_CORE_VISIT
#define PFO_CORE_VISIT_OBJECT(field) Py_VISIT(state->field);
    PFO_CORE_OBJECTS(PFO_CORE_VISIT_OBJECT)
#undef PFO_CORE_VISIT_OBJECT
    return 0;
}

static int
core_clear(PyObject *module)
{
    pfo_core_state *state = pfo_core_state_of(module);
#define PFO_CORE_CLEAR(field, is_public) Py_CLEAR(state->field);
    PFO_CORE_TYPES(PFO_CORE_CLEAR)
#undef PFO_CORE_CLEAR
#define PFO_CORE_CLEAR_OBJECT(field) Py_CLEAR(state->field);
    PFO_CORE_OBJECTS(PFO_CORE_CLEAR_OBJECT)
#undef PFO_CORE_CLEAR_OBJECT
    return 0;
}

static void
core_free(void *module)
{
    (void)core_clear((PyObject *)module);
}

static PyModuleDef_Slot core_slots[] = {
    { Py_mod_exec, (void *)core_exec },
#if PY_VERSION_HEX >= 0x030C0000
    { Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED },
#endif
    { 0, NULL },
};

PyDoc_STRVAR(core_doc, "C engines of perfopt that need no NumPy: cache, profiler, memory monitor, backend loader.");

struct PyModuleDef pfo_core_module = {
    PyModuleDef_HEAD_INIT, .m_name = "perfopt._core",   .m_doc = core_doc,     .m_size = sizeof(pfo_core_state),
    .m_slots = core_slots, .m_traverse = core_traverse, .m_clear = core_clear, .m_free = core_free,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&pfo_core_module);
}
