/* table.h: how a plan lies in its device workspace and how its tensors are cut; compiles as C and as CUDA.
 *
 * Everything about addresses and indices that kernels and host code must agree on is here, so that
 * tests/c/test_device_table.c can run it without a device. The workspace is one block, each part aligned to 256 bytes:
 *
 *     state | scratch | begun[] | groups[] | records[] | grads[] | chunk_tensor[] | scalars[] | partials[]
 *
 * - [chunks] A tensor of n elements owns max(1, ceil(n / PFO_CHUNK_ELEMENTS)) chunks; a tensor of none owns one empty
 *   chunk, so that its step is counted where all others are. Chunks are numbered through all tensors: chunk c belongs
 *   to tensor chunk_tensor[c] and begins at its element (c - first_chunk) * PFO_CHUNK_ELEMENTS. The cut depends on
 *   sizes alone.
 * - [quads] Within a chunk, thread t of T takes the quads (4 neighbouring elements) t, t + T, ...; the last 0 to 3
 *   elements are the rest, one each for the first threads. The assignment does not depend on alignment, which only
 *   decides whether a quad is moved by one access or by four. Memory that is not all float32 is updated in blocks (roles.h).
 * - [grads] grads[t] is NULL for a tensor without a gradient, PFO_TABLE_EMPTY_GRAD for one whose gradient has no
 *   elements.
 *
 * Invariants: sum of chunk lengths of a tensor == count; every element lies in exactly one chunk.
 * Threads, memory: pure functions over the caller's memory.
 */
#ifndef PFO_CUDA_TABLE_H
#define PFO_CUDA_TABLE_H

#include <stdint.h>
#include <string.h>

#include "backend/backend.h"
#include "kernels/tensor.h"
#include "kernels/update_math.h"

enum {
    PFO_TABLE_ALIGNMENT = 256,
    PFO_TABLE_INLINE_GROUPS = 32, /* that many groups travel as kernel parameters, more through the workspace */
};

#define PFO_TABLE_EMPTY_GRAD ((const void *)(uintptr_t)PFO_TABLE_ALIGNMENT)

/* What does not change with the gradients' addresses. Compared as bytes, so it is filled from zeros. */
typedef struct pfo_table_record {
    void *data[PFO_BACKEND_ROLE_COUNT]; /* that of the gradient is NULL: it lies in a list of its own */
    float *scales[PFO_BACKEND_STATE_COUNT];
    float *step;
    int64_t count;
    int64_t first_chunk;
    int32_t group;
    int32_t stream;
    int32_t first;
    int8_t dtype[PFO_BACKEND_ROLE_COUNT];
    int8_t plain;   /* all but the gradient is float32, and there is no COPY or EMA */
    int8_t aligned; /* to four elements, all but the gradient */
    int8_t reserved[3];
} pfo_table_record;

/* Zero between launches: the last block of a launch resets it. */
typedef struct pfo_table_scratch {
    uint32_t blocks_done;
    uint32_t nonfinite;
} pfo_table_scratch;

/* Offsets in bytes from the start of the workspace. */
typedef struct pfo_table_layout {
    int64_t tensor_count;
    int64_t chunk_count;
    int64_t group_count;
    int64_t scratch;
    int64_t begun;
    int64_t groups;
    int64_t records;
    int64_t grads;
    int64_t chunk_tensor;
    int64_t scalars;
    int64_t partials;
    int64_t bytes; /* of the whole workspace */
} pfo_table_layout;

/* The same as addresses; what kernels get. */
typedef struct pfo_table_view {
    int64_t tensor_count;
    int64_t chunk_count;
    pfo_backend_state *state;
    pfo_table_scratch *scratch;
    int32_t *begun; /* [tensor_count]: 1 from a tensor's first step on */
    pfo_backend_group *groups;
    pfo_table_record *records;
    const void **grads;
    int32_t *chunk_tensor;
    pfo_scalars *scalars; /* [tensor_count], NULL when the operation is NORM */
    double *partials;     /* [chunk_count] sums of squares */
} pfo_table_view;

typedef struct pfo_table_chunk {
    int64_t begin;  /* first element within the tensor */
    int32_t length; /* elements, 0 .. PFO_CHUNK_ELEMENTS */
    int32_t first;  /* 1 for the first chunk of its tensor */
} pfo_table_chunk;

/* A run of array items [begin, end); empty when begin == end. */
typedef struct pfo_table_range {
    int64_t begin;
    int64_t end;
} pfo_table_range;

PFO_MATH_INLINE int64_t
pfo_table_chunks_of(int64_t count)
{
    return count == 0 ? 1 : (count - 1) / PFO_CHUNK_ELEMENTS + 1;
}

