/* leak.c: see leak.h. */
#include "monitor/leak.h"

#include "monitor/contest.h"
#include "monitor/kept.h"
#include "monitor/series.h"
#include "monitor/slope.h"

#include <math.h>
#include <string.h>

/* Twice a log likelihood of 6 is strong evidence (Kass and Raftery 1995). The others were chosen on the tuning and the fresh series
 * of tests/python/leak_series.py. */
static const double needed_margin = 6.0;
static const double needed_margin_per_step = 1.5;  /* steps beside a line leave it more ways to fit by chance */
static const double needed_margin_of_each = 3.0;   /* contest, where their mean is asked for */
static const double needed_margin_of_hidden = 4.0; /* in blocks that noise hides one by one */
static const double needed_margin_of_shown = 12.0; /* in blocks that it does not hide, or after a warm-up */
static const double hidden_ratio = 1.0; /* of the walk over a window to the noise, up to which it hides them */

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

static const pfo_stepped *
winner(const pfo_contest *contest)
{
    return contest->line.levels.cost < contest->other.levels.cost ? &contest->line : &contest->other;
}

/* The slope in bytes per second between the steps; of a growth that has ended or slows down, of its last third. */
static pfo_status
estimate_slope(const pfo_kept *series, const pfo_stepped *best, pfo_leak *leak, pfo_error *err)
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

/* What a verdict other than a leak rests on. */
typedef struct changes {
    double own_growth; /* of the best model's curve */
    double range;      /* of its levels */
    double overall;    /* from the first sixth of the series to its last */
} changes;

/* What it is if it is no leak. */
static pfo_leak_verdict
explain(const pfo_kept *series, const pfo_leak *leak, const changes *change)
{
    if (leak->releases >= PFO_KEPT_SAW) {
        return PFO_LEAK_SAWTOOTH;
    }
    if (change->own_growth >= leak->minimum &&
        (leak->model == PFO_LEAK_MODEL_ENDED || leak->model == PFO_LEAK_MODEL_SLOWING)) {
        return PFO_LEAK_PLATEAU;
    }
    if (change->range >= fmax(leak->minimum, change->own_growth)) { /* more than the curve beside them adds */
        return PFO_LEAK_STEP;
    }
    if (leak->teeth >= PFO_KEPT_SAW) {
        return PFO_LEAK_SAWTOOTH;
    }
    if (fmax(change->own_growth, change->overall) >= leak->minimum) {
        return PFO_LEAK_INSUFFICIENT;
    }
    return series->cut_growth >= leak->minimum ? PFO_LEAK_PLATEAU : PFO_LEAK_STABLE;
}

/* How the line in random blocks does. */
typedef struct blocks {
    pfo_random_walk line;
    double margin;
    double growth;
    int wins;
    int fits_better; /* than the line with steps */
} blocks;

/* Where every window shows its own blocks, a curve that no shape of the contest follows looks like a walk, too; where noise hides
 * them, a walk's step stands for many, as its Gaussian likelihood has it. A tail alone does not show that growth slows down. */
static double
needed_in_blocks(const pfo_kept *series, const pfo_random_walk *line)
{
    return series->cut > 0 || line->ratio > hidden_ratio ? needed_margin_of_shown : needed_margin_of_hidden;
}

/* full: the contest with steps in which every window counts, as in that of blocks. That the interval is above zero need not be asked:
 * a margin over no shape at all, which has a parameter less, puts the amount more than two standard errors above it. */
static void
compete_in_blocks(const pfo_kept *series, const pfo_contest *full, blocks *found)
{
    pfo_contest_in_blocks(series, &found->line, &found->margin);
    found->growth = found->line.amount * (series->x[series->count - 1] - series->x[0]);
    found->wins = series->releases < PFO_KEPT_SAW && found->margin >= needed_in_blocks(series, &found->line) &&
                  found->growth >= series->minimum && found->line.cost <= full->other.levels.cost;
    found->fits_better = found->line.cost < full->line.levels.cost;
}

