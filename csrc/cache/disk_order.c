/* disk_order.c: in which order entries leave a directory that is full; see disk_handle.h.
 *
 * The index holds per entry: its sequence (insertion), the clock of accesses at its last read, a saturating count of reads, and a visited
 * bit. One look through the index ranks all entries and keeps a batch of the lowest; each is used later only if it was not read since,
 * so the cost of the look is shared and the order is exact for lru, fifo and sieve. Expired entries leave first under every policy.
 *   lru       oldest access first
 *   fifo      oldest insertion first (NSDI'24 calls the pair FIFO and SIEVE "lazy promotion")
 *   sieve     from the hand upwards by insertion; a visited entry loses its bit and stays
 *   s3fifo    entries never read since they came, oldest first, but for the youngest tenth; then the rest as a clock by insertion, where an
 *             entry with reads loses one and stays (SOSP'23: quick demotion, then two-bit reinsertion; without a ghost queue)
 *   wtinylfu  fewest reads first, among equals the oldest access; the youngest hundredth is its window and stays. Counts are halved when
 *             their mean passes half of their range
 *   auto      as lru: the memory tier in front has already taken out what a better order would tell apart
 */
#include "cache/disk_handle.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_BATCH = 64, MOST_BATCH = 65536, BATCH_SHARE = 64, READS = 15, VISITED = 0x80 };

pfo_status
pfo_disk_policy_by_name(const char *name, pfo_disk_policy *policy, pfo_error *err)
{
    static const struct {
        const char *name;
        pfo_disk_policy policy;
    } known[] = {
        { "lru", PFO_ORDER_LRU },       { "fifo", PFO_ORDER_FIFO },         { "sieve", PFO_ORDER_SIEVE },
        { "s3fifo", PFO_ORDER_S3FIFO }, { "wtinylfu", PFO_ORDER_WTINYLFU }, { "auto", PFO_ORDER_LRU },
    };
    for (size_t i = 0; name != NULL && i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, name) == 0) {
            *policy = known[i].policy;
            return PFO_OK;
        }
    }
    return pfo_fail(err, PFO_BAD_ARGUMENT, "policy is '%s'; accepted: lru, fifo, sieve, s3fifo, wtinylfu, auto",
                    name != NULL ? name : "NULL");
}

int
pfo_disk_has_expired(const pfo_disk *disk, const pfo_slot *slot, uint64_t now_ns)
{
    (void)disk;
    return slot->expires_ns != 0 && (now_ns >= slot->expires_ns || now_ns / 1000000000U < slot->stored_s);
}

static uint64_t
rank_of(const pfo_disk *disk, const pfo_index *index, const pfo_slot *slot, uint64_t now_ns)
{
    const uint64_t newest = pfo_index_count(index, PFO_COUNT_SEQUENCE);
    const uint64_t entries = pfo_index_count(index, PFO_COUNT_ENTRIES);
    const uint64_t after_hand = (slot->sequence - pfo_index_count(index, PFO_COUNT_HAND) - 1) & 0xffffffffffffULL;
    const uint64_t access = (uint32_t)(slot->stamp - pfo_index_clock(index) - 1); /* older is smaller */
    const uint64_t age = newest - slot->sequence;
    if (pfo_disk_has_expired(disk, slot, now_ns)) {
        return 0;
    }
    switch (disk->policy) {
    case PFO_ORDER_FIFO:
        return slot->sequence;
    case PFO_ORDER_SIEVE:
        return after_hand + 1;
    case PFO_ORDER_S3FIFO:
        if ((slot->used & READS) == 0) {
            return age >= entries / 10 ? slot->sequence : (2ULL << 60) | slot->sequence;
        }
        return (1ULL << 60) | after_hand;
    case PFO_ORDER_WTINYLFU:
        return (age < entries / 100 ? 1ULL << 60 : 0) + ((uint64_t)(slot->used & READS) << 32) + access + 1;
    case PFO_ORDER_LRU:
        break;
    }
    return access + 1;
}

/* The batch is a heap with the highest rank on top while it is filled, and sorted afterwards. */
static void
sift_down(pfo_victim *heap, uint32_t count)
{
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count) {
            return;
        }
        if (child + 1 < count && heap[child + 1].rank > heap[child].rank) {
            child++;
        }
        if (heap[at].rank >= heap[child].rank) {
            return;
        }
        const pfo_victim swapped = heap[at];
        heap[at] = heap[child];
        heap[child] = swapped;
        at = child;
    }
}

