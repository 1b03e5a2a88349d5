/* test_capture_live.c: the tree, rows and spans of ranges whose every tick is known: nested, recursive, suspended, out of
 * order, on other threads, too many, too deep. */
#include "capture_fixture.h"

#include "base/alloc.h"

#include <math.h>
#include <pthread.h>

static void
nested_ranges(void)
{
    const taped tape = taped_new(10, 100);
    pfo_open_range a = begin(&tape, 0, 2000);
    one(&tape, 1, 2010, 2040);
    pfo_open_range b = begin(&tape, 1, 2050);
    one(&tape, 2, 2060, 2061);
    end(&tape, &b, 2070);
    end(&tape, &a, 2100);
    one(&tape, 1, 3000, 3007);
    pfo_capture *capture = take(&tape);
    CHECK(node_is(capture, "a", 1, 100 - 30 - 20, 100));
    CHECK(node_is(capture, "ab", 2, 30 + 19, 50));
    CHECK(node_is(capture, "abc", 1, 1, 1));
    CHECK(node_is(capture, "b", 1, 7, 7));
    CHECK(capture->node_count == 4 && capture->row_count == 3 && capture->name_count == 8);
    const pfo_capture_row *row = row_of(capture, "b");
    REQUIRE(row != NULL);
    CHECK(row->count == 3 && fabs(row->total_ns - 57) < 1e-9 && fabs(row->self_ns - 56) < 1e-9);
    CHECK(fabs(row->least_ns - 7) < 1e-9 && fabs(row->greatest_ns - 30) < 1e-9 && fabs(row->mean_ns - 19) < 1e-9);
    CHECK(fabs(row->deviation_ns - sqrt((11.0 * 11 + 1 + 12 * 12) / 2)) < 1e-9);
    CHECK(fabs(row->active_ns - 57) < 1e-9 && row->error < 0.01);
    pfo_span spans[10];
    REQUIRE(read_spans(capture, spans, 10) == 5 && capture->span_count == 5 && capture->dropped_spans == 0);
    CHECK(spans[0].name == 1 && spans[0].begin_ns == 1010 && spans[0].duration_ns == 30 && spans[0].depth == 1);
    CHECK(spans[1].name == 2 && spans[1].depth == 2 && spans[3].name == 0 && spans[3].depth == 0);
    CHECK(spans[4].begin_ns == 2000 && spans[4].flags == 0 && spans[4].thread == 0);
    CHECK(capture->base_epoch_ns == 1000 && capture->taken_ns == 2007);
    pfo_recorder_destroy(tape.recorder); /* the capture goes on without it */
    CHECK(read_spans(capture, spans, 10) == 5);
    pfo_capture_destroy(capture);
    pfo_capture_destroy(NULL);
}

static void
recursion_and_equal_names(void)
{
    const taped tape = taped_new(10, 0);
    pfo_open_range outer = begin(&tape, 0, 1000);
    pfo_open_range middle = begin(&tape, 0, 1010);
    one(&tape, 0, 1020, 1030);
    end(&tape, &middle, 1050);
    end(&tape, &outer, 1100);
    pfo_capture *capture = take(&tape);
    CHECK(node_is(capture, "a", 1, 60, 100) && node_is(capture, "aa", 1, 30, 40) && node_is(capture, "aaa", 1, 10, 10));
    const pfo_capture_row *row = row_of(capture, "a");
    REQUIRE(row != NULL); /* each nested range counts in the total, once in the self time */
    CHECK(row->count == 3 && fabs(row->total_ns - 150) < 1e-9 && fabs(row->self_ns - 100) < 1e-9);
    pfo_capture_destroy(capture);
    pfo_recorder_destroy(tape.recorder);
}

