/* nvml.h: memory of the NVIDIA devices as the driver counts it, over all processes, without linking to it.
 *
 * The library is opened by name when it is first asked for and stays open with its session: both cost milliseconds. It counts what
 * CUDA contexts and other processes take too, so its figures are larger than those of torch's allocator.
 * Refusals: a device that gives no figures is told apart with the reason, and the others are still read. An answer that says
 * that the session is over (driver restarted or reloaded, device lost) makes a later read close it, library included, and open
 * another: the next read the first time, after that not before PFO_NVML_FIRST_PAUSE_NS have passed, twice as long after each
 * failure up to PFO_NVML_LONGEST_PAUSE_NS, so that a driver that stays away costs nothing. The same holds for a start that fails.
 * Until then devices that still answer in the old session are read in it.
 * Threads: pfo_nvml_read() is safe from any thread (NVML is). Fork: NVML sessions are not fork-safe; the child opens its own.
 */
#ifndef PFO_MONITOR_NVML_H
#define PFO_MONITOR_NVML_H

#include "base/status.h"

#include <stdint.h>

enum { PFO_NVML_MAX_DEVICES = 64, PFO_NVML_REASON = 96 };
#define PFO_NVML_FIRST_PAUSE_NS INT64_C(1000000000)
#define PFO_NVML_LONGEST_PAUSE_NS INT64_C(64000000000)

typedef struct pfo_nvml_memory {
    int64_t total; /* bytes; what does not fit saturates; -1: the device refused */
    int64_t used;  /* by all processes, and what the driver keeps */
    int64_t free;
    char reason[PFO_NVML_REASON]; /* why it refused; "" if it did not */
} pfo_nvml_memory;

/* Fills memory[0 .. *count) in NVML's order, devices that refuse included; *count is at most PFO_NVML_MAX_DEVICES. library: name or
 * path for dlopen(), used when a session is opened. now_ns: CLOCK_MONOTONIC, for the pauses. PFO_UNAVAILABLE, with the reason,
 * without library, driver or one of the calls, and in a pause after that. */
pfo_status pfo_nvml_read(const char *library, int64_t now_ns, pfo_nvml_memory *memory, int *count, pfo_error *err);

#endif