static void
sift_up(pfo_victim *heap, uint32_t at)
{
    while (at > 0 && heap[(at - 1) / 2].rank < heap[at].rank) {
        const pfo_victim swapped = heap[at];
        heap[at] = heap[(at - 1) / 2];
        heap[(at - 1) / 2] = swapped;
        at = (at - 1) / 2;
    }
}

static int
by_rank(const void *left, const void *right)
{
    const uint64_t a = ((const pfo_victim *)left)->rank;
    const uint64_t b = ((const pfo_victim *)right)->rank;
    return (a > b) - (a < b);
}

static void
halve_reads(pfo_index *index)
{
    for (uint32_t position = 0; position < index->slot_count; position++) {
        pfo_slot slot;
        if (pfo_index_at(index, position, &slot) == PFO_FOUND) {
            pfo_index_set_used(index, position, &slot, (uint8_t)((slot.used & READS) / 2));
        }
    }
}

static pfo_status
fill_batch(pfo_disk *disk, pfo_index *index, pfo_error *err)
{
    const uint64_t entries = pfo_index_count(index, PFO_COUNT_ENTRIES);
    const uint64_t share = entries / BATCH_SHARE;
    const uint32_t room = (uint32_t)(share < LEAST_BATCH ? LEAST_BATCH : share > MOST_BATCH ? MOST_BATCH : share);
    const uint64_t now_ns = disk->now_ns();
    uint64_t reads = 0;
    uint32_t count = 0;
    pfo_victim *batch = pfo_realloc_array(disk->victims, room, sizeof *batch);
    disk->victim_count = disk->victim_next = 0;
    if (batch == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory choosing what leaves the disk cache");
    }
    disk->victims = batch;
    for (uint32_t position = 0; position < index->slot_count; position++) {
        pfo_slot slot;
        if (pfo_index_at(index, position, &slot) != PFO_FOUND) {
            continue;
        }
        reads += slot.used & READS;
        const pfo_victim one = { .rank = rank_of(disk, index, &slot, now_ns),
                                 .sequence = slot.sequence,
                                 .position = position,
                                 .stamp = slot.stamp };
        if (count < room) {
            batch[count] = one;
            sift_up(batch, count++);
        } else if (one.rank < batch[0].rank) {
            batch[0] = one;
            sift_down(batch, count);
        }
    }
    qsort(batch, count, sizeof *batch, by_rank);
    disk->victim_count = count;
    disk->victims_of = index;
    if (disk->policy == PFO_ORDER_WTINYLFU && reads > entries * (READS / 2)) {
        halve_reads(index);
    }
    return PFO_OK;
}

/* A clock passes over an entry that was read: it pays with its bit or one read, and stays. */
static int
is_spared(const pfo_disk *disk, pfo_index *index, const pfo_victim *victim, const pfo_slot *slot)
{
    if (victim->rank == 0) {
        return 0; /* expired */
    }
    if (disk->policy == PFO_ORDER_SIEVE) {
        pfo_index_set_count(index, PFO_COUNT_HAND, slot->sequence);
        if ((slot->used & VISITED) != 0) {
            pfo_index_set_used(index, victim->position, slot, slot->used & READS);
            return 1;
        }
    }
    if (disk->policy == PFO_ORDER_S3FIFO && victim->rank >> 60 == 1) {
        pfo_index_set_count(index, PFO_COUNT_HAND, slot->sequence);
        if ((slot->used & READS) != 0) {
            pfo_index_set_used(index, victim->position, slot, (uint8_t)(slot->used - 1));
            return 1;
        }
    }
    return 0;
}

pfo_status
pfo_disk_next_victim(pfo_disk *disk, pfo_index *index, uint32_t *position, pfo_slot *slot, int *found, pfo_error *err)
{
    *found = 0;
    while (pfo_index_count(index, PFO_COUNT_ENTRIES) != 0) {
        if (disk->victim_next == disk->victim_count || disk->victims_of != index) {
            PFO_TRY(fill_batch(disk, index, err));
            if (disk->victim_count == 0) {
                pfo_disk_distrust(disk); /* entries are counted that no slot shows */
                return PFO_OK;
            }
        }
        const pfo_victim *victim = &disk->victims[disk->victim_next++];
        const int is_clock = disk->policy == PFO_ORDER_SIEVE || disk->policy == PFO_ORDER_S3FIFO;
        if (pfo_index_at(index, victim->position, slot) != PFO_FOUND || slot->sequence != victim->sequence ||
            (slot->stamp != victim->stamp && !is_clock && disk->policy != PFO_ORDER_FIFO) ||
            is_spared(disk, index, victim, slot)) {
            continue;
        }
        *position = victim->position;
        *found = 1;
        return PFO_OK;
    }
    return PFO_OK;
}
