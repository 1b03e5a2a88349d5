/* loader.h: finds, opens and checks the device backend, once in a process, and keeps the reason when there is none.
 *
 * - Where: the absolute path in PERFOPT_CUDA_LIB, else _backends/libperfopt_cuda.so in the folder of the shared object
 *   this code is part of. Never the current folder, never the system's library path. PERFOPT_CUDA=off disables it
 *   (auto, on and unset do not). Both variables are read at the first call.
 * - An opened backend is never closed: threads may be inside. pfo_backend_open() starts no driver; describing and
 *   requiring do, at their first call.
 * - Threads: every function is safe from any thread.
 * - Memory: results are constant and live as long as the process.
 */
#ifndef PFO_BACKEND_LOADER_H
#define PFO_BACKEND_LOADER_H

#include "base/status.h"
#include "backend/backend.h"

enum { PFO_BACKEND_REASON = 1024 };

typedef struct pfo_backend_info {
    const pfo_backend *backend; /* NULL when there is none, or no device it can use */
    const char *name;           /* the backend's name; "" when it could not be opened */
    const char *path;           /* absolute path that was tried; "" when there is none to try */
    const char *reason;         /* why backend is NULL; "" otherwise */
    int32_t device_count;       /* >= 1 when backend is not NULL */
} pfo_backend_info;

/* What this process found: opens and probes at the first call, which can take the driver some 100 ms. Never fails. */
const pfo_backend_info *pfo_backend_describe(void);

/* The usable backend, or PFO_DEVICE with the reason. */
pfo_status pfo_backend_require(const pfo_backend **backend, pfo_error *err);

/* Opens and checks one file; does not probe. 1 and *backend, or 0 and a reason that names the path (cut to reason_bytes).
 * pre: path is absolute. */
int pfo_backend_open(const char *path, const pfo_backend **backend, char *reason, size_t reason_bytes);

#endif
