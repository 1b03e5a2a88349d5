/* test_contest.c: planted series are won by the model they come from, steps and blocks apart. */
#include "monitor/contest.h"

#include "check.h"

#include <math.h>

enum { N = 120 };
static const double mb = 1e6;

static double
jitter(unsigned long long *state)
{
    return ((double)(check_random(state) % 2001) / 1000.0 - 1.0) * 0.5 * mb;
}

typedef double (*growth)(double share);

static pfo_kept
planted(growth of)
{
    unsigned long long state = 9;
    pfo_kept series = { .count = N, .minimum = mb };
    for (int i = 0; i < N; i++) {
        series.x[i] = (i + 0.5) / N;
        series.y[i] = of(series.x[i]) * mb + jitter(&state);
    }
    return series;
}

static double
line(double share)
{
    return 50.0 * share;
}
static double
line_and_step(double share)
{
    return 50.0 * share + (share > 0.4 ? 30.0 : 0.0);
}
static double
ended(double share)
{
    return 50.0 * fmin(share, 0.5);
}
static double
slowing(double share)
{
    return 50.0 * log1p(share * 40.0) / log(41.0);
}
static double
late(double share)
{
    return 50.0 * fmax(share - 0.65, 0.0);
}
static double
steps(double share)
{
    return (share > 0.3 ? 20.0 : 0.0) + (share > 0.7 ? 20.0 : 0.0);
}

static void
each_shape_wins_its_own_series(void)
{
    static const struct {
        growth of;
        pfo_leak_model model;
        int segments;
    } cases[] = { { ended, PFO_LEAK_MODEL_ENDED, 1 },
                  { slowing, PFO_LEAK_MODEL_SLOWING, 1 },
                  { late, PFO_LEAK_MODEL_LATE, 1 },
                  { steps, PFO_LEAK_MODEL_LEVELS, 3 } };
    for (int i = 0; i < 4; i++) {
        pfo_contest contest;
        const pfo_kept series = planted(cases[i].of);
        pfo_contest_with_steps(&series, N, &contest);
        CHECK(contest.other.levels.cost < contest.line.levels.cost);
        CHECK(contest.other.shape.model == cases[i].model && contest.other.levels.segments == cases[i].segments);
    }
}

static void
a_line_wins_with_its_steps_beside_it(void)
{
    pfo_contest contest;
    const pfo_kept series = planted(line_and_step);
    pfo_contest_with_steps(&series, N, &contest);
    CHECK(contest.line.levels.cost + 6.0 < contest.other.levels.cost && contest.line.levels.segments == 2);
    CHECK(fabs(pfo_contest_growth(&series, &contest.line) - 50.0 * mb * (N - 1) / N) < 2.0 * mb);
    double residuals[N];
    double range;
    pfo_contest_residuals(&series, &contest.line, residuals, &range);
    CHECK(fabs(range - 30.0 * mb) < 2.0 * mb);
    for (int i = 0; i < N; i++) {
        CHECK(fabs(residuals[i]) < 2.0 * mb);
    }
}

/* 60 blocks at random times: even, or with a rate that falls with the time. */
static pfo_kept
of_blocks(int falling, unsigned long long seed)
{
    unsigned long long state = seed;
    pfo_kept series = { .count = N, .minimum = mb };
    for (int i = 0; i < N; i++) {
        series.x[i] = (i + 0.5) / N;
        series.y[i] = jitter(&state);
    }
    for (int block = 0; block < 60; block++) {
        const double even = (double)(check_random(&state) % 1000000) / 1e6;
        const double at = falling ? expm1(even * log(51.0)) / 50.0 : even;
        const double size = (0.2 + (double)(check_random(&state) % 1000) / 1e3) * mb;
        for (int i = 0; i < N; i++) {
            series.y[i] += series.x[i] > at ? size : 0.0;
        }
    }
    return series;
}

static void
blocks_at_an_even_rate_are_a_line_and_others_are_not(void)
{
    int found = 0;
    for (unsigned long long seed = 1; seed <= 20; seed++) {
        pfo_random_walk walk;
        double margin;
        const pfo_kept even = of_blocks(0, seed);
        pfo_contest_in_blocks(&even, &walk, &margin);
        found += margin >= 6.0 && walk.amount > 20.0 * mb && walk.amount < 80.0 * mb;
        const pfo_kept falling = of_blocks(1, seed);
        pfo_contest_in_blocks(&falling, &walk, &margin);
        CHECK(margin < 0.0);
    }
    CHECK(found >= 14);
    pfo_random_walk walk;
    double margin;
    const pfo_kept smooth = planted(line);
    pfo_contest_in_blocks(&smooth, &walk, &margin);
    CHECK(margin > 20.0 && walk.ratio < 0.1);
}

int
main(void)
{
    RUN(each_shape_wins_its_own_series);
    RUN(a_line_wins_with_its_steps_beside_it);
    RUN(blocks_at_an_even_rate_are_a_line_and_others_are_not);
    return FINISH();
}
