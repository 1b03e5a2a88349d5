/* philox_math.h: counter-based random bits for stochastic rounding; compiles as C and as CUDA.
 *
 * Philox4x32-7 of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011): seven
 * rounds, the fewest that pass all of BigCrush, turn a counter of 128 bits and a key of 64 into 128 random bits. Here
 * the key is the run's seed, the upper half of the counter the stream (rounding_math.h), the lower half counts groups
 * of elements; so what an element gets depends on its index alone.
 *
 * One call serves eight elements with 16 bits each, dealt out so that sixteen lanes make their own elements' bits
 * without a shuffle: element i uses counter (i / 128) * 16 + i % 16, and of its four words the half number (i / 16)
 * % 8, lower half first. Threads: pure functions. Nothing here allocates or fails.
 */
#ifndef PFO_KERNELS_PHILOX_MATH_H
#define PFO_KERNELS_PHILOX_MATH_H

#include "kernels/convert_base.h"

#define PFO_PHILOX_MULTIPLIER_0 0xd2511f53u
#define PFO_PHILOX_MULTIPLIER_1 0xcd9e8d57u
#define PFO_PHILOX_WEYL_0 0x9e3779b9u
#define PFO_PHILOX_WEYL_1 0xbb67ae85u

enum {
    PFO_PHILOX_ROUNDS = 7,
    PFO_PHILOX_LANES = 16,     /* counters whose words are dealt out together */
    PFO_PHILOX_ELEMENTS = 128, /* elements these counters serve */
};

typedef struct pfo_philox_words {
    uint32_t word[4];
} pfo_philox_words;

PFO_MATH_INLINE pfo_philox_words
pfo_philox(pfo_philox_words counter, uint32_t key_0, uint32_t key_1)
{
    uint32_t *c = counter.word;
    for (int round = 0; round < PFO_PHILOX_ROUNDS; round++) {
        const uint64_t product_0 = (uint64_t)PFO_PHILOX_MULTIPLIER_0 * c[0];
        const uint64_t product_1 = (uint64_t)PFO_PHILOX_MULTIPLIER_1 * c[2];
        c[0] = (uint32_t)(product_1 >> 32) ^ c[1] ^ key_0;
        c[1] = (uint32_t)product_1;
        c[2] = (uint32_t)(product_0 >> 32) ^ c[3] ^ key_1;
        c[3] = (uint32_t)product_0;
        key_0 += PFO_PHILOX_WEYL_0;
        key_1 += PFO_PHILOX_WEYL_1;
    }
    return counter;
}

/* The words that element index of a stream has its bits in. */
PFO_MATH_INLINE pfo_philox_words
pfo_random_words(uint64_t seed, uint64_t stream, uint64_t index)
{
    const uint64_t group = index / PFO_PHILOX_ELEMENTS * PFO_PHILOX_LANES + index % PFO_PHILOX_LANES;
    const pfo_philox_words counter = { { (uint32_t)group, (uint32_t)(group >> 32), (uint32_t)stream,
                                         (uint32_t)(stream >> 32) } };
    return pfo_philox(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
}

/* 16 uniform random bits for element index of a stream. */
PFO_MATH_INLINE uint32_t
pfo_random16(uint64_t seed, uint64_t stream, uint64_t index)
{
    const pfo_philox_words words = pfo_random_words(seed, stream, index);
    const uint32_t half = (uint32_t)(index / PFO_PHILOX_LANES % 8);
    return words.word[half / 2] >> (half % 2 * 16) & 0xffffu;
}

/* The same 16 bits for a second use of the same draw: the byte that decides there mattered to 2^-8 only here. */
PFO_MATH_INLINE uint32_t
pfo_random_exchanged(uint32_t random)
{
    return (random >> 8 | random << 8) & 0xffffu;
}

#endif
