/* blocks_body.h: what of the 8-bit block codes is the same for every instruction set, written once over what the including file has:
 * the stores and loads of whole calls, batch by batch.
 *
 * pre: the file that includes it, at its end, has defined store_block(), load_blocks(), judge_block8(), judge_ublock8(), block_words_of(),
 * random_bytes(), batch_rounding, block_words, BATCH and ALWAYS_INLINE, and BLOCKS_NAME(stem): the name with the instruction set's.
 * Contracts, threads and memory: convert.h.
 */

/* The same with what varies from block to block as constants. */
ALWAYS_INLINE void
store_block_as(pfo_dtype dtype, const float *from, uint8_t *to, int64_t count, const block_words *block,
               int all_positive, const batch_rounding *how, const uint32_t *words)
{
    if (words == NULL) {
        static const uint32_t none[PFO_SCALE_BLOCK / 2];
        store_block(dtype, from, to, count, block, 0, 0, how, none);
    } else if (all_positive && count == PFO_SCALE_BLOCK) {
        store_block(dtype, from, to, PFO_SCALE_BLOCK, block, 1, 1, how, words);
    } else if (count == PFO_SCALE_BLOCK) {
        store_block(dtype, from, to, PFO_SCALE_BLOCK, block, 0, 1, how, words);
    } else {
        store_block(dtype, from, to, count, block, 0, 1, how, words);
    }
}

ALWAYS_INLINE void
store_batch(pfo_dtype dtype, const float *from, uint8_t *to, float *scales, int64_t count, const batch_rounding *how,
            const uint32_t *words)
{
    int all_positive[BATCH / PFO_SCALE_BLOCK];
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t left = count - begin, b = begin / PFO_SCALE_BLOCK;
        all_positive[b] = 0;
        if (dtype == PFO_DTYPE_BLOCK8) {
            scales[b] = left >= PFO_SCALE_BLOCK ? judge_block8(from + begin, PFO_SCALE_BLOCK)
                                                : judge_block8(from + begin, left);
        } else {
            scales[b] = left >= PFO_SCALE_BLOCK ? judge_ublock8(from + begin, PFO_SCALE_BLOCK, &all_positive[b])
                                                : judge_ublock8(from + begin, left, &all_positive[b]);
        }
    }
    for (int64_t begin = 0; begin < count; begin += PFO_SCALE_BLOCK) {
        const int64_t left = count - begin, b = begin / PFO_SCALE_BLOCK;
        const int64_t size = left < PFO_SCALE_BLOCK ? left : PFO_SCALE_BLOCK;
        if (!(scales[b] > 0.0f)) { /* zero or NaN */
            memset(to + begin, 0, (size_t)size);
            continue;
        }
        const block_words block = block_words_of(dtype, scales[b], pfo_block_inverse(scales[b]));
        store_block_as(dtype, from + begin, to + begin, size, &block, all_positive[b], how,
                       words != NULL ? words + begin / 2 : NULL);
    }
}

ALWAYS_INLINE void
store_blocks(pfo_dtype dtype, const float *from, void *to, float *scales, int64_t count, const pfo_rounding *rounding)
{
    if (rounding->stochastic && rounding->first % PFO_PHILOX_ELEMENTS != 0) { /* no step asks for this */
        pfo_converters_scalar()->store[dtype](from, to, scales, count, rounding, 0);
        return;
    }
    const batch_rounding how = { { random_bytes(0, rounding->exchanged), random_bytes(1, rounding->exchanged) } };
    _Alignas(64) uint32_t drawn[BATCH / 2];
    pfo_rounding moved = *rounding;
    for (int64_t begin = 0; begin < count; begin += BATCH) {
        const int64_t size = count - begin < BATCH ? count - begin : BATCH;
        const uint32_t *words = NULL;
        if (rounding->stochastic && rounding->words != NULL) {
            words = rounding->words + begin / 2;
        } else if (rounding->stochastic) {
            moved.first = rounding->first + (uint64_t)begin;
            BLOCKS_NAME(pfo_draw)(&moved, size, drawn);
            words = drawn;
        }
        store_batch(dtype, from + begin, (uint8_t *)to + begin, scales + begin / PFO_SCALE_BLOCK, size, &how, words);
    }
}

/* stream_past_cache: one byte an element, nothing to win. */
#define BLOCK_FUNCTIONS(suffix, id)                                                                                    \
    void BLOCKS_NAME(pfo_load_##suffix)(const void *from, const float *scales, float *to, int64_t count)               \
    {                                                                                                                  \
        load_blocks(PFO_DTYPE_##id, from, scales, to, count);                                                          \
    }                                                                                                                  \
    void BLOCKS_NAME(pfo_store_##suffix)(const float *from, void *to, float *scales, int64_t count,                    \
                                         const pfo_rounding *rounding, int stream_past_cache)                          \
    {                                                                                                                  \
        (void)stream_past_cache;                                                                                       \
        store_blocks(PFO_DTYPE_##id, from, to, scales, count, rounding);                                               \
    }
BLOCK_FUNCTIONS(block8, BLOCK8)
BLOCK_FUNCTIONS(ublock8, UBLOCK8)
