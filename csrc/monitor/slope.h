/* slope.h: a robust slope with an interval, of one series or of the parts between the steps of one.
 *
 * Method: the median of the slopes of all pairs of points of the same segment (Theil 1950, Sen 1968; within strata: Hirsch, Slack
 * and Smith 1982), which up to 29 % of arbitrary outliers cannot move far. The interval follows Sen from the variance of
 * Kendall's S under no trend, with the correction for ties, summed over the segments and widened by (1 + r) / (1 - r) for the
 * lag-1 correlation r of what the lines leave over.
 * Cost: n (n - 1) / 2 slopes of n points, sorted, in one scratch block. Threads: no globals.
 */
#ifndef PFO_MONITOR_SLOPE_H
#define PFO_MONITOR_SLOPE_H

#include "base/status.h"

#include <stdint.h>

enum { PFO_SLOPE_MAX_POINTS = 256 };
#define PFO_SLOPE_APART 1e-12 /* closer in x is no distance: a second or a span in parts of a million million */

#define PFO_SLOPE_NORMAL_QUANTILE 1.959963984540054 /* two-sided 95 % */

typedef struct pfo_slope {
    double slope;
    double low; /* 95 % interval */
    double high;
    double correlation; /* r, in [0, 0.95] */
    int64_t pairs;      /* 0: no two points of a segment are PFO_SLOPE_APART apart in x; all else is 0 then */
} pfo_slope;

/* Segment k is [starts[k], starts[k + 1]); starts has segments + 1 numbers, the last of them the number of points, which is at
 * most PFO_SLOPE_MAX_POINTS; x does not decrease. PFO_NO_MEMORY. */
pfo_status pfo_slope_estimate(const double *x, const double *y, const int *starts, int segments, pfo_slope *slope,
                              pfo_error *err);

/* r of residuals: lag-1 correlation within the segments, each about its own mean, corrected for its downward bias in short series
 * (Marriott and Pope 1954), within [0, 0.95]. */
double pfo_slope_correlation(const double *residuals, const int *starts, int segments);

/* Of sorted numbers; pre: count >= 1. */
double pfo_sorted_median(const double *sorted, int64_t count);
void pfo_sort_doubles(double *values, int64_t count);

#endif
