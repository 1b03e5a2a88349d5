/* range_cost.c: prints the nanoseconds of one pfo_recorder_begin() and pfo_recorder_end(), of two clock reads, and of a
 * nested pair; the median of several batches. With spans it tells the first round of the ring, in which the system hands out
 * its pages, from the later ones. Built and run by bench_profiler.py. */
#include "base/clock.h"
#include "profiler/recorder.h"

#include <stdio.h>
#include <stdlib.h>

enum { BATCHES = 101, RANGES = 20000, SPANS = BATCHES * RANGES };

static int
by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double
median_of(double *batches)
{
    qsort(batches, BATCHES, sizeof *batches, by_size);
    return batches[BATCHES / 2];
}

static double
time_ranges(pfo_recorder *recorder, pfo_name outer, pfo_name inner, int nested)
{
    static double batches[BATCHES];
    for (int batch = 0; batch < BATCHES; batch++) {
        const int64_t begin = pfo_monotonic_ns();
        for (int i = 0; i < RANGES; i++) {
            pfo_open_range a, b;
            pfo_recorder_begin(recorder, outer, &a);
            if (nested) {
                pfo_recorder_begin(recorder, inner, &b);
                pfo_recorder_end(recorder, &b, pfo_ticks());
            }
            pfo_recorder_end(recorder, &a, pfo_ticks());
        }
        batches[batch] = (double)(pfo_monotonic_ns() - begin) / RANGES;
    }
    return median_of(batches);
}

static double
time_clock(void)
{
    static double batches[BATCHES];
    int64_t sum = 0;
    for (int batch = 0; batch < BATCHES; batch++) {
        const int64_t begin = pfo_monotonic_ns();
        for (int i = 0; i < RANGES; i++) {
            sum += pfo_ticks();
            sum ^= pfo_ticks();
        }
        batches[batch] = (double)(pfo_monotonic_ns() - begin + (sum & 0)) / RANGES;
    }
    return median_of(batches);
}

int
main(void)
{
    pfo_clock_start();
    pfo_recorder *plain = NULL;
    pfo_recorder *traced = NULL;
    if (pfo_recorder_create(10, 0, &plain, NULL) != PFO_OK || pfo_recorder_create(10, SPANS, &traced, NULL) != PFO_OK) {
        return 1;
    }
    const pfo_name outer = pfo_recorder_add_name(plain);
    const pfo_name inner = pfo_recorder_add_name(plain);
    const pfo_name spanned = pfo_recorder_add_name(traced);
    const double first_round = time_ranges(traced, spanned, spanned, 0); /* as many as the ring holds */
    (void)printf("{\"range\": %.2f, \"nested pair\": %.2f, \"with spans\": %.2f, \"with spans, first round\": %.2f, "
                 "\"two clock reads\": %.2f}\n",
                 time_ranges(plain, outer, inner, 0), time_ranges(plain, outer, inner, 1),
                 time_ranges(traced, spanned, spanned, 0), first_round, time_clock());
    pfo_recorder_destroy(plain);
    pfo_recorder_destroy(traced);
    return 0;
}
