/* fake_backend.c: a backend whose device is the host's memory, for tests of the loader, of the table and of the bindings.
 *
 * Built as a shared object of one kind: FAKE_good, or one that must be refused (FAKE_version, FAKE_size, FAKE_nosymbol,
 * FAKE_nodriver, FAKE_nodevice). The good one walks cuda/table.h and cuda/roles.h as the kernels do: blocks take chunks, warps
 * take blocks of 256 elements, per-tensor scalars first, step counts with first chunks; only the threads run one after the other.
 */
#include "backend/backend.h"
#include "../../cuda/roles.h"
#include "../../cuda/table.h"
#include "../../cuda/xxh3.h"
#include "fake_matmul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 512, BLOCKS = 3 };

const pfo_backend *perfopt_backend_v1(void);

struct pfo_backend_plan {
    pfo_backend_plan_spec spec;
    pfo_table_layout layout;
    pfo_table_view view;
};

static int32_t
fail(pfo_backend_error *err, int32_t code, const char *text)
{
    if (err != NULL) {
        err->device_code = 0;
        (void)snprintf(err->text, sizeof err->text, "%s", text);
    }
    return code;
}

static int32_t
probe(int32_t *device_count, pfo_backend_error *err)
{
    *device_count = 0;
#if defined(FAKE_nodriver)
    return fail(err, PFO_BACKEND_UNAVAILABLE, "no driver is installed");
#elif defined(FAKE_nodevice)
    (void)err;
    return PFO_BACKEND_OK;
#else
    (void)err;
    *device_count = 1;
    return PFO_BACKEND_OK;
#endif
}

static int32_t
describe(int32_t device, pfo_backend_device *out, pfo_backend_error *err)
{
    if (device != 0) {
        return fail(err, PFO_BACKEND_DEVICE, "there is only device 0");
    }
    memset(out, 0, sizeof *out);
    (void)snprintf(out->name, sizeof out->name, "host memory");
    out->compute_major = 1;
    out->compute_minor = 2;
    out->multiprocessors = BLOCKS;
    out->total_bytes = 1 << 20;
    return PFO_BACKEND_OK;
}

static int32_t
memory(int32_t device, pfo_backend_memory *out, pfo_backend_error *err)
{
    (void)device;
    (void)err;
    *out = (pfo_backend_memory){ 1 << 19, 1 << 20, -1 };
    return PFO_BACKEND_OK;
}

static pfo_table_layout
layout_of(const pfo_backend_plan_spec *spec)
{
    int64_t chunks = 0;
    for (int64_t t = 0; t < spec->tensor_count; t++) {
        chunks += pfo_table_chunks_of(spec->tensors[t].count);
    }
    return pfo_table_lay_out(spec->tensor_count, chunks, spec->group_count, spec->op != PFO_OP_NORM);
}

static int32_t
plan_bytes(const pfo_backend_plan_spec *spec, int64_t *bytes, pfo_backend_error *err)
{
    (void)err;
    *bytes = layout_of(spec).bytes;
    return PFO_BACKEND_OK;
}

static int32_t
plan_create(const pfo_backend_plan_spec *spec, void *stream, pfo_backend_plan **plan, pfo_backend_error *err)
{
    (void)stream;
    const pfo_table_layout layout = layout_of(spec);
    *plan = NULL;
    if (spec->workspace == NULL || spec->workspace_bytes < layout.bytes) {
        return fail(err, PFO_BACKEND_BAD_ARGUMENT, "the workspace is too small");
    }
    pfo_backend_plan *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return fail(err, PFO_BACKEND_NO_MEMORY, "out of memory");
    }
    made->spec = *spec;
    made->layout = layout;
    made->view = pfo_table_view_of(spec->workspace, &layout);
    memset(spec->workspace, 0xa5, (size_t)layout.bytes);
    memset(spec->workspace, 0, (size_t)layout.groups);
    pfo_table_fill(spec->tensors, spec->tensor_count, made->view.records, made->view.chunk_tensor);
    (void)pfo_table_update_grads(spec->tensors, spec->tensor_count, made->view.grads);
    *plan = made;
    return PFO_BACKEND_OK;
}

