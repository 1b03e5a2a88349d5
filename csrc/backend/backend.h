/* backend.h: the ABI between perfopt and a device backend, a shared object of its own that is opened at run time.
 *
 * A backend exports one symbol, PFO_BACKEND_SYMBOL, a pfo_backend_entry: it returns a constant table of function
 * pointers that begins with its version and size. The first two fields and the symbol never change meaning; everything
 * behind them may change with PFO_BACKEND_ABI_VERSION. Compiles as C and as C++; fixed-width types only.
 *
 * Rules for every function of the table:
 * - Errors: returns a pfo_backend_code; on failure fills *err (may be NULL) and changes nothing it was given. No
 *   exception leaves the backend; nothing prints, exits or aborts.
 * - Streams: `stream` is the device's native handle (cudaStream_t; NULL is the default stream). Functions that take one
 *   only enqueue work on it and return: no synchronisation, no allocation, no copy from host memory that the device
 *   would read later (tables travel as kernel parameters). So all of them may be captured into a graph and replayed.
 *   The exceptions say so in their names: read_state_and_wait(), digest_pieces_and_wait(); and plan_create() refuses.
 * - Devices: an index into the backend's devices, part of the plan. The calling thread's current device is the same
 *   after a call as before it, unless the process has never used that one: going back would create its context.
 * - Memory: the backend owns no device memory. The caller gives each plan a workspace and keeps it, and all tensors,
 *   alive until the work enqueued with them is done, and as long as a graph that captured it may be replayed. Counts
 *   are int64_t elements, sizes int64_t bytes.
 * - Threads: the table is constant; a plan belongs to one thread at a time. Different plans are independent.
 * - Order: work of one plan goes to one stream, or the caller orders its streams by events.
 * - Fork: a child of a process that has used a device cannot use it again; calls then report PFO_BACKEND_DEVICE.
 *
 * One optimizer step is two enqueued kernels for any number of tensors: norm() reads all gradients and leaves its
 * findings in the pfo_backend_state at the start of the workspace; update() reads them there. Nothing returns to the
 * host.
 */
#ifndef PFO_BACKEND_BACKEND_H
#define PFO_BACKEND_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "kernels/update_math.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PFO_BACKEND_ABI_VERSION 2
#define PFO_BACKEND_SYMBOL "perfopt_backend_v1"

typedef enum pfo_backend_code {
    PFO_BACKEND_OK = 0,
    PFO_BACKEND_BAD_ARGUMENT = 1,
    PFO_BACKEND_NO_MEMORY = 2,   /* of the host; the backend allocates none on the device */
    PFO_BACKEND_UNAVAILABLE = 3, /* no driver, no device, or one too old for this backend */
    PFO_BACKEND_DEVICE = 4       /* the device or its driver reported an error */
} pfo_backend_code;

typedef struct pfo_backend_error {
    int32_t device_code; /* the driver's own number (cudaError_t), 0 if none */
    char text[236];      /* NUL-terminated, cut if too long */
} pfo_backend_error;

/* What a tensor does in a step; the numbers of pfo_role in kernels/plan.h, which says more. Operations are those of pfo_op, dtypes
 * those of pfo_dtype. */
typedef enum pfo_backend_role {
    PFO_BACKEND_WEIGHT = 0,
    PFO_BACKEND_GRAD = 1,
    PFO_BACKEND_STATE_1 = 2,
    PFO_BACKEND_STATE_2 = 3,
    PFO_BACKEND_STATE_3 = 4,
    PFO_BACKEND_COPY = 5,
    PFO_BACKEND_EMA = 6,
    PFO_BACKEND_ROLE_COUNT = 7
} pfo_backend_role;
enum { PFO_BACKEND_STATE_COUNT = 3 };

