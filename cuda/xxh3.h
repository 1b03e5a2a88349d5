/* xxh3.h: the arithmetic of XXH3-128 (seed 0) over one piece of memory, cut so that many threads share it; compiles as C and as CUDA.
 *
 * XXH3 reads stripes of 64 bytes, 16 of them a block, and adds a value per stripe and lane to eight accumulators, which are
 * scrambled after each block. What a stripe adds depends on its bytes and the secret alone, not on the accumulators: so
 *   1. the sums of all blocks can be formed in any order, by as many threads as there are      pfo_xxh3_block_sum()
 *   2. a short chain of one addition and one scramble a block makes the accumulators of them   pfo_xxh3_chain()
 *   3. the accumulators become 128 bits                                                        pfo_xxh3_finish()
 * Wrapping 64-bit integers throughout: the digest has the same bits on every device and for every split.
 *
 * Only pieces of more than PFO_XXH3_SHORT bytes have stripes; shorter ones follow other rules and are the host's (cache/xxh_ops.h).
 * Algorithm: XXH3 by Yann Collet, from its specification; tests/c/test_device_fingerprint.c compares it with libxxhash.
 * Threads: pure functions. Little-endian machines only, as every host of a CUDA device is.
 */
#ifndef PFO_CUDA_XXH3_H
#define PFO_CUDA_XXH3_H

#include <stdint.h>
#include <string.h>

#include "kernels/update_math.h"

enum {
    PFO_XXH3_SHORT = 240,
    PFO_XXH3_LANES = 8,
    PFO_XXH3_PAIRS = PFO_XXH3_LANES / 2, /* lanes 2k and 2k + 1 swap their data, so a thread takes both */
    PFO_XXH3_STRIPE = 64,
    PFO_XXH3_BLOCK_STRIPES = 16,
    PFO_XXH3_BLOCK = PFO_XXH3_STRIPE * PFO_XXH3_BLOCK_STRIPES,
    PFO_XXH3_SECRET_WORDS = 24,
    PFO_XXH3_SCRAMBLE_WORD = 16, /* where in the secret, in words and in bytes, each of its uses begins */
    PFO_XXH3_LAST_BYTE = 121,
    PFO_XXH3_LOW_BYTE = 11,
    PFO_XXH3_HIGH_BYTE = 117,
};

#define PFO_XXH3_PRIME32_1 0x9e3779b1u
#define PFO_XXH3_PRIME32_2 0x85ebca77u
#define PFO_XXH3_PRIME32_3 0xc2b2ae3du
#define PFO_XXH3_PRIME64_1 UINT64_C(0x9e3779b185ebca87)
#define PFO_XXH3_PRIME64_2 UINT64_C(0xc2b2ae3d27d4eb4f)
#define PFO_XXH3_PRIME64_3 UINT64_C(0x165667b19e3779f9)
#define PFO_XXH3_PRIME64_4 UINT64_C(0x85ebca77c2b2ae63)
#define PFO_XXH3_PRIME64_5 UINT64_C(0x27d4eb2f165667c5)
#define PFO_XXH3_AVALANCHE UINT64_C(0x165667919e3779f9)

#if defined(__CUDA_ARCH__)
#define PFO_XXH3_UNROLL _Pragma("unroll 8")
#else
#define PFO_XXH3_UNROLL
#endif

/* The algorithm's default secret, 192 bytes as little-endian words. */
#define PFO_XXH3_SECRET                                                                                                \
    { UINT64_C(0xbe4ba423396cfeb8), UINT64_C(0x1cad21f72c81017c), UINT64_C(0xdb979083e96dd4de),                        \
      UINT64_C(0x1f67b3b7a4a44072), UINT64_C(0x78e5c0cc4ee679cb), UINT64_C(0x2172ffcc7dd05a82),                        \
      UINT64_C(0x8e2443f7744608b8), UINT64_C(0x4c263a81e69035e0), UINT64_C(0xcb00c391bb52283c),                        \
      UINT64_C(0xa32e531b8b65d088), UINT64_C(0x4ef90da297486471), UINT64_C(0xd8acdea946ef1938),                        \
      UINT64_C(0x3f349ce33f76faa8), UINT64_C(0x1d4f0bc7c7bbdcf9), UINT64_C(0x3159b4cd4be0518a),                        \
      UINT64_C(0x647378d9c97e9fc8), UINT64_C(0xc3ebd33483acc5ea), UINT64_C(0xeb6313faffa081c5),                        \
      UINT64_C(0x49daf0b751dd0d17), UINT64_C(0x9e68d429265516d3), UINT64_C(0xfca1477d58be162b),                        \
      UINT64_C(0xce31d07ad1b8f88f), UINT64_C(0x280416958f3acb45), UINT64_C(0x7e404bbbcafbd7af) }

