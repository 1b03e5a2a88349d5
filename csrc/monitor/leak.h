/* leak.h: does this memory series grow without end, or does it only look so?
 *
 * Method. The series is cut into at most 120 windows, each stood for by the mean of its lower half (series.h); where there is a saw,
 * windows are widened until each spans two teeth and stand for their lowest part. Windows that stick out alone are smoothed
 * (Hampel 1974), what was given back later by a large fall does not count as kept, and a warm-up that grows several times as
 * fast as the rest is cut. Then models compete, each with up to five free steps (levels.h), by the Bayesian information criterion
 * (Schwarz 1978) with the number of independent observations that the autocorrelation leaves: levels alone; a line; growth that
 * ends (hinges); growth that slows down (logarithms, saturating exponentials, low powers of time); growth that began late.
 * It is a leak only if
 *   - the line is better than every other model by a margin of 6 (twice a log likelihood), and 3 more for each step beside it,
 *   - the 95 % interval of the slope within the segments (slope.h) is above zero, and
 *   - the growth over the span is at least 1 MiB and 0.75 % of the level.
 * So growth that the other models explain about as well is never called a leak: it is `plateau`, `step` or `sawtooth` where
 * these explain it, and `insufficient` where more samples must decide.
 * Cost: some milliseconds, and a sort of the samples (half a second for a million); 70 KB scratch and the samples once more. Threads: no globals.
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
    X(LATE, "growth that began late")

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
    double margin;        /* by how much the line beats the best other model (negative: it does not) */
    double growth;        /* slope of the line times the seconds judged */
    double minimum;       /* growth from which a leak is worth its name */
    double level;         /* median of the series */
    double noise;         /* standard deviation of a window's minimum */
    double correlation;   /* lag-1 correlation of what the best model leaves over */
    double span;          /* seconds from the first sample to the last */
    double warm_up;       /* seconds cut at the start */
    int64_t windows;      /* judged */
    int steps;            /* of the best model */
    int releases;         /* large falls of the windows */
    int teeth;            /* falls of the samples themselves, where these show a saw too fine for windows */
} pfo_leak;

/* seconds must not decrease, values (bytes) are finite. INSUFFICIENT, with all else zero but span, with fewer than
 * PFO_LEAK_MIN_POINTS samples or less than PFO_LEAK_MIN_SECONDS. PFO_BAD_ARGUMENT names what is not as above; PFO_NO_MEMORY. */
pfo_status pfo_leak_judge(const double *seconds, const double *values, int64_t count, pfo_leak *leak, pfo_error *err);

#endif
