/* sampler.h: a thread that takes memory samples at a set rate into a ring of fixed size.
 *
 * Contract: the ring keeps the newest `capacity` samples; older ones are overwritten and counted. Samples come from the
 * sampler's own thread between start and stop, and from any thread that calls pfo_sampler_sample().
 * Threads: every function is safe from any thread, and each returns without waiting for anybody's work but a sample in
 * progress; none may be called during or after pfo_sampler_destroy(). The sampler's thread has all signals blocked, never
 * touches Python and takes no lock of its callers, so stopping it cannot deadlock, with or without the GIL.
 * Fork: in the child the sampler is stopped and its ring is empty (those samples were the parent's); it can be started.
 * Memory: capacity * sizeof(pfo_memory_sample) bytes at creation, whose pages become resident as samples arrive; the thread has a
 * small stack. Nothing is allocated while sampling.
 */
#ifndef PFO_MONITOR_SAMPLER_H
#define PFO_MONITOR_SAMPLER_H

#include "base/status.h"
#include "monitor/probes.h"

#include <stdint.h>

enum { PFO_SAMPLER_MAX_CAPACITY = 1 << 24 };
#define PFO_SAMPLER_MIN_INTERVAL_NS INT64_C(100000)               /* 10 kHz */
#define PFO_SAMPLER_MAX_INTERVAL_NS (INT64_C(86400) * 1000000000) /* a day */

typedef struct pfo_sampler pfo_sampler;

/* Fills a sample; called with the sampler's lock held, from one thread at a time. */
typedef void (*pfo_sampler_probe)(void *context, pfo_memory_sample *sample);

typedef struct pfo_sampler_counts {
    int64_t interval_ns;
    int64_t capacity;
    int64_t held;     /* samples in the ring */
    int64_t taken;    /* samples since creation or clear; taken - held were overwritten */
    int64_t missed;   /* turns of the thread that were skipped because it came too late for them */
    int64_t peak_rss; /* largest rss among all samples taken; -1 with none */
    int64_t probe_ns; /* wall time spent taking the samples of `taken` */
    int64_t cpu_ns;   /* processor time of the sampling thread, all its runs together, sleeping and waking included;
                         -1 unknown */
    int running;
} pfo_sampler_counts;

/* probe NULL means the real probes (context is then not used). PFO_BAD_ARGUMENT names interval or capacity outside
 * [MIN_INTERVAL, MAX_INTERVAL] and [1, MAX_CAPACITY]; PFO_NO_MEMORY, and what pfo_probes_open() gives. */
pfo_status pfo_sampler_create(int64_t interval_ns, int64_t capacity, pfo_sampler_probe probe, void *context,
                              pfo_sampler **created, pfo_error *err);

/* Stops the thread and frees everything. NULL is allowed. */
void pfo_sampler_destroy(pfo_sampler *sampler);

/* Starts the thread, first sample at once; interval_ns 0 keeps the interval. PFO_STATE if it runs already, PFO_BAD_ARGUMENT for
 * the interval, PFO_UNAVAILABLE when no thread can be started. Waits for a stop in progress. */
pfo_status pfo_sampler_start(pfo_sampler *sampler, int64_t interval_ns, pfo_error *err);

/* Stops and joins the thread; returns when it is gone, also when another caller stops it. Nothing if none runs. */
void pfo_sampler_stop(pfo_sampler *sampler);

/* Takes a sample now, on this thread, into the ring and into *sample (NULL allowed). */
void pfo_sampler_sample(pfo_sampler *sampler, pfo_memory_sample *sample);

/* CUDA figures of now, which the samples of the real probes repeat, with the time returned, until they are noted again, or forgotten by
 * a clear or in a forked child. Bytes, >= 0. */
int64_t pfo_sampler_note_cuda(pfo_sampler *sampler, int64_t allocated, int64_t reserved, int64_t total);

/* Copies the newest min(room, held) samples, oldest of them first; their number. */
int64_t pfo_sampler_copy(pfo_sampler *sampler, pfo_memory_sample *samples, int64_t room);

/* Largest rss among the held samples taken at or after a moment of CLOCK_MONOTONIC; -1 with none. Looks at these only. */
int64_t pfo_sampler_peak_since(pfo_sampler *sampler, int64_t time_ns);

/* Empties the ring, forgets noted figures and sets all counters but cpu_ns to zero. */
void pfo_sampler_clear(pfo_sampler *sampler);

void pfo_sampler_count(pfo_sampler *sampler, pfo_sampler_counts *counts);

#endif
