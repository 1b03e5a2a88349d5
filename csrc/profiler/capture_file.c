/* capture_file.c: see capture_file.h for the contract.
 *
 * Spans go through one block's buffer in both directions. A loaded capture reads them with pread() from the open file, so
 * any number of sources may be at work.
 */
#include "profiler/capture_file.h"

#include "base/alloc.h"
#include "profiler/capture_build.h"
#include "profiler/capture_tables.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* snprintf and rename; nothing is printed */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { VERSION = 1, HEADER = 64, SPAN = 32, BLOCK_SPANS = 2048, BLOCK = BLOCK_SPANS * SPAN + 8, NEW_NAME_TRIES = 100 };

static const unsigned char magic[8] = { 'P', 'F', 'O', 'C', 'A', 'P', 'T', '\n' };

/* ---- bytes ----------------------------------------------------------------------------------- */

static pfo_status
write_all(int file, const void *bytes, size_t length, int64_t offset, const char *path, pfo_error *err)
{
    const unsigned char *from = bytes;
    while (length > 0) {
        const ssize_t wrote = pwrite(file, from, length, (off_t)offset);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote <= 0) {
            return pfo_fail(err, PFO_IO, "cannot write %.150s: %s", path, strerror(wrote < 0 ? errno : ENOSPC));
        }
        from += wrote;
        offset += wrote;
        length -= (size_t)wrote;
    }
    return PFO_OK;
}

static pfo_status
read_all(int file, void *bytes, size_t length, int64_t offset, pfo_error *err)
{
    unsigned char *to = bytes;
    while (length > 0) {
        const ssize_t got = pread(file, to, length, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return pfo_fail(err, PFO_IO, "cannot read the capture: %s",
                            got < 0 ? strerror(errno) : "the file was cut meanwhile");
        }
        to += got;
        offset += got;
        length -= (size_t)got;
    }
    return PFO_OK;
}

static void
put_span(unsigned char *to, const pfo_span *span)
{
    pfo_put_word(to, (uint64_t)span->begin_ns, 8);
    pfo_put_word(to + 8, (uint64_t)span->duration_ns, 8);
    pfo_put_word(to + 16, (uint32_t)span->name, 4);
    pfo_put_word(to + 20, (uint32_t)span->thread, 4);
    pfo_put_word(to + 24, span->flags, 4);
    pfo_put_word(to + 28, span->depth, 4);
}

