/* contest.c: see contest.h. */
#include "monitor/contest.h"

#include <math.h>
#include <stddef.h>

static const double variance_floor = PFO_KEPT_PAGE * PFO_KEPT_PAGE;

static const pfo_shape no_shape = { PFO_LEAK_MODEL_LEVELS, PFO_SHAPE_NONE, 0.0 };
static const pfo_shape line_shape = { PFO_LEAK_MODEL_LINE, PFO_SHAPE_LINE, 0.0 };

/* Growth whose rate at the end is at least half of that at the start is no slowing down that samples could tell from a line: the
 * logarithm's is 4/9 at the largest share, and the power's mean rate in the second half a third of that in the first at the
 * largest exponent. A hinge or a late start leaves a fifth of the series beside it. */
#define LARGEST_SHARE 0.8
#define LARGEST_EXPONENT 0.4
static const pfo_shape shapes[] = {
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.15 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.22 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.3 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.38 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.45 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.52 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.59 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.66 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, 0.73 },
    { PFO_LEAK_MODEL_ENDED, PFO_SHAPE_HINGE, LARGEST_SHARE },
    { PFO_LEAK_MODEL_LATE, PFO_SHAPE_LATE, 0.5 },
    { PFO_LEAK_MODEL_LATE, PFO_SHAPE_LATE, 0.65 },
    { PFO_LEAK_MODEL_LATE, PFO_SHAPE_LATE, LARGEST_SHARE },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_LOGARITHM, 1.0 / 6 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_LOGARITHM, 1.0 / 15 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_LOGARITHM, 1.0 / 50 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_LOGARITHM, 1.0 / 300 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_SATURATION, 1.0 / 2.5 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_SATURATION, 1.0 / 4 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_SATURATION, 1.0 / 7 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_SATURATION, 1.0 / 13 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_SATURATION, 1.0 / 30 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_POWER, 0.2 },
    { PFO_LEAK_MODEL_SLOWING, PFO_SHAPE_POWER, LARGEST_EXPONENT },
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static double
value_at(const pfo_shape *shape, double x)
{
    switch (shape->curve) {
    case PFO_SHAPE_HINGE:
        return fmin(x, shape->parameter);
    case PFO_SHAPE_LATE:
        return fmax(x - shape->parameter, 0.0);
    case PFO_SHAPE_LOGARITHM:
        return log1p(x / shape->parameter);
    case PFO_SHAPE_SATURATION:
        return -expm1(-x / shape->parameter);
    case PFO_SHAPE_POWER:
        return pow(x, shape->parameter);
    case PFO_SHAPE_LINE:
        return x;
    case PFO_SHAPE_NONE:
    default:
        return 0.0;
    }
}

/* The shape's values, or NULL for no shape; its parameters beside the amount. */
static const double *
curve_of(const pfo_kept *series, const pfo_shape *shape, double *values, int *own)
{
    *own = shape->curve != PFO_SHAPE_LINE && shape->curve != PFO_SHAPE_NONE;
    for (int i = 0; i < series->count; i++) {
        values[i] = value_at(shape, series->x[i]);
    }
    return shape->curve == PFO_SHAPE_NONE ? NULL : values;
}

static void
fit_with_steps(const pfo_kept *series, const pfo_shape *shape, double weight, pfo_levels *levels)
{
    double values[PFO_KEPT_MAX_WINDOWS];
    int own;
    const double *const curve = curve_of(series, shape, values, &own);
    pfo_levels_fit(series->y, series->count, curve, own, variance_floor, weight, levels);
}

static void
fit_in_blocks(const pfo_kept *series, const pfo_shape *shape, pfo_random_walk *walk)
{
    double values[PFO_KEPT_MAX_WINDOWS];
    int own;
    const double *const curve = curve_of(series, shape, values, &own);
    pfo_random_walk_fit(series->y, series->count, curve == NULL ? series->x : curve, curve, own, variance_floor, walk);
}

typedef double (*cost_of)(const pfo_kept *series, const pfo_shape *shape, double weight);

static double
cost_with_steps(const pfo_kept *series, const pfo_shape *shape, double weight)
{
    pfo_levels levels;
    fit_with_steps(series, shape, weight, &levels);
    return levels.cost;
}

static double
cost_in_blocks(const pfo_kept *series, const pfo_shape *shape, double weight)
{
    pfo_random_walk walk;
    (void)weight;
    fit_in_blocks(series, shape, &walk);
    return walk.cost;
}

/* Moves the parameter of a curve between those of the list, in ever smaller steps: where noise is small, a list is too coarse and
 * steps would be taken for the curve. */
static void
refine(const pfo_kept *series, cost_of cost, double weight, pfo_shape *best, double *least)
{
    for (double factor = 1.2; factor > 1.002; factor = sqrt(factor)) {
        for (int up = 0; up < 2; up++) {
            pfo_shape moved = *best;
            moved.parameter *= up ? factor : 1.0 / factor;
            if (moved.parameter > (moved.curve == PFO_SHAPE_POWER ? LARGEST_EXPONENT : LARGEST_SHARE)) {
                continue;
            }
            const double moved_cost = cost(series, &moved, weight);
            if (moved_cost < *least) {
                *best = moved;
                *least = moved_cost;
            }
        }
    }
}

/* The best shape but the line, and its cost. */
static pfo_shape
best_but_the_line(const pfo_kept *series, cost_of cost, double weight, double *least)
{
    pfo_shape best = no_shape;
    *least = cost(series, &best, weight);
    for (int s = 0; s < SHAPES; s++) {
        const double shape_cost = cost(series, &shapes[s], weight);
        if (shape_cost < *least) {
            best = shapes[s];
            *least = shape_cost;
        }
    }
    if (best.curve != PFO_SHAPE_NONE) {
        refine(series, cost, weight, &best, least);
    }
    return best;
}

void
pfo_contest_with_steps(const pfo_kept *series, double weight, pfo_contest *contest)
{
    double least;
    contest->line.shape = line_shape;
    fit_with_steps(series, &line_shape, weight, &contest->line.levels);
    contest->other.shape = best_but_the_line(series, cost_with_steps, weight, &least);
    fit_with_steps(series, &contest->other.shape, weight, &contest->other.levels);
}

void
pfo_contest_in_blocks(const pfo_kept *series, pfo_random_walk *line, double *margin)
{
    double least;
    fit_in_blocks(series, &line_shape, line);
    (void)best_but_the_line(series, cost_in_blocks, 0.0, &least);
    *margin = (least - line->cost) * (1.0 - line->correlation) / (1.0 + line->correlation);
}

double
pfo_contest_growth(const pfo_kept *series, const pfo_stepped *fitted)
{
    const double first = value_at(&fitted->shape, series->x[0]);
    return fitted->levels.amount * (value_at(&fitted->shape, series->x[series->count - 1]) - first);
}

void
pfo_contest_residuals(const pfo_kept *series, const pfo_stepped *fitted, double *residuals, double *range)
{
    const pfo_levels *levels = &fitted->levels;
    double lowest = INFINITY;
    double highest = -INFINITY;
    for (int k = 0; k < levels->segments; k++) {
        const int from = levels->starts[k];
        const int to = levels->starts[k + 1];
        double mean = 0.0;
        for (int i = from; i < to; i++) {
            residuals[i] = series->y[i] - levels->amount * value_at(&fitted->shape, series->x[i]);
            mean += residuals[i] / (to - from);
        }
        for (int i = from; i < to; i++) {
            residuals[i] -= mean;
        }
        lowest = fmin(lowest, mean);
        highest = fmax(highest, mean);
    }
    *range = highest - lowest;
}
