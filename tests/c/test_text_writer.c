/* test_text_writer.c: numbers against printf, escaping of every byte, broken UTF-8, the buffer's edges, a failing sink. */
#include "export_fixture.h"

#include "base/alloc.h"
#include "profiler/text_writer.h"

#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>

/* What is written between open and close, to be freed. */
typedef struct written {
    test_sink sink;
    pfo_sink handle;
    pfo_writer writer;
} written;

static void
start(written *out)
{
    *out = (written){ .sink = { .keep = 1 } };
    out->handle = test_sink_of(&out->sink);
    REQUIRE(pfo_writer_open(&out->writer, &out->handle, NULL) == PFO_OK);
}

static int
finish_is(written *out, const void *expected, size_t length)
{
    REQUIRE(pfo_writer_close(&out->writer) == PFO_OK);
    const int same = out->sink.length == length && (length == 0 || memcmp(out->sink.bytes, expected, length) == 0);
    free(out->sink.bytes);
    return same;
}

static void
test_integers(void)
{
    static const int64_t edges[] = {
        0, 1, 9, 10, 99, 100, 999, 1000, 1001, 12345, INT64_MAX, INT64_MIN, -1, -999, -1000
    };
    unsigned long long state = 12345;
    for (int i = 0; i < 20000; i++) {
        const int64_t number =
            i < (int)(sizeof edges / sizeof edges[0]) ? edges[i] : (int64_t)(check_random(&state) >> (i % 64));
        char ours[PFO_DECIMAL_ROOM + 1];
        char theirs[64];
        *pfo_format_i64(ours, number) = '\0';
        (void)snprintf(theirs, sizeof theirs, "%" PRId64, number);
        CHECK(strcmp(ours, theirs) == 0);
        *pfo_format_u64(ours, (uint64_t)number) = '\0';
        (void)snprintf(theirs, sizeof theirs, "%" PRIu64, (uint64_t)number);
        CHECK(strcmp(ours, theirs) == 0);
        *pfo_format_thousandths(ours, number) = '\0';
        const uint64_t size = number < 0 ? ~(uint64_t)number + 1 : (uint64_t)number;
        (void)snprintf(theirs, sizeof theirs, "%s%" PRIu64 ".%03u", number < 0 ? "-" : "", size / 1000,
                       (unsigned)(size % 1000));
        CHECK(strcmp(ours, theirs) == 0);
    }
}

static void
check_double(double number, const char *expected)
{
    written out;
    start(&out);
    pfo_put_double(&out.writer, number, "none");
    CHECK(finish_is(&out, expected, strlen(expected)));
}

static void
test_doubles(void)
{
    check_double(0, "0");
    check_double(0.1, "0.1");
    check_double(1.0 / 3, "0.3333333333333333");
    check_double(-2.5, "-2.5");
    check_double(1e300, "1e+300");
    check_double(4.9406564584124654e-324, "4.94065645841247e-324");
    check_double((double)INFINITY, "none");
    check_double((double)NAN, "none");
    unsigned long long state = 99;
    for (int i = 0; i < 5000; i++) {
        const double number = ldexp((double)(check_random(&state) >> 11), (int)(check_random(&state) % 200) - 150);
        written out;
        start(&out);
        pfo_put_double(&out.writer, number, "none");
        REQUIRE(pfo_writer_close(&out.writer) == PFO_OK);
        const double back = strtod(out.sink.bytes, NULL);
        CHECK(memcmp(&back, &number, sizeof back) == 0);
        free(out.sink.bytes);
    }
}