/* The line with steps: *leak has its margin, slope and growth. What small blocks do to the other contest's margin is asked too, as
 * the samples cannot exclude a walk that they do not show; so the mean of both must be strong, and neither weak. */
static int
wins_with_steps(const pfo_leak *leak, const blocks *in_blocks)
{
    const double mean = 0.5 * (leak->margin + in_blocks->margin);
    return leak->low > 0.0 && leak->growth >= leak->minimum &&
           mean >= needed_margin + needed_margin_per_step * leak->steps &&
           fmin(leak->margin, in_blocks->margin) >= needed_margin_of_each;
}

static void
take_over(const blocks *found, pfo_leak *leak)
{
    const pfo_random_walk *line = &found->line;
    leak->model = PFO_LEAK_MODEL_BLOCKS;
    leak->margin = found->margin;
    leak->steps = 0;
    leak->correlation = line->correlation;
    leak->growth = found->growth;
    leak->slope = line->amount / leak->span;
    leak->low = (line->amount - PFO_SLOPE_NORMAL_QUANTILE * line->error) / leak->span;
    leak->high = (line->amount + PFO_SLOPE_NORMAL_QUANTILE * line->error) / leak->span;
}

static pfo_status
judge(const pfo_kept *series, pfo_leak *leak, pfo_error *err)
{
    pfo_contest full;
    double residuals[PFO_KEPT_MAX_WINDOWS];
    changes change;
    pfo_contest_with_steps(series, series->count, &full);
    pfo_contest_residuals(series, winner(&full), residuals, &change.range);
    const pfo_levels *levels = &winner(&full)->levels;
    leak->correlation = pfo_slope_correlation(residuals, levels->starts, levels->segments);
    pfo_contest contest = full;
    if (leak->correlation > 0.0) {
        const double share = (1.0 - leak->correlation) / (1.0 + leak->correlation);
        pfo_contest_with_steps(series, series->count * share, &contest);
        pfo_contest_residuals(series, winner(&contest), residuals, &change.range);
    }
    const pfo_stepped *best = winner(&contest);
    leak->margin = contest.other.levels.cost - contest.line.levels.cost;
    leak->model = best->shape.model;
    leak->steps = best->levels.segments - 1;
    leak->growth = pfo_contest_growth(series, &contest.line);
    PFO_TRY(estimate_slope(series, best, leak, err));
    const int sixth = series->count / 6 + 1;
    change.overall = pfo_kept_median(series->y + series->count - sixth, sixth) - pfo_kept_median(series->y, sixth);
    change.own_growth = pfo_contest_growth(series, best);
    blocks in_blocks;
    compete_in_blocks(series, &full, &in_blocks);
    const int wins = wins_with_steps(leak, &in_blocks);
    if (wins || in_blocks.wins) {
        leak->verdict = PFO_LEAK_LEAK;
        if (in_blocks.wins && (in_blocks.fits_better || !wins)) {
            take_over(&in_blocks, leak);
        }
    } else {
        const int grows = leak->margin >= needed_margin && leak->low > 0.0 && leak->growth >= leak->minimum;
        leak->verdict = grows ? PFO_LEAK_INSUFFICIENT : explain(series, leak, &change);
    }
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
    pfo_kept series;
    PFO_TRY(pfo_kept_find(seconds, values, count, &series, err));
    leak->level = series.level;
    leak->minimum = series.minimum;
    leak->noise = series.noise;
    leak->releases = series.releases;
    leak->teeth = series.teeth;
    leak->windows = series.count;
    leak->warm_up = series.cut > 0 ? series.x[0] * leak->span : 0.0;
    if (series.count < 2 * PFO_LEVELS_SHORTEST) {
        /* Too few teeth to judge how their feet rise; whether they do can be said. */
        const double risen = series.y[series.count - 1] - series.y[0];
        leak->verdict = risen >= series.minimum ? PFO_LEAK_INSUFFICIENT : PFO_LEAK_SAWTOOTH;
        return PFO_OK;
    }
    return judge(&series, leak, err);
}
