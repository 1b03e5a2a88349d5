/* export_perfetto.c: a Perfetto trace: TracePackets with track descriptors, interned names and slices, as protocol buffers.
 *
 * Facts it rests on (perfetto.dev, "Writing TrackEvent Protos Synthetically", and the fields of trace_packet.proto): a trace is a
 * sequence of field 1, one packet each, so it can be streamed; packets of one sequence share interned names; a
 * track is described once, before its first event. Times are unsigned nanoseconds: they are absolute here, and a clock snapshot says
 * that the trace's clock is the wall clock. Events are ordered by time, those of the same nanosecond by their place in the file, and an
 * end closes the innermost slice that is open. So a span that begins with one inside it, which comes first in the file, would swap places
 * with it: that one, like all that do not nest, gets a track of its own below the thread's.
 */
#include "profiler/export.h"
#include "profiler/export_tracks.h"

enum {
    TRACE_PACKET = 1,
    PACKET_CLOCK_SNAPSHOT = 6,
    PACKET_TIMESTAMP = 8,
    PACKET_SEQUENCE = 10,
    PACKET_TRACK_EVENT = 11,
    PACKET_INTERNED_DATA = 12,
    PACKET_SEQUENCE_FLAGS = 13,
    PACKET_TRACK_DESCRIPTOR = 60,
    SNAPSHOT_CLOCK = 1,
    CLOCK_ID = 1,
    CLOCK_TIME = 2,
    INTERNED_EVENT_NAME = 2,
    NAME_IID = 1,
    NAME_TEXT = 2,
    TRACK_UUID = 1,
    TRACK_NAME = 2,
    TRACK_PROCESS = 3,
    TRACK_THREAD = 4,
    TRACK_PARENT = 5,
    PROCESS_PID = 1,
    PROCESS_NAME = 6,
    THREAD_PID = 1,
    THREAD_TID = 2,
    THREAD_NAME = 5,
    EVENT_TYPE = 9,
    EVENT_NAME_IID = 10,
    EVENT_TRACK = 11
};

enum { SLICE_BEGIN = 1, SLICE_END = 2 };
enum { STATE_CLEARED = 1, NEEDS_STATE = 2 };
enum { CLOCK_REALTIME_ID = 1, CLOCK_BOOTTIME_ID = 6 };
enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };
enum { THE_SEQUENCE = 1, SMALL_MESSAGE = 128 };

typedef struct perfetto_state {
    const pfo_export_job *job;
    pfo_tracks tracks;
    uint64_t last_uuid;       /* of the tracks described so far */
    int unknown_is_described; /* the track of spans without a thread */
} perfetto_state;

/* A message around a text, with the fields that stand before it or before the next message inside. */
typedef struct envelope {
    unsigned field;
    char opening[48];
    size_t opened;
} envelope;

static uint64_t
process_uuid(int32_t slot)
{
    return (uint64_t)slot + 1;
}

static uint64_t
thread_uuid(const perfetto_state *state, const pfo_track *track)
{
    return (uint64_t)state->tracks.process_slots + (uint64_t)(track - state->tracks.tracks) + 1;
}

static uint64_t
name_iid(const perfetto_state *state, int32_t name)
{
    return (uint64_t)(name < 0 ? state->job->capture->name_count : name) + 1;
}

static char *
put_varint(char *at, uint64_t number)
{
    while (number >= 0x80) {
        *at++ = (char)(unsigned char)(number | 0x80);
        number >>= 7;
    }
    *at++ = (char)number;
    return at;
}

static size_t
varint_size(uint64_t number)
{
    size_t size = 1;
    for (; number >= 0x80; number >>= 7) {
        size++;
    }
    return size;
}

static char *
put_number(char *at, unsigned field, uint64_t number)
{
    return put_varint(put_varint(at, field << 3 | WIRE_VARINT), number);
}

static char *
put_length(char *at, unsigned field, uint64_t length)
{
    return put_varint(put_varint(at, field << 3 | WIRE_BYTES), length);
}

/* Bytes of a field of this many bytes, its tag and length included; fields below 16 have a tag of one byte. */
static size_t
field_size(unsigned field, size_t length)
{
    return varint_size(field << 3) + varint_size(length) + length;
}

/* A message of at most SMALL_MESSAGE bytes as a field of another. */
static char *
put_message(char *at, unsigned field, const char *message, const char *end)
{
    const size_t length = (size_t)(end - message);
    return pfo_format_literal(put_length(at, field, length), message, length);
}

