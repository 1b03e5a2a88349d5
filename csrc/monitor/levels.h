/* levels.h: a series as levels that change in steps, with or without a common shape (a line, a curve) on top of them.
 *
 * Method: least squares over piecewise-constant functions (Potts functional; exact by dynamic programming, Auger and Lawrence
 * 1989), the number of levels chosen by the Bayesian information criterion (Yao 1988) with a
 * change counted as three parameters, as its place is free (Zhang and Siegmund 2007). With a shape f the model is
 * y = level(segment) + amount * f; segmentation and amount are improved in turns from two starts (no steps at all, and the steps
 * found without the shape).
 * Cost: O(PFO_LEVELS_MAX n^2) a turn; no allocation, about 20 KB of stack. Threads: no globals.
 */
#ifndef PFO_MONITOR_LEVELS_H
#define PFO_MONITOR_LEVELS_H

enum { PFO_LEVELS_MAX_POINTS = 128, PFO_LEVELS_MAX = 6, PFO_LEVELS_SHORTEST = 4 };

typedef struct pfo_levels {
    double amount;  /* of the shape; 0 without one */
    double squares; /* residual sum of squares */
    double cost;    /* weight * log(squares / n + floor) + parameters * log(n): the less, the better */
    int segments;
    int starts[PFO_LEVELS_MAX + 1]; /* starts[segments] == n */
} pfo_levels;

/* shape NULL: levels alone. own: parameters of the shape beside its amount. floor: variance below which nothing is told apart
 * (> 0). weight: independent observations among the n points (at most n). pre: 2 * PFO_LEVELS_SHORTEST <= n <= MAX_POINTS. */
void pfo_levels_fit(const double *y, int n, const double *shape, int own, double floor, double weight,
                    pfo_levels *levels);

#endif