PFO_MATH_INLINE pfo_table_chunk
pfo_table_chunk_at(const pfo_table_record *record, int64_t chunk)
{
    pfo_table_chunk found;
    found.begin = (chunk - record->first_chunk) * PFO_CHUNK_ELEMENTS;
    const int64_t left = record->count - found.begin;
    found.length = left < PFO_CHUNK_ELEMENTS ? (int32_t)left : (int32_t)PFO_CHUNK_ELEMENTS;
    found.first = chunk == record->first_chunk;
    return found;
}

PFO_MATH_INLINE int32_t
pfo_table_quads(int32_t length)
{
    return length / 4;
}

PFO_MATH_INLINE int64_t
pfo_table_round_up(int64_t bytes)
{
    return (bytes + PFO_TABLE_ALIGNMENT - 1) / PFO_TABLE_ALIGNMENT * PFO_TABLE_ALIGNMENT;
}

/* pre: counts are not negative and their chunks fit int64_t (checked by the caller). */
PFO_MATH_INLINE pfo_table_layout
pfo_table_lay_out(int64_t tensor_count, int64_t chunk_count, int64_t group_count, int with_scalars)
{
    pfo_table_layout layout;
    layout.tensor_count = tensor_count;
    layout.chunk_count = chunk_count;
    layout.group_count = group_count;
    layout.scratch = pfo_table_round_up((int64_t)sizeof(pfo_backend_state));
    layout.begun = layout.scratch + pfo_table_round_up((int64_t)sizeof(pfo_table_scratch));
    layout.groups = layout.begun + pfo_table_round_up(tensor_count * (int64_t)sizeof(int32_t));
    layout.records = layout.groups + pfo_table_round_up(group_count * (int64_t)sizeof(pfo_backend_group));
    layout.grads = layout.records + pfo_table_round_up(tensor_count * (int64_t)sizeof(pfo_table_record));
    layout.chunk_tensor = layout.grads + pfo_table_round_up(tensor_count * (int64_t)sizeof(void *));
    layout.scalars = layout.chunk_tensor + pfo_table_round_up(chunk_count * (int64_t)sizeof(int32_t));
    layout.partials =
        layout.scalars + (with_scalars ? pfo_table_round_up(tensor_count * (int64_t)sizeof(pfo_scalars)) : 0);
    layout.bytes = layout.partials + pfo_table_round_up(chunk_count * (int64_t)sizeof(double));
    return layout;
}

/* pre: workspace is aligned to PFO_TABLE_ALIGNMENT. Computes addresses only; nothing is read or written. */
PFO_MATH_INLINE pfo_table_view
pfo_table_view_of(void *workspace, const pfo_table_layout *layout)
{
    char *base = (char *)workspace;
    pfo_table_view view;
    view.tensor_count = layout->tensor_count;
    view.chunk_count = layout->chunk_count;
    view.state = (pfo_backend_state *)(void *)base;
    view.scratch = (pfo_table_scratch *)(void *)(base + layout->scratch);
    view.begun = (int32_t *)(void *)(base + layout->begun);
    view.groups = (pfo_backend_group *)(void *)(base + layout->groups);
    view.records = (pfo_table_record *)(void *)(base + layout->records);
    view.grads = (const void **)(void *)(base + layout->grads);
    view.chunk_tensor = (int32_t *)(void *)(base + layout->chunk_tensor);
    view.scalars = layout->scalars == layout->partials ? NULL : (pfo_scalars *)(void *)(base + layout->scalars);
    view.partials = (double *)(void *)(base + layout->partials);
    return view;
}

/* Bytes of an element, as pfo_dtype_bytes(), which devices have not got. */
PFO_MATH_INLINE int
pfo_table_dtype_bytes(int dtype)
{
    return dtype == PFO_DTYPE_FLOAT32 ? 4 : dtype == PFO_DTYPE_BFLOAT16 || dtype == PFO_DTYPE_FLOAT16 ? 2 : 1;
}

/* Whether four elements can be moved at once. */
PFO_MATH_INLINE int
pfo_table_is_aligned(const void *data, int dtype)
{
    return (uintptr_t)data % (uintptr_t)(4 * pfo_table_dtype_bytes(dtype)) == 0;
}

PFO_MATH_INLINE pfo_table_record
pfo_table_record_of(const pfo_backend_tensor *tensor, int64_t first_chunk)
{
    pfo_table_record record;
    memset(&record, 0, sizeof record);
    record.plain = tensor->data[PFO_BACKEND_COPY] == NULL && tensor->data[PFO_BACKEND_EMA] == NULL;
    record.aligned = 1;
    for (int role = 0; role < PFO_BACKEND_ROLE_COUNT; role++) {
        record.dtype[role] = (int8_t)tensor->dtype[role];
        if (role != PFO_BACKEND_GRAD && tensor->data[role] != NULL) {
            record.data[role] = tensor->data[role];
            record.plain = record.plain && tensor->dtype[role] == PFO_DTYPE_FLOAT32;
            record.aligned = record.aligned && pfo_table_is_aligned(tensor->data[role], tensor->dtype[role]);
        }
    }
    for (int k = 0; k < PFO_BACKEND_STATE_COUNT; k++) {
        record.scales[k] = tensor->scales[k];
    }
    record.step = tensor->step;
    record.count = tensor->count;
    record.first_chunk = first_chunk;
    record.group = tensor->group;
    record.stream = tensor->stream;
    record.first = tensor->first;
    return record;
}

