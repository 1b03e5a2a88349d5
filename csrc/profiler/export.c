/* export.c: see export.h for the contract. What is common to all formats: finding one, checking the capture, reading spans. */
#include "profiler/export.h"

#include "base/alloc.h"

#include <string.h>

enum { SPANS_PER_PIECE = 2048 };

typedef struct format_row {
    const char *name;
    const char *ending;
    pfo_status (*write)(const pfo_export_job *job);
} format_row;

static const format_row formats[PFO_EXPORT_COUNT] = {
#define FORMAT_ROW(name, ending, reader) { #name, ending, pfo_export_##name },
    PFO_EXPORT_LIST(FORMAT_ROW)
#undef FORMAT_ROW
};

pfo_status
pfo_export_find(const char *name, size_t length, pfo_export_format *format, pfo_error *err)
{
    for (int i = 0; i < PFO_EXPORT_COUNT; i++) {
        if (strlen(formats[i].name) == length && memcmp(formats[i].name, name, length) == 0) {
            *format = (pfo_export_format)i;
            return PFO_OK;
        }
    }
#define FORMAT_NAME(name, ending, reader) " " #name
    return pfo_fail(err, PFO_BAD_ARGUMENT, "format is '%.*s'; accepted:" PFO_EXPORT_LIST(FORMAT_NAME),
                    (int)(length < 40 ? length : 40), name);
#undef FORMAT_NAME
}

const char *
pfo_export_name(pfo_export_format format)
{
    return formats[format].name;
}

const char *
pfo_export_ending(pfo_export_format format)
{
    return formats[format].ending;
}

pfo_text
pfo_export_label(const pfo_capture *capture, int32_t name)
{
    static const char others[] = "(other names)";
    return name < 0 ? (pfo_text){ others, sizeof others - 1 } : capture->names[name];
}

int32_t
pfo_export_distinction(const pfo_capture *capture, int32_t name)
{
    if (name < 0) {
        return -1;
    }
    return pfo_text_valid_length(capture->names[name]) == capture->names[name].length ? 0 : name + 1;
}

static int
within(int32_t index, int32_t count)
{
    return index >= -1 && index < count;
}

static pfo_status
check_tables(const pfo_capture *capture, pfo_error *err)
{
    if (capture->process_count < 0 || capture->thread_count < 0 || capture->name_count < 0 || capture->row_count < 0 ||
        capture->node_count < 0) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "the capture has a table of negative length");
    }
    for (int32_t i = 0; i < capture->thread_count; i++) {
        if (!within(capture->threads[i].process, capture->process_count)) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "thread %d of the capture is of process %d of %d", i,
                            capture->threads[i].process, capture->process_count);
        }
    }
    for (int32_t i = 0; i < capture->row_count; i++) {
        if (!within(capture->rows[i].name, capture->name_count) || capture->rows[i].ticks == NULL) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "row %d of the capture has name %d of %d, or no histogram", i,
                            capture->rows[i].name, capture->name_count);
        }
    }
    for (int32_t i = 0; i < capture->node_count; i++) {
        const pfo_capture_node *node = &capture->nodes[i];
        const int whole = within(node->parent, i) && within(node->name, capture->name_count) &&
                          within(node->thread, capture->thread_count) &&
                          (node->parent < 0 || capture->nodes[node->parent].thread == node->thread);
        if (!whole) {
            return pfo_fail(err, PFO_BAD_ARGUMENT,
                            "node %d of the capture has parent %d, name %d of %d, thread %d of %d; a parent stands "
                            "before its children, on the same thread",
                            i, node->parent, node->name, capture->name_count, node->thread, capture->thread_count);
        }
    }
    return PFO_OK;
}

pfo_status
pfo_export(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source, const pfo_sink *sink,
           pfo_error *err)
{
    pfo_error own = PFO_ERROR_INIT; /* the caller's may be NULL or used already, and sinks and sources report in it */
    pfo_writer writer;
    pfo_status status = check_tables(capture, &own);
    if (status == PFO_OK) {
        status = pfo_writer_open(&writer, sink, &own);
    }
    if (status == PFO_OK) {
        const pfo_export_job job = { capture, source, &writer, &own };
        status = formats[format].write(&job);
        if (status != PFO_OK && writer.status == PFO_OK) {
            writer.status = status; /* nothing more to the sink */
        }
        status = pfo_writer_close(&writer);
    }
    if (status != PFO_OK) {
        return pfo_fail(err, status, "%s", own.text[0] == '\0' ? pfo_status_text(status) : own.text);
    }
    return PFO_OK;
}

static pfo_status
check_spans(const pfo_capture *capture, const pfo_span *spans, int64_t count, pfo_error *err)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t end = 0;
        if (!within(spans[i].name, capture->name_count) || !within(spans[i].thread, capture->thread_count) ||
            spans[i].duration_ns < 0 || __builtin_add_overflow(spans[i].begin_ns, spans[i].duration_ns, &end)) {
            return pfo_fail(err, PFO_BAD_ARGUMENT,
                            "a span of the capture has name %d of %d, thread %d of %d, begin %lld ns, duration %lld ns",
                            spans[i].name, capture->name_count, spans[i].thread, capture->thread_count,
                            (long long)spans[i].begin_ns, (long long)spans[i].duration_ns);
        }
    }
    return PFO_OK;
}

/* The failure of a source, which reports by -1 and its error. */
static pfo_status
source_failed(pfo_error *err)
{
    const pfo_status status = err->code == PFO_OK ? PFO_IO : err->code;
    return pfo_fail(err, status, "the spans of the capture could not be read");
}

static pfo_status
read_pieces(const pfo_export_job *job, pfo_span *spans, pfo_span_visitor visit, void *context)
{
    for (;;) {
        const int64_t count = job->source->read(job->source->context, spans, SPANS_PER_PIECE, job->err);
        if (count < 0 || count > SPANS_PER_PIECE) {
            return source_failed(job->err);
        }
        if (count == 0) {
            return PFO_OK;
        }
        PFO_TRY(check_spans(job->capture, spans, count, job->err));
        PFO_TRY(visit(context, spans, count));
        PFO_TRY(job->writer->status);
    }
}

pfo_status
pfo_export_each_span(const pfo_export_job *job, pfo_span_visitor visit, void *context)
{
    if (job->source == NULL) {
        return PFO_OK;
    }
    PFO_TRY(job->source->rewind(job->source->context, job->err));
    pfo_span *spans = pfo_alloc_array(SPANS_PER_PIECE, sizeof *spans);
    if (spans == NULL) {
        return pfo_fail(job->err, PFO_NO_MEMORY, "no memory to read spans");
    }
    const pfo_status status = read_pieces(job, spans, visit, context);
    pfo_free(spans);
    return status;
}