static int32_t
plan_update(pfo_backend_plan *plan, const pfo_backend_tensor *tensors, int64_t tensor_count, void *stream,
            pfo_backend_error *err)
{
    (void)stream;
    if (tensor_count != plan->layout.tensor_count) {
        return fail(err, PFO_BACKEND_BAD_ARGUMENT, "another number of tensors");
    }
    (void)pfo_table_update_records(tensors, tensor_count, plan->view.records);
    (void)pfo_table_update_grads(tensors, tensor_count, plan->view.grads);
    return PFO_BACKEND_OK;
}

static void
plan_destroy(pfo_backend_plan *plan)
{
    free(plan);
}

static int
nonfinite(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) == 0x7f800000u;
}

static void
add_square(const float *value, double *sum, int *bad)
{
    *sum += (double)*value * (double)*value;
    *bad |= nonfinite(*value);
}

/* All threads' shares of a chunk; the order of additions between threads is not the device's. */
static double
chunk_sum(const void *grad, int dtype, pfo_table_chunk span, int *bad)
{
    double sum = 0.0;
    for (int32_t thread = 0; thread < THREADS; thread++) {
        const int32_t quads = pfo_table_quads(span.length);
        for (int32_t quad = thread; quad < quads; quad += THREADS) {
            for (int i = 0; i < 4; i++) {
                const int64_t index = span.begin + quad * 4 + i;
                const float value = pfo_role_decode(dtype, pfo_role_code_at(dtype, grad, index), 1.0f);
                add_square(&value, &sum, bad);
            }
        }
        const int32_t rest = quads * 4 + thread;
        if (rest < span.length) {
            const float value = pfo_role_decode(dtype, pfo_role_code_at(dtype, grad, span.begin + rest), 1.0f);
            add_square(&value, &sum, bad);
        }
    }
    return sum;
}

static int32_t
norm(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err)
{
    (void)stream;
    (void)err;
    const pfo_table_view *view = &plan->view;
    int bad = 0;
    for (int64_t t = 0; view->scalars != NULL && t < view->tensor_count; t++) {
        if (view->grads[t] != NULL) {
            const pfo_table_record *record = &view->records[t];
            const float taken = record->step != NULL ? *record->step : 0.0f;
            view->scalars[t] =
                pfo_table_prepare(plan->spec.op, &step->groups[record->group], taken, record->first && !view->begun[t]);
        }
    }
    for (int64_t block = 0; block < BLOCKS; block++) {
        for (int64_t chunk = block; chunk < view->chunk_count; chunk += BLOCKS) {
            const int32_t tensor = view->chunk_tensor[chunk];
            const void *grad = view->grads[tensor];
            const pfo_table_record *record = &view->records[tensor];
            const pfo_table_chunk span = pfo_table_chunk_at(record, chunk);
            view->partials[chunk] = 0.0;
            if (grad != NULL && span.length > 0) {
                view->partials[chunk] = chunk_sum(grad, record->dtype[PFO_BACKEND_GRAD], span, &bad);
            }
        }
    }
    double sum = 0.0;
    for (int64_t chunk = 0; chunk < view->chunk_count; chunk++) {
        sum += view->partials[chunk];
    }
    const double unscale = step->grad_scale != NULL ? step->unscale / (double)*step->grad_scale : step->unscale;
    const int told =
        step->skip_anyway || (step->found_inf != NULL && !(*step->found_inf <= 0.0f && *step->found_inf >= 0.0f));
    pfo_table_conclude(view->state, sum, bad, unscale, step->max_grad_norm, told || (bad && step->skip_nonfinite));
    return PFO_BACKEND_OK;
}

/* A warp's work on a block: all lanes read, all lanes compute, then role after role all lanes write. */
enum { LANES = PFO_BLOCK_LANES, ARITHMETIC = PFO_BACKEND_STATE_3 + 1 };

typedef struct warp_block {
    const pfo_table_record *record;
    const pfo_backend_step *step;
    uint64_t rounding_step;
    int64_t first;
    int32_t count;
} warp_block;

