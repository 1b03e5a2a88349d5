/* test_trend.c: planted lines, noise, saw-teeth, steps and ties; the interval covers the planted slope as often as it
 * says. */
#include "monitor/trend.h"

#include "base/alloc.h"
#include "check.h"

#include <math.h>
#include <string.h>

enum { MOST = 20000 };

static double seconds[MOST];
static double values[MOST];

static double
noise(unsigned long long *state)
{
    double sum = -6.0; /* twelve uniform numbers: near enough to normal, deviation 1 */
    for (int i = 0; i < 12; i++) {
        sum += (double)(check_random(state) >> 11) / 9007199254740992.0;
    }
    return sum;
}

static pfo_trend
trend_of(int64_t count, double minimum_change)
{
    pfo_trend trend;
    REQUIRE(pfo_trend_estimate(seconds, values, count, minimum_change, &trend, NULL) == PFO_OK);
    return trend;
}

static void
fill_line(int64_t count, double start, double slope, double deviation, unsigned long long *state)
{
    for (int64_t i = 0; i < count; i++) {
        seconds[i] = 1000.0 + 0.1 * (double)i;
        values[i] = start + slope * 0.1 * (double)i + (deviation > 0.0 ? deviation * noise(state) : 0.0);
    }
}

static int
close_to(double a, double b, double tolerance)
{
    return fabs(a - b) <= tolerance;
}

static void
exact_lines_are_found_exactly(void)
{
    const int64_t counts[] = { 10, 11, 39, 40, 41, 256, 1023, 1024, 1025, 5000, MOST };
    const double slopes[] = { 1.0, -2.5, 1e9, -1e-3 };
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        for (size_t s = 0; s < sizeof slopes / sizeof slopes[0]; s++) {
            fill_line(counts[c], 5.0, slopes[s], 0.0, NULL);
            const pfo_trend trend = trend_of(counts[c], 0.0);
            CHECK(trend.verdict == (slopes[s] > 0 ? PFO_TREND_INCREASING : PFO_TREND_DECREASING));
            CHECK(close_to(trend.slope, slopes[s], 1e-6 * fabs(slopes[s])));
            CHECK(trend.low <= trend.slope && trend.slope <= trend.high);
            CHECK(close_to(trend.span, 0.1 * (double)(counts[c] - 1), 1e-6));
            CHECK(close_to(trend.change, trend.slope * trend.span, 1e-9 * fabs(trend.change)));
            CHECK(trend.windows >= 10 && trend.windows <= PFO_TREND_MAX_WINDOWS);
        }
    }
}

static void
few_points_say_nothing(void)
{
    fill_line(MOST, 0.0, 1.0, 0.0, NULL);
    for (int64_t count = 0; count < PFO_TREND_MIN_POINTS; count++) {
        const pfo_trend trend = trend_of(count, 0.0);
        CHECK(trend.verdict == PFO_TREND_INSUFFICIENT && close_to(trend.slope, 0.0, 0.0) && trend.windows == 0);
    }
    for (int i = 0; i < 20; i++) {
        seconds[i] = 7.0; /* no time passes */
    }
    CHECK(trend_of(20, 0.0).verdict == PFO_TREND_INSUFFICIENT);
    CHECK(strcmp(pfo_trend_verdict_name(PFO_TREND_INSUFFICIENT), "insufficient") == 0);
    CHECK(strcmp(pfo_trend_verdict_name(PFO_TREND_INCREASING), "increasing") == 0);
}

static void
constants_and_plateaus_are_stable(void)
{
    fill_line(500, 1e9, 0.0, 0.0, NULL);
    CHECK(trend_of(500, 0.0).verdict == PFO_TREND_STABLE);
    for (int64_t i = 0; i < 500; i++) {
        values[i] = i < 100 ? 1e6 * (double)i : 1e8; /* warm-up, then a plateau */
    }
    CHECK(trend_of(500, 0.0).verdict == PFO_TREND_STABLE);
    for (int64_t i = 0; i < 500; i++) {
        values[i] = i < 180 ? 1e6 : 5e6; /* one step */
    }
    CHECK(trend_of(500, 0.0).verdict == PFO_TREND_STABLE);
    for (int64_t i = 0; i < 500; i++) {
        values[i] = 1e9 + 1e7 * (double)(i % 37); /* saw-tooth */
    }
    CHECK(trend_of(500, 0.0).verdict == PFO_TREND_STABLE);
}

