/* recorder.h: named ranges of time, counted, timed and put into their calling context, per thread and without locks.
 *
 * A name is a number here (text and its lookup belong to the caller): pfo_recorder_add_name() gives out 1, 2, 3 ... up
 * to the recorder's limit and then, for ever, PFO_RECORDER_OVERFLOW, the one row for everything beyond. A name is valid
 * in the epoch in which it was given out. pfo_recorder_reset() begins a new epoch: what was recorded is gone, numbers
 * start at 1 again, and a range that was open during the reset is let go without a trace. Nothing that another thread
 * may be writing to is freed: each thread drops its own old data when it begins its next range.
 *
 * Each thread has a lane: one histogram a name, and a calling-context tree with the stack of ranges that are open. The
 * time between two events (a begin, an end, a suspend, a resume) goes to the node on top of the stack, so that a lane's
 * self times always add up to the time in which any range was open. What was given away:
 * - a range may end in another order than it began; those begun after it are then moved to the context without it;
 * - a range may end on another thread; its own thread sees that at its next event, and counts until then to it;
 * - beyond PFO_RECORDER_DEEPEST open ranges and the tree's limit of nodes, ranges count in one overflow node, and time
 *   beyond that depth stays with the range at the limit. Histograms and spans have every range.
 *
 * A suspending range (coroutine, generator) is on the stack only while it runs; its histogram holds the wall time, and
 * what it was suspended is summed beside it.
 *
 * Threads: begin and end are wait-free after a thread's first range of a name in its context: no lock, no allocation
 * (a thread that takes turns between recorders may have to look up under the lock which data are its own).
 * All other functions may be called from any thread beside them. One range belongs to one caller at a time. A lane
 * outlives its thread and is continued, under its own name then, by the next new thread, so that the memory is bounded
 * by the largest number of threads that recorded at the same time, and no count is lost.
 * create/destroy: nobody may use the recorder during or after its destroy.
 * Fork: the child has its own copy of everything recorded so far and goes on recording; threads that exist only in the
 * parent count as ended.
 */
#ifndef PFO_PROFILER_RECORDER_H
#define PFO_PROFILER_RECORDER_H

#include "base/status.h"
#include "profiler/calltree.h"
#include "profiler/histogram.h"
#include "profiler/spans.h"

#include <stddef.h>
#include <stdint.h>

enum {
    PFO_RECORDER_OVERFLOW = 0,
    PFO_RECORDER_MOST_NAMES = 1 << 24,
    PFO_RECORDER_DEEPEST = 1024,
    PFO_THREAD_NAME_BYTES = 64
};

typedef struct pfo_recorder pfo_recorder;
typedef struct pfo_lane pfo_lane;

typedef struct pfo_name {
    uint64_t epoch; /* never 0, so that a zeroed pfo_name is valid nowhere */
    uint32_t id;
} pfo_name;

/* A range between its begin and its end; the caller keeps it and looks at begin_tick only. */
typedef struct pfo_open_range {
    pfo_lane *lane;  /* NULL: not in the tree */
    uint64_t serial; /* of its frame on the lane's stack; 0: too deep for one */
    int64_t begin_tick;
    pfo_name name;
    uint32_t place; /* of its frame, at most */
} pfo_open_range;

typedef struct pfo_suspending_range {
    pfo_open_range frame; /* of the stretch that runs now; frame.begin_tick is that of the stretch */
    int64_t first_tick;   /* when the range began */
    int64_t active_ticks; /* of the stretches before */
    uint32_t depth;       /* when it began */
} pfo_suspending_range;

typedef struct pfo_recorder_usage {
    int64_t threads;  /* lanes, at work or waiting for a thread */
    size_t bytes;     /* memory held */
    uint64_t dropped; /* records lost because memory was out, since create or reset */
} pfo_recorder_usage;

/* PFO_BAD_ARGUMENT unless 1 <= max_names <= PFO_RECORDER_MOST_NAMES and 0 <= span_capacity <= PFO_SPANS_MOST (0: no
 * spans); PFO_NO_MEMORY; PFO_UNAVAILABLE when the system has no thread-exit hook left. */
pfo_status pfo_recorder_create(int64_t max_names, int64_t span_capacity, pfo_recorder **out, pfo_error *err);
void pfo_recorder_destroy(pfo_recorder *recorder); /* NULL is allowed */