static pfo_span
get_span(const unsigned char *from)
{
    const pfo_span span = { .begin_ns = (int64_t)pfo_get_word(from, 8),
                            .duration_ns = (int64_t)pfo_get_word(from + 8, 8),
                            .name = (int32_t)(uint32_t)pfo_get_word(from + 16, 4),
                            .thread = (int32_t)(uint32_t)pfo_get_word(from + 20, 4),
                            .flags = (uint32_t)pfo_get_word(from + 24, 4),
                            .depth = (uint32_t)pfo_get_word(from + 28, 4) };
    return span;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Fills `spans` as far as the source gives some; how many, -1 on failure. */
static int64_t
read_block(const pfo_span_source *source, pfo_span *spans, pfo_error *err)
{
    int64_t filled = 0;
    while (filled < BLOCK_SPANS) {
        const int64_t got = source->read(source->context, spans + filled, BLOCK_SPANS - filled, err);
        if (got <= 0) {
            return got < 0 ? -1 : filled;
        }
        filled += got;
    }
    return filled;
}

static pfo_status
write_spans(int file, const pfo_span_source *source, int64_t offset, uint64_t *count, const char *path, pfo_error *err)
{
    pfo_span *spans = pfo_alloc_array(BLOCK_SPANS, sizeof *spans);
    unsigned char *bytes = pfo_alloc(BLOCK);
    pfo_status status =
        spans == NULL || bytes == NULL ? pfo_fail(err, PFO_NO_MEMORY, "no memory to write spans") : PFO_OK;
    *count = 0;
    for (uint64_t block = 0; status == PFO_OK; block++) {
        pfo_error own = PFO_ERROR_INIT;
        const int64_t got = read_block(source, spans, &own);
        if (got <= 0) {
            status = got < 0 ? pfo_fail(err, own.code, "%s", own.text) : PFO_OK;
            break;
        }
        for (int64_t i = 0; i < got; i++) {
            put_span(bytes + i * SPAN, &spans[i]);
        }
        const size_t length = (size_t)got * SPAN;
        pfo_put_word(bytes + length, XXH3_64bits_withSeed(bytes, length, block), 8);
        status = write_all(file, bytes, length + 8, offset, path, err);
        offset += (int64_t)length + 8;
        *count += (uint64_t)got;
    }
    pfo_free(spans);
    pfo_free(bytes);
    return status;
}

static pfo_status
write_header(int file, uint64_t table_bytes, uint64_t span_count, uint64_t checksum, const char *path, pfo_error *err)
{
    unsigned char header[HEADER] = { 0 };
    memcpy(header, magic, sizeof magic);
    pfo_put_word(header + 8, VERSION, 4);
    pfo_put_word(header + 12, HEADER, 4);
    pfo_put_word(header + 16, table_bytes, 8);
    pfo_put_word(header + 24, span_count, 8);
    pfo_put_word(header + 32, checksum, 8);
    pfo_put_word(header + 40, BLOCK_SPANS, 4);
    pfo_put_word(header + 56, XXH3_64bits(header, 56), 8);
    return write_all(file, header, sizeof header, 0, path, err);
}

static pfo_status
write_file(int file, const pfo_capture *capture, const char *path, pfo_error *err)
{
    unsigned char *tables = NULL;
    size_t length = 0;
    PFO_TRY(pfo_capture_encode(capture, &tables, &length, err));
    const uint64_t checksum = XXH3_64bits(tables, length);
    pfo_status status = write_all(file, tables, length, HEADER, path, err);
    pfo_free(tables);
    if (status != PFO_OK) {
        return status;
    }
    pfo_span_source source;
    PFO_TRY(pfo_capture_open_spans(capture, &source, err));
    uint64_t spans = 0;
    status = write_spans(file, &source, HEADER + (int64_t)length, &spans, path, err);
    source.close(source.context);
    return status == PFO_OK ? write_header(file, length, spans, checksum, path, err) : status;
}

/* Opens a file that was not there, beside the path; one that a crashed process of the same number has left is no
 * hindrance. */
static int
open_beside(const char *path, char *beside, size_t room)
{
    static _Atomic uint32_t number;
    int file = -1;
    errno = EEXIST;
    for (int i = 0; i < NEW_NAME_TRIES && file < 0 && errno == EEXIST; i++) {
        (void)snprintf(beside, room, "%s.%lld-%u.part", path, (long long)getpid(), atomic_fetch_add(&number, 1));
        file = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    }
    return file;
}

pfo_status
pfo_capture_save(const pfo_capture *capture, const char *path, pfo_error *err)
{
    struct stat facts;
    if (stat(path, &facts) == 0 && !S_ISREG(facts.st_mode)) { /* a device or pipe must not be replaced */
        return pfo_fail(err, PFO_IO, "cannot write %.150s: it is there and no file", path);
    }
    const size_t room = strlen(path) + 48;
    char *beside = pfo_alloc(room);
    if (beside == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to write a capture");
    }
    const int file = open_beside(path, beside, room);
    pfo_status status = PFO_OK;
    if (file < 0) {
        status = pfo_fail(err, PFO_IO, "cannot create %.150s: %s", beside, strerror(errno));
        pfo_free(beside);
        return status;
    }
    status = write_file(file, capture, path, err);
    if (close(file) != 0 && status == PFO_OK) {
        status = pfo_fail(err, PFO_IO, "cannot write %.150s: %s", path, strerror(errno));
    }
    if (status == PFO_OK && rename(beside, path) != 0) {
        status = pfo_fail(err, PFO_IO, "cannot put %.150s in its place: %s", path, strerror(errno));
    }
    if (status != PFO_OK) {
        (void)unlink(beside);
    }
    pfo_free(beside);
    return status;
}

/* ---- spans of a file ------------------------------------------------------------------------- */

typedef struct file_store {
    pfo_span_store base;
    int file;
    int64_t offset; /* of the first block */
    uint64_t spans;
    int32_t name_count, thread_count;
} file_store;

typedef struct file_reader {
    file_store *store; /* a reference */
    uint64_t block;
    int64_t filled, at; /* spans in the buffer, and given of them */
    unsigned char bytes[BLOCK];
} file_reader;

/* The next block, checked; PFO_OK with filled == 0 at the end. */
static pfo_status
fill_block(file_reader *reader, pfo_error *err)
{
    const file_store *store = reader->store;
    const uint64_t before = reader->block * BLOCK_SPANS;
    const uint64_t left = before < store->spans ? store->spans - before : 0;
    const size_t spans = left < BLOCK_SPANS ? (size_t)left : (size_t)BLOCK_SPANS;
    reader->at = 0;
    reader->filled = 0;
    if (spans == 0) {
        return PFO_OK;
    }
    const int64_t offset = store->offset + (int64_t)reader->block * BLOCK;
    PFO_TRY(read_all(store->file, reader->bytes, spans * SPAN + 8, offset, err));
    if (pfo_get_word(reader->bytes + spans * SPAN, 8) !=
        XXH3_64bits_withSeed(reader->bytes, spans * SPAN, reader->block)) {
        return pfo_fail(err, PFO_IO, "the capture is damaged: block %llu of its spans",
                        (unsigned long long)reader->block);
    }
    reader->filled = (int64_t)spans;
    reader->block++;
    return PFO_OK;
}

static int64_t
file_read(void *context, pfo_span *spans, int64_t room, pfo_error *err)
{
    file_reader *reader = context;
    if (reader->at == reader->filled && fill_block(reader, err) != PFO_OK) {
        return -1;
    }
    int64_t got = 0;
    for (; got < room && reader->at < reader->filled; got++, reader->at++) {
        spans[got] = get_span(reader->bytes + reader->at * SPAN);
        if (spans[got].name < -1 || spans[got].name >= reader->store->name_count || spans[got].thread < 0 ||
            spans[got].thread >= reader->store->thread_count || spans[got].duration_ns < 0 ||
            !pfo_capture_time_is_good(spans[got].begin_ns) || !pfo_capture_time_is_good(spans[got].duration_ns)) {
            (void)pfo_fail(err, PFO_IO, "the capture is damaged: a span points outside its tables, or of all time");
            return -1;
        }
    }
    return got;
}

static pfo_status
file_rewind(void *context, pfo_error *err)
{
    (void)err;
    file_reader *reader = context;
    reader->block = 0;
    reader->filled = 0;
    reader->at = 0;
    return PFO_OK;
}

static void
file_close(void *context)
{
    file_reader *reader = context;
    pfo_span_store_release(&reader->store->base);
    pfo_free(reader);
}

static pfo_status
file_open(pfo_span_store *base, pfo_span_source *source, pfo_error *err)
{
    file_reader *reader = pfo_alloc(sizeof *reader);
    if (reader == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to read spans");
    }
    reader->store = (file_store *)(void *)pfo_span_store_share(base);
    (void)file_rewind(reader, err);
    *source = (pfo_span_source){ .read = file_read, .rewind = file_rewind, .context = reader, .close = file_close };
    return PFO_OK;
}

static void
file_destroy(pfo_span_store *base)
{
    file_store *store = (file_store *)(void *)base;
    (void)close(store->file);
    pfo_free(store);
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct layout {
    size_t table_bytes;
    uint64_t spans;
    uint64_t checksum;
} layout;

static pfo_status
read_header(int file, const char *path, layout *found, pfo_error *err)
{
    struct stat facts;
    unsigned char header[HEADER];
    if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode) || facts.st_size < HEADER) {
        return pfo_fail(err, PFO_IO, "%.150s is no capture: not a file of at least %d bytes", path, (int)HEADER);
    }
    PFO_TRY(read_all(file, header, sizeof header, 0, err));
    if (memcmp(header, magic, sizeof magic) != 0) {
        return pfo_fail(err, PFO_IO, "%.150s is no capture", path);
    }
    const uint64_t version = pfo_get_word(header + 8, 4);
    if (version > VERSION) {
        return pfo_fail(err, PFO_IO, "%.120s has format %llu; this version of perfopt reads up to %d", path,
                        (unsigned long long)version, (int)VERSION);
    }
    if (pfo_get_word(header + 56, 8) != XXH3_64bits(header, 56) || version != VERSION ||
        pfo_get_word(header + 12, 4) != HEADER || pfo_get_word(header + 40, 4) != BLOCK_SPANS) {
        return pfo_fail(err, PFO_IO, "%.150s is damaged: its header", path);
    }
    const uint64_t size = (uint64_t)facts.st_size;
    const uint64_t tables = pfo_get_word(header + 16, 8);
    found->spans = pfo_get_word(header + 24, 8);
    found->checksum = pfo_get_word(header + 32, 8);
    const uint64_t blocks = found->spans / BLOCK_SPANS + (found->spans % BLOCK_SPANS != 0);
    if (tables > size || found->spans > size / SPAN || HEADER + tables + found->spans * SPAN + blocks * 8 != size) {
        return pfo_fail(err, PFO_IO, "%.150s is damaged: its length is not what its header says", path);
    }
    found->table_bytes = (size_t)tables;
    return PFO_OK;
}

