/* export_chrome.c: the Trace Event Format (JSON object form) of Chrome, which the Perfetto UI reads too.
 *
 * Facts it rests on: "ts" and "dur" are microseconds, fractions allowed, and are read into doubles, so that an absolute time
 * would lose its nanoseconds; hence times count from "baseTimeNanoseconds". Perfetto drops events before time 0, hence the base is moved
 * to the first span in a pass of its own. Events need no order; of complete events ("X") that begin together, the
 * longer one is taken for the outer one. "X" events of a thread must nest: what does not is a pair of asynchronous events
 * ("b", "e") with an id of its own.
 */
#include "profiler/export.h"
#include "profiler/export_tracks.h"

typedef struct chrome_state {
    const pfo_export_job *job;
    pfo_tracks tracks;
    int64_t first_ns; /* least begin of all spans, 0 if none is before the base */
    uint64_t apart;   /* spans written as asynchronous events; their ids */
    const char *separator;
} chrome_state;

static pfo_status
find_first(void *context, const pfo_span *spans, int64_t count)
{
    chrome_state *state = context;
    for (int64_t i = 0; i < count; i++) {
        if (spans[i].begin_ns < state->first_ns) {
            state->first_ns = spans[i].begin_ns;
        }
    }
    return PFO_OK;
}

static void
put_ids(chrome_state *state, const pfo_track *track)
{
    char *at = pfo_writer_room(state->job->writer, 96);
    at = PFO_LITERAL(at, ",\"pid\":");
    at = pfo_format_i64(at, state->tracks.pids[track->process]);
    at = PFO_LITERAL(at, ",\"tid\":");
    at = pfo_format_i64(at, track->tid);
    pfo_writer_advance(state->job->writer, at);
}

/* A name for a process or a thread; a substituted id leaves the real one in the arguments. */
static void
put_metadata(chrome_state *state, const char *kind, const pfo_track *track, pfo_text name, int64_t real, int64_t shown)
{
    pfo_writer *writer = state->job->writer;
    pfo_put(writer, state->separator);
    pfo_put(writer, "{\"ph\":\"M\",\"name\":\"");
    pfo_put(writer, kind);
    pfo_put(writer, "\"");
    put_ids(state, track);
    pfo_put(writer, ",\"args\":{\"name\":");
    pfo_put_json(writer, name);
    if (real != shown) {
        pfo_put(writer, ",\"system_id\":");
        pfo_put_i64(writer, real);
    }
    pfo_put(writer, "}}");
    state->separator = ",\n";
}

static void
put_all_metadata(chrome_state *state)
{
    const pfo_capture *capture = state->job->capture;
    for (int32_t i = 0; i < capture->process_count; i++) {
        const pfo_track main = { .process = i, .tid = state->tracks.pids[i] };
        put_metadata(state, "process_name", &main, capture->processes[i].command, capture->processes[i].pid,
                     state->tracks.pids[i]);
    }
    for (int32_t i = 0; i < capture->thread_count; i++) {
        const pfo_track *track = &state->tracks.tracks[i];
        put_metadata(state, "thread_name", track, capture->threads[i].name, capture->threads[i].id, track->tid);
    }
}

static void
put_name(chrome_state *state, const pfo_span *span)
{
    pfo_put(state->job->writer, state->separator);
    pfo_put_bytes(state->job->writer, "{\"name\":", 8);
    pfo_put_json(state->job->writer, pfo_export_label(state->job->capture, span->name));
    state->separator = ",\n";
}

static void
put_complete(chrome_state *state, const pfo_span *span, const pfo_track *track, int64_t begin_ns)
{
    put_name(state, span);
    char *at = pfo_writer_room(state->job->writer, 128);
    at = PFO_LITERAL(at, ",\"ph\":\"X\",\"ts\":");
    at = pfo_format_thousandths(at, begin_ns);
    at = PFO_LITERAL(at, ",\"dur\":");
    at = pfo_format_thousandths(at, span->duration_ns);
    at = PFO_LITERAL(at, ",\"pid\":");
    at = pfo_format_i64(at, state->tracks.pids[track->process]);
    at = PFO_LITERAL(at, ",\"tid\":");
    at = pfo_format_i64(at, track->tid);
    *at++ = '}';
    pfo_writer_advance(state->job->writer, at);
}

