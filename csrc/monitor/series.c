/* series.c: see series.h. */
#include "monitor/series.h"

#include "base/alloc.h"
#include "monitor/slope.h"

#include <math.h>
#include <string.h>

/* Not for NaN either. */
static int
is_usable(double number)
{
    return fabs(number) <= PFO_SERIES_LARGEST;
}

pfo_status
pfo_series_check(const double *seconds, const double *values, int64_t count, double minimum_change, pfo_error *err)
{
    if (count < 0) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "count is %lld; it cannot be negative", (long long)count);
    }
    if (!(minimum_change >= 0.0)) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "minimum_change is %g; accepted: 0 or more", minimum_change);
    }
    for (int64_t i = 0; i < count; i++) {
        if (!is_usable(seconds[i]) || !is_usable(values[i])) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "point %lld is (%g, %g); both numbers must be finite, at most %g",
                            (long long)i, seconds[i], values[i], PFO_SERIES_LARGEST);
        }
        if (i > 0 && seconds[i] < seconds[i - 1]) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "times[%lld] is %g after %g; times must not decrease", (long long)i,
                            seconds[i], seconds[i - 1]);
        }
    }
    return PFO_OK;
}

void
pfo_series_minima(const double *seconds, const double *values, int64_t count, int windows, double *x, double *y)
{
    for (int64_t w = 0; w < windows; w++) {
        const int64_t end = (w + 1) * count / windows;
        int64_t best = w * count / windows;
        for (int64_t i = best + 1; i < end; i++) {
            if (values[i] < values[best]) {
                best = i;
            }
        }
        x[w] = seconds[best] - seconds[0];
        y[w] = values[best];
    }
}

pfo_status
pfo_series_floors(const double *seconds, const double *values, int64_t count, int windows, double *x, double *y,
                  pfo_error *err)
{
    double *sorted = pfo_alloc_array((size_t)(count / windows) + 1, sizeof *sorted);
    if (sorted == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for a window of %lld values", (long long)(count / windows));
    }
    for (int64_t w = 0; w < windows; w++) {
        const int64_t begin = w * count / windows;
        const int64_t length = (w + 1) * count / windows - begin;
        memcpy(sorted, values + begin, (size_t)length * sizeof *sorted);
        pfo_sort_doubles(sorted, length);
        const int64_t half = (length + 1) / 2;
        y[w] = 0.0;
        for (int64_t i = 0; i < half; i++) {
            y[w] += sorted[i] / (double)half;
        }
        x[w] = 0.5 * (seconds[begin] + seconds[begin + length - 1]) - seconds[0];
    }
    pfo_free(sorted);
    return PFO_OK;
}
