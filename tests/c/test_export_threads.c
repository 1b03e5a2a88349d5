/* test_export_threads.c: one capture exported by many threads at once, in all formats, with the same bytes each time. */
#include "export_fixture.h"

#include "profiler/export.h"

#include <pthread.h>

enum { THREADS = 8, ROUNDS = 3 };

typedef struct shared {
    const pfo_capture *capture;
    size_t lengths[PFO_EXPORT_COUNT];
} shared;

static size_t
export_length(const pfo_capture *capture, int format)
{
    endless_source endless = { .count = 5000, .names = MADE_NAMES - 1, .threads = MADE_THREADS };
    const pfo_span_source source = endless_source_of(&endless);
    test_sink sink = { 0 };
    const pfo_sink handle = test_sink_of(&sink);
    CHECK(pfo_export((pfo_export_format)format, capture, &source, &handle, NULL) == PFO_OK);
    return sink.length;
}

static void *
export_all(void *context)
{
    const shared *with = context;
    for (int i = 0; i < ROUNDS * PFO_EXPORT_COUNT; i++) {
        CHECK(export_length(with->capture, i % PFO_EXPORT_COUNT) == with->lengths[i % PFO_EXPORT_COUNT]);
    }
    return NULL;
}

static void
test_threads_share_a_capture(void)
{
    made_capture *made = made_capture_new();
    made->names[MADE_NAMES - 1].length = 1000;
    shared with = { .capture = &made->capture };
    for (int i = 0; i < PFO_EXPORT_COUNT; i++) {
        with.lengths[i] = export_length(&made->capture, i);
    }
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, export_all, &with) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    made_capture_free(made);
}

int
main(void)
{
    RUN(test_threads_share_a_capture);
    return FINISH();
}
