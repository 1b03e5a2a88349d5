/* export_csv.c: one line an operation as comma-separated values (RFC 4180: names quoted, lines end in CR LF), UTF-8, a header first.
 *
 * Times in nanoseconds; percentiles within the relative error of the last column. The row of names beyond the limit has "overflow" 1.
 */
#include "profiler/export.h"

static void
put_times(const pfo_export_job *job, const double *times, int how_many)
{
    for (int i = 0; i < how_many; i++) {
        pfo_put(job->writer, ",");
        pfo_put_double(job->writer, times[i], "");
    }
}

static void
put_row(const pfo_export_job *job, const pfo_capture_row *row)
{
    static const double fractions[] = { 0.5, 0.9, 0.99, 0.999 };
    enum { FRACTIONS = sizeof fractions / sizeof fractions[0] };
    double percentiles[FRACTIONS];
    pfo_histogram_quantiles(row->ticks, fractions, FRACTIONS, percentiles);
    for (int i = 0; i < FRACTIONS; i++) {
        percentiles[i] *= row->ns_per_tick;
    }
    const double before[] = { row->total_ns, row->active_ns,    row->self_ns,
                              row->mean_ns,  row->deviation_ns, row->least_ns };
    const double after[] = { row->greatest_ns, row->error };
    pfo_put(job->writer, "\"");
    pfo_put_text(job->writer, pfo_export_label(job->capture, row->name), PFO_ESCAPE_CSV);
    pfo_put(job->writer, row->name < 0 ? "\",1," : "\",0,");
    pfo_put_u64(job->writer, row->count);
    put_times(job, before, sizeof before / sizeof before[0]);
    put_times(job, percentiles, FRACTIONS);
    put_times(job, after, sizeof after / sizeof after[0]);
    pfo_put(job->writer, "\r\n");
}

pfo_status
pfo_export_csv(const pfo_export_job *job)
{
    pfo_put(job->writer, "name,overflow,count,total_ns,active_ns,self_ns,mean_ns,deviation_ns,min_ns,p50_ns,p90_ns,"
                         "p99_ns,p999_ns,max_ns,error\r\n");
    for (int32_t i = 0; i < job->capture->row_count && job->writer->status == PFO_OK; i++) {
        put_row(job, &job->capture->rows[i]);
    }
    return job->writer->status;
}