static void
suspended_ranges_take_turns(void)
{
    const taped tape = taped_new(10, 10);
    pfo_suspending_range a, b;
    at(1000);
    pfo_recorder_begin_suspending(tape.recorder, tape.names[0], &a);
    pfo_recorder_suspend(tape.recorder, &a, 1010);
    at(1010);
    pfo_recorder_begin_suspending(tape.recorder, tape.names[1], &b);
    at(1015);
    one(&tape, 2, 1015, 1020);
    pfo_recorder_suspend(tape.recorder, &b, 1030);
    at(1100);
    pfo_recorder_resume(tape.recorder, &a);
    pfo_recorder_end_suspending(tape.recorder, &a, 1105);
    at(1200);
    pfo_recorder_resume(tape.recorder, &b);
    at(1201);
    pfo_recorder_end_suspending(tape.recorder, &b, 1201);
    pfo_capture *capture = take(&tape);
    CHECK(node_is(capture, "a", 1, 15, 15) && node_is(capture, "b", 1, 16, 21) && node_is(capture, "bc", 1, 5, 5));
    const pfo_capture_row *row = row_of(capture, "a");
    REQUIRE(row != NULL);
    CHECK(fabs(row->total_ns - 105) < 1e-9 && fabs(row->active_ns - 15) < 1e-9 && fabs(row->self_ns - 15) < 1e-9);
    pfo_span spans[4];
    REQUIRE(read_spans(capture, spans, 4) == 3);
    CHECK(spans[1].flags == PFO_SPAN_SUSPENDS && spans[1].duration_ns == 105 && spans[0].flags == 0);
    pfo_capture_destroy(capture);
    pfo_recorder_destroy(tape.recorder);
}

static void
another_order_than_they_began(void)
{
    const taped tape = taped_new(10, 10);
    pfo_open_range a = begin(&tape, 0, 1000);
    pfo_open_range b = begin(&tape, 1, 1010);
    pfo_open_range c = begin(&tape, 2, 1020);
    end(&tape, &a, 1030);
    end(&tape, &b, 1040);
    end(&tape, &c, 1050);
    pfo_capture *capture = take(&tape);
    CHECK(node_is(capture, "a", 1, 10, 30) && node_is(capture, "ab", 0, 10, 20) && node_is(capture, "abc", 0, 10, 10));
    CHECK(node_is(capture, "b", 1, 0, 10) && node_is(capture, "bc", 0, 10, 10) && node_is(capture, "c", 1, 10, 10));
    double self = 0;
    for (int32_t i = 0; i < capture->node_count; i++) {
        self += capture->nodes[i].self_ns;
    }
    CHECK(fabs(self - 50) < 1e-9); /* from the first begin to the last end */
    pfo_span spans[4];
    REQUIRE(read_spans(capture, spans, 4) == 3);
    CHECK(spans[0].flags == PFO_SPAN_SUSPENDS && spans[0].duration_ns == 30 && spans[2].flags == 0);
    pfo_capture_destroy(capture);
    pfo_open_range lost = begin(&tape, 3, 1100);
    one(&tape, 4, 1110, 1120);
    at(1130);
    pfo_recorder_abandon(tape.recorder, &lost, 1130);
    one(&tape, 5, 1140, 1150);
    capture = take(&tape);
    CHECK(node_is(capture, "d", 0, 20, 30) && node_is(capture, "f", 1, 10, 10) && row_of(capture, "d") == NULL);
    pfo_capture_destroy(capture);
    pfo_recorder_destroy(tape.recorder);
}

typedef struct foreign {
    const taped *tape;
    pfo_open_range range;
} foreign;

static void *
end_it(void *argument)
{
    foreign *job = argument;
    end(job->tape, &job->range, 1050);
    return NULL;
}

static void
an_end_on_another_thread(void)
{
    const taped tape = taped_new(10, 10);
    foreign job = { &tape, begin(&tape, 0, 1000) };
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, end_it, &job) == 0 && pthread_join(thread, NULL) == 0);
    one(&tape, 1, 1060, 1070);
    pfo_capture *capture = take(&tape);
    CHECK(node_is(capture, "a", 1, 0, 0) || node_is(capture, "a", 1, 60, 60));
    CHECK(node_is(capture, "b", 1, 10, 10)); /* not under a any more */
    const pfo_capture_row *row = row_of(capture, "a");
    CHECK(row != NULL && row->count == 1 && fabs(row->total_ns - 50) < 1e-9);
    CHECK(capture->thread_count == 2);
    pfo_capture_destroy(capture);
    pfo_recorder_destroy(tape.recorder);
}

