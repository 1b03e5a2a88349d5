/* capture_live.c: see capture_live.h for the contract.
 *
 * Ticks become nanoseconds here. The self time of a node is rounded to a whole nanosecond before anything is summed, so
 * that sums over the tree are exact in double arithmetic (up to 2^53 ns, 104 days).
 */
#include "profiler/capture_live.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/platform.h"
#include "profiler/capture_build.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

enum { COMMAND_BYTES = 4096 };

typedef struct taking {
    pfo_capture *capture;
    pfo_clock_anchor now;
    int32_t name_count;
    pfo_capture_row overflow; /* waits for the end of the rows */
    int has_overflow;
    double *self_ns;  /* by name id */
    int32_t *threads; /* from lane number to thread, -1 none */
    uint32_t lane_room;
} taking;

/* ---- rows ------------------------------------------------------------------------------------ */

static double
deviation(const pfo_histogram *ticks)
{
    const long double count = (long double)pfo_histogram_count(ticks);
    const long double sum = (long double)pfo_histogram_sum(ticks);
    const long double squares = (long double)pfo_histogram_sum_of_squares(ticks);
    const long double variance = count < 2 ? 0 : (squares - sum * sum / count) / (count - 1);
    return variance > 0 ? sqrt((double)variance) : 0.0;
}

pfo_capture_row
pfo_capture_row_of(const pfo_histogram *ticks, double ns_per_tick)
{
    pfo_capture_row row;
    memset(&row, 0, sizeof row);
    row.count = pfo_histogram_count(ticks);
    row.total_ns = (double)pfo_histogram_sum(ticks) * ns_per_tick;
    row.mean_ns = row.total_ns / (double)row.count;
    row.deviation_ns = deviation(ticks) * ns_per_tick;
    row.least_ns = (double)pfo_histogram_min(ticks) * ns_per_tick;
    row.greatest_ns = (double)pfo_histogram_max(ticks) * ns_per_tick;
    row.error = 1.0 / (2 * PFO_HISTOGRAM_PER_OCTAVE);
    row.ns_per_tick = ns_per_tick;
    return row;
}

static pfo_status
take_row(void *context, uint32_t id, const pfo_histogram *merged, const pfo_name_sums *sums, pfo_error *err)
{
    taking *work = context;
    if (id > (uint32_t)work->name_count) {
        return PFO_OK;
    }
    pfo_histogram *own = pfo_histogram_create();
    if (own == NULL || pfo_histogram_add(own, merged) != PFO_OK) {
        pfo_histogram_destroy(own);
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a capture");
    }
    const double rate = work->now.ns_per_tick;
    pfo_capture_row row = pfo_capture_row_of(own, rate);
    row.name = (int32_t)id - 1;
    row.active_ns = row.total_ns - (double)sums->suspended_ticks * rate;
    row.self_ns = work->self_ns[id];
    row.ticks = own;
    row.memory_count = sums->memory_count;
    row.memory_sum = (double)sums->memory_sum;
    row.memory_least = (double)sums->memory_least;
    row.memory_greatest = (double)sums->memory_greatest;
    if (id == PFO_RECORDER_OVERFLOW) {
        work->overflow = row;
        work->has_overflow = 1;
        return PFO_OK;
    }
    return pfo_capture_add_row(work->capture, &row, err);
}

static pfo_status
take_rows(taking *work, pfo_recorder *recorder, uint64_t epoch, pfo_error *err)
{
    pfo_status status = pfo_recorder_visit_names(recorder, epoch, take_row, work, err);
    if (work->has_overflow) {
        const pfo_status added = pfo_capture_add_row(work->capture, &work->overflow, err); /* frees it if it fails */
        status = status == PFO_OK ? added : status;
    }
    return status;
}

