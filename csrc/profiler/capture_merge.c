/* capture_merge.c: see capture_merge.h for the contract.
 *
 * Names are found by hash (FNV-1a, open addressing, at most half full). A name's row is gathered in `sums`, where index 0
 * is the overflow row and index i + 1 the name i; a histogram that only one capture has keeps its own tick rate.
 */
#include "profiler/capture_merge.h"

#include "base/alloc.h"
#include "profiler/capture_build.h"

#include <math.h>
#include <string.h>

static const double same_rate = 1e-3; /* relative difference of two clocks whose buckets are taken as one */

typedef struct row_sum {
    pfo_capture_row row; /* ticks unused */
    pfo_histogram *ticks;
    double squares; /* sum of squared deviations from the mean */
} row_sum;

typedef struct merging {
    pfo_capture *capture;
    int32_t *index; /* of names, + 1; 0 empty */
    size_t index_capacity;
    row_sum *sums;
    int32_t *names; /* of the capture at hand: its index -> ours */
} merging;

static uint64_t
hash_of(pfo_text text)
{
    uint64_t hash = 0xCBF29CE484222325U;
    for (size_t i = 0; i < text.length; i++) {
        hash = (hash ^ (unsigned char)text.bytes[i]) * 0x100000001B3U;
    }
    return hash ^ hash >> 29;
}

static pfo_status
find_name(merging *work, pfo_text text, int32_t *found, pfo_error *err)
{
    size_t at = (size_t)hash_of(text) & (work->index_capacity - 1);
    for (; work->index[at] != 0; at = (at + 1) & (work->index_capacity - 1)) {
        const pfo_text known = work->capture->names[work->index[at] - 1];
        if (known.length == text.length && memcmp(known.bytes, text.bytes, text.length) == 0) {
            *found = work->index[at] - 1;
            return PFO_OK;
        }
    }
    PFO_TRY(pfo_capture_add_name(work->capture, text, err));
    *found = work->capture->name_count - 1;
    work->index[at] = work->capture->name_count;
    return PFO_OK;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static pfo_status
add_ticks(row_sum *sum, const pfo_capture_row *from)
{
    if (sum->ticks == NULL) {
        sum->ticks = pfo_histogram_create();
        sum->row.ns_per_tick = from->ns_per_tick;
        sum->row.error = from->error;
        return sum->ticks == NULL ? PFO_NO_MEMORY : pfo_histogram_add(sum->ticks, from->ticks);
    }
    const double factor = from->ns_per_tick / sum->row.ns_per_tick;
    const double off = fabs(factor - 1.0);
    const double bucket = 1.0 / (2 * PFO_HISTOGRAM_PER_OCTAVE);
    const double error = off <= same_rate ? from->error + off : from->error + bucket * (1.0 + from->error);
    sum->row.error = error > sum->row.error ? error : sum->row.error;
    return off <= same_rate ? pfo_histogram_add(sum->ticks, from->ticks)
                            : pfo_histogram_add_scaled(sum->ticks, from->ticks, factor);
}

/* Chan, Golub, LeVeque (1979): sums of squared deviations of two samples as one. */
static void
add_deviation(row_sum *sum, const pfo_capture_row *from)
{
    const double mine = (double)sum->row.count;
    const double theirs = (double)from->count;
    const double apart = sum->row.count == 0 ? 0.0 : from->mean_ns - sum->row.mean_ns;
    sum->squares += from->deviation_ns * from->deviation_ns * (theirs - 1.0);
    sum->squares += apart * apart * mine * theirs / (mine + theirs);
}

static void
add_memory(pfo_capture_row *to, const pfo_capture_row *from)
{
    if (from->memory_count == 0) {
        return;
    }
    const int first = to->memory_count == 0;
    to->memory_least = first || from->memory_least < to->memory_least ? from->memory_least : to->memory_least;
    to->memory_greatest =
        first || from->memory_greatest > to->memory_greatest ? from->memory_greatest : to->memory_greatest;
    to->memory_sum += from->memory_sum;
    to->memory_count += from->memory_count;
}

static pfo_status
add_row(row_sum *sum, const pfo_capture_row *from, pfo_error *err)
{
    if (add_ticks(sum, from) != PFO_OK) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to merge captures");
    }
    add_deviation(sum, from);
    pfo_capture_row *to = &sum->row;
    const int first = to->count == 0;
    to->least_ns = first || from->least_ns < to->least_ns ? from->least_ns : to->least_ns;
    to->greatest_ns = first || from->greatest_ns > to->greatest_ns ? from->greatest_ns : to->greatest_ns;
    to->count += from->count;
    to->total_ns += from->total_ns;
    to->active_ns += from->active_ns;
    to->self_ns += from->self_ns;
    to->mean_ns = to->total_ns / (double)to->count;
    add_memory(to, from);
    return PFO_OK;
}

