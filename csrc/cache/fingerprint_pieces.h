/* fingerprint_pieces.h: the fingerprint's `data` (fingerprint.h) from pieces that do not lie next to each other in memory.
 *
 * Gives the bytes that pfo_encode_payload() would give for the pieces' concatenation, without making it: a piece that covers
 * whole chunks is hashed where it is, on the pool; only what straddles a chunk's border is staged.
 * Threads: belongs to one thread. Memory: a staging chunk from the 257th byte on, 16 bytes per chunk seen; pfo_pieces_finish() frees both.
 */
#ifndef PFO_CACHE_FINGERPRINT_PIECES_H
#define PFO_CACHE_FINGERPRINT_PIECES_H

#include "cache/fingerprint.h"

typedef struct pfo_pieces {
    pfo_encoder *encoder; /* failures go to its status; later calls do nothing */
    int threads;          /* as for pfo_encode_array() */
    size_t used;          /* bytes staged */
    unsigned char *chunk; /* NULL while all fits `first` */
    pfo_digest *digests;  /* of the whole chunks seen */
    size_t count;
    size_t capacity;
    unsigned char first[PFO_FINGERPRINT_INLINE];
} pfo_pieces;

void pfo_pieces_start(pfo_pieces *pieces, pfo_encoder *encoder, int threads);
void pfo_pieces_put(pfo_pieces *pieces, const void *bytes, size_t length);
void pfo_pieces_put_zeros(pfo_pieces *pieces, size_t length);

/* Writes the data to the encoder and releases the memory, whatever happened before. */
void pfo_pieces_finish(pfo_pieces *pieces);

#endif