typedef struct pfo_xxh3_pair {
    uint64_t at[2];
} pfo_xxh3_pair;

/* How a piece of `bytes` divides. Sums have whole_blocks + 1 slots: the last one is what follows the last scramble. */
typedef struct pfo_xxh3_shape {
    int32_t whole_blocks; /* each followed by a scramble */
    int32_t rest_stripes; /* after them, 0 .. 15; then comes the last stripe, the piece's final 64 bytes */
    int64_t bytes;
} pfo_xxh3_shape;

/* pre: PFO_XXH3_SHORT < bytes, and whole_blocks fits (bytes < 2 TiB). */
PFO_MATH_INLINE pfo_xxh3_shape
pfo_xxh3_shape_of(int64_t bytes)
{
    pfo_xxh3_shape shape;
    shape.bytes = bytes;
    shape.whole_blocks = (int32_t)((bytes - 1) / PFO_XXH3_BLOCK);
    shape.rest_stripes = (int32_t)((bytes - 1) % PFO_XXH3_BLOCK / PFO_XXH3_STRIPE);
    return shape;
}

/* 8 bytes of the secret from any offset. */
PFO_MATH_INLINE uint64_t
pfo_xxh3_secret_at(const uint64_t *secret, int offset)
{
    const int word = offset / 8;
    const int shift = offset % 8 * 8;
    return shift == 0 ? secret[word] : (secret[word] >> shift) | (secret[word + 1] << (64 - shift));
}

PFO_MATH_INLINE uint64_t
pfo_xxh3_mix(uint64_t key)
{
    return (key & 0xffffffffu) * (key >> 32);
}

/* What 16 bytes of a stripe add to the two lanes that they belong to. */
PFO_MATH_INLINE void
pfo_xxh3_add(pfo_xxh3_pair *sum, pfo_xxh3_pair data, uint64_t secret_0, uint64_t secret_1)
{
    sum->at[0] += data.at[1] + pfo_xxh3_mix(data.at[0] ^ secret_0);
    sum->at[1] += data.at[0] + pfo_xxh3_mix(data.at[1] ^ secret_1);
}

/* One lane through all blocks. sums: [whole_blocks + 1][PFO_XXH3_LANES]. */
PFO_MATH_INLINE uint64_t
pfo_xxh3_chain(const uint64_t *sums, int32_t whole_blocks, int lane, const uint64_t *secret)
{
    const uint64_t start[PFO_XXH3_LANES] = { PFO_XXH3_PRIME32_3, PFO_XXH3_PRIME64_1, PFO_XXH3_PRIME64_2,
                                             PFO_XXH3_PRIME64_3, PFO_XXH3_PRIME64_4, PFO_XXH3_PRIME32_2,
                                             PFO_XXH3_PRIME64_5, PFO_XXH3_PRIME32_1 };
    const uint64_t key = secret[PFO_XXH3_SCRAMBLE_WORD + lane];
    uint64_t lane_value = start[lane];
    for (int32_t block = 0; block < whole_blocks; block++) {
        lane_value += sums[block * PFO_XXH3_LANES + lane];
        lane_value = (lane_value ^ (lane_value >> 47) ^ key) * PFO_XXH3_PRIME32_1;
    }
    return lane_value + sums[whole_blocks * PFO_XXH3_LANES + lane];
}

/* Low and high half of the 128-bit product, one over the other. */
PFO_MATH_INLINE uint64_t
pfo_xxh3_fold(uint64_t a, uint64_t b)
{
#if defined(__CUDA_ARCH__)
    return (a * b) ^ __umul64hi(a, b);
#else
    const unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#endif
}

