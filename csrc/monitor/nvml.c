/* nvml.c: see nvml.h. The types and error numbers are NVML's own ABI, written down here because its header is not needed to run.
 *
 * State: one session for the process and what is known of its failures, guarded by state_lock. In a forked child the parent's
 * session is forgotten, not closed: its handles are not usable there.
 */
#include "monitor/nvml.h"

#include "base/sync.h"

#include <dlfcn.h>
#include <stdio.h> /* snprintf into a local buffer; nothing is printed */
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { UNINITIALIZED = 1, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, RESET_REQUIRED = 16, VERSION_MISMATCH = 18 };

typedef struct nvml_memory {
    unsigned long long total, free, used; /* nvmlMemory_t */
} nvml_memory;

typedef struct session {
    void *library; /* NULL: none is open */
    int over;      /* an answer said so; kept, for devices that still answer, until another may be opened */
    int (*device_count)(unsigned *count);
    int (*device)(unsigned index, void **device);
    int (*memory)(void *device, nvml_memory *memory);
    int (*shutdown)(void);              /* NULL allowed */
    const char *(*words_of)(int error); /* NULL allowed */
} session;

typedef struct failures {
    int64_t pause_ns;      /* 0: none since the last read without one */
    int64_t not_before_ns; /* no session is opened before */
    pfo_error last;        /* why none could be opened */
} failures;

static pfo_mutex state_lock = PFO_MUTEX_INIT;
static session opened;
static failures failed;
static pid_t owner; /* the process that both are of */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void
renew_lock_in_child(void)
{
    (void)pfo_mutex_init(&state_lock);
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

/* NVML's number, and its words where it has some. */
static void
tell(const session *of, int error, char *reason, size_t room)
{
    const char *const words = of->words_of != NULL ? of->words_of(error) : NULL;
    (void)snprintf(reason, room, "its error %d%s%s", error, words != NULL ? ": " : "", words != NULL ? words : "");
}

static pfo_status
connect(session *made, pfo_error *err)
{
    int (*init)(void);
    if (!find(made->library, "nvmlInit_v2", &init) ||
        !find(made->library, "nvmlDeviceGetCount_v2", &made->device_count) ||
        !find(made->library, "nvmlDeviceGetHandleByIndex_v2", &made->device) ||
        !find(made->library, "nvmlDeviceGetMemoryInfo", &made->memory)) {
        return pfo_fail(err, PFO_UNAVAILABLE, "the NVML library lacks one of the calls that are needed");
    }
    (void)find(made->library, "nvmlShutdown", &made->shutdown);
    (void)find(made->library, "nvmlErrorString", &made->words_of);
    const int refused = init();
    if (refused != 0) {
        char reason[PFO_NVML_REASON];
        tell(made, refused, reason, sizeof reason);
        return pfo_fail(err, PFO_UNAVAILABLE, "NVML cannot start (%s): is there a driver?", reason);
    }
    return PFO_OK;
}

static pfo_status
open_session(const char *name, pfo_error *err)
{
    session made = { .library = dlopen(name, RTLD_NOW | RTLD_LOCAL) };
    if (made.library == NULL) {
        return pfo_fail(err, PFO_UNAVAILABLE, "%s cannot be opened", name);
    }
    const pfo_status status = connect(&made, err);
    if (status != PFO_OK) {
        (void)dlclose(made.library);
        return status;
    }
    opened = made;
    return PFO_OK;
}

/* The library too: a new driver comes with a new one. */
static void
close_session_locked(void)
{
    if (opened.shutdown != NULL) {
        (void)opened.shutdown();
    }
    (void)dlclose(opened.library);
    opened = (session){ 0 };
}

static void
pause_locked(int64_t now_ns)
{
    failed.not_before_ns = now_ns + failed.pause_ns;
    if (failed.pause_ns == 0) {
        failed.pause_ns = PFO_NVML_FIRST_PAUSE_NS;
    } else if (failed.pause_ns < PFO_NVML_LONGEST_PAUSE_NS) {
        failed.pause_ns *= 2;
    }
}

static pfo_status
ensure_session_locked(const char *name, int64_t now_ns, pfo_error *err)
{
    if (owner != getpid()) {
        opened = (session){ 0 };
        failed = (failures){ 0 };
        owner = getpid();
    }
    if (opened.library != NULL && opened.over && now_ns >= failed.not_before_ns) {
        close_session_locked();
    }
    if (opened.library != NULL) {
        return PFO_OK;
    }
    if (now_ns < failed.not_before_ns) {
        return pfo_fail(err, PFO_UNAVAILABLE, "%s", failed.last.text);
    }
    pfo_error why = PFO_ERROR_INIT;
    const pfo_status status = open_session(name, &why);
    if (status != PFO_OK) {
        pause_locked(now_ns);
        failed.last = why;
        return pfo_fail(err, status, "%s", why.text);
    }
    return PFO_OK;
}

/* Some drivers say "all bits set" for what they do not know. */
static int64_t
bytes_of(unsigned long long figure)
{
    return figure > INT64_MAX ? INT64_MAX : (int64_t)figure;
}

/* NVML's error, 0 for none. */
static int
read_device(unsigned index, pfo_nvml_memory *memory)
{
    void *device = NULL;
    nvml_memory figures = { 0, 0, 0 };
    int refused = opened.device(index, &device);
    if (refused == 0) {
        refused = opened.memory(device, &figures);
    }
    if (refused == 0) {
        *memory = (pfo_nvml_memory){ bytes_of(figures.total), bytes_of(figures.used), bytes_of(figures.free), "" };
    } else {
        *memory = (pfo_nvml_memory){ -1, -1, -1, "" };
        tell(&opened, refused, memory->reason, sizeof memory->reason);
    }
    return refused;
}

static int
ends_session(int error)
{
    return error == UNINITIALIZED || error == DRIVER_NOT_LOADED || error == GPU_IS_LOST || error == RESET_REQUIRED ||
           error == VERSION_MISMATCH;
}

static pfo_status
read_locked(int64_t now_ns, pfo_nvml_memory *memory, int *count, pfo_error *err)
{
    unsigned devices = 0;
    const int refused = opened.device_count(&devices);
    int over = ends_session(refused);
    devices = devices < PFO_NVML_MAX_DEVICES ? devices : PFO_NVML_MAX_DEVICES;
    if (refused == 0) {
        for (unsigned i = 0; i < devices; i++) {
            over |= ends_session(read_device(i, &memory[i]));
        }
        *count = (int)devices;
    } else {
        char reason[PFO_NVML_REASON];
        tell(&opened, refused, reason, sizeof reason);
        (void)pfo_fail(err, PFO_UNAVAILABLE, "NVML gives no memory figures (%s)", reason);
    }
    if (!over) {
        failed = (failures){ 0 };
    } else if (!opened.over) {
        opened.over = 1;
        pause_locked(now_ns);
    }
    return refused == 0 ? PFO_OK : PFO_UNAVAILABLE;
}

pfo_status
pfo_nvml_read(const char *library, int64_t now_ns, pfo_nvml_memory *memory, int *count, pfo_error *err)
{
    *count = 0;
    (void)pthread_once(&fork_once, register_fork_handler);
    pfo_mutex_lock(&state_lock);
    pfo_status status = ensure_session_locked(library, now_ns, err);
    if (status == PFO_OK) {
        status = read_locked(now_ns, memory, count, err);
    }
    pfo_mutex_unlock(&state_lock);
    return status;
}
