/* kept.c: see kept.h. */
#include "monitor/kept.h"

#include "base/alloc.h"
#include "monitor/series.h"
#include "monitor/slope.h"

#include <math.h>
#include <string.h>

/* Chosen on the tuning series of tests/python/leak_series.py, as are the factors 4 where a step or a spike is told from noise. */
enum { SAMPLES_PER_WINDOW = 4, MIN_WINDOWS = 12, BLOCKS = 20, SHORTEST_STAY = 2, LONGEST_STAY = 10 };
static const double least_growth = 1048576.0;    /* bytes */
static const double least_growth_share = 0.0075; /* of the level */
static const double spread_share = 0.3;          /* of the range: the middle half of a saw's figures */
static const double fall_share = 0.25;           /* of the range: a fall that counts as a release */
static const double fall_noise = 6.0;            /* and at least so many standard deviations */
static const double warm_up_factor = 4.0;        /* times the usual growth of a block */
static const double outlier_noise = 4.0;         /* standard deviations */
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

/* A window far from the median of its neighbourhood, so many windows to each side, becomes that median. Far is meant for noise and
 * for the neighbourhood's own spread (its median absolute deviation), which is large within the teeth of a saw. */
static void
smooth_outliers(double *y, int count, int side, double noise)
{
    double smoothed[PFO_KEPT_MAX_WINDOWS];
    double away[PFO_KEPT_MAX_WINDOWS];
    memcpy(smoothed, y, (size_t)count * sizeof *y);
    for (int i = side; i < count - side; i++) {
        const double *const around = y + i - side;
        const double middle = pfo_kept_median(around, 2 * side + 1);
        for (int k = 0; k <= 2 * side; k++) {
            away[k] = fabs(around[k] - middle);
        }
        const double spread = fmax(noise, 1.4826 * pfo_kept_median(away, 2 * side + 1));
        if (away[side] > outlier_noise * spread + page) {
            smoothed[i] = middle;
        }
    }
    memcpy(y, smoothed, (size_t)count * sizeof *y);
}

/* The most windows that a rise by at least height stayed before it was given back, and how many the last one has stayed so far
 * (0: there is none). */
static void
measure_stays(const double *y, int count, double height, int *longest, int *unfinished)
{
    int from = 0; /* of the present stay; 0: none */
    double before = y[0];
    *longest = 0;
    for (int i = 1; i < count; i++) {
        if (from == 0 && y[i] >= y[i - 1] + height) {
            from = i;
            before = y[i - 1];
        } else if (from > 0 && y[i] < before + 0.5 * height) {
            *longest = i - from > *longest ? i - from : *longest;
            from = 0;
        } else if (from > 0 && i - from >= count / LONGEST_STAY) {
            from = 0; /* it is kept */
        }
    }
    *unfinished = from > 0 ? count - from : 0;
}

/* A rise at the very end that is no older than temporary ones have been has not been shown to be kept. */
static void
cut_unfinished(pfo_kept *series)
{
    int longest;
    int unfinished;
    measure_stays(series->y, series->count, sqrt(2.0) * outlier_noise * series->noise + page, &longest, &unfinished);
    if (unfinished <= (longest > SHORTEST_STAY ? longest : SHORTEST_STAY)) {
        series->count -= unfinished;
    }
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
    double kept[PFO_KEPT_MAX_WINDOWS];
    memcpy(kept, series->y, sizeof kept);
    smooth_outliers(kept, series->count, 2, series->noise);
    smooth_outliers(kept, series->count, 4, series->noise);
    double height;
    int is_spread;
    measure_range(kept, series->count, series->noise, &height, &is_spread);
    series->releases = count_releases(kept, series->count, height);
    PFO_TRY(find_short_teeth(values, count, series->minimum, &series->teeth, err));
    const int slow_teeth = is_spread ? series->releases : 0;
    const int teeth = slow_teeth > series->teeth ? slow_teeth : series->teeth;
    if (teeth >= PFO_KEPT_SAW) {
        widen_to_teeth(series, teeth);
    } else {
        cut_unfinished(series);
        memcpy(series->y, kept, sizeof kept);
        clip_to_kept(series->y, series->count, height);
    }
    series->cut = warm_up_windows(series->y, series->count, series->noise);
    series->cut_growth = series->y[series->cut] - series->y[0];
    series->count -= series->cut;
    memmove(series->x, series->x + series->cut, (size_t)series->count * sizeof *series->x);
    memmove(series->y, series->y + series->cut, (size_t)series->count * sizeof *series->y);
    return PFO_OK;
}
