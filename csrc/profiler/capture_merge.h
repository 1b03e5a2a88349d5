/* capture_merge.h: several captures as one: of threads of one name, of processes, of runs. */
#ifndef PFO_PROFILER_CAPTURE_MERGE_H
#define PFO_PROFILER_CAPTURE_MERGE_H

#include "profiler/capture.h"

/* Equal names become one, with rows that are what recording everything in one place would have given: counts, sums,
 * extremes and deviations exactly (up to rounding), histograms by addition. Where two captures' clocks tick at rates
 * that differ by more than 1 in 1000, buckets are filled by their middles and the row's error says so; below, the
 * difference is added to it. Processes, threads, trees and spans stay apart, side by side; times count from the
 * earliest base. Spans are read from where they are and not copied.
 * PFO_BAD_ARGUMENT for no captures, or for one without a clock anchor; PFO_NO_MEMORY. */
pfo_status pfo_capture_merge(const pfo_capture *const *captures, int32_t count, pfo_capture **out, pfo_error *err);

#endif
