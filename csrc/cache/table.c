/* table.c: see table.h for the contract.
 *
 * Invariants: linear probing without tombstones: between an entry's home bucket and its bucket there is no empty one, and a
 * removal shifts later entries of the run back to keep it so. Number of buckets is a power of two and at least 1.5 times the
 * number of entries. Slots below used_slots are live, unlinked (held by the caller), or on the free list.
 * Complexity: expected O(1) per operation; growth is amortised.
 */
#include "cache/table.h"

#include "base/alloc.h"

#include <string.h>

enum { FIRST_BUCKETS_LOG2 = 4, FIRST_SLOTS = 8, GROWTH_PART = 4 };

#define MOST_SLOTS (PFO_TABLE_MAX_SLOTS / 2)

void
pfo_table_init(pfo_table *table)
{
    *table = (pfo_table){ .free_slot = PFO_SLOT_NONE, .shift = 64 };
}

void
pfo_table_free(pfo_table *table)
{
    pfo_free(table->buckets);
    pfo_free(table->entries);
    pfo_table_init(table);
}

static uint32_t
tag_of(uint64_t hash)
{
    return (uint32_t)(pfo_table_mix(hash) >> 32);
}

/* pre: there are buckets, at most 2^32 of them. */
static uint32_t
home_of(const pfo_table *table, uint32_t tag)
{
    return tag >> (table->shift - 32);
}

uint32_t
pfo_table_find(const pfo_table *table, uint64_t hash, const void *key, pfo_table_equal equal, void *context,
               int *restarts_exhausted)
{
    if (restarts_exhausted != NULL) {
        *restarts_exhausted = 0;
    }
    const uint64_t mixed = pfo_table_mix(hash);
    for (int attempt = 0; attempt < PFO_TABLE_RESTARTS; attempt++) {
        if (table->count == 0) {
            return PFO_SLOT_NONE;
        }
        const uint64_t mutations = table->mutations;
        uint32_t at = (uint32_t)(mixed >> table->shift);
        while (table->buckets[at].slot != 0) {
            const uint32_t slot = table->buckets[at].slot - 1;
            if (table->buckets[at].tag == (uint32_t)(mixed >> 32) && table->entries[slot].hash == hash) {
                if (table->entries[slot].key == key) {
                    return slot;
                }
                const int same = equal(context, key, table->entries[slot].key);
                if (same < 0) {
                    return PFO_SLOT_FAILED;
                }
                if (table->mutations != mutations) {
                    break; /* [restart] */
                }
                if (same > 0) {
                    return slot;
                }
            }
            at = (at + 1) & table->bucket_mask;
        }
        if (table->mutations == mutations) {
            return PFO_SLOT_NONE;
        }
    }
    if (restarts_exhausted != NULL) {
        *restarts_exhausted = 1;
    }
    return PFO_SLOT_FAILED;
}

static int
never_equal(void *context, const void *sought, const void *stored)
{
    (void)context;
    (void)sought;
    (void)stored;
    return 0;
}

uint32_t
pfo_table_find_identity(const pfo_table *table, uint64_t hash, const void *key)
{
    return pfo_table_find_inline(table, hash, key, never_equal);
}

static void
place(pfo_table *table, pfo_bucket bucket)
{
    uint32_t at = home_of(table, bucket.tag);
    while (table->buckets[at].slot != 0) {
        at = (at + 1) & table->bucket_mask;
    }
    table->buckets[at] = bucket;
}

static pfo_status
grow_buckets(pfo_table *table, pfo_error *err)
{
    const uint32_t log2 = table->buckets == NULL ? FIRST_BUCKETS_LOG2 : 64 - table->shift + 1;
    const size_t size = (size_t)1 << log2;
    pfo_bucket *buckets = pfo_alloc_array(size, sizeof *buckets);
    if (buckets == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for %zu cache buckets", size);
    }
    pfo_bucket *old = table->buckets;
    const size_t old_size = old == NULL ? 0 : (size_t)table->bucket_mask + 1;
    table->buckets = buckets;
    table->shift = 64 - log2;
    table->bucket_mask = (uint32_t)(size - 1);
    for (size_t at = 0; at < old_size; at++) {
        if (old[at].slot != 0) {
            place(table, old[at]);
        }
    }
    pfo_free(old);
    table->mutations++; /* also when no insertion follows: a search must not go on from its old place */
    return PFO_OK;
}

/* How many slots a full slab gets. A quarter more keeps the slack small; what it costs in moves is little, because large blocks are moved by
 * mapping them elsewhere. */
static uint32_t
next_capacity(uint32_t capacity, uint64_t enough)
{
    const uint64_t grown = (uint64_t)capacity + capacity / GROWTH_PART + FIRST_SLOTS;
    const uint64_t wanted = capacity < enough && enough < grown ? enough : grown;
    return wanted < MOST_SLOTS ? (uint32_t)wanted : MOST_SLOTS;
}

