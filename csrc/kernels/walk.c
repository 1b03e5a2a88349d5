/* walk.c: see walk.h. */
#include "kernels/walk.h"

#include "kernels/float_environment.h"
#include "kernels/rounding_math.h"
#include "kernels/store_fence.h"

#include <string.h>

/* Elements of a tile: five images of it fill 20 KiB. Whole blocks of scales and whole turns of the norm's lanes. */
enum { TILE_ELEMENTS = 1024 };
_Static_assert(TILE_ELEMENTS % PFO_SCALE_BLOCK == 0 && TILE_ELEMENTS % PFO_NORM_LANES == 0, "tile");

/* Roles the update kernels see, and those of them that they write. */
_Static_assert(PFO_ROLE_COUNT <= 1 << PFO_STREAM_ROLE_BITS, "roles of a stream");
enum { ARITHMETIC_ROLES = PFO_ROLE_STATE_1 + PFO_STATE_COUNT };

_Static_assert(PFO_ROLE_STATE_1 % 2 == 0, "states share draws in pairs");

typedef struct tile {
    _Alignas(64) float image[ARITHMETIC_ROLES][TILE_ELEMENTS];
    _Alignas(64) float average[TILE_ELEMENTS];
    _Alignas(64) uint32_t words[TILE_ELEMENTS / 2]; /* random ones, drawn for the states of a pair */
    int drawn_role;                                 /* whose they are; -1: nobody's yet */
} tile;

/* One tensor's elements [first, first + count). */
typedef struct span {
    const pfo_plan_entry *entry;
    int64_t first;
    int64_t count;
} span;

static span
span_of_chunk(const pfo_plan *plan, int64_t chunk, int32_t tensor)
{
    const pfo_plan_entry *entry = &plan->entries[tensor];
    const int64_t first = (chunk - plan->first_chunk[tensor]) * PFO_CHUNK_ELEMENTS;
    const int64_t left = entry->count - first;
    return (span){ entry, first, left < PFO_CHUNK_ELEMENTS ? left : PFO_CHUNK_ELEMENTS };
}

/* The part of a span that begins at its element `offset` and fits a tile. */
static span
tile_of_span(const span *whole, int64_t offset)
{
    const int64_t left = whole->count - offset;
    return (span){ whole->entry, whole->first + offset, left < TILE_ELEMENTS ? left : TILE_ELEMENTS };
}

static void *
address(const span *at, int role)
{
    return (char *)at->entry->data[role] + (size_t)at->first * pfo_dtype_bytes(at->entry->dtype[role]);
}

static float *
scales_of(const span *at, int role)
{
    const int k = role - PFO_ROLE_STATE_1;
    float *scales = k >= 0 && k < PFO_STATE_COUNT ? at->entry->scales[k] : NULL;
    return scales != NULL ? scales + at->first / PFO_SCALE_BLOCK : NULL;
}

static void
load_role(const pfo_walk *walk, const span *at, int role, float *image)
{
    const pfo_load_kernel load = walk->engine->converters->load[at->entry->dtype[role]];
    load(address(at, role), scales_of(at, role), image, at->count);
}

static void
store_role(const pfo_walk *walk, const span *at, int role, const float *image, tile *images, int stream_past_cache)
{
    const pfo_step_request *request = walk->request;
    const pfo_dtype dtype = at->entry->dtype[role];
    const int draw_role = pfo_rounding_draw_role(dtype, role);
    pfo_rounding rounding = {
        .stochastic = pfo_rounds_at_random(dtype, role == PFO_ROLE_COPY, request->stochastic),
        .saturate = 1,
        .exchanged = pfo_rounding_exchanged(dtype, role),
        .seed = request->seed,
        .stream = pfo_rounding_stream(request->rounding_step, at->entry->stream, draw_role),
        .first = (uint64_t)at->first,
    };
    if (pfo_is_8bit_state(dtype)) {
        if (images->drawn_role != draw_role) {
            walk->engine->converters->draw(&rounding, at->count, images->words);
            images->drawn_role = draw_role;
        }
        rounding.words = images->words;
    }
    const pfo_store_kernel store = walk->engine->converters->store[dtype];
    store(image, address(at, role), scales_of(at, role), at->count, &rounding, stream_past_cache);
}

/* ---- Pass 1 ---------------------------------------------------------------------------------- */

static pfo_norm_partial
norm_of_span(const pfo_walk *walk, const span *whole)
{
    const pfo_norm_kernel norm = walk->engine->kernels->norm;
    pfo_norm_lanes lanes = { { 0.0 }, 0 };
    if (whole->entry->dtype[PFO_ROLE_GRAD] == PFO_DTYPE_FLOAT32) {
        norm(address(whole, PFO_ROLE_GRAD), whole->count, &lanes);
    } else {
        _Alignas(64) float image[TILE_ELEMENTS];
        for (int64_t offset = 0; offset < whole->count; offset += TILE_ELEMENTS) {
            const span at = tile_of_span(whole, offset);
            load_role(walk, &at, PFO_ROLE_GRAD, image);
            norm(image, at.count, &lanes);
        }
    }
    return pfo_norm_fold(&lanes);
}

