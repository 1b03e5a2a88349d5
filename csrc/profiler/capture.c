/* capture.c: the tables of a capture and the one source over all its spans. See capture.h and capture_build.h. */
#include "profiler/capture.h"

#include "base/alloc.h"
#include "profiler/capture_build.h"

#include <string.h>

enum { FIRST_ROOM = 16, TEXT_BLOCK = 1 << 16 };

typedef struct text_block {
    struct text_block *next;
    size_t used;
    size_t room;
    char bytes[];
} text_block;

typedef struct capture_store {
    pfo_capture shown; /* first, so that its address is the store's */
    pfo_capture_process *processes;
    pfo_capture_thread *threads;
    pfo_text *names;
    pfo_capture_row *rows;
    pfo_capture_node *nodes;
    pfo_span_part *parts;
    int32_t process_room, thread_room, name_room, row_room, node_room;
    int32_t part_count, part_room;
    text_block *texts;
} capture_store;

static capture_store *
store_of(pfo_capture *capture)
{
    return (capture_store *)(void *)capture;
}

pfo_capture *
pfo_capture_create(void)
{
    capture_store *store = pfo_alloc_array(1, sizeof *store);
    return store == NULL ? NULL : &store->shown;
}

void
pfo_capture_destroy(pfo_capture *capture)
{
    if (capture == NULL) {
        return;
    }
    capture_store *store = store_of(capture);
    for (int32_t i = 0; i < store->shown.row_count; i++) {
        union { /* the reader's pointer is const, ours is not */
            const pfo_histogram *shown;
            pfo_histogram *owned;
        } ticks = { store->rows[i].ticks };
        pfo_histogram_destroy(ticks.owned);
    }
    for (int32_t i = 0; i < store->part_count; i++) {
        pfo_span_store_release(store->parts[i].store);
        pfo_free(store->parts[i].names);
    }
    for (text_block *block = store->texts; block != NULL;) {
        text_block *next = block->next;
        pfo_free(block);
        block = next;
    }
    pfo_free(store->processes);
    pfo_free(store->threads);
    pfo_free(store->names);
    pfo_free(store->rows);
    pfo_free(store->nodes);
    pfo_free(store->parts);
    pfo_free(store);
}

/* ---- text ------------------------------------------------------------------------------------ */

int
pfo_text_is_utf8(pfo_text text)
{
    const unsigned char *bytes = (const unsigned char *)text.bytes;
    for (size_t i = 0; i < text.length;) {
        const unsigned char first = bytes[i];
        const size_t more = first < 0x80 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
        if ((first >= 0x80 && first < 0xC2) || first > 0xF4 || more > text.length - i - 1) {
            return 0;
        }
        for (size_t k = 1; k <= more; k++) {
            if ((bytes[i + k] & 0xC0) != 0x80) {
                return 0;
            }
        }
        const unsigned char second = more > 0 ? bytes[i + 1] : 0;
        if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) || (first == 0xF0 && second < 0x90) ||
            (first == 0xF4 && second > 0x8F)) {
            return 0;
        }
        i += more + 1;
    }
    return 1;
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* Room for one more item behind `used`. */
static pfo_status
grow(void **items, int32_t *room, int32_t used, size_t item_bytes, pfo_error *err)
{
    if (used < *room) {
        return PFO_OK;
    }
    if (used > INT32_MAX / 2) {
        return pfo_fail(err, PFO_OVERFLOW, "a capture has room for %d items of a kind", INT32_MAX / 2);
    }
    const int32_t wanted = used < FIRST_ROOM ? FIRST_ROOM : 2 * used;
    void *grown = pfo_realloc_array(*items, (size_t)wanted, item_bytes);
    if (grown == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a capture");
    }
    *items = grown;
    *room = wanted;
    return PFO_OK;
}

static pfo_status
keep_text(capture_store *store, pfo_text *text, pfo_error *err)
{
    if (text->length == 0) {
        text->bytes = "";
        return PFO_OK;
    }
    text_block *block = store->texts;
    if (block == NULL || block->room - block->used < text->length) {
        const size_t room = text->length < TEXT_BLOCK ? (size_t)TEXT_BLOCK : text->length;
        block = room > SIZE_MAX - sizeof *block ? NULL : pfo_alloc(sizeof *block + room);
        if (block == NULL) {
            return pfo_fail(err, PFO_NO_MEMORY, "no memory for a capture's text of %zu bytes", text->length);
        }
        block->used = 0;
        block->room = room;
        block->next = store->texts;
        store->texts = block;
    }
    char *copy = block->bytes + block->used;
    memcpy(copy, text->bytes, text->length);
    block->used += text->length;
    text->bytes = copy;
    return PFO_OK;
}

/* Appends *item to store->TABLE, whose public face is shown.TABLE. */
#define APPEND(store, TABLE, COUNT, ROOM, item, err)                                                                   \
    do {                                                                                                               \
        void *items = (store)->TABLE;                                                                                  \
        PFO_TRY(grow(&items, &(store)->ROOM, (store)->shown.COUNT, sizeof *(store)->TABLE, err));                      \
        (store)->TABLE = items;                                                                                        \
        (store)->shown.TABLE = (store)->TABLE;                                                                         \
        (store)->TABLE[(store)->shown.COUNT++] = (item);                                                               \
    } while (0)

pfo_status
pfo_capture_add_process(pfo_capture *capture, const pfo_capture_process *process, pfo_error *err)
{
    capture_store *store = store_of(capture);
    pfo_capture_process own = *process;
    PFO_TRY(keep_text(store, &own.command, err));
    APPEND(store, processes, process_count, process_room, own, err);
    return PFO_OK;
}

