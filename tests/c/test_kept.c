/* test_kept.c: what windows make of noise, spikes, teeth, releases and warm-ups. */
#include "monitor/kept.h"

#include "base/alloc.h"
#include "check.h"

#include <math.h>

enum { COUNT = 1200 };
static const double mb = 1e6;
static double seconds[COUNT];
static double bytes[COUNT];

typedef double (*figure)(int at);

static pfo_kept
kept_of(figure of)
{
    unsigned long long state = 3;
    for (int i = 0; i < COUNT; i++) {
        seconds[i] = 5.0 + 0.5 * i;
        bytes[i] = 1000.0 * mb + of(i) * mb + ((double)(check_random(&state) % 2001) / 1000.0 - 1.0) * mb;
    }
    pfo_kept series;
    REQUIRE(pfo_kept_find(seconds, bytes, COUNT, &series, NULL) == PFO_OK);
    return series;
}

static double
highest(const pfo_kept *series)
{
    double most = series->y[0];
    for (int i = 1; i < series->count; i++) {
        most = fmax(most, series->y[i]);
    }
    return most;
}

static double
spikes(int at)
{
    return at % 100 == 50 ? 80.0 : 0.0;
}
static double
release(int at)
{
    return at >= 500 && at < 700 ? 80.0 : 0.0;
}
static double
warm_up(int at)
{
    return at < 60 ? at : 60.0 + 0.01 * at;
}
static double
blocks_that_go_soon(int at)
{
    return (at + 120) % 240 < 25 ? 40.0 : 0.0;
}
static double
slow_teeth(int at)
{
    return fmod(at / 150.0, 1.0) * 60.0;
}
static double
fast_teeth(int at)
{
    return fmod(at / 9.0, 1.0) * 60.0;
}

static void
windows_are_in_shares_of_the_span_and_bytes_above_the_level(void)
{
    const pfo_kept series = kept_of(spikes);
    CHECK(series.count == PFO_KEPT_MAX_WINDOWS && series.cut == 0 && series.releases == 0 && series.teeth == 0);
    CHECK(series.x[0] > 0.0 && series.x[0] < 0.01 && series.x[series.count - 1] < 1.0);
    CHECK(fabs(series.level - 999.5 * mb) < 0.2 * mb && fabs(series.minimum - 7.5 * mb) < 0.1 * mb);
    CHECK(highest(&series) < mb && series.noise > 0.05 * mb && series.noise < 0.5 * mb);
}

static void
what_was_given_back_was_not_kept(void)
{
    const pfo_kept series = kept_of(release);
    CHECK(series.releases == 1 && highest(&series) < 2.0 * mb);
}

static void
a_warm_up_is_cut(void)
{
    const pfo_kept series = kept_of(warm_up);
    CHECK(series.cut == 6 && series.count == PFO_KEPT_MAX_WINDOWS - 6);
    CHECK(series.cut_growth > 40.0 * mb && series.x[0] > 0.04 && series.x[0] < 0.06);
}

static void
windows_span_two_teeth(void)
{
    const pfo_kept slow = kept_of(slow_teeth);
    CHECK(slow.releases == 7 && slow.count < 6 && highest(&slow) - slow.y[0] < 5.0 * mb);
    const pfo_kept fast = kept_of(fast_teeth);
    CHECK(fast.teeth > 100 && fast.count >= 50 && fast.count < PFO_KEPT_MAX_WINDOWS);
}

static void
blocks_that_go_soon_are_no_saw(void)
{
    const pfo_kept series = kept_of(blocks_that_go_soon);
    CHECK(series.releases < PFO_KEPT_SAW && series.count > PFO_KEPT_MAX_WINDOWS / 2 && highest(&series) < 2.0 * mb);
}

/* The last of the blocks below has not gone when the series ends, and is no older than the others were. */
static double
block_at_the_end(int at)
{
    const double share = (double)at / COUNT;
    const int earlier = (share > 0.2 && share < 0.23) || (share > 0.6 && share < 0.63);
    return earlier || share > 0.975 ? 40.0 : 0.0;
}
static double
step_that_stays(int at)
{
    const double share = (double)at / COUNT;
    return (share > 0.2 && share < 0.23) || share > 0.9 ? 40.0 : 0.0;
}

static void
a_block_that_has_not_gone_yet_is_not_kept(void)
{
    const pfo_kept block = kept_of(block_at_the_end);
    CHECK(block.count >= PFO_KEPT_MAX_WINDOWS - 4 && block.count < PFO_KEPT_MAX_WINDOWS && highest(&block) < 2.0 * mb);
    const pfo_kept step = kept_of(step_that_stays);
    CHECK(step.count == PFO_KEPT_MAX_WINDOWS && highest(&step) > 35.0 * mb);
}

static void
running_out_of_memory_is_said(void)
{
    const pfo_kept whole = kept_of(spikes);
    CHECK(whole.count > 0);
    for (long n = 0; n < 2; n++) {
        pfo_kept series;
        pfo_alloc_fail_at(n + 1);
        CHECK(pfo_kept_find(seconds, bytes, COUNT, &series, NULL) == PFO_NO_MEMORY);
        pfo_alloc_fail_at(0);
    }
}

int
main(void)
{
    RUN(windows_are_in_shares_of_the_span_and_bytes_above_the_level);
    RUN(what_was_given_back_was_not_kept);
    RUN(a_warm_up_is_cut);
    RUN(windows_span_two_teeth);
    RUN(blocks_that_go_soon_are_no_saw);
    RUN(a_block_that_has_not_gone_yet_is_not_kept);
    RUN(running_out_of_memory_is_said);
    return FINISH();
}
