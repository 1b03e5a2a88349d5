/* pool.c: see pool.h for the contract.
 *
 * Invariants, under `lock`: started <= PFO_POOL_MAX_THREADS - 1; a run is live while `run.body` is set; `run.seats` counts the
 * workers that may still join it and `run.inside` those that joined and have not left. A run ends when its cursor has passed
 * its count and inside == 0; only then does the caller return, so no worker can touch a dead context.
 * Work is handed out by an atomic cursor in steps of about 1/8 of an even share, never less than the grain.
 */
#include "base/pool.h"

#include "base/platform.h"
#include "base/sync.h"

#include <stdatomic.h>
#include <stdlib.h>

typedef struct pool_run {
    pfo_pool_body body; /* NULL: no run */
    void *context;
    int64_t count;
    int64_t step;
    atomic_int_least64_t cursor;
    int seats;
    int inside;
} pool_run;

static pfo_mutex busy = PFO_MUTEX_INIT; /* held by the caller of the one live run */
static pfo_mutex lock = PFO_MUTEX_INIT; /* guards everything below */
static pfo_cond work_ready = PFO_COND_INIT;
static pfo_cond work_done = PFO_COND_INIT;
static pool_run run;
static int started;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* fork() keeps only the calling thread: the child's pool is empty, and locks another thread held are made anew. A child forked
 * from inside a body (no library does that) would start with run.body set, hence the reset of the whole run. */
static void
reset_in_child(void)
{
    busy = (pfo_mutex)PFO_MUTEX_INIT;
    lock = (pfo_mutex)PFO_MUTEX_INIT;
    work_ready = (pfo_cond)PFO_COND_INIT;
    work_done = (pfo_cond)PFO_COND_INIT;
    run.body = NULL;
    run.seats = 0;
    run.inside = 0;
    started = 0;
}

static void
register_fork_handler(void)
{
    (void)pthread_atfork(NULL, NULL, reset_in_child);
}

static void
drain(pool_run *current)
{
    for (;;) {
        const int64_t begin = atomic_fetch_add(&current->cursor, current->step);
        if (begin >= current->count) {
            return;
        }
        const int64_t end = current->count - begin > current->step ? begin + current->step : current->count;
        current->body(current->context, begin, end);
    }
}

static void *
worker_main(void *unused)
{
    (void)unused;
    pfo_mutex_lock(&lock);
    for (;;) {
        while (run.body == NULL || run.seats == 0) {
            pfo_cond_wait(&work_ready, &lock);
        }
        run.seats--;
        run.inside++;
        pfo_mutex_unlock(&lock);
        drain(&run);
        pfo_mutex_lock(&lock);
        run.inside--;
        if (run.inside == 0) {
            pfo_cond_signal(&work_done);
        }
    }
    return NULL;
}

static void
start_workers_locked(int wanted)
{
    while (started < wanted) {
        pthread_t thread;
        pthread_attr_t attributes;
        if (pthread_attr_init(&attributes) != 0) {
            return;
        }
        (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int error = pfo_thread_create_quiet(&thread, &attributes, worker_main, NULL);
        (void)pthread_attr_destroy(&attributes);
        if (error != 0) {
            return; /* fewer workers: the caller's own drain() covers the rest */
        }
        started++;
    }
}

int
pfo_pool_default_threads(void)
{
    const char *wanted = getenv("PERFOPT_NUM_THREADS");
    int threads = wanted != NULL ? atoi(wanted) : 0;
    if (threads <= 0) {
        threads = pfo_usable_processors();
    }
    return threads < PFO_POOL_MAX_THREADS ? threads : PFO_POOL_MAX_THREADS;
}

int
pfo_pool_started_threads(void)
{
    pfo_mutex_lock(&lock);
    const int count = started;
    pfo_mutex_unlock(&lock);
    return count;
}

void
pfo_pool_run(int threads, int64_t count, int64_t grain, pfo_pool_body body, void *context)
{
    if (count <= 0) {
        return;
    }
    if (grain < 1) {
        grain = 1;
    }
    if (threads <= 0) {
        threads = pfo_pool_default_threads();
    }
    if (threads > PFO_POOL_MAX_THREADS) {
        threads = PFO_POOL_MAX_THREADS;
    }
    const int64_t worthwhile = count / grain;
    if (worthwhile < threads) {
        threads = (int)worthwhile;
    }
    if (threads <= 1) {
        body(context, 0, count);
        return;
    }
    (void)pthread_once(&fork_once, register_fork_handler);
    if (!pfo_mutex_trylock(&busy)) {
        body(context, 0, count);
        return;
    }
    const int64_t even_step = count / ((int64_t)threads * 8);
    pfo_mutex_lock(&lock);
    start_workers_locked(threads - 1);
    run.context = context;
    run.count = count;
    run.step = even_step > grain ? even_step : grain;
    atomic_store(&run.cursor, 0);
    run.seats = threads - 1;
    run.body = body;
    pfo_cond_broadcast(&work_ready);
    pfo_mutex_unlock(&lock);

    drain(&run);

    pfo_mutex_lock(&lock);
    run.seats = 0; /* late wakers find nothing to join */
    while (run.inside > 0) {
        pfo_cond_wait(&work_done, &lock);
    }
    run.body = NULL;
    pfo_mutex_unlock(&lock);
    pfo_mutex_unlock(&busy);
}
