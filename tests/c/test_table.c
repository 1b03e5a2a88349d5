/* test_table.c: the hash table against a naive list, with few hash values so that runs are long, and with an equality that changes
 * the table while it is asked. */
#include "cache/table.h"

#include "base/alloc.h"
#include "check.h"

#include <string.h>

enum { KEYS = 300 };

static int keys[KEYS]; /* the addresses are the opaque keys */

static uint64_t
hash_of(int key, int spread)
{
    return (uint64_t)(key % spread) * UINT64_C(0x9E3779B97F4A7C15); /* few, and scattered */
}

static int
same_number(void *context, const void *sought, const void *stored)
{
    (void)context;
    return *(const int *)sought == *(const int *)stored;
}

static void
random_operations(int spread, unsigned long long seed)
{
    pfo_table table;
    uint32_t slots[KEYS];
    int present[KEYS] = { 0 };
    uint32_t count = 0;
    pfo_table_init(&table);
    for (int step = 0; step < 6000; step++) {
        const int key = (int)(check_random(&seed) % KEYS);
        const int wanted = key; /* another address than the key's own */
        const uint64_t hash = hash_of(key, spread);
        const uint32_t found = pfo_table_find(&table, hash, &wanted, same_number, NULL, NULL);
        CHECK(found == (present[key] ? slots[key] : PFO_SLOT_NONE));
        CHECK(pfo_table_find_inline(&table, hash, &wanted, same_number) == found);
        CHECK(pfo_table_find_identity(&table, hash, &keys[key]) == found);
        CHECK(pfo_table_find_identity(&table, hash, &wanted) == PFO_SLOT_NONE);
        if (present[key] && check_random(&seed) % 3 != 0) {
            pfo_table_unlink(&table, found);
            CHECK(table.entries[found].key == &keys[key]); /* its fields stay until the slot is given back */
            pfo_table_release_slot(&table, found);
            present[key] = 0;
            count--;
        } else if (!present[key] && check_random(&seed) % 4 != 0) {
            REQUIRE(pfo_table_reserve_one(&table, 0, NULL) == PFO_OK);
            slots[key] = pfo_table_insert(&table, hash, &keys[key]);
            present[key] = 1;
            count++;
        }
        CHECK(table.count == count);
        if (step % 50 == 0) {
            CHECK(pfo_table_is_consistent(&table));
        }
    }
    CHECK(pfo_table_memory(&table) <= 160 * (size_t)KEYS * 2);
    pfo_table_free(&table);
}

static void
agrees_with_a_list(void)
{
    random_operations(KEYS, 1);
    random_operations(7, 2);
    random_operations(1, 3); /* every key in one run */
}

static void
unlink_all_keeps_slots(void)
{
    pfo_table table;
    pfo_table_init(&table);
    pfo_table_unlink_all(&table);
    for (int i = 0; i < 100; i++) {
        REQUIRE(pfo_table_reserve_one(&table, 0, NULL) == PFO_OK);
        (void)pfo_table_insert(&table, hash_of(i, KEYS), &keys[i]);
    }
    pfo_table_unlink_all(&table);
    CHECK(table.count == 0 && pfo_table_is_consistent(&table));
    CHECK(pfo_table_find_identity(&table, hash_of(5, KEYS), &keys[5]) == PFO_SLOT_NONE);
    for (uint32_t slot = 0; slot < 100; slot++) {
        CHECK(table.entries[slot].key == &keys[slot]);
        pfo_table_release_slot(&table, slot);
    }
    REQUIRE(pfo_table_reserve_one(&table, 0, NULL) == PFO_OK);
    CHECK(pfo_table_insert(&table, 9, &keys[0]) < 100); /* slots are used again */
    CHECK(pfo_table_is_consistent(&table));
    pfo_table_free(&table);
}

typedef struct meddler {
    pfo_table *table;
    int calls;
    int changes; /* how many of the first calls change the table */
    int answer;
} meddler;

/* Equality that removes the entry it is asked about and inserts it again elsewhere. */
static int
meddle(void *context, const void *sought, const void *stored)
{
    meddler *self = context;
    self->calls++;
    if (self->calls <= self->changes) {
        const uint32_t slot = pfo_table_find_identity(self->table, 1, stored);
        void *key = self->table->entries[slot].key;
        pfo_table_unlink(self->table, slot);
        pfo_table_release_slot(self->table, slot);
        for (int i = 100; i < 140; i++) { /* grows the slab and the buckets under the search */
            REQUIRE(pfo_table_reserve_one(self->table, 0, NULL) == PFO_OK);
            (void)pfo_table_insert(self->table, (uint64_t)(i * self->calls), &keys[i]);
        }
        REQUIRE(pfo_table_reserve_one(self->table, 0, NULL) == PFO_OK);
        (void)pfo_table_insert(self->table, 1, key);
    }
    return self->answer < 0 ? self->answer : same_number(NULL, sought, stored);
}

