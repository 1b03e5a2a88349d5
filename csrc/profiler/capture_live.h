/* capture_live.h: a capture of what a recorder has recorded so far. */
#ifndef PFO_PROFILER_CAPTURE_LIVE_H
#define PFO_PROFILER_CAPTURE_LIVE_H

#include "profiler/capture.h"
#include "profiler/recorder.h"

/* Takes a capture of one epoch; recording goes on beside it, and ranges that end meanwhile may be in one table and not
 * yet in another. names: the texts of the ids 1 ... name_count; what has a later id is left out. Ranges that are open
 * are not counted; the time that they have run until their lane's last event is in the tree.
 * PFO_STATE: the recorder was reset meanwhile; PFO_NO_MEMORY. The spans stay in the recorder's ring and are read from
 * there, so those that are overwritten before they are read are gone. */
pfo_status pfo_capture_take(pfo_recorder *recorder, uint64_t epoch, const pfo_text *names, int32_t name_count,
                            pfo_capture **out, pfo_error *err);

/* The figures of a row that follow from a histogram: count, total, mean, deviation, least, greatest, error and
 * ns_per_tick; everything else 0. pre: count > 0. Does not take the histogram over. */
pfo_capture_row pfo_capture_row_of(const pfo_histogram *ticks, double ns_per_tick);

#endif
