/* levels.c: see levels.h. */
#include "monitor/levels.h"

#include <math.h>
#include <string.h>

enum { TURNS = 4 };

typedef struct sums {
    double first[PFO_LEVELS_MAX_POINTS + 1];
    double second[PFO_LEVELS_MAX_POINTS + 1];
} sums;

/* Squares of points [from, to) about their mean. */
static double
squares_of(const sums *sum, int from, int to)
{
    const double total = sum->first[to] - sum->first[from];
    const double squares = sum->second[to] - sum->second[from] - total * total / (to - from);
    return squares > 0.0 ? squares : 0.0;
}

static double
cost_of(double squares, int n, int segments, int shape_parameters, double floor, double weight)
{
    const int parameters = 3 * segments - 2 + shape_parameters; /* a level, and twice for its free place */
    return weight * log(squares / n + floor) + parameters * log(n);
}

/* The best segmentation of z for every number of segments, and the best of these. */
static void
segment(const double *z, int n, int shape_parameters, double floor, double weight, pfo_levels *levels)
{
    sums sum;
    double best[PFO_LEVELS_MAX + 1][PFO_LEVELS_MAX_POINTS + 1];
    int from[PFO_LEVELS_MAX + 1][PFO_LEVELS_MAX_POINTS + 1];
    sum.first[0] = sum.second[0] = 0.0;
    for (int i = 0; i < n; i++) {
        sum.first[i + 1] = sum.first[i] + z[i];
        sum.second[i + 1] = sum.second[i] + z[i] * z[i];
    }
    for (int end = 1; end <= n; end++) {
        best[1][end] = squares_of(&sum, 0, end);
        from[1][end] = 0;
    }
    levels->segments = 1;
    levels->squares = squares_of(&sum, 0, n);
    levels->cost = cost_of(levels->squares, n, 1, shape_parameters, floor, weight);
    for (int k = 2; k <= PFO_LEVELS_MAX && k * PFO_LEVELS_SHORTEST <= n; k++) {
        for (int end = k * PFO_LEVELS_SHORTEST; end <= n; end++) {
            best[k][end] = INFINITY;
            from[k][end] = 0;
            for (int cut = (k - 1) * PFO_LEVELS_SHORTEST; cut <= end - PFO_LEVELS_SHORTEST; cut++) {
                const double squares = best[k - 1][cut] + squares_of(&sum, cut, end);
                if (squares < best[k][end]) {
                    best[k][end] = squares;
                    from[k][end] = cut;
                }
            }
        }
        const double cost = cost_of(best[k][n], n, k, shape_parameters, floor, weight);
        if (cost < levels->cost) {
            levels->cost = cost;
            levels->squares = best[k][n];
            levels->segments = k;
        }
    }
    int end = n;
    for (int k = levels->segments; k >= 1; k--) {
        levels->starts[k] = end;
        end = from[k][end];
    }
    levels->starts[0] = 0;
}

/* The least-squares amount of shape within the segments; 0 where the shape is flat in each. */
static double
amount_within(const double *y, const double *shape, const pfo_levels *levels)
{
    double product = 0.0;
    double square = 0.0;
    for (int k = 0; k < levels->segments; k++) {
        const int from = levels->starts[k];
        const int to = levels->starts[k + 1];
        double mean_y = 0.0;
        double mean_shape = 0.0;
        for (int i = from; i < to; i++) {
            mean_y += y[i] / (to - from);
            mean_shape += shape[i] / (to - from);
        }
        for (int i = from; i < to; i++) {
            product += (shape[i] - mean_shape) * (y[i] - mean_y);
            square += (shape[i] - mean_shape) * (shape[i] - mean_shape);
        }
    }
    return square > 0.0 ? product / square : 0.0;
}

/* Improves amount and segmentation in turns, from the segmentation in *levels, until nothing changes. */
static void
improve(const double *y, int n, const double *shape, int own, double floor, double weight, pfo_levels *levels)
{
    double z[PFO_LEVELS_MAX_POINTS];
    levels->cost = INFINITY;
    pfo_levels next = *levels;
    for (int turn = 0; turn < TURNS; turn++) {
        next.amount = amount_within(y, shape, &next);
        for (int i = 0; i < n; i++) {
            z[i] = y[i] - next.amount * shape[i];
        }
        segment(z, n, 1 + own, floor, weight, &next);
        if (!(next.cost < levels->cost)) {
            return;
        }
        const int same = next.segments == levels->segments &&
                         memcmp(next.starts, levels->starts, sizeof(int) * (size_t)(next.segments + 1)) == 0;
        *levels = next;
        if (same) {
            return;
        }
    }
}

void
pfo_levels_fit(const double *y, int n, const double *shape, int own, double floor, double weight, pfo_levels *levels)
{
    memset(levels, 0, sizeof *levels);
    segment(y, n, 0, floor, weight, levels);
    if (shape == NULL) {
        return;
    }
    pfo_levels whole = { .segments = 1, .starts = { 0, n } };
    const int has_steps = levels->segments > 1;
    improve(y, n, shape, own, floor, weight, &whole);
    if (has_steps) {
        improve(y, n, shape, own, floor, weight, levels);
    }
    if (!has_steps || whole.cost < levels->cost) {
        *levels = whole;
    }
}
