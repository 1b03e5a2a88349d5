/* codec.c: see codec.h. */
#include "cache/codec.h"

#include "base/alloc.h"

#include <string.h>
#include <zstd.h>

enum { SAMPLES = 4, SAMPLE_BYTES = 16 * 1024 };

size_t
pfo_parts_length(const pfo_bytes *parts, size_t part_count)
{
    size_t length = 0;
    for (size_t i = 0; i < part_count; i++) {
        length += parts[i].length;
    }
    return length;
}

const unsigned char *
pfo_parts_next(pfo_parts_cursor *cursor, size_t length, unsigned char *stage)
{
    while (cursor->part < cursor->part_count && cursor->offset == cursor->parts[cursor->part].length) {
        cursor->part++;
        cursor->offset = 0;
    }
    if (length == 0) {
        return stage;
    }
    const pfo_bytes *part = &cursor->parts[cursor->part];
    if (part->length - cursor->offset >= length) {
        const unsigned char *here = (const unsigned char *)part->data + cursor->offset;
        cursor->offset += length;
        return here;
    }
    for (size_t done = 0; done < length;) {
        part = &cursor->parts[cursor->part];
        size_t share = part->length - cursor->offset;
        if (share > length - done) {
            share = length - done;
        }
        if (share != 0) {
            memcpy(stage + done, (const unsigned char *)part->data + cursor->offset, share);
        }
        done += share;
        cursor->offset += share;
        if (cursor->offset == part->length) {
            cursor->part++;
            cursor->offset = 0;
        }
    }
    return stage;
}

static int
is_shuffled(size_t item_bytes)
{
    return item_bytes >= 2 && item_bytes <= PFO_CODEC_MOST_ITEM;
}

static void
shuffle(const unsigned char *in, unsigned char *out, size_t length, size_t item_bytes)
{
    const size_t items = length / item_bytes;
    for (size_t byte = 0; byte < item_bytes; byte++) {
        for (size_t item = 0; item < items; item++) {
            out[byte * items + item] = in[item * item_bytes + byte];
        }
    }
    memcpy(out + items * item_bytes, in + items * item_bytes, length - items * item_bytes);
}

static void
unshuffle(const unsigned char *in, unsigned char *out, size_t length, size_t item_bytes)
{
    const size_t items = length / item_bytes;
    for (size_t item = 0; item < items; item++) {
        for (size_t byte = 0; byte < item_bytes; byte++) {
            out[item * item_bytes + byte] = in[byte * items + item];
        }
    }
    memcpy(out + items * item_bytes, in + items * item_bytes, length - items * item_bytes);
}

int
pfo_codec_pays(const pfo_bytes *parts, size_t part_count, size_t item_bytes)
{
    const size_t length = pfo_parts_length(parts, part_count);
    const size_t piece = length < (size_t)SAMPLES * SAMPLE_BYTES ? length : SAMPLE_BYTES;
    const size_t pieces = piece == length ? 1 : SAMPLES;
    const size_t bound = ZSTD_compressBound(piece);
    size_t before = 0;
    size_t after = 0;
    if (length < PFO_CODEC_LEAST) {
        return 0;
    }
    unsigned char *room = pfo_alloc(2 * piece + bound);
    if (room == NULL) {
        return 0; /* it is only a saving */
    }
    for (size_t i = 0; i < pieces; i++) {
        pfo_parts_cursor cursor = { .parts = parts, .part_count = part_count };
        size_t skip = pieces == 1 ? 0 : (length - piece) / (pieces - 1) * i;
        skip -= is_shuffled(item_bytes) ? skip % item_bytes : 0;
        while (skip != 0) {
            const size_t step = skip > piece ? piece : skip;
            (void)pfo_parts_next(&cursor, step, room);
            skip -= step;
        }
        const unsigned char *sample = pfo_parts_next(&cursor, piece, room);
        if (is_shuffled(item_bytes)) {
            shuffle(sample, room + piece, piece, item_bytes);
            sample = room + piece;
        }
        const size_t shrunk = ZSTD_compress(room + 2 * piece, bound, sample, piece, PFO_CODEC_LEVEL);
        before += piece;
        after += ZSTD_isError(shrunk) ? piece : shrunk;
    }
    pfo_free(room);
    return after * 100 <= before * PFO_CODEC_PAYS_PERCENT;
}

