/* test_sampler.c: ring against a model, start and stop from many threads, readers while it writes, fork. No test depends on
 * how fast the machine is: threads are waited for by counting samples. */
#include "monitor/sampler.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1 /* it does not let a child of a threaded process start threads */
#else
#define UNDER_TSAN 0
#endif

static const int64_t fast = INT64_C(100000);
static const int64_t slow = INT64_C(3600) * 1000000000;

/* A probe whose samples name themselves: every field of the n-th sample is derived from n. */
static void
counting_probe(void *context, pfo_memory_sample *sample)
{
    const int64_t n = atomic_fetch_add((_Atomic int64_t *)context, 1);
    *sample = (pfo_memory_sample){ n, n * 3 % 101, n, n, n, n, n, n, n, n, n, n, n, n, n, n };
}

static int
is_whole(const pfo_memory_sample *sample)
{
    const int64_t n = sample->time_ns;
    return sample->rss == n * 3 % 101 && sample->cgroup_usage == n && sample->limit == n && sample->heap_in_use == n &&
           sample->heap_retained == n && sample->minor_faults == n && sample->major_faults == n && sample->uss == n &&
           sample->throttled == n && sample->limit_hits == n && sample->oom_kills == n && sample->cuda_allocated == n &&
           sample->cuda_reserved == n && sample->cuda_total == n && sample->cuda_time_ns == n;
}

static pfo_sampler *
new_sampler(int64_t interval, int64_t capacity, _Atomic int64_t *counter)
{
    pfo_sampler *sampler = NULL;
    REQUIRE(pfo_sampler_create(interval, capacity, counting_probe, counter, &sampler, NULL) == PFO_OK);
    return sampler;
}

static pfo_sampler_counts
counts_of(pfo_sampler *sampler)
{
    pfo_sampler_counts counts;
    pfo_sampler_count(sampler, &counts);
    return counts;
}

/* Gives up after a minute, so that a dead thread fails the test instead of hanging it. */
static int
wait_for_samples(pfo_sampler *sampler, int64_t wanted)
{
    const int64_t begin = pfo_monotonic_ns();
    while (counts_of(sampler).taken < wanted) {
        if (pfo_monotonic_ns() - begin > INT64_C(60000000000)) {
            return 0;
        }
        (void)sched_yield();
    }
    return 1;
}

static void
the_ring_keeps_the_newest(void)
{
    enum { MOST = 40 };
    pfo_memory_sample copied[MOST];
    for (int64_t capacity = 1; capacity <= 7; capacity++) {
        for (int64_t taken = 0; taken <= 20; taken++) {
            _Atomic int64_t counter = 0;
            pfo_sampler *sampler = new_sampler(slow, capacity, &counter);
            int64_t peak = -1;
            for (int64_t i = 0; i < taken; i++) {
                pfo_memory_sample sample;
                pfo_sampler_sample(sampler, &sample);
                CHECK(sample.time_ns == i);
                peak = i * 3 % 101 > peak ? i * 3 % 101 : peak;
            }
            const int64_t held = taken < capacity ? taken : capacity;
            const pfo_sampler_counts counts = counts_of(sampler);
            CHECK(counts.held == held && counts.taken == taken && counts.capacity == capacity);
            CHECK(counts.peak_rss == peak && !counts.running && counts.missed == 0);
            for (int64_t room = 0; room <= held + 1; room++) {
                const int64_t count = room < held ? room : held;
                CHECK(pfo_sampler_copy(sampler, copied, room) == count);
                for (int64_t i = 0; i < count; i++) {
                    CHECK(copied[i].time_ns == taken - count + i);
                }
            }
            CHECK(pfo_sampler_copy(sampler, copied, -1) == 0);
            pfo_sampler_clear(sampler);
            CHECK(pfo_sampler_copy(sampler, copied, MOST) == 0 && counts_of(sampler).peak_rss == -1);
            pfo_sampler_destroy(sampler);
        }
    }
}

