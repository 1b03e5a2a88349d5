/* slope.c: see slope.h. */
#include "monitor/slope.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double largest_correlation = 0.95;

static int
compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left;
    const double b = *(const double *)right;
    return (a > b) - (a < b);
}

void
pfo_sort_doubles(double *values, int64_t count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
}

double
pfo_sorted_median(const double *sorted, int64_t count)
{
    const int64_t half = count / 2;
    return count % 2 != 0 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
}

/* Slopes of all pairs of a segment with distance between them, sorted; their number. */
static int64_t
pair_slopes(const double *x, const double *y, const int *starts, int segments, double *slopes)
{
    int64_t pairs = 0;
    for (int k = 0; k < segments; k++) {
        for (int i = starts[k]; i < starts[k + 1]; i++) {
            for (int j = i + 1; j < starts[k + 1]; j++) {
                if (x[j] - x[i] >= PFO_SLOPE_APART) {
                    slopes[pairs++] = (y[j] - y[i]) / (x[j] - x[i]);
                }
            }
        }
    }
    pfo_sort_doubles(slopes, pairs);
    return pairs;
}

/* Variance of Kendall's S of one segment without a trend, ties in y taken off. Sorts y. */
static double
kendall_variance(double *y, int count)
{
    const double n = count;
    double variance = n * (n - 1.0) * (2.0 * n + 5.0);
    pfo_sort_doubles(y, count);
    for (int i = 0; i < count;) {
        int end = i + 1;
        while (end < count && y[end] <= y[i]) {
            end++;
        }
        const double ties = end - i;
        variance -= ties * (ties - 1.0) * (2.0 * ties + 5.0);
        i = end;
    }
    return variance / 18.0;
}

double
pfo_slope_correlation(const double *residuals, const int *starts, int segments)
{
    double square = 0.0;
    double product = 0.0;
    const int count = starts[segments] - starts[0];
    for (int k = 0; k < segments; k++) {
        const int length = starts[k + 1] - starts[k];
        double mean = 0.0;
        for (int i = starts[k]; i < starts[k + 1]; i++) {
            mean += residuals[i] / length;
        }
        double before = 0.0;
        for (int i = starts[k]; i < starts[k + 1]; i++) {
            const double residual = residuals[i] - mean;
            square += residual * residual;
            product += i > starts[k] ? residual * before : 0.0;
            before = residual;
        }
    }
    if (square <= 0.0) {
        return 0.0;
    }
    const double biased = product / square;
    const double r = biased + (1.0 + 4.0 * biased) / count;
    return r < 0.0 ? 0.0 : r > largest_correlation ? largest_correlation : r;
}

static void
estimate(const double *x, const double *y, const int *starts, int segments, double *slopes, pfo_slope *slope)
{
    slope->pairs = pair_slopes(x, y, starts, segments, slopes);
    if (slope->pairs == 0) {
        return;
    }
    slope->slope = pfo_sorted_median(slopes, slope->pairs);
    double scratch[PFO_SLOPE_MAX_POINTS];
    for (int i = 0; i < starts[segments]; i++) {
        scratch[i] = y[i] - slope->slope * x[i];
    }
    slope->correlation = pfo_slope_correlation(scratch, starts, segments);
    memcpy(scratch, y, (size_t)starts[segments] * sizeof *scratch);
    double variance = 0.0;
    for (int k = 0; k < segments; k++) {
        variance += kendall_variance(scratch + starts[k], starts[k + 1] - starts[k]);
    }
    const double factor = (1.0 + slope->correlation) / (1.0 - slope->correlation);
    const double reach = PFO_SLOPE_NORMAL_QUANTILE * sqrt(variance * factor);
    const double low_rank = floor(((double)slope->pairs - reach) / 2.0);
    const double high_rank = ceil(((double)slope->pairs + reach) / 2.0);
    slope->low = slopes[low_rank < 0.0 ? 0 : (int64_t)low_rank];
    slope->high = slopes[high_rank > (double)(slope->pairs - 1) ? slope->pairs - 1 : (int64_t)high_rank];
}

pfo_status
pfo_slope_estimate(const double *x, const double *y, const int *starts, int segments, pfo_slope *slope, pfo_error *err)
{
    memset(slope, 0, sizeof *slope);
    const size_t count = (size_t)starts[segments];
    if (count < 2) {
        return PFO_OK;
    }
    double *slopes = pfo_alloc_array(count * (count - 1) / 2, sizeof *slopes);
    if (slopes == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for the slopes of %zu points", count);
    }
    estimate(x, y, starts, segments, slopes, slope);
    pfo_free(slopes);
    return PFO_OK;
}
