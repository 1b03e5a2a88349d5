/* disk_check.h: the checksum of everything that the disk tier keeps: the first 8 bytes of XXH3-128 in its canonical form.
 *
 * Contract: what is short, and a hit on disk checks three such pieces, is hashed where it stands, without a call and, where its length is
 * known to the compiler, without a loop; the rest by the variant for this processor. All variants give the same.
 */
#ifndef PFO_CACHE_DISK_CHECK_H
#define PFO_CACHE_DISK_CHECK_H

#include "cache/xxh_ops.h"

#include <stdint.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { PFO_CHECK_SHORT = 128 };

static inline uint64_t
pfo_disk_check(const void *data, size_t length)
{
    unsigned char digest[PFO_DIGEST_BYTES];
    uint64_t check;
    if (length <= PFO_CHECK_SHORT) {
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, length));
        memcpy(&check, canonical.digest, sizeof check);
        return check;
    }
    pfo_xxh_ops_best()->digest(data, length, digest);
    memcpy(&check, digest, sizeof check);
    return check;
}

#endif
