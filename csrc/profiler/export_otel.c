/* export_otel.c: OpenTelemetry metrics as OTLP in JSON: one exponential histogram an operation, cumulative, in seconds.
 *
 * Scale 6: bucket i holds (2^(i/64), 2^((i+1)/64)], lower edge exclusive, upper inclusive. The recorder has 64 buckets an octave
 * too, but of equal width, so each of its buckets goes to the exponential bucket of its middle.
 * [error] A middle is within 1/128 of every value in its bucket (equal to it below 64 ticks), an exponential bucket's
 * middle within (2^(1/64) - 1) / 2 of its values: together less than 1.4 %. As 1/128 is less than one exponential bucket, a value is
 * counted in its own bucket or in the next to it. Count, sum, min and max are exact; so is the number of zeros.
 * In OTLP's JSON 64-bit integers are strings, enumerations numbers, and names are in lowerCamelCase.
 */
#include "profiler/export.h"

#include <math.h>

enum { SCALE = 6, CUMULATIVE = 2 };

/* The exponential bucket of a positive value. */
static int64_t
exponential_bucket(double seconds)
{
    return (int64_t)ceil(log2(seconds) * (double)(1 << SCALE)) - 1;
}

static double
bucket_middle(const pfo_capture_row *row, int bucket)
{
    const int64_t low = pfo_histogram_bucket_low(bucket);
    const int64_t last = bucket + 1 < PFO_HISTOGRAM_BUCKETS ? pfo_histogram_bucket_low(bucket + 1) - 1 : INT64_MAX;
    return ((double)low + (double)(last - low) / 2) * row->ns_per_tick / 1e9;
}

static void
put_quoted(pfo_writer *writer, uint64_t number)
{
    pfo_put(writer, "\"");
    pfo_put_u64(writer, number);
    pfo_put(writer, "\"");
}

static void
put_text_attribute(pfo_writer *writer, const char *key, pfo_text value)
{
    pfo_put(writer, "{\"key\":\"");
    pfo_put(writer, key);
    pfo_put(writer, "\",\"value\":{\"stringValue\":");
    pfo_put_json(writer, value);
    pfo_put(writer, "}}");
}

static void
put_integer_attribute(pfo_writer *writer, const char *key, int64_t value)
{
    pfo_put(writer, "{\"key\":\"");
    pfo_put(writer, key);
    pfo_put(writer, "\",\"value\":{\"intValue\":\"");
    pfo_put_i64(writer, value);
    pfo_put(writer, "\"}}");
}

/* Counts of exponential buckets without a gap, in the order of values. */
static void
put_positive(pfo_writer *writer, const pfo_capture_row *row)
{
    int64_t at = 0;       /* exponential bucket that `pending` counts */
    uint64_t pending = 0; /* 0 until the first */
    for (int bucket = 1; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
        const uint64_t count = pfo_histogram_bucket_count(row->ticks, bucket);
        if (count == 0) {
            continue;
        }
        const int64_t place = exponential_bucket(bucket_middle(row, bucket));
        if (pending == 0) {
            pfo_put(writer, ",\"positive\":{\"offset\":");
            pfo_put_i64(writer, place);
            pfo_put(writer, ",\"bucketCounts\":[");
        } else if (place > at) {
            put_quoted(writer, pending);
            for (at++; at < place; at++) {
                pfo_put(writer, ",\"0\"");
            }
            pfo_put(writer, ",");
            pending = 0;
        }
        at = place;
        pending += count;
    }
    if (pending > 0) {
        put_quoted(writer, pending);
        pfo_put(writer, "]}");
    }
}

static uint64_t
bucket_total(const pfo_histogram *histogram)
{
    uint64_t total = 0;
    for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
        total += pfo_histogram_bucket_count(histogram, bucket);
    }
    return total;
}

static void
put_seconds(pfo_writer *writer, const char *field, double ns)
{
    pfo_put(writer, ",\"");
    pfo_put(writer, field);
    pfo_put(writer, "\":");
    pfo_put_double(writer, ns / 1e9, "\"NaN\"");
}

