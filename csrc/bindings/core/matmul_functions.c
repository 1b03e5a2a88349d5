/* matmul_functions.c: perfopt._core.device_matmul(): one matrix product of the backend, for perfopt.nn, which has checked its tensors. */
#include "bindings/core/core_state.h"

#include "backend/loader.h"
#include "bindings/common/errors.h"

PyDoc_STRVAR(
    device_matmul_doc,
    "device_matmul($module, device, stream, sizes, codes, matrices, extras, workspace, /)\n--\n\n"
    "Enqueues D = epilogue(op(A) op(B)) on a CUDA device; False where the backend has no kernel for it (nothing is "
    "enqueued\n"
    "then). Addresses are ints, matrices lie in rows (csrc/backend/backend.h says what belongs to which epilogue).\n\n"
    "``sizes``: (m, n, k); ``codes``: (dtype, dtype_d, epilogue, transpose_a, transpose_b); ``matrices``: (a, b, d, "
    "ld_a,\n"
    "ld_b, ld_d); ``extras``: (bias, aux, ld_aux, scale_a, scale_b), 0 for none; ``workspace``: (address, bytes).\n"
    "Raises RuntimeError without a backend or when the device fails, ValueError for what contradicts itself.");

static PyObject *
device_matmul(PyObject *module, PyObject *args)
{
    (void)module;
    pfo_backend_matmul product = { 0 };
    unsigned long long stream, a, b, d, bias, aux, scale_a, scale_b, workspace;
    long long m, n, k, ld_a, ld_b, ld_d, ld_aux, workspace_bytes;
    if (!PyArg_ParseTuple(args, "iK(LLL)(iiipp)(KKKLLL)(KKLKK)(KL):device_matmul", &product.device, &stream, &m, &n, &k,
                          &product.dtype, &product.dtype_d, &product.epilogue, &product.transpose_a,
                          &product.transpose_b, &a, &b, &d, &ld_a, &ld_b, &ld_d, &bias, &aux, &ld_aux, &scale_a,
                          &scale_b, &workspace, &workspace_bytes)) {
        return NULL;
    }
    product.m = m;
    product.n = n;
    product.k = k;
    product.a = (const void *)(uintptr_t)a;
    product.b = (const void *)(uintptr_t)b;
    product.d = (void *)(uintptr_t)d;
    product.ld_a = ld_a;
    product.ld_b = ld_b;
    product.ld_d = ld_d;
    product.bias = (void *)(uintptr_t)bias;
    product.aux = (void *)(uintptr_t)aux;
    product.ld_aux = ld_aux;
    product.scale_a = (const float *)(uintptr_t)scale_a;
    product.scale_b = (const float *)(uintptr_t)scale_b;
    product.workspace = (void *)(uintptr_t)workspace;
    product.workspace_bytes = workspace_bytes;

    const pfo_backend *backend;
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status = pfo_backend_require(&backend, &err);
    if (status != PFO_OK) {
        return pfo_raise(status, &err);
    }
    pfo_backend_error reason = { 0, "" };
    int32_t code;
    Py_BEGIN_ALLOW_THREADS
    code = backend->matmul(&product, (void *)(uintptr_t)stream, &reason);
    Py_END_ALLOW_THREADS
    if (code == PFO_BACKEND_OK || code == PFO_BACKEND_UNAVAILABLE) {
        return PyBool_FromLong(code == PFO_BACKEND_OK);
    }
    status = pfo_fail(&err, code == PFO_BACKEND_BAD_ARGUMENT ? PFO_BAD_ARGUMENT : PFO_DEVICE, "%s", reason.text);
    return pfo_raise(status, &err);
}

PyMethodDef pfo_matmul_functions[] = {
    { "device_matmul", device_matmul, METH_VARARGS, device_matmul_doc },
    { NULL, NULL, 0, NULL },
};
