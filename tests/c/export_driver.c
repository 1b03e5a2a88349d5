/* export_driver.c: a capture described in lines on the standard input, exported to a file by the exporter under test.
 *
 *     export_driver FORMAT PATH < description
 *
 * A description: "capture EPOCH TAKEN DROPPED_SPANS DROPPED_RECORDS OVERFLOW_NAMES", "process PID TEXT", "thread PROCESS ID TEXT",
 * "name TEXT", "row NAME NS_PER_TICK COUNT TICKS...", "node PARENT NAME THREAD COUNT TOTAL SELF",
 * "span BEGIN DURATION NAME THREAD FLAGS DEPTH". TEXT is hexadecimal behind an x.
 */
#include "export_fixture.h"

#include "profiler/export_file.h"

enum { MOST = 4096, LINE = 3 << 20 };

static pfo_capture_process processes[MOST];
static pfo_capture_thread threads[MOST];
static pfo_text names[MOST];
static pfo_capture_row rows[MOST];
static pfo_capture_node nodes[MOST];
static pfo_span spans[MOST];
static pfo_capture capture = {
    .processes = processes, .threads = threads, .names = names, .rows = rows, .nodes = nodes
};
static char line[LINE];

static int64_t
number(void)
{
    const char *word = strtok(NULL, " \n");
    REQUIRE(word != NULL);
    return strtoll(word, NULL, 10);
}

static double
decimal(void)
{
    const char *word = strtok(NULL, " \n");
    REQUIRE(word != NULL);
    return strtod(word, NULL);
}

static pfo_text
text(void)
{
    const char *word = strtok(NULL, " \n");
    REQUIRE(word != NULL && word[0] == 'x');
    const size_t length = strlen(word + 1) / 2;
    char *bytes = malloc(length + 1);
    REQUIRE(bytes != NULL);
    for (size_t i = 0; i < length; i++) {
        const char pair[] = { word[1 + 2 * i], word[2 + 2 * i], '\0' };
        bytes[i] = (char)strtoul(pair, NULL, 16);
    }
    return (pfo_text){ bytes, length };
}

static void
read_row(void)
{
    pfo_capture_row *row = &rows[capture.row_count++];
    pfo_histogram *ticks = pfo_histogram_create();
    REQUIRE(ticks != NULL);
    row->name = (int32_t)number();
    row->ns_per_tick = decimal();
    for (int64_t left = number(); left > 0; left--) {
        REQUIRE(pfo_histogram_record(ticks, number()) == PFO_OK);
    }
    row->ticks = ticks;
    row->count = pfo_histogram_count(ticks);
    row->total_ns = (double)pfo_histogram_sum(ticks) * row->ns_per_tick;
    row->active_ns = row->total_ns;
    row->self_ns = row->total_ns / 2;
    row->mean_ns = row->count == 0 ? 0 : row->total_ns / (double)row->count;
    row->least_ns = (double)pfo_histogram_min(ticks) * row->ns_per_tick;
    row->greatest_ns = (double)pfo_histogram_max(ticks) * row->ns_per_tick;
    row->error = 1.0 / 128;
}

static void
read_line(const char *kind)
{
    if (strcmp(kind, "capture") == 0) {
        capture.base_epoch_ns = number();
        capture.taken_ns = number();
        capture.dropped_spans = (uint64_t)number();
        capture.dropped_records = (uint64_t)number();
        capture.overflow_names = (uint64_t)number();
    } else if (strcmp(kind, "process") == 0) {
        processes[capture.process_count].pid = number();
        processes[capture.process_count++].command = text();
    } else if (strcmp(kind, "thread") == 0) {
        threads[capture.thread_count].process = (int32_t)number();
        threads[capture.thread_count].id = number();
        threads[capture.thread_count++].name = text();
    } else if (strcmp(kind, "name") == 0) {
        names[capture.name_count++] = text();
    } else if (strcmp(kind, "row") == 0) {
        read_row();
    } else if (strcmp(kind, "node") == 0) {
        pfo_capture_node *node = &nodes[capture.node_count++];
        node->parent = (int32_t)number();
        node->name = (int32_t)number();
        node->thread = (int32_t)number();
        node->count = (uint64_t)number();
        node->total_ns = decimal();
        node->self_ns = decimal();
    } else {
        REQUIRE(strcmp(kind, "span") == 0);
        pfo_span *span = &spans[capture.span_count++];
        span->begin_ns = number();
        span->duration_ns = number();
        span->name = (int32_t)number();
        span->thread = (int32_t)number();
        span->flags = (uint32_t)number();
        span->depth = (uint32_t)number();
    }
}

static pfo_export_format
format_named(const char *name)
{
    pfo_export_format format = PFO_EXPORT_COUNT;
    REQUIRE(pfo_export_find(name, strlen(name), &format, NULL) == PFO_OK);
    return format;
}

int
main(int count, char **arguments)
{
    REQUIRE(count == 3);
    while (fgets(line, sizeof line, stdin) != NULL) {
        read_line(strtok(line, " \n"));
    }
    array_source made = { .spans = spans, .count = capture.span_count };
    const pfo_span_source source = array_source_of(&made);
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_export_to_file(format_named(arguments[1]), &capture, &source, arguments[2], &err);
    (void)fputs(err.text, stderr);
    return status == PFO_OK ? 0 : 1;
}
