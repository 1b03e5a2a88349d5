/* recorder_stack.c: the stack of open ranges of a lane: begin and end, suspend and resume. See recorder_lane.h for the
 * invariants, [frames] above all. */
#include "profiler/recorder_lane.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "profiler/capture.h"

/* ---- records --------------------------------------------------------------------------------- */

static inline pfo_name_entry *
record(pfo_lane *lane, uint32_t id, int64_t ticks)
{
    pfo_name_entry *entry = pfo_lane_entry(lane, id);
    if (entry == NULL ||
        pfo_histogram_record(atomic_load_explicit(&entry->histogram, memory_order_relaxed), ticks) != PFO_OK) {
        pfo_recorder_drop(lane->recorder);
        return NULL;
    }
    return entry;
}

static void
add_span(const pfo_lane *lane, const pfo_raw_span *span)
{
    const uint64_t position = pfo_spans_take(lane->spans);
    if (pfo_recorder_epoch(lane->recorder) == lane->epoch) {
        pfo_spans_fill(lane->spans, position, span);
    }
}

/* ---- the stack ------------------------------------------------------------------------------- */

void
pfo_lane_pop_finished(pfo_lane *lane, int all)
{
    const uint64_t states = (1U << PFO_FRAME_STATE_BITS) - 1;
    while (lane->depth > 0) {
        pfo_frame *top = &lane->frames[lane->depth - 1];
        const uint64_t state = atomic_load_explicit(&top->mark, memory_order_relaxed) & states;
        if (state == PFO_FRAME_OPEN && !all) {
            return;
        }
        if (state == PFO_FRAME_ENDED) {
            pfo_call_node_add_count(top->node);
        }
        atomic_store_explicit(&top->mark, 0, memory_order_relaxed); /* nobody shall find it again */
        lane->depth--;
    }
}

/* The time since the last event goes to whatever is on top of the stack. */
static inline void
advance(pfo_lane *lane, int64_t tick)
{
    pfo_call_node *top = lane->depth > 0 ? lane->frames[lane->depth - 1].node : pfo_calltree_root(lane->tree);
    pfo_call_node_add_self(top, tick - lane->last_tick);
    lane->last_tick = tick;
}

/* Room for one more frame; 0 when the stack is as deep as it may be, or memory is out. */
static int
grow_frames(pfo_lane *lane)
{
    if (lane->frame_capacity >= PFO_RECORDER_DEEPEST) {
        return 0;
    }
    const uint32_t capacity = 2 * lane->frame_capacity;
    pfo_frame *frames = pfo_alloc_array(capacity, sizeof *frames);
    if (frames == NULL) {
        return 0;
    }
    pfo_mutex_lock(&pfo_recorder_lock);
    for (uint32_t i = 0; i < lane->depth; i++) {
        frames[i].node = lane->frames[i].node;
        atomic_init(&frames[i].mark, atomic_load_explicit(&lane->frames[i].mark, memory_order_relaxed));
    }
    pfo_frame *old = lane->frames;
    lane->frames = frames;
    lane->frame_capacity = capacity;
    pfo_mutex_unlock(&pfo_recorder_lock);
    pfo_free(old);
    return 1;
}

/* Puts a range on the stack and reads its begin tick. */
static inline void
push(pfo_lane *lane, pfo_open_range *range)
{
    pfo_lane_pop_finished(lane, 0);
    range->lane = lane;
    range->place = lane->depth;
    if (lane->depth == lane->frame_capacity && !grow_frames(lane)) {
        range->serial = 0;
        range->begin_tick = pfo_ticks();
        return;
    }
    pfo_call_node *top = lane->depth > 0 ? lane->frames[lane->depth - 1].node : pfo_calltree_root(lane->tree);
    pfo_frame *mine = &lane->frames[lane->depth];
    mine->node = pfo_calltree_child(lane->tree, top, range->name.id);
    range->serial = ++lane->last_serial;
    atomic_store_explicit(&mine->mark, range->serial << PFO_FRAME_STATE_BITS | PFO_FRAME_OPEN, memory_order_relaxed);
    const int64_t tick = pfo_ticks();
    pfo_call_node_add_self(top, tick - lane->last_tick);
    lane->last_tick = tick;
    lane->depth++;
    range->begin_tick = tick;
}

