/* capture.h: everything that was recorded up to one moment, in one or several processes, as plain tables.
 *
 * A capture is what leaves the recorder: summaries, exports, reports, files and merges all read it and nothing else. It
 * is immutable once made, owns all that it points to, and holds times in nanoseconds: a tick became one when the capture
 * was taken. Spans are the one thing that may be too many to copy; they are read in pieces through a pfo_span_source,
 * from the recorder's ring or from a file, so that an export needs constant memory whatever their number.
 *
 * Tables refer to each other by index, -1 for none. Text is UTF-8 with its length beside it and may hold any character,
 * NUL included; whoever writes a format escapes for it.
 * Threads: an immutable capture may be read by any number of threads; a span source by one at a time.
 * Memory: from base/alloc.h, given back by pfo_capture_destroy().
 */
#ifndef PFO_PROFILER_CAPTURE_H
#define PFO_PROFILER_CAPTURE_H

#include "base/status.h"
#include "profiler/histogram.h"

#include <stddef.h>
#include <stdint.h>

typedef struct pfo_text {
    const char *bytes;
    size_t length;
} pfo_text;

/* One process of the capture and its clock anchor: the same moment on both clocks, without which recordings of two
 * processes cannot be laid beside each other. */
typedef struct pfo_capture_process {
    int64_t pid;            /* in the namespace below */
    uint64_t pid_namespace; /* inode of its pid namespace, 0 unknown */
    int64_t monotonic_ns;   /* CLOCK_MONOTONIC */
    int64_t epoch_ns;       /* CLOCK_REALTIME: nanoseconds since 1970-01-01 UTC */
    pfo_text command;
} pfo_capture_process;

typedef struct pfo_capture_thread {
    int32_t process;
    int64_t id; /* the system's thread id */
    pfo_text name;
} pfo_capture_thread;

/* What is known of one name, over all threads and processes. Times in ns. For ranges that suspend (coroutines, generators)
 * the wall time runs from begin to end, the active time only while they ran; for others both are the same. */
typedef struct pfo_capture_row {
    int32_t name;     /* index into names; -1: the overflow row of all names beyond the limit */
    uint64_t count;   /* exact, like total, least and greatest */
    double total_ns;  /* wall time */
    double active_ns; /* sum of active times */
    double self_ns;   /* active time without that of ranges inside, on the same thread */
    double mean_ns;
    double deviation_ns; /* standard deviation of the sample, n - 1; 0 for one range */
    double least_ns;
    double greatest_ns;
    double error;               /* bound of the relative error of percentiles and buckets */
    double ns_per_tick;         /* of the histogram */
    const pfo_histogram *ticks; /* wall times */
    uint64_t memory_count;      /* ranges whose change of the resident set was measured; without any, the rest is 0 */
    double memory_sum;          /* bytes */
    double memory_least;
    double memory_greatest;
} pfo_capture_row;

/* One node of the calling-context tree: a name under a path of names. A parent stands before its children. */
typedef struct pfo_capture_node {
    int32_t parent; /* -1: a root */
    int32_t name;   /* -1: the overflow row; ranges beyond the limit of nodes or depth, too */
    int32_t thread;
    uint64_t count;
    double total_ns; /* active time, ranges inside included */
    double self_ns;
} pfo_capture_node;

enum { PFO_SPAN_SUSPENDS = 1 }; /* ends in another order than it began: does not nest in its thread */

/* One range, as it happened. 32 bytes. */
typedef struct pfo_span {
    int64_t begin_ns; /* since the capture's base_epoch_ns; may be negative */
    int64_t duration_ns;
    int32_t name; /* -1: the overflow row */
    int32_t thread;
    uint32_t flags;
    uint32_t depth; /* ranges around it on its thread when it began */
} pfo_span;

typedef struct pfo_capture {
    int64_t base_epoch_ns;    /* the moment from which spans count */
    int64_t taken_ns;         /* when, since then */
    uint64_t dropped_records; /* lost because memory was out */
    uint64_t dropped_spans;   /* overwritten in the ring, or lost */
    uint64_t overflow_names;  /* names beyond the limit, as far as they can be told apart; a lower bound */
    int64_t span_count;       /* that a source over this capture gives; fewer once a live ring has overwritten some */

    const pfo_capture_process *processes;
    const pfo_capture_thread *threads;
    const pfo_text *names;
    const pfo_capture_row *rows; /* at most one a name, in the order of names, the overflow row last */
    const pfo_capture_node *nodes;
    int32_t process_count;
    int32_t thread_count;
    int32_t name_count;
    int32_t row_count;
    int32_t node_count;
} pfo_capture;

void pfo_capture_destroy(pfo_capture *capture); /* NULL is allowed */

/* Spans of a capture in pieces. read() fills at most `room` spans and returns how many, 0 at the end, -1 with *err set;
 * spans of one thread come in the order of their ends, threads in any. rewind() starts again. */
typedef struct pfo_span_source {
    int64_t (*read)(void *context, pfo_span *spans, int64_t room, pfo_error *err);
    pfo_status (*rewind)(void *context, pfo_error *err);
    void *context;
    void (*close)(void *context); /* NULL where there is nothing to close */
} pfo_span_source;

/* A source over the capture's spans, independent of any other; empty if it has none. It keeps what it reads from (the
 * ring, the open file) alive by itself, the capture must outlive it. Ends with source->close(source->context).
 * PFO_NO_MEMORY. */
pfo_status pfo_capture_open_spans(const pfo_capture *capture, pfo_span_source *source, pfo_error *err);

/* Where an export goes: takes all bytes or fails. Called with pieces of about 64 KiB. */
typedef struct pfo_sink {
    pfo_status (*write)(void *context, const void *bytes, size_t length, pfo_error *err);
    void *context;
} pfo_sink;

#endif
