/* test_capture_merge.c: merging captures equals recording both; clocks of other rates, and captures without an anchor. */
#include "capture_fixture.h"

#include "profiler/capture_build.h"
#include "profiler/capture_merge.h"

#include <math.h>

static void
merging_equals_recording_both(void)
{
    const taped both = taped_new(FIXTURE_NAMES, 100);
    const taped first = taped_new(FIXTURE_NAMES, 100);
    const taped second = taped_new(FIXTURE_NAMES, 100);
    unsigned long long state = 7;
    for (int i = 0; i < 40; i++) {
        const int64_t ticks = (int64_t)(check_random(&state) % 1000000);
        one(&both, i % 5, 2000, 2000 + ticks);
        one(i % 2 == 0 ? &first : &second, i % 5, 2000, 2000 + ticks);
    }
    pfo_capture *parts[] = { take(&first), take(&second) };
    pfo_capture *expected = take(&both);
    pfo_capture *merged = NULL;
    pfo_error err = PFO_ERROR_INIT;
    REQUIRE(pfo_capture_merge((const pfo_capture *const *)parts, 2, &merged, &err) == PFO_OK);
    REQUIRE(merged->row_count == expected->row_count && merged->name_count == expected->name_count);
    for (int32_t i = 0; i < merged->row_count; i++) {
        const pfo_capture_row *a = &merged->rows[i];
        const pfo_capture_row *b = &expected->rows[i];
        CHECK(a->name == b->name && a->count == b->count && fabs(a->total_ns - b->total_ns) < 1e-6);
        CHECK(fabs(a->deviation_ns - b->deviation_ns) < 1e-6 * b->deviation_ns && fabs(a->mean_ns - b->mean_ns) < 1e-6);
        CHECK(fabs(a->least_ns - b->least_ns) < 1e-9 && fabs(a->greatest_ns - b->greatest_ns) < 1e-9);
        CHECK(fabs(a->self_ns - b->self_ns) < 1e-6 && fabs(a->active_ns - b->active_ns) < 1e-6);
        for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
            CHECK(pfo_histogram_bucket_count(a->ticks, bucket) == pfo_histogram_bucket_count(b->ticks, bucket));
        }
    }
    pfo_span spans[50];
    CHECK(merged->process_count == 2 && merged->thread_count == 2 && read_spans(merged, spans, 50) == 40);
    CHECK(spans[39].thread == 1 && spans[0].thread == 0);
    pfo_capture *again = NULL; /* merged ones merge, and their spans find their names */
    const pfo_capture *const more[] = { merged, expected };
    REQUIRE(pfo_capture_merge(more, 2, &again, &err) == PFO_OK);
    CHECK(read_spans(again, spans, 50) == 50 && again->span_count == 80 && again->rows[0].count == 16);
    for (int i = 0; i < 40; i++) {
        CHECK(spans[i].name >= 0 && spans[i].name < 5 && spans[i].thread == (i < 20 ? 0 : 1));
    }
    pfo_capture *all[] = { parts[0], parts[1], expected, merged, again };
    for (int i = 0; i < 5; i++) {
        pfo_capture_destroy(all[i]);
    }
    pfo_recorder_destroy(both.recorder);
    pfo_recorder_destroy(first.recorder);
    pfo_recorder_destroy(second.recorder);
}

/* One name "x" with these values, on a clock of this rate. */
static pfo_capture *
with_rate(double rate, int64_t epoch_ns, int64_t ticks, int how_many)
{
    pfo_capture *capture = pfo_capture_create();
    pfo_histogram *histogram = pfo_histogram_create();
    REQUIRE(capture != NULL && histogram != NULL);
    for (int i = 0; i < how_many; i++) {
        REQUIRE(pfo_histogram_record(histogram, ticks + i) == PFO_OK);
    }
    const pfo_capture_process process = { 1, 1, 1, epoch_ns, { "", 0 } };
    pfo_capture_row row = pfo_capture_row_of(histogram, rate);
    row.ticks = histogram;
    REQUIRE(pfo_capture_add_process(capture, &process, NULL) == PFO_OK);
    REQUIRE(pfo_capture_add_name(capture, (pfo_text){ "x", 1 }, NULL) == PFO_OK);
    REQUIRE(pfo_capture_add_row(capture, &row, NULL) == PFO_OK);
    return capture;
}

static void
other_rates_and_no_anchors(void)
{
    pfo_capture *slow = with_rate(1.0, 5, 100000, 100);
    pfo_capture *fast = with_rate(0.25, 5, 400000, 100);
    pfo_capture *close = with_rate(1.0001, 5, 100000, 100);
    pfo_capture *lost = with_rate(1.0, 0, 1, 1);
    pfo_capture *merged = NULL;
    pfo_error err = PFO_ERROR_INIT;
    const pfo_capture *const apart[] = { slow, fast };
    REQUIRE(pfo_capture_merge(apart, 2, &merged, &err) == PFO_OK);
    double middle = 0;
    pfo_histogram_quantiles(merged->rows[0].ticks, (const double[]){ 0.5 }, 1, &middle);
    CHECK(merged->rows[0].count == 200 && merged->rows[0].error > 1.9 / 128 && merged->rows[0].error < 2.1 / 128);
    CHECK(fabs(middle - 100025) < 100025 * merged->rows[0].error);
    CHECK(fabs(merged->rows[0].mean_ns - (100049.5 + 100012.375) / 2) < 1e-6);
    CHECK(pfo_histogram_count(merged->rows[0].ticks) == 200 && pfo_histogram_max(merged->rows[0].ticks) == 100099);
    pfo_capture_destroy(merged);
    const pfo_capture *const near[] = { slow, close };
    REQUIRE(pfo_capture_merge(near, 2, &merged, &err) == PFO_OK);
    CHECK(merged->rows[0].error > 1.0 / 128 && merged->rows[0].error < 1.0 / 128 + 2e-4);
    pfo_capture_destroy(merged);
    const pfo_capture *const without[] = { slow, lost };
    CHECK(pfo_capture_merge(without, 2, &merged, &err) == PFO_BAD_ARGUMENT && merged == NULL);
    CHECK(strstr(err.text, "anchor") != NULL);
    CHECK(pfo_capture_merge(without, 0, &merged, NULL) == PFO_BAD_ARGUMENT);
    pfo_capture_destroy(slow);
    pfo_capture_destroy(fast);
    pfo_capture_destroy(close);
    pfo_capture_destroy(lost);
}

int
main(void)
{
    RUN(merging_equals_recording_both);
    RUN(other_rates_and_no_anchors);
    return FINISH();
}
