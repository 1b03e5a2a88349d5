/* export_prometheus.c: the Prometheus text exposition format, version 0.0.4, with one histogram an operation.
 *
 * The buckets are the recorder's own, so that every count is exact: "le" is the largest duration that a bucket holds, and counts are
 * cumulative. Of the 3,712 only those are written that hold something, with the edge below each run of them, so that an
 * interpolated quantile stays within a bucket's width (1/64). Buckets only ever come to a running profiler, none goes away.
 * _count is the sum of the buckets, equal to le="+Inf", whatever the row says. Names that are written alike get a label "id" to tell
 * them apart, because one sample given twice spoils the whole page.
 */
#include "profiler/export.h"

#define DURATION "perfopt_operation_duration_seconds"

static void
put_labels(const pfo_export_job *job, const pfo_capture_row *row)
{
    const int32_t distinction = pfo_export_distinction(job->capture, row->name);
    pfo_put(job->writer, "{operation=\"");
    pfo_put_text(job->writer, pfo_export_label(job->capture, row->name), PFO_ESCAPE_PROMETHEUS);
    pfo_put(job->writer, "\"");
    if (distinction != 0) {
        pfo_put(job->writer, ",id=\"");
        pfo_put_i64(job->writer, distinction);
        pfo_put(job->writer, "\"");
    }
}

/* `name{labels} value` */
static void
put_seconds(const pfo_export_job *job, const char *name, const pfo_capture_row *row, double ns)
{
    pfo_put(job->writer, name);
    put_labels(job, row);
    pfo_put(job->writer, "} ");
    pfo_put_double(job->writer, ns / 1e9, "NaN");
    pfo_put(job->writer, "\n");
}

static void
put_bucket(const pfo_export_job *job, const pfo_capture_row *row, int bucket, uint64_t cumulative)
{
    const int64_t last = bucket + 1 < PFO_HISTOGRAM_BUCKETS ? pfo_histogram_bucket_low(bucket + 1) - 1 : INT64_MAX;
    pfo_put(job->writer, DURATION "_bucket");
    put_labels(job, row);
    pfo_put(job->writer, ",le=\"");
    pfo_put_double(job->writer, (double)last * row->ns_per_tick / 1e9, "+Inf");
    pfo_put(job->writer, "\"} ");
    pfo_put_u64(job->writer, cumulative);
    pfo_put(job->writer, "\n");
}

static void
put_histogram(const pfo_export_job *job, const pfo_capture_row *row)
{
    uint64_t cumulative = 0;
    int written = -1; /* the last bucket that was */
    for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS && job->writer->status == PFO_OK; bucket++) {
        const uint64_t count = pfo_histogram_bucket_count(row->ticks, bucket);
        if (count == 0) {
            continue;
        }
        if (bucket - 1 > written) {
            put_bucket(job, row, bucket - 1, cumulative);
        }
        cumulative += count;
        put_bucket(job, row, bucket, cumulative);
        written = bucket;
    }
    pfo_put(job->writer, DURATION "_bucket");
    put_labels(job, row);
    pfo_put(job->writer, ",le=\"+Inf\"} ");
    pfo_put_u64(job->writer, cumulative);
    pfo_put(job->writer, "\n");
    put_seconds(job, DURATION "_sum", row, row->total_ns);
    pfo_put(job->writer, DURATION "_count");
    put_labels(job, row);
    pfo_put(job->writer, "} ");
    pfo_put_u64(job->writer, cumulative);
    pfo_put(job->writer, "\n");
}

static void
put_family(pfo_writer *writer, const char *name, const char *kind, const char *help)
{
    pfo_put(writer, "# HELP ");
    pfo_put(writer, name);
    pfo_put(writer, " ");
    pfo_put(writer, help);
    pfo_put(writer, "\n# TYPE ");
    pfo_put(writer, name);
    pfo_put(writer, " ");
    pfo_put(writer, kind);
    pfo_put(writer, "\n");
}

static void
put_counter(pfo_writer *writer, const char *name, const char *help, uint64_t value)
{
    put_family(writer, name, "counter", help);
    pfo_put(writer, name);
    pfo_put(writer, " ");
    pfo_put_u64(writer, value);
    pfo_put(writer, "\n");
}

pfo_status
pfo_export_prometheus(const pfo_export_job *job)
{
    const pfo_capture *capture = job->capture;
    put_family(job->writer, DURATION, "histogram", "Wall time of a profiled operation.");
    for (int32_t i = 0; i < capture->row_count && job->writer->status == PFO_OK; i++) {
        put_histogram(job, &capture->rows[i]);
    }
    put_family(job->writer, "perfopt_operation_active_seconds_total", "counter",
               "Time in which the operation ran, without the time it was suspended.");
    for (int32_t i = 0; i < capture->row_count; i++) {
        put_seconds(job, "perfopt_operation_active_seconds_total", &capture->rows[i], capture->rows[i].active_ns);
    }
    put_family(job->writer, "perfopt_operation_self_seconds_total", "counter",
               "Active time without that of operations inside.");
    for (int32_t i = 0; i < capture->row_count; i++) {
        put_seconds(job, "perfopt_operation_self_seconds_total", &capture->rows[i], capture->rows[i].self_ns);
    }
    put_counter(job->writer, "perfopt_dropped_records_total", "Ranges lost because memory was out.",
                capture->dropped_records);
    put_counter(job->writer, "perfopt_dropped_spans_total", "Spans overwritten in the ring, or lost.",
                capture->dropped_spans);
    put_counter(job->writer, "perfopt_overflow_names_total", "Names beyond the limit, at least.",
                capture->overflow_names);
    return job->writer->status;
}
