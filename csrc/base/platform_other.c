/* platform_other.c: platform.h where no native implementation exists: sane defaults and clear refusals. */
#include "base/platform.h"

#if !defined(__linux__)

#include "base/clock.h"
#include "base/sync.h"

#include <sys/resource.h>
#include <unistd.h>

int
pfo_usable_processors(void)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

int
pfo_thread_create_quiet(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *), void *argument)
{
    return pthread_create(thread, attributes, entry, argument);
}

/* All words share one lock: a waker takes it, so that nobody who has just looked at a word misses the call. A condition's clock
 * differs between systems, so waits are cut into pieces that do not depend on it much. */
static pfo_mutex word_lock = PFO_MUTEX_INIT;
static pfo_cond word_changed = PFO_COND_INIT;

int
pfo_word_wait(_Atomic uint32_t *word, uint32_t seen, int64_t deadline_ns)
{
    const int64_t piece_ns = 50000000;
    const int64_t left_ns = deadline_ns - pfo_monotonic_ns();
    if (left_ns <= 0) {
        return 1;
    }
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    const int64_t nanoseconds = (int64_t)until.tv_nsec + (left_ns < piece_ns ? left_ns : piece_ns);
    until.tv_sec += (time_t)(nanoseconds / 1000000000);
    until.tv_nsec = (long)(nanoseconds % 1000000000);
    pfo_mutex_lock(&word_lock);
    if (atomic_load(word) == seen) {
        (void)pthread_cond_timedwait(&word_changed, &word_lock, &until);
    }
    pfo_mutex_unlock(&word_lock);
    return pfo_monotonic_ns() >= deadline_ns;
}

void
pfo_word_wake(_Atomic uint32_t *word)
{
    (void)word;
    pfo_mutex_lock(&word_lock);
    pfo_cond_broadcast(&word_changed);
    pfo_mutex_unlock(&word_lock);
}

int64_t
pfo_thread_cpu_ns(pthread_t thread)
{
    (void)thread;
    return -1;
}

int64_t
pfo_page_size(void)
{
    return (int64_t)sysconf(_SC_PAGESIZE);
}

int64_t
pfo_process_rss(void)
{
    return -1;
}

int64_t
pfo_process_peak_rss(void)
{
    return -1;
}

int64_t
pfo_process_uss(void)
{
    return -1;
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
    (void)root;
    pfo_machine_memory memory = { -1, -1 };
#if defined(_SC_PHYS_PAGES)
    const long pages = sysconf(_SC_PHYS_PAGES);
    memory.total = pages > 0 ? (int64_t)pages * pfo_page_size() : -1;
#endif
    return memory;
}

pfo_heap_info
pfo_heap_read(void)
{
    return (pfo_heap_info){ -1, -1 };
}

pfo_status
pfo_heap_trim(int64_t *given_back, pfo_error *err)
{
    *given_back = 0;
    return pfo_fail(err, PFO_UNAVAILABLE, "giving free heap pages back is not implemented for this system");
}

pfo_status
pfo_heap_retain(int on, int64_t *given_back, pfo_error *err)
{
    (void)on;
    *given_back = 0;
    return pfo_fail(err, PFO_UNAVAILABLE, "keeping freed heap pages is not implemented for this system");
}

int64_t
pfo_thread_id(void)
{
    return (int64_t)(intptr_t)pthread_self();
}

void
pfo_thread_name(char *name, size_t room)
{
    (void)room;
    name[0] = '\0';
}

uint64_t
pfo_pid_namespace(void)
{
    return 0;
}

void
pfo_process_command(char *command, size_t room)
{
    (void)room;
    command[0] = '\0';
}

#else
typedef int pfo_platform_other_is_empty_here; /* ISO C wants a declaration in every translation unit */
#endif
