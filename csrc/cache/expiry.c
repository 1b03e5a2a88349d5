/* expiry.c: see expiry.h for the contract.
 *
 * Invariants: a slot of deadline tick t is in level L, the highest 6-bit digit in which max(t, wheel_tick) and wheel_tick differ (0 if none),
 * in the bucket that this digit of t numbers. So all of level L is due before anything of level L+1, within a level the lowest occupied
 * bucket is due first, and no bucket wraps around. occupied has the bit of every bucket that is not empty.
 */
#include "cache/expiry.h"

#include "base/alloc.h"
#include "cache/table.h"

#include <string.h>

enum { TICK_SHIFT = 10, DIGIT_BITS = 6, BUCKET_COUNT = PFO_EXPIRY_LEVELS * PFO_EXPIRY_BUCKETS };

/* Slots stay below PFO_TABLE_MAX_SLOTS / 2, so the upper half of the numbers is free for buckets. */
#define FIRST_IN_BUCKET UINT32_C(0x80000000)

void
pfo_expiry_init(pfo_expiry *expiry)
{
    *expiry = (pfo_expiry){ .earliest_ns = UINT64_MAX };
}

void
pfo_expiry_free(pfo_expiry *expiry)
{
    pfo_free(expiry->nodes);
    pfo_free(expiry->buckets);
    pfo_expiry_init(expiry);
}

pfo_status
pfo_expiry_reserve(pfo_expiry *expiry, uint32_t slots, pfo_error *err)
{
    if (expiry->buckets == NULL) {
        expiry->buckets = pfo_alloc(BUCKET_COUNT * sizeof *expiry->buckets);
        if (expiry->buckets == NULL) {
            return pfo_fail(err, PFO_NO_MEMORY, "no memory for the deadlines of a cache");
        }
        memset(expiry->buckets, 0xFF, BUCKET_COUNT * sizeof *expiry->buckets);
    }
    if (slots > expiry->capacity) {
        pfo_expiry_node *nodes = pfo_realloc_array(expiry->nodes, slots, sizeof *nodes);
        if (nodes == NULL) {
            return pfo_fail(err, PFO_NO_MEMORY, "no memory for %lu deadlines", (unsigned long)slots);
        }
        expiry->nodes = nodes;
        expiry->capacity = slots;
    }
    return PFO_OK;
}

static uint32_t
bucket_of(const pfo_expiry *expiry, uint64_t deadline_ns)
{
    uint64_t tick = deadline_ns >> TICK_SHIFT;
    if (tick < expiry->wheel_tick) {
        tick = expiry->wheel_tick;
    }
    const uint64_t differing = (tick ^ expiry->wheel_tick) | 1;
    const uint32_t level = (63u - (uint32_t)__builtin_clzll(differing)) / DIGIT_BITS;
    const uint32_t digit = (uint32_t)(tick >> (level * DIGIT_BITS)) % PFO_EXPIRY_BUCKETS;
    return level * PFO_EXPIRY_BUCKETS + digit;
}

static void
link_slot(pfo_expiry *expiry, uint32_t slot)
{
    pfo_expiry_node *node = &expiry->nodes[slot];
    const uint32_t bucket = bucket_of(expiry, node->deadline_ns);
    const uint32_t first = expiry->buckets[bucket];
    node->previous = FIRST_IN_BUCKET + bucket;
    node->next = first;
    if (first != PFO_SLOT_NONE) {
        expiry->nodes[first].previous = slot;
    }
    expiry->buckets[bucket] = slot;
    expiry->occupied[bucket / PFO_EXPIRY_BUCKETS] |= UINT64_C(1) << (bucket % PFO_EXPIRY_BUCKETS);
}

void
pfo_expiry_add(pfo_expiry *expiry, uint32_t slot, uint64_t deadline_ns, uint64_t now_ns)
{
    if (expiry->count == 0) { /* an empty wheel may turn freely */
        expiry->wheel_tick = now_ns >> TICK_SHIFT;
        expiry->earliest_ns = UINT64_MAX;
    }
    expiry->nodes[slot].deadline_ns = deadline_ns;
    link_slot(expiry, slot);
    expiry->count++;
    if (deadline_ns < expiry->earliest_ns) {
        expiry->earliest_ns = deadline_ns;
    }
}