pfo_name pfo_recorder_add_name(pfo_recorder *recorder);
int64_t pfo_recorder_names(pfo_recorder *recorder); /* given out in this epoch, without the overflow row */
int64_t pfo_recorder_max_names(const pfo_recorder *recorder);
uint64_t pfo_recorder_epoch(const pfo_recorder *recorder);

/* Begins a range; its tick is read last. Cannot fail visibly. */
void pfo_recorder_begin(pfo_recorder *recorder, pfo_name name, pfo_open_range *range);

/* Ends it at a tick that the caller has read first; end < begin counts as 0 ticks. Cannot fail visibly: without memory
 * the record is dropped and counted. */
void pfo_recorder_end(pfo_recorder *recorder, pfo_open_range *range, int64_t end_tick);

/* Takes a range that will never end off the stack; nothing is counted. */
void pfo_recorder_abandon(pfo_recorder *recorder, pfo_open_range *range, int64_t tick);

/* The same for ranges that suspend. begin() runs it at once; a stretch ends with suspend() and the next begins with
 * resume(), on whatever thread; pre of end(): it runs. abandon() is for one that runs (suspended ones need none). */
void pfo_recorder_begin_suspending(pfo_recorder *recorder, pfo_name name, pfo_suspending_range *range);
void pfo_recorder_suspend(pfo_recorder *recorder, pfo_suspending_range *range, int64_t tick);
void pfo_recorder_resume(pfo_recorder *recorder, pfo_suspending_range *range);
void pfo_recorder_end_suspending(pfo_recorder *recorder, pfo_suspending_range *range, int64_t end_tick);

/* Adds the change of the process's memory over a range to its name, on the calling thread's lane. */
void pfo_recorder_add_memory(pfo_recorder *recorder, pfo_name name, int64_t bytes);

/* Notes a name beyond the limit by its hash, so that they can be counted. pfo_recorder_overflow_names(): how many
 * different ones there were in this epoch at least (names whose hashes agree in 16 bits count once). */
void pfo_recorder_note_overflow(pfo_recorder *recorder, uint64_t hash);
uint64_t pfo_recorder_overflow_names(pfo_recorder *recorder);

/* Begins a new epoch and returns it. */
uint64_t pfo_recorder_reset(pfo_recorder *recorder);

/* What is kept of a name beside its histogram. */
typedef struct pfo_name_sums {
    uint64_t suspended_ticks;
    uint64_t memory_count; /* ranges whose memory was measured */
    int64_t memory_sum;    /* bytes */
    int64_t memory_least;
    int64_t memory_greatest;
} pfo_name_sums;

/* Calls visit() for every name of the epoch that has records, in the order of ids, with the sum over all threads. The
 * histogram is the visitor's for the call only. No lock is held meanwhile; a failure of the visitor ends it. Ends early,
 * with PFO_STATE, once the epoch has passed. */
typedef pfo_status (*pfo_name_visitor)(void *context, uint32_t id, const pfo_histogram *merged,
                                       const pfo_name_sums *sums, pfo_error *err);
pfo_status pfo_recorder_visit_names(pfo_recorder *recorder, uint64_t epoch, pfo_name_visitor visitor, void *context,
                                    pfo_error *err);

typedef struct pfo_lane_view {
    uint32_t number; /* in the order of first use */
    int64_t thread_id;
    const char *thread_name;
    const pfo_calltree *tree;
} pfo_lane_view;

/* The same for every lane of the epoch, in the order of numbers. A lock is held meanwhile, under which other threads may wait for
 * their first range: copy and return. */
typedef pfo_status (*pfo_lane_visitor)(void *context, const pfo_lane_view *lane, pfo_error *err);
pfo_status pfo_recorder_visit_lanes(pfo_recorder *recorder, uint64_t epoch, pfo_lane_visitor visitor, void *context,
                                    pfo_error *err);

/* The ring and the first position of this epoch; NULL without spans. Borrowed. */
pfo_spans *pfo_recorder_spans(pfo_recorder *recorder, uint64_t *first);

/* When this epoch began. */
int64_t pfo_recorder_begun_tick(pfo_recorder *recorder);

pfo_recorder_usage pfo_recorder_measure(pfo_recorder *recorder);

/* Where the names of threads come from: called on each thread's first range, without a lock; fills at most `room` bytes
 * with NUL-terminated UTF-8. NULL: the system's name of the thread. Process-wide. */
typedef void (*pfo_thread_namer)(char *name, size_t room);
void pfo_recorder_set_thread_namer(pfo_thread_namer namer);

#endif
