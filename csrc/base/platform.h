/* platform.h: everything this project asks of the operating system beyond POSIX threads and clocks.
 *
 * platform_linux.c implements it for Linux, platform_other.c answers PFO_UNAVAILABLE with a reason (or a sane default) elsewhere;
 * the build compiles both files and each is empty on the other's system, so callers have no #ifdef.
 * Units: bytes, nanoseconds. Threads: every function is safe from any thread unless it says otherwise.
 */
#ifndef PFO_BASE_PLATFORM_H
#define PFO_BASE_PLATFORM_H

#include "base/status.h"

#include <pthread.h>
#include <stdint.h>

/* Processors this process may use: affinity mask, bounded by the cgroup's CPU quota (rounded up), at least 1. */
int pfo_usable_processors(void);

/* pthread_create() with every signal blocked in the new thread, so that Python's handlers keep running on Python's threads.
 * 0 or an errno value. */
int pfo_thread_create_quiet(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *), void *argument);

#endif
