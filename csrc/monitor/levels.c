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

/* The least squares of the first `end` points in k segments: one row for each end, so that the squares of a segment are computed
 * once for all k, and the loop over k is one vector operation or two. INFINITY where the points are too few. */
typedef struct squares_table {
    double best[PFO_LEVELS_MAX_POINTS + 1][PFO_LEVELS_MAX + 1];
} squares_table;

static void
fill(const sums *sum, int n, squares_table *table)
{
    for (int end = 1; end <= n; end++) {
        double row[PFO_LEVELS_MAX + 1];
        for (int k = 0; k <= PFO_LEVELS_MAX; k++) {
            row[k] = INFINITY;
        }
        for (int cut = PFO_LEVELS_SHORTEST; cut <= end - PFO_LEVELS_SHORTEST; cut++) {
            const double last = squares_of(sum, cut, end);
            for (int k = 1; k <= PFO_LEVELS_MAX; k++) {
                const double squares = table->best[cut][k - 1] + last;
                row[k] = squares < row[k] ? squares : row[k];
            }
        }
        row[1] = squares_of(sum, 0, end);
        memcpy(table->best[end], row, sizeof row);
    }
}

/* Where the last of k segments of the first `end` points begins. */
static int
last_cut(const sums *sum, const squares_table *table, int end, int k)
{
    int best = 0;
    double least = INFINITY;
    for (int cut = PFO_LEVELS_SHORTEST; k > 1 && cut <= end - PFO_LEVELS_SHORTEST; cut++) {
        const double squares = table->best[cut][k - 1] + squares_of(sum, cut, end);
        if (squares < least) {
            least = squares;
            best = cut;
        }
    }
    return best;
}

/* The best segmentation of z for every number of segments, and the best of these. */
static void
segment(const double *z, int n, int shape_parameters, double floor, double weight, pfo_levels *levels)
{
    sums sum;
    squares_table table;
    sum.first[0] = sum.second[0] = 0.0;
    for (int i = 0; i < n; i++) {
        sum.first[i + 1] = sum.first[i] + z[i];
        sum.second[i + 1] = sum.second[i] + z[i] * z[i];
    }
    fill(&sum, n, &table);
    levels->cost = INFINITY;
    for (int k = 1; k <= PFO_LEVELS_MAX && k * PFO_LEVELS_SHORTEST <= n; k++) {
        const double cost = cost_of(table.best[n][k], n, k, shape_parameters, floor, weight);
        if (k == 1 || cost < levels->cost) {
            levels->cost = cost;
            levels->squares = table.best[n][k];
            levels->segments = k;
        }
    }
    int end = n;
    for (int k = levels->segments; k >= 1; k--) {
        levels->starts[k] = end;
        end = last_cut(&sum, &table, end, k);
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
