/* export_tracks.c: see export_tracks.h for the contract. */
#include "profiler/export_tracks.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

enum { STACK_LIMIT = 4096, FIRST_ROOM = 8, SUBSTITUTES = 1 << 30 };

typedef struct numbered {
    int64_t id;
    int32_t slot;
} numbered;

static int
by_id_then_slot(const void *a, const void *b)
{
    const numbered *left = a;
    const numbered *right = b;
    if (left->id != right->id) {
        return left->id < right->id ? -1 : 1;
    }
    return left->slot < right->slot ? -1 : left->slot > right->slot;
}

/* Sorts ids and calls unique ones by themselves, all others by a substitute; the first of several alike keeps its own. */
static void
make_unique(numbered *ids, int32_t count, int32_t *chosen)
{
    if (count == 0) {
        return;
    }
    qsort(ids, (size_t)count, sizeof *ids, by_id_then_slot);
    for (int32_t i = 0; i < count; i++) {
        const int usable = ids[i].id > 0 && ids[i].id < SUBSTITUTES;
        const int repeated = i > 0 && ids[i].id == ids[i - 1].id;
        chosen[ids[i].slot] = usable && !repeated ? (int32_t)ids[i].id : SUBSTITUTES + ids[i].slot;
    }
}

void
pfo_tracks_close(pfo_tracks *tracks)
{
    for (int32_t i = 0; tracks->tracks != NULL && i < tracks->thread_slots; i++) {
        pfo_free(tracks->tracks[i].stack);
    }
    pfo_free(tracks->tracks);
    pfo_free(tracks->pids);
    *tracks = (pfo_tracks){ 0 };
}

/* Fills in the ids; `ids` and `tids` have room for every slot. */
static void
choose_ids(pfo_tracks *tracks, const pfo_capture *capture, numbered *ids, int32_t *tids)
{
    for (int32_t i = 0; i < capture->process_count; i++) {
        ids[i] = (numbered){ capture->processes[i].pid, i };
    }
    make_unique(ids, capture->process_count, tracks->pids);
    tracks->pids[capture->process_count] = SUBSTITUTES + capture->process_count;
    for (int32_t i = 0; i < capture->thread_count; i++) {
        ids[i] = (numbered){ capture->threads[i].id, i };
    }
    make_unique(ids, capture->thread_count, tids);
    tids[capture->thread_count] = SUBSTITUTES + capture->thread_count;
    for (int32_t i = 0; i < tracks->thread_slots; i++) {
        const int32_t process = i < capture->thread_count ? capture->threads[i].process : -1;
        tracks->tracks[i].tid = tids[i];
        tracks->tracks[i].process = process < 0 ? capture->process_count : process;
    }
}

pfo_status
pfo_tracks_open(pfo_tracks *tracks, const pfo_capture *capture, pfo_error *err)
{
    *tracks = (pfo_tracks){ .process_slots = capture->process_count + 1, .thread_slots = capture->thread_count + 1 };
    const int32_t most = tracks->process_slots > tracks->thread_slots ? tracks->process_slots : tracks->thread_slots;
    tracks->pids = pfo_alloc_array((size_t)tracks->process_slots, sizeof *tracks->pids);
    tracks->tracks = pfo_alloc_array((size_t)tracks->thread_slots, sizeof *tracks->tracks);
    numbered *ids = pfo_alloc_array((size_t)most, sizeof *ids);
    int32_t *tids = pfo_alloc_array((size_t)tracks->thread_slots, sizeof *tids);
    const int complete = tracks->pids != NULL && tracks->tracks != NULL && ids != NULL && tids != NULL;
    if (complete) {
        choose_ids(tracks, capture, ids, tids);
    } else {
        pfo_tracks_close(tracks);
    }
    pfo_free(ids);
    pfo_free(tids);
    return complete ? PFO_OK
                    : pfo_fail(err, PFO_NO_MEMORY, "no memory for the tracks of %d threads", capture->thread_count);
}

/* [nesting] Room for one more interval. */
static pfo_status
make_room(pfo_track *track, pfo_error *err)
{
    if (track->height < track->room) {
        return PFO_OK;
    }
    if (track->height == STACK_LIMIT) {
        track->stack[0].end = track->stack[1].end;
        track->height--;
        memmove(&track->stack[1], &track->stack[2], (track->height - 1) * sizeof *track->stack);
        return PFO_OK;
    }
    const uint32_t room = track->room == 0 ? FIRST_ROOM : track->room * 2;
    pfo_interval *grown = pfo_realloc_array(track->stack, room, sizeof *grown);
    if (grown == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to keep track of nested ranges");
    }
    track->stack = grown;
    track->room = room;
    return PFO_OK;
}

pfo_status
pfo_track_place(pfo_track *track, const pfo_span *span, int at_begin, pfo_placement *placement, pfo_error *err)
{
    const int64_t begin = span->begin_ns;
    const int64_t end = begin + span->duration_ns;
    uint32_t height = track->height;
    int same_begin = 0;
    *placement = PFO_PLACE_APART;
    if ((span->flags & PFO_SPAN_SUSPENDS) != 0 || (height > 0 && end < track->stack[height - 1].end)) {
        return PFO_OK;
    }
    while (height > 0 && track->stack[height - 1].begin >= begin) { /* wholly inside */
        height--;
        same_begin |= track->stack[height].begin == begin && track->stack[height].end > begin;
    }
    if ((height > 0 && track->stack[height - 1].end > begin) || (same_begin && !at_begin)) {
        return PFO_OK;
    }
    track->height = height;
    *placement = same_begin ? PFO_PLACE_NESTED_AT_BEGIN : PFO_PLACE_NESTED;
    pfo_interval placed = { begin, end, span->depth };
    while (track->height > 0 && track->stack[track->height - 1].depth >= placed.depth) {
        placed.begin = track->stack[--track->height].begin;
    }
    PFO_TRY(make_room(track, err));
    track->stack[track->height++] = placed;
    return PFO_OK;
}