/* Of matrix products; float32 is none of them. */
typedef enum pfo_backend_matmul_dtype {
    PFO_BACKEND_MATMUL_BFLOAT16 = 1,
    PFO_BACKEND_MATMUL_FLOAT16 = 2,
    PFO_BACKEND_MATMUL_FLOAT8_E4M3 = 3 /* of A and B only; needs scale_a and scale_b */
} pfo_backend_matmul_dtype;

/* What a matrix product does with its result before it is stored. gelu is the tanh form. */
typedef enum pfo_backend_epilogue {
    PFO_BACKEND_PLAIN = 0,         /* D = A B */
    PFO_BACKEND_BIAS = 1,          /* D = A B + bias, bias: [n] */
    PFO_BACKEND_GELU = 2,          /* D = gelu(A B) */
    PFO_BACKEND_GELU_BIAS = 3,     /* D = gelu(A B + bias) */
    PFO_BACKEND_GELU_AUX = 4,      /* aux = A B,        D = gelu(aux) */
    PFO_BACKEND_GELU_AUX_BIAS = 5, /* aux = A B + bias, D = gelu(aux) */
    PFO_BACKEND_DGELU = 6,         /* D = A B * gelu'(aux) */
    PFO_BACKEND_DGELU_BGRAD = 7,   /* the same, and bias = sums of D over its rows, [n] */
    PFO_BACKEND_BGRAD = 8 /* D = A B, and bias = sums of A over k, [m]: with A a transposed gradient, the bias's */
} pfo_backend_epilogue;

typedef struct pfo_backend_device {
    char name[128];
    int32_t compute_major;
    int32_t compute_minor;
    int32_t multiprocessors;
    int32_t reserved;
    int64_t total_bytes;
} pfo_backend_device;

typedef struct pfo_backend_memory {
    int64_t free_bytes; /* of the whole device, all processes counted */
    int64_t total_bytes;
    int64_t allocated_bytes; /* by this process, -1 where the driver does not tell */
} pfo_backend_memory;

/* One parameter and what belongs to it; all addresses are of the plan's device and aligned to the element size. A NORM looks at the
 * gradient alone. */
typedef struct pfo_backend_tensor {
    void *data[PFO_BACKEND_ROLE_COUNT];     /* NULL: the tensor has no such role, or no elements */
    float *scales[PFO_BACKEND_STATE_COUNT]; /* of states in BLOCK8 or UBLOCK8, else NULL */
    float *step;    /* one float32: steps this parameter has taken; NULL where none are counted */
    int64_t count;  /* elements, >= 0 */
    int32_t group;  /* index into the groups of the step */
    int32_t stream; /* of random bits (kernels/rounding_math.h) */
    int32_t dtype
        [PFO_BACKEND_ROLE_COUNT]; /* pfo_dtype; gradients are FLOAT32, BFLOAT16 or FLOAT16, 8-bit blocks are of states only */
    int32_t has_grad;             /* 0: the parameter and its step count stay as they are */
    int32_t first;                /* 1: its state held nothing when the plan was made; the first step taken ends that */
    int32_t reserved;
} pfo_backend_tensor;

typedef struct pfo_backend_plan_spec {
    int32_t device;
    int32_t op; /* pfo_op */
    int64_t tensor_count;
    const pfo_backend_tensor *tensors; /* host memory, copied */
    int32_t group_count;               /* >= 1 */
    int32_t reserved;
    void *workspace; /* device memory, aligned to 256 bytes; may be NULL for plan_bytes() */
    int64_t workspace_bytes;
} pfo_backend_plan_spec;

/* Options of a group, in host memory; passed by value with each step. Under graph replay the values are those of the capture,
 * except the learning rate when it has a slot on the device. */
typedef struct pfo_backend_group {
    pfo_options options;    /* of the plan's operation; ranges as in kernels/<name>_math.h */
    const float *device_lr; /* NULL, or one float32 on the device that is read by each step instead of lr */
} pfo_backend_group;

