/* test_spans.c: the ring keeps the latest spans whole, also under writers that lap each other. */
#include "check.h"

#include "base/alloc.h"
#include "profiler/spans.h"

#include <pthread.h>
#include <stdatomic.h>

static pfo_raw_span
span_number(int64_t number)
{
    const pfo_raw_span span = { number, 3 * number, (uint32_t)number, (uint32_t)(number * 7), 5, 1 };
    return span;
}

static int
is_whole(const pfo_raw_span *span)
{
    return span->ticks == 3 * span->begin_tick && span->name == (uint32_t)span->begin_tick &&
           span->lane == (uint32_t)(span->begin_tick * 7) && span->depth == 5 && span->flags == 1;
}

static void
add(pfo_spans *spans, int64_t number)
{
    const pfo_raw_span span = span_number(number);
    pfo_spans_fill(spans, pfo_spans_take(spans), &span);
}

static void
the_latest_are_kept(void)
{
    pfo_spans *spans = pfo_spans_create(10);
    REQUIRE(spans != NULL);
    pfo_raw_span span;
    CHECK(pfo_spans_read(spans, 0, &span) == 0 && pfo_spans_head(spans) == 0);
    for (int64_t i = 0; i < 25; i++) {
        add(spans, i);
    }
    for (uint64_t position = 0; position < 30; position++) {
        const int there = pfo_spans_read(spans, position, &span);
        CHECK(there == (position >= 15 && position < 25));
        CHECK(!there || (is_whole(&span) && span.begin_tick == (int64_t)position));
    }
    CHECK(pfo_spans_head(spans) == 25 && pfo_spans_capacity(spans) == 10);
    (void)pfo_spans_take(spans); /* left empty */
    CHECK(pfo_spans_read(spans, 25, &span) == 0);
    pfo_spans *shared = pfo_spans_share(spans);
    pfo_spans_release(spans);
    CHECK(pfo_spans_read(shared, 24, &span) == 1);
    pfo_spans_release(shared);
    pfo_spans_release(NULL);
}

static void
the_deepest_depth_and_all_flags_fit(void)
{
    pfo_spans *spans = pfo_spans_create(1);
    REQUIRE(spans != NULL);
    const pfo_raw_span given = { INT64_MIN, INT64_MAX, UINT32_MAX, UINT32_MAX, 1U << 20, 0xFF };
    pfo_spans_fill(spans, pfo_spans_take(spans), &given);
    pfo_raw_span span;
    CHECK(pfo_spans_read(spans, 0, &span) == 1);
    CHECK(span.begin_tick == INT64_MIN && span.ticks == INT64_MAX && span.name == UINT32_MAX &&
          span.lane == UINT32_MAX && span.depth == PFO_SPANS_DEEPEST && span.flags == 0xFF);
    pfo_spans_release(spans);
}

typedef struct job {
    pfo_spans *spans;
    atomic_int *running;
} job;

static void *
write_many(void *argument)
{
    const job *work = argument;
    for (int64_t i = 1; i <= 20000; i++) {
        add(work->spans, i);
    }
    atomic_fetch_sub(work->running, 1);
    return NULL;
}

static void
no_span_is_torn(void)
{
    enum { THREADS = 4 };
    atomic_int running = THREADS;
    job work = { pfo_spans_create(3), &running }; /* so small that writers meet in one slot */
    REQUIRE(work.spans != NULL);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, write_many, &work) == 0);
    }
    while (atomic_load(&running) > 0) {
        const uint64_t head = pfo_spans_head(work.spans);
        for (uint64_t position = head < 4 ? 0 : head - 4; position < head; position++) {
            pfo_raw_span span;
            CHECK(!pfo_spans_read(work.spans, position, &span) || is_whole(&span));
        }
    }
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(pfo_spans_head(work.spans) == 80000);
    pfo_spans_release(work.spans);
}

static void
failing_allocations(void)
{
    for (long n = 1; n <= 2; n++) {
        pfo_alloc_fail_at(n);
        CHECK(pfo_spans_create(100) == NULL);
    }
    pfo_alloc_fail_at(0);
}

int
main(void)
{
    RUN(the_latest_are_kept);
    RUN(the_deepest_depth_and_all_flags_fit);
    RUN(no_span_is_torn);
    RUN(failing_allocations);
    return FINISH();
}
