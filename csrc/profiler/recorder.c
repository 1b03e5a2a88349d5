/* recorder.c: recorders, their epochs and their names. See recorder.h for the contract and recorder_lane.h for how the
 * recorder's files share the work. */
#include "profiler/recorder_lane.h"

#include "base/alloc.h"
#include "base/clock.h"

static _Atomic uint64_t last_epoch;

static uint64_t
new_epoch(void)
{
    return atomic_fetch_add_explicit(&last_epoch, 1, memory_order_relaxed) + 1;
}

static pfo_status
check_limits(int64_t max_names, int64_t span_capacity, pfo_error *err)
{
    if (max_names < 1 || max_names > PFO_RECORDER_MOST_NAMES) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "max_names must be from 1 to %d, not %lld", (int)PFO_RECORDER_MOST_NAMES,
                        (long long)max_names);
    }
    if (span_capacity < 0 || span_capacity > PFO_SPANS_MOST) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "span_capacity must be from 0 to %d, not %lld", (int)PFO_SPANS_MOST,
                        (long long)span_capacity);
    }
    return PFO_OK;
}

pfo_status
pfo_recorder_create(int64_t max_names, int64_t span_capacity, pfo_recorder **out, pfo_error *err)
{
    *out = NULL;
    PFO_TRY(check_limits(max_names, span_capacity, err));
    const int hooks_error = pfo_lane_install_hooks();
    if (hooks_error != 0) {
        return pfo_fail(err, PFO_UNAVAILABLE, "no thread-exit hook for the profiler: error %d", hooks_error);
    }
    pfo_recorder *recorder = pfo_alloc_array(1, sizeof *recorder);
    pfo_spans *spans = recorder == NULL || span_capacity == 0 ? NULL : pfo_spans_create(span_capacity);
    if (recorder == NULL || (span_capacity > 0 && spans == NULL)) {
        pfo_free(recorder);
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a recorder with %lld spans", (long long)span_capacity);
    }
    recorder->max_names = (uint32_t)max_names;
    recorder->spans = spans;
    recorder->begun_tick = pfo_ticks();
    atomic_init(&recorder->epoch, new_epoch());
    pfo_mutex_lock(&pfo_recorder_lock);
    recorder->next = pfo_recorders;
    pfo_recorders = recorder;
    pfo_mutex_unlock(&pfo_recorder_lock);
    *out = recorder;
    return PFO_OK;
}

void
pfo_recorder_destroy(pfo_recorder *recorder)
{
    if (recorder == NULL) {
        return;
    }
    pfo_mutex_lock(&pfo_recorder_lock);
    pfo_recorder **link = &pfo_recorders;
    while (*link != recorder) {
        link = &(*link)->next;
    }
    *link = recorder->next;
    pfo_mutex_unlock(&pfo_recorder_lock);
    for (pfo_lane *lane = recorder->lanes; lane != NULL;) {
        pfo_lane *next = lane->next;
        pfo_lane_free_contents(lane);
        pfo_free(lane);
        lane = next;
    }
    pfo_spans_release(recorder->spans);
    pfo_free(recorder->overflow_seen);
    pfo_free(recorder);
}

uint64_t
pfo_recorder_epoch(const pfo_recorder *recorder)
{
    return atomic_load_explicit(&recorder->epoch, memory_order_acquire);
}

int64_t
pfo_recorder_max_names(const pfo_recorder *recorder)
{
    return (int64_t)recorder->max_names;
}

int64_t
pfo_recorder_names(pfo_recorder *recorder)
{
    return (int64_t)atomic_load_explicit(&recorder->names, memory_order_acquire);
}

pfo_name
pfo_recorder_add_name(pfo_recorder *recorder)
{
    pfo_mutex_lock(&pfo_recorder_lock);
    const uint32_t names = atomic_load_explicit(&recorder->names, memory_order_relaxed);
    pfo_name name = { .epoch = pfo_recorder_epoch(recorder), .id = PFO_RECORDER_OVERFLOW };
    if (names < recorder->max_names) {
        name.id = names + 1;
        atomic_store_explicit(&recorder->names, name.id, memory_order_release);
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
    return name;
}

void
pfo_recorder_note_overflow(pfo_recorder *recorder, uint64_t hash)
{
    const uint64_t bit = (hash ^ hash >> 16 ^ hash >> 32 ^ hash >> 48) % PFO_OVERFLOW_BITS;
    pfo_mutex_lock(&pfo_recorder_lock);
    if (recorder->overflow_seen == NULL) {
        recorder->overflow_seen = pfo_alloc_array(PFO_OVERFLOW_BITS / 64, sizeof *recorder->overflow_seen);
    }
    uint64_t *word = recorder->overflow_seen == NULL ? NULL : &recorder->overflow_seen[bit / 64];
    if (word != NULL && (*word >> (bit % 64) & 1) == 0) {
        *word |= (uint64_t)1 << (bit % 64);
        recorder->overflow_distinct++;
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
}

uint64_t
pfo_recorder_overflow_names(pfo_recorder *recorder)
{
    pfo_mutex_lock(&pfo_recorder_lock);
    const uint64_t distinct = recorder->overflow_distinct;
    pfo_mutex_unlock(&pfo_recorder_lock);
    return distinct;
}

int64_t
pfo_recorder_begun_tick(pfo_recorder *recorder)
{
    pfo_mutex_lock(&pfo_recorder_lock);
    const int64_t tick = recorder->begun_tick;
    pfo_mutex_unlock(&pfo_recorder_lock);
    return tick;
}

uint64_t
pfo_recorder_reset(pfo_recorder *recorder)
{
    const uint64_t epoch = new_epoch();
    pfo_mutex_lock(&pfo_recorder_lock);
    atomic_store_explicit(&recorder->names, 0, memory_order_relaxed);
    atomic_store_explicit(&recorder->dropped, 0, memory_order_relaxed);
    atomic_store_explicit(&recorder->epoch, epoch, memory_order_release);
    /* After the epoch: who takes a later position sees the new epoch, and leaves an old range's span out. */
    recorder->first_span = recorder->spans == NULL ? 0 : pfo_spans_head(recorder->spans);
    recorder->begun_tick = pfo_ticks();
    pfo_free(recorder->overflow_seen);
    recorder->overflow_seen = NULL;
    recorder->overflow_distinct = 0;
    for (pfo_lane *lane = recorder->lanes; lane != NULL; lane = lane->next) {
        if (lane->owner == NULL) {
            pfo_lane_free_contents(lane);
        }
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
    return epoch;
}
