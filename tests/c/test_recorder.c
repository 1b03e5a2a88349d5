/* test_recorder.c: counts across threads beside a reader, ended threads, resets, the limit of names, fork, failing
 * allocations. */
#include "check.h"

#include "base/alloc.h"
#include "base/sync.h"
#include "profiler/recorder.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_IDS = 64 };

typedef struct totals {
    uint64_t counts[MOST_IDS];
    uint64_t sums[MOST_IDS];
    uint64_t all;
    int names;
} totals;

static pfo_status
collect(void *context, uint32_t id, const pfo_histogram *merged, const pfo_name_sums *sums, pfo_error *err)
{
    (void)sums;
    (void)err;
    totals *sum = context;
    sum->names++;
    sum->all += pfo_histogram_count(merged);
    if (id < MOST_IDS) {
        sum->counts[id] = pfo_histogram_count(merged);
        sum->sums[id] = pfo_histogram_sum(merged);
    }
    return PFO_OK;
}

/* A range of a known length, on the real clock. */
static void
record(pfo_recorder *recorder, pfo_name name, int64_t begin_tick, int64_t end_tick)
{
    pfo_open_range range;
    pfo_recorder_begin(recorder, name, &range);
    pfo_recorder_end(recorder, &range, range.begin_tick + (end_tick - begin_tick));
}

static totals
read_all(pfo_recorder *recorder)
{
    totals sum;
    memset(&sum, 0, sizeof sum);
    REQUIRE(pfo_recorder_visit_names(recorder, pfo_recorder_epoch(recorder), collect, &sum, NULL) == PFO_OK);
    return sum;
}

static pfo_recorder *
make_traced(int64_t max_names, int64_t spans)
{
    pfo_recorder *recorder = NULL;
    pfo_error err = PFO_ERROR_INIT;
    REQUIRE(pfo_recorder_create(max_names, spans, &recorder, &err) == PFO_OK);
    return recorder;
}

static pfo_recorder *
make(int64_t max_names)
{
    return make_traced(max_names, 0);
}

static void
test_one_thread(void)
{
    pfo_recorder *recorder = make(100);
    const pfo_name a = pfo_recorder_add_name(recorder);
    const pfo_name b = pfo_recorder_add_name(recorder);
    CHECK(a.id == 1 && b.id == 2 && a.epoch == b.epoch && pfo_recorder_names(recorder) == 2);
    CHECK(read_all(recorder).names == 0);
    for (int i = 0; i < 1000; i++) {
        record(recorder, a, 100, 150);
    }
    record(recorder, b, 10, 5); /* a clock that went back counts as 0 ticks */
    const totals sum = read_all(recorder);
    CHECK(sum.names == 2 && sum.counts[1] == 1000 && sum.sums[1] == 50000 && sum.counts[2] == 1 && sum.sums[2] == 0);
    pfo_recorder_destroy(recorder);
    pfo_recorder_destroy(NULL);
}

static void
test_wrong_limits_are_refused(void)
{
    const int64_t wrong[] = { 0, -1, (int64_t)PFO_RECORDER_MOST_NAMES + 1, INT64_MIN };
    for (int i = 0; i < 4; i++) {
        pfo_error err = PFO_ERROR_INIT;
        pfo_recorder *recorder = NULL;
        CHECK(pfo_recorder_create(wrong[i], 0, &recorder, &err) == PFO_BAD_ARGUMENT);
        CHECK(recorder == NULL && strstr(err.text, "max_names") != NULL);
    }
}

static void
test_names_beyond_the_limit_share_one_row(void)
{
    pfo_recorder *recorder = make(10);
    for (int i = 0; i < 1000; i++) {
        const pfo_name name = pfo_recorder_add_name(recorder);
        CHECK(name.id == (i < 10 ? (uint32_t)i + 1 : (uint32_t)PFO_RECORDER_OVERFLOW));
        record(recorder, name, 0, 7);
    }
    const totals sum = read_all(recorder);
    CHECK(sum.names == 11 && sum.all == 1000 && sum.counts[PFO_RECORDER_OVERFLOW] == 990);
    CHECK(pfo_recorder_names(recorder) == 10);
    CHECK(pfo_recorder_measure(recorder).bytes < 11 * 1024 + 1024);
    pfo_recorder_destroy(recorder);
}

