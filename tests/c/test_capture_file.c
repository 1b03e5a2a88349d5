/* test_capture_file.c: what is read is what was written, merged captures too; every flipped bit, every cut and every failing
 * allocation is refused in good order. Tables, merging and spans of files are tested here as well. */
#include "capture_fixture.h"
#include "fixture.h"

#include "base/alloc.h"
#include "profiler/capture_build.h"
#include "profiler/capture_file.h"
#include "profiler/capture_merge.h"
#include "profiler/capture_tables.h"

#include <math.h>
#include <stdio.h>

enum { MANY = 5000 };

static pfo_capture *
made(int spans)
{
    const taped tape = taped_new(FIXTURE_NAMES, MANY + 10);
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

/* The same tables, byte by byte. */
static int
same_tables(const pfo_capture *a, const pfo_capture *b)
{
    unsigned char *bytes[2] = { NULL, NULL };
    size_t lengths[2];
    REQUIRE(pfo_capture_encode(a, &bytes[0], &lengths[0], NULL) == PFO_OK);
    REQUIRE(pfo_capture_encode(b, &bytes[1], &lengths[1], NULL) == PFO_OK);
    const int same = lengths[0] == lengths[1] && memcmp(bytes[0], bytes[1], lengths[0]) == 0;
    pfo_free(bytes[0]);
    pfo_free(bytes[1]);
    return same;
}

static const char *
path_in(const fixture *tree)
{
    static char path[128];
    (void)snprintf(path, sizeof path, "%s/x.capture", tree->root);
    return path;
}

static void
what_is_read_is_what_was_written(void)
{
    const fixture tree = fixture_new();
    const char *path = path_in(&tree);
    pfo_capture *written = made(MANY / 2);
    pfo_capture *read = NULL;
    pfo_error err = PFO_ERROR_INIT;
    REQUIRE(pfo_capture_save(written, path, &err) == PFO_OK && pfo_capture_save(written, path, &err) == PFO_OK);
    REQUIRE(pfo_capture_load(path, &read, &err) == PFO_OK);
    REQUIRE(remove(path) == 0); /* the open file is enough */
    CHECK(same_tables(written, read) && read->span_count == MANY + 1);
    static pfo_span spans[2][MANY + 10];
    CHECK(read_spans(written, spans[0], MANY + 10) == MANY + 1 && read_spans(read, spans[1], MANY + 10) == MANY + 1);
    CHECK(memcmp(spans[0], spans[1], (MANY + 1) * sizeof spans[0][0]) == 0);
    pfo_span_source source;
    REQUIRE(pfo_capture_open_spans(read, &source, &err) == PFO_OK);
    CHECK(source.read(source.context, spans[1], 7, &err) == 7 && source.rewind(source.context, &err) == PFO_OK);
    CHECK(source.read(source.context, spans[1], 7, &err) == 7);
    CHECK(memcmp(spans[0], spans[1], 7 * sizeof spans[0][0]) == 0);
    source.close(source.context);
    pfo_capture_destroy(written);
    pfo_capture_destroy(read);
    fixture_delete(&tree);
}

static void
merging_equals_recording_both(void)
{
    const taped both = taped_new(FIXTURE_NAMES, 100);
    const taped first = taped_new(FIXTURE_NAMES, 100);
    const taped second = taped_new(FIXTURE_NAMES, 100);
    unsigned long long state = 7;
    for (int i = 0; i < 40; i++) {
        const int64_t ticks = (int64_t)(check_random(&state) % 1000000);
        one(&both, i % 5, 2000, 2000 + ticks);
        one(i % 2 == 0 ? &first : &second, i % 5, 2000, 2000 + ticks);
    }
    pfo_capture *parts[] = { take(&first), take(&second) };
    pfo_capture *expected = take(&both);
    pfo_capture *merged = NULL;
    pfo_error err = PFO_ERROR_INIT;
    REQUIRE(pfo_capture_merge((const pfo_capture *const *)parts, 2, &merged, &err) == PFO_OK);
    REQUIRE(merged->row_count == expected->row_count && merged->name_count == expected->name_count);
    for (int32_t i = 0; i < merged->row_count; i++) {
        const pfo_capture_row *a = &merged->rows[i];
        const pfo_capture_row *b = &expected->rows[i];
        CHECK(a->name == b->name && a->count == b->count && fabs(a->total_ns - b->total_ns) < 1e-6);
        CHECK(fabs(a->deviation_ns - b->deviation_ns) < 1e-6 * b->deviation_ns && fabs(a->mean_ns - b->mean_ns) < 1e-6);
        CHECK(fabs(a->least_ns - b->least_ns) < 1e-9 && fabs(a->greatest_ns - b->greatest_ns) < 1e-9);
        CHECK(fabs(a->self_ns - b->self_ns) < 1e-6 && fabs(a->active_ns - b->active_ns) < 1e-6);
        for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
            CHECK(pfo_histogram_bucket_count(a->ticks, bucket) == pfo_histogram_bucket_count(b->ticks, bucket));
        }
    }
    pfo_span spans[50];
    CHECK(merged->process_count == 2 && merged->thread_count == 2 && read_spans(merged, spans, 50) == 40);
    CHECK(spans[39].thread == 1 && spans[0].thread == 0);
    pfo_capture *again = NULL; /* merged ones merge, and their spans find their names */
    const pfo_capture *const more[] = { merged, expected };
    REQUIRE(pfo_capture_merge(more, 2, &again, &err) == PFO_OK);
    CHECK(read_spans(again, spans, 50) == 50 && again->span_count == 80 && again->rows[0].count == 16);
    for (int i = 0; i < 40; i++) {
        CHECK(spans[i].name >= 0 && spans[i].name < 5 && spans[i].thread == (i < 20 ? 0 : 1));
    }
    pfo_capture *all[] = { parts[0], parts[1], expected, merged, again };
    for (int i = 0; i < 5; i++) {
        pfo_capture_destroy(all[i]);
    }
    pfo_recorder_destroy(both.recorder);
    pfo_recorder_destroy(first.recorder);
    pfo_recorder_destroy(second.recorder);
}

