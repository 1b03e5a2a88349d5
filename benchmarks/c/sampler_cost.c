/* sampler_cost.c: prints, for each of ROUNDS rounds, the processor nanoseconds of one turn at 100 Hz of a thread that only
 * sleeps (clock_nanosleep), and of the sampler, waking up included. Built and run by bench_memory.py. */
#include "base/clock.h"
#include "base/platform.h"
#include "monitor/sampler.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

enum { ROUNDS = 7, TURNS = 100 };
static const int64_t interval_ns = 10000000;

static void *
only_sleep(void *cost)
{
    int64_t due = pfo_monotonic_ns();
    const int64_t before = pfo_thread_cpu_ns(pthread_self());
    for (int i = 0; i < TURNS; i++) {
        due += interval_ns;
        const struct timespec at = { (time_t)(due / 1000000000), (long)(due % 1000000000) };
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    }
    *(double *)cost = (double)(pfo_thread_cpu_ns(pthread_self()) - before) / TURNS;
    return NULL;
}

static double
sampler_turn(pfo_sampler *sampler)
{
    const struct timespec length = { 0, 999999999 };
    pfo_sampler_counts before, after;
    pfo_sampler_count(sampler, &before);
    if (pfo_sampler_start(sampler, 0, NULL) != PFO_OK) {
        return 0.0;
    }
    (void)nanosleep(&length, NULL);
    pfo_sampler_stop(sampler);
    pfo_sampler_count(sampler, &after);
    return (double)(after.cpu_ns - before.cpu_ns) / (double)(after.taken - before.taken);
}

int
main(void)
{
    pfo_sampler *sampler;
    if (pfo_sampler_create(interval_ns, 4096, NULL, NULL, &sampler, NULL) != PFO_OK) {
        return 1;
    }
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t thread;
        double floor;
        if (pthread_create(&thread, NULL, only_sleep, &floor) != 0 || pthread_join(thread, NULL) != 0) {
            return 1;
        }
        (void)printf("%.0f %.0f\n", floor, sampler_turn(sampler));
    }
    pfo_sampler_destroy(sampler);
    return 0;
}