/* records[tensor_count] and chunk_tensor[chunk_count] of the tensors. */
PFO_MATH_INLINE void
pfo_table_fill(const pfo_backend_tensor *tensors, int64_t tensor_count, pfo_table_record *records,
               int32_t *chunk_tensor)
{
    int64_t chunk = 0;
    for (int64_t t = 0; t < tensor_count; t++) {
        records[t] = pfo_table_record_of(&tensors[t], chunk);
        const int64_t end = chunk + pfo_table_chunks_of(tensors[t].count);
        while (chunk < end) {
            chunk_tensor[chunk++] = (int32_t)t;
        }
    }
}

PFO_MATH_INLINE const void *
pfo_table_grad_of(const pfo_backend_tensor *tensor)
{
    if (!tensor->has_grad) {
        return NULL;
    }
    return tensor->count == 0 ? PFO_TABLE_EMPTY_GRAD : tensor->data[PFO_BACKEND_GRAD];
}

/* Writes the tensors' gradients into grads and gives the shortest run that holds all that changed. */
PFO_MATH_INLINE pfo_table_range
pfo_table_update_grads(const pfo_backend_tensor *tensors, int64_t tensor_count, const void **grads)
{
    pfo_table_range changed = { 0, 0 };
    for (int64_t t = 0; t < tensor_count; t++) {
        const void *now = pfo_table_grad_of(&tensors[t]);
        if (now != grads[t]) {
            if (changed.end == 0) {
                changed.begin = t;
            }
            changed.end = t + 1;
            grads[t] = now;
        }
    }
    return changed;
}

/* The same for the records; on the host. A tensor whose state held nothing when the plan was made is known to have begun by view.begun alone. */
static inline pfo_table_range
pfo_table_update_records(const pfo_backend_tensor *tensors, int64_t tensor_count, pfo_table_record *records)
{
    pfo_table_range changed = { 0, 0 };
    for (int64_t t = 0; t < tensor_count; t++) {
        const pfo_table_record now = pfo_table_record_of(&tensors[t], records[t].first_chunk);
        if (memcmp(&now, &records[t], sizeof now) != 0) {
            if (changed.end == 0) {
                changed.begin = t;
            }
            changed.end = t + 1;
            records[t] = now;
        }
    }
    return changed;
}

/* One step's scalars, as pfo_operation_prepare() on the CPU, with a multiplier that is the bare sign: update() multiplies it by the
 * state's, because the norm is not known yet when this runs. Every pfo_..._scalars begins with it, every options with lr. */
PFO_MATH_INLINE pfo_scalars
pfo_table_prepare(int32_t op, const pfo_backend_group *group, float steps_taken, int first)
{
    pfo_options options = group->options;
    pfo_scalars scalars;
    const double step = (double)(steps_taken + 1.0f);
    memset(&scalars, 0, sizeof scalars);
    if (group->device_lr != NULL) {
        options.adamw.lr = (double)*group->device_lr;
    }
    switch ((pfo_op)op) {
    case PFO_OP_ADAMW:
        scalars.adamw = pfo_adamw_prepare(&options.adamw, step, 1.0, 1.0);
        break;
    case PFO_OP_SGD:
        scalars.sgd = pfo_sgd_prepare(&options.sgd, first, 1.0, 1.0);
        break;
    case PFO_OP_LION:
        scalars.lion = pfo_lion_prepare(&options.lion, 1.0, 1.0);
        break;
    case PFO_OP_ADAGRAD:
        scalars.adagrad = pfo_adagrad_prepare(&options.adagrad, step, 1.0, 1.0);
        break;
    case PFO_OP_RMSPROP:
        scalars.rmsprop = pfo_rmsprop_prepare(&options.rmsprop, 1.0, 1.0);
        break;
    case PFO_OP_NORM:
    case PFO_OP_COUNT:
        break;
    }
    return scalars;
}

/* What the last block of norm() makes of the sum of squares. pre: state->taken and ->skipped hold the counts so far. */
PFO_MATH_INLINE void
pfo_table_conclude(pfo_backend_state *state, double sum_of_squares, int nonfinite, double unscale, double max_grad_norm,
                   int skip)
{
    state->norm = sqrt(sum_of_squares) * fabs(unscale);
    state->clip_factor = pfo_clip_factor(state->norm, max_grad_norm);
    state->multiplier = unscale * state->clip_factor;
    state->nonfinite = nonfinite;
    state->skip = skip;
    if (skip) {
        state->skipped += 1;
    } else {
        state->taken += 1;
    }
}

#endif
