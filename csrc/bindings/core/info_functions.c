/* info_functions.c: what this build found on this machine, for `perfopt info` and for reports. */
#include "bindings/core/core_state.h"
#include "bindings/common/errors.h"

#include "base/clock.h"
#include "base/cpu.h"
#include "base/platform.h"
#include "base/pool.h"

PyDoc_STRVAR(cpu_info_doc,
             "cpu_info($module, /)\n--\n\n"
             "Processor facts as a dict: ``variant`` (the kernel variant in use: scalar, neon, avx2 or avx512),\n"
             "``supported`` (every variant this machine can run), ``processors`` (usable by this process) and\n"
             "``threads`` (what a parallel loop uses by default). Raises ValueError when PERFOPT_CPU is not a\n"
             "variant's name and NotImplementedError when this machine cannot run the one it names.");

static PyObject *
cpu_info(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    pfo_cpu_level level;
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_cpu_select(&level, &err);
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    PyObject *supported = PyList_New(0);
    if (supported == NULL) {
        return NULL;
    }
    for (int i = 0; i < PFO_CPU_LEVEL_COUNT; i++) {
        if (!pfo_cpu_supports((pfo_cpu_level)i)) {
            continue;
        }
        PyObject *name = PyUnicode_FromString(pfo_cpu_level_name((pfo_cpu_level)i));
        if (name == NULL || PyList_Append(supported, name) < 0) {
            Py_XDECREF(name);
            Py_DECREF(supported);
            return NULL;
        }
        Py_DECREF(name);
    }
    return Py_BuildValue("{s:s,s:N,s:i,s:i}", "variant", pfo_cpu_level_name(level), "supported", supported,
                         "processors", pfo_usable_processors(), "threads", pfo_pool_default_threads());
}

PyDoc_STRVAR(
    clock_info_doc,
    "clock_info($module, /)\n--\n\n"
    "The tick source of the profiler as a dict: ``source`` (tsc or clock_monotonic), ``nanoseconds_per_tick``\n"
    "and ``read_cost_ns`` (measured, one reading).");

static PyObject *
clock_info(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    const pfo_clock_info info = pfo_clock_describe();
    return Py_BuildValue("{s:s,s:d,s:d}", "source", info.source, "nanoseconds_per_tick", info.nanoseconds_per_tick,
                         "read_cost_ns", info.read_cost_ns);
}

PyMethodDef pfo_info_functions[] = {
    { "cpu_info", cpu_info, METH_NOARGS, cpu_info_doc },
    { "clock_info", clock_info, METH_NOARGS, clock_info_doc },
    { NULL, NULL, 0, NULL },
};
