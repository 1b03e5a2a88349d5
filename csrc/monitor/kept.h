/* kept.h: from samples to the memory that a process kept, window by window.
 *
 * The series is cut into at most PFO_KEPT_MAX_WINDOWS windows, each stood for by the mean of its lower half (series.h). Windows that
 * stick out of their neighbourhood, alone or up to four together, are blocks that went soon: they are smoothed, by the median of 5
 * and of 9 windows (Hampel 1974: measured in the neighbourhood's own deviations, so that teeth are left as they are). Where there is
 * a saw then (large falls, and figures spread over its height), windows are widened until each spans two teeth and stand for their
 * lowest part. Else a rise at the very end is left out that is no older than the oldest block that went has become (two windows
 * where none did), what was given back later by a large fall does not count as kept, and a warm-up that grows several times as
 * fast as the rest is cut. Threads: no globals. Memory: scratch blocks of the samples' size.
 */
#ifndef PFO_MONITOR_KEPT_H
#define PFO_MONITOR_KEPT_H

#include "base/status.h"

#include <stdint.h>

enum { PFO_KEPT_MAX_WINDOWS = 120, PFO_KEPT_SAW = 3 /* teeth that make a saw */ };
#define PFO_KEPT_PAGE 4096.0 /* bytes; nothing below is told apart */

typedef struct pfo_kept {
    int count;                      /* windows, those of a warm-up and of a rise left out not among them */
    double x[PFO_KEPT_MAX_WINDOWS]; /* share of the series' span, 0 to 1 */
    double y[PFO_KEPT_MAX_WINDOWS]; /* bytes above the level */
    double level;                   /* bytes: median of all windows */
    double minimum;                 /* bytes: growth from which it is worth its name, 1 MiB or 0.75 % of the level */
    double noise;                   /* standard deviation of a window about its neighbours */
    double cut_growth;              /* bytes by which the warm-up grew */
    int cut;                        /* windows of the warm-up */
    int releases;                   /* large falls of the windows, blocks that went soon left out */
    int teeth;                      /* falls of the samples, where these show a saw too fine for windows */
} pfo_kept;

/* pre: the series is as pfo_series_check() wants it, count >= 12 and the last time is above the first. PFO_NO_MEMORY. */
pfo_status pfo_kept_find(const double *seconds, const double *values, int64_t count, pfo_kept *series, pfo_error *err);

/* pre: 1 <= count <= PFO_KEPT_MAX_WINDOWS. */
double pfo_kept_median(const double *values, int count);

#endif
