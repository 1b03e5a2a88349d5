/* cast.c: see cast.h. */
#include "kernels/cast.h"

#include "base/pool.h"
#include "kernels/convert_base.h"
#include "kernels/float_environment.h"
#include "kernels/store_fence.h"

#include <stdatomic.h>

/* Elements of a float32 tile: whole blocks and cache lines, 8 KiB. */
enum { TILE = 2048 };

/* What is read and written, in bytes, from which on the output is written past the cache. No core of any processor in use has more
 * of a last-level cache (the C library tells of the sum of all of them: 384 MiB where a core has 32), and an array for which this
 * is too little loses little: its reader finds it in memory. */
enum { PAST_CACHE_BYTES = 32 << 20 };

static int64_t
chunk_count(int64_t count)
{
    return count / PFO_CHUNK_ELEMENTS + (count % PFO_CHUNK_ELEMENTS != 0);
}

typedef struct cast_run {
    const pfo_convert_table *table;
    const pfo_cast_request *request;
    int past_cache;
} cast_run;

/* Elements [begin, begin + count); begin is a multiple of PFO_SCALE_BLOCK. */
static void
cast_range(const cast_run *run, int64_t begin, int64_t count)
{
    const pfo_cast_request *r = run->request;
    const pfo_store_kernel store = run->table->store[r->to_dtype];
    const uint8_t *from = (const uint8_t *)r->from + (size_t)begin * pfo_dtype_bytes(r->from_dtype);
    uint8_t *to = (uint8_t *)r->to + (size_t)begin * pfo_dtype_bytes(r->to_dtype);
    const float *from_scales = r->from_scales != NULL ? r->from_scales + begin / PFO_SCALE_BLOCK : NULL;
    float *to_scales = r->to_scales != NULL ? r->to_scales + begin / PFO_SCALE_BLOCK : NULL;
    pfo_rounding rounding = r->rounding;
    rounding.first += (uint64_t)begin;
    if (r->from_dtype == PFO_DTYPE_FLOAT32) {
        store((const float *)(const void *)from, to, to_scales, count, &rounding, run->past_cache);
        return;
    }
    if (r->to_dtype == PFO_DTYPE_FLOAT32 && !run->past_cache) {
        run->table->load[r->from_dtype](from, from_scales, (float *)(void *)to, count);
        return;
    }
    float tile[TILE];
    run->table->load[r->from_dtype](from, from_scales, tile, count);
    store(tile, to, to_scales, count, &rounding, run->past_cache);
}

static void
cast_chunks(void *context, int64_t begin, int64_t end)
{
    const cast_run *run = context;
    const pfo_cast_request *r = run->request;
    const int direct = r->from_dtype == PFO_DTYPE_FLOAT32 || (r->to_dtype == PFO_DTYPE_FLOAT32 && !run->past_cache);
    const int64_t step = direct ? PFO_CHUNK_ELEMENTS : TILE;
    const int64_t last = end * PFO_CHUNK_ELEMENTS < r->count ? end * PFO_CHUNK_ELEMENTS : r->count;
    const unsigned environment = pfo_enter_default_floats();
    for (int64_t i = begin * PFO_CHUNK_ELEMENTS; i < last; i += step) {
        cast_range(run, i, last - i < step ? last - i : step);
    }
    pfo_fence_stores_past_cache();
    pfo_leave_default_floats(environment);
}

void
pfo_cast(const pfo_convert_table *table, const pfo_cast_request *request)
{
    const size_t bytes = pfo_dtype_bytes(request->from_dtype) + pfo_dtype_bytes(request->to_dtype);
    cast_run run = { .table = table,
                     .request = request,
                     .past_cache = request->count > PAST_CACHE_BYTES / (int64_t)bytes };
    pfo_pool_run(request->threads, chunk_count(request->count), 1, cast_chunks, &run);
}

typedef struct scale_run {
    const pfo_convert_table *table;
    uint8_t *data;
    pfo_dtype dtype;
    int64_t count;
    float factor;
    atomic_int nonfinite;
} scale_run;

/* 1 if any product is inf or NaN. One pass without branches, so that the compiler makes vectors of it. */
static uint32_t
scale_floats(float *data, int64_t count, float factor)
{
    uint32_t nonfinite = 0;
    for (int64_t i = 0; i < count; i++) {
        data[i] *= factor;
        nonfinite |= (pfo_float_bits(data[i]) & 0x7f800000u) == 0x7f800000u;
    }
    return nonfinite;
}

static uint32_t
scale_range(const scale_run *run, int64_t begin, int64_t count)
{
    uint8_t *data = run->data + (size_t)begin * pfo_dtype_bytes(run->dtype);
    if (run->dtype == PFO_DTYPE_FLOAT32) {
        return scale_floats((float *)(void *)data, count, run->factor);
    }
    static const pfo_rounding nearest;
    float tile[TILE];
    run->table->load[run->dtype](data, NULL, tile, count);
    const uint32_t nonfinite = scale_floats(tile, count, run->factor);
    run->table->store[run->dtype](tile, data, NULL, count, &nearest, 0);
    return nonfinite;
}

static void
scale_chunks(void *context, int64_t begin, int64_t end)
{
    scale_run *run = context;
    const int64_t last = end * PFO_CHUNK_ELEMENTS < run->count ? end * PFO_CHUNK_ELEMENTS : run->count;
    uint32_t nonfinite = 0;
    const unsigned environment = pfo_enter_default_floats();
    for (int64_t i = begin * PFO_CHUNK_ELEMENTS; i < last; i += TILE) {
        nonfinite |= scale_range(run, i, last - i < TILE ? last - i : TILE);
    }
    pfo_leave_default_floats(environment);
    if (nonfinite) {
        atomic_store_explicit(&run->nonfinite, 1, memory_order_relaxed);
    }
}

int
pfo_scale(const pfo_convert_table *table, void *data, pfo_dtype dtype, int64_t count, float factor, int threads)
{
    scale_run run = { .table = table, .data = data, .dtype = dtype, .count = count, .factor = factor };
    pfo_pool_run(threads, chunk_count(count), 1, scale_chunks, &run);
    return atomic_load_explicit(&run.nonfinite, memory_order_relaxed);
}