static pfo_status
read_tables(int file, const char *path, const layout *where, pfo_capture **out, pfo_error *err)
{
    unsigned char *tables = pfo_alloc(where->table_bytes);
    if (tables == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to read a capture of %zu bytes", where->table_bytes);
    }
    pfo_status status = read_all(file, tables, where->table_bytes, HEADER, err);
    if (status == PFO_OK && XXH3_64bits(tables, where->table_bytes) != where->checksum) {
        status = pfo_fail(err, PFO_IO, "%.150s is damaged: its tables", path);
    }
    if (status == PFO_OK) {
        status = pfo_capture_decode(tables, where->table_bytes, out, err);
    }
    pfo_free(tables);
    return status;
}

/* Reads every span once, so that damage is known now. */
static pfo_status
check_spans(const pfo_capture *capture, pfo_error *err)
{
    pfo_span_source source;
    pfo_span *spans = pfo_alloc_array(BLOCK_SPANS, sizeof *spans);
    if (spans == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to read spans");
    }
    pfo_status status = pfo_capture_open_spans(capture, &source, err);
    if (status == PFO_OK) {
        pfo_error own = PFO_ERROR_INIT;
        int64_t got = 1;
        while (got > 0) {
            got = source.read(source.context, spans, BLOCK_SPANS, &own);
        }
        source.close(source.context);
        status = got < 0 ? pfo_fail(err, own.code, "%s", own.text) : PFO_OK;
    }
    pfo_free(spans);
    return status;
}

