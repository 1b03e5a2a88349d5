/* scale.c: see scale.h. Chunks are those of the plan; what they find is one flag, so their order does not matter. */
#include "kernels/scale.h"

#include "base/alloc.h"
#include "base/pool.h"
#include "kernels/convert.h"
#include "kernels/float_environment.h"

#include <stdatomic.h>
#include <stdlib.h>

/* Elements of a tile: its image stays in the first cache. */
enum { ELEMENTS_WORTH_A_THREAD = 65536, TILE_ELEMENTS = PFO_CLAMP_TILE };

const pfo_scale_kernels *
pfo_scale_kernels_for(pfo_cpu_level level)
{
    if (!pfo_cpu_supports(level)) {
        return NULL;
    }
    switch (level) {
    case PFO_CPU_AVX2:
        return pfo_scale_kernels_avx2();
    case PFO_CPU_AVX512:
        return pfo_scale_kernels_avx512();
    case PFO_CPU_SCALAR:
    case PFO_CPU_NEON: /* part of the baseline there: the compiler has used it */
        return pfo_scale_kernels_scalar();
    case PFO_CPU_LEVEL_COUNT:
        break;
    }
    return NULL;
}

/* ---- Memory of its own ----------------------------------------------------------------------- */

typedef struct gradient_span {
    uintptr_t begin, end; /* [begin, end) in bytes */
    int32_t tensor;
} gradient_span;

static int
by_address(const void *left, const void *right)
{
    const gradient_span *a = left;
    const gradient_span *b = right;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

pfo_status
pfo_gradients_check_apart(const pfo_plan *plan, pfo_error *err)
{
    gradient_span *spans = pfo_alloc_array((size_t)plan->tensor_count, sizeof *spans);
    if (spans == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for the spans of %d gradients", (int)plan->tensor_count);
    }
    size_t used = 0;
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &plan->entries[t];
        if (entry->has_grad && entry->count > 0) {
            const uintptr_t begin = (uintptr_t)entry->data[PFO_ROLE_GRAD];
            spans[used++] =
                (gradient_span){ begin, begin + (uintptr_t)entry->count * pfo_dtype_bytes(entry->dtype[PFO_ROLE_GRAD]),
                                 t };
        }
    }
    qsort(spans, used, sizeof *spans, by_address);
    pfo_status status = PFO_OK;
    for (size_t i = 1; i < used && status == PFO_OK; i++) {
        if (spans[i].begin < spans[i - 1].end) {
            const int32_t a = spans[i - 1].tensor, b = spans[i].tensor;
            status =
                pfo_fail(err, PFO_BAD_ARGUMENT, "grads[%d] and grads[%d] share memory; each needs memory of its own",
                         (int)(a < b ? a : b), (int)(a < b ? b : a));
        }
    }
    pfo_free(spans);
    return status;
}

/* ---- Passes ---------------------------------------------------------------------------------- */

typedef struct pass {
    const pfo_plan *plan;
    const pfo_scale_kernels *kernels;
    const pfo_convert_table *converters;
    float factor;    /* of a multiplication */
    float low, high; /* of a clamp */
    atomic_int found;
} pass;

/* What a pass does to float32 elements and whether it has found something. */
typedef int (*work)(const pass *run, float *data, int64_t count);

/* When elements of another dtype go back to memory. */
typedef enum write_back { NEVER, WHERE_FOUND, ALWAYS } write_back;

static int
check_elements(const pass *run, float *data, int64_t count)
{
    return run->kernels->check(data, count);
}

static int
scale_elements(const pass *run, float *data, int64_t count)
{
    return run->kernels->scale(data, count, run->factor);
}

static int
clamp_elements(const pass *run, float *data, int64_t count)
{
    return run->kernels->clamp(data, count, run->low, run->high);
}

