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

/* A machine of 2.5 ticks a nanosecond, on which every reading takes 100 us. */
static int64_t machine_ns;      /* CLOCK_MONOTONIC */
static int64_t machine_asleep;  /* CLOCK_BOOTTIME is ahead by this */
static int64_t machine_counter; /* the counter is ahead of where the clock would have it by this */
static double machine_rate;     /* ticks a nanosecond */

static void
read_machine(pfo_clock_reading *reading)
{
    machine_ns += 100000;
    reading->monotonic_ns = machine_ns;
    reading->boottime_ns = machine_ns + machine_asleep;
    reading->tick = machine_counter + (int64_t)((double)machine_ns * machine_rate);
}

static void
make_machine(void)
{
    machine_ns = 5000000000;
    machine_asleep = 0;
    machine_counter = 0;
    machine_rate = 2.5;
    pfo_clock_fake_reader(read_machine);
}

static int
rate_is(double expected, double tolerance)
{
    const double rate = pfo_clock_ns_per_tick();
    if (fabs(rate - expected) > tolerance * expected) {
        (void)fprintf(stderr, "rate %.9f, not %.9f\n", rate, expected);
        return 0;
    }
    return 1;
}

enum { HOUR_SECONDS = 3600 };
static const int64_t second = 1000000000;

/* The counter ran on while the machine slept, before anything was converted and after. */
static void
sleep_does_not_bend_the_rate(void)
{
    for (int known_before = 0; known_before < 2; known_before++) {
        make_machine();
        machine_ns += 10 * second;
        CHECK(!known_before || rate_is(0.4, 1e-6));
        machine_asleep += 8 * HOUR_SECONDS * second;
        machine_counter += 8 * HOUR_SECONDS * (second / 2 * 5);
        machine_ns += second;
        CHECK(rate_is(0.4, 1e-6));
        machine_ns += 100 * second;
        CHECK(rate_is(0.4, 1e-9)); /* a slope over those 100 s */
    }
}

/* A counter that stops, goes back to zero, or is moved by a restore that CLOCK_BOOTTIME knows nothing of. */
static void
other_jumps_do_not_bend_it(void)
{
    const int64_t jumps[] = { -3 * HOUR_SECONDS * second, -15000000000, 50 * second, 1 * second, -1 * second };
    for (int i = 0; i < 5; i++) {
        for (int known_before = 0; known_before < 2; known_before++) {
            make_machine();
            machine_ns += 10 * second;
            CHECK(!known_before || rate_is(0.4, 1e-6));
            machine_counter += jumps[i];
            machine_ns += second;
            CHECK(rate_is(0.4, 1e-6));
            machine_ns += second;
            CHECK(rate_is(0.4, 1e-6));
        }
    }
}

/* A slope is kept while the clock is only disciplined (at most 500 in a million), and given up when the rate is another
 * one: a virtual machine that moved to other hardware. */
static void
a_rate_that_changes_is_learned(void)
{
    make_machine();
    machine_ns += 1000 * second;
    CHECK(rate_is(0.4, 1e-9));
    const int64_t before = machine_ns;
    machine_rate *= 1.0003;
    machine_counter -= (int64_t)((double)before * machine_rate) - (int64_t)((double)before * 2.5);
    machine_ns += 10 * second;
    CHECK(rate_is(0.4, 1e-5)); /* still of the whole: 10 s of 1010 s */
    make_machine();
    machine_ns += 10 * second;
    CHECK(rate_is(0.4, 1e-9));
    machine_rate = 3.0;
    machine_ns += 10 * second;
    CHECK(rate_is(1.0 / 3.0, 1e-6));
    pfo_clock_fake_reader(NULL);
    CHECK(pfo_clock_ns_per_tick() > 0.01);
}

int
main(void)
{
    pfo_clock_start();
    RUN(ticks_never_go_back);
    RUN(ticks_agree_with_the_monotonic_clock);
    RUN(an_anchor_is_one_moment_on_all_clocks);
    RUN(a_fake_clock_stands_where_it_is_put);
    RUN(description_is_complete);
    RUN(the_fallback_is_the_monotonic_clock);
    RUN(sleep_does_not_bend_the_rate);
    RUN(other_jumps_do_not_bend_it);
    RUN(a_rate_that_changes_is_learned);
    return FINISH();
}
