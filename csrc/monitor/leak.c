/* leak.c: see leak.h. */
#include "monitor/leak.h"

#include "base/alloc.h"
#include "monitor/levels.h"
#include "monitor/series.h"
#include "monitor/slope.h"

#include <math.h>
#include <string.h>

enum { MAX_WINDOWS = 120, SAMPLES_PER_WINDOW = 4, MIN_WINDOWS = 12, BLOCKS = 20, SAW = 3 };
static const double needed_margin = 6.0;
static const double needed_margin_per_step = 3.0; /* steps beside a line leave it more ways to fit by chance */
static const double least_growth = 1048576.0;     /* bytes */
static const double least_growth_share = 0.0075;  /* of the level */
static const double page = 4096.0;                /* nothing below is told apart */
static const double fall_share = 0.25;            /* of the range: a fall that counts as a release */
static const double fall_noise = 6.0;             /* and at least so many standard deviations */
static const double warm_up_factor = 4.0;         /* times the usual growth of a block */

static const char *const verdict_names[PFO_LEAK_VERDICT_COUNT] = {
#define PFO_LEAK_NAME(id, name) name,
    PFO_LEAK_VERDICTS(PFO_LEAK_NAME)
#undef PFO_LEAK_NAME
};

static const char *const model_names[PFO_LEAK_MODEL_COUNT] = {
#define PFO_LEAK_MODEL_NAME(id, name) name,
    PFO_LEAK_MODELS(PFO_LEAK_MODEL_NAME)
#undef PFO_LEAK_MODEL_NAME
};

const char *
pfo_leak_verdict_name(pfo_leak_verdict verdict)
{
    const int index = (int)verdict;
    return verdict_names[index >= 0 && index < PFO_LEAK_VERDICT_COUNT ? index : 0];
}

const char *
pfo_leak_model_name(pfo_leak_model model)
{
    const int index = (int)model;
    return model_names[index >= 0 && index < PFO_LEAK_MODEL_COUNT ? index : 0];
}

/* ---- from samples to what was kept ------------------------------------------------------------ */

typedef struct kept {
    int count;
    double x[MAX_WINDOWS]; /* share of the series' span, 0 to 1 */
    double y[MAX_WINDOWS]; /* bytes above the level */
} kept;

static double
median_of(const double *values, int count)
{
    double sorted[MAX_WINDOWS];
    for (int i = 0; i < count; i++) {
        sorted[i] = values[i];
    }
    pfo_sort_doubles(sorted, count);
    return pfo_sorted_median(sorted, count);
}

/* Standard deviation of a window's minimum about its neighbours, from the median step between neighbours. */
static double
noise_of(const double *y, int count)
{
    double steps[MAX_WINDOWS];
    for (int i = 1; i < count; i++) {
        steps[i - 1] = y[i] - y[i - 1];
    }
    const double usual = median_of(steps, count - 1);
    for (int i = 0; i < count - 1; i++) {
        steps[i] = fabs(steps[i] - usual);
    }
    return 1.4826 * median_of(steps, count - 1) / sqrt(2.0);
}

/* A window far from the median of its neighbourhood of five becomes that median. */
static void
smooth_outliers(double *y, int count, double noise)
{
    double smoothed[MAX_WINDOWS];
    for (int i = 0; i < count; i++) {
        const int from = i < 2 ? 0 : i > count - 3 ? count - 5 : i - 2;
        const double middle = median_of(y + from, 5);
        smoothed[i] = fabs(y[i] - middle) > 4.0 * noise + page && i >= 2 && i < count - 2 ? middle : y[i];
    }
    memcpy(y, smoothed, (size_t)count * sizeof *y);
}

/* The height from which a fall is a release: a share of the range that 90 % of the windows lie in, well above noise. */
static double
release_height(const double *y, int count, double noise)
{
    double sorted[MAX_WINDOWS];
    memcpy(sorted, y, (size_t)count * sizeof *sorted);
    pfo_sort_doubles(sorted, count);
    const double range = sorted[count - 1 - count / 20] - sorted[count / 20];
    return fmax(fall_share * range, fall_noise * noise + page);
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
    const double range = sorted[count - 1 - count / 50] - sorted[count / 50];
    const double middle_half = sorted[count - 1 - count / 4] - sorted[count / 4];
    for (int64_t i = 1; i < count; i++) {
        sorted[i - 1] = fabs(values[i] - values[i - 1]);
    }
    pfo_sort_doubles(sorted, count - 1);
    const double usual_step = pfo_sorted_median(sorted, count - 1);
    pfo_free(sorted);
    if (range >= minimum && range >= 4.0 * usual_step && middle_half >= 0.3 * range) {
        *teeth = count_teeth(values, count, 0.5 * range);
    }
    return PFO_OK;
}

