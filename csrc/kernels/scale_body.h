/* scale_body.h: the kernels of scale.h, written once and compiled with the flags of each file that includes it.
 *
 * The loops are plain, so that the compiler turns them into vectors of whatever width the file's flags allow; no sum is taken and no
 * product contracted, so every width gives the same bits.
 * pre: PFO_SCALE_TABLE is the name of the function to define, PFO_SCALE_LEVEL its level.
 */
#include "kernels/scale.h"

#include <string.h>

/* All exponent bits set: inf or NaN. */
static inline uint32_t
body_is_nonfinite(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) == 0x7f800000u;
}

/* One stream alone does not keep the memory busy (measured: 11 % for check, 13 % for scale). May run past the end. */
enum { BLOCK = 64, PREFETCH_AHEAD = 512, CACHE_LINE = 16 };

static inline void
body_prefetch(const float *block)
{
    for (int i = 0; i < BLOCK; i += CACHE_LINE) {
        __builtin_prefetch(block + PREFETCH_AHEAD + i);
    }
}

static inline uint32_t
body_check_run(const float *data, int64_t count)
{
    uint32_t nonfinite = 0;
    for (int64_t i = 0; i < count; i++) {
        nonfinite |= body_is_nonfinite(data[i]);
    }
    return nonfinite;
}

static inline uint32_t
body_scale_run(float *data, int64_t count, float factor)
{
    uint32_t nonfinite = 0;
    for (int64_t i = 0; i < count; i++) {
        nonfinite |= body_is_nonfinite(data[i]);
        data[i] = data[i] * factor;
    }
    return nonfinite;
}

static int
body_check(const float *data, int64_t count)
{
    const int64_t whole = count - count % BLOCK;
    uint32_t nonfinite = body_check_run(data + whole, count - whole);
    for (int64_t i = 0; i < whole; i += BLOCK) {
        body_prefetch(data + i);
        nonfinite |= body_check_run(data + i, BLOCK);
    }
    return nonfinite != 0;
}

static int
body_scale(float *data, int64_t count, float factor)
{
    const int64_t whole = count - count % BLOCK;
    uint32_t nonfinite = body_scale_run(data + whole, count - whole, factor);
    for (int64_t i = 0; i < whole; i += BLOCK) {
        body_prefetch(data + i);
        nonfinite |= body_scale_run(data + i, BLOCK, factor);
    }
    return nonfinite != 0;
}

static int
body_clamp(float *data, int64_t count, float low, float high)
{
    int written = 0;
    for (int64_t begin = 0; begin < count; begin += PFO_CLAMP_TILE) {
        float *tile = data + begin;
        const int64_t elements = count - begin < PFO_CLAMP_TILE ? count - begin : PFO_CLAMP_TILE;
        uint32_t outside = 0;
        for (int64_t i = 0; i < elements; i++) {
            outside |= (uint32_t)(tile[i] < low) | (uint32_t)(tile[i] > high);
        }
        if (outside) {
            for (int64_t i = 0; i < elements; i++) {
                const float raised = tile[i] < low ? low : tile[i];
                tile[i] = raised > high ? high : raised;
            }
            written = 1;
        }
    }
    return written;
}

const pfo_scale_kernels *
PFO_SCALE_TABLE(void)
{
    static const pfo_scale_kernels table = {
        .level = PFO_SCALE_LEVEL,
        .check = body_check,
        .scale = body_scale,
        .clamp = body_clamp,
    };
    return &table;
}
