/* Tests of cuda/xxh3.h without a device: the fake backend, which walks it as the kernel does, against libxxhash: every length around
 * every border of the algorithm and of the pieces, any alignment, and whole arrays by the fingerprint's rule. */
#include "check.h"
#include "device_fixture.h"

#include "../../cuda/xxh3.h"

#include "cache/fingerprint.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = PFO_FINGERPRINT_CHUNK, ROOM = 3 * PIECE + 4096, DIGESTS = ROOM / PFO_BACKEND_PIECE_UNIT + 2 };

static const pfo_backend *backend;
static unsigned char *data;
static unsigned char digests[DIGESTS * PFO_DIGEST_BYTES];
static unsigned char rest[PFO_BACKEND_SHORT_PIECE];
static unsigned char scratch[DIGESTS * PFO_DIGEST_BYTES];

static int
same_pieces(const unsigned char *from, int64_t bytes, int64_t piece_bytes)
{
    const pfo_xxh_ops *ops = pfo_xxh_ops_best();
    const pfo_backend_pieces pieces = { .data = from,
                                        .bytes = bytes,
                                        .piece_bytes = piece_bytes,
                                        .scratch = scratch,
                                        .scratch_bytes = (int64_t)sizeof scratch,
                                        .digests = digests,
                                        .rest = rest };
    memset(digests, 0xee, sizeof digests);
    memset(rest, 0xee, sizeof rest);
    if (backend->digest_pieces_and_wait(&pieces, NULL, NULL) != PFO_BACKEND_OK) {
        return 0;
    }
    int64_t piece = 0;
    for (int64_t begin = 0; begin < bytes; begin += piece_bytes, piece++) {
        const int64_t left = bytes - begin < piece_bytes ? bytes - begin : piece_bytes;
        unsigned char expected[PFO_DIGEST_BYTES];
        if (left <= PFO_BACKEND_SHORT_PIECE) {
            if (memcmp(rest, from + begin, (size_t)left) != 0) {
                return 0;
            }
            continue;
        }
        ops->digest(from + begin, (size_t)left, expected);
        if (memcmp(digests + piece * PFO_DIGEST_BYTES, expected, sizeof expected) != 0) {
            return 0;
        }
    }
    return 1;
}

static void
every_length_around_every_border(void)
{
    for (int64_t bytes = 0; bytes < 5 * PFO_XXH3_BLOCK; bytes++) {
        CHECK(same_pieces(data, bytes, PIECE));
        CHECK(same_pieces(data, bytes, PFO_BACKEND_PIECE_UNIT));
    }
    for (int64_t near = 8 * PFO_XXH3_BLOCK; near <= 3 * PIECE; near *= 2) {
        for (int64_t bytes = near - 70; bytes <= near + 70; bytes++) {
            CHECK(same_pieces(data, bytes, PIECE));
        }
    }
    for (int64_t bytes = 3 * PIECE - 300; bytes <= 3 * PIECE + 300; bytes += 7) {
        CHECK(same_pieces(data, bytes, PIECE));
        CHECK(same_pieces(data, bytes, 3 * PFO_BACKEND_PIECE_UNIT));
    }
}

static void
any_alignment(void)
{
    for (int shift = 0; shift < 17; shift++) {
        CHECK(same_pieces(data + shift, 2 * PIECE + 777, PIECE));
        CHECK(same_pieces(data + shift, 241, PIECE));
    }
}

static void
a_changed_byte_changes_its_piece_only(void)
{
    unsigned char before[3 * PFO_DIGEST_BYTES];
    CHECK(same_pieces(data, 3 * PIECE, PIECE));
    memcpy(before, digests, sizeof before);
    const int64_t places[] = { PIECE, PIECE + 1023, PIECE + 1024, 2 * PIECE - 64, 2 * PIECE - 1 };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        data[places[i]] ^= 1;
        CHECK(same_pieces(data, 3 * PIECE, PIECE));
        CHECK(memcmp(digests, before, PFO_DIGEST_BYTES) == 0);
        CHECK(memcmp(digests + PFO_DIGEST_BYTES, before + PFO_DIGEST_BYTES, PFO_DIGEST_BYTES) != 0);
        CHECK(memcmp(digests + 2 * PFO_DIGEST_BYTES, before + 2 * PFO_DIGEST_BYTES, PFO_DIGEST_BYTES) == 0);
        data[places[i]] ^= 1;
    }
}

static void
extreme_bytes(void)
{
    unsigned char *kept = malloc(ROOM);
    REQUIRE(kept != NULL);
    memcpy(kept, data, ROOM);
    for (int value = 0; value <= 255; value += 255) {
        memset(data, value, ROOM);
        CHECK(same_pieces(data, PIECE + 4097, PIECE));
    }
    memcpy(data, kept, ROOM);
    free(kept);
}

static void
too_little_scratch_is_refused(void)
{
    const pfo_backend_pieces pieces = { .data = data,
                                        .bytes = PIECE + 1,
                                        .piece_bytes = PIECE,
                                        .scratch = scratch,
                                        .scratch_bytes = PFO_DIGEST_BYTES,
                                        .digests = digests,
                                        .rest = rest };
    CHECK(backend->digest_pieces_and_wait(&pieces, NULL, NULL) == PFO_BACKEND_BAD_ARGUMENT);
}

int
main(int argc, char **argv)
{
    backend = open_device(argc, argv);
    data = malloc(ROOM);
    REQUIRE(data != NULL);
    uint32_t state = 12345;
    for (int i = 0; i < ROOM; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (unsigned char)(state >> 24);
    }
    RUN(every_length_around_every_border);
    RUN(any_alignment);
    RUN(a_changed_byte_changes_its_piece_only);
    RUN(extreme_bytes);
    RUN(too_little_scratch_is_refused);
    free(data);
    return FINISH();
}