static void
bad_arguments_are_named(void)
{
    pfo_sampler *sampler = NULL;
    const int64_t intervals[] = { -1, 0, fast - 1, INT64_C(86401) * 1000000000 };
    for (size_t i = 0; i < sizeof intervals / sizeof intervals[0]; i++) {
        pfo_error err = PFO_ERROR_INIT;
        CHECK(pfo_sampler_create(intervals[i], 8, NULL, NULL, &sampler, &err) == PFO_BAD_ARGUMENT && sampler == NULL);
        CHECK(strstr(err.text, "interval") != NULL);
    }
    const int64_t capacities[] = { -1, 0, PFO_SAMPLER_MAX_CAPACITY + 1, INT64_MAX };
    for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++) {
        pfo_error err = PFO_ERROR_INIT;
        CHECK(pfo_sampler_create(fast, capacities[i], NULL, NULL, &sampler, &err) == PFO_BAD_ARGUMENT);
        CHECK(sampler == NULL && strstr(err.text, "capacity") != NULL);
    }
    _Atomic int64_t counter = 0;
    sampler = new_sampler(slow, 4, &counter);
    CHECK(pfo_sampler_start(sampler, fast - 1, NULL) == PFO_BAD_ARGUMENT && !counts_of(sampler).running);
    pfo_sampler_destroy(sampler);
    pfo_sampler_destroy(NULL);
}

static void
running_out_of_memory_leaves_nothing(void)
{
    pfo_status status = PFO_NO_MEMORY;
    int failures = 0;
    for (long n = 1; status == PFO_NO_MEMORY && n < 50; n++) {
        pfo_sampler *sampler = NULL;
        pfo_alloc_fail_at(n);
        status = pfo_sampler_create(fast, 8, NULL, NULL, &sampler, NULL);
        pfo_alloc_fail_at(0);
        CHECK((sampler != NULL) == (status == PFO_OK));
        failures += status != PFO_OK;
        pfo_sampler_destroy(sampler);
    }
    CHECK(status == PFO_OK && failures >= 2);
}

static void
the_thread_samples_until_stopped(void)
{
    _Atomic int64_t counter = 0;
    pfo_sampler *sampler = new_sampler(fast, 16, &counter);
    pfo_sampler_stop(sampler); /* nothing to stop */
    for (int turn = 1; turn <= 3; turn++) {
        REQUIRE(pfo_sampler_start(sampler, 0, NULL) == PFO_OK);
        CHECK(counts_of(sampler).running);
        CHECK(pfo_sampler_start(sampler, 0, NULL) == PFO_STATE);
        CHECK(wait_for_samples(sampler, turn * 50));
        pfo_sampler_stop(sampler);
        const pfo_sampler_counts counts = counts_of(sampler);
        CHECK(!counts.running && counts.held == 16);
        CHECK(counts.taken == atomic_load(&counter));
        CHECK(counts.cpu_ns > 0);
    }
    REQUIRE(pfo_sampler_start(sampler, slow, NULL) == PFO_OK); /* asleep for an hour: stop and destroy must wake it */
    CHECK(counts_of(sampler).interval_ns == slow);
    pfo_sampler_stop(sampler);
    REQUIRE(pfo_sampler_start(sampler, 0, NULL) == PFO_OK);
    pfo_sampler_destroy(sampler);
}

static void
slow_probe(void *context, pfo_memory_sample *sample)
{
    const int64_t begin = pfo_monotonic_ns();
    while (pfo_monotonic_ns() - begin < 5 * fast) {
    }
    counting_probe(context, sample);
}