/* Equality that makes room for an insertion which then does not come: its policy had no memory. */
static int
grow_only(void *context, const void *sought, const void *stored)
{
    REQUIRE(pfo_table_reserve_one(context, 0, NULL) == PFO_OK);
    return same_number(NULL, sought, stored);
}

static void
search_restarts_when_only_the_buckets_grow(void)
{
    pfo_table table;
    pfo_table_init(&table);
    for (int i = 0; i < 10; i++) { /* as many as 16 buckets take */
        REQUIRE(pfo_table_reserve_one(&table, 0, NULL) == PFO_OK);
        (void)pfo_table_insert(&table, 1, &keys[i]);
    }
    const int nine = 9;
    const uint32_t before = table.bucket_mask;
    const uint32_t found = pfo_table_find(&table, 1, &nine, grow_only, &table, NULL);
    CHECK(table.bucket_mask > before);
    CHECK(found < PFO_SLOT_FAILED && table.entries[found].key == &keys[9]);
    pfo_table_free(&table);
}

static void
search_restarts_when_the_table_changes(void)
{
    pfo_table table;
    pfo_table_init(&table);
    REQUIRE(pfo_table_reserve_one(&table, 0, NULL) == PFO_OK);
    (void)pfo_table_insert(&table, 1, &keys[3]);
    const int three = 3;
    const int four = 4;
    int exhausted = 0;

    meddler moves = { .table = &table, .changes = 5 };
    const uint32_t found = pfo_table_find(&table, 1, &three, meddle, &moves, &exhausted);
    REQUIRE(found < PFO_SLOT_FAILED);
    CHECK(table.entries[found].key == &keys[3] && moves.calls == 6 && !exhausted);
    CHECK(pfo_table_is_consistent(&table));

    meddler other = { .table = &table, .changes = 2 };
    CHECK(pfo_table_find(&table, 1, &four, meddle, &other, &exhausted) == PFO_SLOT_NONE);

    meddler fails = { .table = &table, .answer = -1 };
    CHECK(pfo_table_find(&table, 1, &three, meddle, &fails, &exhausted) == PFO_SLOT_FAILED);
    CHECK(fails.calls == 1 && !exhausted);

    meddler restless = { .table = &table, .changes = PFO_TABLE_RESTARTS + 1 };
    CHECK(pfo_table_find(&table, 1, &three, meddle, &restless, &exhausted) == PFO_SLOT_FAILED);
    CHECK(restless.calls == PFO_TABLE_RESTARTS && exhausted);
    CHECK(pfo_table_is_consistent(&table));
    pfo_table_free(&table);
}

static void
survives_failing_allocations(void)
{
    for (long n = 1; n < 40; n++) {
        pfo_table table;
        pfo_table_init(&table);
        uint32_t inserted = 0;
        pfo_alloc_fail_at(n);
        for (int i = 0; i < 200; i++) {
            pfo_error err = PFO_ERROR_INIT;
            const pfo_status status = pfo_table_reserve_one(&table, 0, &err);
            if (status != PFO_OK) {
                CHECK(status == PFO_NO_MEMORY && strstr(err.text, "no memory") != NULL);
                CHECK(table.count == inserted);
                REQUIRE(pfo_table_reserve_one(&table, 0, NULL) == PFO_OK); /* the failure was injected once */
            }
            (void)pfo_table_insert(&table, hash_of(i, 50), &keys[i]);
            inserted++;
        }
        pfo_alloc_fail_at(0);
        CHECK(pfo_table_is_consistent(&table));
        pfo_table_free(&table);
    }
}

/* The slab grows by a quarter at a time, at last to just what is enough, and past it only when it must. */
static void
grows_to_what_is_enough(void)
{
    pfo_table table;
    pfo_table_init(&table);
    for (uint32_t i = 0; i < 400; i++) {
        REQUIRE(pfo_table_reserve_one(&table, 200, NULL) == PFO_OK);
        (void)pfo_table_insert(&table, i, &keys[i % KEYS]);
        CHECK(i < 200 ? table.capacity <= 200 : table.capacity > 200);
        CHECK(table.capacity <= i + i / 4 + 8);
        if (i == 199) {
            CHECK(table.capacity == 200);
        }
    }
    CHECK(pfo_table_is_consistent(&table));
    pfo_table_free(&table);
}

int
main(void)
{
    for (int i = 0; i < KEYS; i++) {
        keys[i] = i;
    }
    RUN(agrees_with_a_list);
    RUN(unlink_all_keeps_slots);
    RUN(grows_to_what_is_enough);
    RUN(search_restarts_when_the_table_changes);
    RUN(search_restarts_when_only_the_buckets_grow);
    RUN(survives_failing_allocations);
    return FINISH();
}