pfo_status
pfo_table_reserve_one(pfo_table *table, uint64_t enough, pfo_error *err)
{
    if (table->free_slot == PFO_SLOT_NONE && table->used_slots == table->capacity) {
        if (table->capacity >= MOST_SLOTS) {
            return pfo_fail(err, PFO_OVERFLOW, "a cache holds at most %lu entries", (unsigned long)MOST_SLOTS);
        }
        const uint32_t capacity = next_capacity(table->capacity, enough);
        pfo_entry *entries = pfo_realloc_array(table->entries, capacity, sizeof *entries);
        if (entries == NULL) {
            return pfo_fail(err, PFO_NO_MEMORY, "no memory for %lu cache entries", (unsigned long)capacity);
        }
        table->entries = entries;
        table->capacity = capacity;
    }
    const uint64_t buckets = (uint64_t)table->bucket_mask + 1;
    if (table->buckets == NULL || ((uint64_t)table->count + 1) * 3 > buckets * 2) {
        return grow_buckets(table, err);
    }
    return PFO_OK;
}

uint32_t
pfo_table_insert(pfo_table *table, uint64_t hash, void *key)
{
    uint32_t slot = table->free_slot;
    if (slot != PFO_SLOT_NONE) {
        table->free_slot = table->entries[slot].next;
    } else {
        slot = table->used_slots++;
    }
    table->entries[slot] =
        (pfo_entry){ .hash = hash, .key = key, .previous = PFO_SLOT_NONE, .next = PFO_SLOT_NONE, .live = 1 };
    place(table, (pfo_bucket){ .tag = tag_of(hash), .slot = slot + 1 });
    table->count++;
    table->mutations++;
    return slot;
}

void
pfo_table_unlink(pfo_table *table, uint32_t slot)
{
    const uint32_t mask = table->bucket_mask;
    uint32_t hole = home_of(table, tag_of(table->entries[slot].hash));
    while (table->buckets[hole].slot != slot + 1) {
        hole = (hole + 1) & mask;
    }
    /* Shift back every later entry of the run whose home does not lie cyclically in (hole, at]. */
    for (uint32_t at = (hole + 1) & mask; table->buckets[at].slot != 0; at = (at + 1) & mask) {
        const uint32_t home = home_of(table, table->buckets[at].tag);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            table->buckets[hole] = table->buckets[at];
            hole = at;
        }
    }
    table->buckets[hole] = (pfo_bucket){ 0, 0 };
    table->entries[slot].live = 0;
    table->count--;
    table->mutations++;
}

void
pfo_table_release_slot(pfo_table *table, uint32_t slot)
{
    pfo_entry *entry = &table->entries[slot];
    *entry = (pfo_entry){ .previous = PFO_SLOT_NONE, .next = table->free_slot };
    table->free_slot = slot;
}

void
pfo_table_unlink_all(pfo_table *table)
{
    if (table->count == 0) {
        return;
    }
    memset(table->buckets, 0, ((size_t)table->bucket_mask + 1) * sizeof *table->buckets);
    for (uint32_t slot = 0; slot < table->used_slots; slot++) {
        table->entries[slot].live = 0;
    }
    table->count = 0;
    table->mutations++;
}

void
pfo_table_give_back(pfo_table *table)
{
    const uint64_t mutations = table->mutations;
    pfo_table_free(table);
    table->mutations = mutations + 1;
}

size_t
pfo_table_memory(const pfo_table *table)
{
    const size_t buckets = table->buckets == NULL ? 0 : (size_t)table->bucket_mask + 1;
    return buckets * sizeof *table->buckets + (size_t)table->capacity * sizeof *table->entries;
}

int
pfo_table_is_consistent(const pfo_table *table)
{
    uint32_t live = 0;
    uint32_t occupied = 0;
    for (uint32_t slot = 0; slot < table->used_slots; slot++) {
        if (!table->entries[slot].live) {
            continue;
        }
        live++;
        const uint32_t tag = tag_of(table->entries[slot].hash);
        uint32_t at = home_of(table, tag);
        while (table->buckets[at].slot != slot + 1) {
            if (table->buckets[at].slot == 0) {
                return 0; /* not reachable from its home */
            }
            at = (at + 1) & table->bucket_mask;
        }
        if (table->buckets[at].tag != tag) {
            return 0;
        }
    }
    for (uint32_t at = 0; table->buckets != NULL && at <= table->bucket_mask; at++) {
        occupied += table->buckets[at].slot != 0;
    }
    uint32_t free_slots = 0;
    for (uint32_t slot = table->free_slot; slot != PFO_SLOT_NONE; slot = table->entries[slot].next) {
        if (slot >= table->used_slots || table->entries[slot].live || ++free_slots > table->used_slots) {
            return 0;
        }
    }
    return live == table->count && occupied == table->count && live + free_slots <= table->used_slots;
}
