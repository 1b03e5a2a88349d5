/* matmul.cu: matrix products with a bias, GELU or their gradients in the epilogue, by cuBLASLt.
 *
 * cuBLASLt counts matrices in columns, the ABI in rows. A matrix in rows is its transpose in columns, so D = A B is asked for as
 * D' = B' A': the library's first matrix is our B, its second our A, and a bias over its rows is one over our columns.
 *
 * - [library] cuBLASLt is opened at the first product, not linked: half a gigabyte that the optimizers have no use for. Headers alone
 *   are needed to build; without them every product is UNAVAILABLE.
 * - [cache] Descriptors and the chosen kernel are kept by all that the choice depends on: shape, dtypes, epilogue, leading dimensions,
 *   alignment, room to work in. So is the answer that there is none. A full set of four gives up its oldest.
 * - Threads: one lock over looking up and enqueueing, both a few microseconds; nothing waits for the device under it.
 * - Memory: entries are static; descriptors belong to the library and are destroyed when their entry is given up.
 */
#include "common.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(PFO_HAVE_CUBLASLT)

#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>

namespace {

enum { SETS = 256, WAYS = 4, DEVICES = 64, MOST_ALIGNMENT = 256 };

#define PFO_TEXT_OF(x) #x
#define PFO_TEXT(x) PFO_TEXT_OF(x)
constexpr char library_file[] = "libcublasLt.so." PFO_TEXT(CUBLAS_VER_MAJOR);

/* ---- [library] ------------------------------------------------------------------------------- */

#define PFO_LT_FUNCTIONS(X)                                                                                            \
    X(cublasLtCreate)                                                                                                  \
    X(cublasLtGetStatusString)                                                                                         \
    X(cublasLtMatmul)                                                                                                  \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                                  \
    X(cublasLtMatmulDescCreate)                                                                                        \
    X(cublasLtMatmulDescDestroy)                                                                                       \
    X(cublasLtMatmulDescSetAttribute)                                                                                  \
    X(cublasLtMatmulPreferenceCreate)                                                                                  \
    X(cublasLtMatmulPreferenceDestroy)                                                                                 \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                            \
    X(cublasLtMatrixLayoutCreate)                                                                                      \
    X(cublasLtMatrixLayoutDestroy)

struct lt_library {
    int tried;
    int usable;
    char reason[160];
    cublasLtHandle_t handles[DEVICES];
#define PFO_LT_FIELD(name) decltype(&::name) name;
    PFO_LT_FUNCTIONS(PFO_LT_FIELD)
#undef PFO_LT_FIELD
};

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
lt_library lt; /* under the lock */

/* The one that torch has loaded, else the one the system or PERFOPT_CUBLASLT_LIB has. */
void *
open_file()
{
    const char *given = getenv("PERFOPT_CUBLASLT_LIB");
    if (given != NULL && given[0] == '/') {
        return dlopen(given, RTLD_NOW | RTLD_LOCAL);
    }
    return dlopen(library_file, RTLD_NOW | RTLD_LOCAL);
}

int
open_library()
{
    if (lt.tried) {
        return lt.usable;
    }
    lt.tried = 1;
    void *file = open_file();
    if (file == NULL) {
        const char *why = dlerror();
        (void)snprintf(lt.reason, sizeof lt.reason, "cannot open cuBLASLt: %.120s", why != NULL ? why : library_file);
        return 0;
    }
#define PFO_LT_FIND(function)                                                                                          \
    lt.function = reinterpret_cast<decltype(lt.function)>(dlsym(file, #function));                                     \
    if (lt.function == NULL) {                                                                                         \
        (void)snprintf(lt.reason, sizeof lt.reason, "%s has no %s", library_file, #function);                          \
        return 0;                                                                                                      \
    }
    PFO_LT_FUNCTIONS(PFO_LT_FIND)
#undef PFO_LT_FIND
    lt.usable = 1;
    return 1;
}

/* ---- [cache] --------------------------------------------------------------------------------- */

/* All that the choice of a kernel depends on; compared as bytes, so without padding. */
struct matmul_key {
    int64_t m, n, k;
    int64_t ld_a, ld_b, ld_d, ld_aux;
    int64_t workspace_bytes;
    int32_t device, dtype, dtype_d, epilogue;
    int32_t transpose_a, transpose_b;
    int32_t alignment_a, alignment_b, alignment_d, alignment_aux, alignment_bias;
    int32_t scales; /* 1: scale_a, 2: scale_b */
};
static_assert(sizeof(matmul_key) == 8 * sizeof(int64_t) + 12 * sizeof(int32_t), "no padding");

struct matmul_entry {
    int used;
    cublasStatus_t status; /* of the search for a kernel */
    matmul_key key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t first; /* the library's A: our B */
    cublasLtMatrixLayout_t second;
    cublasLtMatrixLayout_t result;
    cublasLtMatmulAlgo_t algorithm;
};

matmul_entry entries[SETS][WAYS]; /* under the lock */
unsigned next_way[SETS];

int32_t
alignment_of(const void *address)
{
    const uintptr_t bits = reinterpret_cast<uintptr_t>(address) | MOST_ALIGNMENT;
    return (int32_t)(bits & (~bits + 1));
}

matmul_key
key_of(const pfo_backend_matmul *product)
{
    matmul_key key = {};
    key.m = product->m;
    key.n = product->n;
    key.k = product->k;
    key.ld_a = product->ld_a;
    key.ld_b = product->ld_b;
    key.ld_d = product->ld_d;
    key.ld_aux = product->ld_aux;
    key.workspace_bytes = product->workspace_bytes;
    key.device = product->device;
    key.dtype = product->dtype;
    key.dtype_d = product->dtype_d;
    key.epilogue = product->epilogue;
    key.transpose_a = product->transpose_a;
    key.transpose_b = product->transpose_b;
    key.alignment_a = alignment_of(product->a);
    key.alignment_b = alignment_of(product->b);
    key.alignment_d = alignment_of(product->d);
    key.alignment_aux = alignment_of(product->aux);
    key.alignment_bias = alignment_of(product->bias);
    key.scales = (product->scale_a != NULL) | (product->scale_b != NULL) << 1;
    return key;
}

uint64_t
hash_of(const matmul_key *key)
{
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(key);
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < sizeof *key; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 32;
}

void
clear_entry(matmul_entry *entry)
{
    if (entry->product != NULL) {
        (void)lt.cublasLtMatmulDescDestroy(entry->product);
    }
    cublasLtMatrixLayout_t layouts[] = { entry->first, entry->second, entry->result };
    for (cublasLtMatrixLayout_t layout : layouts) {
        if (layout != NULL) {
            (void)lt.cublasLtMatrixLayoutDestroy(layout);
        }
    }
    memset(entry, 0, sizeof *entry);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

/* The first failure of a sequence of calls; the calls after it are not made. */
#define PFO_LT_TRY(call)                                                                                               \
    do {                                                                                                               \
        const cublasStatus_t pfo_lt_status = (call);                                                                   \
        if (pfo_lt_status != CUBLAS_STATUS_SUCCESS) {                                                                  \
            return pfo_lt_status;                                                                                      \
        }                                                                                                              \
    } while (0)

template <typename Value>
cublasStatus_t
set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, const Value &value)
{
    return lt.cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value);
}

template <typename Value>
cublasStatus_t
prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const Value &value)
{
    return lt.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
}

cudaDataType_t
type_of(int32_t dtype)
{
    return dtype == PFO_BACKEND_MATMUL_BFLOAT16  ? CUDA_R_16BF
           : dtype == PFO_BACKEND_MATMUL_FLOAT16 ? CUDA_R_16F
                                                 : CUDA_R_8F_E4M3;
}

cublasLtEpilogue_t
epilogue_of(int32_t epilogue)
{
    constexpr cublasLtEpilogue_t known[] = {
        CUBLASLT_EPILOGUE_DEFAULT,   CUBLASLT_EPILOGUE_BIAS,        CUBLASLT_EPILOGUE_GELU,
        CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX,    CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        CUBLASLT_EPILOGUE_DGELU,     CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADB, /* its B is our A */
    };
    return known[epilogue];
}

/* What changes from call to call. */
cublasStatus_t
set_pointers(cublasLtMatmulDesc_t descriptor, const pfo_backend_matmul *product)
{
    const void *bias = product->bias;
    const void *aux = product->aux;
    const void *scale_first = product->scale_b;
    const void *scale_second = product->scale_a;
    if (bias != NULL) {
        PFO_LT_TRY(set(descriptor, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
    }
    if (aux != NULL) {
        PFO_LT_TRY(set(descriptor, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux));
    }
    if (scale_first != NULL) {
        PFO_LT_TRY(set(descriptor, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scale_first));
    }
    if (scale_second != NULL) {
        PFO_LT_TRY(set(descriptor, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scale_second));
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
make_product(matmul_entry *entry, const pfo_backend_matmul *product)
{
    PFO_LT_TRY(lt.cublasLtMatmulDescCreate(&entry->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    PFO_LT_TRY(set(entry->product, CUBLASLT_MATMUL_DESC_TRANSA, product->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N));
    PFO_LT_TRY(set(entry->product, CUBLASLT_MATMUL_DESC_TRANSB, product->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N));
    PFO_LT_TRY(set(entry->product, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(product->epilogue)));
    if (product->bias != NULL) {
        PFO_LT_TRY(set(entry->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(product->dtype_d)));
    }
    if (product->aux != NULL) {
        PFO_LT_TRY(set(entry->product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, type_of(product->dtype_d)));
        PFO_LT_TRY(set(entry->product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, product->ld_aux));
    }
    return set_pointers(entry->product, product);
}

/* A matrix in rows [rows, columns] as the library sees it: columns by rows. */
cublasStatus_t
make_layout(cublasLtMatrixLayout_t *layout, int32_t dtype, int64_t rows, int64_t columns, int64_t ld)
{
    return lt.cublasLtMatrixLayoutCreate(layout, type_of(dtype), (uint64_t)columns, (uint64_t)rows, ld);
}

cublasStatus_t
make_layouts(matmul_entry *entry, const pfo_backend_matmul *product)
{
    const bool ta = product->transpose_a != 0;
    const bool tb = product->transpose_b != 0;
    PFO_LT_TRY(make_layout(&entry->first, product->dtype, tb ? product->n : product->k, tb ? product->k : product->n,
                           product->ld_b));
    PFO_LT_TRY(make_layout(&entry->second, product->dtype, ta ? product->k : product->m, ta ? product->m : product->k,
                           product->ld_a));
    return make_layout(&entry->result, product->dtype_d, product->m, product->n, product->ld_d);
}

cublasStatus_t
set_preferences(cublasLtMatmulPreference_t preference, const matmul_key *key)
{
    const uint64_t room = (uint64_t)key->workspace_bytes;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t first = (uint32_t)key->alignment_b;
    const uint32_t second = (uint32_t)key->alignment_a;
    const uint32_t result = (uint32_t)key->alignment_d;
    PFO_LT_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, room));
    PFO_LT_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions));
    PFO_LT_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, first));
    PFO_LT_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, second));
    PFO_LT_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, result));
    return prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, result);
}

