/* test_capture_file.c: what is read is what was written, merged captures too; every flipped bit, every cut and every failing
 * allocation is refused in good order. */
#include "capture_fixture.h"
#include "fixture.h"

#include "base/alloc.h"
#include "profiler/capture_build.h"
#include "profiler/capture_file.h"
#include "profiler/capture_merge.h"
#include "profiler/capture_tables.h"

#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { MANY = 5000 };

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

/* A file whose checksums somebody has made right, with one span out of all time. */
static void
hostile_spans(void)
{
    enum { SPAN_BYTES = 32, SPANS = 13 };
    const fixture tree = fixture_new();
    const char *path = path_in(&tree);
    pfo_capture *capture = made(6);
    REQUIRE(pfo_capture_save(capture, path, NULL) == PFO_OK);
    pfo_capture_destroy(capture);
    static unsigned char bytes[1 << 16];
    FILE *file = fopen(path, "rb");
    REQUIRE(file != NULL);
    const size_t length = fread(bytes, 1, sizeof bytes, file);
    REQUIRE(fclose(file) == 0 && length > SPANS * SPAN_BYTES + 8);
    unsigned char *block = bytes + length - 8 - SPANS * SPAN_BYTES;
    CHECK(XXH3_64bits_withSeed(block, SPANS * SPAN_BYTES, 0) == pfo_get_word(block + SPANS * SPAN_BYTES, 8));
    for (int field = 0; field < 2; field++) {
        const uint64_t old = pfo_get_word(block + 8 * field, 8);
        const uint64_t wrong[] = { (uint64_t)INT64_MAX, (uint64_t)INT64_MIN, UINT64_MAX, 0 };
        for (int i = 0; i < 4; i++) {
            pfo_put_word(block + 8 * field, wrong[i], 8);
            pfo_put_word(block + SPANS * SPAN_BYTES, XXH3_64bits_withSeed(block, SPANS * SPAN_BYTES, 0), 8);
            CHECK(load_bytes(path, bytes, length) == (i == 3 || (i == 2 && field == 0) ? PFO_OK : PFO_IO));
        }
        pfo_put_word(block + 8 * field, old, 8);
    }
    fixture_delete(&tree);
}

static pfo_status
decode_again(const pfo_capture *capture)
{
    unsigned char *bytes = NULL;
    size_t length = 0;
    pfo_capture *read = NULL;
    REQUIRE(pfo_capture_encode(capture, &bytes, &length, NULL) == PFO_OK);
    const pfo_status status = pfo_capture_decode(bytes, length, &read, NULL);
    pfo_capture_destroy(read);
    pfo_free(bytes);
    return status;
}

/* Numbers that fit their type, and with which a merge or an export would compute beyond its own. */
static void
impossible_figures(void)
{
    pfo_capture *capture = made(1);
    const int64_t base = capture->base_epoch_ns;
    const int64_t wrong[] = { INT64_MAX, INT64_MIN, (int64_t)1 << 62, -((int64_t)1 << 62) };
    CHECK(decode_again(capture) == PFO_OK);
    for (int i = 0; i < 4; i++) {
        capture->base_epoch_ns = wrong[i];
        CHECK(decode_again(capture) == PFO_IO);
        capture->base_epoch_ns = base;
        const int64_t taken = capture->taken_ns;
        capture->taken_ns = wrong[i];
        CHECK(decode_again(capture) == PFO_IO);
        capture->taken_ns = taken;
    }
    const double rates[] = { 1e-300, 1e300, 0.0, 1e-6, 1e6 };
    for (int i = 0; i < 5; i++) {
        pfo_capture *other = pfo_capture_create();
        pfo_histogram *ticks = pfo_histogram_create();
        REQUIRE(other != NULL && ticks != NULL && pfo_histogram_record(ticks, 5) == PFO_OK);
        pfo_capture_row row = pfo_capture_row_of(ticks, rates[i]);
        row.name = -1;
        row.ticks = ticks;
        REQUIRE(pfo_capture_add_row(other, &row, NULL) == PFO_OK);
        CHECK(decode_again(other) == (i < 3 ? PFO_IO : PFO_OK));
        pfo_capture_destroy(other);
    }
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

int
main(void)
{
    RUN(what_is_read_is_what_was_written);
    RUN(every_flip_and_cut_is_refused);
    RUN(hostile_spans);
    RUN(impossible_figures);
    RUN(failing_allocations);
    return FINISH();
}
