/* capture_tables.c: see capture_tables.h for the contract.
 *
 * Both directions go through the tables in one order. The writer notes that memory was out and goes on; the reader notes
 * the first thing that does not fit and gives zeros from then on, so that neither needs a check at every field.
 */
#include "profiler/capture_tables.h"

#include "base/alloc.h"
#include "profiler/capture_build.h"

#include <string.h>

typedef struct writer {
    unsigned char *bytes;
    size_t used, room;
    int failed;
} writer;

typedef struct reader {
    const unsigned char *bytes;
    size_t left;
    const char *wrong; /* what did not fit, NULL so far */
} reader;

/* ---- writing --------------------------------------------------------------------------------- */

static void
put_bytes(writer *to, const void *bytes, size_t length)
{
    if (length > to->room - to->used) {
        size_t room = to->room == 0 ? 4096 : to->room;
        while (room - to->used < length && room <= SIZE_MAX / 2) {
            room *= 2;
        }
        unsigned char *grown = to->failed || room - to->used < length ? NULL : pfo_realloc_array(to->bytes, room, 1);
        if (grown == NULL) {
            to->failed = 1;
            return;
        }
        to->bytes = grown;
        to->room = room;
    }
    if (length > 0) {
        memcpy(to->bytes + to->used, bytes, length);
        to->used += length;
    }
}

static void
put(writer *to, uint64_t value, int bytes)
{
    unsigned char word[8];
    pfo_put_word(word, value, bytes);
    put_bytes(to, word, (size_t)bytes);
}

static void
put_double(writer *to, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(to, bits, 8);
}

static void
put_text(writer *to, pfo_text text)
{
    put(to, text.length, 8);
    put_bytes(to, text.bytes, text.length);
}

static void
put_histogram(writer *to, const pfo_histogram *histogram)
{
    const pfo_histogram_facts facts = pfo_histogram_get_facts(histogram);
    put(to, facts.count, 8);
    put(to, facts.sum, 8);
    put(to, facts.squares_low, 8);
    put(to, facts.squares_high, 8);
    put(to, (uint64_t)facts.smallest, 8);
    put(to, (uint64_t)facts.largest, 8);
    uint32_t used = 0;
    for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
        used += pfo_histogram_bucket_count(histogram, bucket) > 0;
    }
    put(to, used, 4);
    for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
        const uint64_t count = pfo_histogram_bucket_count(histogram, bucket);
        if (count > 0) {
            put(to, (uint64_t)bucket, 2);
            put(to, count, 8);
        }
    }
}

static void
put_row(writer *to, const pfo_capture_row *row)
{
    const double figures[] = { row->total_ns,     row->active_ns,  row->self_ns,      row->mean_ns,
                               row->deviation_ns, row->least_ns,   row->greatest_ns,  row->error,
                               row->ns_per_tick,  row->memory_sum, row->memory_least, row->memory_greatest };
    put(to, (uint32_t)row->name, 4);
    put(to, row->count, 8);
    put(to, row->memory_count, 8);
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        put_double(to, figures[i]);
    }
    put_histogram(to, row->ticks);
}

static void
put_tables(writer *to, const pfo_capture *from)
{
    for (int32_t i = 0; i < from->process_count; i++) {
        const pfo_capture_process *process = &from->processes[i];
        put(to, (uint64_t)process->pid, 8);
        put(to, process->pid_namespace, 8);
        put(to, (uint64_t)process->monotonic_ns, 8);
        put(to, (uint64_t)process->epoch_ns, 8);
        put_text(to, process->command);
    }
    for (int32_t i = 0; i < from->thread_count; i++) {
        put(to, (uint32_t)from->threads[i].process, 4);
        put(to, (uint64_t)from->threads[i].id, 8);
        put_text(to, from->threads[i].name);
    }
    for (int32_t i = 0; i < from->name_count; i++) {
        put_text(to, from->names[i]);
    }
    for (int32_t i = 0; i < from->row_count; i++) {
        put_row(to, &from->rows[i]);
    }
    for (int32_t i = 0; i < from->node_count; i++) {
        const pfo_capture_node *node = &from->nodes[i];
        put(to, (uint32_t)node->parent, 4);
        put(to, (uint32_t)node->name, 4);
        put(to, (uint32_t)node->thread, 4);
        put(to, node->count, 8);
        put_double(to, node->total_ns);
        put_double(to, node->self_ns);
    }
}

