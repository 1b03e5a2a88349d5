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

static pthread_once_t start_once = PTHREAD_ONCE_INIT;

enum { CALIBRATION_NS = 2000000, READING_TRIES = 16, JUMP_NS = 1000000, JUMP_RATIO = 1000 };

/* [window] The rate is the slope over the longest stretch of time without a jump. The counter and CLOCK_MONOTONIC part
 * company when the machine sleeps or a virtual one is restored: the one may go on, stop or begin anew where the other
 * does not. A jump shows in CLOCK_BOOTTIME, which counts sleep, or in readings that are not where the rate so far says;
 * then a fresh stretch decides whether the rate still holds, and the window begins anew. */
typedef struct calibration {
    pfo_clock_reading base; /* where the window begins */
    pfo_clock_reading last;
    double rate;     /* 0: not known yet */
    int64_t rate_ns; /* the length of the stretch that it comes from */
} calibration;

static pfo_mutex lock = PFO_MUTEX_INIT;
static calibration known; /* with the lock */

#ifdef PFO_TESTING
static _Atomic(pfo_clock_reader) fake_reader;
#endif

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

static int64_t
nanoseconds_of(clockid_t clock)
{
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + (int64_t)now.tv_nsec;
}

/* One moment on all clocks: readings taken as close together as any of READING_TRIES tries got them. */
static pfo_clock_reading
take_reading(void)
{
    pfo_clock_reading best = { 0, 0, 0 };
#ifdef PFO_TESTING
    const pfo_clock_reader reader = atomic_load_explicit(&fake_reader, memory_order_relaxed);
    if (reader != NULL) {
        reader(&best);
        return best;
    }
#endif
    int64_t best_gap = INT64_MAX;
    for (int i = 0; i < READING_TRIES; i++) {
        const int64_t before = pfo_ticks();
        const int64_t monotonic = pfo_monotonic_ns();
        const int64_t after = pfo_ticks();
        const int64_t boottime = nanoseconds_of(CLOCK_BOOTTIME);
        const int64_t gap = pfo_ticks() - before;
        if (i == 0 || (gap >= 0 && gap < best_gap)) {
            best_gap = gap;
            best = (pfo_clock_reading){ before + (after - before) / 2, monotonic, boottime };
        }
    }
    return best;
}

static double
slope(const pfo_clock_reading *from, const pfo_clock_reading *to)
{
    const int64_t ticks = to->tick - from->tick;
    return (double)(to->monotonic_ns - from->monotonic_ns) / (double)(ticks > 0 ? ticks : 1);
}

/* The rate over a short stretch that begins now; *end is its end. */
static double
measure(pfo_clock_reading *end)
{
    const pfo_clock_reading begin = take_reading();
    do {
        *end = take_reading();
    } while (end->monotonic_ns - begin.monotonic_ns < CALIBRATION_NS);
    return slope(&begin, end);
}

/* 1 if the clocks did not run from one reading to the next as they should at this rate. */
static int
jumped(const pfo_clock_reading *from, const pfo_clock_reading *to, double rate)
{
    const int64_t passed = to->monotonic_ns - from->monotonic_ns;
    const int64_t asleep = to->boottime_ns - from->boottime_ns - passed;
    const double off = (double)passed - (double)(to->tick - from->tick) * rate;
    const double most = JUMP_NS + (double)passed / JUMP_RATIO;
    return to->tick < from->tick || asleep > JUMP_NS || asleep < -JUMP_NS || off > most || off < -most;
}

static void
learn_locked(void)
{
    pfo_clock_reading now;
    if (!(known.rate > 0)) {
        known.rate = measure(&now);
        known.rate_ns = CALIBRATION_NS;
    } else {
        now = take_reading();
    }
    if (jumped(&known.last, &now, known.rate)) {
        const double fresh = measure(&now);
        if (fresh > known.rate * (1 + 1.0 / JUMP_RATIO) || fresh < known.rate * (1 - 1.0 / JUMP_RATIO)) {
            known.rate = fresh;
            known.rate_ns = CALIBRATION_NS;
        }
        known.base = now;
    } else if (now.monotonic_ns - known.base.monotonic_ns > known.rate_ns) {
        known.rate = slope(&known.base, &now);
        known.rate_ns = now.monotonic_ns - known.base.monotonic_ns;
    }
    known.last = now;
}

static void
before_fork(void)
{
    pfo_mutex_lock(&lock);
}

static void
after_fork(void)
{
    pfo_mutex_unlock(&lock);
}

static void
start(void)
{
#if defined(__x86_64__) && defined(__linux__)
    pfo_clock_uses_tsc = kernel_trusts_tsc();
#endif
    /* Without the handlers a child forked amid a calibration could wait for ever; then ticks are nanoseconds. */
    if (pthread_atfork(before_fork, after_fork, after_fork) != 0) {
        pfo_clock_uses_tsc = 0;
    }
    known.base = take_reading();
    known.last = known.base;
}

void
pfo_clock_start(void)
{
    (void)pthread_once(&start_once, start);
}

#ifdef PFO_TESTING
void
pfo_clock_fake_reader(pfo_clock_reader reader)
{
    pfo_clock_start();
    pfo_mutex_lock(&lock);
    atomic_store_explicit(&fake_reader, reader, memory_order_relaxed);
    known = (calibration){ .base = take_reading() };
    known.last = known.base;
    pfo_mutex_unlock(&lock);
}

static int
is_faked(void)
{
    return atomic_load_explicit(&fake_reader, memory_order_relaxed) != NULL;
}
#endif

double
pfo_clock_ns_per_tick(void)
{
    pfo_clock_start();
    int constant = !pfo_clock_uses_tsc;
#ifdef PFO_TESTING
    constant =
        !is_faked() && (constant || atomic_load_explicit(&pfo_clock_fake, memory_order_relaxed) != PFO_CLOCK_REAL);
#endif
    if (constant) {
        return 1.0;
    }
    pfo_mutex_lock(&lock);
    learn_locked();
    const double rate = known.rate;
    pfo_mutex_unlock(&lock);
    return rate;
}

pfo_clock_anchor
pfo_clock_now(void)
{
    pfo_clock_anchor now = { .ns_per_tick = pfo_clock_ns_per_tick() };
#ifdef PFO_TESTING
    now.tick = pfo_ticks();
    if (!is_faked() && atomic_load_explicit(&pfo_clock_fake, memory_order_relaxed) != PFO_CLOCK_REAL) {
        now.monotonic_ns = now.tick;
        now.epoch_ns = now.tick;
        now.ns_per_tick = 1.0;
        return now;
    }
#endif
    const pfo_clock_reading reading = take_reading();
    now.tick = reading.tick;
    now.monotonic_ns = reading.monotonic_ns;
    const int64_t wall = nanoseconds_of(CLOCK_REALTIME);
    const int64_t monotonic_again = pfo_monotonic_ns();
    /* The wall clock's reading lies between the two of the monotonic one; that it is a hair late is taken back. */
    now.epoch_ns = wall - (monotonic_again - now.monotonic_ns);
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
