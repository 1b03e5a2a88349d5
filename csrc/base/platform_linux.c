/* platform_linux.c: platform.h for Linux. */
#include "base/platform.h"

#if defined(__linux__)

#include <sched.h>
#include <signal.h>
#include <unistd.h>

int
pfo_usable_processors(void)
{
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        const long online = sysconf(_SC_NPROCESSORS_ONLN);
        return online > 0 ? (int)online : 1;
    }
    const int count = CPU_COUNT(&allowed);
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

#else
typedef int pfo_platform_linux_is_empty_here; /* ISO C wants a declaration in every translation unit */
#endif
