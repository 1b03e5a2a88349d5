/* recorder_read.c: sums over a recorder's lanes, beside the threads that write to them. See recorder_lane.h for the
 * invariants. */
#include "profiler/recorder_lane.h"

#include "base/alloc.h"

#include <string.h>

static void
add_sums(pfo_name_sums *sums, const pfo_name_entry *entry)
{
    sums->suspended_ticks += atomic_load_explicit(&entry->suspended_ticks, memory_order_relaxed);
    const pfo_memory_sums *memory = atomic_load_explicit(&entry->memory, memory_order_acquire);
    const uint64_t count = memory == NULL ? 0 : atomic_load_explicit(&memory->count, memory_order_acquire);
    if (count == 0) {
        return;
    }
    const int64_t least = atomic_load_explicit(&memory->least, memory_order_relaxed);
    const int64_t greatest = atomic_load_explicit(&memory->greatest, memory_order_relaxed);
    sums->memory_least = sums->memory_count == 0 || least < sums->memory_least ? least : sums->memory_least;
    sums->memory_greatest =
        sums->memory_count == 0 || greatest > sums->memory_greatest ? greatest : sums->memory_greatest;
    sums->memory_count += count;
    sums->memory_sum += atomic_load_explicit(&memory->sum, memory_order_relaxed);
}

/* Sums one name over all threads. PFO_STATE if the epoch has passed. */
static pfo_status
merge_name(pfo_recorder *recorder, uint64_t epoch, uint32_t id, pfo_histogram *merged, pfo_name_sums *sums,
           pfo_error *err)
{
    pfo_status status = PFO_OK;
    memset(sums, 0, sizeof *sums);
    pfo_mutex_lock(&pfo_recorder_lock);
    const int passed = pfo_recorder_epoch(recorder) != epoch;
    for (const pfo_lane *lane = recorder->lanes; !passed && lane != NULL && status == PFO_OK; lane = lane->next) {
        if (lane->epoch != epoch || id >= lane->capacity) {
            continue;
        }
        const pfo_name_entry *entry = &lane->table[id];
        const pfo_histogram *histogram = atomic_load_explicit(&entry->histogram, memory_order_acquire);
        if (histogram != NULL) {
            status = pfo_histogram_add(merged, histogram);
            add_sums(sums, entry);
        }
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
    if (passed) {
        return pfo_fail(err, PFO_STATE, "the recorder was reset meanwhile");
    }
    return status == PFO_OK ? PFO_OK : pfo_fail(err, status, "no memory to sum the recorded ranges");
}

pfo_status
pfo_recorder_visit_names(pfo_recorder *recorder, uint64_t epoch, pfo_name_visitor visitor, void *context,
                         pfo_error *err)
{
    pfo_histogram *merged = pfo_histogram_create();
    if (merged == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to sum the recorded ranges");
    }
    const int64_t names = pfo_recorder_names(recorder);
    pfo_status status = PFO_OK;
    for (int64_t id = 0; id <= names && status == PFO_OK; id++) {
        pfo_name_sums sums;
        status = merge_name(recorder, epoch, (uint32_t)id, merged, &sums, err);
        if (status == PFO_OK && pfo_histogram_count(merged) > 0) {
            status = visitor(context, (uint32_t)id, merged, &sums, err);
            pfo_histogram_clear(merged);
        }
    }
    pfo_histogram_destroy(merged);
    return status;
}

pfo_status
pfo_recorder_visit_lanes(pfo_recorder *recorder, uint64_t epoch, pfo_lane_visitor visitor, void *context,
                         pfo_error *err)
{
    pfo_status status = PFO_OK;
    pfo_mutex_lock(&pfo_recorder_lock);
    if (pfo_recorder_epoch(recorder) != epoch) {
        status = pfo_fail(err, PFO_STATE, "the recorder was reset meanwhile");
    }
    for (const pfo_lane *lane = recorder->lanes; lane != NULL && status == PFO_OK; lane = lane->next) {
        if (lane->epoch == epoch && lane->tree != NULL) {
            const pfo_lane_view view = { lane->number, lane->thread_id, lane->thread_name, lane->tree };
            status = visitor(context, &view, err);
        }
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
    return status;
}

pfo_spans *
pfo_recorder_spans(pfo_recorder *recorder, uint64_t *first)
{
    pfo_mutex_lock(&pfo_recorder_lock);
    *first = recorder->first_span;
    pfo_mutex_unlock(&pfo_recorder_lock);
    return recorder->spans;
}

static size_t
contents_bytes(const pfo_lane *lane)
{
    size_t bytes = lane->capacity * sizeof *lane->table + lane->frame_capacity * sizeof *lane->frames;
    bytes += lane->tree == NULL ? 0 : pfo_calltree_bytes(lane->tree);
    for (uint32_t id = 0; id < lane->capacity; id++) {
        const pfo_name_entry *entry = &lane->table[id];
        const pfo_histogram *histogram = atomic_load_explicit(&entry->histogram, memory_order_acquire);
        bytes += histogram == NULL ? 0 : pfo_histogram_bytes(histogram);
        bytes += atomic_load_explicit(&entry->memory, memory_order_relaxed) == NULL ? 0 : sizeof(pfo_memory_sums);
    }
    return bytes;
}

pfo_recorder_usage
pfo_recorder_measure(pfo_recorder *recorder)
{
    pfo_recorder_usage usage = { .threads = 0, .bytes = sizeof *recorder, .dropped = 0 };
    usage.bytes += recorder->spans == NULL ? 0 : pfo_spans_bytes(recorder->spans);
    pfo_mutex_lock(&pfo_recorder_lock);
    usage.bytes += recorder->overflow_seen == NULL ? 0 : PFO_OVERFLOW_BITS / 8;
    for (const pfo_lane *lane = recorder->lanes; lane != NULL; lane = lane->next) {
        usage.threads++;
        usage.bytes += sizeof *lane + contents_bytes(lane);
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
    usage.dropped = atomic_load_explicit(&recorder->dropped, memory_order_relaxed);
    return usage;
}
