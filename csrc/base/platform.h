/* platform.h: everything this project asks of the operating system beyond POSIX threads and clocks.
 *
 * platform_linux.c implements it for Linux, platform_other.c answers "unknown" (-1), PFO_UNAVAILABLE with a reason, or a sane
 * default elsewhere; the build compiles both files and each is empty on the other's system, so callers have no #ifdef.
 * Units: bytes, nanoseconds. Measured byte counts are int64_t, so that -1 can say "unknown".
 * Threads: every function is safe from any thread unless it says otherwise.
 * Fork: everything is right in the child too; kept-open files are opened anew there.
 */
#ifndef PFO_BASE_PLATFORM_H
#define PFO_BASE_PLATFORM_H

#include "base/status.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Processors this process may use: affinity mask, bounded by the cgroup's CPU quota (rounded up), at least 1. The quota is
 * read again at most every few seconds, so the call is cheap enough for a parallel loop's start. */
int pfo_usable_processors(void);

/* pthread_create() with every signal blocked in the new thread, so that Python's handlers keep running on Python's threads.
 * 0 or an errno value. */
int pfo_thread_create_quiet(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *),
                            void *argument);

/* Sleeps until the deadline of CLOCK_MONOTONIC (1), or until somebody has changed *word, which showed `seen` before, and called
 * pfo_word_wake() (0; may also return 0 for no reason). One system call, where a condition's timed wait takes two. */
int pfo_word_wait(_Atomic uint32_t *word, uint32_t seen, int64_t deadline_ns);
void pfo_word_wake(_Atomic uint32_t *word);

/* Processor time a running thread has used so far; -1 unknown. pre: the thread has not been joined. */
int64_t pfo_thread_cpu_ns(pthread_t thread);

/* The system's number of the calling thread, as other programs show it. */
int64_t pfo_thread_id(void);

/* The system's name of the calling thread, cut to room - 1 bytes; "" where there is none. pre: room >= 1. */
void pfo_thread_name(char *name, size_t room);

/* Inode of this process's pid namespace, which says what a pid means; 0 unknown. */
uint64_t pfo_pid_namespace(void);

/* The command line, arguments separated by spaces, cut to room - 1 bytes; "" unknown. pre: room >= 1. */
void pfo_process_command(char *command, size_t room);

int64_t pfo_page_size(void);

/* Resident set: pages of this process that are in memory now, shared ones included. -1 unknown. Costs one pread of a kept-open
 * file. Kernels before 6.2 may be behind by up to 64 pages per thread. */
int64_t pfo_process_rss(void);

/* Largest resident set of this program so far (not of the one before exec). -1 unknown. */
int64_t pfo_process_peak_rss(void);

/* Unique set: pages that belong to this process alone, so what its end would give back. -1 unknown. The kernel walks every map of
 * the process: tens of microseconds for a small one, milliseconds for a large one. */
int64_t pfo_process_uss(void);

/* Page faults so far: minor ones were served from memory, major ones waited for a disk. */
void pfo_process_faults(int64_t *minor, int64_t *major);

typedef struct pfo_machine_memory {
    int64_t total;     /* -1 unknown */
    int64_t available; /* what programs can get without swapping, page cache that can go counted in; -1 unknown */
} pfo_machine_memory;

/* root: prefix of /proc/meminfo, "" for this machine (see cgroup.h). */
pfo_machine_memory pfo_machine_memory_read(const char *root);

typedef struct pfo_heap_info {
    int64_t in_use;   /* handed out by malloc, over all arenas, mapped blocks included; -1 unknown */
    int64_t retained; /* free, but kept by malloc for reuse; untouched pages among it are not resident; -1 unknown */
} pfo_heap_info;

/* Walks malloc's free lists with its locks held: 1 us on a tidy heap, milliseconds on one with millions of free
 * blocks. */
pfo_heap_info pfo_heap_read(void);

/* Gives free pages of the heap back. *given_back: bytes by which the resident set fell (0 at least; other threads' work is
 * in it). May take milliseconds and costs page faults afterwards. PFO_UNAVAILABLE where malloc has no such call. */
pfo_status pfo_heap_trim(int64_t *given_back, pfo_error *err);

/* on: freed blocks stay in the process for reuse, so that tensors allocated and freed in every training step do not cost an
 * munmap, an mmap and a page fault per 4 KiB each time; memory once used is then not given back by free(), and holes between
 * blocks may raise the peak somewhat. off: free() gives back again (fixed thresholds; malloc's self-adjusting ones are gone for
 * good after any change) and the heap is trimmed. *given_back: as for trim; 0 for on. PFO_UNAVAILABLE where malloc has no
 * such setting. */
pfo_status pfo_heap_retain(int on, int64_t *given_back, pfo_error *err);

#endif