static void
numbers_are_finite_up_to_the_largest_and_refused_beyond(void)
{
    for (int64_t i = 0; i < 40; i++) {
        seconds[i] = (double)i;
        values[i] = 1e96 * (double)(i * i);
    }
    const pfo_trend trend = trend_of(40, 0.0);
    CHECK(trend.low < trend.slope && trend.slope < trend.high);
    pfo_trend none;
    values[39] = 1.1e100;
    CHECK(pfo_trend_estimate(seconds, values, 40, 0.0, &none, NULL) == PFO_BAD_ARGUMENT);
}

static void
times_a_rounding_apart_have_no_slope(void)
{
    for (int64_t i = 0; i < 40; i++) {
        seconds[i] = (double)i * 1e-320;
        values[i] = 1e9 * (double)i;
    }
    CHECK(trend_of(40, 0.0).verdict == PFO_TREND_INSUFFICIENT);
    seconds[39] = 1.0; /* and one that is apart */
    const pfo_trend trend = trend_of(40, 0.0);
    CHECK(isfinite(trend.slope) && isfinite(trend.low) && isfinite(trend.high));
}

static void
saw_teeth_on_a_slope_are_still_a_slope(void)
{
    for (int64_t i = 0; i < 2000; i++) {
        seconds[i] = (double)i;
        values[i] = 1e9 + 2e4 * (double)i + 5e7 * (double)(i % 4);
    }
    const pfo_trend trend = trend_of(2000, 1e6);
    CHECK(trend.verdict == PFO_TREND_INCREASING);
    CHECK(close_to(trend.slope, 2e4, 1e3));
}

static void
growth_in_steps_is_increasing(void)
{
    for (int64_t i = 0; i < 300; i++) {
        seconds[i] = (double)i;
        values[i] = 1e8 + 2e6 * (double)(i / 10);
    }
    CHECK(trend_of(300, 1e6).verdict == PFO_TREND_INCREASING);
    for (int64_t i = 0; i < 300; i++) {
        values[i] = -values[i];
    }
    CHECK(trend_of(300, 1e6).verdict == PFO_TREND_DECREASING);
}

static void
outliers_do_not_move_the_slope(void)
{
    unsigned long long state = 7;
    fill_line(400, 1e6, 10.0, 0.0, NULL);
    for (int i = 0; i < 60; i++) {
        values[check_random(&state) % 400] += 1e9;
    }
    CHECK(close_to(trend_of(400, 0.0).slope, 10.0, 0.5));
}

static void
small_changes_do_not_count(void)
{
    fill_line(100, 1e9, 1000.0, 0.0, NULL);
    CHECK(trend_of(100, 1e6).verdict == PFO_TREND_STABLE);
    CHECK(trend_of(100, 9.8e3).verdict == PFO_TREND_INCREASING);
    fill_line(100, 1e9, -1000.0, 0.0, NULL);
    CHECK(trend_of(100, 1e6).verdict == PFO_TREND_STABLE);
    CHECK(trend_of(100, 9.8e3).verdict == PFO_TREND_DECREASING);
}

/* Alarms among `series` seeded series of `count` points with lag-1 correlation r and no trend. */
static int
false_alarms(int series, int64_t count, double r)
{
    int alarms = 0;
    for (int s = 1; s <= series; s++) {
        unsigned long long state = 1000003ULL * (unsigned long long)s + 17;
        double value = noise(&state);
        fill_line(count, 0.0, 0.0, 0.0, NULL);
        for (int64_t i = 0; i < count; i++) {
            values[i] = value;
            value = r * value + sqrt(1.0 - r * r) * noise(&state);
        }
        alarms += trend_of(count, 0.0).verdict != PFO_TREND_STABLE;
    }
    return alarms;
}

static void
noise_raises_few_alarms(void)
{
    enum { SERIES = 400 };
    const struct {
        int64_t count;
        double r;
        int allowed; /* of SERIES; 5 % would be 20 */
    } cases[] = { { 10, 0.0, 32 },  { 50, 0.0, 32 },   { 200, 0.0, 32 },
                  { 200, 0.7, 40 }, { 1000, 0.7, 40 }, { 1000, 0.95, 48 } };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const int alarms = false_alarms(SERIES, cases[c].count, cases[c].r);
        (void)printf("       %lld points, correlation %.2f: %d of %d\n", (long long)cases[c].count, cases[c].r, alarms,
                     (int)SERIES);
        CHECK(alarms <= cases[c].allowed);
    }
}