/* One name "x" with these values, on a clock of this rate. */
static pfo_capture *
with_rate(double rate, int64_t epoch_ns, int64_t ticks, int how_many)
{
    pfo_capture *capture = pfo_capture_create();
    pfo_histogram *histogram = pfo_histogram_create();
    REQUIRE(capture != NULL && histogram != NULL);
    for (int i = 0; i < how_many; i++) {
        REQUIRE(pfo_histogram_record(histogram, ticks + i) == PFO_OK);
    }
    const pfo_capture_process process = { 1, 1, 1, epoch_ns, { "", 0 } };
    pfo_capture_row row = pfo_capture_row_of(histogram, rate);
    row.ticks = histogram;
    REQUIRE(pfo_capture_add_process(capture, &process, NULL) == PFO_OK);
    REQUIRE(pfo_capture_add_name(capture, (pfo_text){ "x", 1 }, NULL) == PFO_OK);
    REQUIRE(pfo_capture_add_row(capture, &row, NULL) == PFO_OK);
    return capture;
}

static void
other_rates_and_no_anchors(void)
{
    pfo_capture *slow = with_rate(1.0, 5, 100000, 100);
    pfo_capture *fast = with_rate(0.25, 5, 400000, 100);
    pfo_capture *close = with_rate(1.0001, 5, 100000, 100);
    pfo_capture *lost = with_rate(1.0, 0, 1, 1);
    pfo_capture *merged = NULL;
    pfo_error err = PFO_ERROR_INIT;
    const pfo_capture *const apart[] = { slow, fast };
    REQUIRE(pfo_capture_merge(apart, 2, &merged, &err) == PFO_OK);
    double middle = 0;
    pfo_histogram_quantiles(merged->rows[0].ticks, (const double[]){ 0.5 }, 1, &middle);
    CHECK(merged->rows[0].count == 200 && merged->rows[0].error > 1.9 / 128 && merged->rows[0].error < 2.1 / 128);
    CHECK(fabs(middle - 100025) < 100025 * merged->rows[0].error);
    CHECK(fabs(merged->rows[0].mean_ns - (100049.5 + 100012.375) / 2) < 1e-6);
    CHECK(pfo_histogram_count(merged->rows[0].ticks) == 200 && pfo_histogram_max(merged->rows[0].ticks) == 100099);
    pfo_capture_destroy(merged);
    const pfo_capture *const near[] = { slow, close };
    REQUIRE(pfo_capture_merge(near, 2, &merged, &err) == PFO_OK);
    CHECK(merged->rows[0].error > 1.0 / 128 && merged->rows[0].error < 1.0 / 128 + 2e-4);
    pfo_capture_destroy(merged);
    const pfo_capture *const without[] = { slow, lost };
    CHECK(pfo_capture_merge(without, 2, &merged, &err) == PFO_BAD_ARGUMENT && merged == NULL);
    CHECK(strstr(err.text, "anchor") != NULL);
    CHECK(pfo_capture_merge(without, 0, &merged, NULL) == PFO_BAD_ARGUMENT);
    pfo_capture_destroy(slow);
    pfo_capture_destroy(fast);
    pfo_capture_destroy(close);
    pfo_capture_destroy(lost);
}

static size_t
read_file(const char *path, unsigned char *bytes, size_t room)
{
    FILE *file = fopen(path, "rb");
    REQUIRE(file != NULL);
    const size_t length = fread(bytes, 1, room, file);
    REQUIRE(fclose(file) == 0);
    return length;
}

static pfo_status
load_bytes(const char *path, const unsigned char *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");
    REQUIRE(file != NULL && fwrite(bytes, 1, length, file) == length && fclose(file) == 0);
    pfo_capture *capture = NULL;
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_capture_load(path, &capture, &err);
    CHECK((status == PFO_OK) == (capture != NULL) && (status == PFO_OK) == (err.text[0] == '\0'));
    pfo_capture_destroy(capture);
    return status;
}

