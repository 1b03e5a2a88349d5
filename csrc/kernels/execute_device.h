/* execute_device.h: the step of execute.h on a device, through a backend: the same plan, its pointers being the device's.
 *
 * Nothing waits for the device but pfo_execute_device_read(). Norm, clip factor and whether the step was taken stay there; step
 * counts (entry.step) are the device's too. Memory: the caller gives the workspace and keeps it, and all tensors, alive until
 * the work on the stream is done. Threads: one thread at a time. Errors: PFO_BAD_ARGUMENT, PFO_NO_MEMORY, PFO_DEVICE with the
 * backend's text.
 */
#ifndef PFO_KERNELS_EXECUTE_DEVICE_H
#define PFO_KERNELS_EXECUTE_DEVICE_H

#include "backend/backend.h"
#include "kernels/execute.h"

typedef struct pfo_device_run pfo_device_run;

/* Prepares runs of plan on a device of backend; *bytes of workspace, aligned to 256, are needed. On failure *run is NULL.
 * PFO_BAD_ARGUMENT for what the backend refuses. pre: backend and plan outlive the run. */
pfo_status pfo_device_run_create(const pfo_backend *backend, int32_t device, pfo_plan *plan, pfo_device_run **run,
                                 int64_t *bytes, pfo_error *err);
void pfo_device_run_destroy(pfo_device_run *run); /* NULL is allowed */

/* Enqueues the tables. To be called once, before the first step. */
pfo_status pfo_device_run_start(pfo_device_run *run, void *workspace, int64_t bytes, void *stream, pfo_error *err);
int pfo_device_run_started(const pfo_device_run *run);

/* What a step may read on the device, so that it can change under a captured graph; each may be NULL. */
typedef struct pfo_device_slots {
    const float *grad_scale;      /* gradients are divided by it, beside request->unscale */
    const float *found_inf;       /* anything but 0 skips the step */
    const int64_t *rounding_step; /* instead of request->rounding_step */
} pfo_device_slots;

/* Enqueues one step. groups as for pfo_execute_step(); device_lr[group] is NULL or the learning rate's slot on the device; slots may be
 * NULL. request->step and ->threads have no meaning here. PFO_BAD_ARGUMENT for zero_grads where gradients share memory, and for what the
 * backend refuses. A tensor's `first` ends on the device with its first step taken there. */
pfo_status pfo_execute_device_step(pfo_device_run *run, const pfo_options *groups, const float *const *device_lr,
                                   const pfo_device_slots *slots, const pfo_step_request *request, void *stream,
                                   pfo_error *err);

/* Waits for the stream and gives the state as the last step left it. */
pfo_status pfo_execute_device_read(pfo_device_run *run, void *stream, pfo_backend_state *state, pfo_error *err);

#endif
