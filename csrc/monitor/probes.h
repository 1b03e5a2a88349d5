/* probes.h: one memory sample of this process, taken with files kept open and calls kept within a cost budget.
 *
 * Owns: a pfo_probes owns its kept-open cgroup file. Memory: nothing is allocated after pfo_probes_open().
 * Threads: one thread at a time per pfo_probes. Fork: usable in the child, where it shows the child.
 * Never touches Python.
 */
#ifndef PFO_MONITOR_PROBES_H
#define PFO_MONITOR_PROBES_H

#include "base/cgroup.h"
#include "base/procfile.h"
#include "base/status.h"

#include <stdint.h>

/* X(field, text): every figure of a sample once. Bytes, except times and counts; -1 where this machine does not tell. */
#define PFO_SAMPLE_FIELDS(X)                                                                                           \
    X(time_ns, "CLOCK_MONOTONIC nanoseconds")                                                                          \
    X(rss, "resident set of the process")                                                                              \
    X(cgroup_usage, "charged to the process's cgroup, page cache included")                                            \
    X(limit, "effective limit: smallest of cgroup limits and machine memory")                                          \
    X(heap_in_use, "handed out by malloc")                                                                             \
    X(heap_retained, "free but kept by malloc")                                                                        \
    X(minor_faults, "page faults served from memory since the process began")                                          \
    X(major_faults, "page faults that waited for a disk since the process began")                                      \
    X(uss, "unique set: pages of this process alone")                                                                  \
    X(throttled, "times the cgroup was throttled at memory.high")                                                      \
    X(limit_hits, "times an allocation met the cgroup's hard limit")                                                   \
    X(oom_kills, "processes of the cgroup killed for want of memory")                                                  \
    X(cuda_allocated, "handed out by the program's CUDA allocator, all devices, as noted at cuda_time_ns")             \
    X(cuda_reserved, "that allocator's share of the devices, as noted then")                                           \
    X(cuda_total, "memory of the devices")                                                                             \
    X(cuda_time_ns, "CLOCK_MONOTONIC nanoseconds at which the CUDA figures were noted")

typedef struct pfo_memory_sample {
#define PFO_SAMPLE_MEMBER(field, text) int64_t field;
    PFO_SAMPLE_FIELDS(PFO_SAMPLE_MEMBER)
#undef PFO_SAMPLE_MEMBER
} pfo_memory_sample;

/* Where the effective limit comes from. X(enumerator, name) */
#define PFO_LIMIT_SOURCES(X)                                                                                           \
    X(UNKNOWN, "unknown")                                                                                              \
    X(MACHINE, "machine")                                                                                              \
    X(CGROUP_V1, "cgroup v1")                                                                                          \
    X(CGROUP_V2, "cgroup v2")

typedef enum pfo_limit_source {
#define PFO_LIMIT_ENUM(id, name) PFO_LIMIT_##id,
    PFO_LIMIT_SOURCES(PFO_LIMIT_ENUM)
#undef PFO_LIMIT_ENUM
        PFO_LIMIT_SOURCE_COUNT
} pfo_limit_source;

const char *pfo_limit_source_name(pfo_limit_source source);

/* min(cgroup limit, cgroup high, machine total) over those that are known; -1 and UNKNOWN if none is. */
int64_t pfo_effective_limit(const pfo_cgroup_memory *cgroup, int version, int64_t machine_total,
                            pfo_limit_source *source);

typedef struct pfo_probes {
    char root[256]; /* prefix of /proc and /sys, "" outside tests; the process's own figures do not use it */
    pfo_cgroup group;
    pfo_kept_file usage;    /* the group's usage file */
    pfo_memory_sample last; /* what is repeated until it is due again */
    int faulting;           /* page faults were seen when they were last counted */
    int64_t machine_total;
    int64_t brisk_due_ns; /* usage, and rss and faults whatever was seen */
    int64_t heap_due_ns;  /* malloc's lists are walked again from then on */
    int64_t events_due_ns;
    int64_t limit_due_ns;
    int64_t machine_due_ns; /* the machine's memory, which only hot-plugging changes */
    int64_t uss_due_ns;
} pfo_probes;

/* Finds the cgroup and its usage file. PFO_NO_MEMORY, PFO_IO, PFO_OVERFLOW (a path or root that is too long); missing files
 * are no error. */
pfo_status pfo_probes_open(pfo_probes *probes, const char *root, pfo_error *err);

/* Takes a sample. time is fresh; what else is read depends on the process, so that a turn costs one system call beside what is due:
 *   while no page faults come in, faults are counted in each sample, and rss, which grows by faults, is read when they moved;
 *   while faults come in, rss is read in each sample and faults are counted every 100 ms.
 * So growth by faults (touching, MAP_POPULATE, mlock, reading a mapped file) shows in the next sample; what no fault of this process
 * goes with (a fall; pages put in by userfaultfd, a driver, the collapse into huge pages or another process) at most 100 ms late. The rest is repeated from the last time it was read: usage for at most 100 ms, events and uss for a second, limit for five
 * (the machine's part of it for a minute), the heap figures for 100 ms, and both walks longer while a new one (over malloc's
 * free lists; over the maps, in the kernel) would take more than 1/4000 of the time. */
void pfo_probes_read(pfo_probes *probes, pfo_memory_sample *sample);

/* The next sample reads rss whatever faults say: for samples that somebody asked for, who may just have freed something. */
void pfo_probes_want_resident(pfo_probes *probes);

/* The CUDA figures that samples repeat from now on, with the time at which they were true; -1 each: not known. The allocator can only
 * be asked by Python code, which therefore tells them (bindings/core/monitor_type.c): a probe never asks a device. */
void pfo_probes_note_cuda(pfo_probes *probes, int64_t time_ns, int64_t allocated, int64_t reserved, int64_t total);

/* In a forked child: everything is read anew at the next sample. */
void pfo_probes_forget(pfo_probes *probes);

void pfo_probes_close(pfo_probes *probes);

#endif
