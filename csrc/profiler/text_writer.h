/* text_writer.h: bytes, numbers and escaped text on their way to a sink, through one buffer of fixed size.
 *
 * A writer remembers its first failure: what is put afterwards goes nowhere, so a format may write whole pieces and look
 * at the status once in a while. Times and counts are formatted by hand; only pfo_put_double(), which prints the shortest
 * decimal that reads back as the same number, goes through the C library, and it does not follow the locale.
 *
 * Text is UTF-8 that may be broken. Every format gets valid UTF-8: a byte that begins no valid sequence (also one of an
 * encoded surrogate) becomes U+FFFD.
 * Threads: one at a time. Memory: PFO_WRITER_BYTES from open to close, whatever is written.
 */
#ifndef PFO_PROFILER_TEXT_WRITER_H
#define PFO_PROFILER_TEXT_WRITER_H

#include "base/status.h"
#include "profiler/capture.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { PFO_WRITER_BYTES = 65536, PFO_WRITER_ROOM = 1024, PFO_DECIMAL_ROOM = 24 };

typedef struct pfo_writer {
    const pfo_sink *sink;
    pfo_error *err;
    pfo_status status;
    size_t used;
    char *buffer;
} pfo_writer;

/* err takes the text of the first failure, the sink's own too; it must live until close. PFO_NO_MEMORY. */
pfo_status pfo_writer_open(pfo_writer *writer, const pfo_sink *sink, pfo_error *err);
/* Hands the rest to the sink unless something has failed, frees the buffer, and returns the writer's status. */
pfo_status pfo_writer_close(pfo_writer *writer);
/* Hands to the sink what is in the buffer. */
void pfo_writer_flush(pfo_writer *writer);

/* Where at least `bytes` (at most PFO_WRITER_ROOM) may be written; pfo_writer_advance() then says how far it went. */
static inline char *
pfo_writer_room(pfo_writer *writer, size_t bytes)
{
    if (PFO_WRITER_BYTES - writer->used < bytes) {
        pfo_writer_flush(writer);
    }
    return writer->buffer + writer->used;
}

static inline void
pfo_writer_advance(pfo_writer *writer, const char *end)
{
    writer->used = (size_t)(end - writer->buffer);
}

void pfo_put_bytes(pfo_writer *writer, const void *bytes, size_t length);

static inline void
pfo_put(pfo_writer *writer, const char *text)
{
    pfo_put_bytes(writer, text, strlen(text));
}

/* How a text's characters are kept from being read as syntax. */
typedef enum pfo_escape {
    PFO_ESCAPE_NONE,       /* only made valid UTF-8 */
    PFO_ESCAPE_JSON,       /* inside a string of RFC 8259 */
    PFO_ESCAPE_PROMETHEUS, /* inside a label value of the text exposition format */
    PFO_ESCAPE_CSV,   /* inside a quoted field of RFC 4180; NUL, which ends a text for many readers, becomes U+FFFD */
    PFO_ESCAPE_FRAME, /* one frame of a collapsed stack: ';' becomes ':', control characters become spaces */
    PFO_ESCAPE_COUNT
} pfo_escape;

void pfo_put_text(pfo_writer *writer, pfo_text text, pfo_escape escape);
void pfo_put_json(pfo_writer *writer, pfo_text text); /* with its quotes */

/* Bytes of the text once it is valid UTF-8; its own length exactly when it is. */
size_t pfo_text_valid_length(pfo_text text);

void pfo_put_u64(pfo_writer *writer, uint64_t number);
void pfo_put_i64(pfo_writer *writer, int64_t number);
/* What is not finite is written as `not_finite`. */
void pfo_put_double(pfo_writer *writer, double number, const char *not_finite);

/* These write at `at` and return the end; they need PFO_DECIMAL_ROOM bytes. */
char *pfo_format_u64(char *at, uint64_t number);
char *pfo_format_i64(char *at, int64_t number);
/* number / 1000 with three digits after the point: nanoseconds as microseconds. */
char *pfo_format_thousandths(char *at, int64_t number);

/* A time in ns as an integer: 0 when negative or not a number, the largest integer when larger. */
uint64_t pfo_whole_ns(double ns);

static inline char *
pfo_format_literal(char *at, const char *literal, size_t length)
{
    memcpy(at, literal, length);
    return at + length;
}
#define PFO_LITERAL(at, literal) pfo_format_literal((at), (literal), sizeof(literal) - 1)

#endif
