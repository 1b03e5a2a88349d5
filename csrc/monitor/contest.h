/* contest.h: the explanations of a memory series that compete, and how well each does.
 *
 * A shape (none, a line, growth that ends, slows down or began late) is fitted twice: with free steps beside it and white noise
 * (levels.h), and in random blocks, whose deviations from the shape are carried on (random_walk.h). Both have a cost by the Bayesian
 * information criterion (Schwarz 1978) on the same scale, so they can be compared with each other: the less, the better.
 * Shapes come from a list; the parameter of the best is then moved in ever smaller steps.
 * Threads: no globals. Memory: nothing is allocated; about 25 KB of stack.
 */
#ifndef PFO_MONITOR_CONTEST_H
#define PFO_MONITOR_CONTEST_H

#include "monitor/kept.h"
#include "monitor/leak.h"
#include "monitor/levels.h"
#include "monitor/random_walk.h"

typedef struct pfo_shape {
    pfo_leak_model model;
    enum {
        PFO_SHAPE_NONE,
        PFO_SHAPE_LINE,
        PFO_SHAPE_HINGE,
        PFO_SHAPE_LATE,
        PFO_SHAPE_LOGARITHM,
        PFO_SHAPE_SATURATION,
        PFO_SHAPE_POWER
    } curve;
    double parameter; /* where in the span, or time constant as a share of it, or exponent */
} pfo_shape;

typedef struct pfo_stepped {
    pfo_shape shape;
    pfo_levels levels;
} pfo_stepped;

typedef struct pfo_contest {
    pfo_stepped line;  /* with free steps */
    pfo_stepped other; /* the best but the line */
} pfo_contest;

/* weight: independent observations among the windows. pre: series->count >= 2 * PFO_LEVELS_SHORTEST. */
void pfo_contest_with_steps(const pfo_kept *series, double weight, pfo_contest *contest);

/* The line in random blocks; *margin: what the best other shape in blocks costs more, times the share of observations that the
 * correlation of the innovations leaves independent. pre: as above. */
void pfo_contest_in_blocks(const pfo_kept *series, pfo_random_walk *line, double *margin);

/* What the fitted curve, without the steps, adds up to over the series. */
double pfo_contest_growth(const pfo_kept *series, const pfo_stepped *fitted);

/* What is left of the series without the curve, about the level of its segment; *range is from the lowest level to the highest. */
void pfo_contest_residuals(const pfo_kept *series, const pfo_stepped *fitted, double *residuals, double *range);

#endif
