/* nvml.c: see nvml.h. The types are NVML's own ABI, written down here because its header is not needed to run.
 *
 * State: one session for the process, guarded by session_lock, made anew in a forked child (the parent's handle is left alone there).
 */
#include "monitor/nvml.h"

#include "base/sync.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

typedef struct nvml_memory {
    unsigned long long total, free, used; /* nvmlMemory_t */
} nvml_memory;

typedef struct session {
    void *library;
    pid_t owner;
    int (*device_count)(unsigned *count);
    int (*device)(unsigned index, void **device);
    int (*memory)(void *device, nvml_memory *memory);
} session;

static pfo_mutex session_lock = PFO_MUTEX_INIT;
static session opened;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void
renew_lock_in_child(void)
{
    (void)pfo_mutex_init(&session_lock);
}

static void
register_fork_handler(void)
{
    (void)pthread_atfork(NULL, NULL, renew_lock_in_child);
}

/* 1 if the call was found. ISO C has no conversion from object to function pointer: target is one, copied into. */
static int
find(void *library, const char *name, void *target)
{
    void *const found = dlsym(library, name);
    memcpy(target, &found, sizeof found);
    return found != NULL;
}

static pfo_status
connect(void *library, session *made, pfo_error *err)
{
    int (*init)(void);
    if (!find(library, "nvmlInit_v2", &init) || !find(library, "nvmlDeviceGetCount_v2", &made->device_count) ||
        !find(library, "nvmlDeviceGetHandleByIndex_v2", &made->device) ||
        !find(library, "nvmlDeviceGetMemoryInfo", &made->memory)) {
        return pfo_fail(err, PFO_UNAVAILABLE, "the NVML library lacks one of the calls that are needed");
    }
    const int refused = init();
    if (refused != 0) {
        return pfo_fail(err, PFO_UNAVAILABLE, "NVML cannot start (its error %d): is there a driver?", refused);
    }
    made->library = library;
    made->owner = getpid();
    return PFO_OK;
}

static pfo_status
open_locked(const char *name, pfo_error *err)
{
    if (opened.library != NULL && opened.owner == getpid()) {
        return PFO_OK;
    }
    void *const library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return pfo_fail(err, PFO_UNAVAILABLE, "%s cannot be opened", name);
    }
    session made = { 0 };
    const pfo_status status = connect(library, &made, err);
    if (status != PFO_OK) {
        (void)dlclose(library);
        return status;
    }
    opened = made;
    return PFO_OK;
}

/* Some drivers say "all bits set" for what they do not know. */
static int64_t
bytes_of(unsigned long long figure)
{
    return figure > INT64_MAX ? INT64_MAX : (int64_t)figure;
}

static pfo_status
read_locked(pfo_nvml_memory *memory, int *count, pfo_error *err)
{
    unsigned devices = 0;
    int refused = opened.device_count(&devices);
    devices = devices < PFO_NVML_MAX_DEVICES ? devices : PFO_NVML_MAX_DEVICES;
    for (unsigned i = 0; refused == 0 && i < devices; i++) {
        void *device = NULL;
        nvml_memory figures = { 0, 0, 0 };
        refused = opened.device(i, &device);
        if (refused == 0) {
            refused = opened.memory(device, &figures);
        }
        memory[i] = (pfo_nvml_memory){ bytes_of(figures.total), bytes_of(figures.used), bytes_of(figures.free) };
    }
    if (refused != 0) {
        return pfo_fail(err, PFO_UNAVAILABLE, "NVML gives no memory figures (its error %d)", refused);
    }
    *count = (int)devices;
    return PFO_OK;
}

pfo_status
pfo_nvml_read(const char *library, pfo_nvml_memory *memory, int *count, pfo_error *err)
{
    *count = 0;
    (void)pthread_once(&fork_once, register_fork_handler);
    pfo_mutex_lock(&session_lock);
    pfo_status status = open_locked(library, err);
    if (status == PFO_OK) {
        status = read_locked(memory, count, err);
    }
    pfo_mutex_unlock(&session_lock);
    return status;
}
