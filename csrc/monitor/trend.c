/* trend.c: see trend.h. */
#include "monitor/trend.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES_PER_WINDOW = 4 }; /* before the cap on windows: enough to step over a short spike */
static const double normal_quantile = 1.959963984540054; /* two-sided 95 % */
static const double largest_correlation = 0.95;

static const char *const verdict_names[PFO_TREND_VERDICT_COUNT] = {
#define PFO_TREND_NAME(id, name) name,
    PFO_TREND_VERDICTS(PFO_TREND_NAME)
#undef PFO_TREND_NAME
};

const char *
pfo_trend_verdict_name(pfo_trend_verdict verdict)
{
    const int index = (int)verdict;
    return verdict_names[index >= 0 && index < PFO_TREND_VERDICT_COUNT ? index : 0];
}

static pfo_status
check_series(const double *seconds, const double *values, int64_t count, double minimum_change, pfo_error *err)
{
    if (count < 0) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "count is %lld; it cannot be negative", (long long)count);
    }
    if (!(minimum_change >= 0.0)) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "minimum_change is %g; accepted: 0 or more", minimum_change);
    }
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(seconds[i]) || !isfinite(values[i])) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "point %lld is (%g, %g); both numbers must be finite", (long long)i,
                            seconds[i], values[i]);
        }
        if (i > 0 && seconds[i] < seconds[i - 1]) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "times[%lld] is %g after %g; times must not decrease", (long long)i,
                            seconds[i], seconds[i - 1]);
        }
    }
    return PFO_OK;
}

/* The smallest point of each window; the number of windows. */
static int
take_minima(const double *seconds, const double *values, int64_t count, double *x, double *y)
{
    int64_t windows = count / SAMPLES_PER_WINDOW;
    windows = windows < PFO_TREND_MIN_POINTS ? PFO_TREND_MIN_POINTS : windows;
    windows = windows > PFO_TREND_MAX_WINDOWS ? PFO_TREND_MAX_WINDOWS : windows;
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
    return (int)windows;
}

static int
compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left;
    const double b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Slopes of all pairs with time between them, sorted; their number. */
static int64_t
pair_slopes(const double *x, const double *y, int windows, double *slopes)
{
    int64_t pairs = 0;
    for (int i = 0; i < windows; i++) {
        for (int j = i + 1; j < windows; j++) {
            if (x[j] > x[i]) {
                slopes[pairs++] = (y[j] - y[i]) / (x[j] - x[i]);
            }
        }
    }
    qsort(slopes, (size_t)pairs, sizeof *slopes, compare_doubles);
    return pairs;
}

static double
median_of_sorted(const double *sorted, int64_t count)
{
    const int64_t half = count / 2;
    return count % 2 != 0 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
}

/* Variance of Kendall's S without a trend, ties in y taken off. Sorts y. */
static double
kendall_variance(double *y, int windows)
{
    const double n = windows;
    double variance = n * (n - 1.0) * (2.0 * n + 5.0);
    qsort(y, (size_t)windows, sizeof *y, compare_doubles);
    for (int i = 0; i < windows;) {
        int end = i + 1;
        while (end < windows && y[end] <= y[i]) {
            end++;
        }
        const double ties = end - i;
        variance -= ties * (ties - 1.0) * (2.0 * ties + 5.0);
        i = end;
    }
    return variance / 18.0;
}

/* By how much neighbours that resemble each other widen the variance: (1 + r) / (1 - r), r the lag-1 correlation of the
 * residuals, corrected for its downward bias in short series (Marriott and Pope 1954), within [0, largest_correlation]. */
static double
correlation_factor(const double *x, const double *y, int windows, double slope)
{
    double mean = 0.0;
    for (int i = 0; i < windows; i++) {
        mean += (y[i] - slope * x[i]) / windows;
    }
    double square = 0.0;
    double product = 0.0;
    double before = 0.0;
    for (int i = 0; i < windows; i++) {
        const double residual = y[i] - slope * x[i] - mean;
        square += residual * residual;
        product += i > 0 ? residual * before : 0.0;
        before = residual;
    }
    if (square <= 0.0) {
        return 1.0;
    }
    const double biased = product / square;
    double r = biased + (1.0 + 4.0 * biased) / windows;
    if (!isfinite(r)) { /* residuals whose squares overflow tell nothing: the widest interval */
        r = largest_correlation;
    }
    r = r < 0.0 ? 0.0 : r;
    r = r > largest_correlation ? largest_correlation : r;
    return (1.0 + r) / (1.0 - r);
}

static void
judge(pfo_trend *trend, double minimum_change)
{
    trend->verdict = PFO_TREND_STABLE;
    if (trend->low > 0.0 && trend->change >= minimum_change) {
        trend->verdict = PFO_TREND_INCREASING;
    }
    if (trend->high < 0.0 && -trend->change >= minimum_change) {
        trend->verdict = PFO_TREND_DECREASING;
    }
}

/* x, y: the window minima; slopes: room for all pairs. */
static void
estimate(double *x, double *y, int windows, double *slopes, pfo_trend *trend)
{
    const int64_t pairs = pair_slopes(x, y, windows, slopes);
    if (pairs == 0) {
        return;
    }
    trend->verdict = PFO_TREND_STABLE;
    trend->slope = median_of_sorted(slopes, pairs);
    const double factor = correlation_factor(x, y, windows, trend->slope);
    const double reach = normal_quantile * sqrt(kendall_variance(y, windows) * factor);
    const double low_rank = floor(((double)pairs - reach) / 2.0);
    const double high_rank = ceil(((double)pairs + reach) / 2.0);
    trend->low = slopes[low_rank < 0.0 ? 0 : (int64_t)low_rank];
    trend->high = slopes[high_rank > (double)(pairs - 1) ? pairs - 1 : (int64_t)high_rank];
}

pfo_status
pfo_trend_estimate(const double *seconds, const double *values, int64_t count, double minimum_change, pfo_trend *trend,
                   pfo_error *err)
{
    memset(trend, 0, sizeof *trend);
    trend->verdict = PFO_TREND_INSUFFICIENT;
    PFO_TRY(check_series(seconds, values, count, minimum_change, err));
    if (count < PFO_TREND_MIN_POINTS || !(seconds[count - 1] > seconds[0])) {
        return PFO_OK;
    }
    double x[PFO_TREND_MAX_WINDOWS];
    double y[PFO_TREND_MAX_WINDOWS];
    const int windows = take_minima(seconds, values, count, x, y);
    double *slopes = pfo_alloc_array((size_t)windows * (size_t)(windows - 1) / 2, sizeof *slopes);
    if (slopes == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for the slopes of %d windows", windows);
    }
    estimate(x, y, windows, slopes, trend);
    pfo_free(slopes);
    if (trend->verdict != PFO_TREND_INSUFFICIENT) {
        trend->span = seconds[count - 1] - seconds[0];
        trend->change = trend->slope * trend->span;
        trend->windows = windows;
        judge(trend, minimum_change);
    }
    return PFO_OK;
}