static pfo_status
finish_row(merging *work, int32_t name, pfo_error *err)
{
    row_sum *sum = &work->sums[name + 1];
    if (sum->row.count == 0) {
        return PFO_OK;
    }
    sum->row.name = name;
    sum->row.deviation_ns = sum->row.count < 2 ? 0.0 : sqrt(sum->squares / (double)(sum->row.count - 1));
    sum->row.ticks = sum->ticks;
    sum->ticks = NULL;
    return pfo_capture_add_row(work->capture, &sum->row, err);
}

/* ---- one capture ----------------------------------------------------------------------------- */

static pfo_status
add_tables(merging *work, const pfo_capture *from, pfo_error *err)
{
    const int32_t first_process = work->capture->process_count;
    const int32_t first_thread = work->capture->thread_count;
    const int32_t first_node = work->capture->node_count;
    for (int32_t i = 0; i < from->name_count; i++) {
        PFO_TRY(find_name(work, from->names[i], &work->names[i], err));
    }
    for (int32_t i = 0; i < from->row_count; i++) {
        const int32_t name = from->rows[i].name;
        PFO_TRY(add_row(&work->sums[name < 0 ? 0 : work->names[name] + 1], &from->rows[i], err));
    }
    for (int32_t i = 0; i < from->process_count; i++) {
        PFO_TRY(pfo_capture_add_process(work->capture, &from->processes[i], err));
    }
    for (int32_t i = 0; i < from->thread_count; i++) {
        pfo_capture_thread thread = from->threads[i];
        thread.process += first_process;
        PFO_TRY(pfo_capture_add_thread(work->capture, &thread, err));
    }
    for (int32_t i = 0; i < from->node_count; i++) {
        pfo_capture_node node = from->nodes[i];
        node.parent += node.parent < 0 ? 0 : first_node;
        node.thread += first_thread;
        node.name = node.name < 0 ? -1 : work->names[node.name];
        PFO_TRY(pfo_capture_add_node(work->capture, &node, err));
    }
    return PFO_OK;
}

/* The part's own translation, followed by this merge's. */
static pfo_status
add_part(merging *work, const pfo_capture *from, const pfo_span_part *part, int32_t first_thread, pfo_error *err)
{
    const int32_t count = part->name_count < 0 ? from->name_count : part->name_count;
    int32_t *names = pfo_alloc_array((size_t)count + 1, sizeof *names);
    if (names == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to merge captures");
    }
    for (int32_t i = 0; i < count; i++) {
        const int32_t theirs = part->name_count < 0 ? i : part->names[i];
        names[i] = theirs < 0 ? -1 : work->names[theirs];
    }
    const pfo_span_part own = { .store = pfo_span_store_share(part->store),
                                .shift_ns = part->shift_ns + from->base_epoch_ns - work->capture->base_epoch_ns,
                                .first_thread = part->first_thread + first_thread,
                                .name_count = count,
                                .names = names };
    return pfo_capture_add_spans(work->capture, &own, err);
}

