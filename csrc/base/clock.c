/* clock.c: choice of the tick source and calibration. See clock.h. */
#include "base/clock.h"

#include "base/sync.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int pfo_clock_uses_tsc = 0;

#ifdef PFO_TESTING
_Atomic int64_t pfo_clock_fake = PFO_CLOCK_REAL;
#endif

static int64_t anchor_tick;
static int64_t anchor_ns;
static pthread_once_t start_once = PTHREAD_ONCE_INIT;

enum { MIN_CALIBRATION_NS = 2000000, ANCHOR_TRIES = 16 };

#if defined(__x86_64__) && defined(__linux__)
/* The kernel keeps "tsc" as clocksource only while it finds the counter constant, non-stop and in step on all cores. */
static int
kernel_trusts_tsc(void)
{
    char name[16];
    const int file = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return 0;
    }
    const ssize_t length = read(file, name, sizeof name);
    (void)close(file);
    return length >= 4 && memcmp(name, "tsc\n", 4) == 0;
}
#endif

/* A pair of readings of both clocks, taken as close together as any of ANCHOR_TRIES tries got them. */
static void
take_anchor(int64_t *tick, int64_t *nanoseconds)
{
    int64_t best_gap = INT64_MAX;
    for (int i = 0; i < ANCHOR_TRIES; i++) {
        const int64_t before = pfo_ticks();
        const int64_t now = pfo_monotonic_ns();
        const int64_t after = pfo_ticks();
        const int64_t gap = after - before;
        if (gap >= 0 && gap < best_gap) {
            best_gap = gap;
            *tick = before + gap / 2;
            *nanoseconds = now;
        }
    }
}

static void
start(void)
{
#if defined(__x86_64__) && defined(__linux__)
    pfo_clock_uses_tsc = kernel_trusts_tsc();
#endif
    take_anchor(&anchor_tick, &anchor_ns);
}

void
pfo_clock_start(void)
{
    (void)pthread_once(&start_once, start);
}

double
pfo_clock_ns_per_tick(void)
{
#ifdef PFO_TESTING
    if (atomic_load_explicit(&pfo_clock_fake, memory_order_relaxed) != PFO_CLOCK_REAL) {
        return 1.0;
    }
#endif
    pfo_clock_start();
    if (!pfo_clock_uses_tsc) {
        return 1.0;
    }
    while (pfo_monotonic_ns() - anchor_ns < MIN_CALIBRATION_NS) {
    }
    int64_t tick = anchor_tick + 1;
    int64_t nanoseconds = anchor_ns + 1;
    take_anchor(&tick, &nanoseconds);
    return (double)(nanoseconds - anchor_ns) / (double)(tick - anchor_tick);
}

int64_t
pfo_clock_tick_to_monotonic_ns(int64_t tick)
{
    const double rate = pfo_clock_ns_per_tick();
    return anchor_ns + (int64_t)((double)(tick - anchor_tick) * rate);
}

pfo_clock_anchor
pfo_clock_now(void)
{
    pfo_clock_anchor now = { .ns_per_tick = pfo_clock_ns_per_tick() };
    int64_t monotonic_again = 0;
    struct timespec wall;
#ifdef PFO_TESTING
    now.tick = pfo_ticks();
    if (atomic_load_explicit(&pfo_clock_fake, memory_order_relaxed) != PFO_CLOCK_REAL) {
        now.monotonic_ns = now.tick;
        now.epoch_ns = now.tick;
        now.ns_per_tick = 1.0;
        return now;
    }
#endif
    take_anchor(&now.tick, &now.monotonic_ns);
    (void)clock_gettime(CLOCK_REALTIME, &wall);
    monotonic_again = pfo_monotonic_ns();
    /* The wall clock's reading lies between the two of the monotonic one; that it is a hair late is taken back. */
    now.epoch_ns = (int64_t)wall.tv_sec * 1000000000 + (int64_t)wall.tv_nsec - (monotonic_again - now.monotonic_ns);
    return now;
}

pfo_clock_info
pfo_clock_describe(void)
{
    enum { READS = 1000 };
    pfo_clock_info info;
    info.nanoseconds_per_tick = pfo_clock_ns_per_tick();
    info.source = pfo_clock_uses_tsc ? "tsc" : "clock_monotonic";
    const int64_t begin = pfo_monotonic_ns();
    int64_t last = 0;
    for (int i = 0; i < READS; i++) {
        last ^= pfo_ticks();
    }
    const int64_t end = pfo_monotonic_ns();
    /* (last & 0) keeps the loop alive without a volatile store in it. */
    info.read_cost_ns = (double)(end - begin + (last & 0)) / READS;
    return info;
}
