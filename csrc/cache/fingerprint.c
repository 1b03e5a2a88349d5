/* fingerprint.c: see fingerprint.h for the scheme.
 *
 * An array is read as a sequence of runs: the longest suffix of dimensions that lies contiguously in memory is one run, the other
 * dimensions are walked. A contiguous array is a single run and is hashed where it is; others are gathered chunk by chunk into a
 * staging buffer, each pool thread with its own.
 */
#include "cache/fingerprint.h"

#include "base/alloc.h"
#include "base/pool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static void
write_little_endian(unsigned char out[8], uint64_t number)
{
    for (int i = 0; i < 8; i++) {
        out[i] = (unsigned char)(number >> (8 * i));
    }
}

static void
put(pfo_encoder *encoder, const void *bytes, size_t length)
{
    if (encoder->status != PFO_OK || length == 0) {
        return;
    }
    if (encoder->stream == NULL) {
        if (length <= sizeof encoder->buffer - encoder->used) {
            memcpy(encoder->buffer + encoder->used, bytes, length);
            encoder->used += length;
            return;
        }
        encoder->stream = pfo_alloc_aligned(PFO_XXH_STREAM_ALIGNMENT, encoder->ops->stream_bytes);
        if (encoder->stream == NULL) {
            encoder->status = PFO_NO_MEMORY;
            return;
        }
        encoder->ops->stream_start(encoder->stream);
        encoder->ops->stream_update(encoder->stream, encoder->buffer, encoder->used);
    }
    encoder->ops->stream_update(encoder->stream, bytes, length);
}

void
pfo_encode_raw(pfo_encoder *encoder, const void *bytes, size_t length)
{
    put(encoder, bytes, length);
}

void
pfo_encode_number(pfo_encoder *encoder, uint64_t number)
{
    unsigned char bytes[8];
    write_little_endian(bytes, number);
    put(encoder, bytes, sizeof bytes);
}

void
pfo_encoder_start(pfo_encoder *encoder, const pfo_xxh_ops *ops)
{
    encoder->ops = ops != NULL ? ops : pfo_xxh_ops_best();
    encoder->stream = NULL;
    encoder->status = PFO_OK;
    encoder->buffer[0] = PFO_FINGERPRINT_VERSION;
    encoder->used = 1;
}

void
pfo_encoder_drop(pfo_encoder *encoder)
{
    pfo_free_aligned(encoder->stream);
    pfo_encoder_start(encoder, encoder->ops);
}

pfo_status
pfo_encoder_finish(pfo_encoder *encoder, pfo_digest *digest)
{
    const pfo_status status = encoder->status;
    if (status == PFO_OK) {
        if (encoder->stream == NULL) {
            encoder->ops->digest(encoder->buffer, encoder->used, digest->bytes);
        } else {
            encoder->ops->stream_digest(encoder->stream, digest->bytes);
        }
    }
    pfo_encoder_drop(encoder);
    return status;
}

void
pfo_encode_tag(pfo_encoder *encoder, char tag)
{
    put(encoder, &tag, 1);
}

void
pfo_encode_int64(pfo_encoder *encoder, int64_t number)
{
    pfo_encode_tag(encoder, 'i');
    pfo_encode_number(encoder, 8);
    pfo_encode_number(encoder, (uint64_t)number);
}

void
pfo_encode_big_int(pfo_encoder *encoder, const void *bytes, size_t length)
{
    pfo_encode_payload(encoder, 'i', bytes, length);
}