cublasStatus_t
choose_kernel(matmul_entry *entry, cublasLtHandle_t handle)
{
    cublasLtMatmulPreference_t preference;
    PFO_LT_TRY(lt.cublasLtMatmulPreferenceCreate(&preference));
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    cublasStatus_t status = set_preferences(preference, &entry->key);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = lt.cublasLtMatmulAlgoGetHeuristic(handle, entry->product, entry->first, entry->second, entry->result,
                                                   entry->result, preference, 1, &found, &count);
    }
    (void)lt.cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = count > 0 ? found.state : CUBLAS_STATUS_NOT_SUPPORTED;
    }
    entry->algorithm = found.algo;
    return status;
}

cublasStatus_t
fill_entry(matmul_entry *entry, const pfo_backend_matmul *product, cublasLtHandle_t handle)
{
    PFO_LT_TRY(make_product(entry, product));
    PFO_LT_TRY(make_layouts(entry, product));
    return choose_kernel(entry, handle);
}

/* The entry of a product, made where there is none. Only an answer that stays the same is kept. */
matmul_entry *
find_entry(const pfo_backend_matmul *product, cublasLtHandle_t handle)
{
    const matmul_key key = key_of(product);
    const size_t chosen = hash_of(&key) % SETS;
    for (matmul_entry &entry : entries[chosen]) {
        if (entry.used && memcmp(&entry.key, &key, sizeof key) == 0) {
            return &entry;
        }
    }
    matmul_entry *entry = &entries[chosen][next_way[chosen]++ % WAYS];
    clear_entry(entry);
    entry->key = key;
    entry->status = fill_entry(entry, product, handle);
    entry->used = entry->status == CUBLAS_STATUS_SUCCESS || entry->status == CUBLAS_STATUS_NOT_SUPPORTED ||
                  entry->status == CUBLAS_STATUS_INVALID_VALUE;
    return entry;
}

