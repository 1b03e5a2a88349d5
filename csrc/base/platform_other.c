/* platform_other.c: platform.h where no native implementation exists: sane defaults and clear refusals. */
#include "base/platform.h"

#if !defined(__linux__)

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

#else
typedef int pfo_platform_other_is_empty_here; /* ISO C wants a declaration in every translation unit */
#endif