/* What rose and fell back by at least height was not kept: it becomes the higher of the least before and the least after it. */
static void
clip_to_kept(double *y, int count, double height)
{
    double least_after[MAX_WINDOWS];
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
        level[b] = median_of(y + from, (b + 1) * count / BLOCKS - from);
    }
    for (int b = 1; b < BLOCKS; b++) {
        growth[b - 1] = fabs(level[b] - level[b - 1]);
    }
    const double usual = median_of(growth, BLOCKS - 1);
    int cut = 0;
    while (cut < BLOCKS / 2 && level[cut + 1] - level[cut] > warm_up_factor * usual + 2.0 * noise + page) {
        cut++;
    }
    return cut * count / BLOCKS;
}

/* ---- models ----------------------------------------------------------------------------------- */

typedef struct shape {
    pfo_leak_model model;
    enum { LINE, HINGE, LATE, LOGARITHM, SATURATION, POWER } curve;
    double parameter; /* where in the span, or time constant as a share of it, or exponent */
} shape;

/* Growth whose rate at the end is at least half of that at the start is no slowing down that samples could tell from a line. */
static const shape shapes[] = {
    { PFO_LEAK_MODEL_LINE, LINE, 0.0 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.15 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.22 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.3 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.38 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.45 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.52 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.59 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.66 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.73 },
    { PFO_LEAK_MODEL_ENDED, HINGE, 0.8 },
    { PFO_LEAK_MODEL_LATE, LATE, 0.5 },
    { PFO_LEAK_MODEL_LATE, LATE, 0.65 },
    { PFO_LEAK_MODEL_LATE, LATE, 0.8 },
    { PFO_LEAK_MODEL_SLOWING, LOGARITHM, 1.0 / 6 },
    { PFO_LEAK_MODEL_SLOWING, LOGARITHM, 1.0 / 15 },
    { PFO_LEAK_MODEL_SLOWING, LOGARITHM, 1.0 / 50 },
    { PFO_LEAK_MODEL_SLOWING, LOGARITHM, 1.0 / 300 },
    { PFO_LEAK_MODEL_SLOWING, SATURATION, 1.0 / 2.5 },
    { PFO_LEAK_MODEL_SLOWING, SATURATION, 1.0 / 4 },
    { PFO_LEAK_MODEL_SLOWING, SATURATION, 1.0 / 7 },
    { PFO_LEAK_MODEL_SLOWING, SATURATION, 1.0 / 13 },
    { PFO_LEAK_MODEL_SLOWING, SATURATION, 1.0 / 30 },
    { PFO_LEAK_MODEL_SLOWING, POWER, 0.2 },
    { PFO_LEAK_MODEL_SLOWING, POWER, 0.4 },
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static double
value_at(const shape *of, double x)
{
    switch (of->curve) {
    case HINGE:
        return fmin(x, of->parameter);
    case LATE:
        return fmax(x - of->parameter, 0.0);
    case LOGARITHM:
        return log1p(x / of->parameter);
    case SATURATION:
        return -expm1(-x / of->parameter);
    case POWER:
        return pow(x, of->parameter);
    case LINE:
    default:
        return x;
    }
}

/* A shape, or NULL for levels alone, fitted to a series. */
typedef struct candidate {
    const shape *of;
    shape own; /* where `of` points when its parameter was improved */
    pfo_levels levels;
} candidate;

typedef struct contest {
    candidate line;
    candidate other; /* the best but the line */
    double floor;    /* variance */
    double weight;
} contest;

static void
fit(const kept *series, const shape *of, const contest *all, pfo_levels *levels)
{
    double values[MAX_WINDOWS];
    for (int i = 0; of != NULL && i < series->count; i++) {
        values[i] = value_at(of, series->x[i]);
    }
    pfo_levels_fit(series->y, series->count, of == NULL ? NULL : values, of != NULL && of->curve != LINE, all->floor,
                   all->weight, levels);
}

/* Moves the parameter of the best curve between those of the list, in ever smaller steps: where noise is small, a list is too
 * coarse and steps would be taken for the curve. */
static void
refine(const kept *series, contest *all)
{
    if (all->other.of == NULL) {
        return;
    }
    all->other.own = *all->other.of;
    all->other.of = &all->other.own;
    for (double factor = 1.2; factor > 1.002; factor = sqrt(factor)) {
        for (int up = 0; up < 2; up++) {
            shape moved = all->other.own;
            moved.parameter *= up ? factor : 1.0 / factor;
            if (moved.parameter > (moved.curve == POWER ? 0.4 : 0.8)) {
                continue;
            }
            pfo_levels fitted;
            fit(series, &moved, all, &fitted);
            if (fitted.cost < all->other.levels.cost) {
                all->other.own = moved;
                all->other.levels = fitted;
            }
        }
    }
}

static void
compete(const kept *series, contest *all)
{
    all->line.of = &shapes[0];
    fit(series, all->line.of, all, &all->line.levels);
    all->other.of = NULL;
    fit(series, NULL, all, &all->other.levels);
    for (int s = 1; s < SHAPES; s++) {
        pfo_levels fitted;
        fit(series, &shapes[s], all, &fitted);
        if (fitted.cost < all->other.levels.cost) {
            all->other.levels = fitted;
            all->other.of = &shapes[s];
        }
    }
    refine(series, all);
}

static const candidate *
winner(const contest *all)
{
    return all->line.levels.cost < all->other.levels.cost ? &all->line : &all->other;
}

/* What the fitted curve, without the steps, adds up to over the series. */
static double
growth_of(const kept *series, const candidate *fitted)
{
    if (fitted->of == NULL) {
        return 0.0;
    }
    const double first = value_at(fitted->of, series->x[0]);
    return fitted->levels.amount * (value_at(fitted->of, series->x[series->count - 1]) - first);
}

/* What is left of the series without the curve, about the level of its segment; *range is from the lowest level to the
 * highest. */
static void
take_off(const kept *series, const candidate *fitted, double *residuals, double *range)
{
    const pfo_levels *levels = &fitted->levels;
    double lowest = INFINITY;
    double highest = -INFINITY;
    for (int k = 0; k < levels->segments; k++) {
        const int from = levels->starts[k];
        const int to = levels->starts[k + 1];
        double mean = 0.0;
        for (int i = from; i < to; i++) {
            const double curve = fitted->of == NULL ? 0.0 : levels->amount * value_at(fitted->of, series->x[i]);
            residuals[i] = series->y[i] - curve;
            mean += residuals[i] / (to - from);
        }
        for (int i = from; i < to; i++) {
            residuals[i] -= mean;
        }
        lowest = fmin(lowest, mean);
        highest = fmax(highest, mean);
    }
    *range = highest - lowest;
}

/* ---- verdict ---------------------------------------------------------------------------------- */

/* The slope in bytes per second between the steps; of a growth that has ended or slows down, of its last third. */
static pfo_status
estimate_slope(const kept *series, const candidate *best, pfo_leak *leak, pfo_error *err)
{
    pfo_slope slope;
    if (leak->model == PFO_LEAK_MODEL_ENDED || leak->model == PFO_LEAK_MODEL_SLOWING) {
        const int third[2] = { 0, series->count / 3 };
        const int from = series->count - third[1];
        PFO_TRY(pfo_slope_estimate(series->x + from, series->y + from, third, 1, &slope, err));
    } else {
        PFO_TRY(pfo_slope_estimate(series->x, series->y, best->levels.starts, best->levels.segments, &slope, err));
    }
    leak->slope = slope.slope / leak->span;
    leak->low = slope.low / leak->span;
    leak->high = slope.high / leak->span;
    return PFO_OK;
}

/* own_growth: of the best model's curve; range: of its levels; change: from the first sixth of the series to its last; before:
 * what the warm-up that was cut grew by. */
static pfo_leak_verdict
decide(const pfo_leak *leak, double own_growth, double range, double change, double before)
{
    const double needed = needed_margin + needed_margin_per_step * leak->steps;
    if (leak->margin >= needed && leak->low > 0.0 && leak->growth >= leak->minimum) {
        return PFO_LEAK_LEAK;
    }
    if (leak->releases >= SAW) {
        return PFO_LEAK_SAWTOOTH;
    }
    if (own_growth >= leak->minimum && (leak->model == PFO_LEAK_MODEL_ENDED || leak->model == PFO_LEAK_MODEL_SLOWING)) {
        return PFO_LEAK_PLATEAU;
    }
    if (range >= leak->minimum) {
        return PFO_LEAK_STEP;
    }
    if (leak->teeth >= SAW) {
        return PFO_LEAK_SAWTOOTH;
    }
    if (fmax(own_growth, change) >= leak->minimum) {
        return PFO_LEAK_INSUFFICIENT;
    }
    return before >= leak->minimum ? PFO_LEAK_PLATEAU : PFO_LEAK_STABLE;
}

static pfo_status
judge(const kept *series, double before, pfo_leak *leak, pfo_error *err)
{
    contest all = { .floor = page * page, .weight = series->count };
    double residuals[MAX_WINDOWS];
    double range;
    compete(series, &all);
    const candidate *best = winner(&all);
    take_off(series, best, residuals, &range);
    leak->correlation = pfo_slope_correlation(residuals, best->levels.starts, best->levels.segments);
    if (leak->correlation > 0.0) {
        all.weight *= (1.0 - leak->correlation) / (1.0 + leak->correlation);
        compete(series, &all);
        best = winner(&all);
        take_off(series, best, residuals, &range);
    }
    leak->margin = all.other.levels.cost - all.line.levels.cost;
    leak->model = best->of == NULL ? PFO_LEAK_MODEL_LEVELS : best->of->model;
    leak->steps = best->levels.segments - 1;
    leak->growth = growth_of(series, &all.line);
    PFO_TRY(estimate_slope(series, best, leak, err));
    const int sixth = series->count / 6 + 1;
    const double change = median_of(series->y + series->count - sixth, sixth) - median_of(series->y, sixth);
    leak->verdict = decide(leak, growth_of(series, best), range, change, before);
    return PFO_OK;
}

/* Windows that span two teeth each at least, stood for by the lowest of the old ones: what stays when a tooth is over. */
static void
widen_to_teeth(kept *series, int teeth)
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

/* *before: by how much the warm-up that was cut grew. */
static pfo_status
prepare(const double *seconds, const double *values, int64_t count, kept *series, double *before, pfo_leak *leak,
        pfo_error *err)
{
    int64_t windows = count / SAMPLES_PER_WINDOW;
    windows = windows < MIN_WINDOWS ? MIN_WINDOWS : windows > MAX_WINDOWS ? MAX_WINDOWS : windows;
    series->count = (int)windows;
    PFO_TRY(pfo_series_floors(seconds, values, count, series->count, series->x, series->y, err));
    leak->level = median_of(series->y, series->count);
    leak->minimum = fmax(least_growth, least_growth_share * fabs(leak->level));
    for (int i = 0; i < series->count; i++) {
        series->x[i] /= leak->span;
        series->y[i] -= leak->level;
    }
    leak->noise = noise_of(series->y, series->count);
    const double height = release_height(series->y, series->count, leak->noise);
    leak->releases = count_releases(series->y, series->count, height);
    PFO_TRY(find_short_teeth(values, count, leak->minimum, &leak->teeth, err));
    const int teeth = leak->releases > leak->teeth ? leak->releases : leak->teeth;
    if (teeth >= SAW) {
        widen_to_teeth(series, teeth);
    } else {
        smooth_outliers(series->y, series->count, leak->noise);
        clip_to_kept(series->y, series->count, height);
    }
    const int cut = warm_up_windows(series->y, series->count, leak->noise);
    *before = series->y[cut] - series->y[0];
    leak->warm_up = cut > 0 ? series->x[cut] * leak->span : 0.0;
    series->count -= cut;
    memmove(series->x, series->x + cut, (size_t)series->count * sizeof *series->x);
    memmove(series->y, series->y + cut, (size_t)series->count * sizeof *series->y);
    leak->windows = series->count;
    return PFO_OK;
}

pfo_status
pfo_leak_judge(const double *seconds, const double *values, int64_t count, pfo_leak *leak, pfo_error *err)
{
    memset(leak, 0, sizeof *leak);
    PFO_TRY(pfo_series_check(seconds, values, count, 0.0, err));
    leak->span = count > 0 ? seconds[count - 1] - seconds[0] : 0.0;
    if (count < PFO_LEAK_MIN_POINTS || !(leak->span >= PFO_LEAK_MIN_SECONDS)) {
        return PFO_OK;
    }
    kept series;
    double before;
    PFO_TRY(prepare(seconds, values, count, &series, &before, leak, err));
    if (series.count < 2 * PFO_LEVELS_SHORTEST) {
        leak->verdict = PFO_LEAK_SAWTOOTH; /* too few teeth to see whether their feet rise */
        return PFO_OK;
    }
    return judge(&series, before, leak, err);
}