static size_t
compress_blocks(ZSTD_CCtx *context, pfo_parts_cursor *cursor, size_t length, size_t item_bytes, unsigned char *room,
                ZSTD_outBuffer *out)
{
    size_t left = length;
    do {
        const size_t block = left < PFO_CODEC_BLOCK ? left : PFO_CODEC_BLOCK;
        const unsigned char *bytes = pfo_parts_next(cursor, block, room);
        if (is_shuffled(item_bytes)) {
            shuffle(bytes, room + PFO_CODEC_BLOCK, block, item_bytes);
            bytes = room + PFO_CODEC_BLOCK;
        }
        left -= block;
        ZSTD_inBuffer in = { .src = bytes, .size = block, .pos = 0 };
        size_t rest;
        do {
            rest = ZSTD_compressStream2(context, out, &in, left == 0 ? ZSTD_e_end : ZSTD_e_continue);
            if (ZSTD_isError(rest)) {
                return rest;
            }
        } while (left == 0 ? rest != 0 : in.pos != in.size);
    } while (left != 0);
    return 0;
}

pfo_status
pfo_codec_compress(const pfo_bytes *parts, size_t part_count, size_t item_bytes, void **out, size_t *out_length,
                   pfo_error *err)
{
    const size_t length = pfo_parts_length(parts, part_count);
    pfo_parts_cursor cursor = { .parts = parts, .part_count = part_count };
    ZSTD_outBuffer buffer = { .dst = NULL, .size = ZSTD_compressBound(length), .pos = 0 };
    unsigned char *room = pfo_alloc(2 * (size_t)PFO_CODEC_BLOCK);
    ZSTD_CCtx *context = room == NULL ? NULL : ZSTD_createCCtx();
    size_t result = 0;
    *out = NULL;
    if (context != NULL) {
        buffer.dst = pfo_alloc(buffer.size);
    }
    if (buffer.dst != NULL) {
        (void)ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, PFO_CODEC_LEVEL);
        result = compress_blocks(context, &cursor, length, item_bytes, room, &buffer);
    }
    (void)ZSTD_freeCCtx(context);
    pfo_free(room);
    if (buffer.dst == NULL || ZSTD_isError(result)) { /* with room for the bound only memory can be missing */
        pfo_free(buffer.dst);
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory compressing %zu bytes", length);
    }
    *out = buffer.dst;
    *out_length = buffer.pos;
    return PFO_OK;
}

pfo_status
pfo_codec_expand(const void *data, size_t data_length, size_t item_bytes, void *out, size_t length, pfo_error *err)
{
    if (!is_shuffled(item_bytes)) {
        const size_t got = ZSTD_decompress(out, length, data, data_length);
        return got == length ? PFO_OK : pfo_fail(err, PFO_IO, "a compressed payload is damaged");
    }
    unsigned char *block = pfo_alloc(PFO_CODEC_BLOCK);
    ZSTD_DCtx *context = block == NULL ? NULL : ZSTD_createDCtx();
    if (context == NULL) {
        pfo_free(block);
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory expanding %zu bytes", length);
    }
    ZSTD_inBuffer in = { .src = data, .size = data_length, .pos = 0 };
    size_t done = 0;
    size_t rest = 1;
    int is_good = 1;
    while (is_good && (done < length || rest != 0)) {
        const size_t wanted = length - done < PFO_CODEC_BLOCK ? length - done : PFO_CODEC_BLOCK;
        ZSTD_outBuffer piece = { .dst = block, .size = wanted, .pos = 0 };
        do {
            const size_t before = in.pos + piece.pos;
            rest = ZSTD_decompressStream(context, &piece, &in);
            is_good = !ZSTD_isError(rest) && (rest == 0 || in.pos + piece.pos != before);
        } while (is_good && piece.pos < piece.size && rest != 0);
        is_good = is_good && piece.pos == wanted;
        if (is_good) {
            unshuffle(block, (unsigned char *)out + done, wanted, item_bytes);
            done += wanted;
        }
    }
    (void)ZSTD_freeDCtx(context);
    pfo_free(block);
    return is_good && in.pos == in.size ? PFO_OK : pfo_fail(err, PFO_IO, "a compressed payload is damaged");
}
