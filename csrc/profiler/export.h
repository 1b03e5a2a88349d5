/* export.h: a capture in the formats that other tools read.
 *
 * Every format is one file, export_<format>.c, and one line in PFO_EXPORT_LIST. An export streams: the tables of a capture
 * are walked, its spans are read in pieces, and bytes leave through one buffer, so that the memory needed depends on the
 * tables (at most 64 bytes a node of the call tree and a thread), never on the number of spans or of bytes written.
 *
 * A capture may come from a file, so its indices are checked before anything is written and those of each span before
 * it is used: PFO_BAD_ARGUMENT says which is wrong. docs/profiler-exports.md says what each format keeps and loses.
 * Threads: like the capture and its source. Memory: freed on return, also after a failure.
 */
#ifndef PFO_PROFILER_EXPORT_H
#define PFO_PROFILER_EXPORT_H

#include "base/status.h"
#include "profiler/capture.h"
#include "profiler/text_writer.h"

#include <stddef.h>
#include <stdint.h>

/* X(name, usual ending of a file, what reads it) */
#define PFO_EXPORT_LIST(X)                                                                                             \
    X(chrome, ".json", "Perfetto UI, chrome://tracing")                                                                \
    X(perfetto, ".pftrace", "Perfetto UI, trace processor")                                                            \
    X(speedscope, ".speedscope.json", "speedscope")                                                                    \
    X(collapsed, ".folded", "flamegraph.pl, inferno, speedscope")                                                      \
    X(pstats, ".pstats", "pstats, SnakeViz, gprof2dot")                                                                \
    X(prometheus, ".prom", "Prometheus")                                                                               \
    X(otel, ".otlp.json", "OpenTelemetry collector")                                                                   \
    X(csv, ".csv", "spreadsheets, pandas")

typedef enum pfo_export_format {
#define PFO_EXPORT_ENUM(name, ending, reader) PFO_EXPORT_##name,
    PFO_EXPORT_LIST(PFO_EXPORT_ENUM)
#undef PFO_EXPORT_ENUM
        PFO_EXPORT_COUNT
} pfo_export_format;

/* The format of this name; PFO_BAD_ARGUMENT names those that are accepted. */
pfo_status pfo_export_find(const char *name, size_t length, pfo_export_format *format, pfo_error *err);
const char *pfo_export_name(pfo_export_format format);
const char *pfo_export_ending(pfo_export_format format);

/* Writes the whole capture. A source that is NULL has no spans; one that is given is rewound first. Fails with the status
 * of the sink or the source, PFO_NO_MEMORY or PFO_BAD_ARGUMENT; the sink may have got a part by then. */
pfo_status pfo_export(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source,
                      const pfo_sink *sink, pfo_error *err);

/* The rest is for the formats. */

typedef struct pfo_export_job {
    const pfo_capture *capture; /* its indices are good */
    const pfo_span_source *source;
    pfo_writer *writer;
    pfo_error *err;
} pfo_export_job;

#define PFO_EXPORT_DECLARE(name, ending, reader) pfo_status pfo_export_##name(const pfo_export_job *job);
PFO_EXPORT_LIST(PFO_EXPORT_DECLARE)
#undef PFO_EXPORT_DECLARE

/* Calls visit() with every piece of spans, from the first; their indices are good, and begin + duration is a number.
 * Stops at the first failure, the writer's too. */
typedef pfo_status (*pfo_span_visitor)(void *context, const pfo_span *spans, int64_t count);
pfo_status pfo_export_each_span(const pfo_export_job *job, pfo_span_visitor visit, void *context);

/* The text of a name, what stands for all others for -1. */
pfo_text pfo_export_label(const pfo_capture *capture, int32_t name);
/* Two names can be written alike: one that is not UTF-8, and the row of names beyond the limit. Formats in which a
 * name is a key add this number (0 for the usual name) to tell them apart. */
int32_t pfo_export_distinction(const pfo_capture *capture, int32_t name);

#endif