/* The same step is given to norm() and to update(). */
typedef struct pfo_backend_step {
    double max_grad_norm;                /* < 0: no clipping */
    double unscale;                      /* gradients are multiplied by it (1 without a loss scale) ... */
    double ema_decay;                    /* of tensors with an EMA */
    const float *grad_scale;             /* ... and divided by this float32 on the device, unless NULL */
    const float *found_inf;              /* NULL, or a float32 on the device: anything but 0 skips the step */
    const int64_t *device_rounding_step; /* NULL, or an int64 on the device that is read instead of rounding_step */
    const pfo_backend_group *groups;     /* [group_count] of the plan; NULL for a NORM */
    uint64_t seed;                       /* of the run's random bits */
    uint64_t rounding_step;              /* number of this step, < 2^30: with the seed it fixes the random bits */
    int32_t skip_nonfinite;              /* 1: inf or NaN in any gradient means that update() changes nothing ... */
    int32_t skip_anyway;                 /* 1: as if found_inf said so */
    int32_t stochastic;                  /* 1: what is below 32 bits is rounded at random (kernels/rounding_math.h) */
    int32_t zero_grads; /* 1: ... but gradients are zero afterwards. pre: no two of them share memory */
} pfo_backend_step;

/* Lies at the start of the workspace; written by norm() at its end. Bias corrections are kept per tensor, behind it, because
 * parameters without a gradient do not count a step. */
typedef struct pfo_backend_state {
    double norm;        /* global, of the unscaled gradients; inf or NaN when they are */
    double clip_factor; /* min(1, max_grad_norm / (norm + 1e-6)), 1 without clipping */
    double multiplier;  /* unscale / grad_scale * clip_factor: what update() multiplies gradients by */
    int64_t taken;      /* steps since the plan was made */
    int64_t skipped;    /* steps not taken since then */
    int32_t nonfinite;  /* 1: this step's gradients have inf or NaN */
    int32_t skip;       /* 1: update() is to change nothing */
    int64_t reserved[2];
} pfo_backend_state;

/* D = epilogue(op(A) op(B)), all matrices in rows: D and aux [m, n], op(A) [m, k], op(B) [k, n]. Sums are float32, also where the product
 * is split. Rows begin `ld` elements apart. A dtype, alignment or size that no kernel of the device can do is UNAVAILABLE. */
typedef struct pfo_backend_matmul {
    const void *a; /* [m, k], or [k, m] when transpose_a */
    const void *b; /* [k, n], or [n, k] when transpose_b */
    void *d;
    void *bias;           /* read or written as the epilogue says, else NULL; dtype_d */
    void *aux;            /* likewise */
    const float *scale_a; /* on the device: A stands for A * scale_a; NULL: 1 */
    const float *scale_b;
    void *workspace; /* device memory, aligned to 256 bytes */
    int64_t workspace_bytes;
    int64_t m; /* >= 1, as n and k */
    int64_t n;
    int64_t k;
    int64_t ld_a;
    int64_t ld_b;
    int64_t ld_d;
    int64_t ld_aux;
    int32_t device;
    int32_t dtype; /* pfo_backend_matmul_dtype of A and B */
    int32_t dtype_d;
    int32_t epilogue; /* pfo_backend_epilogue */
    int32_t transpose_a;
    int32_t transpose_b;
} pfo_backend_matmul;

typedef struct pfo_backend_plan pfo_backend_plan; /* opaque */

enum {
    PFO_BACKEND_DIGEST_BYTES = 16,
    PFO_BACKEND_PIECE_UNIT = 1024,      /* pieces are a multiple of it ... */
    PFO_BACKEND_PIECE_MAX = 256 * 1024, /* ... up to this */
    PFO_BACKEND_SHORT_PIECE = 240,      /* a last piece of at most so many bytes is handed to the host as it is */
};

