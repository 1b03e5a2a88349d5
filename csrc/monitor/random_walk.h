/* random_walk.h: growth that comes in random blocks: a shape, a random walk about it, and white noise on top.
 *
 * Blocks of random size at random times add up to a shape only on average. What they deviate by is carried on: a walk whose variance
 * grows with the shape itself (a compound Poisson process has mean and variance in proportion), while steps and white noise alone
 * would take it for levels. So y = level + amount * f + W(f) + noise, or without a shape y = level + W(time) + noise.
 * Method: maximum likelihood. For each ratio of the walk's variance to the noise's on a grid, the covariance of the first value and
 * the differences after it is tridiagonal, so generalised least squares and the determinant take O(n).
 * Cost: O(n) for each of some 20 ratios; no allocation, 5 KB of stack. Threads: no globals.
 */
#ifndef PFO_MONITOR_RANDOM_WALK_H
#define PFO_MONITOR_RANDOM_WALK_H

enum { PFO_RANDOM_WALK_MAX_POINTS = 128 };

typedef struct pfo_random_walk {
    double amount;      /* of the shape; 0 without one */
    double error;       /* its standard error, the walk included */
    double ratio;       /* variance of the walk over a window, mean over all, to that of the noise */
    double correlation; /* lag-1 correlation of the innovations, in [0, 0.95] */
    double cost;        /* n log(noise variance + floor) + log determinant + parameters log(n): the less, the better */
} pfo_random_walk;

/* clock: what the variance of the walk grows with, not decreasing. shape NULL: none, and clock is time; else clock should be the
 * shape. own: parameters of the shape beside its amount. floor: as in levels.h. pre: 8 <= n <= PFO_RANDOM_WALK_MAX_POINTS. */
void pfo_random_walk_fit(const double *y, int n, const double *clock, const double *shape, int own, double floor,
                         pfo_random_walk *walk);

#endif