static void
turns_that_come_too_late_are_counted(void)
{
    _Atomic int64_t counter = 0;
    pfo_sampler *sampler = NULL;
    REQUIRE(pfo_sampler_create(fast, 4, slow_probe, &counter, &sampler, NULL) == PFO_OK);
    REQUIRE(pfo_sampler_start(sampler, 0, NULL) == PFO_OK);
    CHECK(wait_for_samples(sampler, 10));
    pfo_sampler_stop(sampler);
    const pfo_sampler_counts counts = counts_of(sampler);
    CHECK(counts.missed >= 4 * (counts.taken - 1));
    CHECK(counts.probe_ns >= counts.taken * 5 * fast);
    pfo_sampler_destroy(sampler);
}

static void
start_and_stop_many_times(void)
{
    _Atomic int64_t counter = 0;
    pfo_sampler *sampler = new_sampler(slow, 4, &counter);
    for (int i = 0; i < 500; i++) {
        REQUIRE(pfo_sampler_start(sampler, 0, NULL) == PFO_OK);
        pfo_sampler_stop(sampler);
    }
    CHECK(counts_of(sampler).missed == 0 && counts_of(sampler).taken <= 500);
    pfo_sampler_destroy(sampler);
}

typedef struct crowd {
    pfo_sampler *sampler;
    atomic_int torn;
    atomic_int started;
} crowd;

static void *
start_stop_and_read(void *argument)
{
    enum { CAPACITY = 32 };
    crowd *all = argument;
    pfo_memory_sample copied[CAPACITY];
    for (int i = 0; i < 200; i++) {
        if (pfo_sampler_start(all->sampler, 0, NULL) == PFO_OK) {
            atomic_fetch_add(&all->started, 1);
        }
        pfo_sampler_sample(all->sampler, NULL);
        const int64_t count = pfo_sampler_copy(all->sampler, copied, CAPACITY);
        for (int64_t k = 0; k < count; k++) {
            if (!is_whole(&copied[k]) || (k > 0 && copied[k].time_ns != copied[k - 1].time_ns + 1)) {
                atomic_fetch_add(&all->torn, 1);
            }
        }
        if (i % 3 == 0) {
            pfo_sampler_stop(all->sampler);
        }
    }
    return NULL;
}

static void
many_threads_start_stop_and_read(void)
{
    enum { THREADS = 4 };
    _Atomic int64_t counter = 0;
    crowd all = { .sampler = new_sampler(fast, 32, &counter) };
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, start_stop_and_read, &all) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(atomic_load(&all.torn) == 0);
    CHECK(atomic_load(&all.started) > 0);
    CHECK(counts_of(all.sampler).taken == atomic_load(&counter) || counts_of(all.sampler).running);
    pfo_sampler_stop(all.sampler);
    CHECK(counts_of(all.sampler).taken == atomic_load(&counter));
    pfo_sampler_destroy(all.sampler);
}

static int
child_can_start_its_own(pfo_sampler *running, pfo_sampler *idle)
{
    pfo_memory_sample sample;
    if (counts_of(running).running || counts_of(running).taken != 0 || pfo_sampler_copy(running, &sample, 1) != 0) {
        return 0;
    }
    pfo_sampler_sample(running, NULL);
    pfo_sampler_sample(idle, NULL);
    if (counts_of(running).taken != 1 || counts_of(idle).taken != 1) {
        return 0;
    }
    if (!UNDER_TSAN) {
        if (pfo_sampler_start(running, 0, NULL) != PFO_OK || !wait_for_samples(running, 20)) {
            return 0;
        }
        pfo_sampler_stop(running);
    }
    pfo_sampler_destroy(running);
    pfo_sampler_destroy(idle);
    return 1;
}