PFO_MATH_INLINE uint64_t
pfo_xxh3_merge(const uint64_t *lanes, const uint64_t *secret, int offset, uint64_t start)
{
    uint64_t merged = start;
    for (int i = 0; i < PFO_XXH3_LANES; i += 2) {
        merged += pfo_xxh3_fold(lanes[i] ^ pfo_xxh3_secret_at(secret, offset + 8 * i),
                                lanes[i + 1] ^ pfo_xxh3_secret_at(secret, offset + 8 * i + 8));
    }
    merged = (merged ^ (merged >> 37)) * PFO_XXH3_AVALANCHE;
    return merged ^ (merged >> 32);
}

/* The canonical (big-endian) digest of a piece's eight accumulators. */
PFO_MATH_INLINE void
pfo_xxh3_finish(const uint64_t *lanes, int64_t bytes, const uint64_t *secret, unsigned char digest[16])
{
    const uint64_t length = (uint64_t)bytes;
    const uint64_t low = pfo_xxh3_merge(lanes, secret, PFO_XXH3_LOW_BYTE, length * PFO_XXH3_PRIME64_1);
    const uint64_t high = pfo_xxh3_merge(lanes, secret, PFO_XXH3_HIGH_BYTE, ~(length * PFO_XXH3_PRIME64_2));
    for (int i = 0; i < 8; i++) {
        digest[i] = (unsigned char)(high >> (56 - 8 * i));
        digest[8 + i] = (unsigned char)(low >> (56 - 8 * i));
    }
}

/* ---- reading, for data of any alignment -------------------------------------------------------------------------------------- */

PFO_MATH_INLINE uint64_t
pfo_xxh3_read_bytes(const unsigned char *from)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value |= (uint64_t)from[i] << (8 * i);
    }
    return value;
}

/* alignment: what is known of `from`: 16, 4 or 1; a constant where it is called, so that one way remains. */
PFO_MATH_INLINE pfo_xxh3_pair
pfo_xxh3_read(const unsigned char *from, int alignment)
{
    pfo_xxh3_pair pair;
#if defined(__CUDA_ARCH__)
    if (alignment == 16) {
        const ulonglong2 both = *reinterpret_cast<const ulonglong2 *>(from);
        pair.at[0] = both.x;
        pair.at[1] = both.y;
        return pair;
    }
    if (alignment == 4) {
        const uint32_t *words = reinterpret_cast<const uint32_t *>(from);
        pair.at[0] = (uint64_t)words[1] << 32 | words[0];
        pair.at[1] = (uint64_t)words[3] << 32 | words[2];
        return pair;
    }
#else
    (void)alignment; /* compilers of the host see through the bytes */
#endif
    pair.at[0] = pfo_xxh3_read_bytes(from);
    pair.at[1] = pfo_xxh3_read_bytes(from + 8);
    return pair;
}

/* The sum of one block for one pair of lanes; with slot == whole_blocks that of the stripes after the last scramble. */
PFO_MATH_INLINE pfo_xxh3_pair
pfo_xxh3_block_sum(const unsigned char *piece, pfo_xxh3_shape shape, int32_t slot, int pair, int alignment,
                   const uint64_t *secret)
{
    const int last = slot == shape.whole_blocks;
    const int stripes = last ? shape.rest_stripes : PFO_XXH3_BLOCK_STRIPES;
    const unsigned char *at = piece + (int64_t)slot * PFO_XXH3_BLOCK + 16 * pair;
    const uint64_t *key = secret + 2 * pair;
    pfo_xxh3_pair sum = { { 0, 0 } };
    PFO_XXH3_UNROLL
    for (int s = 0; s < stripes; s++) {
        pfo_xxh3_add(&sum, pfo_xxh3_read(at + s * PFO_XXH3_STRIPE, alignment), key[s], key[s + 1]);
    }
    if (last) {
        const int offset = PFO_XXH3_LAST_BYTE + 16 * pair;
        pfo_xxh3_add(&sum, pfo_xxh3_read(piece + shape.bytes - PFO_XXH3_STRIPE + 16 * pair, 1),
                     pfo_xxh3_secret_at(secret, offset), pfo_xxh3_secret_at(secret, offset + 8));
    }
    return sum;
}

#endif
