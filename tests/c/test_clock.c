/* test_clock.c: ticks move forward and agree with CLOCK_MONOTONIC once converted. */
#include "base/clock.h"

#include "check.h"

#include <math.h>
#include <string.h>
#include <time.h>

static void
ticks_never_go_back(void)
{
    int64_t last = pfo_ticks();
    int backwards = 0;
    for (int i = 0; i < 100000; i++) {
        const int64_t now = pfo_ticks();
        backwards += now < last;
        last = now;
    }
    CHECK(backwards == 0);
}

/* Ticks over clock during one nap; a preemption between two readings disturbs a try, not the clock. */
static double
agreement(void)
{
    const struct timespec nap = { 0, 30000000 };
    const int64_t tick_begin = pfo_ticks();
    const int64_t ns_begin = pfo_monotonic_ns();
    (void)nanosleep(&nap, NULL);
    const int64_t tick_end = pfo_ticks();
    const int64_t ns_end = pfo_monotonic_ns();
    return (double)(tick_end - tick_begin) * pfo_clock_ns_per_tick() / (double)(ns_end - ns_begin);
}

static void
ticks_agree_with_the_monotonic_clock(void)
{
    double best = agreement();
    for (int tries = 1; tries < 5; tries++) {
        const double next = agreement();
        best = fabs(next - 1.0) < fabs(best - 1.0) ? next : best;
    }
    CHECK(fabs(best - 1.0) < 0.01);
}

static void
tick_of_now_is_the_time_of_now(void)
{
    const int64_t before = pfo_monotonic_ns();
    const int64_t tick = pfo_ticks();
    const int64_t after = pfo_monotonic_ns();
    const int64_t converted = pfo_clock_tick_to_monotonic_ns(tick);
    CHECK(converted > before - 1000000 && converted < after + 1000000);
}

static void
an_anchor_is_one_moment_on_all_clocks(void)
{
    const pfo_clock_anchor first = pfo_clock_now();
    struct timespec wall;
    REQUIRE(clock_gettime(CLOCK_REALTIME, &wall) == 0);
    const pfo_clock_anchor second = pfo_clock_now();
    const int64_t between = (int64_t)wall.tv_sec * 1000000000 + (int64_t)wall.tv_nsec;
    CHECK(first.epoch_ns <= between && first.epoch_ns < second.epoch_ns && first.tick < second.tick);
    CHECK(second.epoch_ns > between - 1000000);
    const int64_t passed = second.monotonic_ns - first.monotonic_ns;
    CHECK(fabs((double)(second.tick - first.tick) * second.ns_per_tick - (double)passed) <
          0.02 * (double)passed + 5000);
}

static void
a_fake_clock_stands_where_it_is_put(void)
{
    atomic_store(&pfo_clock_fake, 12345);
    const pfo_clock_anchor now = pfo_clock_now();
    CHECK(pfo_ticks() == 12345 && now.tick == 12345 && now.epoch_ns == 12345 && now.ns_per_tick > 0.999999);
    CHECK(fabs(pfo_clock_ns_per_tick() - 1.0) < 1e-12);
    atomic_store(&pfo_clock_fake, PFO_CLOCK_REAL);
    CHECK(pfo_ticks() != 12345);
}

static void
description_is_complete(void)
{
    const pfo_clock_info info = pfo_clock_describe();
    CHECK(strcmp(info.source, pfo_clock_uses_tsc ? "tsc" : "clock_monotonic") == 0);
    CHECK(info.nanoseconds_per_tick > 0.01 && info.nanoseconds_per_tick < 1000.0);
    CHECK(info.read_cost_ns > 0.0);
}

static void
the_fallback_is_the_monotonic_clock(void)
{
    const int saved = pfo_clock_uses_tsc;
    pfo_clock_uses_tsc = 0;
    const int64_t before = pfo_monotonic_ns();
    const int64_t tick = pfo_ticks();
    CHECK(tick >= before && tick <= pfo_monotonic_ns());
    CHECK(fabs(pfo_clock_ns_per_tick() - 1.0) < 1e-12);
    pfo_clock_uses_tsc = saved;
}

int
main(void)
{
    pfo_clock_start();
    RUN(ticks_never_go_back);
    RUN(ticks_agree_with_the_monotonic_clock);
    RUN(tick_of_now_is_the_time_of_now);
    RUN(an_anchor_is_one_moment_on_all_clocks);
    RUN(a_fake_clock_stands_where_it_is_put);
    RUN(description_is_complete);
    RUN(the_fallback_is_the_monotonic_clock);
    return FINISH();
}