/* `file` goes over to the capture, or is closed. */
static pfo_status
add_spans(pfo_capture *capture, int file, const layout *where, pfo_error *err)
{
    file_store *store = where->spans == 0 ? NULL : pfo_alloc_array(1, sizeof *store);
    if (store == NULL) {
        (void)close(file);
        return where->spans == 0 ? PFO_OK : pfo_fail(err, PFO_NO_MEMORY, "no memory to read spans");
    }
    atomic_init(&store->base.references, 1);
    store->base.open = file_open;
    store->base.destroy = file_destroy;
    store->file = file;
    store->offset = HEADER + (int64_t)where->table_bytes;
    store->spans = where->spans;
    store->name_count = capture->name_count;
    store->thread_count = capture->thread_count;
    capture->span_count = (int64_t)where->spans;
    const pfo_span_part part = { &store->base, 0, 0, -1, NULL };
    PFO_TRY(pfo_capture_add_spans(capture, &part, err));
    return check_spans(capture, err);
}

pfo_status
pfo_capture_load(const char *path, pfo_capture **out, pfo_error *err)
{
    *out = NULL;
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer is no capture either */
    if (file < 0) {
        return pfo_fail(err, PFO_IO, "cannot open %.150s: %s", path, strerror(errno));
    }
    layout where = { 0, 0, 0 };
    pfo_capture *capture = NULL;
    pfo_status status = read_header(file, path, &where, err);
    if (status == PFO_OK) {
        status = read_tables(file, path, &where, &capture, err);
    }
    if (status != PFO_OK) {
        (void)close(file);
        return status;
    }
    status = add_spans(capture, file, &where, err);
    if (status != PFO_OK) {
        pfo_capture_destroy(capture);
        return status;
    }
    *out = capture;
    return PFO_OK;
}