static void
load_role(const warp_block *block, int role, const void *data, pfo_octet octets[LANES])
{
    const int dtype = block->record->dtype[role];
    const float scale = pfo_is_block_dtype(dtype)
                            ? block->record->scales[role - PFO_BACKEND_STATE_1][block->first / PFO_SCALE_BLOCK]
                            : 1.0f;
    for (int lane = 0; lane < LANES; lane++) {
        for (int j = 0; j < PFO_OCTET; j++) {
            const int place = pfo_octet_place(lane, j);
            octets[lane].at[j] =
                place < block->count
                    ? pfo_role_decode(dtype, pfo_role_code_at(dtype, data, block->first + place), scale)
                    : 0.0f;
        }
    }
}

static void
draw_random(const warp_block *block, const pfo_role_rounding *rounding, uint16_t halves[PFO_SCALE_BLOCK])
{
    for (int lane = 0; lane < LANES; lane++) {
        const pfo_philox_words words = pfo_block_random(rounding, block->first, lane);
        memcpy(&halves[8 * lane], words.word, sizeof words.word);
    }
}

static float
make_scale(const warp_block *block, int role, const pfo_octet octets[LANES])
{
    uint32_t largest = 0;
    for (int lane = 0; lane < LANES; lane++) {
        for (int j = 0; j < PFO_OCTET; j++) {
            const uint32_t magnitude = pfo_magnitude_bits(octets[lane].at[j]);
            if (pfo_octet_place(lane, j) < block->count && magnitude > largest) {
                largest = magnitude;
            }
        }
    }
    const int dtype = block->record->dtype[role];
    uint32_t tally = pfo_role_no_tally(dtype);
    for (int lane = 0; lane < LANES; lane++) {
        for (int j = 0; j < PFO_OCTET; j++) {
            if (pfo_octet_place(lane, j) < block->count) {
                tally = pfo_role_join_tallies(dtype, tally, pfo_role_tally(dtype, octets[lane].at[j], largest));
            }
        }
    }
    const float scale = pfo_role_scale(dtype, largest, tally);
    block->record->scales[role - PFO_BACKEND_STATE_1][block->first / PFO_SCALE_BLOCK] = scale;
    return scale;
}

static void
store_role(const warp_block *block, int role, const pfo_octet octets[LANES])
{
    const int dtype = block->record->dtype[role];
    const pfo_role_rounding rounding = pfo_role_rounding_of(role, dtype, block->step->stochastic, block->step->seed,
                                                            block->rounding_step, block->record->stream);
    uint16_t halves[PFO_SCALE_BLOCK] = { 0 };
    if (rounding.stochastic) {
        draw_random(block, &rounding, halves);
    }
    const float scale = pfo_is_block_dtype(dtype) ? make_scale(block, role, octets) : 1.0f;
    for (int lane = 0; lane < LANES; lane++) {
        for (int j = 0; j < PFO_OCTET; j++) {
            const int place = pfo_octet_place(lane, j);
            if (place < block->count) {
                const uint32_t random = pfo_role_random(&rounding, halves[pfo_block_random_place(place)]);
                const uint32_t code = pfo_role_encode(dtype, octets[lane].at[j], scale, pfo_block_inverse(scale),
                                                      rounding.stochastic, random);
                pfo_role_put_code(dtype, block->record->data[role], block->first + place, code);
            }
        }
    }
}

static void
update_average(const warp_block *block, pfo_octet weight[LANES])
{
    const pfo_lerp lerp = pfo_lerp_prepare(1.0 - block->step->ema_decay);
    pfo_octet average[LANES];
    if (block->record->dtype[PFO_BACKEND_WEIGHT] != PFO_DTYPE_FLOAT32) {
        load_role(block, PFO_BACKEND_WEIGHT, block->record->data[PFO_BACKEND_WEIGHT], weight);
    }
    load_role(block, PFO_BACKEND_EMA, block->record->data[PFO_BACKEND_EMA], average);
    for (int lane = 0; lane < LANES; lane++) {
        for (int j = 0; j < PFO_OCTET; j++) {
            average[lane].at[j] = pfo_lerp_element(lerp, average[lane].at[j], weight[lane].at[j]);
        }
    }
    store_role(block, PFO_BACKEND_EMA, average);
}