pfo_status
pfo_capture_encode(const pfo_capture *capture, unsigned char **bytes, size_t *length, pfo_error *err)
{
    writer to = { NULL, 0, 0, 0 };
    put(&to, (uint64_t)capture->base_epoch_ns, 8);
    put(&to, (uint64_t)capture->taken_ns, 8);
    put(&to, capture->dropped_records, 8);
    put(&to, capture->dropped_spans, 8);
    put(&to, capture->overflow_names, 8);
    put(&to, (uint32_t)capture->process_count, 4);
    put(&to, (uint32_t)capture->thread_count, 4);
    put(&to, (uint32_t)capture->name_count, 4);
    put(&to, (uint32_t)capture->row_count, 4);
    put(&to, (uint32_t)capture->node_count, 4);
    put_tables(&to, capture);
    if (to.failed) {
        pfo_free(to.bytes);
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to write a capture");
    }
    *bytes = to.bytes;
    *length = to.used;
    return PFO_OK;
}

/* ---- reading --------------------------------------------------------------------------------- */

static void
refuse(reader *from, const char *what)
{
    if (from->wrong == NULL) {
        from->wrong = what;
    }
}

/* The next bytes; NULL when there are not so many, or something was wrong before. */
static const unsigned char *
next_bytes(reader *from, size_t length)
{
    if (length > from->left) {
        refuse(from, "it ends too early");
    }
    if (from->wrong != NULL) {
        return NULL;
    }
    const unsigned char *here = from->bytes;
    from->bytes += length;
    from->left -= length;
    return here;
}

static uint64_t
get(reader *from, int bytes)
{
    const unsigned char *here = next_bytes(from, (size_t)bytes);
    return here == NULL ? 0 : pfo_get_word(here, bytes);
}

static double
get_double(reader *from)
{
    const uint64_t bits = get(from, 8);
    double value;
    memcpy(&value, &bits, sizeof value);
    if (!(value >= -1e300 && value <= 1e300)) {
        refuse(from, "a number is not finite");
        return 0.0;
    }
    return value;
}

static pfo_text
get_text(reader *from)
{
    const uint64_t length = get(from, 8);
    const unsigned char *bytes = length > from->left ? NULL : next_bytes(from, (size_t)length);
    if (bytes == NULL || !pfo_text_is_utf8((pfo_text){ (const char *)bytes, (size_t)length })) {
        refuse(from, bytes == NULL ? "a text is longer than the file" : "a text is not UTF-8");
        return (pfo_text){ "", 0 };
    }
    return (pfo_text){ (const char *)bytes, (size_t)length };
}

/* An index into a table of this many, or -1 where that is allowed. */
static int32_t
get_index(reader *from, int32_t count, int may_be_none)
{
    const int64_t value = (int64_t)(int32_t)(uint32_t)get(from, 4);
    if (value >= count || value < (may_be_none ? -1 : 0)) {
        refuse(from, "an index points outside its table");
        return -1;
    }
    return (int32_t)value;
}

static void
get_histogram(reader *from, pfo_histogram *histogram)
{
    pfo_histogram_facts facts;
    facts.count = get(from, 8);
    facts.sum = get(from, 8);
    facts.squares_low = get(from, 8);
    facts.squares_high = get(from, 8);
    facts.smallest = (int64_t)get(from, 8);
    facts.largest = (int64_t)get(from, 8);
    const uint64_t used = get(from, 4);
    uint64_t values = 0;
    int last = -1;
    for (uint64_t i = 0; i < used && from->wrong == NULL; i++) {
        const int bucket = (int)get(from, 2);
        const uint64_t count = get(from, 8);
        if (bucket >= PFO_HISTOGRAM_BUCKETS || bucket <= last || count == 0 || count > UINT64_MAX - values) {
            refuse(from, "a histogram is not in order");
        } else if (pfo_histogram_set_bucket(histogram, bucket, count) != PFO_OK) {
            refuse(from, "");
        }
        last = bucket;
        values += count;
    }
    if (values != facts.count || values == 0 || facts.smallest < 0 || facts.smallest > facts.largest) {
        refuse(from, "a histogram does not add up");
    }
    pfo_histogram_restore(histogram, &facts);
}