void
pfo_walk_norm(void *context, int64_t begin, int64_t end)
{
    const pfo_walk *walk = context;
    pfo_plan *plan = walk->plan;
    const unsigned environment = pfo_enter_default_floats();
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int32_t tensor = plan->chunk_tensor[chunk];
        const span whole = span_of_chunk(plan, chunk, tensor);
        plan->partials[chunk] = whole.entry->has_grad ? norm_of_span(walk, &whole) : (pfo_norm_partial){ 0.0, 0 };
    }
    pfo_leave_default_floats(environment);
}

/* ---- Pass 2 ---------------------------------------------------------------------------------- */

/* The average follows the weight as it is stored, so that it is the average of what the model computes with. */
static void
update_average(const pfo_walk *walk, const span *at, tile *images, const float *weight)
{
    const int in_place = at->entry->dtype[PFO_ROLE_EMA] == PFO_DTYPE_FLOAT32;
    float *average = in_place ? address(at, PFO_ROLE_EMA) : images->average;
    if (at->entry->dtype[PFO_ROLE_WEIGHT] != PFO_DTYPE_FLOAT32) {
        load_role(walk, at, PFO_ROLE_WEIGHT, images->image[PFO_ROLE_WEIGHT]);
    }
    if (!in_place) {
        load_role(walk, at, PFO_ROLE_EMA, average);
    }
    walk->engine->kernels->ema(walk->ema, weight, average, at->count);
    if (!in_place) {
        store_role(walk, at, PFO_ROLE_EMA, average, images, 0);
    }
}

static void
update_tile(const pfo_walk *walk, const pfo_scalars *scalars, const span *at, tile *images)
{
    const pfo_plan_entry *entry = at->entry;
    float *data[PFO_ROLE_COUNT] = { NULL };
    images->drawn_role = -1;
    for (int role = 0; role < ARITHMETIC_ROLES; role++) {
        if (entry->data[role] == NULL) {
            continue;
        }
        if (entry->dtype[role] == PFO_DTYPE_FLOAT32) {
            data[role] = address(at, role);
        } else {
            data[role] = images->image[role];
            load_role(walk, at, role, data[role]);
        }
    }
    walk->engine->kernels->update[walk->plan->op](scalars, data, at->count);
    if (entry->data[PFO_ROLE_COPY] != NULL) {
        store_role(walk, at, PFO_ROLE_COPY, data[PFO_ROLE_WEIGHT], images, 1);
    }
    for (int role = 0; role < ARITHMETIC_ROLES; role++) {
        if (role != PFO_ROLE_GRAD && data[role] == images->image[role]) {
            store_role(walk, at, role, data[role], images, 0);
        }
    }
    if (entry->data[PFO_ROLE_EMA] != NULL) {
        update_average(walk, at, images, data[PFO_ROLE_WEIGHT]);
    }
    if (walk->zero_grads) {
        memset(address(at, PFO_ROLE_GRAD), 0, (size_t)at->count * pfo_dtype_bytes(entry->dtype[PFO_ROLE_GRAD]));
    }
}

/* 1 if the kernel can work on the tensor's memory itself and nothing else is to be done with it. */
static int
is_direct(const pfo_walk *walk, const pfo_plan_entry *entry)
{
    return entry->plain && entry->dtype[PFO_ROLE_GRAD] == PFO_DTYPE_FLOAT32 && !walk->zero_grads;
}

static void
update_directly(const pfo_walk *walk, const pfo_scalars *scalars, const span *whole)
{
    float *data[PFO_ROLE_COUNT] = { NULL };
    for (int role = 0; role < ARITHMETIC_ROLES; role++) {
        float *first = whole->entry->data[role];
        data[role] = first != NULL ? first + whole->first : NULL;
    }
    walk->engine->kernels->update[walk->plan->op](scalars, data, whole->count);
}

void
pfo_walk_update(void *context, int64_t begin, int64_t end)
{
    const pfo_walk *walk = context;
    const pfo_plan *plan = walk->plan;
    const unsigned environment = pfo_enter_default_floats();
    tile images;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int32_t tensor = plan->chunk_tensor[chunk];
        const span whole = span_of_chunk(plan, chunk, tensor);
        if (!whole.entry->has_grad) {
            continue;
        }
        const pfo_scalars *scalars = &plan->scalars[plan->scalars_of[tensor]];
        if (is_direct(walk, whole.entry)) {
            update_directly(walk, scalars, &whole);
            continue;
        }
        for (int64_t offset = 0; offset < whole.count; offset += TILE_ELEMENTS) {
            const span at = tile_of_span(&whole, offset);
            update_tile(walk, scalars, &at, &images);
        }
    }
    pfo_fence_stores_past_cache();
    pfo_leave_default_floats(environment);
}

void
pfo_walk_zero(void *context, int64_t begin, int64_t end)
{
    const pfo_walk *walk = context;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const span at = span_of_chunk(walk->plan, chunk, walk->plan->chunk_tensor[chunk]);
        if (at.entry->has_grad) {
            memset(address(&at, PFO_ROLE_GRAD), 0, (size_t)at.count * pfo_dtype_bytes(at.entry->dtype[PFO_ROLE_GRAD]));
        }
    }
}
