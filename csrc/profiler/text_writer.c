/* text_writer.c: see text_writer.h for the contract.
 *
 * One loop escapes for all formats: a table per format names the ASCII characters that are replaced and what by; runs of
 * others are copied as they are.
 */
#include "profiler/text_writer.h"

#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

enum { ASCII = 128, SHORTEST_DIGITS = 15, MOST_DIGITS = 17 };

typedef const char *escape_table[ASCII];

#define SPACES_16 " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " "

static const escape_table escapes[PFO_ESCAPE_COUNT] = {
    [PFO_ESCAPE_JSON] = { "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004",      "\\u0005",      "\\u0006",
                          "\\u0007", "\\b",     "\\t",     "\\n",     "\\u000b",      "\\f",          "\\r",
                          "\\u000e", "\\u000f", "\\u0010", "\\u0011", "\\u0012",      "\\u0013",      "\\u0014",
                          "\\u0015", "\\u0016", "\\u0017", "\\u0018", "\\u0019",      "\\u001a",      "\\u001b",
                          "\\u001c", "\\u001d", "\\u001e", "\\u001f", ['"'] = "\\\"", ['\\'] = "\\\\" },
    [PFO_ESCAPE_PROMETHEUS] = { ['\n'] = "\\n", ['"'] = "\\\"", ['\\'] = "\\\\" },
    [PFO_ESCAPE_CSV] = { [0] = REPLACEMENT, ['"'] = "\"\"" },
    [PFO_ESCAPE_FRAME] = { SPACES_16, SPACES_16, [';'] = ":", [127] = " " },
};

static const char digit_pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                                  "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                                  "8081828384858687888990919293949596979899";

pfo_status
pfo_writer_open(pfo_writer *writer, const pfo_sink *sink, pfo_error *err)
{
    *writer = (pfo_writer){ .sink = sink, .err = err, .status = PFO_OK };
    writer->buffer = pfo_alloc(PFO_WRITER_BYTES);
    return writer->buffer == NULL ? pfo_fail(err, PFO_NO_MEMORY, "no memory for the export's buffer") : PFO_OK;
}

void
pfo_writer_flush(pfo_writer *writer)
{
    if (writer->status == PFO_OK && writer->used > 0) {
        writer->status = writer->sink->write(writer->sink->context, writer->buffer, writer->used, writer->err);
    }
    writer->used = 0;
}

pfo_status
pfo_writer_close(pfo_writer *writer)
{
    pfo_writer_flush(writer);
    pfo_free(writer->buffer);
    writer->buffer = NULL;
    return writer->status;
}

void
pfo_put_bytes(pfo_writer *writer, const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length > 0 && writer->status == PFO_OK) {
        const size_t room = PFO_WRITER_BYTES - writer->used;
        const size_t piece = length < room ? length : room;
        memcpy(writer->buffer + writer->used, at, piece);
        writer->used += piece;
        at += piece;
        length -= piece;
        if (writer->used == PFO_WRITER_BYTES) {
            pfo_writer_flush(writer);
        }
    }
}

static inline int
continues(unsigned char byte)
{
    return (byte & 0xC0) == 0x80;
}

/* Length of the valid sequence of two to four bytes at `at`, 0 if there is none (Unicode 15, table 3-7). */
static size_t
sequence_length(const unsigned char *at, size_t left)
{
    const unsigned char lead = at[0];
    if (lead >= 0xC2 && lead <= 0xDF) {
        return left >= 2 && continues(at[1]) ? 2 : 0;
    }
    if (lead >= 0xE0 && lead <= 0xEF) {
        if (left < 3 || !continues(at[1]) || !continues(at[2])) {
            return 0;
        }
        const int overlong = lead == 0xE0 && at[1] < 0xA0;
        const int surrogate = lead == 0xED && at[1] > 0x9F;
        return overlong || surrogate ? 0 : 3;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        if (left < 4 || !continues(at[1]) || !continues(at[2]) || !continues(at[3])) {
            return 0;
        }
        const int overlong = lead == 0xF0 && at[1] < 0x90;
        const int beyond = lead == 0xF4 && at[1] > 0x8F;
        return overlong || beyond ? 0 : 4;
    }
    return 0;
}