static pfo_status
get_row(reader *from, pfo_capture *capture, pfo_error *err)
{
    pfo_capture_row row;
    memset(&row, 0, sizeof row);
    double *figures[] = { &row.total_ns,     &row.active_ns,  &row.self_ns,      &row.mean_ns,
                          &row.deviation_ns, &row.least_ns,   &row.greatest_ns,  &row.error,
                          &row.ns_per_tick,  &row.memory_sum, &row.memory_least, &row.memory_greatest };
    row.name = get_index(from, capture->name_count, 1);
    row.count = get(from, 8);
    row.memory_count = get(from, 8);
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        *figures[i] = get_double(from);
    }
    const int32_t before = capture->row_count == 0 ? -1 : capture->rows[capture->row_count - 1].name;
    /* No clock ticks slower than a millisecond or finer than a femtosecond; histograms are scaled by the quotient of two. */
    if (!(row.ns_per_tick >= 1e-6 && row.ns_per_tick <= 1e6) || row.count == 0 ||
        (capture->row_count > 0 && (before < 0 || (row.name >= 0 && row.name <= before)))) {
        refuse(from, "a row is not in order");
    }
    pfo_histogram *ticks = pfo_histogram_create();
    if (ticks == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to read a capture");
    }
    get_histogram(from, ticks);
    row.ticks = ticks;
    return pfo_capture_add_row(capture, &row, err);
}

static pfo_status
get_process(reader *from, pfo_capture *capture, pfo_error *err)
{
    pfo_capture_process process;
    process.pid = (int64_t)get(from, 8);
    process.pid_namespace = get(from, 8);
    process.monotonic_ns = (int64_t)get(from, 8);
    process.epoch_ns = (int64_t)get(from, 8);
    process.command = get_text(from);
    return pfo_capture_add_process(capture, &process, err);
}

static pfo_status
get_thread(reader *from, pfo_capture *capture, pfo_error *err)
{
    pfo_capture_thread thread;
    thread.process = get_index(from, capture->process_count, 0);
    thread.id = (int64_t)get(from, 8);
    thread.name = get_text(from);
    return pfo_capture_add_thread(capture, &thread, err);
}

static pfo_status
get_name(reader *from, pfo_capture *capture, pfo_error *err)
{
    return pfo_capture_add_name(capture, get_text(from), err);
}

static pfo_status
get_node(reader *from, pfo_capture *capture, pfo_error *err)
{
    pfo_capture_node node;
    node.parent = get_index(from, capture->node_count, 1);
    node.name = get_index(from, capture->name_count, 1);
    node.thread = get_index(from, capture->thread_count, 0);
    node.count = get(from, 8);
    node.total_ns = get_double(from);
    node.self_ns = get_double(from);
    return pfo_capture_add_node(capture, &node, err);
}

static pfo_status
get_tables(reader *from, pfo_capture *capture, pfo_error *err)
{
    typedef pfo_status (*item_reader)(reader *, pfo_capture *, pfo_error *);
    const item_reader read_one[] = { get_process, get_thread, get_name, get_row, get_node };
    enum { TABLES = sizeof read_one / sizeof read_one[0] };
    uint64_t counts[TABLES];
    for (int table = 0; table < TABLES; table++) {
        counts[table] = get(from, 4);
    }
    for (int table = 0; table < TABLES; table++) {
        for (uint64_t i = 0; i < counts[table] && from->wrong == NULL; i++) {
            PFO_TRY(read_one[table](from, capture, err));
        }
    }
    if (from->left > 0) {
        refuse(from, "something stands behind its end");
    }
    return PFO_OK;
}

pfo_status
pfo_capture_decode(const unsigned char *bytes, size_t length, pfo_capture **out, pfo_error *err)
{
    *out = NULL;
    pfo_capture *capture = pfo_capture_create();
    if (capture == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to read a capture");
    }
    reader from = { bytes, length, NULL };
    capture->base_epoch_ns = (int64_t)get(&from, 8);
    capture->taken_ns = (int64_t)get(&from, 8);
    capture->dropped_records = get(&from, 8);
    capture->dropped_spans = get(&from, 8);
    capture->overflow_names = get(&from, 8);
    const int64_t earliest = -((int64_t)1 << 60); /* a clock that starts in 1970 may lie before it */
    if (capture->base_epoch_ns < earliest || capture->base_epoch_ns >= (int64_t)1 << 62 ||
        !pfo_capture_time_is_good(capture->taken_ns)) {
        refuse(&from, "its times are impossible");
    }
    pfo_status status = get_tables(&from, capture, err);
    if (status == PFO_OK && from.wrong != NULL) {
        status = from.wrong[0] == '\0' ? pfo_fail(err, PFO_NO_MEMORY, "no memory to read a capture")
                                       : pfo_fail(err, PFO_IO, "the capture is damaged: %s", from.wrong);
    }
    if (status != PFO_OK) {
        pfo_capture_destroy(capture);
        return status;
    }
    *out = capture;
    return PFO_OK;
}
