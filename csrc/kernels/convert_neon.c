/* convert_neon.c: four elements at a time; NEON is part of AArch64's baseline, so these need no flags but those against contraction.
 *
 * Same bits as the reference. What is here are the random bits; the dtypes are in convert_elements.h, and 8-bit blocks are the
 * reference's own.
 */
#include "kernels/convert.h"

#if defined(__aarch64__)
#include "kernels/philox_math.h"
#include "kernels/simd_codes_neon.h"

/* ---- random bits ---- */

/* One round on four counters. */
static inline __attribute__((always_inline)) void
philox_round(uint32x4_t c[4], uint32_t key_0, uint32_t key_1)
{
    const uint32x2_t multiplier_0 = vdup_n_u32(PFO_PHILOX_MULTIPLIER_0),
                     multiplier_1 = vdup_n_u32(PFO_PHILOX_MULTIPLIER_1);
    const uint32x4_t low_0 = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(c[0]), multiplier_0));
    const uint32x4_t high_0 = vreinterpretq_u32_u64(vmull_u32(vget_high_u32(c[0]), multiplier_0));
    const uint32x4_t low_1 = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(c[2]), multiplier_1));
    const uint32x4_t high_1 = vreinterpretq_u32_u64(vmull_u32(vget_high_u32(c[2]), multiplier_1));
    c[0] = veorq_u32(veorq_u32(vuzp2q_u32(low_1, high_1), c[1]), vdupq_n_u32(key_0));
    c[1] = vuzp1q_u32(low_1, high_1);
    c[2] = veorq_u32(veorq_u32(vuzp2q_u32(low_0, high_0), c[3]), vdupq_n_u32(key_1));
    c[3] = vuzp1q_u32(low_0, high_0);
}

typedef uint32x4_t random_words[4][4]; /* [quarter of the lanes][word] */

/* The words for the PFO_PHILOX_ELEMENTS elements from index on, a multiple of that. */
static inline __attribute__((always_inline)) void
fill_words(const pfo_rounding *rounding, uint64_t index, random_words words)
{
    static const uint32_t lane[4] = { 0, 1, 2, 3 };
    const uint64_t group = index / PFO_PHILOX_ELEMENTS * PFO_PHILOX_LANES; /* this plus a lane carries nothing */
    for (uint32_t quarter = 0; quarter < 4; quarter++) {
        uint32x4_t *c = words[quarter];
        c[0] = vaddq_u32(vdupq_n_u32((uint32_t)group + 4 * quarter), vld1q_u32(lane));
        c[1] = vdupq_n_u32((uint32_t)(group >> 32));
        c[2] = vdupq_n_u32((uint32_t)rounding->stream);
        c[3] = vdupq_n_u32((uint32_t)(rounding->stream >> 32));
    }
    uint32_t key_0 = (uint32_t)rounding->seed, key_1 = (uint32_t)(rounding->seed >> 32);
    for (int round = 0; round < PFO_PHILOX_ROUNDS; round++) {
        for (int quarter = 0; quarter < 4; quarter++) {
            philox_round(words[quarter], key_0, key_1);
        }
        key_0 += PFO_PHILOX_WEYL_0;
        key_1 += PFO_PHILOX_WEYL_1;
    }
}

/* The 16 bits of each lane for the vector-th four of the elements that words serve. */
static inline __attribute__((always_inline)) uint32x4_t
random_of(const random_words words, int vector)
{
    const uint32x4_t pair = words[vector % 4][vector / 8];
    return vector / 4 % 2 ? vshrq_n_u32(pair, 16) : vandq_u32(pair, vdupq_n_u32(0xffff));
}

#include "kernels/convert_elements.h"

/* X(suffix, dtype) */
#define BLOCK_DTYPES(X)                                                                                                \
    X(block8, BLOCK8)                                                                                                  \
    X(ublock8, UBLOCK8)

#define BLOCK_FUNCTIONS(suffix, id)                                                                                    \
    static void load_##suffix(const void *from, const float *scales, float *to, int64_t count)                         \
    {                                                                                                                  \
        pfo_converters_scalar()->load[PFO_DTYPE_##id](from, scales, to, count);                                        \
    }                                                                                                                  \
    static void store_##suffix(const float *from, void *to, float *scales, int64_t count,                              \
                               const pfo_rounding *rounding, int stream_past_cache)                                    \
    {                                                                                                                  \
        pfo_converters_scalar()->store[PFO_DTYPE_##id](from, to, scales, count, rounding, stream_past_cache);          \
    }
BLOCK_DTYPES(BLOCK_FUNCTIONS)

static void
draw(const pfo_rounding *rounding, int64_t count, uint32_t *words)
{
    pfo_converters_scalar()->draw(rounding, count, words);
}

const pfo_convert_table *
pfo_converters_neon(void)
{
#define LOAD_ENTRY(suffix, id) [PFO_DTYPE_##id] = load_##suffix,
#define STORE_ENTRY(suffix, id) [PFO_DTYPE_##id] = store_##suffix,
    static const pfo_convert_table table = {
        .level = PFO_CPU_NEON,
        .load = { PFO_ELEMENT_LOADS, BLOCK_DTYPES(LOAD_ENTRY) },
        .store = { PFO_ELEMENT_STORES, BLOCK_DTYPES(STORE_ENTRY) },
        .draw = draw,
    };
    return &table;
}

#else

const pfo_convert_table *
pfo_converters_neon(void)
{
    return NULL;
}

#endif
