/* platform_linux.c: platform.h for Linux.
 *
 * State: one kept-open /proc/self/statm (opened at first use, dropped in a forked child, where it would show the parent) and
 * the cached CPU quota. The malloc calls beyond ISO C are looked up by name at run time, so that one binary runs with
 * older glibc (no mallinfo2 before 2.33) and with other C libraries (none of them).
 */
#include "base/platform.h"

#if defined(__linux__)

#include "base/cgroup.h"
#include "base/clock.h"
#include "base/procfile.h"
#include "base/sync.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h> /* snprintf into a local buffer; nothing is printed */
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int64_t quota_valid_ns = INT64_C(5000000000);

/* Processors allowed by quota, INT_MAX without one. A race reads it twice and stores the same. */
static int
quota_processors(void)
{
    static _Atomic int known;
    static _Atomic int64_t valid_until;
    const int64_t now = pfo_monotonic_ns();
    if (now < atomic_load_explicit(&valid_until, memory_order_acquire)) {
        return atomic_load_explicit(&known, memory_order_relaxed);
    }
    int processors = INT_MAX;
    pfo_cgroup group;
    if (pfo_cgroup_find("", "cpu", &group, NULL) == PFO_OK) {
        const double quota = pfo_cgroup_cpu_quota(&group);
        if (quota > 0.0 && quota < processors) {
            processors = (int)quota;
            processors += quota > (double)processors;
        }
    }
    atomic_store_explicit(&known, processors, memory_order_relaxed);
    atomic_store_explicit(&valid_until, now + quota_valid_ns, memory_order_release);
    return processors;
}

int
pfo_usable_processors(void)
{
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    int count;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        count = CPU_COUNT(&allowed);
    } else {
        count = (int)sysconf(_SC_NPROCESSORS_ONLN); /* more processors than a cpu_set_t has bits */
    }
    const int quota = quota_processors();
    count = count < quota ? count : quota;
    return count > 0 ? count : 1;
}

int
pfo_thread_create_quiet(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *), void *argument)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    const int masked = pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(thread, attributes, entry, argument);
    if (masked == 0) {
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    return error;
}

_Static_assert(sizeof(time_t) == sizeof(long), "SYS_futex takes times of long's size");

int
pfo_word_wait(_Atomic uint32_t *word, uint32_t seen, int64_t deadline_ns)
{
    const struct timespec deadline = { (time_t)(deadline_ns / 1000000000), (long)(deadline_ns % 1000000000) };
    return syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen, &deadline, NULL,
                   FUTEX_BITSET_MATCH_ANY) != 0 &&
           errno == ETIMEDOUT;
}

void
pfo_word_wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
}

int64_t
pfo_thread_cpu_ns(pthread_t thread)
{
    clockid_t clock;
    struct timespec used;
    if (pthread_getcpuclockid(thread, &clock) != 0 || clock_gettime(clock, &used) != 0) {
        return -1;
    }
    return (int64_t)used.tv_sec * 1000000000 + (int64_t)used.tv_nsec;
}

int64_t
pfo_page_size(void)
{
    return (int64_t)sysconf(_SC_PAGESIZE);
}

/* ---- resident set ---------------------------------------------------------------------------- */

static pfo_mutex statm_lock = PFO_MUTEX_INIT;
static pfo_kept_file statm = PFO_KEPT_FILE_INIT;
static pthread_once_t statm_once = PTHREAD_ONCE_INIT;

/* The lock is made anew: a thread that is not in the child may have held it. At worst one descriptor is lost. */
static void
drop_statm_in_child(void)
{
    (void)pfo_mutex_init(&statm_lock);
    pfo_kept_file_close(&statm);
}

static void
register_statm_handler(void)
{
    (void)pthread_atfork(NULL, NULL, drop_statm_in_child);
}

