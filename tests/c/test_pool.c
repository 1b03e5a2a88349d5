/* test_pool.c: every index exactly once, whatever the cut; nesting, busy pool, fork. */
#include "base/pool.h"

#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 10007 };

static atomic_int visits[COUNT];

static void
visit(void *context, int64_t begin, int64_t end)
{
    (void)context;
    for (int64_t i = begin; i < end; i++) {
        atomic_fetch_add(&visits[i], 1);
    }
}

static int
all_visited(int times)
{
    for (int i = 0; i < COUNT; i++) {
        if (atomic_load(&visits[i]) != times) {
            return 0;
        }
    }
    return 1;
}

static void
clear_visits(void)
{
    for (int i = 0; i < COUNT; i++) {
        atomic_store(&visits[i], 0);
    }
}

static void
covers_every_index_once(void)
{
    const int64_t grains[] = { 1, 7, 64, 5000, 20000 };
    for (int threads = 1; threads <= 5; threads++) {
        for (size_t g = 0; g < sizeof grains / sizeof grains[0]; g++) {
            clear_visits();
            pfo_pool_run(threads, COUNT, grains[g], visit, NULL);
            CHECK(all_visited(1));
        }
    }
}

static void
counts_without_work_do_nothing(void)
{
    clear_visits();
    pfo_pool_run(4, 0, 1, visit, NULL);
    pfo_pool_run(4, -5, 1, visit, NULL);
    CHECK(all_visited(0));
}

static void
nested(void *context, int64_t begin, int64_t end)
{
    (void)context;
    for (int64_t i = begin; i < end; i++) {
        pfo_pool_run(4, COUNT, 1, visit, NULL);
    }
}

static void
nested_run_happens_inline(void)
{
    clear_visits();
    pfo_pool_run(4, 8, 1, nested, NULL);
    CHECK(all_visited(8));
}

static void *
run_from_thread(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++) {
        pfo_pool_run(3, COUNT, 16, visit, NULL);
    }
    return NULL;
}

static void
many_callers_share_the_pool(void)
{
    enum { CALLERS = 4 };
    pthread_t callers[CALLERS];
    clear_visits();
    for (int i = 0; i < CALLERS; i++) {
        REQUIRE(pthread_create(&callers[i], NULL, run_from_thread, NULL) == 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        REQUIRE(pthread_join(callers[i], NULL) == 0);
    }
    CHECK(all_visited(50 * CALLERS));
}

#if !defined(__SANITIZE_THREAD__)
static void
forked_child_makes_its_own_workers(void)
{
    pfo_pool_run(3, COUNT, 1, visit, NULL);
    CHECK(pfo_pool_started_threads() > 0);
    const pid_t child = fork();
    if (child == 0) {
        const int empty = pfo_pool_started_threads() == 0;
        clear_visits();
        pfo_pool_run(3, COUNT, 1, visit, NULL);
        _exit(empty && all_visited(1) ? 0 : 1);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

static void
thread_count_comes_from_the_environment(void)
{
    REQUIRE(setenv("PERFOPT_NUM_THREADS", "3", 1) == 0);
    CHECK(pfo_pool_default_threads() == 3);
    REQUIRE(setenv("PERFOPT_NUM_THREADS", "nonsense", 1) == 0);
    CHECK(pfo_pool_default_threads() >= 1);
    REQUIRE(setenv("PERFOPT_NUM_THREADS", "100000", 1) == 0);
    CHECK(pfo_pool_default_threads() == PFO_POOL_MAX_THREADS);
    REQUIRE(unsetenv("PERFOPT_NUM_THREADS") == 0);
}

int
main(void)
{
    RUN(covers_every_index_once);
    RUN(counts_without_work_do_nothing);
    RUN(nested_run_happens_inline);
    RUN(many_callers_share_the_pool);
#if !defined(__SANITIZE_THREAD__) /* ThreadSanitizer does not support new threads in a child of a threaded process */
    RUN(forked_child_makes_its_own_workers);
#endif
    RUN(thread_count_comes_from_the_environment);
    return FINISH();
}