static void
test_many_recorders_in_turn(void)
{
    enum { RECORDERS = 20, ROUNDS = 500 }; /* more than the thread-local cache has places */
    pfo_recorder *recorders[RECORDERS];
    pfo_name names[RECORDERS];
    for (int i = 0; i < RECORDERS; i++) {
        recorders[i] = make(10);
        names[i] = pfo_recorder_add_name(recorders[i]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < RECORDERS; i++) {
            record(recorders[i], names[i], 0, i);
        }
        if (round == ROUNDS / 2) { /* a new one at a place where cache entries of the old one are still lying */
            pfo_recorder_destroy(recorders[3]);
            recorders[3] = make(10);
            names[3] = pfo_recorder_add_name(recorders[3]);
        }
    }
    for (int i = 0; i < RECORDERS; i++) {
        const totals sum = read_all(recorders[i]);
        CHECK(sum.counts[1] == (i == 3 ? ROUNDS - ROUNDS / 2 - 1 : ROUNDS));
        CHECK(sum.sums[1] == sum.counts[1] * (uint64_t)i);
        CHECK(pfo_recorder_measure(recorders[i]).threads == 1);
        pfo_recorder_destroy(recorders[i]);
    }
}

typedef struct writer_job {
    pfo_recorder *recorder;
    const pfo_name *names;
    int how_many;
    int records;
    atomic_int *running;
} writer_job;

static void *
write_records(void *argument)
{
    const writer_job *job = argument;
    unsigned long long state = (unsigned long long)(uintptr_t)job | 1;
    for (int i = 0; i < job->records; i++) {
        const int64_t ticks = (int64_t)(check_random(&state) >> (20 + i % 40));
        record(job->recorder, job->names[i % job->how_many], 1000, 1000 + ticks);
    }
    if (job->running != NULL) {
        atomic_fetch_sub(job->running, 1);
    }
    return NULL;
}

static void
test_threads_write_while_a_reader_reads(void)
{
    enum { THREADS = 24, NAMES = 40, RECORDS = 10000 };
    pfo_recorder *recorder = make_traced(NAMES, 5000); /* the ring goes round many times meanwhile */
    pfo_name names[NAMES];
    for (int i = 0; i < NAMES; i++) {
        names[i] = pfo_recorder_add_name(recorder);
    }
    atomic_int running = THREADS;
    pthread_t threads[THREADS];
    writer_job jobs[THREADS];
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (writer_job){ recorder, names, NAMES, RECORDS, &running };
        REQUIRE(pthread_create(&threads[i], NULL, write_records, &jobs[i]) == 0);
    }
    totals before = read_all(recorder);
    while (atomic_load(&running) > 0) {
        const totals now = read_all(recorder);
        for (int id = 1; id <= NAMES; id++) {
            CHECK(now.counts[id] >= before.counts[id] && now.sums[id] >= before.sums[id]);
        }
        before = now;
    }
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    const totals sum = read_all(recorder);
    CHECK(sum.all == (uint64_t)THREADS * RECORDS && sum.names == NAMES);
    for (int id = 1; id <= NAMES; id++) {
        CHECK(sum.counts[id] == (uint64_t)THREADS * RECORDS / NAMES);
    }
    CHECK(pfo_recorder_measure(recorder).threads <= THREADS && pfo_recorder_measure(recorder).dropped == 0);
    pfo_recorder_destroy(recorder);
}