/* Text from the system may be anything: what is not UTF-8 gets question marks. */
static pfo_text
system_text(char *text)
{
    const pfo_text given = { text, strlen(text) };
    if (!pfo_text_is_utf8(given)) {
        for (size_t i = 0; i < given.length; i++) {
            text[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
        }
    }
    return given;
}

/* ---- tree ------------------------------------------------------------------------------------ */

static pfo_status
remember_thread(taking *work, uint32_t lane, int32_t thread, pfo_error *err)
{
    if (lane >= work->lane_room) {
        const uint32_t room = lane < 16 ? 32 : 2 * lane;
        int32_t *threads = pfo_realloc_array(work->threads, room, sizeof *threads);
        if (threads == NULL) {
            return pfo_fail(err, PFO_NO_MEMORY, "no memory for a capture");
        }
        for (uint32_t i = work->lane_room; i < room; i++) {
            threads[i] = -1;
        }
        work->threads = threads;
        work->lane_room = room;
    }
    work->threads[lane] = thread;
    return PFO_OK;
}

/* Copies the nodes; places[i] becomes the capture's index of node i, -1 for "no node". */
static pfo_status
take_nodes(taking *work, const pfo_calltree *tree, uint32_t count, int32_t *places, int32_t thread, pfo_error *err)
{
    places[0] = -1;
    for (uint32_t i = 1; i < count; i++) {
        const pfo_call_node *from = pfo_calltree_node(tree, i);
        const uint64_t ranges = atomic_load_explicit(&from->count, memory_order_relaxed);
        const uint64_t ticks = atomic_load_explicit(&from->self_ticks, memory_order_relaxed);
        const uint32_t above = from->parent->index;
        const int unused_overflow = i == 1 && ranges == 0 && ticks == 0;
        places[i] = -1;
        if (unused_overflow || from->name > (uint32_t)work->name_count || (above != 0 && places[above] < 0)) {
            continue;
        }
        const pfo_capture_node node = { .parent = places[above],
                                        .name = (int32_t)from->name - 1,
                                        .thread = thread,
                                        .count = ranges,
                                        .self_ns = round((double)ticks * work->now.ns_per_tick) };
        places[i] = work->capture->node_count;
        work->self_ns[from->name] += node.self_ns;
        PFO_TRY(pfo_capture_add_node(work->capture, &node, err));
    }
    return PFO_OK;
}

static pfo_status
take_lane(void *context, const pfo_lane_view *lane, pfo_error *err)
{
    taking *work = context;
    char name[PFO_THREAD_NAME_BYTES];
    memcpy(name, lane->thread_name, sizeof name);
    const pfo_capture_thread thread = { 0, lane->thread_id, system_text(name) };
    const int32_t number = work->capture->thread_count;
    PFO_TRY(pfo_capture_add_thread(work->capture, &thread, err));
    PFO_TRY(remember_thread(work, lane->number, number, err));
    const uint32_t count = pfo_calltree_count(lane->tree);
    int32_t *places = pfo_alloc_array(count, sizeof *places);
    if (places == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a capture");
    }
    const pfo_status status = take_nodes(work, lane->tree, count, places, number, err);
    pfo_free(places);
    return status;
}

/* ---- spans ----------------------------------------------------------------------------------- */

/* The part of a ring that was filled when the capture was taken. */
typedef struct ring_store {
    pfo_span_store base;
    pfo_spans *ring;
    uint64_t first, end; /* positions */
    pfo_clock_anchor now;
    int64_t base_epoch_ns;
    int32_t name_count;
    uint32_t lane_room;
    int32_t *threads; /* from lane number to thread, owned */
} ring_store;

typedef struct ring_reader {
    ring_store *store; /* a reference */
    uint64_t at;
} ring_reader;

/* Nanoseconds from the moment of the capture to a tick; negative before it. */
static int64_t
since_now(const ring_store *store, int64_t tick)
{
    return (int64_t)llround((double)(tick - store->now.tick) * store->now.ns_per_tick);
}

static int
convert(const ring_store *store, const pfo_raw_span *raw, pfo_span *span)
{
    if (raw->lane >= store->lane_room || store->threads[raw->lane] < 0 || raw->name > (uint32_t)store->name_count) {
        return 0;
    }
    /* Both ends are rounded, and the duration is what lies between: spans that touch in ticks touch in nanoseconds. */
    const int64_t begin_ns = since_now(store, raw->begin_tick);
    span->begin_ns = store->now.epoch_ns - store->base_epoch_ns + begin_ns;
    span->duration_ns = since_now(store, raw->begin_tick + raw->ticks) - begin_ns;
    span->name = (int32_t)raw->name - 1;
    span->thread = store->threads[raw->lane];
    span->flags = raw->flags;
    span->depth = raw->depth;
    return 1;
}

static int64_t
ring_read(void *context, pfo_span *spans, int64_t room, pfo_error *err)
{
    (void)err;
    ring_reader *reader = context;
    const ring_store *store = reader->store;
    int64_t got = 0;
    for (; reader->at < store->end && got < room; reader->at++) {
        pfo_raw_span raw;
        if (pfo_spans_read(store->ring, reader->at, &raw)) {
            got += convert(store, &raw, &spans[got]);
        }
    }
    return got;
}

static pfo_status
ring_rewind(void *context, pfo_error *err)
{
    (void)err;
    ring_reader *reader = context;
    reader->at = reader->store->first;
    return PFO_OK;
}

static void
ring_close(void *context)
{
    ring_reader *reader = context;
    pfo_span_store_release(&reader->store->base);
    pfo_free(reader);
}

static pfo_status
ring_open(pfo_span_store *base, pfo_span_source *source, pfo_error *err)
{
    ring_reader *reader = pfo_alloc_array(1, sizeof *reader);
    if (reader == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to read spans");
    }
    reader->store = (ring_store *)(void *)pfo_span_store_share(base);
    reader->at = reader->store->first;
    *source = (pfo_span_source){ .read = ring_read, .rewind = ring_rewind, .context = reader, .close = ring_close };
    return PFO_OK;
}

static void
ring_destroy(pfo_span_store *base)
{
    ring_store *store = (ring_store *)(void *)base;
    pfo_spans_release(store->ring);
    pfo_free(store->threads);
    pfo_free(store);
}

/* `end`: the ring's head, read before the lanes were visited, so that each span's lane is known. */
static pfo_status
take_spans(taking *work, pfo_recorder *recorder, uint64_t end, pfo_error *err)
{
    uint64_t first = 0;
    pfo_spans *ring = pfo_recorder_spans(recorder, &first);
    if (ring == NULL || first >= end) {
        return PFO_OK;
    }
    ring_store *store = pfo_alloc_array(1, sizeof *store);
    if (store == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a capture's spans");
    }
    const uint64_t capacity = (uint64_t)pfo_spans_capacity(ring);
    *store = (ring_store){ .ring = pfo_spans_share(ring),
                           .first = end - first > capacity ? end - capacity : first,
                           .end = end,
                           .now = work->now,
                           .base_epoch_ns = work->capture->base_epoch_ns,
                           .name_count = work->name_count,
                           .lane_room = work->lane_room,
                           .threads = work->threads };
    atomic_init(&store->base.references, 1);
    store->base.open = ring_open;
    store->base.destroy = ring_destroy;
    work->threads = NULL;
    work->capture->span_count = (int64_t)(end - store->first);
    work->capture->dropped_spans = store->first - first;
    const pfo_span_part part = { &store->base, 0, 0, -1, NULL };
    return pfo_capture_add_spans(work->capture, &part, err);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static pfo_status
take_process(taking *work, pfo_error *err)
{
    char command[COMMAND_BYTES];
    pfo_process_command(command, sizeof command);
    const pfo_capture_process process = { .pid = (int64_t)getpid(),
                                          .pid_namespace = pfo_pid_namespace(),
                                          .monotonic_ns = work->now.monotonic_ns,
                                          .epoch_ns = work->now.epoch_ns,
                                          .command = system_text(command) };
    return pfo_capture_add_process(work->capture, &process, err);
}

static pfo_status
take_tables(taking *work, pfo_recorder *recorder, uint64_t epoch, const pfo_text *names, pfo_error *err)
{
    uint64_t ignored = 0;
    pfo_spans *ring = pfo_recorder_spans(recorder, &ignored);
    const uint64_t end = ring == NULL ? 0 : pfo_spans_head(ring);
    PFO_TRY(take_process(work, err));
    for (int32_t i = 0; i < work->name_count; i++) {
        PFO_TRY(pfo_capture_add_name(work->capture, names[i], err));
    }
    PFO_TRY(pfo_recorder_visit_lanes(recorder, epoch, take_lane, work, err));
    pfo_capture_sum_nodes(work->capture);
    PFO_TRY(take_rows(work, recorder, epoch, err));
    PFO_TRY(take_spans(work, recorder, end, err));
    work->capture->overflow_names = pfo_recorder_overflow_names(recorder);
    work->capture->dropped_records = pfo_recorder_measure(recorder).dropped;
    return PFO_OK;
}

pfo_status
pfo_capture_take(pfo_recorder *recorder, uint64_t epoch, const pfo_text *names, int32_t name_count, pfo_capture **out,
                 pfo_error *err)
{
    *out = NULL;
    taking work = { .name_count = name_count, .now = pfo_clock_now() };
    work.capture = pfo_capture_create();
    work.self_ns = pfo_alloc_array((size_t)name_count + 1, sizeof *work.self_ns);
    pfo_status status = PFO_NO_MEMORY;
    if (work.capture == NULL || work.self_ns == NULL) {
        (void)pfo_fail(err, PFO_NO_MEMORY, "no memory for a capture");
    } else {
        const int64_t ticks = work.now.tick - pfo_recorder_begun_tick(recorder);
        work.capture->taken_ns = (int64_t)llround((double)ticks * work.now.ns_per_tick);
        work.capture->base_epoch_ns = work.now.epoch_ns - work.capture->taken_ns;
        status = take_tables(&work, recorder, epoch, names, err);
    }
    pfo_free(work.threads);
    pfo_free(work.self_ns);
    if (status != PFO_OK) {
        pfo_capture_destroy(work.capture);
        return status;
    }
    *out = work.capture;
    return PFO_OK;
}
