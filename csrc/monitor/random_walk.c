/* random_walk.c: see random_walk.h. */
#include "monitor/random_walk.h"

#include "monitor/slope.h"

#include <math.h>
#include <string.h>

/* The grid. At the least ratio the walk shows over 1 / sqrt(ratio) = 23 windows, a fifth of a full series; with less it is for the
 * models of levels.h, which have none. At the largest, noise is a twenty-fifth of the variance of a step. In between, the next ratio
 * on the grid costs up to 0.3 more than the best one would (120 windows, ratio 0.2), against margins of 6. */
static const double least_ratio = 1.0 / 512;
static const double largest_ratio = 64.0;
static const double ratio_factor = 1.7;

/* Sums of products of the three columns (a constant, the shape, y) in the metric of one ratio. */
typedef struct normal_equations {
    double one_one, one_shape, one_y, shape_shape, shape_y, y_y;
    double log_determinant;
} normal_equations;

/* advance: share of the clock's whole advance at each point, 0 at the first. The recursions are the LDL' factorisation of the
 * tridiagonal matrix with 1, then 2 + ratio (n - 1) advance on its diagonal and -1 beside it. */
static void
sum_up(const double *y, int n, const double *advance, const double *shape, double ratio, normal_equations *sums)
{
    memset(sums, 0, sizeof *sums);
    double pivot = 1.0;
    double one = 1.0;
    double curve = shape == NULL ? 0.0 : shape[0];
    double value = y[0];
    for (int i = 0; i < n; i++) {
        if (i > 0) {
            const double carry = 1.0 / pivot;
            one *= carry;
            curve = (shape == NULL ? 0.0 : shape[i] - shape[i - 1]) + curve * carry;
            value = y[i] - y[i - 1] + value * carry;
            pivot = 2.0 + ratio * (n - 1) * advance[i] - carry;
        }
        sums->one_one += one * one / pivot;
        sums->one_shape += one * curve / pivot;
        sums->one_y += one * value / pivot;
        sums->shape_shape += curve * curve / pivot;
        sums->shape_y += curve * value / pivot;
        sums->y_y += value * value / pivot;
        sums->log_determinant += log(pivot);
    }
}

/* Least squares of level and amount; what is left over. */
static double
solve(const normal_equations *sums, int has_shape, double *level, double *amount, double *amount_information)
{
    const double information = sums->shape_shape - sums->one_shape * sums->one_shape / sums->one_one;
    const double score = sums->shape_y - sums->one_shape * sums->one_y / sums->one_one;
    const int solvable = has_shape && information > 0.0;
    *amount = solvable ? score / information : 0.0;
    *amount_information = solvable ? information : 0.0;
    *level = (sums->one_y - *amount * sums->one_shape) / sums->one_one;
    const double left = sums->y_y - sums->one_y * sums->one_y / sums->one_one - *amount * score;
    return left > 0.0 ? left : 0.0;
}

/* Lag-1 correlation of what each value differs by from its prediction, in units of the prediction's error. */
static double
innovations_correlation(const double *y, int n, const double *advance, const double *shape, const pfo_random_walk *walk,
                        double level)
{
    double innovations[PFO_RANDOM_WALK_MAX_POINTS];
    const int whole[2] = { 0, n };
    double pivot = 1.0;
    double value = 0.0;
    for (int i = 0; i < n; i++) {
        const double here = y[i] - (shape == NULL ? 0.0 : walk->amount * shape[i]);
        if (i == 0) {
            value = here - level;
        } else {
            const double before = y[i - 1] - (shape == NULL ? 0.0 : walk->amount * shape[i - 1]);
            value = here - before + value / pivot;
            pivot = 2.0 + walk->ratio * (n - 1) * advance[i] - 1.0 / pivot;
        }
        innovations[i] = value / sqrt(pivot);
    }
    return pfo_slope_correlation(innovations, whole, 1);
}

void
pfo_random_walk_fit(const double *y, int n, const double *clock, const double *shape, int own, double floor,
                    pfo_random_walk *walk)
{
    double advance[PFO_RANDOM_WALK_MAX_POINTS] = { 0.0 };
    double best_level = 0.0;
    memset(walk, 0, sizeof *walk);
    walk->cost = INFINITY;
    const double whole = clock[n - 1] - clock[0];
    for (int i = 1; i < n; i++) {
        advance[i] = whole > 0.0 ? (clock[i] - clock[i - 1]) / whole : 0.0;
    }
    const int parameters = 2 + (shape != NULL) + own; /* a level and the ratio */
    for (double ratio = least_ratio; ratio <= largest_ratio; ratio *= ratio_factor) {
        normal_equations sums;
        double level, amount, information;
        sum_up(y, n, advance, shape, ratio, &sums);
        const double variance = solve(&sums, shape != NULL, &level, &amount, &information) / n + floor;
        const double cost = n * log(variance) + sums.log_determinant + parameters * log(n);
        if (cost < walk->cost) {
            walk->cost = cost;
            walk->ratio = ratio;
            walk->amount = amount;
            walk->error = information > 0.0 ? sqrt(variance / information) : 0.0;
            best_level = level;
        }
    }
    walk->correlation = innovations_correlation(y, n, advance, shape, walk, best_level);
}
