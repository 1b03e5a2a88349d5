/* loader.c: see loader.h. The state is written by one pthread_once routine and read-only afterwards. */
#include "backend/loader.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h> /* vsnprintf and snprintf into buffers; nothing is printed */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char backend_file[] = "_backends/libperfopt_cuda.so";

static struct {
    pthread_once_t once;
    pfo_backend_info info;
    char path[PATH_MAX];
    char reason[PFO_BACKEND_REASON];
} loader = { .once = PTHREAD_ONCE_INIT };

static int refuse(char *reason, size_t reason_bytes, const char *format, ...) PFO_PRINTF(3, 4);

static int
refuse(char *reason, size_t reason_bytes, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(reason, reason_bytes, format, arguments);
    va_end(arguments);
    return 0;
}

static int
check_table(const pfo_backend *found, const char *path, char *reason, size_t reason_bytes)
{
    if (found == NULL) {
        return refuse(reason, reason_bytes, "%s: %s() returned NULL", path, PFO_BACKEND_SYMBOL);
    }
    if (found->abi_version != PFO_BACKEND_ABI_VERSION) {
        return refuse(reason, reason_bytes,
                      "%s has backend ABI version %u, this perfopt needs version %u; rebuild one of them", path,
                      (unsigned)found->abi_version, (unsigned)PFO_BACKEND_ABI_VERSION);
    }
    if (found->struct_size != sizeof *found) {
        return refuse(reason, reason_bytes,
                      "%s has a backend table of %u bytes, this perfopt needs %zu; rebuild one of them", path,
                      (unsigned)found->struct_size, sizeof *found);
    }
    return 1;
}

int
pfo_backend_open(const char *path, const pfo_backend **backend, char *reason, size_t reason_bytes)
{
    *backend = NULL;
    struct stat entry;
    if (stat(path, &entry) != 0) {
        return errno == ENOENT || errno == ENOTDIR
                   ? refuse(reason, reason_bytes, "no backend was built: %s does not exist", path)
                   : refuse(reason, reason_bytes, "cannot look at %s: %s", path, strerror(errno));
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        return refuse(reason, reason_bytes, "cannot open %s: %s", path, why != NULL ? why : "no reason given");
    }
    void *symbol = dlsym(library, PFO_BACKEND_SYMBOL);
    if (symbol == NULL) {
        return refuse(reason, reason_bytes, "%s has no symbol %s; it is not a backend of perfopt", path,
                      PFO_BACKEND_SYMBOL);
    }
    pfo_backend_entry entry_point; /* ISO C has no cast from object to function pointer */
    memcpy(&entry_point, &symbol, sizeof entry_point);
    const pfo_backend *found = entry_point();
    if (!check_table(found, path, reason, reason_bytes)) {
        return 0;
    }
    *backend = found;
    return 1;
}

/* The absolute path to try in path[PATH_MAX]; 0 and the reason when there is none. */
static int
find_path(char *path, char *reason, size_t reason_bytes)
{
    const char *given = getenv("PERFOPT_CUDA_LIB");
    if (given != NULL && given[0] != '\0') {
        if (given[0] != '/') {
            return refuse(reason, reason_bytes, "PERFOPT_CUDA_LIB=%s is not an absolute path", given);
        }
        if (strlen(given) >= PATH_MAX) {
            return refuse(reason, reason_bytes, "PERFOPT_CUDA_LIB is longer than %d bytes", PATH_MAX - 1);
        }
        (void)snprintf(path, PATH_MAX, "%s", given);
        return 1;
    }
    Dl_info own;
    if (dladdr(&loader, &own) == 0 || own.dli_fname == NULL || own.dli_fname[0] != '/') {
        return refuse(reason, reason_bytes, "the folder of perfopt's own library is not known; set PERFOPT_CUDA_LIB");
    }
    const char *slash = strrchr(own.dli_fname, '/');
    const int folder = (int)(slash - own.dli_fname) + 1;
    const int length = snprintf(path, PATH_MAX, "%.*s%s", folder, own.dli_fname, backend_file);
    if (length < 0 || length >= PATH_MAX) {
        path[0] = '\0';
        return refuse(reason, reason_bytes, "the path of perfopt's own folder is longer than %d bytes", PATH_MAX - 1);
    }
    return 1;
}

static int
allowed(char *reason, size_t reason_bytes)
{
    const char *wanted = getenv("PERFOPT_CUDA");
    if (wanted == NULL || wanted[0] == '\0' || strcmp(wanted, "auto") == 0 || strcmp(wanted, "on") == 0) {
        return 1;
    }
    if (strcmp(wanted, "off") == 0) {
        return refuse(reason, reason_bytes, "switched off by PERFOPT_CUDA=off");
    }
    return refuse(reason, reason_bytes, "PERFOPT_CUDA=%.32s is unknown; accepted: auto, on, off", wanted);
}

static int
find_devices(const pfo_backend *backend, char *reason, size_t reason_bytes)
{
    pfo_backend_error err = { 0, "" };
    int32_t count = 0;
    const int32_t code = backend->probe(&count, &err);
    if (code != PFO_BACKEND_OK) {
        return refuse(reason, reason_bytes, "%s", err.text[0] != '\0' ? err.text : "the backend's probe failed");
    }
    if (count < 1) {
        return refuse(reason, reason_bytes, "no device");
    }
    loader.info.device_count = count;
    return 1;
}

static void
load(void)
{
    pfo_backend_info *info = &loader.info;
    const pfo_backend *backend = NULL;
    info->name = "";
    info->path = loader.path;
    info->reason = loader.reason;
    if (!allowed(loader.reason, sizeof loader.reason) || !find_path(loader.path, loader.reason, sizeof loader.reason) ||
        !pfo_backend_open(loader.path, &backend, loader.reason, sizeof loader.reason)) {
        return;
    }
    info->name = backend->name;
    if (find_devices(backend, loader.reason, sizeof loader.reason)) {
        info->backend = backend;
    }
}

const pfo_backend_info *
pfo_backend_describe(void)
{
    (void)pthread_once(&loader.once, load);
    return &loader.info;
}

pfo_status
pfo_backend_require(const pfo_backend **backend, pfo_error *err)
{
    const pfo_backend_info *info = pfo_backend_describe();
    *backend = info->backend;
    if (info->backend == NULL) {
        return pfo_fail(err, PFO_DEVICE, "no CUDA backend: %s", info->reason);
    }
    return PFO_OK;
}
