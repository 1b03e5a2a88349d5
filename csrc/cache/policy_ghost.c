/* policy_ghost.c: see policy_ghost.h. Buckets are probed linearly and closed up on removal, so there are no tombstones. */
#include "cache/policy_ghost.h"

#include "base/alloc.h"
#include "cache/table.h"

#define NO_NODE UINT32_MAX

enum { FIRST_CAPACITY = 16, GROWTH_PART = 4 };

#define MOST (UINT32_C(1) << 30)

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
        at = (at + 1) & ghost->bucket_mask;
    }
    ghost->buckets[at] = node + 1;
}

/* The bucket of a hash, or the empty one where its search ends. */
static uint32_t
bucket_of(const pfo_ghost *ghost, uint64_t hash)
{
    uint32_t at = home_of(ghost, hash);
    while (ghost->buckets[at] != 0 && ghost->nodes[ghost->buckets[at] - 1].hash != hash) {
        at = (at + 1) & ghost->bucket_mask;
    }
    return at;
}

static uint32_t
next_capacity(uint32_t capacity, uint32_t count, uint64_t enough)
{
    const uint32_t grown = capacity + capacity / GROWTH_PART + FIRST_CAPACITY;
    const uint32_t wanted = count < enough && enough < grown ? (uint32_t)enough : grown;
    return count < wanted ? wanted : count;
}

pfo_status
pfo_ghost_reserve(pfo_ghost *ghost, uint32_t count, uint64_t enough, pfo_error *err)
{
    if (count <= ghost->capacity) {
        return PFO_OK;
    }
    const uint32_t capacity = count < MOST ? next_capacity(ghost->capacity, count, enough) : 0;
    uint32_t shift = 63;
    while (((uint64_t)1 << (64 - shift)) * 2 < (uint64_t)capacity * 3) {
        shift--;
    }
    const size_t size = (size_t)1 << (64 - shift);
    uint32_t *buckets = capacity < count ? NULL : pfo_alloc_array(size, sizeof *buckets);
    pfo_ghost_node *nodes = buckets == NULL ? NULL : pfo_realloc_array(ghost->nodes, capacity, sizeof *nodes);
    if (nodes == NULL) {
        pfo_free(buckets);
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for %lu ghosts of a cache", (unsigned long)count);
    }
    pfo_free(ghost->buckets);
    ghost->nodes = nodes;
    ghost->buckets = buckets;
    ghost->bucket_mask = (uint32_t)(size - 1);
    ghost->shift = shift;
    ghost->capacity = capacity;
    for (uint32_t node = ghost->head; node != NO_NODE; node = nodes[node].next) {
        place(ghost, node);
    }
    return PFO_OK;
}

static void
remove_bucket(pfo_ghost *ghost, uint32_t hole)
{
    const uint32_t mask = ghost->bucket_mask;
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

size_t
pfo_ghost_memory(const pfo_ghost *ghost)
{
    const size_t buckets = ghost->buckets == NULL ? 0 : (size_t)ghost->bucket_mask + 1;
    return buckets * sizeof *ghost->buckets + (size_t)ghost->capacity * sizeof *ghost->nodes;
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
    for (uint32_t at = 0; ghost->buckets != NULL && at <= ghost->bucket_mask; at++) {
        occupied += ghost->buckets[at] != 0;
    }
    return listed == ghost->count && last == ghost->tail && occupied == listed && listed <= ghost->capacity;
}