static void
a_forked_child_has_no_thread_and_can_start_one(void)
{
    _Atomic int64_t counter = 0;
    pfo_sampler *running = new_sampler(fast, 8, &counter);
    pfo_sampler *idle = new_sampler(fast, 8, &counter);
    REQUIRE(pfo_sampler_start(running, 0, NULL) == PFO_OK);
    CHECK(wait_for_samples(running, 10));
    for (int i = 0; i < 10; i++) { /* the thread may be anywhere in its loop */
        const pid_t child = fork();
        if (child == 0) {
            _exit(child_can_start_its_own(running, idle) ? 0 : 1);
        }
        int status = -1;
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(wait_for_samples(running, counts_of(running).taken + 10)); /* the parent's goes on */
    pfo_sampler_destroy(running);
    pfo_sampler_destroy(idle);
}

static void
real_samples_arrive(void)
{
    pfo_sampler *sampler = NULL;
    pfo_memory_sample samples[64];
    REQUIRE(pfo_sampler_create(fast, 64, NULL, NULL, &sampler, NULL) == PFO_OK);
    REQUIRE(pfo_sampler_start(sampler, 0, NULL) == PFO_OK);
    CHECK(wait_for_samples(sampler, 64));
    pfo_sampler_stop(sampler);
    CHECK(pfo_sampler_copy(sampler, samples, 64) == 64);
    for (int i = 0; i < 64; i++) {
        CHECK(samples[i].rss > 0 && samples[i].limit > 0);
        CHECK(i == 0 || samples[i].time_ns > samples[i - 1].time_ns);
    }
    const pfo_sampler_counts counts = counts_of(sampler);
    (void)printf("       one sample: %lld ns wall, %lld ns of processor time with waking up\n",
                 (long long)(counts.probe_ns / counts.taken), (long long)(counts.cpu_ns / counts.taken));
    CHECK(counts.peak_rss > 0);
    pfo_sampler_destroy(sampler);
}

static int
has_cuda(const pfo_memory_sample *sample, int64_t time_ns, int64_t allocated, int64_t reserved, int64_t total)
{
    return sample->cuda_time_ns == time_ns && sample->cuda_allocated == allocated &&
           sample->cuda_reserved == reserved && sample->cuda_total == total;
}

static void
noted_cuda_figures_are_repeated_with_their_time(void)
{
    pfo_sampler *sampler = NULL;
    pfo_memory_sample sample;
    REQUIRE(pfo_sampler_create(slow, 8, NULL, NULL, &sampler, NULL) == PFO_OK);
    pfo_sampler_sample(sampler, &sample);
    CHECK(has_cuda(&sample, -1, -1, -1, -1));
    const int64_t before = pfo_monotonic_ns();
    const int64_t noted = pfo_sampler_note_cuda(sampler, 1, 2, 3);
    CHECK(noted >= before && noted <= pfo_monotonic_ns());
    for (int i = 0; i < 2; i++) {
        pfo_sampler_sample(sampler, &sample);
        CHECK(has_cuda(&sample, noted, 1, 2, 3) && sample.time_ns >= noted);
    }
    const int64_t later = pfo_sampler_note_cuda(sampler, 0, 0, 3);
    CHECK(later >= noted);
    pfo_sampler_sample(sampler, &sample);
    CHECK(has_cuda(&sample, later, 0, 0, 3));
    const pid_t child = fork();
    if (child == 0) { /* the parent's device is not the child's */
        pfo_sampler_sample(sampler, &sample);
        _exit(has_cuda(&sample, -1, -1, -1, -1) ? 0 : 1);
    }
    int status = 0;
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    pfo_sampler_clear(sampler);
    pfo_sampler_sample(sampler, &sample);
    CHECK(has_cuda(&sample, -1, -1, -1, -1));
    pfo_sampler_destroy(sampler);
}

int
main(void)
{
    RUN(the_ring_keeps_the_newest);
    RUN(bad_arguments_are_named);
    RUN(running_out_of_memory_leaves_nothing);
    RUN(the_thread_samples_until_stopped);
    RUN(turns_that_come_too_late_are_counted);
    RUN(start_and_stop_many_times);
    RUN(many_threads_start_stop_and_read);
    RUN(a_forked_child_has_no_thread_and_can_start_one);
    RUN(real_samples_arrive);
    RUN(noted_cuda_figures_are_repeated_with_their_time);
    return FINISH();
}