static pfo_status
add_capture(merging *work, const pfo_capture *from, pfo_error *err)
{
    const int32_t first_thread = work->capture->thread_count;
    PFO_TRY(add_tables(work, from, err));
    const pfo_span_part *parts = NULL;
    const int32_t part_count = pfo_capture_span_parts(from, &parts);
    for (int32_t i = 0; i < part_count; i++) {
        PFO_TRY(add_part(work, from, &parts[i], first_thread, err));
    }
    work->capture->span_count += from->span_count;
    work->capture->dropped_spans += from->dropped_spans;
    work->capture->dropped_records += from->dropped_records;
    /* The same names may have overflowed everywhere: what is sure is the largest number. */
    if (from->overflow_names > work->capture->overflow_names) {
        work->capture->overflow_names = from->overflow_names;
    }
    return PFO_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static pfo_status
check_anchors(const pfo_capture *const *captures, int32_t count, pfo_error *err)
{
    if (count < 1) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "merge needs at least one capture");
    }
    for (int32_t i = 0; i < count; i++) {
        int anchored = captures[i]->process_count > 0;
        for (int32_t p = 0; p < captures[i]->process_count; p++) {
            anchored = anchored && captures[i]->processes[p].epoch_ns > 0;
        }
        if (!anchored) {
            return pfo_fail(err, PFO_BAD_ARGUMENT,
                            "capture %d has no clock anchor, so it cannot be laid beside the others", (int)i);
        }
    }
    return PFO_OK;
}

static pfo_status
make_room(merging *work, const pfo_capture *const *captures, int32_t count, pfo_error *err)
{
    size_t names = 0;
    int64_t base = INT64_MAX;
    int64_t end = INT64_MIN;
    for (int32_t i = 0; i < count; i++) {
        const int64_t taken = captures[i]->base_epoch_ns + captures[i]->taken_ns;
        names += (size_t)captures[i]->name_count;
        base = captures[i]->base_epoch_ns < base ? captures[i]->base_epoch_ns : base;
        end = taken > end ? taken : end;
    }
    work->index_capacity = 16;
    while (work->index_capacity < 2 * names) {
        work->index_capacity *= 2;
    }
    work->index = pfo_alloc_array(work->index_capacity, sizeof *work->index);
    work->sums = pfo_alloc_array(names + 1, sizeof *work->sums);
    work->names = pfo_alloc_array(names + 1, sizeof *work->names);
    work->capture = pfo_capture_create();
    if (work->index == NULL || work->sums == NULL || work->names == NULL || work->capture == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to merge captures");
    }
    work->capture->base_epoch_ns = base;
    work->capture->taken_ns = end - base;
    return PFO_OK;
}

static pfo_status
merge_all(merging *work, const pfo_capture *const *captures, int32_t count, pfo_error *err)
{
    for (int32_t i = 0; i < count; i++) {
        PFO_TRY(add_capture(work, captures[i], err));
    }
    for (int32_t name = 0; name < work->capture->name_count; name++) {
        PFO_TRY(finish_row(work, name, err));
    }
    PFO_TRY(finish_row(work, -1, err));
    return PFO_OK;
}

pfo_status
pfo_capture_merge(const pfo_capture *const *captures, int32_t count, pfo_capture **out, pfo_error *err)
{
    *out = NULL;
    PFO_TRY(check_anchors(captures, count, err));
    merging work = { .capture = NULL };
    pfo_status status = make_room(&work, captures, count, err);
    if (status == PFO_OK) {
        status = merge_all(&work, captures, count, err);
    }
    for (int32_t i = 0; work.sums != NULL && work.capture != NULL && i <= work.capture->name_count; i++) {
        pfo_histogram_destroy(work.sums[i].ticks); /* NULL where it went into a row */
    }
    pfo_free(work.index);
    pfo_free(work.sums);
    pfo_free(work.names);
    if (status != PFO_OK) {
        pfo_capture_destroy(work.capture);
        return status;
    }
    *out = work.capture;
    return PFO_OK;
}