/* pre: the lock is held and the device current. */
cublasStatus_t
enqueue(const pfo_backend_matmul *product, cudaStream_t stream)
{
    cublasLtHandle_t *handle = &lt.handles[product->device];
    if (*handle == NULL) {
        PFO_LT_TRY(lt.cublasLtCreate(handle));
    }
    const matmul_entry *entry = find_entry(product, *handle);
    PFO_LT_TRY(entry->status);
    PFO_LT_TRY(set_pointers(entry->product, product));
    const float one = 1.0f;
    const float zero = 0.0f;
    return lt.cublasLtMatmul(*handle, entry->product, &one, product->b, entry->first, product->a, entry->second, &zero,
                             product->d, entry->result, product->d, entry->result, &entry->algorithm,
                             product->workspace, (size_t)product->workspace_bytes, stream);
}

int32_t
check_product(const pfo_backend_matmul *product, pfo_backend_error *err)
{
    const bool dtypes =
        product->dtype >= PFO_BACKEND_MATMUL_BFLOAT16 && product->dtype <= PFO_BACKEND_MATMUL_FLOAT8_E4M3 &&
        (product->dtype_d == PFO_BACKEND_MATMUL_BFLOAT16 || product->dtype_d == PFO_BACKEND_MATMUL_FLOAT16);
    if (!dtypes || product->epilogue < PFO_BACKEND_PLAIN || product->epilogue > PFO_BACKEND_BGRAD) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "a product of dtype codes %d and %d with epilogue code %d is not known",
                             (int)product->dtype, (int)product->dtype_d, (int)product->epilogue);
    }
    const bool biased = product->epilogue == PFO_BACKEND_BIAS || product->epilogue == PFO_BACKEND_GELU_BIAS ||
                        product->epilogue == PFO_BACKEND_GELU_AUX_BIAS ||
                        product->epilogue == PFO_BACKEND_DGELU_BGRAD || product->epilogue == PFO_BACKEND_BGRAD;
    const bool kept = product->epilogue >= PFO_BACKEND_GELU_AUX && product->epilogue <= PFO_BACKEND_DGELU_BGRAD;
    if (biased != (product->bias != NULL) || kept != (product->aux != NULL)) {
        return pfo_cuda_fail(err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
                             "epilogue code %d with bias at %p and aux at %p", (int)product->epilogue, product->bias,
                             product->aux);
    }
    if (product->m < 1 || product->n < 1 || product->k < 1 || product->device < 0 || product->device >= DEVICES ||
        product->workspace_bytes < 0 || (product->workspace == NULL && product->workspace_bytes > 0) ||
        (uintptr_t)product->workspace % MOST_ALIGNMENT != 0) {
        return pfo_cuda_fail(
            err, PFO_BACKEND_BAD_ARGUMENT, cudaSuccess,
            "a product of [%lld, %lld] by [%lld, %lld] on device %d with %lld bytes of workspace at %p",
            (long long)product->m, (long long)product->k, (long long)product->k, (long long)product->n,
            (int)product->device, (long long)product->workspace_bytes, product->workspace);
    }
    return PFO_BACKEND_OK;
}