/* Contiguous memory of the device, cut into pieces of which the last one may be shorter. */
typedef struct pfo_backend_pieces {
    const void *data; /* of any alignment; not NULL when bytes > 0 */
    int64_t bytes;    /* >= 0 */
    int64_t piece_bytes;
    void *scratch; /* device memory, PFO_BACKEND_DIGEST_BYTES for each piece, aligned to 16 bytes */
    int64_t scratch_bytes;
    unsigned char
        *digests;        /* host memory, PFO_BACKEND_DIGEST_BYTES for each piece; not written for a short last piece */
    unsigned char *rest; /* host memory, PFO_BACKEND_SHORT_PIECE bytes: a short last piece itself */
    int32_t device;
    int32_t reserved;
} pfo_backend_pieces;

typedef struct pfo_backend {
    uint32_t abi_version; /* PFO_BACKEND_ABI_VERSION the backend was built with */
    uint32_t struct_size; /* sizeof(pfo_backend) there */
    const char *name;     /* "cuda" */

    /* Starts the driver and counts devices. PFO_BACKEND_UNAVAILABLE with the reason when there is no driver or no
     * device. */
    int32_t (*probe)(int32_t *device_count, pfo_backend_error *err);
    int32_t (*describe)(int32_t device, pfo_backend_device *out, pfo_backend_error *err);
    /* Creates the device's context if this process has none yet (a few hundred MB on the device). */
    int32_t (*memory)(int32_t device, pfo_backend_memory *out, pfo_backend_error *err);

    /* Bytes of workspace a plan of this spec needs. Touches no device. */
    int32_t (*plan_bytes)(const pfo_backend_plan_spec *spec, int64_t *bytes, pfo_backend_error *err);
    /* Checks the spec, loads the kernels and enqueues the tables and a zeroed state. On failure *plan is NULL. Not for capture:
     * BAD_ARGUMENT. */
    int32_t (*plan_create)(const pfo_backend_plan_spec *spec, void *stream, pfo_backend_plan **plan,
                           pfo_backend_error *err);
    /* Pointers, has_grad and the gradients' dtypes may have changed; count, other dtypes and group may not (make a new plan). Enqueues only what differs from
     * the last call, and nothing when nothing does. Each step that is captured begins with it. */
    int32_t (*plan_update)(pfo_backend_plan *plan, const pfo_backend_tensor *tensors, int64_t tensor_count,
                           void *stream, pfo_backend_error *err);
    /* Frees host memory only; enqueued work may still be running. NULL is allowed. */
    void (*plan_destroy)(pfo_backend_plan *plan);

    /* Pass 1: norm, non-finite flag, clip factor, skip decision and per-tensor scalars. One launch. The norm is the same in
     * every bit for any device of this backend: partial sums belong to chunks and are added in a fixed order. */
    int32_t (*norm)(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err);
    /* Pass 2: the update of all tensors that have a gradient, or nothing when the state says skip. One launch.
     * pre: norm() was enqueued before it with the same step, once for each call. */
    int32_t (*update)(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err);

    /* Copies the state to the host and waits for the stream to get there. Not for capture. */
    int32_t (*read_state_and_wait)(pfo_backend_plan *plan, void *stream, pfo_backend_state *out,
                                   pfo_backend_error *err);

    /* XXH3-128 (seed 0, canonical form) of each piece, and a wait for them. One launch. Not for capture. */
    int32_t (*digest_pieces_and_wait)(const pfo_backend_pieces *pieces, void *stream, pfo_backend_error *err);

    /* One matrix product. UNAVAILABLE with the reason where the library for it is missing or has no kernel for this one; nothing
     * was enqueued then. The first product of a shape looks for a kernel and keeps it; it, and the first of a device, is not for
     * capture. Safe from any thread. */
    int32_t (*matmul)(const pfo_backend_matmul *product, void *stream, pfo_backend_error *err);
} pfo_backend;

typedef const pfo_backend *(*pfo_backend_entry)(void);

#ifdef __cplusplus
}
#endif

#endif