pfo_status
pfo_capture_add_thread(pfo_capture *capture, const pfo_capture_thread *thread, pfo_error *err)
{
    capture_store *store = store_of(capture);
    pfo_capture_thread own = *thread;
    PFO_TRY(keep_text(store, &own.name, err));
    APPEND(store, threads, thread_count, thread_room, own, err);
    return PFO_OK;
}

pfo_status
pfo_capture_add_name(pfo_capture *capture, pfo_text name, pfo_error *err)
{
    capture_store *store = store_of(capture);
    PFO_TRY(keep_text(store, &name, err));
    APPEND(store, names, name_count, name_room, name, err);
    return PFO_OK;
}

pfo_status
pfo_capture_add_node(pfo_capture *capture, const pfo_capture_node *node, pfo_error *err)
{
    capture_store *store = store_of(capture);
    APPEND(store, nodes, node_count, node_room, *node, err);
    return PFO_OK;
}

static pfo_status
append_row(capture_store *store, const pfo_capture_row *row, pfo_error *err)
{
    APPEND(store, rows, row_count, row_room, *row, err);
    return PFO_OK;
}

pfo_status
pfo_capture_add_row(pfo_capture *capture, const pfo_capture_row *row, pfo_error *err)
{
    const pfo_status status = append_row(store_of(capture), row, err);
    if (status != PFO_OK) {
        union {
            const pfo_histogram *shown;
            pfo_histogram *owned;
        } ticks = { row->ticks };
        pfo_histogram_destroy(ticks.owned);
    }
    return status;
}

void
pfo_capture_sum_nodes(pfo_capture *capture)
{
    capture_store *store = store_of(capture);
    for (int32_t i = 0; i < capture->node_count; i++) {
        store->nodes[i].total_ns = store->nodes[i].self_ns;
    }
    for (int32_t i = capture->node_count - 1; i >= 0; i--) { /* children stand behind their parents */
        if (store->nodes[i].parent >= 0) {
            store->nodes[store->nodes[i].parent].total_ns += store->nodes[i].total_ns;
        }
    }
}

/* ---- spans ----------------------------------------------------------------------------------- */

pfo_span_store *
pfo_span_store_share(pfo_span_store *store)
{
    (void)atomic_fetch_add_explicit(&store->references, 1, memory_order_relaxed);
    return store;
}

void
pfo_span_store_release(pfo_span_store *store)
{
    if (store != NULL && atomic_fetch_sub_explicit(&store->references, 1, memory_order_acq_rel) == 1) {
        store->destroy(store);
    }
}

static pfo_status
append_part(capture_store *store, const pfo_span_part *part, pfo_error *err)
{
    void *parts = store->parts;
    PFO_TRY(grow(&parts, &store->part_room, store->part_count, sizeof *store->parts, err));
    store->parts = parts;
    store->parts[store->part_count++] = *part;
    return PFO_OK;
}

pfo_status
pfo_capture_add_spans(pfo_capture *capture, const pfo_span_part *part, pfo_error *err)
{
    const pfo_status status = append_part(store_of(capture), part, err);
    if (status != PFO_OK) {
        pfo_span_store_release(part->store);
        pfo_free(part->names);
    }
    return status;
}

int32_t
pfo_capture_span_parts(const pfo_capture *capture, const pfo_span_part **parts)
{
    const capture_store *store = (const capture_store *)(const void *)capture;
    *parts = store->parts;
    return store->part_count;
}

/* A source over all parts, one after the other. */
typedef struct parts_reader {
    const capture_store *store;
    int32_t part;          /* that is being read */
    pfo_span_source inner; /* over it; read == NULL: not open */
} parts_reader;

static void
close_inner(parts_reader *reader)
{
    if (reader->inner.read != NULL) {
        reader->inner.close(reader->inner.context);
        reader->inner.read = NULL;
    }
}

static void
translate(const pfo_span_part *part, pfo_span *spans, int64_t how_many)
{
    for (int64_t i = 0; i < how_many; i++) {
        pfo_span *span = &spans[i];
        span->begin_ns += part->shift_ns;
        span->thread += part->first_thread;
        if (part->name_count >= 0 && span->name >= 0) {
            span->name = span->name < part->name_count ? part->names[span->name] : -1;
        }
    }
}

static int64_t
parts_read(void *context, pfo_span *spans, int64_t room, pfo_error *err)
{
    parts_reader *reader = context;
    for (; reader->part < reader->store->part_count; reader->part++) {
        const pfo_span_part *part = &reader->store->parts[reader->part];
        if (reader->inner.read == NULL && part->store->open(part->store, &reader->inner, err) != PFO_OK) {
            reader->inner.read = NULL;
            return -1;
        }
        const int64_t got = reader->inner.read(reader->inner.context, spans, room, err);
        if (got != 0) {
            translate(part, spans, got);
            return got;
        }
        close_inner(reader);
    }
    return 0;
}

static pfo_status
parts_rewind(void *context, pfo_error *err)
{
    (void)err;
    parts_reader *reader = context;
    close_inner(reader);
    reader->part = 0;
    return PFO_OK;
}

static void
parts_close(void *context)
{
    close_inner(context);
    pfo_free(context);
}

pfo_status
pfo_capture_open_spans(const pfo_capture *capture, pfo_span_source *source, pfo_error *err)
{
    parts_reader *reader = pfo_alloc_array(1, sizeof *reader);
    if (reader == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to read spans");
    }
    reader->store = (const capture_store *)(const void *)capture;
    *source = (pfo_span_source){ .read = parts_read, .rewind = parts_rewind, .context = reader, .close = parts_close };
    return PFO_OK;
}