static uint64_t
double_bits(double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

void
pfo_encode_double(pfo_encoder *encoder, double number)
{
    pfo_encode_tag(encoder, 'f');
    pfo_encode_number(encoder, double_bits(number));
}

void
pfo_encode_complex(pfo_encoder *encoder, double real, double imaginary)
{
    pfo_encode_tag(encoder, 'c');
    pfo_encode_number(encoder, double_bits(real));
    pfo_encode_number(encoder, double_bits(imaginary));
}

void
pfo_encode_count(pfo_encoder *encoder, char tag, uint64_t count)
{
    pfo_encode_tag(encoder, tag);
    pfo_encode_number(encoder, count);
}

static int
compare_digests(const void *left, const void *right)
{
    return memcmp(left, right, sizeof(pfo_digest));
}

void
pfo_encode_unordered(pfo_encoder *encoder, pfo_digest *digests, size_t count)
{
    if (count > 0) {
        qsort(digests, count, sizeof *digests, compare_digests);
        put(encoder, digests, count * sizeof *digests);
    }
}

/* ---- data: inline, one digest, or a digest of chunk digests ---------------------------------- */

/* The elements of an array as `runs` contiguous pieces of run_bytes each, found by walking `outer` dimensions. */
typedef struct run_plan {
    const unsigned char *data;
    const int64_t *shape;
    const int64_t *strides;
    size_t run_bytes;
    int outer; /* dimensions walked; 0: all data are one run */
} run_plan;

typedef struct chunk_job {
    const pfo_xxh_ops *ops;
    const run_plan *plan;
    size_t bytes;
    pfo_digest *digests;
    atomic_int out_of_memory;
} chunk_job;

static run_plan
plan_runs(const pfo_array_view *view)
{
    run_plan plan = {
        .data = view->data, .shape = view->shape, .strides = view->strides, .run_bytes = view->item_bytes
    };
    int outer = view->dimensions;
    while (outer > 0 && (view->shape[outer - 1] == 1 || view->strides[outer - 1] == (int64_t)plan.run_bytes)) {
        plan.run_bytes *= (size_t)view->shape[outer - 1];
        outer--;
    }
    plan.outer = outer;
    return plan;
}

/* Copies `runs` runs of `size` bytes each, `stride` apart: a constant size where it matters, so that the copy is one
 * move. */
static void
copy_runs(unsigned char *target, const unsigned char *source, int64_t runs, int64_t stride, size_t size)
{
#define COPY_FIXED(n)                                                                                                  \
    for (int64_t i = 0; i < runs; i++) {                                                                               \
        memcpy(target + (size_t)i * (n), source + i * stride, (n));                                                    \
    }
    switch (size) {
    case 1:
        COPY_FIXED(1u)
        break;
    case 2:
        COPY_FIXED(2u)
        break;
    case 4:
        COPY_FIXED(4u)
        break;
    case 8:
        COPY_FIXED(8u)
        break;
    case 16:
        COPY_FIXED(16u)
        break;
    default:
        COPY_FIXED(size)
    }
#undef COPY_FIXED
}

/* Copies bytes [begin, begin + length) of the logical byte sequence to target. pre: plan->outer > 0. */
static void
gather(const run_plan *plan, size_t begin, size_t length, unsigned char *target)
{
    int64_t index[PFO_FINGERPRINT_MAX_DIMENSIONS];
    const int last = plan->outer - 1;
    int64_t run = (int64_t)(begin / plan->run_bytes);
    size_t inside = begin % plan->run_bytes;
    const unsigned char *at = plan->data;
    for (int d = last; d >= 0; d--) {
        index[d] = run % plan->shape[d];
        run /= plan->shape[d];
        at += index[d] * plan->strides[d];
    }
    while (length > 0) {
        size_t copied;
        int64_t steps = 1;
        if (inside != 0 || length < plan->run_bytes) { /* a run cut by a chunk's border */
            copied = plan->run_bytes - inside < length ? plan->run_bytes - inside : length;
            memcpy(target, at + inside, copied);
            if (inside + copied < plan->run_bytes) {
                return;
            }
            inside = 0;
        } else {
            const int64_t wanted = (int64_t)(length / plan->run_bytes);
            const int64_t left = plan->shape[last] - index[last];
            steps = wanted < left ? wanted : left;
            copy_runs(target, at, steps, plan->strides[last], plan->run_bytes);
            copied = (size_t)steps * plan->run_bytes;
        }
        target += copied;
        length -= copied;
        index[last] += steps;
        at += steps * plan->strides[last];
        for (int d = last; d > 0 && index[d] == plan->shape[d]; d--) {
            at += plan->strides[d - 1] - index[d] * plan->strides[d];
            index[d] = 0;
            index[d - 1]++;
        }
    }
}

static void
hash_chunks(void *context, int64_t begin, int64_t end)
{
    chunk_job *job = context;
    unsigned char *staging = NULL;
    if (job->plan->outer > 0) {
        staging = pfo_alloc_aligned(PFO_XXH_STREAM_ALIGNMENT, PFO_FINGERPRINT_CHUNK);
        if (staging == NULL) {
            atomic_store(&job->out_of_memory, 1);
            return;
        }
    }
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const size_t offset = (size_t)chunk * PFO_FINGERPRINT_CHUNK;
        const size_t left = job->bytes - offset;
        const size_t length = left < PFO_FINGERPRINT_CHUNK ? left : PFO_FINGERPRINT_CHUNK;
        const unsigned char *source = job->plan->data + (staging == NULL ? offset : 0);
        if (staging != NULL) {
            gather(job->plan, offset, length, staging);
            source = staging;
        }
        job->ops->digest(source, length, job->digests[chunk].bytes);
    }
    pfo_free_aligned(staging);
}

static void
run_on_pool(chunk_job *job, size_t chunks, int threads)
{
    const int64_t grain = PFO_FINGERPRINT_PARALLEL / 4 / PFO_FINGERPRINT_CHUNK;
    pfo_pool_run(job->bytes < PFO_FINGERPRINT_PARALLEL ? 1 : threads, (int64_t)chunks, grain, hash_chunks, job);
}

void
pfo_fingerprint_chunks(const pfo_xxh_ops *ops, const void *data, size_t chunks, int threads, pfo_digest *digests)
{
    const size_t bytes = chunks * PFO_FINGERPRINT_CHUNK;
    const run_plan plan = { .data = data, .run_bytes = bytes };
    chunk_job job = { .ops = ops, .plan = &plan, .bytes = bytes, .digests = digests };
    atomic_init(&job.out_of_memory, 0); /* nothing is staged, so nothing can fail */
    run_on_pool(&job, chunks, threads);
}

