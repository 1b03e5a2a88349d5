/* export_tracks.h: on which track of a timeline a span is drawn.
 *
 * Timelines tell tracks apart by process and thread id, and want the spans of a track to nest. Both can fail in a capture: two
 * containers have a process 1 each, the system reuses thread ids, coroutines interleave, and a recorder that ran
 * out of room has lost what was around a span. So an id that is not unique, or not a positive number below 2^30, is replaced by 2^30 + its
 * place in the table; and each span is placed on its thread's track only if that is certain to keep the track nested.
 *
 * [nesting] Spans come in the order of their ends. For each thread there is a stack of disjoint intervals that covers the spans
 * placed so far, the outermost ones only. A new span nests if each interval lies wholly inside it or wholly before
 * it. Those inside leave the stack; a neighbour before it that is not less deep is merged with it, for a span yet
 * to come cannot begin between the two. So the stack is never higher than the ranges are deep. At STACK_LIMIT the two
 * oldest are merged, after which a span that begins between them is taken for one that crosses: that is safe.
 * Threads: one at a time. Memory: 24 bytes a thread and a level of depth in use.
 */
#ifndef PFO_PROFILER_EXPORT_TRACKS_H
#define PFO_PROFILER_EXPORT_TRACKS_H

#include "base/status.h"
#include "profiler/capture.h"

#include <stdint.h>

typedef struct pfo_interval {
    int64_t begin;
    int64_t end;
    uint32_t depth;
} pfo_interval;

typedef struct pfo_track {
    int32_t process; /* slot */
    int32_t tid;
    pfo_interval *stack; /* [nesting] */
    uint32_t height;
    uint32_t room;
} pfo_track;

/* Slots number the tables; the last one, for index -1, stands for what is not known. */
typedef struct pfo_tracks {
    int32_t process_slots;
    int32_t thread_slots;
    int32_t *pids;     /* by slot of process */
    pfo_track *tracks; /* by slot of thread */
} pfo_tracks;

/* PFO_NO_MEMORY. */
pfo_status pfo_tracks_open(pfo_tracks *tracks, const pfo_capture *capture, pfo_error *err);
void pfo_tracks_close(pfo_tracks *tracks);

static inline pfo_track *
pfo_track_of(const pfo_tracks *tracks, int32_t thread)
{
    return &tracks->tracks[thread < 0 ? tracks->thread_slots - 1 : thread];
}

/* How a span lies to those placed before it on its track. */
typedef enum pfo_placement {
    PFO_PLACE_NESTED,
    PFO_PLACE_NESTED_AT_BEGIN, /* nested, and begins at the same nanosecond as one inside that is not empty */
    PFO_PLACE_APART            /* suspends, or crosses another */
} pfo_placement;

/* Places a span, for good unless it is apart. With at_begin == 0 also those of the middle kind stay apart: for formats that
 * order by time alone, where the one that comes first would be taken for the outer one. PFO_NO_MEMORY. */
pfo_status pfo_track_place(pfo_track *track, const pfo_span *span, int at_begin, pfo_placement *placement,
                           pfo_error *err);

#endif
