/* test_slope.c: slopes within segments, their interval, and the correlation of what is left. */
#include "monitor/slope.h"

#include "base/alloc.h"
#include "check.h"

#include <math.h>

static void
the_slope_of_a_line_is_exact_and_steps_do_not_count(void)
{
    double x[40], y[40];
    for (int i = 0; i < 40; i++) {
        x[i] = i;
        y[i] = 2.0 * i + (i >= 20 ? 1000.0 : 0.0);
    }
    const int parts[3] = { 0, 20, 40 };
    pfo_slope found;
    CHECK(pfo_slope_estimate(x, y, parts, 2, &found, NULL) == PFO_OK);
    CHECK(fabs(found.slope - 2.0) < 1e-12 && found.low <= found.slope && found.slope <= found.high);
    CHECK(found.pairs == 2 * (20 * 19 / 2));
    const int whole[2] = { 0, 40 };
    CHECK(pfo_slope_estimate(x, y, whole, 1, &found, NULL) == PFO_OK);
    CHECK(found.slope > 10.0); /* without the segments the step is taken for a slope */
}

static void
a_third_of_outliers_moves_nothing_far(void)
{
    double x[60], y[60];
    unsigned long long state = 5;
    for (int i = 0; i < 60; i++) {
        x[i] = i;
        y[i] = 5.0 * i + (check_random(&state) % 4 == 0 ? 1e6 : 0.0);
    }
    const int whole[2] = { 0, 60 };
    pfo_slope found;
    CHECK(pfo_slope_estimate(x, y, whole, 1, &found, NULL) == PFO_OK);
    CHECK(fabs(found.slope - 5.0) < 1e-9);
}

static void
nothing_to_tell_apart_gives_zeros(void)
{
    const double x[4] = { 3, 3, 3, 3 };
    const double y[4] = { 1, 2, 3, 4 };
    const int whole[2] = { 0, 4 };
    const int one[2] = { 0, 1 };
    const int none[2] = { 0, 0 };
    pfo_slope found;
    CHECK(pfo_slope_estimate(x, y, whole, 1, &found, NULL) == PFO_OK && found.pairs == 0);
    CHECK(pfo_slope_estimate(x, y, one, 1, &found, NULL) == PFO_OK && found.pairs == 0);
    CHECK(pfo_slope_estimate(x, y, none, 1, &found, NULL) == PFO_OK && found.pairs == 0);
}

static void
neighbours_that_resemble_each_other_are_seen(void)
{
    double alike[100], unlike[100];
    unsigned long long state = 9;
    double level = 0.0;
    for (int i = 0; i < 100; i++) {
        const double kick = (double)(check_random(&state) % 1000) - 499.5;
        level = 0.9 * level + kick;
        alike[i] = level;
        unlike[i] = i % 2 == 0 ? 1.0 : -1.0;
    }
    const int whole[2] = { 0, 100 };
    CHECK(pfo_slope_correlation(alike, whole, 1) > 0.6);
    CHECK(pfo_slope_correlation(alike, whole, 1) <= 0.95);
    CHECK(fpclassify(pfo_slope_correlation(unlike, whole, 1)) == FP_ZERO);
    const double flat[3] = { 7, 7, 7 };
    const int three[2] = { 0, 3 };
    CHECK(fpclassify(pfo_slope_correlation(flat, three, 1)) == FP_ZERO);
}

static void
no_memory_is_said(void)
{
    const double x[2] = { 0, 1 };
    const int whole[2] = { 0, 2 };
    pfo_slope found;
    pfo_alloc_fail_at(1);
    CHECK(pfo_slope_estimate(x, x, whole, 1, &found, NULL) == PFO_NO_MEMORY);
    pfo_alloc_fail_at(0);
}

int
main(void)
{
    RUN(the_slope_of_a_line_is_exact_and_steps_do_not_count);
    RUN(a_third_of_outliers_moves_nothing_far);
    RUN(nothing_to_tell_apart_gives_zeros);
    RUN(neighbours_that_resemble_each_other_are_seen);
    RUN(no_memory_is_said);
    return FINISH();
}
