/* policy_queue.h: what the queue-shaped policies are made of: a counted list through the entries, and shares of the bounds.
 *
 * A queue links entries by `previous` (towards the youngest) and `next` (towards the oldest); an entry is in one queue at a time. It
 * counts entries and bytes, so that a policy can hold a queue to a share of either bound, whichever is reached first.
 * Invariants: walking `next` from head visits `count` live entries and ends at tail; `previous` is its mirror image.
 * Threads and memory: the policy's; nothing is allocated here.
 */
#ifndef PFO_CACHE_POLICY_QUEUE_H
#define PFO_CACHE_POLICY_QUEUE_H

#include "cache/policy.h"

typedef struct pfo_queue {
    uint32_t head; /* youngest, or PFO_SLOT_NONE */
    uint32_t tail; /* oldest */
    uint32_t count;
    uint64_t bytes;
} pfo_queue;

/* A part of the bounds; at least one entry and one byte, and unbounded where the bounds are. */
typedef struct pfo_share {
    uint64_t entries;
    uint64_t bytes;
} pfo_share;

static inline void
pfo_queue_clear(pfo_queue *queue)
{
    *queue = (pfo_queue){ .head = PFO_SLOT_NONE, .tail = PFO_SLOT_NONE };
}

static inline void
pfo_queue_push(pfo_queue *queue, pfo_entry *entries, uint32_t slot)
{
    entries[slot].previous = PFO_SLOT_NONE;
    entries[slot].next = queue->head;
    if (queue->head == PFO_SLOT_NONE) {
        queue->tail = slot;
    } else {
        entries[queue->head].previous = slot;
    }
    queue->head = slot;
    queue->count++;
    queue->bytes += entries[slot].bytes;
}

static inline void
pfo_queue_take(pfo_queue *queue, pfo_entry *entries, uint32_t slot)
{
    const uint32_t previous = entries[slot].previous;
    const uint32_t next = entries[slot].next;
    if (previous == PFO_SLOT_NONE) {
        queue->head = next;
    } else {
        entries[previous].next = next;
    }
    if (next == PFO_SLOT_NONE) {
        queue->tail = previous;
    } else {
        entries[next].previous = previous;
    }
    queue->count--;
    queue->bytes -= entries[slot].bytes;
}

/* From one queue to the head of another, or of the same. */
static inline void
pfo_queue_move(pfo_queue *from, pfo_queue *to, pfo_entry *entries, uint32_t slot)
{
    pfo_queue_take(from, entries, slot);
    pfo_queue_push(to, entries, slot);
}

static inline int
pfo_queue_fills(const pfo_queue *queue, const pfo_share *share)
{
    return queue->count >= share->entries || queue->bytes >= share->bytes;
}

static inline uint64_t
pfo_part_of(uint64_t bound, uint32_t parts, uint32_t of)
{
    if (bound == PFO_STORE_UNBOUNDED) {
        return bound;
    }
    const uint64_t part = bound / of * parts + bound % of * parts / of;
    return part == 0 ? 1 : part;
}

/* parts/of of both bounds, rounded down. pre: parts <= of. */
static inline pfo_share
pfo_share_of(const pfo_bounds *bounds, uint32_t parts, uint32_t of)
{
    return (pfo_share){ pfo_part_of(bounds->max_entries, parts, of), pfo_part_of(bounds->max_bytes, parts, of) };
}

/* For tests: 1 when links, count and bytes agree and every entry's policy_bits, masked, are `bits`. */
static inline int
pfo_queue_is_consistent(const pfo_queue *queue, const pfo_entry *entries, uint32_t mask, uint32_t bits)
{
    uint32_t listed = 0;
    uint64_t bytes = 0;
    uint32_t last = PFO_SLOT_NONE;
    for (uint32_t slot = queue->head; slot != PFO_SLOT_NONE; slot = entries[slot].next) {
        if (!entries[slot].live || entries[slot].previous != last || ++listed > queue->count ||
            (entries[slot].policy_bits & mask) != bits) {
            return 0;
        }
        bytes += entries[slot].bytes;
        last = slot;
    }
    return listed == queue->count && last == queue->tail && bytes == queue->bytes;
}

#endif