static void
put_packet(pfo_writer *writer, const char *packet, const char *end)
{
    char *at = pfo_writer_room(writer, SMALL_MESSAGE + 16);
    pfo_writer_advance(writer, put_message(at, TRACE_PACKET, packet, end));
}

static void
add_number(envelope *message, unsigned field, uint64_t number)
{
    message->opened = (size_t)(put_number(message->opening + message->opened, field, number) - message->opening);
}

/* A packet that ends in a text of any length, inside `depth` messages (at most 2), the outermost first. */
static void
put_text_packet(pfo_writer *writer, const envelope *messages, int depth, unsigned text_field, pfo_text text)
{
    const size_t text_length = pfo_text_valid_length(text);
    size_t sizes[2];
    for (int i = depth - 1; i >= 0; i--) {
        const size_t inside =
            i == depth - 1 ? field_size(text_field, text_length) : field_size(messages[i + 1].field, sizes[i + 1]);
        sizes[i] = messages[i].opened + inside;
    }
    char sequence[16];
    char *sequence_end = put_number(sequence, PACKET_SEQUENCE, THE_SEQUENCE);
    sequence_end = put_number(sequence_end, PACKET_SEQUENCE_FLAGS, NEEDS_STATE);
    const size_t sequence_size = (size_t)(sequence_end - sequence);
    char *at = pfo_writer_room(writer, 2 * SMALL_MESSAGE);
    at = put_length(at, TRACE_PACKET, sequence_size + field_size(messages[0].field, sizes[0]));
    at = pfo_format_literal(at, sequence, sequence_size);
    for (int i = 0; i < depth; i++) {
        at = put_length(at, messages[i].field, sizes[i]);
        at = pfo_format_literal(at, messages[i].opening, messages[i].opened);
    }
    at = put_length(at, text_field, text_length);
    pfo_writer_advance(writer, at);
    pfo_put_text(writer, text, PFO_ESCAPE_NONE);
}

/* The first packet: forget what was interned before; the clock of this trace and the wall clock are one. */
static void
put_head(perfetto_state *state)
{
    static const unsigned clocks[] = { CLOCK_BOOTTIME_ID, CLOCK_REALTIME_ID };
    const int64_t base = state->job->capture->base_epoch_ns;
    char snapshot[SMALL_MESSAGE];
    char *snapshot_end = snapshot;
    for (int i = 0; i < 2; i++) {
        char clock[32];
        char *end = put_number(clock, CLOCK_ID, clocks[i]);
        end = put_number(end, CLOCK_TIME, base < 0 ? 0 : (uint64_t)base);
        snapshot_end = put_message(snapshot_end, SNAPSHOT_CLOCK, clock, end);
    }
    char packet[SMALL_MESSAGE];
    char *end = put_number(packet, PACKET_SEQUENCE, THE_SEQUENCE);
    end = put_number(end, PACKET_SEQUENCE_FLAGS, STATE_CLEARED);
    end = put_message(end, PACKET_CLOCK_SNAPSHOT, snapshot, snapshot_end);
    put_packet(state->job->writer, packet, end);
}

static void
put_names(perfetto_state *state)
{
    const pfo_capture *capture = state->job->capture;
    for (int32_t name = -1; name < capture->name_count; name++) {
        envelope messages[2] = { { .field = PACKET_INTERNED_DATA }, { .field = INTERNED_EVENT_NAME } };
        add_number(&messages[1], NAME_IID, name_iid(state, name));
        put_text_packet(state->job->writer, messages, 2, NAME_TEXT, pfo_export_label(capture, name));
    }
}

static void
put_process(perfetto_state *state, int32_t slot, pfo_text name)
{
    envelope messages[2] = { { .field = PACKET_TRACK_DESCRIPTOR }, { .field = TRACK_PROCESS } };
    add_number(&messages[0], TRACK_UUID, process_uuid(slot));
    add_number(&messages[1], PROCESS_PID, (uint64_t)state->tracks.pids[slot]);
    put_text_packet(state->job->writer, messages, 2, PROCESS_NAME, name);
}

static void
put_thread(perfetto_state *state, const pfo_track *track, pfo_text name)
{
    envelope messages[2] = { { .field = PACKET_TRACK_DESCRIPTOR }, { .field = TRACK_THREAD } };
    add_number(&messages[0], TRACK_UUID, thread_uuid(state, track));
    add_number(&messages[0], TRACK_PARENT, process_uuid(track->process));
    add_number(&messages[1], THREAD_PID, (uint64_t)state->tracks.pids[track->process]);
    add_number(&messages[1], THREAD_TID, (uint64_t)track->tid);
    put_text_packet(state->job->writer, messages, 2, THREAD_NAME, name);
}

