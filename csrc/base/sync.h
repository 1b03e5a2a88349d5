/* sync.h: mutex, condition and run-once for the pure-C parts, over POSIX threads; atomics are C11's own.
 *
 * Contract: locks are not recursive. A function whose name ends in _locked requires its caller to hold the lock.
 * User code (callbacks that may run Python) is never called with a pfo_mutex held.
 * Memory: nothing is allocated; a pfo_mutex lives inside its owner and is destroyed with it.
 */
#ifndef PFO_BASE_SYNC_H
#define PFO_BASE_SYNC_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

typedef pthread_mutex_t pfo_mutex;
typedef pthread_cond_t pfo_cond;

#define PFO_MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
#define PFO_COND_INIT PTHREAD_COND_INITIALIZER

/* 0 on success, else an errno value. */
static inline int
pfo_mutex_init(pfo_mutex *mutex)
{
    return pthread_mutex_init(mutex, NULL);
}

static inline void
pfo_mutex_destroy(pfo_mutex *mutex)
{
    (void)pthread_mutex_destroy(mutex);
}

static inline void
pfo_mutex_lock(pfo_mutex *mutex)
{
    (void)pthread_mutex_lock(mutex);
}

/* 1 if the lock was taken, 0 if another thread has it. */
static inline int
pfo_mutex_trylock(pfo_mutex *mutex)
{
    return pthread_mutex_trylock(mutex) == 0;
}

static inline void
pfo_mutex_unlock(pfo_mutex *mutex)
{
    (void)pthread_mutex_unlock(mutex);
}

/* A condition whose timed waits follow CLOCK_MONOTONIC, so that a jump of the wall clock moves nothing. 0 on success. */
static inline int
pfo_cond_init(pfo_cond *cond)
{
    pthread_condattr_t attributes;
    int error = pthread_condattr_init(&attributes);
    if (error != 0) {
        return error;
    }
#if !defined(__APPLE__)
    error = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    if (error == 0) {
        error = pthread_cond_init(cond, &attributes);
    }
    (void)pthread_condattr_destroy(&attributes);
    return error;
}

static inline void
pfo_cond_destroy(pfo_cond *cond)
{
    (void)pthread_cond_destroy(cond);
}

static inline void
pfo_cond_wait(pfo_cond *cond, pfo_mutex *mutex)
{
    (void)pthread_cond_wait(cond, mutex);
}

static inline void
pfo_cond_signal(pfo_cond *cond)
{
    (void)pthread_cond_signal(cond);
}

static inline void
pfo_cond_broadcast(pfo_cond *cond)
{
    (void)pthread_cond_broadcast(cond);
}

/* Waits until signalled or until the monotonic deadline; pre: cond came from pfo_cond_init(). 1 if the deadline passed. */
static inline int
pfo_cond_wait_until(pfo_cond *cond, pfo_mutex *mutex, const struct timespec *deadline)
{
    return pthread_cond_timedwait(cond, mutex, deadline) != 0;
}

#endif
