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
 *   The exceptions say so in their names: read_state_and_wait(), digest_pieces_and_wait().
 * - Devices: an index into the backend's devices, part of the plan. The calling thread's current device is the same
 *   after a call as before it.
 * - Memory: the backend owns no device memory. The caller gives each plan a workspace and keeps it, and all tensors,
 *   alive until the work enqueued with them is done, and as long as a graph that captured it may be replayed. Counts
 *   are int64_t elements, sizes int64_t bytes.
 * - Threads: the table is constant; a plan belongs to one thread at a time. Different plans are independent.
 * - Order: work of one plan goes to one stream, or the caller orders its streams by events.
 * - Fork: a child of a process that has used a device cannot use it again; calls then report PFO_BACKEND_DEVICE.
 *
 * One optimizer step is two enqueued kernels for any number of tensors: norm() reads all gradients and leaves its
 * findings in the pfo_backend_state at the start of the workspace; adamw() reads them there. Nothing returns to the
 * host.
 */
#ifndef PFO_BACKEND_BACKEND_H
#define PFO_BACKEND_BACKEND_H

#include <stddef.h>
#include <stdint.h>

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

/* Same numbers as pfo_dtype and pfo_op of kernels/tensor.h; the backend asserts it. */
typedef enum pfo_backend_dtype { PFO_BACKEND_FLOAT32 = 0 } pfo_backend_dtype;
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

typedef enum pfo_backend_op { PFO_BACKEND_NORM = 0, PFO_BACKEND_ADAMW = 1 } pfo_backend_op;

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

/* One parameter and what belongs to it; all addresses are of the plan's device and aligned to the element size. */
typedef struct pfo_backend_tensor {
    void *param;      /* param, exp_avg, exp_avg_sq, step: not used by PFO_BACKEND_NORM */
    const void *grad; /* ignored when has_grad is 0 */
    void *exp_avg;
    void *exp_avg_sq;
    float *step;      /* one float32: steps this parameter has taken; read by norm(), counted up by adamw() */
    int64_t count;    /* elements, >= 0; pointers of a tensor of no elements are ignored, except step */
    int32_t group;    /* index into the groups of the step */
    int32_t dtype;    /* pfo_backend_dtype of param, grad and moments */
    int32_t has_grad; /* 0: the parameter and its step count stay as they are */
    int32_t reserved;
} pfo_backend_tensor;

typedef struct pfo_backend_plan_spec {
    int32_t device;
    int32_t op; /* pfo_backend_op */
    int64_t tensor_count;
    const pfo_backend_tensor *tensors; /* host memory, copied */
    int32_t group_count;               /* >= 1 */
    int32_t reserved;
    void *workspace; /* device memory, aligned to 256 bytes; may be NULL for plan_bytes() */
    int64_t workspace_bytes;
} pfo_backend_plan_spec;

/* Options of a group, in host memory; passed by value with each step. Under graph replay the values are those of the capture,
 * except the learning rate when it has a slot on the device. Ranges as in kernels/update_math.h. */
typedef struct pfo_backend_group {
    double lr;
    double beta1;
    double beta2;
    double eps;
    double weight_decay;
    const float *device_lr; /* NULL, or one float32 on the device that is read by each step instead of lr */
    int32_t maximize;
    int32_t reserved;
} pfo_backend_group;

typedef struct pfo_backend_step {
    double max_grad_norm;            /* < 0: no clipping */
    double unscale;                  /* gradients are multiplied by it (1 without a loss scale) ... */
    const float *grad_scale;         /* ... and divided by this float32 on the device, unless NULL */
    const float *found_inf;          /* NULL, or a float32 on the device: anything but 0 skips the step */
    const pfo_backend_group *groups; /* [group_count] of the plan; NULL for PFO_BACKEND_NORM */
    int32_t skip_nonfinite;          /* 1: inf or NaN in any gradient means that adamw() changes nothing at all */
    int32_t reserved;
} pfo_backend_step;

/* Lies at the start of the workspace; written by norm() at its end. Bias corrections are kept per tensor, behind it, because
 * parameters without a gradient do not count a step. */
typedef struct pfo_backend_state {
    double norm;        /* global, of the unscaled gradients; inf or NaN when they are */
    double clip_factor; /* min(1, max_grad_norm / (norm + 1e-6)), 1 without clipping */
    double multiplier;  /* unscale / grad_scale * clip_factor: what adamw() multiplies gradients by */
    int64_t taken;      /* steps since the plan was made */
    int64_t skipped;    /* steps not taken since then */
    int32_t nonfinite;  /* 1: this step's gradients have inf or NaN */
    int32_t skip;       /* 1: adamw() is to change nothing */
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
    /* Checks the spec, loads the kernels and enqueues the tables and a zeroed state. On failure *plan is NULL. */
    int32_t (*plan_create)(const pfo_backend_plan_spec *spec, void *stream, pfo_backend_plan **plan,
                           pfo_backend_error *err);
    /* Pointers and has_grad may have changed; count, dtype and group may not (make a new plan). Enqueues only what differs from
     * the last call, and nothing when nothing does. */
    int32_t (*plan_update)(pfo_backend_plan *plan, const pfo_backend_tensor *tensors, int64_t tensor_count,
                           void *stream, pfo_backend_error *err);
    /* Frees host memory only; enqueued work may still be running. NULL is allowed. */
    void (*plan_destroy)(pfo_backend_plan *plan);

    /* Pass 1: norm, non-finite flag, clip factor, skip decision and per-tensor scalars. One launch. The norm is the same in
     * every bit for any device of this backend: partial sums belong to chunks and are added in a fixed order. */
    int32_t (*norm)(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err);
    /* Pass 2: the update of all tensors that have a gradient, or nothing when the state says skip. One launch.
     * pre: norm() was enqueued before it, once for each call. */
    int32_t (*adamw)(pfo_backend_plan *plan, void *stream, pfo_backend_error *err);

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