/* The same on elements that are stored otherwise, tile by tile. */
static int
work_on_images(const pass *run, pfo_dtype dtype, char *data, int64_t count, work does, write_back writes)
{
    static const pfo_rounding nearest = { .stochastic = 0 };
    _Alignas(64) float image[TILE_ELEMENTS];
    int found = 0;
    for (int64_t offset = 0; offset < count; offset += TILE_ELEMENTS) {
        const int64_t elements = count - offset < TILE_ELEMENTS ? count - offset : TILE_ELEMENTS;
        char *tile = data + (size_t)offset * pfo_dtype_bytes(dtype);
        run->converters->load[dtype](tile, NULL, image, elements);
        const int found_here = does(run, image, elements);
        if (writes == ALWAYS || (writes == WHERE_FOUND && found_here)) {
            run->converters->store[dtype](image, tile, NULL, elements, &nearest, 0);
        }
        found |= found_here;
    }
    return found;
}

static int
work_on_chunk(const pass *run, int64_t chunk, work does, write_back writes)
{
    const int32_t tensor = run->plan->chunk_tensor[chunk];
    const pfo_plan_entry *entry = &run->plan->entries[tensor];
    const pfo_dtype dtype = entry->dtype[PFO_ROLE_GRAD];
    const int64_t begin = (chunk - run->plan->first_chunk[tensor]) * PFO_CHUNK_ELEMENTS;
    const int64_t left = entry->count - begin;
    const int64_t count = left < PFO_CHUNK_ELEMENTS ? left : PFO_CHUNK_ELEMENTS;
    if (!entry->has_grad) {
        return 0;
    }
    char *data = (char *)entry->data[PFO_ROLE_GRAD] + (size_t)begin * pfo_dtype_bytes(dtype);
    return dtype == PFO_DTYPE_FLOAT32 ? does(run, (float *)(void *)data, count)
                                      : work_on_images(run, dtype, data, count, does, writes);
}

static int
found_so_far(pass *run)
{
    return atomic_load_explicit(&run->found, memory_order_relaxed);
}

static void
note(pass *run, int found)
{
    if (found) {
        atomic_store_explicit(&run->found, 1, memory_order_relaxed);
    }
}

static void
check_chunks(void *context, int64_t begin, int64_t end)
{
    pass *run = context;
    for (int64_t chunk = begin; chunk < end && !found_so_far(run); chunk++) {
        note(run, work_on_chunk(run, chunk, check_elements, NEVER));
    }
}

static void
scale_chunks(void *context, int64_t begin, int64_t end)
{
    pass *run = context;
    const unsigned environment = pfo_enter_default_floats();
    for (int64_t chunk = begin; chunk < end; chunk++) {
        note(run, work_on_chunk(run, chunk, scale_elements, ALWAYS));
    }
    pfo_leave_default_floats(environment);
}

static void
clamp_chunks(void *context, int64_t begin, int64_t end)
{
    pass *run = context;
    const unsigned environment = pfo_enter_default_floats();
    for (int64_t chunk = begin; chunk < end; chunk++) {
        note(run, work_on_chunk(run, chunk, clamp_elements, WHERE_FOUND));
    }
    pfo_leave_default_floats(environment);
}

static int
run_pass(pass *run, int threads, pfo_pool_body body)
{
    run->converters = pfo_converters_for(run->kernels->level);
    if (run->plan->chunk_count > 0) {
        const int64_t elements_per_chunk = run->plan->element_count / run->plan->chunk_count; /* >= 1 */
        pfo_pool_run(threads, run->plan->chunk_count, 1 + (ELEMENTS_WORTH_A_THREAD - 1) / elements_per_chunk, body,
                     run);
    }
    return found_so_far(run);
}

int
pfo_gradients_nonfinite(const pfo_plan *plan, const pfo_scale_kernels *kernels, int threads)
{
    pass run = { .plan = plan, .kernels = kernels };
    return run_pass(&run, threads, check_chunks);
}

int
pfo_gradients_scale(const pfo_plan *plan, const pfo_scale_kernels *kernels, float factor, int threads)
{
    pass run = { .plan = plan, .kernels = kernels, .factor = factor };
    return run_pass(&run, threads, factor == 1.0f ? check_chunks : scale_chunks);
}

int
pfo_gradients_clamp(const pfo_plan *plan, const pfo_scale_kernels *kernels, float low, float high, int threads)
{
    pass run = { .plan = plan, .kernels = kernels, .low = low, .high = high };
    return run_pass(&run, threads, clamp_chunks);
}