void
pfo_put_text(pfo_writer *writer, pfo_text text, pfo_escape escape)
{
    const char *const *table = escapes[escape];
    size_t at = 0;
    size_t kept = 0; /* [kept, at) is to be copied as it is */
    while (at < text.length) {
        const unsigned char byte = (unsigned char)text.bytes[at];
        const char *instead = REPLACEMENT;
        if (byte < ASCII) {
            instead = table[byte];
            if (instead == NULL) {
                at++;
                continue;
            }
        } else {
            const size_t length = sequence_length((const unsigned char *)text.bytes + at, text.length - at);
            if (length > 0) {
                at += length;
                continue;
            }
        }
        pfo_put_bytes(writer, text.bytes + kept, at - kept);
        pfo_put(writer, instead);
        kept = ++at;
    }
    pfo_put_bytes(writer, text.bytes + kept, at - kept);
}

void
pfo_put_json(pfo_writer *writer, pfo_text text)
{
    pfo_put_bytes(writer, "\"", 1);
    pfo_put_text(writer, text, PFO_ESCAPE_JSON);
    pfo_put_bytes(writer, "\"", 1);
}

size_t
pfo_text_valid_length(pfo_text text)
{
    size_t valid = text.length;
    for (size_t at = 0; at < text.length;) {
        if ((unsigned char)text.bytes[at] < ASCII) {
            at++;
            continue;
        }
        const size_t length = sequence_length((const unsigned char *)text.bytes + at, text.length - at);
        valid += length == 0 ? sizeof REPLACEMENT - 2 : 0; /* three bytes for one */
        at += length == 0 ? 1 : length;
    }
    return valid;
}

char *
pfo_format_u64(char *at, uint64_t number)
{
    char digits[PFO_DECIMAL_ROOM];
    char *first = digits + sizeof digits;
    while (number >= 100) {
        const size_t pair = (size_t)(number % 100) * 2;
        number /= 100;
        first -= 2;
        memcpy(first, digit_pairs + pair, 2);
    }
    if (number >= 10) {
        first -= 2;
        memcpy(first, digit_pairs + (size_t)number * 2, 2);
    } else {
        *--first = (char)('0' + number);
    }
    const size_t length = (size_t)(digits + sizeof digits - first);
    memcpy(at, first, length);
    return at + length;
}

/* |number|, also of INT64_MIN; writes the sign. */
static uint64_t
split_sign(char **at, int64_t number)
{
    if (number >= 0) {
        return (uint64_t)number;
    }
    *(*at)++ = '-';
    return ~(uint64_t)number + 1;
}

char *
pfo_format_i64(char *at, int64_t number)
{
    const uint64_t size = split_sign(&at, number);
    return pfo_format_u64(at, size);
}

char *
pfo_format_thousandths(char *at, int64_t number)
{
    const uint64_t size = split_sign(&at, number);
    const unsigned fraction = (unsigned)(size % 1000);
    at = pfo_format_u64(at, size / 1000);
    *at++ = '.';
    *at++ = (char)('0' + fraction / 100);
    memcpy(at, digit_pairs + (size_t)(fraction % 100) * 2, 2);
    return at + 2;
}

void
pfo_put_u64(pfo_writer *writer, uint64_t number)
{
    pfo_writer_advance(writer, pfo_format_u64(pfo_writer_room(writer, PFO_DECIMAL_ROOM), number));
}

void
pfo_put_i64(pfo_writer *writer, int64_t number)
{
    pfo_writer_advance(writer, pfo_format_i64(pfo_writer_room(writer, PFO_DECIMAL_ROOM), number));
}

void
pfo_put_double(pfo_writer *writer, double number, const char *not_finite)
{
    if (!isfinite(number)) {
        pfo_put(writer, not_finite);
        return;
    }
    char text[48];
    int length = 0;
    for (int digits = SHORTEST_DIGITS; digits <= MOST_DIGITS; digits++) {
        length = snprintf(text, sizeof text, "%.*g", digits, number);
        const double back = strtod(text, NULL);
        if (memcmp(&back, &number, sizeof back) == 0) {
            break;
        }
    }
    /* What is neither digit nor sign nor exponent is the locale's decimal point, of one or more bytes. */
    int pointed = 0;
    for (int i = 0; i < length; i++) {
        if (strchr("0123456789+-e", text[i]) != NULL) {
            pfo_put_bytes(writer, &text[i], 1);
        } else if (!pointed) {
            pointed = 1;
            pfo_put_bytes(writer, ".", 1);
        }
    }
}

uint64_t
pfo_whole_ns(double ns)
{
    if (!(ns > 0)) {
        return 0;
    }
    return ns >= 18446744073709551615.0 ? UINT64_MAX : (uint64_t)(ns + 0.5);
}
