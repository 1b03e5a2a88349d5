/* trend.c: see trend.h. */
#include "monitor/trend.h"

#include "monitor/series.h"
#include "monitor/slope.h"

#include <string.h>

enum { SAMPLES_PER_WINDOW = 4 }; /* before the cap on windows: enough to step over a short spike */

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

pfo_status
pfo_trend_estimate(const double *seconds, const double *values, int64_t count, double minimum_change, pfo_trend *trend,
                   pfo_error *err)
{
    memset(trend, 0, sizeof *trend);
    trend->verdict = PFO_TREND_INSUFFICIENT;
    PFO_TRY(pfo_series_check(seconds, values, count, minimum_change, err));
    if (count < PFO_TREND_MIN_POINTS || !(seconds[count - 1] - seconds[0] >= PFO_TREND_MIN_SECONDS)) {
        return PFO_OK;
    }
    double x[PFO_TREND_MAX_WINDOWS];
    double y[PFO_TREND_MAX_WINDOWS];
    int64_t wanted = count / SAMPLES_PER_WINDOW;
    wanted = wanted < PFO_TREND_MIN_POINTS ? PFO_TREND_MIN_POINTS : wanted;
    wanted = wanted > PFO_TREND_MAX_WINDOWS ? PFO_TREND_MAX_WINDOWS : wanted;
    const int windows = (int)wanted;
    pfo_series_minima(seconds, values, count, windows, x, y);
    const int whole[2] = { 0, windows };
    pfo_slope slope;
    PFO_TRY(pfo_slope_estimate(x, y, whole, 1, &slope, err));
    if (slope.pairs == 0) {
        return PFO_OK;
    }
    trend->verdict = PFO_TREND_STABLE;
    trend->slope = slope.slope;
    trend->low = slope.low;
    trend->high = slope.high;
    trend->span = seconds[count - 1] - seconds[0];
    trend->change = trend->slope * trend->span;
    trend->windows = windows;
    judge(trend, minimum_change);
    return PFO_OK;
}
