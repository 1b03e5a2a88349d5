/* leak.h: does this memory series grow without end, or does it only look so?
 *
 * Method. The series becomes at most 120 windows of memory that was kept, a warm-up cut (kept.h). Then models compete (contest.h):
 * levels alone; a line; growth that ends (hinges); growth that slows down (logarithms, saturating exponentials, low powers of
 * time); growth that began late; each with up to five free steps, with the number of independent observations that the
 * autocorrelation leaves. Each shape, and none, competes a second time as growth in random blocks, because a leak of a few dozen
 * blocks looks like steps to models that know only white noise. It is a leak only if the line grows by at least 1 MiB and
 * 0.75 % of the level over the span, and
 *   - with steps it is better than every other model by a margin, so it is in blocks, the mean of both is 6 (twice a log
 *     likelihood), and 1.5 more for each step beside it, neither is below 3, and the 95 % interval of the slope within the segments
 *     (slope.h) is above zero. The samples cannot exclude a small walk that noise hides, so the verdict must stand with it; or
 *   - in blocks it is better than every other shape in blocks by a margin of 4, or of 12 where noise does not hide the blocks (a
 *     curve that no shape follows looks like a walk there) or a warm-up was cut (a tail alone does not show that growth slows
 *     down), there are no large falls (three or more), and it is no worse than the best of the others with steps.
 * So growth that the other models explain about as well is never called a leak: it is `plateau`, `step` or `sawtooth` where
 * these explain it, and `insufficient` where more samples must decide: also where steps add less than the curve beside them, and
 * where the feet of too few teeth for a contest rise.
 * Cost: some milliseconds, and a sort of the samples (half a second for a million); 100 KB scratch and the samples once more.
 * Threads: no globals.
 */
#ifndef PFO_MONITOR_LEAK_H
#define PFO_MONITOR_LEAK_H

#include "base/status.h"

#include <stdint.h>

enum { PFO_LEAK_MIN_POINTS = 24 };
#define PFO_LEAK_MIN_SECONDS 30.0

/* X(enumerator, name) */
#define PFO_LEAK_VERDICTS(X)                                                                                           \
    X(INSUFFICIENT, "insufficient")                                                                                    \
    X(STABLE, "stable")                                                                                                \
    X(PLATEAU, "plateau")                                                                                              \
    X(STEP, "step")                                                                                                    \
    X(SAWTOOTH, "sawtooth")                                                                                            \
    X(LEAK, "leak")

typedef enum pfo_leak_verdict {
#define PFO_LEAK_ENUM(id, name) PFO_LEAK_##id,
    PFO_LEAK_VERDICTS(PFO_LEAK_ENUM)
#undef PFO_LEAK_ENUM
        PFO_LEAK_VERDICT_COUNT
} pfo_leak_verdict;

const char *pfo_leak_verdict_name(pfo_leak_verdict verdict);

/* The models that compete. X(enumerator, name) */
#define PFO_LEAK_MODELS(X)                                                                                             \
    X(LEVELS, "levels")                                                                                                \
    X(LINE, "line")                                                                                                    \
    X(ENDED, "growth that ended")                                                                                      \
    X(SLOWING, "growth that slows down")                                                                               \
    X(LATE, "growth that began late")                                                                                  \
    X(BLOCKS, "line in random blocks")

typedef enum pfo_leak_model {
#define PFO_LEAK_MODEL_ENUM(id, name) PFO_LEAK_MODEL_##id,
    PFO_LEAK_MODELS(PFO_LEAK_MODEL_ENUM)
#undef PFO_LEAK_MODEL_ENUM
        PFO_LEAK_MODEL_COUNT
} pfo_leak_model;

const char *pfo_leak_model_name(pfo_leak_model model);

typedef struct pfo_leak {
    pfo_leak_verdict verdict;
    pfo_leak_model model; /* the best one */
    double slope;         /* bytes per second, beside steps, as of now (a plateau's is that of its last third) */
    double low, high;     /* its 95 % interval */
    /* By how much the line with steps beats the best other model so, or in blocks if model is BLOCKS (negative: it does not). */
    double margin;
    double growth;      /* slope of the line times the seconds judged */
    double minimum;     /* growth from which a leak is worth its name */
    double level;       /* median of the series */
    double noise;       /* standard deviation of a window's minimum */
    double correlation; /* lag-1 correlation of what the best model leaves over */
    double span;        /* seconds from the first sample to the last */
    double warm_up;     /* seconds cut at the start */
    int64_t windows;    /* judged */
    int steps;          /* of the best model */
    int releases;       /* large falls of the windows */
    int teeth;          /* falls of the samples themselves, where these show a saw too fine for windows */
} pfo_leak;

/* seconds must not decrease, values (bytes) are finite. INSUFFICIENT, with all else zero but span, with fewer than
 * PFO_LEAK_MIN_POINTS samples or less than PFO_LEAK_MIN_SECONDS. PFO_BAD_ARGUMENT names what is not as above; PFO_NO_MEMORY. */
pfo_status pfo_leak_judge(const double *seconds, const double *values, int64_t count, pfo_leak *leak, pfo_error *err);

#endif
