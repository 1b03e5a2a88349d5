/* test_store.c: the store with LRU against a naive list, operation by operation: contents, order of eviction, victims,
 * counters, bytes. */
#include "cache/store.h"

#include "base/alloc.h"
#include "check.h"

#include <string.h>

enum { KEYS = 40, LIST = KEYS + 1 };

static int keys[KEYS];
static int values[100000];
static int guards[8];

/* The model: entries from the youngest to the oldest. */
typedef struct model_entry {
    int key;
    int *value;
    size_t bytes;
} model_entry;

typedef struct model {
    model_entry list[LIST];
    int count;
    uint64_t bytes;
    uint64_t max_entries;
    uint64_t max_bytes;
    uint64_t evictions;
    uint64_t rejects;
} model;

static int
model_find(const model *m, int key)
{
    for (int i = 0; i < m->count; i++) {
        if (m->list[i].key == key) {
            return i;
        }
    }
    return -1;
}

static model_entry
model_take(model *m, int at)
{
    const model_entry entry = m->list[at];
    memmove(&m->list[at], &m->list[at + 1], (size_t)(m->count - at - 1) * sizeof m->list[0]);
    m->count--;
    m->bytes -= entry.bytes;
    return entry;
}

static void
model_put_first(model *m, model_entry entry)
{
    memmove(&m->list[1], &m->list[0], (size_t)m->count * sizeof m->list[0]);
    m->list[0] = entry;
    m->count++;
    m->bytes += entry.bytes;
}

static int
same_number(void *context, const void *sought, const void *stored)
{
    (void)context;
    return *(const int *)sought == *(const int *)stored;
}

static uint64_t
hash_of(int key)
{
    return (uint64_t)(key % 13);
}

static uint32_t
find(const pfo_store *store, int key)
{
    return pfo_table_find(&store->table, hash_of(key), &key, same_number, NULL, NULL);
}

static void
expect_victim(pfo_store *store, const int *key, const int *value)
{
    pfo_victim victim;
    REQUIRE(pfo_store_take_victim(store, &victim));
    CHECK(victim.key == key);
    CHECK(victim.value == value);
}

/* Evicts from the model as the contract says and checks that the store's victims are the same, in the same order. */
static void
make_room(model *m, pfo_store *store, size_t bytes)
{
    while (m->count > 0 && ((uint64_t)m->count + 1 > m->max_entries || m->bytes + bytes > m->max_bytes)) {
        const model_entry oldest = model_take(m, m->count - 1);
        expect_victim(store, &keys[oldest.key], oldest.value);
        m->evictions++;
    }
}

static void
do_set(model *m, pfo_store *store, int key, int *value, size_t bytes)
{
    const int at = model_find(m, key);
    const uint32_t slot = find(store, key);
    CHECK((at >= 0) == (slot != PFO_SLOT_NONE));
    int stored = 7;
    const pfo_status status =
        slot == PFO_SLOT_NONE
            ? pfo_store_insert(store, hash_of(key), &keys[key], value, &guards[0], bytes, &stored, NULL)
            : pfo_store_replace(store, slot, value, &guards[0], bytes, &stored, NULL);
    REQUIRE(status == PFO_OK);
    const int fits = m->max_entries > 0 && bytes <= m->max_bytes;
    CHECK(stored == fits);
    m->rejects += m->max_entries > 0 && !fits;
    if (at >= 0) {
        const model_entry old = model_take(m, at);
        expect_victim(store, fits ? NULL : &keys[key], old.value);
    }
    if (fits) {
        make_room(m, store, bytes);
        model_put_first(m, (model_entry){ key, value, bytes });
    }
}

static void
do_get(model *m, pfo_store *store, int key)
{
    const int at = model_find(m, key);
    const uint32_t slot = find(store, key);
    CHECK((at >= 0) == (slot != PFO_SLOT_NONE));
    if (at >= 0) {
        CHECK(store->table.entries[slot].value == m->list[at].value);
        CHECK(store->table.entries[slot].guard == &guards[0]);
        pfo_store_hit(store, slot);
        model_put_first(m, model_take(m, at));
    }
}

static void
do_remove(model *m, pfo_store *store, int key)
{
    const int at = model_find(m, key);
    if (at >= 0) {
        pfo_store_remove(store, find(store, key));
        expect_victim(store, &keys[key], model_take(m, at).value);
    }
}

static void
compare(const model *m, pfo_store *store)
{
    pfo_victim victim;
    CHECK(!pfo_store_take_victim(store, &victim));
    CHECK((int)store->table.count == m->count && store->bytes == m->bytes);
    CHECK(store->evictions == m->evictions && store->rejects == m->rejects);
    CHECK(store->table.count <= store->bounds.max_entries && store->bytes <= store->bounds.max_bytes);
    uint32_t slot = store->policy.head;
    for (int i = 0; i < m->count; i++, slot = store->table.entries[slot].next) {
        REQUIRE(slot != PFO_SLOT_NONE);
        CHECK(store->table.entries[slot].key == &keys[m->list[i].key]);
    }
    CHECK(slot == PFO_SLOT_NONE);
    CHECK(pfo_store_is_consistent(store));
}

