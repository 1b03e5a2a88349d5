/* train_module.c: perfopt._train: the training kernels on NumPy arrays and tensors.
 *
 * Multi-phase init. NumPy does not support subinterpreters, so neither does this module. The op table of this machine is
 * chosen when the module is loaded (PERFOPT_CPU may force it).
 */
#define PY_ARRAY_UNIQUE_SYMBOL pfo_train_array_api
#include <Python.h>
#include <numpy/arrayobject.h>

static int
train_exec(PyObject *module)
{
    (void)module;
    import_array1(-1);
    return 0;
}

static PyModuleDef_Slot train_slots[] = {
    {Py_mod_exec, (void *)train_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(train_doc, "Training kernels of perfopt on NumPy arrays and on tensors by data pointer.");

static struct PyModuleDef train_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "perfopt._train",
    .m_doc = train_doc,
    .m_slots = train_slots,
};

PyMODINIT_FUNC PyInit__train(void);

PyMODINIT_FUNC
PyInit__train(void)
{
    return PyModuleDef_Init(&train_module);
}