static void
intervals_cover_the_planted_slope(void)
{
    int covered = 0;
    for (int s = 1; s <= 400; s++) {
        unsigned long long state = 77777ULL * (unsigned long long)s;
        fill_line(200, 1e9, 3e5, 1e6, &state);
        const pfo_trend trend = trend_of(200, 0.0);
        covered += trend.low <= 3e5 && 3e5 <= trend.high;
    }
    (void)printf("       95 %% intervals that cover: %d of 400\n", covered);
    CHECK(covered >= 360);
}

static void
a_leak_of_a_mebibyte_a_minute_is_found(void)
{
    int found = 0;
    for (int s = 1; s <= 50; s++) {
        unsigned long long state = 31ULL * (unsigned long long)s;
        for (int64_t i = 0; i < 6000; i++) { /* 10 minutes at 10 Hz on a noisy 1 GB process */
            seconds[i] = 0.1 * (double)i;
            values[i] =
                1e9 + 1048576.0 / 60.0 * seconds[i] + 2e6 * noise(&state) + (check_random(&state) % 50 == 0 ? 3e7 : 0);
        }
        found += trend_of(6000, 5e6).verdict == PFO_TREND_INCREASING;
    }
    CHECK(found == 50);
}

static void
bad_series_are_refused(void)
{
    pfo_trend trend;
    pfo_error err = PFO_ERROR_INIT;
    fill_line(20, 0.0, 1.0, 0.0, NULL);
    CHECK(pfo_trend_estimate(seconds, values, -1, 0.0, &trend, NULL) == PFO_BAD_ARGUMENT);
    CHECK(pfo_trend_estimate(seconds, values, 20, -1.0, &trend, NULL) == PFO_BAD_ARGUMENT);
    CHECK(pfo_trend_estimate(seconds, values, 20, (double)NAN, &trend, NULL) == PFO_BAD_ARGUMENT);
    values[3] = (double)INFINITY;
    CHECK(pfo_trend_estimate(seconds, values, 20, 0.0, &trend, &err) == PFO_BAD_ARGUMENT);
    CHECK(strstr(err.text, "point 3") != NULL && trend.verdict == PFO_TREND_INSUFFICIENT);
    values[3] = 0.0;
    seconds[7] = (double)NAN;
    CHECK(pfo_trend_estimate(seconds, values, 20, 0.0, &trend, NULL) == PFO_BAD_ARGUMENT);
    seconds[7] = seconds[6] - 1.0;
    pfo_error order = PFO_ERROR_INIT;
    CHECK(pfo_trend_estimate(seconds, values, 20, 0.0, &trend, &order) == PFO_BAD_ARGUMENT);
    CHECK(strstr(order.text, "times[7]") != NULL);
    seconds[7] = seconds[6]; /* equal times are allowed */
    CHECK(pfo_trend_estimate(seconds, values, 20, 0.0, &trend, NULL) == PFO_OK);
    pfo_alloc_fail_at(1);
    CHECK(pfo_trend_estimate(seconds, values, 20, 0.0, &trend, NULL) == PFO_NO_MEMORY);
    pfo_alloc_fail_at(0);
}

int
main(void)
{
    RUN(exact_lines_are_found_exactly);
    RUN(few_points_say_nothing);
    RUN(constants_and_plateaus_are_stable);
    RUN(numbers_are_finite_up_to_the_largest_and_refused_beyond);
    RUN(times_a_rounding_apart_have_no_slope);
    RUN(saw_teeth_on_a_slope_are_still_a_slope);
    RUN(growth_in_steps_is_increasing);
    RUN(outliers_do_not_move_the_slope);
    RUN(small_changes_do_not_count);
    RUN(noise_raises_few_alarms);
    RUN(intervals_cover_the_planted_slope);
    RUN(a_leak_of_a_mebibyte_a_minute_is_found);
    RUN(bad_series_are_refused);
    return FINISH();
}