/* A track that is no thread; parent 0: below nothing. */
static void
put_plain_track(perfetto_state *state, uint64_t uuid, uint64_t parent, pfo_text name)
{
    envelope message = { .field = PACKET_TRACK_DESCRIPTOR };
    add_number(&message, TRACK_UUID, uuid);
    if (parent != 0) {
        add_number(&message, TRACK_PARENT, parent);
    }
    put_text_packet(state->job->writer, &message, 1, TRACK_NAME, name);
}

static void
put_all_tracks(perfetto_state *state)
{
    const pfo_capture *capture = state->job->capture;
    static const pfo_text unknown = { "(unknown process)", 17 };
    int unknown_is_used = 0;
    for (int32_t i = 0; i < capture->process_count; i++) {
        put_process(state, i, capture->processes[i].command);
    }
    for (int32_t i = 0; i < capture->thread_count; i++) {
        if (capture->threads[i].process < 0 && !unknown_is_used) {
            unknown_is_used = 1;
            put_process(state, capture->process_count, unknown);
        }
        put_thread(state, &state->tracks.tracks[i], capture->threads[i].name);
    }
    state->last_uuid = (uint64_t)state->tracks.process_slots + (uint64_t)state->tracks.thread_slots;
}

static void
put_event(perfetto_state *state, unsigned type, int64_t ns, uint64_t uuid, int32_t name)
{
    char event[48];
    char *event_end = put_number(event, EVENT_TYPE, type);
    event_end = put_number(event_end, EVENT_TRACK, uuid);
    if (type == SLICE_BEGIN) {
        event_end = put_number(event_end, EVENT_NAME_IID, name_iid(state, name));
    }
    char packet[SMALL_MESSAGE];
    char *end = put_number(packet, PACKET_TIMESTAMP, (uint64_t)ns);
    end = put_number(end, PACKET_SEQUENCE, THE_SEQUENCE);
    end = put_number(end, PACKET_SEQUENCE_FLAGS, NEEDS_STATE);
    end = put_message(end, PACKET_TRACK_EVENT, event, event_end);
    put_packet(state->job->writer, packet, end);
}

static pfo_status
put_spans(void *context, const pfo_span *spans, int64_t count)
{
    perfetto_state *state = context;
    static const pfo_text unknown = { "(unknown thread)", 16 };
    for (int64_t i = 0; i < count; i++) {
        const pfo_span *span = &spans[i];
        pfo_track *track = pfo_track_of(&state->tracks, span->thread);
        pfo_placement placement = PFO_PLACE_APART;
        int64_t begin_ns = 0;
        int64_t end_ns = 0;
        if (__builtin_add_overflow(state->job->capture->base_epoch_ns, span->begin_ns, &begin_ns) || begin_ns < 0 ||
            __builtin_add_overflow(begin_ns, span->duration_ns, &end_ns)) {
            return pfo_fail(state->job->err, PFO_BAD_ARGUMENT,
                            "a span of the capture begins %lld ns after %lld, which is not between 1970 and 2262",
                            (long long)span->begin_ns, (long long)state->job->capture->base_epoch_ns);
        }
        PFO_TRY(pfo_track_place(track, span, 0, &placement, state->job->err));
        uint64_t uuid = thread_uuid(state, track);
        if (span->thread < 0 && !state->unknown_is_described) {
            state->unknown_is_described = 1;
            put_plain_track(state, uuid, 0, unknown);
        }
        if (placement == PFO_PLACE_APART) {
            put_plain_track(state, ++state->last_uuid, uuid, pfo_export_label(state->job->capture, span->name));
            uuid = state->last_uuid;
        }
        put_event(state, SLICE_BEGIN, begin_ns, uuid, span->name);
        put_event(state, SLICE_END, end_ns, uuid, -1);
    }
    return PFO_OK;
}

pfo_status
pfo_export_perfetto(const pfo_export_job *job)
{
    perfetto_state state = { .job = job };
    PFO_TRY(pfo_tracks_open(&state.tracks, job->capture, job->err));
    put_head(&state);
    put_all_tracks(&state);
    put_names(&state);
    const pfo_status status = pfo_export_each_span(job, put_spans, &state);
    pfo_tracks_close(&state.tracks);
    return status;
}