static void
test_ended_threads_keep_their_counts_in_bounded_memory(void)
{
    enum { THREADS = 300 };
    pfo_recorder *recorder = make(10);
    const pfo_name name = pfo_recorder_add_name(recorder);
    size_t bytes_after_warm_up = 0;
    for (int i = 0; i < THREADS; i++) {
        writer_job job = { recorder, &name, 1, 200, NULL };
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, write_records, &job) == 0);
        REQUIRE(pthread_join(thread, NULL) == 0);
        if (i == 20) {
            bytes_after_warm_up = pfo_recorder_measure(recorder).bytes;
        }
    }
    CHECK(read_all(recorder).counts[1] == THREADS * 200);
    CHECK(pfo_recorder_measure(recorder).threads == 1);
    CHECK(pfo_recorder_measure(recorder).bytes <= bytes_after_warm_up + 4096);
    pfo_recorder_destroy(recorder);
}

static void
test_reset(void)
{
    pfo_recorder *recorder = make(10);
    const pfo_name old = pfo_recorder_add_name(recorder);
    record(recorder, old, 0, 5);
    const uint64_t epoch = pfo_recorder_reset(recorder);
    CHECK(epoch == pfo_recorder_epoch(recorder) && epoch != old.epoch && pfo_recorder_names(recorder) == 0);
    record(recorder, old, 0, 5); /* was open during the reset */
    CHECK(read_all(recorder).names == 0);
    const pfo_name fresh = pfo_recorder_add_name(recorder);
    CHECK(fresh.id == old.id && fresh.epoch == epoch);
    CHECK(read_all(recorder).names == 0); /* this thread's old data is still there, under the same id */
    record(recorder, fresh, 0, 9);
    record(recorder, old, 0, 5);
    const totals sum = read_all(recorder);
    CHECK(sum.all == 1 && sum.sums[1] == 9);
    totals none;
    memset(&none, 0, sizeof none);
    CHECK(pfo_recorder_visit_names(recorder, old.epoch, collect, &none, NULL) == PFO_STATE && none.names == 0);
    CHECK(pfo_recorder_measure(recorder).dropped == 0);
    pfo_recorder_destroy(recorder);
}

typedef struct reset_job {
    pfo_recorder *recorder;
    atomic_int stop;
    _Atomic uint64_t records;
} reset_job;

static void *
record_until_stopped(void *argument)
{
    reset_job *job = argument;
    pfo_name name = { 0, 0 };
    uint64_t records = 0;
    while (!atomic_load(&job->stop)) {
        if (name.epoch != pfo_recorder_epoch(job->recorder)) {
            name = pfo_recorder_add_name(job->recorder);
        }
        for (int i = 0; i < 50; i++) {
            record(job->recorder, name, 0, (int64_t)i << (i % 30));
            records++;
        }
    }
    atomic_fetch_add(&job->records, records);
    return NULL;
}

static void
test_reset_while_threads_record(void)
{
    enum { THREADS = 4, RESETS = 300 };
    reset_job job;
    memset(&job, 0, sizeof job);
    job.recorder = make_traced(1000, 5000);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, record_until_stopped, &job) == 0);
    }
    for (int i = 0; i < RESETS; i++) {
        (void)read_all(job.recorder);
        (void)pfo_recorder_reset(job.recorder);
        (void)usleep(200);
    }
    atomic_store(&job.stop, 1);
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(read_all(job.recorder).all <= atomic_load(&job.records));
    (void)pfo_recorder_reset(job.recorder);
    CHECK(read_all(job.recorder).all == 0);
    /* the writers have ended, so their data is free of contents at once */
    CHECK(pfo_recorder_measure(job.recorder).bytes < 2048 + 5000 * 32);
    writer_job last = { job.recorder, &(pfo_name){ 0, 0 }, 1, 10, NULL };
    const pfo_name name = pfo_recorder_add_name(job.recorder);
    last.names = &name;
    (void)write_records(&last);
    CHECK(read_all(job.recorder).all == 10);
    pfo_recorder_destroy(job.recorder);
}

static void *
record_for_ever(void *argument)
{
    reset_job *job = argument;
    const pfo_name name = pfo_recorder_add_name(job->recorder);
    while (!atomic_load(&job->stop)) {
        record(job->recorder, name, 0, 100);
    }
    return NULL;
}

