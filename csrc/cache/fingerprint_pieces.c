/* fingerprint_pieces.c: see fingerprint_pieces.h. */
#include "cache/fingerprint_pieces.h"

#include "base/alloc.h"

#include <string.h>

void
pfo_pieces_start(pfo_pieces *pieces, pfo_encoder *encoder, int threads)
{
    pieces->encoder = encoder;
    pieces->threads = threads;
    pieces->used = 0;
    pieces->chunk = NULL;
    pieces->digests = NULL;
    pieces->count = 0;
    pieces->capacity = 0;
}

/* Room for `more` digests; 0 if memory is out. */
static int
reserve(pfo_pieces *pieces, size_t more)
{
    if (pieces->capacity - pieces->count >= more) {
        return 1;
    }
    const size_t grown = pieces->capacity * 2 > pieces->count + more ? pieces->capacity * 2 : pieces->count + more;
    pfo_digest *digests = pfo_realloc_array(pieces->digests, grown, sizeof *digests);
    if (digests == NULL) {
        pieces->encoder->status = PFO_NO_MEMORY;
        return 0;
    }
    pieces->digests = digests;
    pieces->capacity = grown;
    return 1;
}

static void
hash_whole_chunks(pfo_pieces *pieces, const unsigned char *bytes, size_t chunks)
{
    if (reserve(pieces, chunks)) {
        pfo_fingerprint_chunks(pieces->encoder->ops, bytes, chunks, pieces->threads, pieces->digests + pieces->count);
        pieces->count += chunks;
    }
}

/* Where the next staged byte goes; NULL if memory is out. */
static unsigned char *
staging(pfo_pieces *pieces, size_t length)
{
    if (pieces->chunk == NULL && pieces->used + length > sizeof pieces->first) {
        pieces->chunk = pfo_alloc_aligned(PFO_XXH_STREAM_ALIGNMENT, PFO_FINGERPRINT_CHUNK);
        if (pieces->chunk == NULL) {
            pieces->encoder->status = PFO_NO_MEMORY;
            return NULL;
        }
        memcpy(pieces->chunk, pieces->first, pieces->used);
    }
    return (pieces->chunk != NULL ? pieces->chunk : pieces->first) + pieces->used;
}

/* bytes == NULL: zeros. A chunk is hashed only when a byte after it comes, because a single whole chunk is no list of chunks. */
static void
put(pfo_pieces *pieces, const unsigned char *bytes, size_t length)
{
    while (length > 0 && pieces->encoder->status == PFO_OK) {
        if (pieces->used == PFO_FINGERPRINT_CHUNK) {
            hash_whole_chunks(pieces, pieces->chunk, 1);
            pieces->used = 0;
            continue;
        }
        if (pieces->used == 0 && bytes != NULL && length > PFO_FINGERPRINT_CHUNK) {
            const size_t chunks = (length - 1) / PFO_FINGERPRINT_CHUNK;
            hash_whole_chunks(pieces, bytes, chunks);
            bytes += chunks * PFO_FINGERPRINT_CHUNK;
            length -= chunks * PFO_FINGERPRINT_CHUNK;
            continue;
        }
        const size_t room = PFO_FINGERPRINT_CHUNK - pieces->used;
        const size_t taken = length < room ? length : room;
        unsigned char *target = staging(pieces, taken);
        if (target == NULL) {
            return;
        }
        if (bytes == NULL) {
            memset(target, 0, taken);
        } else {
            memcpy(target, bytes, taken);
            bytes += taken;
        }
        pieces->used += taken;
        length -= taken;
    }
}

void
pfo_pieces_put(pfo_pieces *pieces, const void *bytes, size_t length)
{
    if (length > 0) {
        put(pieces, bytes, length);
    }
}

void
pfo_pieces_put_zeros(pfo_pieces *pieces, size_t length)
{
    put(pieces, NULL, length);
}

void
pfo_pieces_finish(pfo_pieces *pieces)
{
    pfo_encoder *encoder = pieces->encoder;
    const unsigned char *staged = pieces->chunk != NULL ? pieces->chunk : pieces->first;
    pfo_digest digest;
    if (encoder->status == PFO_OK && pieces->count > 0 && reserve(pieces, 1)) {
        encoder->ops->digest(staged, pieces->used, pieces->digests[pieces->count].bytes);
        encoder->ops->digest(pieces->digests, (pieces->count + 1) * sizeof digest, digest.bytes);
        pfo_encode_raw(encoder, digest.bytes, sizeof digest.bytes);
    } else if (encoder->status == PFO_OK && pieces->used > PFO_FINGERPRINT_INLINE) {
        encoder->ops->digest(staged, pieces->used, digest.bytes);
        pfo_encode_raw(encoder, digest.bytes, sizeof digest.bytes);
    } else if (encoder->status == PFO_OK) {
        pfo_encode_raw(encoder, staged, pieces->used);
    }
    pfo_free_aligned(pieces->chunk);
    pfo_free(pieces->digests);
    pfo_pieces_start(pieces, encoder, pieces->threads);
}
