/* spans.h: the latest ranges one by one: a ring of 32-byte spans that all threads of a recorder share.
 *
 * The ring keeps the last `capacity` spans; an older one is overwritten and counted by whoever reads. Memory is reserved
 * at once and touched, page by page, as spans come.
 * Threads: add() from any thread, wait-free; read() from any thread beside it: a span that is overwritten meanwhile is
 * left out, never torn. A span whose slot another thread is still filling from the round before is lost (it takes a
 * thread that stands still while the others write `capacity` spans).
 * Life: counted references, so that a capture may read the ring after its recorder has gone.
 */
#ifndef PFO_PROFILER_SPANS_H
#define PFO_PROFILER_SPANS_H

#include <stddef.h>
#include <stdint.h>

enum { PFO_SPANS_MOST = 1 << 30, PFO_SPANS_DEEPEST = 0xFFFF };

typedef struct pfo_spans pfo_spans;

/* One range in ticks; `depth` is cut at PFO_SPANS_DEEPEST. */
typedef struct pfo_raw_span {
    int64_t begin_tick;
    int64_t ticks;
    uint32_t name; /* the recorder's id */
    uint32_t lane; /* number of the thread's lane */
    uint32_t depth;
    uint32_t flags; /* 8 bits */
} pfo_raw_span;

/* pre: 1 <= capacity <= PFO_SPANS_MOST. NULL when memory is out. One reference. */
pfo_spans *pfo_spans_create(int64_t capacity);
pfo_spans *pfo_spans_share(pfo_spans *spans);
void pfo_spans_release(pfo_spans *spans); /* NULL is allowed */

/* Takes the next position; what was decided before it was taken (which epoch this is) may have changed, so the caller
 * looks again and then fills it, or leaves it empty. */
uint64_t pfo_spans_take(pfo_spans *spans);
void pfo_spans_fill(pfo_spans *spans, uint64_t position, const pfo_raw_span *span);

/* The position that comes next. Positions taken after this call are at least that. */
uint64_t pfo_spans_head(pfo_spans *spans);
int64_t pfo_spans_capacity(const pfo_spans *spans);

/* 1 and *span if the span at this position is there, 0 if it is overwritten, not filled yet or was left empty. */
int pfo_spans_read(const pfo_spans *spans, uint64_t position, pfo_raw_span *span);

size_t pfo_spans_bytes(const pfo_spans *spans); /* of the part in use */

#endif
