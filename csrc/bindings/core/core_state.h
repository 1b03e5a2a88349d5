/* core_state.h: the per-module state of perfopt._core and the lists from which core_module.c builds the module.
 *
 * To add a type: give its file a `PyType_Spec pfo_<field>_spec` and add one line to PFO_CORE_TYPES.
 * To add functions: give their file a `PyMethodDef pfo_<name>_functions[]` and add one line to PFO_CORE_FUNCTIONS.
 */
#ifndef PFO_BINDINGS_CORE_STATE_H
#define PFO_BINDINGS_CORE_STATE_H

#include <Python.h>

/* X(field, public): the heap type is kept in state->field; public types become module attributes. */
#define PFO_CORE_TYPES(X)                                                                                              \
    X(cached_function, 1)                                                                                              \
    X(content_key, 1)                                                                                                  \
    X(instance_note, 0)                                                                                                \
    X(cache_ledger, 0)                                                                                                 \
    X(pending_call, 0)                                                                                                 \
    X(device_array, 0)                                                                                                 \
    X(disk_map, 0)                                                                                                     \
    X(disk_store, 1)                                                                                                   \
    X(performance_cache, 1)                                                                                            \
    X(profiler_type, 1)                                                                                                \
    X(range_type, 1)                                                                                                   \
    X(profiled_function_type, 1)                                                                                       \
    X(driven_type, 1)                                                                                                  \
    X(capture_type, 1)                                                                                                 \
    X(memory_sampler_type, 1)

/* X(field): Python objects kept for the module's life, NULL until something sets them: names looked up often, and types and
 * functions found the first time they are needed. */
#define PFO_CORE_OBJECTS(X)                                                                                            \
    X(name_numpy)                                                                                                      \
    X(name_torch)                                                                                                      \
    X(name_torch_nn)                                                                                                   \
    X(name_numpy_random)                                                                                               \
    X(name_random)                                                                                                     \
    X(name_delist)                                                                                                     \
    X(name_delist_all)                                                                                                 \
    X(name_version)                                                                                                    \
    X(numpy_ndarray)                                                                                                   \
    X(numpy_memmap)                                                                                                    \
    X(numpy_generic)                                                                                                   \
    X(torch_tensor)                                                                                                    \
    X(torch_module)                                                                                                    \
    X(torch_generator)                                                                                                 \
    X(numpy_generator)                                                                                                 \
    X(numpy_bit_generator)                                                                                             \
    X(numpy_random_state)                                                                                              \
    X(random_random)                                                                                                   \
    X(keys_reduce)                                                                                                     \
    X(tasks_enter)                                                                                                     \
    X(tasks_leave)                                                                                                     \
    X(tasks_begin_wait)                                                                                                \
    X(tasks_end_wait)                                                                                                  \
    X(codec_encode)                                                                                                    \
    X(codec_decode)                                                                                                    \
    X(codec_unstorable)                                                                                                \
    X(values_prepare)                                                                                                  \
    X(values_copy)                                                                                                     \
    X(sizes_measure)                                                                                                   \
    X(sample_names)

/* X(name): functions of pfo_<name>_functions become functions of the module. */
#define PFO_CORE_FUNCTIONS(X)                                                                                          \
    X(info)                                                                                                            \
    X(device_array)                                                                                                    \
    X(fingerprint)                                                                                                     \
    X(flight)                                                                                                          \
    X(simulate)                                                                                                        \
    X(matmul)                                                                                                          \
    X(memory)                                                                                                          \
    X(backend)

typedef struct pfo_core_state {
#define PFO_CORE_FIELD(field, public) PyTypeObject *field;
    PFO_CORE_TYPES(PFO_CORE_FIELD)
#undef PFO_CORE_FIELD
#define PFO_CORE_OBJECT_FIELD(field) PyObject *field;
    PFO_CORE_OBJECTS(PFO_CORE_OBJECT_FIELD)
#undef PFO_CORE_OBJECT_FIELD
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

/* The same for a type that may be a Python subclass of one of ours. */
static inline pfo_core_state *
pfo_core_state_of_subtype(PyTypeObject *type)
{
#if PY_VERSION_HEX >= 0x030B0000
    PyObject *module = PyType_GetModuleByDef(type, &pfo_core_module);
    return module == NULL ? NULL : pfo_core_state_of(module);
#else
    for (PyTypeObject *base = type; base != NULL; base = base->tp_base) {
        PyObject *module = (base->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0 ? ((PyHeapTypeObject *)base)->ht_module : NULL;
        if (module != NULL && PyModule_GetDef(module) == &pfo_core_module) {
            return pfo_core_state_of(module);
        }
    }
    PyErr_SetString(PyExc_TypeError, "not a type of perfopt._core");
    return NULL;
#endif
}

#define PFO_CORE_DECLARE_TYPE(field, public) extern PyType_Spec pfo_##field##_spec;
PFO_CORE_TYPES(PFO_CORE_DECLARE_TYPE)
#undef PFO_CORE_DECLARE_TYPE

#define PFO_CORE_DECLARE_FUNCTIONS(name) extern PyMethodDef pfo_##name##_functions[];
PFO_CORE_FUNCTIONS(PFO_CORE_DECLARE_FUNCTIONS)
#undef PFO_CORE_DECLARE_FUNCTIONS

#endif