static void
every_flip_and_cut_is_refused(void)
{
    const fixture tree = fixture_new();
    const char *path = path_in(&tree);
    static unsigned char bytes[1 << 16];
    pfo_capture *capture = made(6);
    REQUIRE(pfo_capture_save(capture, path, NULL) == PFO_OK);
    const size_t length = read_file(path, bytes, sizeof bytes - 1);
    REQUIRE(length < sizeof bytes - 1 && load_bytes(path, bytes, length) == PFO_OK);
    for (size_t i = 0; i < length; i++) {
        const unsigned char old = bytes[i];
        bytes[i] ^= (unsigned char)(1 << (i % 8));
        CHECK(load_bytes(path, bytes, length) == PFO_IO);
        bytes[i] = old;
        CHECK(i % 3 != 0 || load_bytes(path, bytes, i) == PFO_IO);
    }
    CHECK(load_bytes(path, bytes, length + 1) == PFO_IO);
    pfo_error err = PFO_ERROR_INIT;
    bytes[8] = 2; /* a later version is named as such */
    CHECK(load_bytes(path, bytes, length) == PFO_IO);
    pfo_capture *none = NULL;
    CHECK(pfo_capture_load(path, &none, &err) == PFO_IO && strstr(err.text, "format 2") != NULL);
    CHECK(pfo_capture_load(tree.root, &none, NULL) == PFO_IO &&
          pfo_capture_load("/does/not/exist", &none, NULL) == PFO_IO);
    CHECK(pfo_capture_save(capture, "/does/not/exist", NULL) == PFO_IO);
    pfo_capture_destroy(capture);
    fixture_delete(&tree);
}

/* Tables whose checksum somebody has made right: nothing may crash, whatever they say. */
static void
hostile_tables(void)
{
    pfo_capture *capture = made(6);
    unsigned char *bytes = NULL;
    size_t length = 0;
    REQUIRE(pfo_capture_encode(capture, &bytes, &length, NULL) == PFO_OK);
    unsigned long long state = 3;
    int refused = 0;
    for (int i = 0; i < 20000; i++) {
        const size_t where = (size_t)(check_random(&state) % length);
        const unsigned char old = bytes[where];
        bytes[where] = (unsigned char)(i % 3 == 0 ? 0xFF : check_random(&state));
        pfo_capture *read = NULL;
        const size_t given = i % 5 == 0 ? (size_t)(check_random(&state) % (length + 1)) : length;
        const pfo_status status = pfo_capture_decode(bytes, given, &read, NULL);
        CHECK(status == PFO_OK || status == PFO_IO);
        refused += status == PFO_IO;
        for (int32_t n = 0; read != NULL && n < read->node_count; n++) {
            CHECK(read->nodes[n].parent < n && read->nodes[n].thread < read->thread_count);
        }
        pfo_capture_destroy(read);
        bytes[where] = old;
    }
    CHECK(refused > 1000);
    pfo_free(bytes);
    pfo_capture_destroy(capture);
}

static void
failing_allocations(void)
{
    const fixture tree = fixture_new();
    const char *path = path_in(&tree);
    pfo_capture *capture = made(6);
    pfo_status status = PFO_NO_MEMORY;
    for (long n = 1; status != PFO_OK && n < 300; n++) {
        pfo_capture *read = NULL;
        pfo_capture *merged = NULL;
        pfo_alloc_fail_at(n);
        status = pfo_capture_save(capture, path, NULL);
        status = status == PFO_OK ? pfo_capture_load(path, &read, NULL) : status;
        const pfo_capture *const both[] = { capture, read };
        status = status == PFO_OK ? pfo_capture_merge(both, 2, &merged, NULL) : status;
        CHECK(status == PFO_OK || status == PFO_NO_MEMORY);
        CHECK(status != PFO_OK || n > 20);
        pfo_alloc_fail_at(0);
        pfo_capture_destroy(read);
        pfo_capture_destroy(merged);
    }
    CHECK(status == PFO_OK);
    pfo_capture_destroy(capture);
    fixture_delete(&tree);
}

static void
text_must_be_utf8(void)
{
    const char *good[] = { "", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x9A\x80", "\xF4\x8F\xBF\xBF" };
    const char *bad[] = {
        "\x80", "\xC3", "\xC0\x80", "\xED\xA0\x80", "\xE0\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82"
    };
    for (int i = 0; i < 6; i++) {
        CHECK(pfo_text_is_utf8((pfo_text){ good[i], strlen(good[i]) }));
    }
    for (int i = 0; i < 8; i++) {
        CHECK(!pfo_text_is_utf8((pfo_text){ bad[i], strlen(bad[i]) }));
    }
}

int
main(void)
{
    RUN(what_is_read_is_what_was_written);
    RUN(merging_equals_recording_both);
    RUN(other_rates_and_no_anchors);
    RUN(every_flip_and_cut_is_refused);
    RUN(hostile_tables);
    RUN(failing_allocations);
    RUN(text_must_be_utf8);
    return FINISH();
}
