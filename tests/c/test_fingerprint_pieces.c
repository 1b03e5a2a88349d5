/* test_fingerprint_pieces.c: data in pieces give the digest of the data in one, however they are cut, for every size around the borders
 * of the scheme; failing allocations are reported and leak nothing. */
#include "cache/fingerprint_pieces.h"

#include "base/alloc.h"
#include "check.h"

#include <string.h>

enum { LONGEST = 3 * PFO_FINGERPRINT_CHUNK + 5 };

static unsigned char data[LONGEST];

static pfo_digest
digest_of_one(size_t length)
{
    pfo_encoder encoder;
    pfo_digest digest;
    pfo_encoder_start(&encoder, NULL);
    pfo_encode_payload(&encoder, 'b', data, length);
    REQUIRE(pfo_encoder_finish(&encoder, &digest) == PFO_OK);
    return digest;
}

static pfo_status
digest_in_pieces(size_t length, size_t step, pfo_digest *digest)
{
    pfo_encoder encoder;
    pfo_pieces pieces;
    pfo_encoder_start(&encoder, NULL);
    pfo_encode_count(&encoder, 'b', length);
    pfo_pieces_start(&pieces, &encoder, 2);
    for (size_t at = 0; at < length; at += step) {
        pfo_pieces_put(&pieces, data + at, length - at < step ? length - at : step);
    }
    pfo_pieces_finish(&pieces);
    return pfo_encoder_finish(&encoder, digest);
}

static void
cuts_do_not_show(void)
{
    static const size_t lengths[] = { 0,
                                      1,
                                      PFO_FINGERPRINT_INLINE - 1,
                                      PFO_FINGERPRINT_INLINE,
                                      PFO_FINGERPRINT_INLINE + 1,
                                      PFO_FINGERPRINT_CHUNK - 1,
                                      PFO_FINGERPRINT_CHUNK,
                                      PFO_FINGERPRINT_CHUNK + 1,
                                      2 * PFO_FINGERPRINT_CHUNK,
                                      LONGEST };
    static const size_t steps[] = {
        7, 255, 4096, PFO_FINGERPRINT_CHUNK - 1, PFO_FINGERPRINT_CHUNK, PFO_FINGERPRINT_CHUNK + 1, LONGEST
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const pfo_digest expected = digest_of_one(lengths[i]);
        for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
            pfo_digest digest;
            CHECK(digest_in_pieces(lengths[i], steps[k], &digest) == PFO_OK);
            CHECK(memcmp(&digest, &expected, sizeof digest) == 0);
        }
    }
}

static void
zeros_are_bytes(void)
{
    static const size_t lengths[] = { 3, 300, PFO_FINGERPRINT_CHUNK + 9, 2 * PFO_FINGERPRINT_CHUNK };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        pfo_encoder encoder;
        pfo_pieces pieces;
        pfo_digest digest;
        unsigned char kept[16];
        memset(data, 0, lengths[i]);
        memcpy(kept, data + lengths[i], sizeof kept);
        const pfo_digest expected = digest_of_one(lengths[i] + sizeof kept);
        pfo_encoder_start(&encoder, NULL);
        pfo_encode_count(&encoder, 'b', lengths[i] + sizeof kept);
        pfo_pieces_start(&pieces, &encoder, 0);
        pfo_pieces_put_zeros(&pieces, lengths[i]);
        pfo_pieces_put(&pieces, kept, sizeof kept);
        pfo_pieces_finish(&pieces);
        CHECK(pfo_encoder_finish(&encoder, &digest) == PFO_OK);
        CHECK(memcmp(&digest, &expected, sizeof digest) == 0);
    }
}

static void
memory_may_run_out(void)
{
    pfo_digest digest;
    long failures = 0;
    for (long n = 1;; n++) {
        pfo_alloc_fail_at(n);
        const pfo_status status = digest_in_pieces(LONGEST, 4096, &digest);
        pfo_alloc_fail_at(0);
        if (status == PFO_OK) {
            break;
        }
        CHECK(status == PFO_NO_MEMORY);
        failures++;
    }
    CHECK(failures >= 2);
}

int
main(void)
{
    unsigned long long state = 1;
    for (size_t i = 0; i < LONGEST; i++) {
        data[i] = (unsigned char)check_random(&state);
    }
    RUN(cuts_do_not_show);
    RUN(memory_may_run_out);
    RUN(zeros_are_bytes);
    return FINISH();
}