/* The frame of a range, which can only have moved down since it was pushed; UINT32_MAX if it is gone. */
static uint32_t
find_frame(const pfo_lane *lane, const pfo_open_range *range)
{
    uint32_t place = range->place < lane->frame_capacity ? range->place + 1 : lane->frame_capacity;
    while (place-- > 0) {
        if (atomic_load_explicit(&lane->frames[place].mark, memory_order_relaxed) ==
            (range->serial << PFO_FRAME_STATE_BITS | PFO_FRAME_OPEN)) {
            return place;
        }
    }
    return UINT32_MAX;
}

/* Takes a frame out from below others of its own lane: those get the nodes of the context without it. */
static void
remove_frame(pfo_lane *lane, uint32_t place)
{
    pfo_mutex_lock(&pfo_recorder_lock);
    lane->depth--;
    pfo_call_node *below = place > 0 ? lane->frames[place - 1].node : pfo_calltree_root(lane->tree);
    for (uint32_t i = place; i < lane->depth; i++) {
        const pfo_frame *from = &lane->frames[i + 1];
        below = pfo_calltree_child(lane->tree, below, from->node->name);
        lane->frames[i].node = below;
        atomic_store_explicit(&lane->frames[i].mark, atomic_load_explicit(&from->mark, memory_order_relaxed),
                              memory_order_relaxed);
    }
    atomic_store_explicit(&lane->frames[lane->depth].mark, 0, memory_order_relaxed); /* nobody shall find it twice */
    pfo_mutex_unlock(&pfo_recorder_lock);
}

