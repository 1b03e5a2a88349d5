/* fingerprint.h: the 128-bit content fingerprint: a byte stream of tagged parts, hashed with XXH3-128.
 *
 * This is a format: digests are the same in every process, on every machine and in every later version; tests/data/fingerprints.json
 * holds golden ones, and a change of the scheme needs a new PFO_FINGERPRINT_VERSION.
 *
 * Scheme, version 1. All numbers are little-endian.
 *   stream   := version byte (0x01), part, part, ...         digest = XXH3-128 of the stream, seed 0, canonical (big-endian) form
 *   part     := tag byte, then by tag:
 *     'N' None       'T' True       'F' False      'E' Ellipsis     'Z' NotImplemented                          (nothing follows)
 *     'i' integer    payload: two's complement, 8 bytes where that suffices, else the fewest that do
 *     'f' float      8 bytes, IEEE bits (so -0.0 is not 0.0, and a NaN equals the same NaN)
 *     'c' complex    16 bytes, two floats
 *     's' text       payload: UTF-8 (lone surrogates as three bytes each)
 *     'b' bytes      payload        'y' bytearray  payload
 *     '(' tuple      count, then its parts in order      '[' list   likewise
 *     '{' dict       count, then for each item the 16-byte digest of the stream of its key and value parts, in ascending order
 *     '<' set        count, then the 16-byte digest of the stream of each element, in ascending order          '>' frozenset likewise
 *     'R' reduced    count n, then n parts: an object described by other objects, the first of them a text naming the description
 *     'A' array      payload: container kind; payload: dtype; dimensions (8 bytes); 8 bytes per dimension; data
 *     'V' Arrow schema, 'W' Arrow data                                                       (fingerprint_arrow.h)
 *   count    := 8 bytes
 *   payload  := length (8 bytes), data
 *   data     := up to 256 bytes: those bytes; up to CHUNK: their 16-byte digest; more: the 16-byte digest of the concatenated 16-byte
 *               digests of its pieces of CHUNK bytes (the last one shorter). [chunks]
 *   An array's data are its elements in logical C order, so that a strided view, a Fortran copy and a contiguous copy agree.
 * Every part is self-delimiting, so two different sequences of parts never give the same stream.
 *
 * Threads: an encoder belongs to one thread; large data are hashed on the pool [chunks], and the digest does not depend on how many.
 * Memory: an encoder allocates one stream state when its 256-byte buffer overflows; strided data are staged per chunk.
 */
#ifndef PFO_CACHE_FINGERPRINT_H
#define PFO_CACHE_FINGERPRINT_H

#include "base/status.h"
#include "cache/xxh_ops.h"

#include <stdint.h>

enum {
    PFO_FINGERPRINT_VERSION = 1,
    PFO_FINGERPRINT_INLINE = 256,
    PFO_FINGERPRINT_CHUNK = 256 * 1024,
    PFO_FINGERPRINT_PARALLEL = 4 * 1024 * 1024, /* below this one thread is faster; no part of the format */
    PFO_FINGERPRINT_MAX_DIMENSIONS = 64,
};

typedef struct pfo_digest {
    unsigned char bytes[PFO_DIGEST_BYTES];
} pfo_digest;

typedef struct pfo_encoder {
    const pfo_xxh_ops *ops;
    void *stream; /* NULL while everything fits the buffer */
    size_t used;
    pfo_status status; /* first failure; later calls do nothing */
    unsigned char buffer[PFO_FINGERPRINT_INLINE];
} pfo_encoder;

/* Strides in bytes, any sign, 0 for broadcast. data is the address of element (0, ..., 0). */
typedef struct pfo_array_view {
    const void *data;
    const int64_t *shape;
    const int64_t *strides;
    size_t item_bytes;
    int dimensions;   /* 0: one element */
    const char *kind; /* of container, e.g. "ndarray" */
    size_t kind_length;
    const char *dtype; /* e.g. "<f4" */
    size_t dtype_length;
} pfo_array_view;

/* ops == NULL: pfo_xxh_ops_best(). */
void pfo_encoder_start(pfo_encoder *encoder, const pfo_xxh_ops *ops);

/* Gives the digest of everything encoded, or the first failure, and releases the encoder's memory either way. */
pfo_status pfo_encoder_finish(pfo_encoder *encoder, pfo_digest *digest);

/* Back to the start without a digest. */
void pfo_encoder_drop(pfo_encoder *encoder);

void pfo_encode_tag(pfo_encoder *encoder, char tag); /* N T F E Z */
void pfo_encode_int64(pfo_encoder *encoder, int64_t number);
void pfo_encode_big_int(pfo_encoder *encoder, const void *bytes, size_t length);
void pfo_encode_double(pfo_encoder *encoder, double number);
void pfo_encode_complex(pfo_encoder *encoder, double real, double imaginary);
void pfo_encode_payload(pfo_encoder *encoder, char tag, const void *bytes, size_t length); /* s b y */
void pfo_encode_count(pfo_encoder *encoder, char tag, uint64_t count);                     /* ( [ { < > R */

/* Sorts the digests in place and writes them after pfo_encode_count(). */
void pfo_encode_unordered(pfo_encoder *encoder, pfo_digest *digests, size_t count);

/* The building blocks of compound parts (fingerprint_pieces.h, fingerprint_arrow.h): bytes, and an 8-byte number, as they are. */
void pfo_encode_raw(pfo_encoder *encoder, const void *bytes, size_t length);
void pfo_encode_number(pfo_encoder *encoder, uint64_t number);

/* threads <= 0: the pool's default. Failures (NO_MEMORY, BAD_ARGUMENT for more than 64 dimensions, OVERFLOW) stay in
 * encoder->status. */
void pfo_encode_array(pfo_encoder *encoder, const pfo_array_view *view, int threads);

/* Bytes of the view's elements; 0 status OVERFLOW when the product does not fit. */
pfo_status pfo_array_view_bytes(const pfo_array_view *view, size_t *bytes);

/* XXH3-128 of contiguous bytes by the scheme's data rule for more than 256 bytes [chunks]; used for checksums too. */
pfo_status pfo_fingerprint_bytes(const pfo_xxh_ops *ops, const void *data, size_t bytes, int threads,
                                 pfo_digest *digest);

/* The digests of `chunks` whole, contiguous chunks. */
void pfo_fingerprint_chunks(const pfo_xxh_ops *ops, const void *data, size_t chunks, int threads, pfo_digest *digests);

#endif