static void
test_doubles_in_a_locale_with_commas(void)
{
    static const char *const locales[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR" };
    for (size_t i = 0; i < sizeof locales / sizeof locales[0]; i++) {
        if (setlocale(LC_NUMERIC, locales[i]) != NULL) {
            check_double(2.5, "2.5");
        }
    }
    CHECK(setlocale(LC_NUMERIC, "C") != NULL);
    check_double(2.5, "2.5");
}

static void
check_text(pfo_text text, pfo_escape escape, pfo_text expected)
{
    written out;
    start(&out);
    pfo_put_text(&out.writer, text, escape);
    CHECK(finish_is(&out, expected.bytes, expected.length));
}

#define TEXT(literal) ((pfo_text)MADE_TEXT(literal))

static void
test_escapes(void)
{
    const pfo_text hostile = TEXT("a\"b\\c\nd\0e;f,\x7F\x1F\xC3\xA4");
    check_text(hostile, PFO_ESCAPE_NONE, hostile);
    check_text(hostile, PFO_ESCAPE_JSON, TEXT("a\\\"b\\\\c\\nd\\u0000e;f,\x7F\\u001f\xC3\xA4"));
    check_text(hostile, PFO_ESCAPE_PROMETHEUS, TEXT("a\\\"b\\\\c\\nd\0e;f,\x7F\x1F\xC3\xA4"));
    check_text(hostile, PFO_ESCAPE_CSV,
               TEXT("a\"\"b\\c\nd\xEF\xBF\xBD"
                    "e;f,\x7F\x1F\xC3\xA4"));
    check_text(hostile, PFO_ESCAPE_FRAME, TEXT("a\"b\\c d e:f,  \xC3\xA4"));
    for (int byte = 0; byte < 128; byte++) { /* each ASCII character as JSON reads it back */
        const char one = (char)byte;
        written out;
        start(&out);
        pfo_put_json(&out.writer, (pfo_text){ &one, 1 });
        char expected[16];
        const char *shorts = strchr("\bb\tt\nn\ff\rr\"\"\\\\", byte);
        if (byte != 0 && shorts != NULL && (shorts - strchr("\bb\tt\nn\ff\rr\"\"\\\\", '\b')) % 2 == 0) {
            (void)snprintf(expected, sizeof expected, "\"\\%c\"", shorts[1]);
        } else if (byte < 32) {
            (void)snprintf(expected, sizeof expected, "\"\\u%04x\"", (unsigned)byte);
        } else {
            (void)snprintf(expected, sizeof expected, "\"%c\"", byte);
        }
        CHECK(finish_is(&out, expected, strlen(expected)));
    }
}

static void
test_broken_utf8(void)
{
#define BAD "\xEF\xBF\xBD"
    static const struct {
        pfo_text broken;
        pfo_text valid;
    } rows[] = {
        { MADE_TEXT("\xFF"), MADE_TEXT(BAD) },
        { MADE_TEXT("\x80z"), MADE_TEXT(BAD "z") },
        { MADE_TEXT("\xC0\x80"), MADE_TEXT(BAD BAD) },                 /* overlong NUL */
        { MADE_TEXT("\xE0\x9F\xBF"), MADE_TEXT(BAD BAD BAD) },         /* overlong */
        { MADE_TEXT("\xED\xA0\x80"), MADE_TEXT(BAD BAD BAD) },         /* surrogate */
        { MADE_TEXT("\xF0\x8F\xBF\xBF"), MADE_TEXT(BAD BAD BAD BAD) }, /* overlong */
        { MADE_TEXT("\xF4\x90\x80\x80"), MADE_TEXT(BAD BAD BAD BAD) }, /* above U+10FFFF */
        { MADE_TEXT("\xF0\x9F\x9A"), MADE_TEXT(BAD BAD BAD) },         /* cut */
        { MADE_TEXT("\xE2\x82"), MADE_TEXT(BAD BAD) },
        { MADE_TEXT("\xC3"), MADE_TEXT(BAD) },
        { MADE_TEXT("\xC3\xA4\xE2\x82\xAC\xF0\x9F\x9A\x80\xED\x9F\xBF\xF4\x8F\xBF\xBF"),
          MADE_TEXT("\xC3\xA4\xE2\x82\xAC\xF0\x9F\x9A\x80\xED\x9F\xBF\xF4\x8F\xBF\xBF") },
        { MADE_TEXT(""), MADE_TEXT("") },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        check_text(rows[i].broken, PFO_ESCAPE_NONE, rows[i].valid);
        check_text(rows[i].broken, PFO_ESCAPE_JSON, rows[i].valid);
        CHECK(pfo_text_valid_length(rows[i].broken) == rows[i].valid.length);
    }
}

static void
test_text_across_the_buffer(void)
{
    static char text[3 * PFO_WRITER_BYTES];
    memset(text, 'y', sizeof text);
    for (size_t length = PFO_WRITER_BYTES - 2; length <= PFO_WRITER_BYTES + 2; length++) {
        check_text((pfo_text){ text, length }, PFO_ESCAPE_JSON, (pfo_text){ text, length });
    }
    check_text((pfo_text){ text, sizeof text }, PFO_ESCAPE_NONE, (pfo_text){ text, sizeof text });
}

static void
test_a_failing_sink_is_called_once(void)
{
    for (int64_t fail_at = 1; fail_at <= 3; fail_at++) {
        test_sink sink = { .fail_at = fail_at };
        const pfo_sink handle = test_sink_of(&sink);
        pfo_error err = PFO_ERROR_INIT;
        pfo_writer writer;
        REQUIRE(pfo_writer_open(&writer, &handle, &err) == PFO_OK);
        for (int i = 0; i < 100000; i++) {
            pfo_put(&writer, "12345678");
            pfo_put_u64(&writer, 7);
        }
        CHECK(writer.status == PFO_IO);
        CHECK(pfo_writer_close(&writer) == PFO_IO);
        CHECK(sink.writes == fail_at);
        CHECK(strcmp(err.text, "the pipe is closed") == 0);
    }
}

static void
test_no_memory(void)
{
    test_sink sink = { 0 };
    const pfo_sink handle = test_sink_of(&sink);
    pfo_error err = PFO_ERROR_INIT;
    pfo_writer writer;
    pfo_alloc_fail_at(1);
    CHECK(pfo_writer_open(&writer, &handle, &err) == PFO_NO_MEMORY);
    pfo_alloc_fail_at(0);
    CHECK(sink.writes == 0);
}

static void
test_whole_ns(void)
{
    CHECK(pfo_whole_ns(0.4) == 0 && pfo_whole_ns(0.5) == 1 && pfo_whole_ns(1e9) == 1000000000);
    CHECK(pfo_whole_ns(-3) == 0 && pfo_whole_ns((double)NAN) == 0);
    CHECK(pfo_whole_ns((double)INFINITY) == UINT64_MAX && pfo_whole_ns(1e20) == UINT64_MAX);
}

int
main(void)
{
    RUN(test_integers);
    RUN(test_doubles);
    RUN(test_doubles_in_a_locale_with_commas);
    RUN(test_escapes);
    RUN(test_broken_utf8);
    RUN(test_text_across_the_buffer);
    RUN(test_a_failing_sink_is_called_once);
    RUN(test_no_memory);
    RUN(test_whole_ns);
    return FINISH();
}
