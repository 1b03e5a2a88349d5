/* xxh_ops.h: XXH3-128 compiled once per instruction set, behind one table of functions.
 *
 * xxh_baseline.c, xxh_avx2.c and xxh_avx512.c include xxh_body.h with different flags (csrc/flags.mk); all give the same digests.
 * Algorithm: XXH3 by Yann Collet, from the system's libxxhash, used as a header only.
 */
#ifndef PFO_CACHE_XXH_OPS_H
#define PFO_CACHE_XXH_OPS_H

#include "base/cpu.h"

#include <stddef.h>

enum { PFO_DIGEST_BYTES = 16, PFO_XXH_STREAM_ALIGNMENT = 64 };

typedef struct pfo_xxh_ops {
    size_t stream_bytes; /* size of a stream's state, PFO_XXH_STREAM_ALIGNMENT aligned */
    void (*digest)(const void *data, size_t bytes, unsigned char out[PFO_DIGEST_BYTES]); /* canonical: big-endian */
    void (*stream_start)(void *stream);
    void (*stream_update)(void *stream, const void *data, size_t bytes);
    void (*stream_digest)(const void *stream, unsigned char out[PFO_DIGEST_BYTES]);
} pfo_xxh_ops;

/* The variant for a processor level; NULL where this build or machine has none. */
const pfo_xxh_ops *pfo_xxh_ops_for(pfo_cpu_level level);

/* The variant chosen once for this process (pfo_cpu_select(); the baseline if PERFOPT_CPU names something else). Never
 * NULL. */
const pfo_xxh_ops *pfo_xxh_ops_best(void);

extern const pfo_xxh_ops pfo_xxh_baseline;
#if defined(__x86_64__)
extern const pfo_xxh_ops pfo_xxh_avx2;
extern const pfo_xxh_ops pfo_xxh_avx512;
#endif

#endif
