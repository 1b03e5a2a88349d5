/* kept.c: see kept.h. */
#include "monitor/kept.h"

#include "base/alloc.h"
#include "monitor/series.h"
#include "monitor/slope.h"

#include <math.h>
#include <string.h>

/* Chosen on the tuning series of tests/python/leak_series.py, as are the factors 4 where a step or a spike is told from noise. */
enum { SAMPLES_PER_WINDOW = 4, MIN_WINDOWS = 12, BLOCKS = 20 };
static const double least_growth = 1048576.0;    /* bytes */
static const double least_growth_share = 0.0075; /* of the level */
static const double spread_share = 0.3;          /* of the range: the middle half of a saw's figures */
static const double fall_share = 0.25;           /* of the range: a fall that counts as a release */
static const double fall_noise = 6.0;            /* and at least so many standard deviations */
static const double warm_up_factor = 4.0;        /* times the usual growth of a block */
static const double page = PFO_KEPT_PAGE;

double
pfo_kept_median(const double *values, int count)
{
    double sorted[PFO_KEPT_MAX_WINDOWS];
    for (int i = 0; i < count; i++) {
        sorted[i] = values[i];
    }
    pfo_sort_doubles(sorted, count);
    return pfo_sorted_median(sorted, count);
}

/* The range that is left of sorted values when one part in so many is cut off at each end. */
static double
trimmed_range(const double *sorted, int64_t count, int64_t part)
{
    return sorted[count - 1 - count / part] - sorted[count / part];
}

/* Standard deviation of a window's minimum about its neighbours, from the median step between neighbours. */
static double
noise_of(const double *y, int count)
{
    double steps[PFO_KEPT_MAX_WINDOWS] = { 0.0 };
    for (int i = 1; i < count; i++) {
        steps[i - 1] = y[i] - y[i - 1];
    }
    const double usual = pfo_kept_median(steps, count - 1);
    for (int i = 0; i < count - 1; i++) {
        steps[i] = fabs(steps[i] - usual);
    }
    return 1.4826 * pfo_kept_median(steps, count - 1) / sqrt(2.0);
}

/* A window far from the median of its neighbourhood of five becomes that median. */
static void
smooth_outliers(double *y, int count, double noise)
{
    double smoothed[PFO_KEPT_MAX_WINDOWS];
    for (int i = 0; i < count; i++) {
        const int from = i < 2 ? 0 : i > count - 3 ? count - 5 : i - 2;
        const double middle = pfo_kept_median(y + from, 5);
        smoothed[i] = fabs(y[i] - middle) > 4.0 * noise + page && i >= 2 && i < count - 2 ? middle : y[i];
    }
    memcpy(y, smoothed, (size_t)count * sizeof *y);
}

/* *height: from which a fall is a release, a share of the range that 90 % of the windows lie in, well above noise. *is_spread: 1 if
 * the windows are spread over that range as those of a saw are; blocks that come and go soon leave most windows low. */
static void
measure_range(const double *y, int count, double noise, double *height, int *is_spread)
{
    double sorted[PFO_KEPT_MAX_WINDOWS];
    memcpy(sorted, y, (size_t)count * sizeof *sorted);
    pfo_sort_doubles(sorted, count);
    const double range = trimmed_range(sorted, count, 20);
    *height = fmax(fall_share * range, fall_noise * noise + page);
    *is_spread = trimmed_range(sorted, count, 4) >= spread_share * range;
}

/* Falls by at least height from the highest value since the last one; a new one begins when it has risen by height again. */
static int
count_releases(const double *y, int count, double height)
{
    int releases = 0;
    int falling = 0;
    double extreme = y[0];
    for (int i = 1; i < count; i++) {
        if (falling) {
            extreme = fmin(extreme, y[i]);
            if (y[i] >= extreme + height) {
                falling = 0;
                extreme = y[i];
            }
        } else {
            extreme = fmax(extreme, y[i]);
            if (y[i] <= extreme - height) {
                falling = 1;
                releases++;
                extreme = y[i];
            }
        }
    }
    return releases;
}

static double
middle_of_three(double a, double b, double c)
{
    return fmax(fmin(a, b), fmin(fmax(a, b), c));
}

/* Falls of the samples by height; single samples that stick out do not count. 0 unless the rises take longer than the falls. */
static int
count_teeth(const double *values, int64_t count, double height)
{
    int64_t turned = 0; /* the last extreme */
    int64_t at = 0;     /* where the present rise or fall is farthest */
    double farthest = values[0];
    int64_t rising = 0;
    int64_t falling = 0;
    int falls = 0;
    int down = 0;
    for (int64_t i = 1; i + 1 < count; i++) {
        const double value = middle_of_three(values[i - 1], values[i], values[i + 1]);
        const int turns = down ? value >= farthest + height : value <= farthest - height;
        if (turns) {
            *(down ? &falling : &rising) += at - turned;
            falls += !down;
            turned = at;
            down = !down;
        }
        if (turns || (down ? value <= farthest : value >= farthest)) {
            farthest = value;
            at = i;
        }
    }
    return rising >= 2 * falling ? falls : 0;
}

/* Teeth too short for windows: falls by half of the range in which 96 % of the samples lie, where that is well above noise and
 * the samples are spread over all of it, as those of a saw are. */