int32_t
answer(cublasStatus_t status, pfo_backend_error *err)
{
    if (status == CUBLAS_STATUS_SUCCESS) {
        return PFO_BACKEND_OK;
    }
    const bool none = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE ||
                      status == CUBLAS_STATUS_ARCH_MISMATCH;
    return pfo_cuda_fail(err, none ? PFO_BACKEND_UNAVAILABLE : PFO_BACKEND_DEVICE, cudaSuccess, "cuBLASLt: %s",
                         lt.cublasLtGetStatusString(status));
}

} // namespace

int32_t
pfo_cuda_matmul(const pfo_backend_matmul *product, void *stream, pfo_backend_error *err)
{
    const int32_t code = check_product(product, err);
    if (code != PFO_BACKEND_OK) {
        return code;
    }
    const pfo_device_guard guard(product->device);
    if (guard.error() != cudaSuccess) {
        return pfo_cuda_fail(err, PFO_BACKEND_DEVICE, guard.error(), "cannot use device %d", (int)product->device);
    }
    (void)pthread_mutex_lock(&lock);
    const int32_t outcome = open_library() ? answer(enqueue(product, static_cast<cudaStream_t>(stream)), err)
                                           : pfo_cuda_fail(err, PFO_BACKEND_UNAVAILABLE, cudaSuccess, "%s", lt.reason);
    (void)pthread_mutex_unlock(&lock);
    return outcome;
}

#else

int32_t
pfo_cuda_matmul(const pfo_backend_matmul *product, void *stream, pfo_backend_error *err)
{
    (void)product;
    (void)stream;
    return pfo_cuda_fail(err, PFO_BACKEND_UNAVAILABLE, cudaSuccess,
                         "this backend was built without the headers of cuBLASLt (PyPI: nvidia-cublas)");
}

#endif