static int
child_goes_on_recording(pfo_recorder *recorder, pfo_name name)
{
    const totals inherited = read_all(recorder);
    if (inherited.counts[name.id] != 10) {
        return 1;
    }
    for (int i = 0; i < 5; i++) {
        record(recorder, name, 0, 3);
    }
    uint64_t expected = 10 + 5;
#if !defined(__SANITIZE_THREAD__) /* ThreadSanitizer cannot follow a thread started after a fork of several threads */
    writer_job job = { recorder, &name, 1, 100,
                       NULL }; /* continues the data of the thread that the child has not got */
    pthread_t thread;
    pthread_attr_t other_place; /* a larger stack, so that it does not happen to lie where the lost thread's was */
    if (pthread_attr_init(&other_place) != 0 || pthread_attr_setstacksize(&other_place, (size_t)64 << 20) != 0 ||
        pthread_create(&thread, &other_place, write_records, &job) != 0 || pthread_join(thread, NULL) != 0) {
        return 2;
    }
    expected += 100;
#endif
    const totals now = read_all(recorder);
    if (now.counts[name.id] != expected) {
        return 3;
    }
    if (pfo_recorder_measure(recorder).threads != 2) {
        return 4;
    }
    (void)pfo_recorder_reset(recorder);
    return read_all(recorder).all == 0 ? 0 : 5;
}

static void
test_fork_while_a_thread_records(void)
{
    enum { FORKS = 20 };
    reset_job job;
    memset(&job, 0, sizeof job);
    job.recorder = make_traced(10, 1000);
    const pfo_name mine = pfo_recorder_add_name(job.recorder);
    for (int i = 0; i < 10; i++) {
        record(job.recorder, mine, 0, 3);
    }
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, record_for_ever, &job) == 0);
    while (read_all(job.recorder).names < 2) {
    }
    for (int i = 0; i < FORKS; i++) {
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            _exit(child_goes_on_recording(job.recorder, mine));
        }
        int status = -1;
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    atomic_store(&job.stop, 1);
    REQUIRE(pthread_join(thread, NULL) == 0);
    CHECK(read_all(job.recorder).counts[mine.id] == 10);
    pfo_recorder_destroy(job.recorder);
}

static void
test_every_failing_allocation(void)
{
    enum { ALLOCATIONS = 400 }; /* more than there are, so that the last round is one without a failure */
    for (long n = 1; n <= ALLOCATIONS; n++) {
        pfo_alloc_fail_at(n);
        pfo_recorder *recorder = NULL;
        pfo_error err = PFO_ERROR_INIT;
        pfo_status status = pfo_recorder_create(100, 0, &recorder, &err);
        if (status != PFO_OK) {
            CHECK(status == PFO_NO_MEMORY && err.text[0] != '\0');
            continue;
        }
        uint64_t made = 0;
        for (int i = 0; i < 40; i++) {
            const pfo_name name = pfo_recorder_add_name(recorder);
            record(recorder, name, 0, (int64_t)1 << i);
            made++;
        }
        totals sum;
        memset(&sum, 0, sizeof sum);
        status = pfo_recorder_visit_names(recorder, pfo_recorder_epoch(recorder), collect, &sum, NULL);
        pfo_alloc_fail_at(0);
        const uint64_t dropped = pfo_recorder_measure(recorder).dropped;
        CHECK(dropped <= 1);
        CHECK(read_all(recorder).all + dropped == made); /* what is not there was counted as lost */
        pfo_recorder_destroy(recorder);
        CHECK(n < ALLOCATIONS || (status == PFO_OK && dropped == 0));
        CHECK(status == PFO_OK || status == PFO_NO_MEMORY);
    }
}

int
main(void)
{
    RUN(test_one_thread);
    RUN(test_wrong_limits_are_refused);
    RUN(test_names_beyond_the_limit_share_one_row);
    RUN(test_many_recorders_in_turn);
    RUN(test_threads_write_while_a_reader_reads);
    RUN(test_ended_threads_keep_their_counts_in_bounded_memory);
    RUN(test_reset);
    RUN(test_reset_while_threads_record);
    RUN(test_fork_while_a_thread_records);
    RUN(test_every_failing_allocation);
    return FINISH();
}
