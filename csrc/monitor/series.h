/* series.h: a series of figures over time, checked, and cut into windows that are each stood for by one low value.
 *
 * Low, because a saw-tooth of garbage collection then shows what stays after each collection, and a short allocation on top
 * of what stays does not show at all. Threads: no globals. Memory: one scratch block of a window's size.
 */
#ifndef PFO_MONITOR_SERIES_H
#define PFO_MONITOR_SERIES_H

#include "base/status.h"

#include <stdint.h>

/* The largest number of a series, either sign: squares and slopes of such numbers are finite. */
#define PFO_SERIES_LARGEST 1e100

/* PFO_BAD_ARGUMENT, which names the first of: a negative count, a minimum_change that is not 0 or more, a number that is not
 * finite or beyond PFO_SERIES_LARGEST, a time that decreases. */
pfo_status pfo_series_check(const double *seconds, const double *values, int64_t count, double minimum_change,
                            pfo_error *err);

/* The smallest point of each of `windows` windows of equally many points (within one); x counts from seconds[0].
 * pre: 1 <= windows <= count. */
void pfo_series_minima(const double *seconds, const double *values, int64_t count, int windows, double *x, double *y);

/* The same with the mean of the lower half of each window's values, at the middle of its time: nearly as blind to what is short
 * and on top, and of a third of the minimum's variance in windows of a few hundred samples. PFO_NO_MEMORY. */
pfo_status pfo_series_floors(const double *seconds, const double *values, int64_t count, int windows, double *x,
                             double *y, pfo_error *err);

#endif