static void
run_model(uint64_t max_entries, uint64_t max_bytes, unsigned long long seed)
{
    pfo_store store;
    static model m;
    memset(&m, 0, sizeof m);
    m.max_entries = max_entries;
    m.max_bytes = max_bytes;
    REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ max_entries, max_bytes }, NULL) == PFO_OK);
    for (int step = 0; step < 4000; step++) {
        const int key = (int)(check_random(&seed) % KEYS);
        const unsigned long long operation = check_random(&seed) % 100;
        if (operation < 45) {
            do_set(&m, &store, key, &values[step], (size_t)(check_random(&seed) % 30));
        } else if (operation < 85) {
            do_get(&m, &store, key);
        } else if (operation < 99) {
            do_remove(&m, &store, key);
        } else {
            pfo_store_clear(&store);
            int taken = 0;
            for (pfo_victim victim; pfo_store_take_victim(&store, &victim); taken++) {
                CHECK(victim.key != NULL && victim.value != NULL);
            }
            CHECK(taken == m.count);
            m.count = 0;
            m.bytes = 0;
        }
        compare(&m, &store);
    }
    pfo_store_clear(&store);
    for (pfo_victim victim; pfo_store_take_victim(&store, &victim);) {
    }
    pfo_store_free(&store);
}

static void
agrees_with_a_list(void)
{
    run_model(10, PFO_STORE_UNBOUNDED, 11);
    run_model(1, PFO_STORE_UNBOUNDED, 12);
    run_model(0, PFO_STORE_UNBOUNDED, 13);
    run_model(PFO_STORE_UNBOUNDED, PFO_STORE_UNBOUNDED, 14);
    run_model(PFO_STORE_UNBOUNDED, 100, 15);
    run_model(8, 60, 16);
    run_model(8, 0, 17);
    run_model(8, 20, 18); /* some entries exceed the bound alone */
}

static void
counters_can_be_reset(void)
{
    pfo_store store;
    REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ 1, PFO_STORE_UNBOUNDED }, NULL) == PFO_OK);
    int stored;
    REQUIRE(pfo_store_insert(&store, 0, &keys[0], &values[0], NULL, 5, &stored, NULL) == PFO_OK);
    pfo_store_hit(&store, find(&store, 0));
    store.misses++;
    CHECK(store.hits == 1);
    REQUIRE(pfo_store_insert(&store, hash_of(1), &keys[1], &values[1], NULL, 5, &stored, NULL) == PFO_OK);
    CHECK(store.evictions == 1 && store.table.count == 1);
    pfo_store_reset_counters(&store);
    CHECK(store.hits == 0 && store.misses == 0 && store.evictions == 0 && store.table.count == 1);
    pfo_store_clear(&store);
    expect_victim(&store, &keys[0], &values[0]);
    expect_victim(&store, &keys[1], &values[1]);
    pfo_store_free(&store);
}

/* The n-th allocation fails, for every n: the operation that meets it changes nothing, and all goes on afterwards. */
static void
a_failed_insertion_changes_nothing(void)
{
    for (long n = 1; n < 30; n++) {
        pfo_store store;
        REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ 30, 1000 }, NULL) == PFO_OK);
        unsigned long long seed = 99;
        int failures = 0;
        pfo_alloc_fail_at(n);
        for (int step = 0; step < 300; step++) {
            const int key = (int)(check_random(&seed) % KEYS);
            const uint32_t slot = find(&store, key);
            const uint32_t count = store.table.count;
            const uint64_t bytes = store.bytes;
            const uint64_t evictions = store.evictions;
            int stored = 0;
            pfo_error err = PFO_ERROR_INIT;
            const pfo_status status =
                slot == PFO_SLOT_NONE
                    ? pfo_store_insert(&store, hash_of(key), &keys[key], &values[step], NULL, 40, &stored, &err)
                    : pfo_store_replace(&store, slot, &values[step], NULL, 40, &stored, &err);
            if (status != PFO_OK) {
                failures++;
                CHECK(status == PFO_NO_MEMORY && !stored && err.text[0] != '\0');
                CHECK(store.table.count == count && store.bytes == bytes && store.evictions == evictions);
                pfo_victim victim;
                CHECK(!pfo_store_take_victim(&store, &victim));
            }
            CHECK(pfo_store_is_consistent(&store));
            for (pfo_victim victim; pfo_store_take_victim(&store, &victim);) {
            }
        }
        pfo_alloc_fail_at(0);
        CHECK(failures <= 1);
        CHECK(n > 1 || failures == 1);
        pfo_store_clear(&store);
        for (pfo_victim victim; pfo_store_take_victim(&store, &victim);) {
        }
        pfo_store_free(&store);
    }
}

int
main(void)
{
    for (int i = 0; i < KEYS; i++) {
        keys[i] = i;
    }
    RUN(agrees_with_a_list);
    RUN(counters_can_be_reset);
    RUN(a_failed_insertion_changes_nothing);
    return FINISH();
}