static pfo_status
find_short_teeth(const double *values, int64_t count, double minimum, int *teeth, pfo_error *err)
{
    *teeth = 0;
    double *sorted = pfo_alloc_array((size_t)count, sizeof *sorted);
    if (sorted == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for %lld values", (long long)count);
    }
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    pfo_sort_doubles(sorted, count);
    const double range = trimmed_range(sorted, count, 50);
    const double middle_half = trimmed_range(sorted, count, 4);
    for (int64_t i = 1; i < count; i++) {
        sorted[i - 1] = fabs(values[i] - values[i - 1]);
    }
    pfo_sort_doubles(sorted, count - 1);
    const double usual_step = pfo_sorted_median(sorted, count - 1);
    pfo_free(sorted);
    if (range >= minimum && range >= 4.0 * usual_step && middle_half >= spread_share * range) {
        *teeth = count_teeth(values, count, 0.5 * range);
    }
    return PFO_OK;
}

/* What rose and fell back by at least height was not kept: it becomes the higher of the least before and the least after it. */
static void
clip_to_kept(double *y, int count, double height)
{
    double least_after[PFO_KEPT_MAX_WINDOWS];
    least_after[count - 1] = y[count - 1];
    for (int i = count - 2; i >= 0; i--) {
        least_after[i] = fmin(least_after[i + 1], y[i]);
    }
    double least_before = y[0];
    for (int i = 0; i < count; i++) {
        least_before = fmin(least_before, y[i]);
        const double kept_level = fmax(least_before, least_after[i]);
        if (y[i] >= kept_level + height) {
            y[i] = kept_level;
        }
    }
}

/* Windows to leave out at the start: blocks of a twentieth, at most half of the series, while a block grows by several times
 * the usual growth of a block. */
static int
warm_up_windows(const double *y, int count, double noise)
{
    if (count < 2 * BLOCKS) {
        return 0;
    }
    double level[BLOCKS];
    double growth[BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        const int from = b * count / BLOCKS;
        level[b] = pfo_kept_median(y + from, (b + 1) * count / BLOCKS - from);
    }
    for (int b = 1; b < BLOCKS; b++) {
        growth[b - 1] = fabs(level[b] - level[b - 1]);
    }
    const double usual = pfo_kept_median(growth, BLOCKS - 1);
    int cut = 0;
    while (cut < BLOCKS / 2 && level[cut + 1] - level[cut] > warm_up_factor * usual + 2.0 * noise + page) {
        cut++;
    }
    return cut * count / BLOCKS;
}

/* Windows that span two teeth each at least, stood for by the lowest of the old ones: what stays when a tooth is over. */
static void
widen_to_teeth(pfo_kept *series, int teeth)
{
    const int group = (2 * series->count + teeth - 1) / teeth;
    if (group <= 1) {
        return;
    }
    const int count = series->count / group;
    for (int w = 0; w < count; w++) {
        int lowest = w * group;
        const int end = w + 1 == count ? series->count : (w + 1) * group;
        for (int i = lowest + 1; i < end; i++) {
            lowest = series->y[i] < series->y[lowest] ? i : lowest;
        }
        series->x[w] = series->x[lowest];
        series->y[w] = series->y[lowest];
    }
    series->count = count;
}

pfo_status
pfo_kept_find(const double *seconds, const double *values, int64_t count, pfo_kept *series, pfo_error *err)
{
    memset(series, 0, sizeof *series);
    int64_t windows = count / SAMPLES_PER_WINDOW;
    windows = windows < MIN_WINDOWS ? MIN_WINDOWS : windows > PFO_KEPT_MAX_WINDOWS ? PFO_KEPT_MAX_WINDOWS : windows;
    series->count = (int)windows;
    PFO_TRY(pfo_series_floors(seconds, values, count, series->count, series->x, series->y, err));
    const double span = seconds[count - 1] - seconds[0];
    series->level = pfo_kept_median(series->y, series->count);
    series->minimum = fmax(least_growth, least_growth_share * fabs(series->level));
    for (int i = 0; i < series->count; i++) {
        series->x[i] /= span;
        series->y[i] -= series->level;
    }
    series->noise = noise_of(series->y, series->count);
    double height;
    int is_spread;
    measure_range(series->y, series->count, series->noise, &height, &is_spread);
    series->releases = count_releases(series->y, series->count, height);
    PFO_TRY(find_short_teeth(values, count, series->minimum, &series->teeth, err));
    const int slow_teeth = is_spread ? series->releases : 0;
    const int teeth = slow_teeth > series->teeth ? slow_teeth : series->teeth;
    if (teeth >= PFO_KEPT_SAW) {
        widen_to_teeth(series, teeth);
    } else {
        smooth_outliers(series->y, series->count, series->noise);
        clip_to_kept(series->y, series->count, height);
    }
    series->cut = warm_up_windows(series->y, series->count, series->noise);
    series->cut_growth = series->y[series->cut] - series->y[0];
    series->count -= series->cut;
    memmove(series->x, series->x + series->cut, (size_t)series->count * sizeof *series->x);
    memmove(series->y, series->y + series->cut, (size_t)series->count * sizeof *series->y);
    return PFO_OK;
}