/* Resident pages of a statm text: seven numbers, the second. -1 if it is not such a text. */
static int64_t
parse_statm(const char *text)
{
    int64_t resident = -1;
    for (int field = 0; field < 7; field++) {
        int64_t value;
        text = pfo_procfile_number(text, &value);
        if (text == NULL) {
            return -1;
        }
        if (field == 1) {
            resident = value;
        }
    }
    return *text == '\n' ? resident : -1;
}

int64_t
pfo_process_rss(void)
{
    char text[128];
    (void)pthread_once(&statm_once, register_statm_handler);
    int64_t pages = -1;
    pfo_mutex_lock(&statm_lock);
    if (pfo_kept_file_read(&statm, text, sizeof text) > 0) {
        pages = parse_statm(text);
    }
    if (pages < 0) { /* first use, first use after fork, or somebody closed a descriptor that was not theirs */
        pfo_kept_file_close(&statm);
        if (pfo_kept_file_open(&statm, "/proc/self/statm") && pfo_kept_file_read(&statm, text, sizeof text) > 0) {
            pages = parse_statm(text);
        }
    }
    pfo_mutex_unlock(&statm_lock);
    return pages < 0 ? -1 : pages * pfo_page_size();
}

int64_t
pfo_process_peak_rss(void)
{
    char text[4096];
    int64_t kibibytes;
    if (pfo_procfile_read("/proc/self/status", text, sizeof text) < 0 ||
        !pfo_procfile_field(text, "VmHWM", &kibibytes)) {
        return -1;
    }
    return kibibytes * 1024;
}

int64_t
pfo_process_uss(void)
{
    static const char *const parts[3] = { "Private_Clean", "Private_Dirty", "Private_Hugetlb" };
    char text[4096];
    int64_t total = 0;
    if (pfo_procfile_read("/proc/self/smaps_rollup", text, sizeof text) <= 0) {
        return -1;
    }
    for (int i = 0; i < 3; i++) {
        int64_t kibibytes = 0;
        if (!pfo_procfile_field(text, parts[i], &kibibytes) && i < 2) {
            return -1;
        }
        total += kibibytes;
    }
    return total * 1024;
}

void
pfo_process_faults(int64_t *minor, int64_t *major)
{
    struct rusage usage;
    const int known = getrusage(RUSAGE_SELF, &usage) == 0;
    *minor = known ? (int64_t)usage.ru_minflt : -1;
    *major = known ? (int64_t)usage.ru_majflt : -1;
}

pfo_machine_memory
pfo_machine_memory_read(const char *root)
{
    pfo_machine_memory memory = { -1, -1 };
    char path[PFO_CGROUP_PATH];
    char text[4096];
    int64_t kibibytes;
    const int length = snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (length < 0 || (size_t)length >= sizeof path || pfo_procfile_read(path, text, sizeof text) < 0) {
        return memory;
    }
    if (pfo_procfile_field(text, "MemTotal", &kibibytes)) {
        memory.total = kibibytes * 1024;
    }
    if (pfo_procfile_field(text, "MemAvailable", &kibibytes)) {
        memory.available = kibibytes * 1024;
    }
    return memory;
}

/* ---- heap ------------------------------------------------------------------------------------ */

/* struct mallinfo2 of glibc, under our own name because older headers have none. */
typedef struct heap_facts {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
} heap_facts;

enum { TRIM_THRESHOLD = -1, MMAP_THRESHOLD = -3, MMAP_MAX = -4 }; /* parameters of mallopt(), fixed by its ABI */

static struct {
    heap_facts (*facts)(void);
    int (*trim)(size_t pad);
    int (*option)(int parameter, int value);
} heap;
static pthread_once_t heap_once = PTHREAD_ONCE_INIT;

static void
find_heap_calls(void)
{
    void *const facts = dlsym(RTLD_DEFAULT, "mallinfo2");
    void *const trim = dlsym(RTLD_DEFAULT, "malloc_trim");
    void *const option = dlsym(RTLD_DEFAULT, "mallopt");
    memcpy(&heap.facts, &facts, sizeof facts); /* ISO C has no conversion from object to function pointer */
    memcpy(&heap.trim, &trim, sizeof trim);
    memcpy(&heap.option, &option, sizeof option);
}

