/* test_leak.c: one planted series of each kind, hostile series, and every allocation failing. The error rates over thousands of
 * seeded series are measured by tests/python/test_memory_verdict.py. */
#include "monitor/leak.h"

#include "base/alloc.h"
#include "check.h"
#include "monitor/kept.h"

#include <math.h>
#include <string.h>

enum { COUNT = 1200 };
static const double mb = 1e6;
static double seconds[COUNT];
static double bytes[COUNT];

static double
jitter(unsigned long long *state)
{
    return ((double)(check_random(state) % 2001) / 1000.0 - 1.0) * mb;
}

/* share: of the span, 0 to 1; the growth of the kind there, in MB. */
typedef double (*growth)(double share);

static double
none(double share)
{
    return 0.0 * share;
}
static double
line(double share)
{
    return 60.0 * share;
}
static double
falling(double share)
{
    return -60.0 * share;
}
static double
hinge(double share)
{
    return 60.0 * fmin(share / 0.5, 1.0);
}
static double
logarithm(double share)
{
    return 60.0 * log1p(share * 50.0) / log(51.0);
}
static double
one_step(double share)
{
    return share > 0.4 ? 60.0 : 0.0;
}
static double
teeth(double share)
{
    return 60.0 * fmod(share * 12.0, 1.0);
}
static double
rising_teeth(double share)
{
    return 60.0 * fmod(share * 40.0, 1.0) + 60.0 * share;
}
static double
few_rising_teeth(double share)
{
    return 60.0 * fmod(share * 10.0, 1.0) + 60.0 * share;
}
static double
many_level_teeth(double share)
{
    return 60.0 * fmod(share * 40.0, 1.0);
}
static double
teeth_within_windows(double share)
{
    return 60.0 * fmod(share * 170.0, 1.0);
}
/* 300 MB in 60 blocks, each at a random moment. */
static double
random_blocks(double share)
{
    unsigned long long state = 5;
    double sum = 0.0;
    for (int k = 0; k < 60; k++) {
        sum += share > (double)(check_random(&state) % 10000) / 10000.0 ? 5.0 : 0.0;
    }
    return sum;
}
static double
late(double share)
{
    return share > 0.8 ? 60.0 * (share - 0.8) : 0.0;
}
static double
late_at_a_quarter(double share)
{
    return 360.0 * fmax(share - 0.25, 0.0);
}
static double
three_times_as_fast(double share)
{
    return 200.0 * share + 400.0 * fmax(share - 0.5, 0.0);
}

static pfo_leak
judged(growth kind)
{
    unsigned long long state = 77;
    for (int i = 0; i < COUNT; i++) {
        seconds[i] = 100.0 + i;
        bytes[i] = 1000.0 * mb + mb * kind(i / (COUNT - 1.0)) + jitter(&state);
    }
    pfo_leak found;
    REQUIRE(pfo_leak_judge(seconds, bytes, COUNT, &found, NULL) == PFO_OK);
    return found;
}

static void
each_kind_is_told(void)
{
    CHECK(judged(none).verdict == PFO_LEAK_STABLE);
    CHECK(judged(hinge).verdict == PFO_LEAK_PLATEAU);
    CHECK(judged(logarithm).verdict == PFO_LEAK_PLATEAU);
    CHECK(judged(one_step).verdict == PFO_LEAK_STEP);
    CHECK(judged(teeth).verdict == PFO_LEAK_SAWTOOTH);
    const pfo_leak saw = judged(many_level_teeth);
    CHECK(saw.verdict == PFO_LEAK_SAWTOOTH && saw.releases >= PFO_KEPT_SAW);
    const pfo_leak fine_saw = judged(teeth_within_windows);
    CHECK(fine_saw.verdict == PFO_LEAK_SAWTOOTH && fine_saw.teeth >= PFO_KEPT_SAW && fine_saw.releases == 0);
    CHECK(judged(line).verdict == PFO_LEAK_LEAK);
    CHECK(judged(rising_teeth).verdict == PFO_LEAK_LEAK);
    CHECK(judged(late).verdict == PFO_LEAK_INSUFFICIENT);
    CHECK(judged(falling).verdict == PFO_LEAK_STABLE);
}

static void
growth_is_left_open_rather_than_called_something_without_growth(void)
{
    CHECK(judged(few_rising_teeth).verdict == PFO_LEAK_INSUFFICIENT);
    const pfo_leak began = judged(late_at_a_quarter);
    CHECK(began.verdict == PFO_LEAK_INSUFFICIENT && began.model == PFO_LEAK_MODEL_LATE && began.steps > 0);
    CHECK(judged(three_times_as_fast).verdict == PFO_LEAK_INSUFFICIENT);
}

