/* export_fixture.h: captures made by hand, and sources and sinks that count, remember and fail when they are told to. */
#ifndef PFO_TESTS_EXPORT_FIXTURE_H
#define PFO_TESTS_EXPORT_FIXTURE_H

#include "check.h"

#include "profiler/capture.h"

#include <stdlib.h>
#include <string.h>

/* Two processes of one pid, three threads, hostile names, a small tree with recursion, one row of every name and one of the rest. */
enum {
    MADE_PROCESSES = 2,
    MADE_THREADS = 3,
    MADE_NAMES = 5,
    MADE_NODES = 7,
    MADE_ROWS = MADE_NAMES + 1,
    LONG_NAME = 1 << 20
};

typedef struct made_capture {
    pfo_capture capture;
    pfo_capture_process processes[MADE_PROCESSES];
    pfo_capture_thread threads[MADE_THREADS];
    pfo_text names[MADE_NAMES];
    pfo_capture_row rows[MADE_ROWS];
    pfo_capture_node nodes[MADE_NODES];
    pfo_histogram *histograms[MADE_ROWS];
    char *long_name;
} made_capture;

#define MADE_TEXT(literal) { (literal), sizeof(literal) - 1 }

static inline made_capture *
made_capture_new(void)
{
    made_capture *made = calloc(1, sizeof *made);
    REQUIRE(made != NULL);
    made->long_name = malloc(LONG_NAME);
    REQUIRE(made->long_name != NULL);
    memset(made->long_name, 'x', LONG_NAME);
    const pfo_text names[MADE_NAMES] = {
        MADE_TEXT("step"), MADE_TEXT("a \"b\";\\c\n\0,d"), MADE_TEXT("\xF0\x9F\x9A\x80 \xED\xA0\x80 \xFF"),
        MADE_TEXT(""),     { made->long_name, LONG_NAME },
    };
    memcpy(made->names, names, sizeof names);
    made->processes[0] = (pfo_capture_process){ .pid = 1, .pid_namespace = 7, .command = MADE_TEXT("train.py") };
    made->processes[1] = (pfo_capture_process){ .pid = 1, .pid_namespace = 8, .command = MADE_TEXT("load\"er\"") };
    made->threads[0] = (pfo_capture_thread){ 0, 1, MADE_TEXT("main") };
    made->threads[1] = (pfo_capture_thread){ 0, 2, MADE_TEXT("") };
    made->threads[2] = (pfo_capture_thread){ 1, 1, MADE_TEXT("main") };
    const pfo_capture_node nodes[MADE_NODES] = {
        { -1, 0, 0, 2, 1000, 100 }, { 0, 1, 0, 4, 900, 400 }, { 1, 0, 0, 1, 500, 500 }, { -1, 2, 1, 1, 70, 70 },
        { -1, 3, 2, 1, 80, 0 },     { 4, 4, 2, 9, 80, 50 },   { 5, -1, 2, 1, 30, 30 },
    };
    memcpy(made->nodes, nodes, sizeof nodes);
    for (int i = 0; i < MADE_ROWS; i++) {
        made->histograms[i] = pfo_histogram_create();
        REQUIRE(made->histograms[i] != NULL);
        for (int64_t value = 0; value < 40; value++) {
            REQUIRE(pfo_histogram_record(made->histograms[i], value * value * value * (i + 1)) == PFO_OK);
        }
        made->rows[i] = (pfo_capture_row){ .name = i < MADE_NAMES ? i : -1,
                                           .count = 40,
                                           .total_ns = (double)pfo_histogram_sum(made->histograms[i]) / 2,
                                           .active_ns = 10,
                                           .self_ns = 5,
                                           .greatest_ns = (double)pfo_histogram_max(made->histograms[i]) / 2,
                                           .error = 0.0078125,
                                           .ns_per_tick = 0.5,
                                           .ticks = made->histograms[i] };
    }
    made->capture = (pfo_capture){ .base_epoch_ns = 1700000000123456789,
                                   .taken_ns = 5000000000,
                                   .dropped_spans = 3,
                                   .processes = made->processes,
                                   .threads = made->threads,
                                   .names = made->names,
                                   .rows = made->rows,
                                   .nodes = made->nodes,
                                   .process_count = MADE_PROCESSES,
                                   .thread_count = MADE_THREADS,
                                   .name_count = MADE_NAMES,
                                   .row_count = MADE_ROWS,
                                   .node_count = MADE_NODES };
    return made;
}

