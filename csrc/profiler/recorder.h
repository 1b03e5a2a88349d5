/* recorder.h: counts and durations of named ranges, one histogram per name and thread, summed when somebody asks.
 *
 * A name is a number here (text and its lookup belong to the caller): pfo_recorder_add_name() gives out 1, 2, 3 ... up
 * to the recorder's limit and then, for ever, PFO_RECORDER_OVERFLOW, the one row for everything beyond. A name is valid
 * in the epoch in which it was given out. pfo_recorder_reset() begins a new epoch: what was recorded is gone, numbers
 * start at 1 again, and a record under a name of an earlier epoch (a range that was open during the reset) is let go
 * without a trace. Nothing that another thread may be writing to is freed: each thread drops its own old data when it
 * records next.
 *
 * Threads: record() is wait-free after a thread's first record of a name: no lock, no allocation. All other functions
 * may be called from any thread beside it. A thread's data outlives the thread and is continued by the next new thread,
 * so that the memory is bounded by the largest number of threads that recorded at the same time, and no count is lost.
 * create/destroy: nobody may use the recorder during or after its destroy.
 * Fork: the child has its own copy of everything recorded so far and goes on recording; threads that exist only in the
 * parent count as ended.
 */
#ifndef PFO_PROFILER_RECORDER_H
#define PFO_PROFILER_RECORDER_H

#include "base/status.h"
#include "profiler/histogram.h"

#include <stddef.h>
#include <stdint.h>

enum { PFO_RECORDER_OVERFLOW = 0, PFO_RECORDER_MOST_NAMES = 1 << 24 };

typedef struct pfo_recorder pfo_recorder;

typedef struct pfo_name {
    uint64_t epoch; /* never 0, so that a zeroed pfo_name is valid nowhere */
    uint32_t id;
} pfo_name;

typedef struct pfo_recorder_usage {
    int64_t threads;  /* sets of per-thread data, at work or waiting for a thread */
    size_t bytes;     /* memory held */
    uint64_t dropped; /* records lost because memory was out, since create or reset */
} pfo_recorder_usage;

/* PFO_BAD_ARGUMENT unless 1 <= max_names <= PFO_RECORDER_MOST_NAMES; PFO_NO_MEMORY; PFO_UNAVAILABLE when the system has
 * no thread-exit hook left. */
pfo_status pfo_recorder_create(int64_t max_names, pfo_recorder **out, pfo_error *err);
void pfo_recorder_destroy(pfo_recorder *recorder); /* NULL is allowed */

pfo_name pfo_recorder_add_name(pfo_recorder *recorder);
int64_t pfo_recorder_names(pfo_recorder *recorder); /* given out in this epoch, without the overflow row */
int64_t pfo_recorder_max_names(const pfo_recorder *recorder);
uint64_t pfo_recorder_epoch(const pfo_recorder *recorder);

/* Adds one range to the calling thread's histogram of the name; end < begin counts as 0 ticks. Cannot fail visibly:
 * without memory the record is dropped and counted. */
void pfo_recorder_record(pfo_recorder *recorder, pfo_name name, int64_t begin_tick, int64_t end_tick);

/* Begins a new epoch and returns it. */
uint64_t pfo_recorder_reset(pfo_recorder *recorder);

/* Calls visit() for every name of the epoch that has records, in the order of ids, with the sum over all threads. The
 * histogram is the visitor's for the call only. No lock is held meanwhile. Ends early, with PFO_OK, once the epoch has
 * passed. */
typedef void (*pfo_recorder_visitor)(void *context, uint32_t id, const pfo_histogram *merged);
pfo_status pfo_recorder_visit(pfo_recorder *recorder, uint64_t epoch, pfo_recorder_visitor visitor, void *context,
                              pfo_error *err);

pfo_recorder_usage pfo_recorder_measure(pfo_recorder *recorder);

#endif
