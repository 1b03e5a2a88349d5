/* nvml.h: memory of the NVIDIA devices as the driver counts it, over all processes, without linking to it.
 *
 * The library is opened by name when it is first asked for and stays open with its session: both cost milliseconds. It counts what
 * CUDA contexts and other processes take too, so its figures are larger than those of torch's allocator.
 * Threads: pfo_nvml_read() is safe from any thread (NVML is). Fork: NVML sessions are not fork-safe; the child opens its own.
 */
#ifndef PFO_MONITOR_NVML_H
#define PFO_MONITOR_NVML_H

#include "base/status.h"

#include <stdint.h>

enum { PFO_NVML_MAX_DEVICES = 64 };

typedef struct pfo_nvml_memory {
    int64_t total; /* bytes; what does not fit saturates */
    int64_t used;  /* by all processes, and what the driver keeps */
    int64_t free;
} pfo_nvml_memory;

/* Fills memory[0 .. *count) in NVML's order; *count is at most PFO_NVML_MAX_DEVICES. library: name or path for dlopen(), remembered from
 * the first call that succeeds. PFO_UNAVAILABLE, with the reason, without library, driver or one of the calls. */
pfo_status pfo_nvml_read(const char *library, pfo_nvml_memory *memory, int *count, pfo_error *err);

#endif