/* Marks the frame of a range whose lane is another thread's. 1 if it was there. */
static int
mark_elsewhere(const pfo_open_range *range, uint64_t state)
{
    pfo_lane *lane = range->lane;
    pfo_mutex_lock(&pfo_recorder_lock);
    uint32_t place = UINT32_MAX;
    if (lane->epoch == range->name.epoch && lane->frames != NULL) {
        place = find_frame(lane, range);
    }
    if (place != UINT32_MAX) {
        atomic_store_explicit(&lane->frames[place].mark, range->serial << PFO_FRAME_STATE_BITS | state,
                              memory_order_relaxed);
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
    return place != UINT32_MAX;
}

/* Takes a range off whatever stack it is on, wherever it is there. `mine` is the calling thread's lane. Returns 1 if its
 * node has counted it or will. */
static int
take_off(pfo_lane *mine, const pfo_open_range *range, int64_t tick, uint64_t state)
{
    if (range->serial == 0 || range->lane == NULL) {
        return 0;
    }
    if (range->lane != mine) {
        return mark_elsewhere(range, state);
    }
    const uint32_t place = find_frame(mine, range);
    if (place == UINT32_MAX || place >= mine->depth) {
        return 0;
    }
    advance(mine, tick);
    if (state == PFO_FRAME_ENDED) {
        pfo_call_node_add_count(mine->frames[place].node);
    }
    remove_frame(mine, place);
    pfo_lane_pop_finished(mine, 0);
    return 1;
}

/* Takes a range off if it is on top of the calling thread's stack, as nearly all are. 0: it is not. */
static inline int
pop(pfo_lane *mine, const pfo_open_range *range, int64_t tick, int counts)
{
    if (mine == NULL || mine != range->lane || mine->depth == 0) {
        return 0;
    }
    const pfo_frame *top = &mine->frames[mine->depth - 1];
    if (atomic_load_explicit(&top->mark, memory_order_relaxed) !=
        (range->serial << PFO_FRAME_STATE_BITS | PFO_FRAME_OPEN)) {
        return 0;
    }
    pfo_call_node_add_self(top->node, tick - mine->last_tick);
    mine->last_tick = tick;
    if (counts) {
        pfo_call_node_add_count(top->node);
    }
    mine->depth--;
    return 1;
}

/* ---- ranges ---------------------------------------------------------------------------------- */

void
pfo_recorder_begin(pfo_recorder *recorder, pfo_name name, pfo_open_range *range)
{
    pfo_lane *lane = pfo_lane_cached(name.epoch);
    range->name = name;
    if (lane == NULL) {
        int passed;
        lane = pfo_lane_attach(recorder, name.epoch, &passed);
        if (lane == NULL) {
            range->lane = NULL;
            range->serial = 0;
            range->place = 0;
            range->begin_tick = pfo_ticks();
            return;
        }
    }
    push(lane, range);
}

/* The end of a range that is not on top of the calling thread's stack. Returns the lane that records it, NULL if it is
 * not to be recorded. */
static pfo_lane *
end_slowly(pfo_recorder *recorder, const pfo_open_range *range, int64_t end_tick)
{
    pfo_lane *lane = pfo_lane_cached(range->name.epoch);
    if (lane == NULL) {
        int passed;
        lane = pfo_lane_attach(recorder, range->name.epoch, &passed);
        if (lane == NULL) {
            if (!passed) {
                pfo_recorder_drop(recorder);
            }
            return NULL;
        }
    }
    if (!take_off(lane, range, end_tick, PFO_FRAME_ENDED)) {
        pfo_call_node_add_count(pfo_calltree_overflow(lane->tree));
    }
    return lane;
}

void
pfo_recorder_end(pfo_recorder *recorder, pfo_open_range *range, int64_t end_tick)
{
    pfo_lane *lane = pfo_lane_cached(range->name.epoch);
    uint32_t flags = 0;
    if (!pop(lane, range, end_tick, 1)) {
        lane = end_slowly(recorder, range, end_tick);
        if (lane == NULL) {
            return;
        }
        flags = range->serial == 0 ? 0 : PFO_SPAN_SUSPENDS;
    }
    const int64_t ticks = end_tick < range->begin_tick ? 0 : end_tick - range->begin_tick;
    (void)record(lane, range->name.id, ticks);
    if (lane->spans != NULL) {
        const pfo_lane *begun = range->lane == NULL ? lane : range->lane;
        const pfo_raw_span span = { range->begin_tick, ticks, range->name.id, begun->number, range->place, flags };
        add_span(lane, &span);
    }
}

void
pfo_recorder_abandon(pfo_recorder *recorder, pfo_open_range *range, int64_t tick)
{
    pfo_lane *lane = pfo_lane_cached(range->name.epoch);
    if (lane == NULL) {
        lane = pfo_lane_find_again(recorder, range->name.epoch);
    }
    if (!pop(lane, range, tick, 0)) {
        (void)take_off(lane, range, tick, PFO_FRAME_ABANDONED);
    }
}

void
pfo_recorder_begin_suspending(pfo_recorder *recorder, pfo_name name, pfo_suspending_range *range)
{
    pfo_recorder_begin(recorder, name, &range->frame);
    range->first_tick = range->frame.begin_tick;
    range->depth = range->frame.place;
    range->active_ticks = 0;
}

void
pfo_recorder_suspend(pfo_recorder *recorder, pfo_suspending_range *range, int64_t tick)
{
    if (tick > range->frame.begin_tick) {
        range->active_ticks += tick - range->frame.begin_tick;
    }
    pfo_recorder_abandon(recorder, &range->frame, tick);
}

void
pfo_recorder_resume(pfo_recorder *recorder, pfo_suspending_range *range)
{
    const pfo_name name = range->frame.name;
    pfo_recorder_begin(recorder, name, &range->frame);
}

void
pfo_recorder_end_suspending(pfo_recorder *recorder, pfo_suspending_range *range, int64_t end_tick)
{
    pfo_lane *lane = pfo_lane_cached(range->frame.name.epoch);
    if (!pop(lane, &range->frame, end_tick, 1)) {
        lane = end_slowly(recorder, &range->frame, end_tick);
        if (lane == NULL) {
            return;
        }
    }
    const int64_t last = end_tick > range->frame.begin_tick ? end_tick - range->frame.begin_tick : 0;
    const int64_t active = range->active_ticks + last;
    const int64_t wall = end_tick - range->first_tick > active ? end_tick - range->first_tick : active;
    pfo_name_entry *entry = record(lane, range->frame.name.id, wall);
    if (entry != NULL) {
        atomic_store_explicit(&entry->suspended_ticks,
                              atomic_load_explicit(&entry->suspended_ticks, memory_order_relaxed) +
                                  (uint64_t)(wall - active),
                              memory_order_relaxed);
    }
    if (lane->spans != NULL) {
        const pfo_lane *begun = range->frame.lane == NULL ? lane : range->frame.lane;
        const pfo_raw_span span = { range->first_tick, wall,         range->frame.name.id,
                                    begun->number,     range->depth, PFO_SPAN_SUSPENDS };
        add_span(lane, &span);
    }
}
