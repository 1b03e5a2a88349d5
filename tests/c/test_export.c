/* test_export.c: every format under empty and hostile captures, failing sinks, sources and allocations, and millions of spans.
 *
 * What the formats say is read back by independent readers in tests/python/test_exports.py.
 */
#include "export_fixture.h"

#include "base/alloc.h"
#include "profiler/export.h"

#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MANY_SPANS = 200000 };
#else
enum { MANY_SPANS = 10000000 };
#endif

static const pfo_span some_spans[] = {
    { 1000, 500, 1, 0, 0, 1 },
    { 900, 2000, 0, 0, 0, 0 },
    { 2950, 0, 2, 0, 0, 0 },
    { -5000, 10, 3, 1, 0, 0 },
    { 100, 5000, -1, 2, PFO_SPAN_SUSPENDS, 0 },
    { 4000, 400, 4, 2, 0, 0 },
    { 4200, 300, 0, 2, 0, 0 },
    { 7, 7, 0, -1, 0, 0 },
};
enum { SOME_SPANS = sizeof some_spans / sizeof some_spans[0] };

static array_source
some_source(void)
{
    return (array_source){ .spans = some_spans, .count = SOME_SPANS };
}

static long
peak_kib(void)
{
    struct rusage usage;
    REQUIRE(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_maxrss;
}

static size_t
export_many(pfo_export_format format, const pfo_capture *capture, int64_t count)
{
    endless_source endless = { .count = count, .names = MADE_NAMES - 1, .threads = MADE_THREADS };
    const pfo_span_source source = endless_source_of(&endless);
    test_sink sink = { 0 };
    const pfo_sink handle = test_sink_of(&sink);
    CHECK(pfo_export(format, capture, &source, &handle, NULL) == PFO_OK);
    CHECK(sink.largest <= PFO_WRITER_BYTES);
    return sink.length;
}

static void
test_memory_is_constant_in_spans(void)
{
    static const pfo_export_format timelines[] = { PFO_EXPORT_chrome, PFO_EXPORT_perfetto };
    made_capture *made = made_capture_new();
    for (size_t i = 0; i < 2; i++) {
        const size_t few = export_many(timelines[i], &made->capture, 20000);
        const long before = peak_kib();
        const size_t many = export_many(timelines[i], &made->capture, MANY_SPANS);
        CHECK(many > few + (size_t)(MANY_SPANS - 20000) * 20);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        CHECK(peak_kib() - before <= 512);
#else
        CHECK(peak_kib() >= before);
#endif
    }
    made_capture_free(made);
}

static void
test_formats_are_found_by_name(void)
{
    pfo_export_format format = PFO_EXPORT_COUNT;
    for (int i = 0; i < PFO_EXPORT_COUNT; i++) {
        const char *name = pfo_export_name((pfo_export_format)i);
        CHECK(pfo_export_find(name, strlen(name), &format, NULL) == PFO_OK && format == (pfo_export_format)i);
        CHECK(pfo_export_ending((pfo_export_format)i)[0] == '.');
    }
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_export_find("chrom", 5, &format, &err) == PFO_BAD_ARGUMENT);
    CHECK(strstr(err.text, "'chrom'") != NULL && strstr(err.text, "chrome perfetto speedscope") != NULL);
    CHECK(pfo_export_find("", 0, &format, NULL) == PFO_BAD_ARGUMENT);
}

static void
test_an_empty_capture(void)
{
    const pfo_capture nothing = { .base_epoch_ns = 1 };
    array_source none = { 0 };
    const pfo_span_source source = array_source_of(&none);
    for (int i = 0; i < PFO_EXPORT_COUNT; i++) {
        test_sink sinks[2] = { { .keep = 1 }, { .keep = 1 } };
        for (int with = 0; with < 2; with++) {
            const pfo_sink handle = test_sink_of(&sinks[with]);
            CHECK(pfo_export((pfo_export_format)i, &nothing, with ? &source : NULL, &handle, NULL) == PFO_OK);
        }
        CHECK(sinks[0].length == sinks[1].length);
        CHECK((sinks[0].length == 0) == (i == PFO_EXPORT_collapsed));
        free(sinks[0].bytes);
        free(sinks[1].bytes);
    }
}

