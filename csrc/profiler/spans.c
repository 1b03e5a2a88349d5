/* spans.c: see spans.h for the contract.
 *
 * [stamp] The last word of a slot says which position it holds: round + 1 (39 bits), flags (8), depth (16) and, in bit
 * 0, "being filled". A writer marks the slot by compare-and-swap, so that two writers a whole round apart never fill one
 * slot together; its other words are release stores, so that a reader who saw one of them also sees the mark when it
 * looks at the stamp again.
 */
#include "profiler/spans.h"

#include "base/alloc.h"

#include <stdatomic.h>

enum { BUSY = 1, DEPTH_SHIFT = 1, FLAGS_SHIFT = 17, ROUND_SHIFT = 25 };

typedef struct slot {
    _Atomic int64_t begin_tick;
    _Atomic int64_t ticks;
    _Atomic uint64_t name_lane;
    _Atomic uint64_t stamp; /* 0: never filled */
} slot;

_Static_assert(sizeof(slot) == 32, "a span is 32 bytes");

struct pfo_spans {
    _Atomic uint64_t head;
    _Atomic int64_t references;
    uint64_t capacity;
    slot *slots;
};

pfo_spans *
pfo_spans_create(int64_t capacity)
{
    pfo_spans *spans = pfo_alloc_array(1, sizeof *spans);
    if (spans == NULL) {
        return NULL;
    }
    spans->slots = pfo_alloc_array((size_t)capacity, sizeof *spans->slots);
    if (spans->slots == NULL) {
        pfo_free(spans);
        return NULL;
    }
    spans->capacity = (uint64_t)capacity;
    atomic_init(&spans->references, 1);
    return spans;
}

pfo_spans *
pfo_spans_share(pfo_spans *spans)
{
    (void)atomic_fetch_add_explicit(&spans->references, 1, memory_order_relaxed);
    return spans;
}

void
pfo_spans_release(pfo_spans *spans)
{
    if (spans != NULL && atomic_fetch_sub_explicit(&spans->references, 1, memory_order_acq_rel) == 1) {
        pfo_free(spans->slots);
        pfo_free(spans);
    }
}

uint64_t
pfo_spans_take(pfo_spans *spans)
{
    return atomic_fetch_add_explicit(&spans->head, 1, memory_order_acq_rel);
}

static inline uint64_t
round_of(const pfo_spans *spans, uint64_t position)
{
    return (position / spans->capacity + 1) & (UINT64_MAX >> ROUND_SHIFT);
}

void
pfo_spans_fill(pfo_spans *spans, uint64_t position, const pfo_raw_span *span)
{
    slot *to = &spans->slots[position % spans->capacity];
    const uint64_t depth = span->depth < PFO_SPANS_DEEPEST ? span->depth : PFO_SPANS_DEEPEST;
    const uint64_t stamp =
        round_of(spans, position) << ROUND_SHIFT | (uint64_t)(span->flags & 0xFF) << FLAGS_SHIFT | depth << DEPTH_SHIFT;
    uint64_t before = atomic_load_explicit(&to->stamp, memory_order_relaxed);
    if ((before & BUSY) != 0 || before >> ROUND_SHIFT >= stamp >> ROUND_SHIFT ||
        !atomic_compare_exchange_strong_explicit(&to->stamp, &before, stamp | BUSY, memory_order_acq_rel,
                                                 memory_order_relaxed)) {
        return;
    }
    atomic_store_explicit(&to->begin_tick, span->begin_tick, memory_order_release);
    atomic_store_explicit(&to->ticks, span->ticks, memory_order_release);
    atomic_store_explicit(&to->name_lane, (uint64_t)span->name << 32 | span->lane, memory_order_release);
    atomic_store_explicit(&to->stamp, stamp, memory_order_release);
}

uint64_t
pfo_spans_head(pfo_spans *spans)
{
    return atomic_fetch_add_explicit(&spans->head, 0, memory_order_acq_rel); /* a load could be older than a take */
}

int64_t
pfo_spans_capacity(const pfo_spans *spans)
{
    return (int64_t)spans->capacity;
}

int
pfo_spans_read(const pfo_spans *spans, uint64_t position, pfo_raw_span *span)
{
    const slot *from = &spans->slots[position % spans->capacity];
    const uint64_t stamp = atomic_load_explicit(&from->stamp, memory_order_acquire);
    if ((stamp & BUSY) != 0 || stamp >> ROUND_SHIFT != round_of(spans, position)) {
        return 0;
    }
    span->begin_tick = atomic_load_explicit(&from->begin_tick, memory_order_acquire);
    span->ticks = atomic_load_explicit(&from->ticks, memory_order_acquire);
    const uint64_t name_lane = atomic_load_explicit(&from->name_lane, memory_order_acquire);
    span->name = (uint32_t)(name_lane >> 32);
    span->lane = (uint32_t)name_lane;
    span->depth = (uint32_t)(stamp >> DEPTH_SHIFT) & PFO_SPANS_DEEPEST;
    span->flags = (uint32_t)(stamp >> FLAGS_SHIFT) & 0xFF;
    return atomic_load_explicit(&from->stamp, memory_order_relaxed) == stamp;
}

size_t
pfo_spans_bytes(const pfo_spans *spans)
{
    const uint64_t head = atomic_load_explicit(&spans->head, memory_order_relaxed);
    return sizeof *spans + (head < spans->capacity ? head : spans->capacity) * sizeof *spans->slots;
}