static void
too_many_and_too_deep(void)
{
    enum { DEEP = PFO_RECORDER_DEEPEST + 100 };
    const taped tape = taped_new(FIXTURE_NAMES, 4);
    static pfo_open_range ranges[DEEP];
    for (int i = 0; i < DEEP; i++) {
        ranges[i] = begin(&tape, 0, 1000 + i);
    }
    for (int i = DEEP - 1; i >= 0; i--) {
        end(&tape, &ranges[i], 1000 + DEEP + DEEP - i);
    }
    const pfo_name beyond = pfo_recorder_add_name(tape.recorder);
    CHECK(beyond.id == PFO_RECORDER_OVERFLOW);
    for (uint64_t i = 0; i < 5; i++) {
        pfo_recorder_note_overflow(tape.recorder, i % 3 * 0x9E3779B97F4A7C15U);
    }
    pfo_open_range range;
    pfo_recorder_begin(tape.recorder, beyond, &range);
    pfo_recorder_end(tape.recorder, &range, range.begin_tick + 3);
    pfo_capture *capture = take(&tape);
    uint64_t counted = 0;
    double self = 0;
    for (int32_t i = 0; i < capture->node_count; i++) {
        counted += capture->nodes[i].count;
        self += capture->nodes[i].self_ns;
    }
    CHECK(counted == DEEP + 1 && fabs(self - (2 * DEEP + 3)) < 1e-9);
    CHECK(row_of(capture, "a")->count == DEEP && row_of(capture, NULL)->count == 1 && capture->overflow_names == 3);
    CHECK(capture->rows[capture->row_count - 1].name == -1);
    pfo_span spans[8];
    CHECK(read_spans(capture, spans, 8) == 4 && capture->dropped_spans == DEEP + 1 - 4);
    pfo_capture_destroy(capture);
    pfo_recorder_destroy(tape.recorder);
}

static void
memory_and_reset(void)
{
    const taped tape = taped_new(10, 10);
    one(&tape, 0, 1000, 1010);
    pfo_recorder_add_memory(tape.recorder, tape.names[0], 4096);
    pfo_recorder_add_memory(tape.recorder, tape.names[0], -100);
    pfo_capture *capture = take(&tape);
    const pfo_capture_row *row = row_of(capture, "a");
    CHECK(row->memory_count == 2 && fabs(row->memory_sum - 3996) < 1e-9 && fabs(row->memory_least + 100) < 1e-9 &&
          fabs(row->memory_greatest - 4096) < 1e-9);
    pfo_capture_destroy(capture);
    pfo_open_range open = begin(&tape, 0, 1020);
    const uint64_t old = pfo_recorder_epoch(tape.recorder);
    (void)pfo_recorder_reset(tape.recorder);
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_capture_take(tape.recorder, old, NULL, 0, &capture, &err) == PFO_STATE && capture == NULL);
    end(&tape, &open, 1030); /* of the old epoch: let go, its span too */
    capture = take(&tape);
    CHECK(capture->row_count == 0 && capture->node_count == 0 && capture->thread_count == 0);
    pfo_span spans[4];
    CHECK(read_spans(capture, spans, 4) == 0);
    pfo_capture_destroy(capture);
    pfo_recorder_destroy(tape.recorder);
}

/* A clock of 3.7 ns a tick: spans that touch in ticks touch in nanoseconds, none overlaps the next. */
static void
coarse_reading(pfo_clock_reading *reading)
{
    static int64_t moment;
    moment += 100000;
    reading->tick = moment;
    reading->monotonic_ns = moment * 37 / 10;
    reading->boottime_ns = reading->monotonic_ns;
}

