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
 * PFO_BAD_ARGUMENT for what the backend does not know yet: another operation than AdamW, memory that is not float32, AMSGrad, copies
 * and averages. pre: every entry has a step; backend and plan outlive the run. */
pfo_status pfo_device_run_create(const pfo_backend *backend, int32_t device, const pfo_plan *plan, pfo_device_run **run,
                                 int64_t *bytes, pfo_error *err);
void pfo_device_run_destroy(pfo_device_run *run); /* NULL is allowed */

/* Enqueues the tables. To be called once, before the first step. */
pfo_status pfo_device_run_start(pfo_device_run *run, void *workspace, int64_t bytes, void *stream, pfo_error *err);
int pfo_device_run_started(const pfo_device_run *run);

/* Enqueues one step. groups as for pfo_execute_step(); device_lr[group] is NULL or the learning rate's slot on the device.
 * request->step and ->threads have no meaning here. PFO_BAD_ARGUMENT for coupled decay, a gradient that is not float32, and what else
 * of the request the backend does not know yet. */
pfo_status pfo_execute_device_step(pfo_device_run *run, const pfo_options *groups, const float *const *device_lr,
                                   const pfo_step_request *request, void *stream, pfo_error *err);

/* Waits for the stream and gives the state as the last step left it. */
pfo_status pfo_execute_device_read(pfo_device_run *run, void *stream, pfo_backend_state *state, pfo_error *err);

#endif
