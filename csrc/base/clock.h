/* clock.h: the cheapest honest time stamp of this machine, and its conversion to nanoseconds.
 *
 * A tick is one count of the invariant time stamp counter where the kernel itself trusts it (clocksource "tsc"), else
 * one nanosecond of CLOCK_MONOTONIC. Ticks are stored as they are and become nanoseconds once, when they are read:
 * the rate is the slope between a reading taken at start and one taken at the moment of conversion, so it is
 * the more exact the longer the program ran, and the start of the program pays nothing.
 *
 * Sleep: where the machine was suspended or a virtual one restored, counter and clock part. Each conversion looks for
 * that and then begins a new slope, so that only what was open meanwhile is off, by that gap: the rate, and with it every
 * other duration, holds. A tick from before the gap that is placed on the clock of today is off by it, too.
 * Threads: pfo_clock_start() runs once (call it from module init); everything else is safe from any thread.
 * Fork: ticks and rate stay valid in the child.
 * Under PFO_TESTING the clock can be set, so that tests know every duration without waiting for it.
 */
#ifndef PFO_BASE_CLOCK_H
#define PFO_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

/* One moment on three clocks; CLOCK_BOOTTIME runs on while the machine sleeps. */
typedef struct pfo_clock_reading {
    int64_t tick;
    int64_t monotonic_ns;
    int64_t boottime_ns;
} pfo_clock_reading;

typedef struct pfo_clock_info {
    const char *source; /* "tsc" or "clock_monotonic" */
    double nanoseconds_per_tick;
    double read_cost_ns; /* measured: one pfo_ticks() call */
} pfo_clock_info;

#ifdef PFO_TESTING
#include <stdatomic.h>
/* What every clock function then says, in ticks of one nanosecond; PFO_CLOCK_REAL switches the real clock on again. */
#define PFO_CLOCK_REAL INT64_MIN
extern _Atomic int64_t pfo_clock_fake;

/* A machine whose clocks the test makes: it is asked instead of the real ones whenever counter and clock are compared,
 * and what was learned of the one before is forgotten. NULL: the real machine. */
typedef void (*pfo_clock_reader)(pfo_clock_reading *reading);
void pfo_clock_fake_reader(pfo_clock_reader reader);
#endif

/* 1 where ticks come from the time stamp counter. Written once by pfo_clock_start(). */
extern int pfo_clock_uses_tsc;

static inline int64_t
pfo_monotonic_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + (int64_t)now.tv_nsec;
}

/* Current tick. Not ordered against neighbouring instructions: a fence would cost more than the reading itself. */
static inline int64_t
pfo_ticks(void)
{
#ifdef PFO_TESTING
    const int64_t fake = atomic_load_explicit(&pfo_clock_fake, memory_order_relaxed);
    if (fake != PFO_CLOCK_REAL) {
        return fake;
    }
#endif
#if defined(__x86_64__)
    if (pfo_clock_uses_tsc) {
        return (int64_t)__rdtsc();
    }
#endif
    return pfo_monotonic_ns();
}

/* Chooses the source and takes the first reading. Idempotent. */
void pfo_clock_start(void);

/* Nanoseconds per tick as known now: a reading of about 2 us; 2 ms of waiting the first time, and after a jump. */
double pfo_clock_ns_per_tick(void);

/* One moment on all clocks, and the rate up to it. */
typedef struct pfo_clock_anchor {
    int64_t tick;
    int64_t monotonic_ns; /* CLOCK_MONOTONIC */
    int64_t epoch_ns;     /* CLOCK_REALTIME: nanoseconds since 1970-01-01 UTC */
    double ns_per_tick;
} pfo_clock_anchor;

pfo_clock_anchor pfo_clock_now(void);

pfo_clock_info pfo_clock_describe(void);

#endif
