/* capture_fixture.h: a recorder on a clock that the test sets, and captures of what it was told. */
#ifndef PFO_TESTS_CAPTURE_FIXTURE_H
#define PFO_TESTS_CAPTURE_FIXTURE_H

#include "check.h"

#include "base/clock.h"
#include "profiler/capture.h"
#include "profiler/capture_live.h"
#include "profiler/recorder.h"

#include <string.h>

enum { FIXTURE_NAMES = 8 };

typedef struct taped {
    pfo_recorder *recorder;
    pfo_name names[FIXTURE_NAMES]; /* called "a", "b", ... */
} taped;

static inline void
at(int64_t tick)
{
    atomic_store(&pfo_clock_fake, tick);
}

static inline taped
taped_new(int64_t max_names, int64_t spans)
{
    taped made;
    at(1000);
    REQUIRE(pfo_recorder_create(max_names, spans, &made.recorder, NULL) == PFO_OK);
    for (int i = 0; i < FIXTURE_NAMES; i++) {
        made.names[i] = pfo_recorder_add_name(made.recorder);
    }
    return made;
}

static inline pfo_open_range
begin(const taped *tape, int name, int64_t tick)
{
    pfo_open_range range;
    at(tick);
    pfo_recorder_begin(tape->recorder, tape->names[name], &range);
    return range;
}

static inline void
end(const taped *tape, pfo_open_range *range, int64_t tick)
{
    at(tick);
    pfo_recorder_end(tape->recorder, range, tick);
}

static inline void
one(const taped *tape, int name, int64_t from, int64_t to)
{
    pfo_open_range range = begin(tape, name, from);
    end(tape, &range, to);
}

static inline pfo_capture *
take(const taped *tape)
{
    static const pfo_text names[FIXTURE_NAMES] = { { "a", 1 }, { "b", 1 }, { "c", 1 }, { "d", 1 },
                                                   { "e", 1 }, { "f", 1 }, { "g", 1 }, { "h", 1 } };
    pfo_capture *capture = NULL;
    pfo_error err = PFO_ERROR_INIT;
    const int64_t known = pfo_recorder_names(tape->recorder);
    REQUIRE(pfo_capture_take(tape->recorder, pfo_recorder_epoch(tape->recorder), names,
                             known < FIXTURE_NAMES ? (int32_t)known : (int32_t)FIXTURE_NAMES, &capture,
                             &err) == PFO_OK);
    return capture;
}

/* The node that a path of one-letter names leads to, "" for none; NULL if there is no such node. */
static inline const pfo_capture_node *
node_at(const pfo_capture *capture, const char *path)
{
    int32_t parent = -1;
    const pfo_capture_node *found = NULL;
    for (; *path != '\0'; path++) {
        int32_t i = 0;
        for (; i < capture->node_count; i++) {
            const pfo_capture_node *node = &capture->nodes[i];
            if (node->parent == parent && node->name >= 0 && capture->names[node->name].bytes[0] == *path) {
                break;
            }
        }
        if (i == capture->node_count) {
            return NULL;
        }
        parent = i;
        found = &capture->nodes[i];
    }
    return found;
}

static inline int
node_is(const pfo_capture *capture, const char *path, uint64_t count, double self, double total)
{
    const pfo_capture_node *node = node_at(capture, path);
    const int right = node != NULL && node->count == count && node->self_ns >= self && node->self_ns <= self &&
                      node->total_ns >= total && node->total_ns <= total;
    if (!right && node != NULL) {
        (void)fprintf(stderr, "%s: count %llu self %g total %g\n", path, (unsigned long long)node->count, node->self_ns,
                      node->total_ns);
    }
    return right;
}

static inline const pfo_capture_row *
row_of(const pfo_capture *capture, const char *name)
{
    for (int32_t i = 0; i < capture->row_count; i++) {
        const int32_t index = capture->rows[i].name;
        if (index < 0 && name == NULL) {
            return &capture->rows[i];
        }
        if (index >= 0 && name != NULL && capture->names[index].length == strlen(name) &&
            memcmp(capture->names[index].bytes, name, strlen(name)) == 0) {
            return &capture->rows[i];
        }
    }
    return NULL;
}

static inline int64_t
read_spans(const pfo_capture *capture, pfo_span *spans, int64_t room)
{
    pfo_span_source source;
    REQUIRE(pfo_capture_open_spans(capture, &source, NULL) == PFO_OK);
    int64_t filled = 0;
    for (int64_t got = 1; got > 0 && filled < room; filled += got) {
        got = source.read(source.context, spans + filled, room - filled, NULL);
        REQUIRE(got >= 0);
    }
    source.close(source.context);
    return filled;
}

/* Nested ranges under four names, one beyond the limit and one with memory; 2 * spans + 1 spans. */
static inline pfo_capture *
made(int spans)
{
    const taped tape = taped_new(FIXTURE_NAMES, 2 * spans + 10);
    for (int i = 0; i < spans; i++) {
        pfo_open_range outer = begin(&tape, i % 3, 2000 + 100 * i);
        one(&tape, 3, 2010 + 100 * i, 2020 + 101 * i);
        end(&tape, &outer, 2090 + 101 * i);
    }
    const pfo_name beyond = pfo_recorder_add_name(tape.recorder);
    pfo_open_range range;
    pfo_recorder_begin(tape.recorder, beyond, &range);
    pfo_recorder_end(tape.recorder, &range, range.begin_tick + 3);
    pfo_recorder_add_memory(tape.recorder, tape.names[0], -5);
    pfo_capture *capture = take(&tape);
    pfo_recorder_destroy(tape.recorder);
    return capture;
}

#endif