static inline void
made_capture_free(made_capture *made)
{
    for (int i = 0; i < MADE_ROWS; i++) {
        pfo_histogram_destroy(made->histograms[i]);
    }
    free(made->long_name);
    free(made);
}

/* Spans from an array. The read with the number fail_at fails (counted from 1, 0 never). */
typedef struct array_source {
    const pfo_span *spans;
    int64_t count;
    int64_t at;
    int64_t reads;
    int64_t fail_at;
} array_source;

static inline int64_t
array_read(void *context, pfo_span *spans, int64_t room, pfo_error *err)
{
    array_source *source = context;
    if (++source->reads == source->fail_at) {
        (void)pfo_fail(err, PFO_IO, "the disk is gone");
        return -1;
    }
    const int64_t left = source->count - source->at;
    const int64_t given = left < room ? left : room;
    if (given > 0) {
        memcpy(spans, source->spans + source->at, (size_t)given * sizeof *spans);
    }
    source->at += given;
    return given;
}

static inline pfo_status
array_rewind(void *context, pfo_error *err)
{
    (void)err;
    ((array_source *)context)->at = 0;
    return PFO_OK;
}

static inline void
source_close(void *context)
{
    (void)context;
}

static inline pfo_span_source
array_source_of(array_source *source)
{
    return (pfo_span_source){ .read = array_read, .rewind = array_rewind, .context = source, .close = source_close };
}

/* As many spans as wanted, made while they are read: steps of ten ranges each, on four threads, every hundredth suspending. */
typedef struct endless_source {
    int64_t count;
    int64_t at;
    int32_t names;
    int32_t threads;
} endless_source;

static inline int64_t
endless_read(void *context, pfo_span *spans, int64_t room, pfo_error *err)
{
    endless_source *source = context;
    (void)err;
    int64_t i = 0;
    for (; i < room && source->at < source->count; i++, source->at++) {
        const int64_t thread = source->at / 10 % source->threads;
        const int64_t step = source->at / 10;
        const int64_t inner = source->at % 10; /* 9: the step around the nine before it */
        spans[i] = (pfo_span){ .begin_ns = step * 100000 + (inner == 9 ? 0 : 1000 + inner * 10000),
                               .duration_ns = inner == 9 ? 95000 : 7321,
                               .name = (int32_t)((inner == 9 ? 0 : inner) % source->names),
                               .thread = (int32_t)thread,
                               .flags = source->at % 100 == 42 ? PFO_SPAN_SUSPENDS : 0,
                               .depth = inner == 9 ? 0 : 1 };
    }
    return i;
}

static inline pfo_status
endless_rewind(void *context, pfo_error *err)
{
    (void)err;
    ((endless_source *)context)->at = 0;
    return PFO_OK;
}

static inline pfo_span_source
endless_source_of(endless_source *source)
{
    return (
        pfo_span_source){ .read = endless_read, .rewind = endless_rewind, .context = source, .close = source_close };
}

/* Remembers everything in `bytes` unless keep is 0. The write with the number fail_at fails. */
typedef struct test_sink {
    char *bytes;
    size_t length;
    size_t largest;
    int64_t writes;
    int64_t fail_at;
    int keep;
} test_sink;

static inline pfo_status
test_sink_write(void *context, const void *bytes, size_t length, pfo_error *err)
{
    test_sink *sink = context;
    if (++sink->writes == sink->fail_at) {
        return pfo_fail(err, PFO_IO, "the pipe is closed");
    }
    CHECK(sink->fail_at == 0 || sink->writes < sink->fail_at); /* nobody writes after a failure */
    if (sink->keep) {
        char *grown = realloc(sink->bytes, sink->length + length + 1);
        REQUIRE(grown != NULL);
        memcpy(grown + sink->length, bytes, length);
        grown[sink->length + length] = '\0';
        sink->bytes = grown;
    }
    sink->length += length;
    sink->largest = length > sink->largest ? length : sink->largest;
    return PFO_OK;
}

static inline pfo_sink
test_sink_of(test_sink *sink)
{
    return (pfo_sink){ test_sink_write, sink };
}

#endif