/* Digest of more than 0 bytes of runs [chunks]. */
static pfo_status
digest_runs(const pfo_xxh_ops *ops, const run_plan *plan, size_t bytes, int threads, pfo_digest *digest)
{
    const size_t chunks = bytes / PFO_FINGERPRINT_CHUNK + (bytes % PFO_FINGERPRINT_CHUNK != 0);
    chunk_job job = { .ops = ops, .plan = plan, .bytes = bytes, .digests = digest };
    atomic_init(&job.out_of_memory, 0);
    if (chunks > 1) {
        job.digests = pfo_alloc_array(chunks, sizeof *job.digests);
        if (job.digests == NULL) {
            return PFO_NO_MEMORY;
        }
    }
    run_on_pool(&job, chunks, threads);
    const pfo_status status = atomic_load(&job.out_of_memory) ? PFO_NO_MEMORY : PFO_OK;
    if (chunks > 1) {
        if (status == PFO_OK) {
            ops->digest(job.digests, chunks * sizeof *job.digests, digest->bytes);
        }
        pfo_free(job.digests);
    }
    return status;
}

static void
put_data(pfo_encoder *encoder, const run_plan *plan, size_t bytes, int threads)
{
    if (encoder->status != PFO_OK || bytes == 0) {
        return;
    }
    if (bytes <= PFO_FINGERPRINT_INLINE) {
        unsigned char staging[PFO_FINGERPRINT_INLINE];
        if (plan->outer > 0) {
            gather(plan, 0, bytes, staging);
        }
        put(encoder, plan->outer > 0 ? staging : plan->data, bytes);
        return;
    }
    pfo_digest digest;
    const pfo_status status = digest_runs(encoder->ops, plan, bytes, threads, &digest);
    if (status != PFO_OK) {
        encoder->status = status;
        return;
    }
    put(encoder, digest.bytes, sizeof digest.bytes);
}

void
pfo_encode_payload(pfo_encoder *encoder, char tag, const void *bytes, size_t length)
{
    pfo_encode_count(encoder, tag, length);
    if (length <= PFO_FINGERPRINT_INLINE) { /* a plan costs a hit on disk more than its key */
        put(encoder, bytes, length);
        return;
    }
    const run_plan plan = { .data = bytes, .run_bytes = length };
    put_data(encoder, &plan, length, 0);
}

pfo_status
pfo_fingerprint_bytes(const pfo_xxh_ops *ops, const void *data, size_t bytes, int threads, pfo_digest *digest)
{
    const run_plan plan = { .data = data, .run_bytes = bytes };
    if (ops == NULL) {
        ops = pfo_xxh_ops_best();
    }
    if (bytes == 0) {
        ops->digest(data, 0, digest->bytes);
        return PFO_OK;
    }
    return digest_runs(ops, &plan, bytes, threads, digest);
}

pfo_status
pfo_array_view_bytes(const pfo_array_view *view, size_t *bytes)
{
    *bytes = view->item_bytes;
    for (int d = 0; d < view->dimensions; d++) {
        if (view->shape[d] == 0) {
            *bytes = 0;
            return PFO_OK;
        }
    }
    for (int d = 0; d < view->dimensions; d++) {
        if (view->shape[d] < 0 || *bytes > (size_t)INT64_MAX / (size_t)view->shape[d]) {
            return PFO_OVERFLOW;
        }
        *bytes *= (size_t)view->shape[d];
    }
    return PFO_OK;
}

void
pfo_encode_array(pfo_encoder *encoder, const pfo_array_view *view, int threads)
{
    size_t bytes = 0;
    pfo_status status = view->dimensions > PFO_FINGERPRINT_MAX_DIMENSIONS ? PFO_BAD_ARGUMENT : PFO_OK;
    if (status == PFO_OK) {
        status = pfo_array_view_bytes(view, &bytes);
    }
    if (status != PFO_OK) {
        encoder->status = encoder->status == PFO_OK ? status : encoder->status;
        return;
    }
    const run_plan kind = { .data = (const unsigned char *)view->kind, .run_bytes = view->kind_length };
    const run_plan dtype = { .data = (const unsigned char *)view->dtype, .run_bytes = view->dtype_length };
    const run_plan data = plan_runs(view);
    pfo_encode_count(encoder, 'A', view->kind_length);
    put_data(encoder, &kind, view->kind_length, 1);
    pfo_encode_number(encoder, view->dtype_length);
    put_data(encoder, &dtype, view->dtype_length, 1);
    pfo_encode_number(encoder, (uint64_t)view->dimensions);
    for (int d = 0; d < view->dimensions; d++) {
        pfo_encode_number(encoder, (uint64_t)view->shape[d]);
    }
    put_data(encoder, &data, bytes, threads);
}
