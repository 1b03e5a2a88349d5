/* trend.h: does a series rise, fall, or neither, and how sure is that?
 *
 * Method: the series is cut into windows and each is stood for by its smallest value (a saw-tooth of garbage collection
 * then shows what stays after each collection). The slope is the median of the slopes of all pairs of windows (Theil 1950,
 * Sen 1968; slope.h) with its interval, widened for autocorrelation (memory series are anything but independent).
 * Cost: at most PFO_TREND_MAX_WINDOWS windows, so at most 32640 pairs, a few milliseconds and 300 KB whatever the length.
 * Threads: no globals.
 */
#ifndef PFO_MONITOR_TREND_H
#define PFO_MONITOR_TREND_H

#include "base/status.h"

#include <stdint.h>

enum { PFO_TREND_MAX_WINDOWS = 256, PFO_TREND_MIN_POINTS = 10 };
#define PFO_TREND_MIN_SECONDS 1e-9

/* X(enumerator, name) */
#define PFO_TREND_VERDICTS(X)                                                                                          \
    X(INSUFFICIENT, "insufficient")                                                                                    \
    X(STABLE, "stable")                                                                                                \
    X(INCREASING, "increasing")                                                                                        \
    X(DECREASING, "decreasing")

typedef enum pfo_trend_verdict {
#define PFO_TREND_ENUM(id, name) PFO_TREND_##id,
    PFO_TREND_VERDICTS(PFO_TREND_ENUM)
#undef PFO_TREND_ENUM
        PFO_TREND_VERDICT_COUNT
} pfo_trend_verdict;

const char *pfo_trend_verdict_name(pfo_trend_verdict verdict);

typedef struct pfo_trend {
    pfo_trend_verdict verdict;
    double slope; /* values per second */
    double low;   /* 95 % interval of the slope */
    double high;
    double change;   /* slope * span: what the trend adds up to over the series */
    double span;     /* seconds from the first point to the last */
    int64_t windows; /* windows the series was cut into */
} pfo_trend;

/* seconds must not decrease; both arrays have count finite numbers. The verdict is INCREASING or DECREASING when the whole
 * interval is on that side of zero and |change| >= minimum_change (>= 0), STABLE when not, INSUFFICIENT (all numbers zero)
 * with fewer than PFO_TREND_MIN_POINTS points or less than PFO_TREND_MIN_SECONDS between them.
 * PFO_BAD_ARGUMENT names what is not as above; PFO_NO_MEMORY. */
pfo_status pfo_trend_estimate(const double *seconds, const double *values, int64_t count, double minimum_change,
                              pfo_trend *trend, pfo_error *err);

#endif