static void
put_asynchronous(chrome_state *state, const pfo_span *span, const pfo_track *track, char phase, int64_t ns)
{
    put_name(state, span);
    char *at = pfo_writer_room(state->job->writer, 160);
    at = PFO_LITERAL(at, ",\"cat\":\"async\",\"ph\":\"");
    *at++ = phase;
    at = PFO_LITERAL(at, "\",\"id\":\"");
    at = pfo_format_u64(at, state->apart);
    at = PFO_LITERAL(at, "\",\"ts\":");
    at = pfo_format_thousandths(at, ns);
    pfo_writer_advance(state->job->writer, at);
    put_ids(state, track);
    pfo_put_bytes(state->job->writer, "}", 1);
}

static pfo_status
put_spans(void *context, const pfo_span *spans, int64_t count)
{
    chrome_state *state = context;
    for (int64_t i = 0; i < count; i++) {
        pfo_track *track = pfo_track_of(&state->tracks, spans[i].thread);
        pfo_placement placement = PFO_PLACE_APART;
        int64_t begin_ns = 0;
        int64_t end_ns = 0;
        if (__builtin_sub_overflow(spans[i].begin_ns, state->first_ns, &begin_ns) ||
            __builtin_add_overflow(begin_ns, spans[i].duration_ns, &end_ns)) {
            return pfo_fail(state->job->err, PFO_BAD_ARGUMENT,
                            "the spans of the capture are more than 292 years apart");
        }
        PFO_TRY(pfo_track_place(track, &spans[i], 1, &placement, state->job->err));
        if (placement == PFO_PLACE_APART) {
            state->apart++;
            put_asynchronous(state, &spans[i], track, 'b', begin_ns);
            put_asynchronous(state, &spans[i], track, 'e', end_ns);
        } else {
            put_complete(state, &spans[i], track, begin_ns);
        }
    }
    return PFO_OK;
}

static void
put_head(chrome_state *state, int64_t base_ns)
{
    const pfo_capture *capture = state->job->capture;
    pfo_writer *writer = state->job->writer;
    pfo_put(writer, "{\"displayTimeUnit\":\"ns\",\"baseTimeNanoseconds\":");
    pfo_put_i64(writer, base_ns);
    pfo_put(writer, ",\"otherData\":{\"producer\":\"perfopt\",\"dropped_spans\":");
    pfo_put_u64(writer, capture->dropped_spans);
    pfo_put(writer, ",\"dropped_records\":");
    pfo_put_u64(writer, capture->dropped_records);
    pfo_put(writer, ",\"overflow_names\":");
    pfo_put_u64(writer, capture->overflow_names);
    pfo_put(writer, "},\"traceEvents\":[");
}

pfo_status
pfo_export_chrome(const pfo_export_job *job)
{
    chrome_state state = { .job = job, .separator = "\n" };
    int64_t base_ns = 0;
    PFO_TRY(pfo_export_each_span(job, find_first, &state));
    if (__builtin_add_overflow(job->capture->base_epoch_ns, state.first_ns, &base_ns)) {
        return pfo_fail(job->err, PFO_BAD_ARGUMENT, "the capture's first span is out of the range of times");
    }
    PFO_TRY(pfo_tracks_open(&state.tracks, job->capture, job->err));
    put_head(&state, base_ns);
    put_all_metadata(&state);
    const pfo_status status = pfo_export_each_span(job, put_spans, &state);
    pfo_put(job->writer, "\n]}\n");
    pfo_tracks_close(&state.tracks);
    return status;
}
