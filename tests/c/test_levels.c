/* test_levels.c: planted steps and amounts come back; a segmentation is as good as the best of all, tried one by one. */
#include "monitor/levels.h"

#include "check.h"

#include <math.h>

static double
jitter(unsigned long long *state)
{
    return (double)(check_random(state) % 2001) / 1000.0 - 1.0;
}

static void
planted_steps_are_found(void)
{
    double y[100];
    unsigned long long state = 15;
    for (int i = 0; i < 100; i++) {
        y[i] = (i >= 30 ? 50.0 : 0.0) + (i >= 70 ? -20.0 : 0.0) + jitter(&state);
    }
    pfo_levels found;
    pfo_levels_fit(y, 100, NULL, 0, 1e-6, 100.0, &found);
    CHECK(found.segments == 3 && found.starts[0] == 0 && found.starts[1] == 30 && found.starts[2] == 70);
    CHECK(found.starts[3] == 100 && fpclassify(found.amount) == FP_ZERO);
}

static void
noise_has_one_level(void)
{
    double y[100];
    unsigned long long state = 12;
    int alone = 0;
    for (int turn = 0; turn < 100; turn++) {
        for (int i = 0; i < 100; i++) {
            y[i] = jitter(&state);
        }
        pfo_levels found;
        pfo_levels_fit(y, 100, NULL, 0, 1e-6, 100.0, &found);
        alone += found.segments == 1;
    }
    CHECK(alone >= 95);
}

static void
a_line_is_told_from_steps_beside_it(void)
{
    double y[100], line[100];
    unsigned long long state = 13;
    for (int i = 0; i < 100; i++) {
        line[i] = i / 99.0;
        y[i] = 40.0 * line[i] + (i >= 50 ? 100.0 : 0.0) + jitter(&state);
    }
    pfo_levels with, without;
    pfo_levels_fit(y, 100, line, 0, 1e-6, 100.0, &with);
    pfo_levels_fit(y, 100, NULL, 0, 1e-6, 100.0, &without);
    CHECK(with.cost < without.cost && with.segments == 2 && with.starts[1] == 50);
    CHECK(fabs(with.amount - 40.0) < 3.0);
}

/* The least squares with one step, every place tried. */
static double
best_of_one_step(const double *y, int n)
{
    double best = INFINITY;
    for (int cut = PFO_LEVELS_SHORTEST; cut <= n - PFO_LEVELS_SHORTEST; cut++) {
        double squares = 0.0;
        for (int part = 0; part < 2; part++) {
            const int from = part == 0 ? 0 : cut;
            const int to = part == 0 ? cut : n;
            double mean = 0.0;
            for (int i = from; i < to; i++) {
                mean += y[i] / (to - from);
            }
            for (int i = from; i < to; i++) {
                squares += (y[i] - mean) * (y[i] - mean);
            }
        }
        best = fmin(best, squares);
    }
    return best;
}

static void
one_step_is_put_where_all_places_tried_say(void)
{
    double y[40];
    unsigned long long state = 14;
    int compared = 0;
    for (int turn = 0; turn < 300; turn++) {
        const int n = 2 * PFO_LEVELS_SHORTEST + (int)(check_random(&state) % 32);
        for (int i = 0; i < n; i++) {
            y[i] = (i >= n / 3 ? 4.0 : 0.0) + jitter(&state);
        }
        pfo_levels found;
        pfo_levels_fit(y, n, NULL, 0, 1e-6, n, &found);
        if (found.segments == 2) {
            CHECK(fabs(found.squares - best_of_one_step(y, n)) < 1e-9);
            compared++;
        }
    }
    CHECK(compared > 50);
}

static void
a_flat_series_costs_its_floor(void)
{
    double y[8] = { 5, 5, 5, 5, 5, 5, 5, 5 };
    double flat[8] = { 1, 1, 1, 1, 1, 1, 1, 1 };
    pfo_levels found;
    pfo_levels_fit(y, 8, flat, 0, 1e-6, 8.0, &found);
    CHECK(found.segments == 1 && fpclassify(found.amount) == FP_ZERO && isfinite(found.cost));
}

int
main(void)
{
    RUN(planted_steps_are_found);
    RUN(noise_has_one_level);
    RUN(a_line_is_told_from_steps_beside_it);
    RUN(one_step_is_put_where_all_places_tried_say);
    RUN(a_flat_series_costs_its_floor);
    return FINISH();
}