void
pfo_expiry_remove(pfo_expiry *expiry, uint32_t slot)
{
    const pfo_expiry_node *node = &expiry->nodes[slot];
    if (node->next != PFO_SLOT_NONE) {
        expiry->nodes[node->next].previous = node->previous;
    }
    if (node->previous < FIRST_IN_BUCKET) {
        expiry->nodes[node->previous].next = node->next;
    } else {
        const uint32_t bucket = node->previous - FIRST_IN_BUCKET;
        expiry->buckets[bucket] = node->next;
        if (node->next == PFO_SLOT_NONE) {
            expiry->occupied[bucket / PFO_EXPIRY_BUCKETS] &= ~(UINT64_C(1) << (bucket % PFO_EXPIRY_BUCKETS));
        }
    }
    expiry->count--;
}

/* The slot of a lowest-level bucket that is due, or PFO_SLOT_NONE and earliest_ns moved to the bucket's first deadline. */
static uint32_t
search_bucket(pfo_expiry *expiry, uint32_t bucket, uint64_t now_ns)
{
    uint64_t first_ns = UINT64_MAX;
    for (uint32_t slot = expiry->buckets[bucket]; slot != PFO_SLOT_NONE; slot = expiry->nodes[slot].next) {
        const uint64_t deadline_ns = expiry->nodes[slot].deadline_ns;
        if (deadline_ns <= now_ns) {
            return slot;
        }
        first_ns = deadline_ns < first_ns ? deadline_ns : first_ns;
    }
    expiry->earliest_ns = first_ns;
    return PFO_SLOT_NONE;
}

/* Turns the wheel to the start of a bucket and moves the bucket's slots to the levels below. */
static void
cascade(pfo_expiry *expiry, uint32_t bucket, uint64_t start_tick)
{
    uint32_t slot = expiry->buckets[bucket];
    expiry->buckets[bucket] = PFO_SLOT_NONE;
    expiry->occupied[bucket / PFO_EXPIRY_BUCKETS] &= ~(UINT64_C(1) << (bucket % PFO_EXPIRY_BUCKETS));
    expiry->wheel_tick = start_tick;
    while (slot != PFO_SLOT_NONE) {
        const uint32_t next = expiry->nodes[slot].next;
        link_slot(expiry, slot);
        slot = next;
    }
}

uint32_t
pfo_expiry_due(pfo_expiry *expiry, uint64_t now_ns)
{
    while (expiry->count > 0 && now_ns >= expiry->earliest_ns) {
        uint32_t level = 0;
        while (expiry->occupied[level] == 0) {
            level++;
        }
        const uint32_t digit = (uint32_t)__builtin_ctzll(expiry->occupied[level]);
        const uint32_t bucket = level * PFO_EXPIRY_BUCKETS + digit;
        const uint32_t shift = level * DIGIT_BITS;
        const uint64_t above = expiry->wheel_tick >> shift >> DIGIT_BITS << DIGIT_BITS << shift;
        const uint64_t start_tick = above | ((uint64_t)digit << shift);
        if (level == 0) {
            return search_bucket(expiry, bucket, now_ns);
        }
        if (start_tick > now_ns >> TICK_SHIFT) {
            expiry->earliest_ns = start_tick << TICK_SHIFT;
            return PFO_SLOT_NONE;
        }
        cascade(expiry, bucket, start_tick);
    }
    return PFO_SLOT_NONE;
}

size_t
pfo_expiry_memory(const pfo_expiry *expiry)
{
    const size_t buckets = expiry->buckets == NULL ? 0 : BUCKET_COUNT * sizeof *expiry->buckets;
    return buckets + (size_t)expiry->capacity * sizeof *expiry->nodes;
}

int
pfo_expiry_is_consistent(const pfo_expiry *expiry)
{
    uint32_t listed = 0;
    for (uint32_t bucket = 0; expiry->buckets != NULL && bucket < BUCKET_COUNT; bucket++) {
        const uint64_t bit = expiry->occupied[bucket / PFO_EXPIRY_BUCKETS] >> (bucket % PFO_EXPIRY_BUCKETS) & 1;
        uint32_t last = FIRST_IN_BUCKET + bucket;
        if (bit != (expiry->buckets[bucket] != PFO_SLOT_NONE)) {
            return 0;
        }
        for (uint32_t slot = expiry->buckets[bucket]; slot != PFO_SLOT_NONE; slot = expiry->nodes[slot].next) {
            const pfo_expiry_node *node = &expiry->nodes[slot];
            if (node->previous != last || bucket_of(expiry, node->deadline_ns) != bucket ||
                node->deadline_ns < expiry->earliest_ns || ++listed > expiry->count) {
                return 0;
            }
            last = slot;
        }
    }
    return listed == expiry->count;
}