pfo_heap_info
pfo_heap_read(void)
{
    (void)pthread_once(&heap_once, find_heap_calls);
    if (heap.facts == NULL) {
        return (pfo_heap_info){ -1, -1 };
    }
    const heap_facts facts = heap.facts();
    return (pfo_heap_info){ (int64_t)(facts.uordblks + facts.hblkhd), (int64_t)facts.fordblks };
}

pfo_status
pfo_heap_trim(int64_t *given_back, pfo_error *err)
{
    *given_back = 0;
    (void)pthread_once(&heap_once, find_heap_calls);
    if (heap.trim == NULL) {
        return pfo_fail(err, PFO_UNAVAILABLE, "this C library has no malloc_trim()");
    }
    const int64_t before = pfo_process_rss();
    (void)heap.trim(0);
    const int64_t after = pfo_process_rss();
    *given_back = before > after && after >= 0 ? before - after : 0;
    return PFO_OK;
}

/* [thresholds] Blocks above the mmap threshold are mapped and unmapped one by one, and glibc takes no threshold above
 * 32 MiB (half its largest heap segment): logits and large activations would still be faulted in anew at each step. So
 * retention also forbids mapped blocks (MMAP_MAX 0); where the heap cannot grow malloc maps all the same. Measured
 * with torch 2.13 on a 4-layer transformer of width 256 and logits of 33 and 134 MB: 35000 and 135000 page faults a
 * step by default, 31000 and 134000 with thresholds alone, 0 with both, which takes a fifth off the processor time of
 * a step; the price is holes: the peak of the resident set was 13 and 36 % higher. Off is what glibc's own adjustment
 * reaches in a process that frees large blocks: 32 MiB, and twice that for the trim. */
pfo_status
pfo_heap_retain(int on, int64_t *given_back, pfo_error *err)
{
    enum { MIB = 1 << 20 };
    *given_back = 0;
    (void)pthread_once(&heap_once, find_heap_calls);
    if (heap.option == NULL) {
        return pfo_fail(err, PFO_UNAVAILABLE, "this C library has no mallopt()");
    }
    if (!heap.option(MMAP_THRESHOLD, 32 * MIB) || !heap.option(TRIM_THRESHOLD, on ? -1 : 64 * MIB) ||
        !heap.option(MMAP_MAX, on ? 0 : 65536)) {
        return pfo_fail(err, PFO_UNAVAILABLE, "malloc refused its thresholds");
    }
    return on ? PFO_OK : pfo_heap_trim(given_back, err);
}

int64_t
pfo_thread_id(void)
{
    return (int64_t)syscall(SYS_gettid);
}

void
pfo_thread_name(char *name, size_t room)
{
    char own[16] = ""; /* the kernel's limit */
    (void)prctl(PR_GET_NAME, own, 0, 0, 0);
    const size_t length = strnlen(own, sizeof own) < room ? strnlen(own, sizeof own) : room - 1;
    memcpy(name, own, length);
    name[length] = '\0';
}

uint64_t
pfo_pid_namespace(void)
{
    struct stat facts;
    return stat("/proc/self/ns/pid", &facts) == 0 ? (uint64_t)facts.st_ino : 0;
}

void
pfo_process_command(char *command, size_t room)
{
    const int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, command, room - 1);
    if (file >= 0) {
        (void)close(file);
    }
    while (length > 0 && command[length - 1] == '\0') {
        length--;
    }
    for (ssize_t i = 0; i < length; i++) {
        command[i] = command[i] == '\0' ? ' ' : command[i];
    }
    command[length > 0 ? length : 0] = '\0';
}

#else
typedef int pfo_platform_linux_is_empty_here; /* ISO C wants a declaration in every translation unit */
#endif