static void
put_point(const pfo_export_job *job, const pfo_capture_row *row)
{
    const pfo_capture *capture = job->capture;
    pfo_writer *writer = job->writer;
    const int32_t distinction = pfo_export_distinction(capture, row->name);
    const int64_t taken_ns = capture->base_epoch_ns + capture->taken_ns;
    pfo_put(writer, "{\"attributes\":[");
    put_text_attribute(writer, "operation", pfo_export_label(capture, row->name));
    if (distinction != 0) {
        pfo_put(writer, ",");
        put_integer_attribute(writer, "id", distinction);
    }
    pfo_put(writer, "],\"startTimeUnixNano\":");
    put_quoted(writer, capture->base_epoch_ns > 0 ? (uint64_t)capture->base_epoch_ns : 0);
    pfo_put(writer, ",\"timeUnixNano\":");
    put_quoted(writer, taken_ns > 0 ? (uint64_t)taken_ns : 0);
    pfo_put(writer, ",\"count\":");
    put_quoted(writer, bucket_total(row->ticks));
    put_seconds(writer, "sum", row->total_ns);
    put_seconds(writer, "min", row->least_ns);
    put_seconds(writer, "max", row->greatest_ns);
    pfo_put(writer, ",\"scale\":");
    pfo_put_i64(writer, SCALE);
    pfo_put(writer, ",\"zeroCount\":");
    put_quoted(writer, pfo_histogram_bucket_count(row->ticks, 0));
    put_positive(writer, row);
    pfo_put(writer, "}");
}

/* A counter of the capture as a whole. */
static void
put_sum(const pfo_export_job *job, const char *name, uint64_t value)
{
    pfo_put(job->writer, ",\n{\"name\":\"");
    pfo_put(job->writer, name);
    pfo_put(job->writer, "\",\"unit\":\"1\",\"sum\":{\"aggregationTemporality\":");
    pfo_put_i64(job->writer, CUMULATIVE);
    pfo_put(job->writer, ",\"isMonotonic\":true,\"dataPoints\":[{\"startTimeUnixNano\":");
    put_quoted(job->writer, job->capture->base_epoch_ns > 0 ? (uint64_t)job->capture->base_epoch_ns : 0);
    const int64_t taken_ns = job->capture->base_epoch_ns + job->capture->taken_ns;
    pfo_put(job->writer, ",\"timeUnixNano\":");
    put_quoted(job->writer, taken_ns > 0 ? (uint64_t)taken_ns : 0);
    pfo_put(job->writer, ",\"asInt\":");
    put_quoted(job->writer, value);
    pfo_put(job->writer, "}]}}");
}

static void
put_resource(const pfo_export_job *job)
{
    static const pfo_text service = { "perfopt", 7 };
    pfo_put(job->writer, "{\"resource\":{\"attributes\":[");
    put_text_attribute(job->writer, "service.name", service);
    if (job->capture->process_count == 1) {
        pfo_put(job->writer, ",");
        put_integer_attribute(job->writer, "process.pid", job->capture->processes[0].pid);
        pfo_put(job->writer, ",");
        put_text_attribute(job->writer, "process.command_line", job->capture->processes[0].command);
    }
    pfo_put(job->writer, "]}");
}

pfo_status
pfo_export_otel(const pfo_export_job *job)
{
    const pfo_capture *capture = job->capture;
    int64_t taken_ns = 0;
    if (__builtin_add_overflow(capture->base_epoch_ns, capture->taken_ns, &taken_ns)) {
        return pfo_fail(job->err, PFO_BAD_ARGUMENT, "the capture was taken out of the range of times");
    }
    pfo_put(job->writer, "{\"resourceMetrics\":[");
    put_resource(job);
    pfo_put(job->writer, ",\"scopeMetrics\":[{\"scope\":{\"name\":\"perfopt\"},\"metrics\":[\n"
                         "{\"name\":\"perfopt.operation.duration\",\"description\":\"Wall time of a profiled "
                         "operation.\",\"unit\":\"s\",\"exponentialHistogram\":{\"aggregationTemporality\":");
    pfo_put_i64(job->writer, CUMULATIVE);
    pfo_put(job->writer, ",\"dataPoints\":[");
    for (int32_t i = 0; i < capture->row_count && job->writer->status == PFO_OK; i++) {
        pfo_put(job->writer, i == 0 ? "\n" : ",\n");
        put_point(job, &capture->rows[i]);
    }
    pfo_put(job->writer, "]}}");
    put_sum(job, "perfopt.dropped_records", capture->dropped_records);
    put_sum(job, "perfopt.dropped_spans", capture->dropped_spans);
    put_sum(job, "perfopt.overflow_names", capture->overflow_names);
    pfo_put(job->writer, "\n]}]}]}\n");
    return job->writer->status;
}
