/* xxh_body.h: the functions of one pfo_xxh_ops, compiled with the flags of the file that includes it.
 * pre: PFO_XXH_NAME is the name of the table to define.
 */
#include "cache/xxh_ops.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static void
body_digest(const void *data, size_t bytes, unsigned char out[PFO_DIGEST_BYTES])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, bytes));
    memcpy(out, canonical.digest, PFO_DIGEST_BYTES);
}

static void
body_stream_start(void *stream)
{
    XXH3_INITSTATE((XXH3_state_t *)stream);
    (void)XXH3_128bits_reset((XXH3_state_t *)stream);
}

static void
body_stream_update(void *stream, const void *data, size_t bytes)
{
    (void)XXH3_128bits_update((XXH3_state_t *)stream, data, bytes);
}

static void
body_stream_digest(const void *stream, unsigned char out[PFO_DIGEST_BYTES])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest((const XXH3_state_t *)stream));
    memcpy(out, canonical.digest, PFO_DIGEST_BYTES);
}

const pfo_xxh_ops PFO_XXH_NAME = {
    .stream_bytes = sizeof(XXH3_state_t),
    .digest = body_digest,
    .stream_start = body_stream_start,
    .stream_update = body_stream_update,
    .stream_digest = body_stream_digest,
};