static void
touching_spans_touch_on_a_coarse_clock(void)
{
    enum { SPANS = 500 };
    const taped tape = taped_new(10, SPANS);
    for (int i = 0; i < SPANS; i++) {
        one(&tape, i % 3, 1000 + 7 * i, 1000 + 7 * (i + 1));
    }
    pfo_clock_fake_reader(coarse_reading);
    pfo_capture *capture = take(&tape);
    static pfo_span spans[SPANS + 1];
    REQUIRE(read_spans(capture, spans, SPANS + 1) == SPANS);
    int touching = 0;
    int longer = 0;
    for (int i = 1; i < SPANS; i++) {
        touching += spans[i - 1].begin_ns + spans[i - 1].duration_ns == spans[i].begin_ns;
        longer += spans[i].duration_ns == 26;
        CHECK(spans[i].duration_ns == 25 || spans[i].duration_ns == 26);
    }
    CHECK(touching == SPANS - 1 && longer > SPANS * 8 / 10 && longer < SPANS - 1); /* 25.9 ns each */
    pfo_capture_destroy(capture);
    pfo_recorder_destroy(tape.recorder);
    pfo_clock_fake_reader(NULL);
}

/* Equal units of work, of which a known share is done by the outer range itself and the rest by a range that it calls;
 * begin and end cost something, too. What is reported is within 2 points of what was done, for every share. */
static void
shares_of_work_are_those_that_were_done(void)
{
    enum { UNITS = 2000, UNIT = 200, COST = 3 };
    unsigned long long state = 11;
    for (int percent = 5; percent <= 95; percent += 5) {
        const taped tape = taped_new(10, 0);
        int inlined = 0;
        int64_t now = 1000;
        pfo_open_range outer = begin(&tape, 0, now);
        for (int i = 0; i < UNITS; i++) {
            if ((int)(check_random(&state) % 100) < percent) {
                now += UNIT;
                inlined++;
            } else {
                now += COST;
                pfo_open_range called = begin(&tape, 1, now);
                now += UNIT + COST;
                end(&tape, &called, now);
            }
        }
        end(&tape, &outer, now);
        pfo_capture *capture = take(&tape);
        const double total = row_of(capture, "a")->total_ns;
        const double own = row_of(capture, "a")->self_ns;
        const double called = row_of(capture, "b")->self_ns;
        CHECK(fabs(own / total - (double)inlined / UNITS) < 0.02);
        CHECK(fabs(called / total - (double)(UNITS - inlined) / UNITS) < 0.02);
        CHECK(fabs(own + called - total) < 0.5 && fabs(node_at(capture, "a")->total_ns - total) < 0.5);
        CHECK(row_of(capture, "b")->count == (uint64_t)(UNITS - inlined));
        pfo_capture_destroy(capture);
        pfo_recorder_destroy(tape.recorder);
    }
}

static void
failing_allocations(void)
{
    const taped tape = taped_new(10, 10);
    pfo_open_range a = begin(&tape, 0, 1000);
    one(&tape, 1, 1010, 1020);
    end(&tape, &a, 1030);
    const pfo_text names[] = { { "a", 1 }, { "b", 1 } };
    pfo_status status = PFO_NO_MEMORY;
    for (long n = 1; status != PFO_OK && n < 200; n++) {
        pfo_alloc_fail_at(n);
        pfo_capture *capture = NULL;
        pfo_error err = PFO_ERROR_INIT;
        status = pfo_capture_take(tape.recorder, pfo_recorder_epoch(tape.recorder), names, 2, &capture, &err);
        CHECK(status == PFO_OK || (status == PFO_NO_MEMORY && capture == NULL && err.text[0] != '\0'));
        CHECK(status != PFO_OK || n > 10);
        pfo_capture_destroy(capture);
    }
    pfo_alloc_fail_at(0);
    CHECK(status == PFO_OK);
    pfo_recorder_destroy(tape.recorder);
}

int
main(void)
{
    RUN(nested_ranges);
    RUN(recursion_and_equal_names);
    RUN(suspended_ranges_take_turns);
    RUN(another_order_than_they_began);
    RUN(an_end_on_another_thread);
    RUN(too_many_and_too_deep);
    RUN(memory_and_reset);
    RUN(touching_spans_touch_on_a_coarse_clock);
    RUN(shares_of_work_are_those_that_were_done);
    RUN(failing_allocations);
    return FINISH();
}
