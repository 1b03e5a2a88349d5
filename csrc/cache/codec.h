/* codec.h: compression of payloads: a byte shuffle, then zstd.
 *
 * Contract: the input is the concatenation of parts. With item_bytes from 2 to 64 every block of 256 KiB is transposed first, so that the
 * first bytes of all its items lie together, then the second ones, and so on; numbers of one magnitude share most of their high bytes. A
 * block's remainder that is no whole item stays as it is. The result is one zstd frame of the shuffled bytes.
 * Threads: no globals. Memory: the result is a block to pfo_free(); zstd's own working memory comes from its library.
 */
#ifndef PFO_CACHE_CODEC_H
#define PFO_CACHE_CODEC_H

#include "cache/disk.h"

enum {
    PFO_CODEC_BLOCK = 256 * 1024,
    PFO_CODEC_MOST_ITEM = 64,
    PFO_CODEC_LEAST = 4096, /* shorter payloads are not worth a try */
    PFO_CODEC_LEVEL = 1,
    PFO_CODEC_PAYS_PERCENT = 60, /* see pfo_codec_pays() */
};

/* Whether compression is worth it: a sample of four pieces of 16 KiB shrinks to 60 % or less. An uncompressed payload is mapped
 * and costs nothing until it is touched; a compressed one costs a pass through zstd (about 1 GB/s) and heap memory at every get.
 * Random mantissas under a shuffled exponent shrink to 80 to 90 % and shall stay maps; counts, masks, text and padded or quantized
 * data shrink to well below a half. */
int pfo_codec_pays(const pfo_bytes *parts, size_t part_count, size_t item_bytes);

/* NO_MEMORY. */
pfo_status pfo_codec_compress(const pfo_bytes *parts, size_t part_count, size_t item_bytes, void **out,
                              size_t *out_length, pfo_error *err);
/* Exactly `length` bytes into out. IO when data is no frame of that. */
pfo_status pfo_codec_expand(const void *data, size_t data_length, size_t item_bytes, void *out, size_t length,
                            pfo_error *err);

/* Reading the concatenation of parts piece by piece. */
typedef struct pfo_parts_cursor {
    const pfo_bytes *parts;
    size_t part_count;
    size_t part;
    size_t offset; /* in it */
} pfo_parts_cursor;

size_t pfo_parts_length(const pfo_bytes *parts, size_t part_count);
/* The next `length` bytes: where they lie if they lie together, else copied into stage. pre: so many are left. */
const unsigned char *pfo_parts_next(pfo_parts_cursor *cursor, size_t length, unsigned char *stage);

#endif