static void
test_every_write_may_fail(void)
{
    made_capture *made = made_capture_new();
    made->names[MADE_NAMES - 1].length = 70000; /* longer than the buffer, and short enough for many rounds */
    for (int i = 0; i < PFO_EXPORT_COUNT; i++) {
        int64_t failures = 0;
        for (int64_t n = 1;; n++) {
            array_source spans = some_source();
            const pfo_span_source source = array_source_of(&spans);
            test_sink sink = { .fail_at = n };
            const pfo_sink handle = test_sink_of(&sink);
            pfo_error err = PFO_ERROR_INIT;
            const pfo_status status = pfo_export((pfo_export_format)i, &made->capture, &source, &handle, &err);
            if (status == PFO_OK) {
                CHECK(sink.writes == n - 1);
                break;
            }
            CHECK(status == PFO_IO && err.code == PFO_IO && strcmp(err.text, "the pipe is closed") == 0);
            CHECK(sink.writes == n);
            failures++;
        }
        CHECK(failures >= 2);
    }
    made_capture_free(made);
}

static void
test_a_failing_write_ends_a_long_export_early(void)
{
    made_capture *made = made_capture_new();
    endless_source endless = { .count = 1000000, .names = 1, .threads = 1 };
    const pfo_span_source source = endless_source_of(&endless);
    test_sink sink = { .fail_at = 20 };
    const pfo_sink handle = test_sink_of(&sink);
    made->capture.name_count = 4;
    made->capture.node_count = 0;
    made->capture.row_count = 0;
    CHECK(pfo_export(PFO_EXPORT_perfetto, &made->capture, &source, &handle, NULL) == PFO_IO);
    CHECK(endless.at < 100000);
    made_capture_free(made);
}

static void
test_every_read_may_fail(void)
{
    static const pfo_export_format timelines[] = { PFO_EXPORT_chrome, PFO_EXPORT_perfetto };
    made_capture *made = made_capture_new();
    for (size_t i = 0; i < 2; i++) {
        int failures = 0;
        for (int64_t n = 1;; n++) {
            array_source spans = some_source();
            spans.fail_at = n;
            const pfo_span_source source = array_source_of(&spans);
            test_sink sink = { 0 };
            const pfo_sink handle = test_sink_of(&sink);
            pfo_error err = PFO_ERROR_INIT;
            const pfo_status status = pfo_export(timelines[i], &made->capture, &source, &handle, &err);
            if (status == PFO_OK) {
                break;
            }
            CHECK(status == PFO_IO && strcmp(err.text, "the disk is gone") == 0);
            failures++;
        }
        CHECK(failures >= 2);
    }
    made_capture_free(made);
}

static void
test_every_allocation_may_fail(void)
{
    made_capture *made = made_capture_new();
    made->names[MADE_NAMES - 1].length = 70000; /* longer than the buffer, and short enough for many rounds */
    for (int i = 0; i < PFO_EXPORT_COUNT; i++) {
        int failures = 0;
        for (long n = 1;; n++) {
            array_source spans = some_source();
            const pfo_span_source source = array_source_of(&spans);
            test_sink sink = { 0 };
            const pfo_sink handle = test_sink_of(&sink);
            pfo_error err = PFO_ERROR_INIT;
            pfo_alloc_fail_at(n);
            const pfo_status status = pfo_export((pfo_export_format)i, &made->capture, &source, &handle, &err);
            pfo_alloc_fail_at(0);
            if (status == PFO_OK) {
                break;
            }
            CHECK(status == PFO_NO_MEMORY && strncmp(err.text, "no memory", 9) == 0);
            failures++;
        }
        CHECK(failures >= 1);
    }
    made_capture_free(made);
}

/* All formats refuse the capture and write nothing. */
static void
check_refused(const pfo_capture *capture, const char *text)
{
    for (int i = 0; i < PFO_EXPORT_COUNT; i++) {
        test_sink sink = { 0 };
        const pfo_sink handle = test_sink_of(&sink);
        pfo_error err = PFO_ERROR_INIT;
        CHECK(pfo_export((pfo_export_format)i, capture, NULL, &handle, &err) == PFO_BAD_ARGUMENT);
        CHECK(strstr(err.text, text) != NULL && sink.writes == 0);
    }
}

