/* pool.h: one process-wide pool of worker threads for loops over chunks.
 *
 * Contract: pfo_pool_run() calls body(context, begin, end) on disjoint ranges that cover [0, count) exactly once, on up to
 * `threads` threads (the caller is one of them), and returns when all are done. Ranges depend on timing, so body must give
 * the same result however [0, count) is cut: per-chunk results go to per-chunk slots and are summed in chunk order.
 * Threads: workers are started at the first parallel run and sleep on a condition between runs; they never spin, so they
 * take nothing from another library's pool. A run that finds the pool busy (another thread's run, or a body that calls
 * pfo_pool_run itself) does its whole range on its own thread. Workers never touch Python.
 * Fork: a child starts with an empty pool and makes its own workers on first use.
 * Memory: worker records only, allocated on first use, kept for the life of the process.
 */
#ifndef PFO_BASE_POOL_H
#define PFO_BASE_POOL_H

#include <stdint.h>

enum { PFO_POOL_MAX_THREADS = 256 };

typedef void (*pfo_pool_body)(void *context, int64_t begin, int64_t end);

/* Threads a run uses when asked for 0: PERFOPT_NUM_THREADS if set to a positive number, else the processors this process
 * may run on (affinity mask and cgroup quota), at least 1. */
int pfo_pool_default_threads(void);

/* grain: least number of indices worth handing to a thread (>= 1). threads <= 0 means the default. Cannot fail: when a
 * worker cannot be started the others, or the caller alone, do its share. */
void pfo_pool_run(int threads, int64_t count, int64_t grain, pfo_pool_body body, void *context);

/* Number of worker threads started so far in this process (for tests and `perfopt info`). */
int pfo_pool_started_threads(void);

#endif
