/* table.h: the index of a cache: an open-addressing hash table over the slots of one entry slab.
 *
 * Contract: an entry is found by a 64-bit hash and an opaque key. The table owns the slab and the buckets; keys, values and
 * guards are opaque and owned by the caller. A slot number is stable until its entry is removed; a pfo_entry pointer is only
 * good until the next insertion, which may move the slab.
 * Equality is asked of a callback that answers 1 (equal), 0 (different) or -1 (failed, e.g. an exception is set). A callback
 * may run user code, and that code may change this very table: every change moves `mutations`, and a search that finds it
 * moved starts again, so that it never follows a stale bucket. [restart]
 * Threads: none of its own; the caller serialises all calls (the GIL, or its lock, which an equality callback may drop
 * around user code because of [restart]).
 * Memory: 8 bytes a bucket, at least 3 and at most 6 buckets for 2 entries; sizeof(pfo_entry) a slot. Buckets grow by doubling, slots by a
 * quarter, and at last to just what a bounded cache needs.
 */
#ifndef PFO_CACHE_TABLE_H
#define PFO_CACHE_TABLE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define PFO_SLOT_NONE UINT32_MAX         /* no such entry */
#define PFO_SLOT_FAILED (UINT32_MAX - 1) /* the equality callback failed, or the table never stood still */
#define PFO_TABLE_MAX_SLOTS (UINT32_MAX - 2)

enum { PFO_CHECK_GUARD = 1, PFO_CHECK_DEADLINE = 2 };

typedef struct pfo_entry {
    uint64_t hash;
    void *key;
    void *value;
    uint16_t live;   /* 1 while the entry is in the table */
    uint16_t checks; /* PFO_CHECK_...: what a caller must look at before it takes the value; 0 on the hot path */
    /* The eviction policy's own fields; the table uses `next` for its free list while a slot is empty. */
    uint32_t policy_bits;
    uint32_t previous;
    uint32_t next;
    void *guard;  /* what must still hold for value to be right; the store only carries it */
    size_t bytes; /* what the entry counts for in the store's byte total */
} pfo_entry;

typedef struct pfo_bucket {
    uint32_t tag;  /* high half of the mixed hash: says where its home is, and spares most visits to the slab */
    uint32_t slot; /* slot + 1; 0 = empty */
} pfo_bucket;

typedef struct pfo_table {
    pfo_bucket *buckets; /* a power of two of them, or NULL before the first insertion */
    pfo_entry *entries;
    uint64_t mutations; /* moved by every insertion, removal, clear and growth of the buckets */
    uint32_t shift;     /* 64 - log2(number of buckets) */
    uint32_t bucket_mask;
    uint32_t capacity;   /* slots allocated */
    uint32_t used_slots; /* slots ever handed out; the ones above are untouched memory */
    uint32_t free_slot;  /* head of the list of returned slots, or PFO_SLOT_NONE */
    uint32_t count;      /* live entries */
} pfo_table;

/* 1 equal, 0 different, -1 failed. `stored` may be released by user code the callback runs: it takes its own
 * references. */
typedef int (*pfo_table_equal)(void *context, const void *sought, const void *stored);

void pfo_table_init(pfo_table *table); /* no allocation */
void pfo_table_free(pfo_table *table); /* the caller has taken keys and values out */

/* Slot of the entry with this hash and key; PFO_SLOT_NONE, or PFO_SLOT_FAILED when equal() failed or when the table changed in
 * each of PFO_TABLE_RESTARTS searches (*restarts_exhausted, if not NULL, then tells the two apart). */
enum { PFO_TABLE_RESTARTS = 1000 };
uint32_t pfo_table_find(const pfo_table *table, uint64_t hash, const void *key, pfo_table_equal equal, void *context,
                        int *restarts_exhausted);

/* The same entry pointer, no callback. */
uint32_t pfo_table_find_identity(const pfo_table *table, uint64_t hash, const void *key);

/* Makes room for one more entry, so that the pfo_table_insert() after it cannot fail. enough: the most slots that the caller expects to need,
 * past which the slab does not grow before it has to. NO_MEMORY, or OVERFLOW past half of PFO_TABLE_MAX_SLOTS. */
pfo_status pfo_table_reserve_one(pfo_table *table, uint64_t enough, pfo_error *err);

/* pre: pfo_table_reserve_one() succeeded since the last insertion, and no equal key is present. Sets hash and key,
 * zeroes the rest. */
uint32_t pfo_table_insert(pfo_table *table, uint64_t hash, void *key);

/* Takes the entry out of the index. Its slot keeps its fields until pfo_table_release_slot() returns it for reuse.
 * pre: slot is live. */
void pfo_table_unlink(pfo_table *table, uint32_t slot);
void pfo_table_release_slot(pfo_table *table, uint32_t slot);

/* Takes every entry out of the index at once; the slots stay as with pfo_table_unlink(). */
void pfo_table_unlink_all(pfo_table *table);

/* Gives all memory back and starts anew; `mutations` goes on, so that no search takes the new table for the old one.
 * pre: no slot is live or unlinked. */
void pfo_table_give_back(pfo_table *table);

/* Bytes of heap memory in use. */
size_t pfo_table_memory(const pfo_table *table);

/* For tests and debug builds: 1 when every invariant holds (each live entry reachable from its home bucket, counts
 * agree). */
int pfo_table_is_consistent(const pfo_table *table);

static inline uint64_t
pfo_table_mix(uint64_t hash)
{
    return hash * UINT64_C(0x9E3779B97F4A7C15); /* Fibonacci hashing: consecutive integers spread evenly */
}

/* The search itself, for callers whose equality runs no user code and is known when compiling, so that it is inlined.
 */
#if defined(__GNUC__)
__attribute__((always_inline))
#endif
static inline uint32_t
pfo_table_find_inline(const pfo_table *table, uint64_t hash, const void *key, pfo_table_equal equal)
{
    if (table->count == 0) {
        return PFO_SLOT_NONE;
    }
    const uint64_t mixed = pfo_table_mix(hash);
    const uint32_t tag = (uint32_t)(mixed >> 32);
    for (uint32_t at = (uint32_t)(mixed >> table->shift);; at = (at + 1) & table->bucket_mask) {
        const pfo_bucket bucket = table->buckets[at];
        if (bucket.slot == 0) {
            return PFO_SLOT_NONE;
        }
        if (bucket.tag == tag) {
            const pfo_entry *entry = &table->entries[bucket.slot - 1];
            if (entry->hash == hash && (entry->key == key || equal(NULL, key, entry->key) == 1)) {
                return bucket.slot - 1;
            }
        }
    }
}

#endif
