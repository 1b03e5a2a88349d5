/* policy_ghost.c: see policy_ghost.h. Buckets are probed linearly and closed up on removal, so there are no tombstones. */
#include "cache/policy_ghost.h"

#include "base/alloc.h"
#include "cache/table.h"

#include <string.h>

#define NO_NODE UINT32_MAX

enum { FIRST_CAPACITY = 16, FIRST_SHIFT = 59 };

void
pfo_ghost_init(pfo_ghost *ghost)
{
    *ghost = (pfo_ghost){ .free_node = NO_NODE, .head = NO_NODE, .tail = NO_NODE };
}

void
pfo_ghost_free(pfo_ghost *ghost)
{
    pfo_free(ghost->nodes);
    pfo_free(ghost->buckets);
    pfo_ghost_init(ghost);
}

void
pfo_ghost_clear(pfo_ghost *ghost)
{
    if (ghost->capacity > 0) {
        memset(ghost->buckets, 0, 2 * (size_t)ghost->capacity * sizeof *ghost->buckets);
    }
    ghost->used = 0;
    ghost->count = 0;
    ghost->free_node = ghost->head = ghost->tail = NO_NODE;
}

static uint32_t
mask_of(const pfo_ghost *ghost)
{
    return 2 * ghost->capacity - 1;
}

static uint32_t
home_of(const pfo_ghost *ghost, uint64_t hash)
{
    return (uint32_t)(pfo_table_mix(hash) >> ghost->shift);
}

static void
place(pfo_ghost *ghost, uint32_t node)
{
    uint32_t at = home_of(ghost, ghost->nodes[node].hash);
    while (ghost->buckets[at] != 0) {
        at = (at + 1) & mask_of(ghost);
    }
    ghost->buckets[at] = node + 1;
}

/* The bucket of a hash, or the empty one where its search ends. */
static uint32_t
bucket_of(const pfo_ghost *ghost, uint64_t hash)
{
    uint32_t at = home_of(ghost, hash);
    while (ghost->buckets[at] != 0 && ghost->nodes[ghost->buckets[at] - 1].hash != hash) {
        at = (at + 1) & mask_of(ghost);
    }
    return at;
}

pfo_status
pfo_ghost_reserve(pfo_ghost *ghost, uint32_t count, pfo_error *err)
{
    if (count <= ghost->capacity) {
        return PFO_OK;
    }
    uint32_t capacity = ghost->capacity == 0 ? FIRST_CAPACITY : ghost->capacity;
    uint32_t shift = ghost->capacity == 0 ? FIRST_SHIFT : ghost->shift;
    for (; capacity < count && capacity <= UINT32_MAX / 4; capacity *= 2) {
        shift--;
    }
    uint32_t *buckets = capacity < count ? NULL : pfo_alloc_array(2 * (size_t)capacity, sizeof *buckets);
    pfo_ghost_node *nodes = buckets == NULL ? NULL : pfo_realloc_array(ghost->nodes, capacity, sizeof *nodes);
    if (nodes == NULL) {
        pfo_free(buckets);
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for %lu ghosts of a cache", (unsigned long)capacity);
    }
    pfo_free(ghost->buckets);
    ghost->nodes = nodes;
    ghost->buckets = buckets;
    ghost->capacity = capacity;
    ghost->shift = shift;
    for (uint32_t node = ghost->head; node != NO_NODE; node = nodes[node].next) {
        place(ghost, node);
    }
    return PFO_OK;
}

static void
remove_bucket(pfo_ghost *ghost, uint32_t hole)
{
    const uint32_t mask = mask_of(ghost);
    const uint32_t node = ghost->buckets[hole] - 1;
    for (uint32_t at = (hole + 1) & mask; ghost->buckets[at] != 0; at = (at + 1) & mask) {
        const uint32_t home = home_of(ghost, ghost->nodes[ghost->buckets[at] - 1].hash);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            ghost->buckets[hole] = ghost->buckets[at];
            hole = at;
        }
    }
    ghost->buckets[hole] = 0;

    pfo_ghost_node *gone = &ghost->nodes[node];
    if (gone->previous == NO_NODE) {
        ghost->head = gone->next;
    } else {
        ghost->nodes[gone->previous].next = gone->next;
    }
    if (gone->next == NO_NODE) {
        ghost->tail = gone->previous;
    } else {
        ghost->nodes[gone->next].previous = gone->previous;
    }
    gone->next = ghost->free_node;
    ghost->free_node = node;
    ghost->count--;
}

int
pfo_ghost_remove(pfo_ghost *ghost, uint64_t hash)
{
    if (ghost->count == 0) {
        return 0;
    }
    const uint32_t at = bucket_of(ghost, hash);
    if (ghost->buckets[at] == 0) {
        return 0;
    }
    remove_bucket(ghost, at);
    return 1;
}

void
pfo_ghost_add(pfo_ghost *ghost, uint64_t hash)
{
    (void)pfo_ghost_remove(ghost, hash);
    uint32_t node = ghost->free_node;
    if (node != NO_NODE) {
        ghost->free_node = ghost->nodes[node].next;
    } else {
        node = ghost->used++;
    }
    ghost->nodes[node] = (pfo_ghost_node){ .hash = hash, .previous = NO_NODE, .next = ghost->head };
    if (ghost->head == NO_NODE) {
        ghost->tail = node;
    } else {
        ghost->nodes[ghost->head].previous = node;
    }
    ghost->head = node;
    ghost->count++;
    place(ghost, node);
}

void
pfo_ghost_drop_oldest(pfo_ghost *ghost)
{
    remove_bucket(ghost, bucket_of(ghost, ghost->nodes[ghost->tail].hash));
}

int
pfo_ghost_is_consistent(const pfo_ghost *ghost)
{
    uint32_t listed = 0;
    uint32_t last = NO_NODE;
    for (uint32_t node = ghost->head; node != NO_NODE; node = ghost->nodes[node].next) {
        if (ghost->nodes[node].previous != last || ++listed > ghost->count ||
            ghost->buckets[bucket_of(ghost, ghost->nodes[node].hash)] != node + 1) {
            return 0;
        }
        last = node;
    }
    uint32_t occupied = 0;
    for (uint32_t at = 0; at < 2 * ghost->capacity; at++) {
        occupied += ghost->buckets[at] != 0;
    }
    return listed == ghost->count && last == ghost->tail && occupied == listed && listed <= ghost->capacity;
}