static void
test_wrong_indices_are_refused(void)
{
    made_capture *made = made_capture_new();
    made->threads[1].process = MADE_PROCESSES;
    check_refused(&made->capture, "thread 1 of the capture");
    made->threads[1].process = -2;
    check_refused(&made->capture, "thread 1 of the capture");
    made->threads[1].process = -1;
    made->rows[2].name = MADE_NAMES;
    check_refused(&made->capture, "row 2 of the capture");
    made->rows[2].name = 2;
    made->rows[3].ticks = NULL;
    check_refused(&made->capture, "row 3 of the capture");
    made->rows[3].ticks = made->histograms[3];
    static const pfo_capture_node wrong[] = { { .parent = 2 },
                                              { .parent = 5 },
                                              { .parent = -2 },
                                              { .parent = 3 /* another thread */ },
                                              { .parent = 1, .name = MADE_NAMES },
                                              { .parent = -1, .thread = MADE_THREADS } };
    const pfo_capture_node right = made->nodes[2];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const int32_t at = wrong[i].parent == 3 ? 4 : 2;
        const pfo_capture_node kept = made->nodes[at];
        made->nodes[at] = wrong[i];
        check_refused(&made->capture, at == 2 ? "node 2 of the capture" : "node 4 of the capture");
        made->nodes[at] = kept;
    }
    CHECK(made->nodes[2].count == right.count);
    made->capture.node_count = -1;
    check_refused(&made->capture, "negative length");
    made_capture_free(made);
}

static void
test_wrong_spans_are_refused(void)
{
    static const pfo_span wrong[] = {
        { .name = MADE_NAMES }, { .name = -2 },        { .thread = MADE_THREADS },
        { .thread = -2 },       { .duration_ns = -1 }, { .begin_ns = INT64_MAX, .duration_ns = 1 },
    };
    made_capture *made = made_capture_new();
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        array_source spans = { .spans = &wrong[i], .count = 1 };
        const pfo_span_source source = array_source_of(&spans);
        test_sink sink = { 0 };
        const pfo_sink handle = test_sink_of(&sink);
        pfo_error err = PFO_ERROR_INIT;
        CHECK(pfo_export(PFO_EXPORT_chrome, &made->capture, &source, &handle, &err) == PFO_BAD_ARGUMENT);
        CHECK(strstr(err.text, "a span of the capture has") != NULL);
        CHECK(pfo_export(PFO_EXPORT_perfetto, &made->capture, &source, &handle, NULL) == PFO_BAD_ARGUMENT);
    }
    /* times that are numbers, but not beside the base */
    static const pfo_span far[] = { { .begin_ns = INT64_MIN }, { .begin_ns = INT64_MAX - 5, .duration_ns = 5 } };
    array_source spans = { .spans = far, .count = 2 };
    const pfo_span_source source = array_source_of(&spans);
    test_sink sink = { 0 };
    const pfo_sink handle = test_sink_of(&sink);
    made->capture.base_epoch_ns = 1;
    CHECK(pfo_export(PFO_EXPORT_chrome, &made->capture, &source, &handle, NULL) == PFO_BAD_ARGUMENT);
    CHECK(pfo_export(PFO_EXPORT_perfetto, &made->capture, &source, &handle, NULL) == PFO_BAD_ARGUMENT);
    made->capture.base_epoch_ns = INT64_MIN + 1;
    CHECK(pfo_export(PFO_EXPORT_chrome, &made->capture, &source, &handle, NULL) == PFO_BAD_ARGUMENT);
    made->capture.base_epoch_ns = INT64_MAX;
    CHECK(pfo_export(PFO_EXPORT_otel, &made->capture, NULL, &handle, NULL) == PFO_BAD_ARGUMENT);
    made_capture_free(made);
}

static void
test_the_callers_error_is_optional_and_the_first_wins(void)
{
    made_capture *made = made_capture_new();
    test_sink sink = { .fail_at = 1 };
    const pfo_sink handle = test_sink_of(&sink);
    CHECK(pfo_export(PFO_EXPORT_csv, &made->capture, NULL, &handle, NULL) == PFO_IO);
    pfo_error err = PFO_ERROR_INIT;
    (void)pfo_fail(&err, PFO_STATE, "before");
    sink = (test_sink){ .fail_at = 1 };
    CHECK(pfo_export(PFO_EXPORT_csv, &made->capture, NULL, &handle, &err) == PFO_IO);
    CHECK(err.code == PFO_STATE && strcmp(err.text, "before") == 0);
    made_capture_free(made);
}

int
main(void)
{
    RUN(test_memory_is_constant_in_spans); /* first: the peak of the others would hide what it measures */
    RUN(test_formats_are_found_by_name);
    RUN(test_an_empty_capture);
    RUN(test_every_write_may_fail);
    RUN(test_a_failing_write_ends_a_long_export_early);
    RUN(test_every_read_may_fail);
    RUN(test_every_allocation_may_fail);
    RUN(test_wrong_indices_are_refused);
    RUN(test_wrong_spans_are_refused);
    RUN(test_the_callers_error_is_optional_and_the_first_wins);
    return FINISH();
}