static void
update_block(const warp_block *block, int32_t op, const void *grad, const pfo_scalars *scalars)
{
    void *const *data = block->record->data;
    pfo_octet octets[ARITHMETIC][LANES];
    for (int role = 0; role < ARITHMETIC; role++) {
        if (role == PFO_BACKEND_GRAD || data[role] != NULL) {
            load_role(block, role, role == PFO_BACKEND_GRAD ? grad : data[role], octets[role]);
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        for (int j = 0; j < PFO_OCTET; j++) {
            float *state[PFO_BACKEND_STATE_COUNT];
            for (int k = 0; k < PFO_BACKEND_STATE_COUNT; k++) {
                const int role = PFO_BACKEND_STATE_1 + k;
                state[k] = data[role] != NULL ? &octets[role][lane].at[j] : NULL;
            }
            pfo_update_element(op, scalars, octets[PFO_BACKEND_GRAD][lane].at[j],
                               &octets[PFO_BACKEND_WEIGHT][lane].at[j], state[0], state[1], state[2]);
        }
    }
    if (data[PFO_BACKEND_COPY] != NULL) {
        store_role(block, PFO_BACKEND_COPY, octets[PFO_BACKEND_WEIGHT]);
    }
    for (int role = 0; role < ARITHMETIC; role++) {
        if (role != PFO_BACKEND_GRAD && data[role] != NULL) {
            store_role(block, role, octets[role]);
        }
    }
    if (data[PFO_BACKEND_EMA] != NULL) {
        update_average(block, octets[PFO_BACKEND_WEIGHT]);
    }
}

static void
zero_grads(const pfo_table_view *view)
{
    for (int64_t chunk = 0; chunk < view->chunk_count; chunk++) {
        const int32_t tensor = view->chunk_tensor[chunk];
        const pfo_table_record *record = &view->records[tensor];
        const pfo_table_chunk span = pfo_table_chunk_at(record, chunk);
        for (int64_t i = 0; view->grads[tensor] != NULL && i < span.length; i++) {
            void *grad;
            memcpy(&grad, &view->grads[tensor], sizeof grad);
            pfo_role_put_code(record->dtype[PFO_BACKEND_GRAD], grad, span.begin + i, 0u);
        }
    }
}

static void
update_chunk(const pfo_backend_plan *plan, const pfo_backend_step *step, int64_t chunk)
{
    const pfo_table_view *view = &plan->view;
    const int32_t tensor = view->chunk_tensor[chunk];
    const pfo_table_record *record = &view->records[tensor];
    if (view->grads[tensor] == NULL) {
        return;
    }
    const pfo_table_chunk span = pfo_table_chunk_at(record, chunk);
    pfo_scalars scalars = view->scalars[tensor];
    scalars.adamw.grad_multiplier = (float)((double)scalars.adamw.grad_multiplier * view->state->multiplier);
    if (span.first) {
        view->begun[tensor] = 1;
        if (record->step != NULL) {
            *record->step += 1.0f;
        }
    }
    for (int32_t offset = 0; offset < span.length; offset += PFO_SCALE_BLOCK) {
        const int32_t left = span.length - offset;
        const warp_block block = {
            .record = record,
            .step = step,
            .rounding_step =
                step->device_rounding_step != NULL ? (uint64_t)*step->device_rounding_step : step->rounding_step,
            .first = span.begin + offset,
            .count = left < PFO_SCALE_BLOCK ? left : PFO_SCALE_BLOCK,
        };
        update_block(&block, plan->spec.op, view->grads[tensor], &scalars);
    }
}

static int32_t
update(pfo_backend_plan *plan, const pfo_backend_step *step, void *stream, pfo_backend_error *err)
{
    (void)stream;
    (void)err;
    const pfo_table_view *view = &plan->view;
    for (int64_t block = 0; block < BLOCKS && !view->state->skip; block++) {
        for (int64_t chunk = block; chunk < view->chunk_count; chunk += BLOCKS) {
            update_chunk(plan, step, chunk);
        }
    }
    if (step->zero_grads) {
        zero_grads(view);
    }
    return PFO_BACKEND_OK;
}

static int32_t
read_state_and_wait(pfo_backend_plan *plan, void *stream, pfo_backend_state *out, pfo_backend_error *err)
{
    (void)stream;
    (void)err;
    *out = *plan->view.state;
    return PFO_BACKEND_OK;
}

/* As fingerprint.cu: threads take sums of blocks, eight of them the chain. */
static void
digest_piece(const unsigned char *piece, int64_t bytes, unsigned char *digest)
{
    static const uint64_t secret[PFO_XXH3_SECRET_WORDS] = PFO_XXH3_SECRET;
    uint64_t sums[PFO_BACKEND_PIECE_MAX / PFO_XXH3_BLOCK * PFO_XXH3_LANES];
    uint64_t lanes[PFO_XXH3_LANES];
    const pfo_xxh3_shape shape = pfo_xxh3_shape_of(bytes);
    for (int32_t thread = 0; thread < THREADS; thread++) {
        for (int32_t unit = thread; unit < (shape.whole_blocks + 1) * PFO_XXH3_PAIRS; unit += THREADS) {
            const int32_t slot = unit / PFO_XXH3_PAIRS;
            const pfo_xxh3_pair sum = pfo_xxh3_block_sum(piece, shape, slot, unit % PFO_XXH3_PAIRS, 1, secret);
            memcpy(&sums[slot * PFO_XXH3_LANES + 2 * (unit % PFO_XXH3_PAIRS)], sum.at, sizeof sum.at);
        }
    }
    for (int lane = 0; lane < PFO_XXH3_LANES; lane++) {
        lanes[lane] = pfo_xxh3_chain(sums, shape.whole_blocks, lane, secret);
    }
    pfo_xxh3_finish(lanes, bytes, secret, digest);
}

static int32_t
digest_pieces_and_wait(const pfo_backend_pieces *pieces, void *stream, pfo_backend_error *err)
{
    (void)stream;
    const int64_t whole = pieces->bytes / pieces->piece_bytes;
    const int64_t last = pieces->bytes % pieces->piece_bytes;
    const unsigned char *data = pieces->data;
    if (pieces->scratch_bytes < (whole + (last > 0)) * PFO_BACKEND_DIGEST_BYTES) {
        return fail(err, PFO_BACKEND_BAD_ARGUMENT, "the scratch memory is too small");
    }
    for (int64_t piece = 0; piece < whole + (last > PFO_BACKEND_SHORT_PIECE); piece++) {
        digest_piece(data + piece * pieces->piece_bytes, piece < whole ? pieces->piece_bytes : last,
                     pieces->digests + piece * PFO_BACKEND_DIGEST_BYTES);
    }
    if (last > 0 && last <= PFO_BACKEND_SHORT_PIECE) {
        memcpy(pieces->rest, data + whole * pieces->piece_bytes, (size_t)last);
    }
    return PFO_BACKEND_OK;
}

static int32_t
matmul(const pfo_backend_matmul *product, void *stream, pfo_backend_error *err)
{
    (void)stream;
    const int32_t code = matmul_on_host(product);
    return code == PFO_BACKEND_OK ? code : fail(err, code, "no kernel for this product");
}

static const pfo_backend table = {
#if defined(FAKE_version)
    .abi_version = PFO_BACKEND_ABI_VERSION + 41,
#else
    .abi_version = PFO_BACKEND_ABI_VERSION,
#endif
#if defined(FAKE_size)
    .struct_size = sizeof(pfo_backend) + 8,
#else
    .struct_size = sizeof(pfo_backend),
#endif
    .name = "fake",
    .probe = probe,
    .describe = describe,
    .memory = memory,
    .plan_bytes = plan_bytes,
    .plan_create = plan_create,
    .plan_update = plan_update,
    .plan_destroy = plan_destroy,
    .norm = norm,
    .update = update,
    .read_state_and_wait = read_state_and_wait,
    .digest_pieces_and_wait = digest_pieces_and_wait,
    .matmul = matmul,
};

#if defined(FAKE_nosymbol)
const pfo_backend *some_other_symbol(void);

const pfo_backend *
some_other_symbol(void)
#else
const pfo_backend *
perfopt_backend_v1(void)
#endif
{
    return &table;
}
