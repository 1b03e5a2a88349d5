/* emulator.h: what tests control of the emulated CUDA runtime (cuda_runtime.h); found in the backend's library by dlsym(). Compiles as C. */
#ifndef PFO_EMULATOR_EMULATOR_H
#define PFO_EMULATOR_EMULATOR_H

#ifdef __cplusplus
extern "C" {
#endif

enum { EMULATOR_DEVICES = 2 };

/* What can be asked for by name. */
typedef struct emulator_controls {
    /* The n-th call of the runtime from now on fails, once (n >= 1); n == 0 switches injection off. What fails has done nothing. Returns
     * how many calls there were still to be until the failure. */
    long (*fail_at)(long n);
    void (*fail_alloc_at)(long n); /* the same for the backend's allocations on the host */
    int (*last_error)(void);       /* what the next cudaGetLastError() of anybody in the process will say */
    void (*begin_capture)(void);   /* of whatever stream */
    /* Ends it; the graph before is forgotten. Returns the number of kernels and memory operations in the graph. */
    long (*end_capture)(void);
    void (*replay)(void);
    long (*launches)(void); /* kernels launched or captured so far */
    int (*current_device)(void);
    void (*use_device)(int device);
    void (*set_multiprocessors)(int count);
} emulator_controls;

#define EMULATOR_SYMBOL "emulator_v1"
const emulator_controls *emulator_v1(void);

#ifdef __cplusplus
}
#endif

#endif