static void
the_slope_is_the_planted_one(void)
{
    const double planted = 60.0 * mb / (COUNT - 1.0);
    const pfo_leak found = judged(line);
    CHECK(fabs(found.slope / planted - 1.0) < 0.02 && found.low <= planted && planted <= found.high);
    CHECK(fabs(found.growth - 60.0 * mb) < 2.0 * mb && found.model == PFO_LEAK_MODEL_LINE);
    const pfo_leak stepped = judged(one_step);
    CHECK(stepped.steps == 1 && stepped.low <= 0.0 && stepped.high >= 0.0);
    CHECK(judged(falling).slope < 0.0);
    const pfo_leak ended = judged(hinge);
    CHECK(fabs(ended.slope) < 0.1 * planted);
}

static void
a_leak_in_random_blocks_has_the_slope_of_their_walk(void)
{
    const double planted = 300.0 * mb / (COUNT - 1.0);
    const pfo_leak found = judged(random_blocks);
    CHECK(found.verdict == PFO_LEAK_LEAK && found.model == PFO_LEAK_MODEL_BLOCKS && found.steps == 0);
    CHECK(found.low > 0.0 && found.low <= planted && planted <= found.high && found.margin >= 12.0);
    CHECK(fabs(found.slope * found.span - found.growth) <
          0.02 * found.growth); /* windows' middles span a little less */
}

static void
too_little_is_insufficient(void)
{
    (void)judged(line);
    pfo_leak found;
    CHECK(pfo_leak_judge(seconds, bytes, 0, &found, NULL) == PFO_OK && found.verdict == PFO_LEAK_INSUFFICIENT);
    CHECK(pfo_leak_judge(seconds, bytes, PFO_LEAK_MIN_POINTS - 1, &found, NULL) == PFO_OK);
    CHECK(found.verdict == PFO_LEAK_INSUFFICIENT && found.windows == 0);
    for (int i = 0; i < COUNT; i++) {
        seconds[i] = i * 0.02; /* 24 seconds in all */
    }
    CHECK(pfo_leak_judge(seconds, bytes, COUNT, &found, NULL) == PFO_OK);
    CHECK(found.verdict == PFO_LEAK_INSUFFICIENT && found.windows == 0 && found.span > 23.0);
}

static void
hostile_series_get_a_verdict_or_an_error(void)
{
    pfo_leak found;
    for (int i = 0; i < COUNT; i++) {
        seconds[i] = i < COUNT / 2 ? 0.0 : 1e6; /* two moments */
        bytes[i] = i % 2 == 0 ? 1e100 : -1e100;
    }
    CHECK(pfo_leak_judge(seconds, bytes, COUNT, &found, NULL) == PFO_OK && found.verdict != PFO_LEAK_LEAK);
    for (int i = 0; i < COUNT; i++) {
        seconds[i] = i;
        bytes[i] = 4096.0;
    }
    CHECK(pfo_leak_judge(seconds, bytes, COUNT, &found, NULL) == PFO_OK && found.verdict == PFO_LEAK_STABLE);
    bytes[3] = INFINITY;
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_leak_judge(seconds, bytes, COUNT, &found, &err) == PFO_BAD_ARGUMENT &&
          strstr(err.text, "point 3") != NULL);
}

static void
fail_each_allocation_of(growth kind)
{
    (void)judged(kind);
    pfo_status status = PFO_NO_MEMORY;
    int failures = 0;
    for (long n = 1; status == PFO_NO_MEMORY && n < 20; n++) {
        pfo_leak found;
        pfo_alloc_fail_at(n);
        status = pfo_leak_judge(seconds, bytes, COUNT, &found, NULL);
        pfo_alloc_fail_at(0);
        failures += status == PFO_NO_MEMORY;
    }
    CHECK(status == PFO_OK && failures == 3);
}

static void
running_out_of_memory_is_said(void)
{
    fail_each_allocation_of(line);
    fail_each_allocation_of(hinge);
}

static void
names_are_those_of_the_documentation(void)
{
    CHECK(strcmp(pfo_leak_verdict_name(PFO_LEAK_LEAK), "leak") == 0);
    CHECK(strcmp(pfo_leak_verdict_name((pfo_leak_verdict)99), "insufficient") == 0);
    CHECK(strcmp(pfo_leak_model_name(PFO_LEAK_MODEL_ENDED), "growth that ended") == 0);
}

int
main(void)
{
    RUN(each_kind_is_told);
    RUN(growth_is_left_open_rather_than_called_something_without_growth);
    RUN(the_slope_is_the_planted_one);
    RUN(a_leak_in_random_blocks_has_the_slope_of_their_walk);
    RUN(too_little_is_insufficient);
    RUN(hostile_series_get_a_verdict_or_an_error);
    RUN(running_out_of_memory_is_said);
    RUN(names_are_those_of_the_documentation);
    return FINISH();
}
