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

/* The clock of the stores here. */
static uint64_t now_ns;

static uint64_t
read_clock(void)
{
    return now_ns;
}

/* Inserts, or replaces where the key is. */
static pfo_status
put(pfo_store *store, int key, int *value, size_t bytes, uint64_t ttl_ns, int *stored)
{
    const pfo_item item = { .hash = hash_of(key), .key = &keys[key], .value = value, .bytes = bytes, .ttl_ns = ttl_ns };
    const uint32_t slot = find(store, key);
    return slot == PFO_SLOT_NONE ? pfo_store_insert(store, &item, stored, NULL)
                                 : pfo_store_replace(store, slot, &item, stored, NULL);
}

static int
drain(pfo_store *store)
{
    int taken = 0;
    for (pfo_victim victim; pfo_store_take_victim(store, &victim);) {
        taken++;
    }
    return taken;
}

static void
expect_victim(pfo_store *store, const int *key, const int *value, pfo_leave_reason reason)
{
    pfo_victim victim;
    REQUIRE(pfo_store_take_victim(store, &victim));
    CHECK(victim.key == key);
    CHECK(victim.value == value);
    CHECK(victim.reason == reason && victim.hash == hash_of(*key));
}

/* Evicts from the model as the contract says and checks that the store's victims are the same, in the same order. */
static void
make_room(model *m, pfo_store *store, size_t bytes)
{
    while (m->count > 0 && ((uint64_t)m->count + 1 > m->max_entries || m->bytes + bytes > m->max_bytes)) {
        const model_entry oldest = model_take(m, m->count - 1);
        expect_victim(store, &keys[oldest.key], oldest.value, PFO_LEAVE_EVICTED);
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
    const pfo_item item = {
        .hash = hash_of(key), .key = &keys[key], .value = value, .guard = &guards[0], .bytes = bytes
    };
    const pfo_status status = slot == PFO_SLOT_NONE ? pfo_store_insert(store, &item, &stored, NULL)
                                                    : pfo_store_replace(store, slot, &item, &stored, NULL);
    REQUIRE(status == PFO_OK);
    const int fits = m->max_entries > 0 && bytes <= m->max_bytes;
    CHECK(stored == fits);
    m->rejects += m->max_entries > 0 && !fits;
    if (at >= 0) {
        const model_entry old = model_take(m, at);
        expect_victim(store, &keys[key], old.value, PFO_LEAVE_REPLACED);
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
        pfo_store_remove(store, find(store, key), PFO_LEAVE_DELETED);
        expect_victim(store, &keys[key], model_take(m, at).value, PFO_LEAVE_DELETED);
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
    (void)drain(&store);
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
    REQUIRE(put(&store, 0, &values[0], 5, 0, &stored) == PFO_OK);
    pfo_store_hit(&store, find(&store, 0));
    store.misses++;
    CHECK(store.hits == 1);
    REQUIRE(put(&store, 1, &values[1], 5, 0, &stored) == PFO_OK);
    CHECK(store.evictions == 1 && store.table.count == 1);
    pfo_store_reset_counters(&store);
    CHECK(store.hits == 0 && store.misses == 0 && store.evictions == 0 && store.table.count == 1);
    pfo_store_clear(&store);
    expect_victim(&store, &keys[0], &values[0], PFO_LEAVE_EVICTED);
    expect_victim(&store, &keys[1], &values[1], PFO_LEAVE_CLEARED);
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
            const pfo_item item = {
                .hash = hash_of(key), .key = &keys[key], .value = &values[step], .bytes = 40, .ttl_ns = key % 2 ? 50 : 0
            };
            const pfo_status status = slot == PFO_SLOT_NONE ? pfo_store_insert(&store, &item, &stored, &err)
                                                            : pfo_store_replace(&store, slot, &item, &stored, &err);
            if (status != PFO_OK) {
                failures++;
                CHECK(status == PFO_NO_MEMORY && !stored && err.text[0] != '\0');
                CHECK(store.table.count == count && store.bytes == bytes && store.evictions == evictions);
                pfo_victim victim;
                CHECK(!pfo_store_take_victim(&store, &victim));
            }
            CHECK(pfo_store_is_consistent(&store));
            (void)drain(&store);
        }
        pfo_alloc_fail_at(0);
        CHECK(failures <= 1);
        CHECK(n > 1 || failures == 1);
        pfo_store_clear(&store);
        (void)drain(&store);
        pfo_store_free(&store);
    }
}

/* ---- deadlines, bounds that move, memory that goes back --------------------------------------- */

static uint64_t clock_reads;

static uint64_t
count_reads(void)
{
    clock_reads++;
    return now_ns;
}

static int
is_good(const pfo_store *store, int key)
{
    const uint32_t slot = find(store, key);
    return slot != PFO_SLOT_NONE && pfo_store_time_left(store, slot) > 0;
}

static void
without_deadlines_no_clock_is_read(void)
{
    pfo_store store;
    REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ 3, PFO_STORE_UNBOUNDED }, NULL) == PFO_OK);
    store.now_ns = count_reads;
    clock_reads = 0;
    int stored;
    for (int key = 0; key < KEYS; key++) {
        REQUIRE(put(&store, key, &values[key], 1, 0, &stored) == PFO_OK);
        CHECK(is_good(&store, key));
    }
    CHECK(pfo_store_expire(&store) == 0);
    CHECK(clock_reads == 0 && store.expiry.nodes == NULL);
    REQUIRE(put(&store, 0, &values[0], 1, 10, &stored) == PFO_OK);
    CHECK(clock_reads > 0);
    clock_reads = 0;
    CHECK(is_good(&store, KEYS - 1) && clock_reads == 0);
    CHECK(is_good(&store, 0) && clock_reads == 1);
    pfo_store_clear(&store);
    (void)drain(&store);
    pfo_store_free(&store);
}

static void
the_due_leave_first(void)
{
    pfo_store store;
    REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ 3, 100 }, NULL) == PFO_OK);
    store.now_ns = read_clock;
    now_ns = 1000000;
    int stored;
    REQUIRE(put(&store, 0, &values[0], 10, 0, &stored) == PFO_OK); /* the policy would name it */
    REQUIRE(put(&store, 1, &values[1], 10, 50, &stored) == PFO_OK);
    REQUIRE(put(&store, 2, &values[2], 10, 500, &stored) == PFO_OK);
    now_ns += 50;
    CHECK(!is_good(&store, 1) && is_good(&store, 2) && pfo_store_time_left(&store, find(&store, 2)) == 450);
    REQUIRE(put(&store, 3, &values[3], 10, 0, &stored) == PFO_OK);
    expect_victim(&store, &keys[1], &values[1], PFO_LEAVE_EXPIRED);
    CHECK(store.expirations == 1 && store.evictions == 0 && is_good(&store, 0));
    REQUIRE(put(&store, 4, &values[4], 95, 0, &stored) == PFO_OK); /* only room for itself */
    CHECK(store.expirations == 1 && store.evictions == 3 && drain(&store) == 3 && store.table.count == 1);
    pfo_store_remove(&store, find(&store, 4), PFO_LEAVE_EXPIRED);
    CHECK(store.expirations == 2);
    CHECK(pfo_store_is_consistent(&store));
    (void)drain(&store);
    pfo_store_free(&store);
}

static void
touch_moves_the_deadline(void)
{
    pfo_store store;
    REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ 9, 100 }, NULL) == PFO_OK);
    store.now_ns = read_clock;
    now_ns = 5;
    int stored;
    REQUIRE(put(&store, 0, &values[0], 10, 0, &stored) == PFO_OK);
    pfo_alloc_fail_at(1);
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_store_touch(&store, find(&store, 0), 10, &err) == PFO_NO_MEMORY && err.text[0] != '\0');
    pfo_alloc_fail_at(0);
    CHECK(pfo_store_time_left(&store, find(&store, 0)) == UINT64_MAX && pfo_store_is_consistent(&store));
    REQUIRE(pfo_store_touch(&store, find(&store, 0), 10, NULL) == PFO_OK);
    CHECK(pfo_store_time_left(&store, find(&store, 0)) == 10);
    REQUIRE(pfo_store_touch(&store, find(&store, 0), UINT64_MAX, NULL) == PFO_OK);
    CHECK(pfo_store_time_left(&store, find(&store, 0)) == UINT64_MAX - 5);
    REQUIRE(pfo_store_touch(&store, find(&store, 0), 0, NULL) == PFO_OK);
    now_ns = UINT64_MAX;
    CHECK(is_good(&store, 0) && pfo_store_expire(&store) == 0 && store.expiry.count == 0);
    pfo_store_clear(&store);
    (void)drain(&store);
    pfo_store_free(&store);
}

static void
bounds_can_move(void)
{
    pfo_store store;
    REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ 10, 1000 }, NULL) == PFO_OK);
    store.now_ns = read_clock;
    now_ns = 0;
    int stored;
    for (int key = 0; key < 10; key++) {
        REQUIRE(put(&store, key, &values[key], 10, key == 7 ? 5 : 0, &stored) == PFO_OK);
    }
    now_ns = 6;
    REQUIRE(pfo_store_resize(&store, &(pfo_bounds){ 8, 1000 }, NULL) == PFO_OK);
    expect_victim(&store, &keys[7], &values[7], PFO_LEAVE_EXPIRED);
    expect_victim(&store, &keys[0], &values[0], PFO_LEAVE_EVICTED);
    REQUIRE(pfo_store_resize(&store, &(pfo_bounds){ 8, 35 }, NULL) == PFO_OK);
    CHECK(store.table.count == 3 && store.bytes == 30 && drain(&store) == 5);
    CHECK(is_good(&store, 9) && is_good(&store, 8) && is_good(&store, 6));
    REQUIRE(pfo_store_resize(&store, &(pfo_bounds){ 0, 35 }, NULL) == PFO_OK);
    CHECK(store.table.count == 0 && drain(&store) == 3);
    REQUIRE(put(&store, 1, &values[1], 1, 0, &stored) == PFO_OK);
    CHECK(!stored && store.rejects == 0);
    CHECK(pfo_store_is_consistent(&store));
    pfo_store_free(&store);
}

static void
clear_gives_memory_back(void)
{
    pfo_store store;
    REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ KEYS, 1000 }, NULL) == PFO_OK);
    int stored;
    for (int round = 0; round < 3; round++) {
        const uint64_t mutations = store.table.mutations;
        for (int key = 0; key < KEYS; key++) {
            REQUIRE(put(&store, key, &values[key], 10, 1000000000, &stored) == PFO_OK);
        }
        CHECK(pfo_store_memory(&store) >= KEYS * (sizeof(pfo_entry) + sizeof(pfo_expiry_node)));
        pfo_store_clear(&store);
        CHECK(drain(&store) == KEYS);
        CHECK(pfo_store_memory(&store) == 0 && store.table.mutations > mutations + KEYS);
        CHECK(pfo_store_is_consistent(&store));
    }
    /* What enters while the victims are taken stays whole. */
    REQUIRE(put(&store, 0, &values[0], 10, 0, &stored) == PFO_OK);
    REQUIRE(put(&store, 1, &values[1], 10, 0, &stored) == PFO_OK);
    pfo_store_clear(&store);
    expect_victim(&store, &keys[0], &values[0], PFO_LEAVE_CLEARED);
    REQUIRE(put(&store, 2, &values[2], 10, 0, &stored) == PFO_OK);
    expect_victim(&store, &keys[1], &values[1], PFO_LEAVE_CLEARED);
    CHECK(is_good(&store, 2) && pfo_store_is_consistent(&store));
    pfo_store_clear(&store);
    (void)drain(&store);
    pfo_store_free(&store);
}

/* Deadlines against a naive list: what is good is the same at every step; of the others only how many are still in differs. */
typedef struct timed_entry {
    int present;
    uint64_t deadline_ns;
    uint64_t used;
    size_t bytes;
} timed_entry;

static int
timed_is_good(const timed_entry *entry)
{
    return entry->present && entry->deadline_ns > now_ns;
}

static void
timed_make_room(timed_entry *entries, uint64_t max_entries, uint64_t max_bytes, size_t bytes)
{
    for (;;) {
        uint64_t count = 0, total = 0;
        int oldest = -1;
        for (int key = 0; key < KEYS; key++) {
            if (timed_is_good(&entries[key])) {
                count++;
                total += entries[key].bytes;
                oldest = oldest < 0 || entries[key].used < entries[oldest].used ? key : oldest;
            }
        }
        if (count + (bytes > 0) <= max_entries && total + bytes <= max_bytes) {
            return;
        }
        entries[oldest].present = 0;
    }
}

static void
run_timed_model(uint64_t max_entries, uint64_t max_bytes, uint64_t longest_ns, unsigned long long seed)
{
    pfo_store store;
    timed_entry expected[KEYS];
    memset(expected, 0, sizeof expected);
    REQUIRE(pfo_store_init(&store, &pfo_policy_lru, &(pfo_bounds){ max_entries, max_bytes }, NULL) == PFO_OK);
    store.now_ns = read_clock;
    now_ns = 123456789;
    uint64_t left = 0;
    for (int step = 1; step < 6000; step++) {
        now_ns += check_random(&seed) % (longest_ns / 8 + 1);
        const int key = (int)(check_random(&seed) % KEYS);
        const uint32_t slot = find(&store, key);
        const uint64_t ttl_ns = check_random(&seed) % 3 == 0 ? 0 : 1 + check_random(&seed) % longest_ns;
        const unsigned long long operation = check_random(&seed) % 100;
        if (operation < 60) {
            const size_t bytes = 1 + (size_t)(check_random(&seed) % 20);
            int stored;
            REQUIRE(put(&store, key, &values[step], bytes, ttl_ns, &stored) == PFO_OK);
            REQUIRE(stored);
            expected[key].present = 0;
            timed_make_room(expected, max_entries, max_bytes, bytes);
            expected[key] = (timed_entry){ 1, ttl_ns == 0 ? UINT64_MAX : now_ns + ttl_ns, (uint64_t)step, bytes };
        } else if (operation < 80) {
            if (is_good(&store, key)) {
                pfo_store_hit(&store, slot);
                expected[key].used = (uint64_t)step;
            }
        } else if (operation < 90) {
            if (is_good(&store, key)) {
                REQUIRE(pfo_store_touch(&store, slot, ttl_ns, NULL) == PFO_OK);
                expected[key].deadline_ns = ttl_ns == 0 ? UINT64_MAX : now_ns + ttl_ns;
            }
        } else if (operation < 97) {
            if (slot != PFO_SLOT_NONE) {
                pfo_store_remove(&store, slot, PFO_LEAVE_DELETED);
                expected[key].present = 0;
            }
        } else if (operation < 98) {
            REQUIRE(pfo_store_resize(&store, &(pfo_bounds){ max_entries, max_bytes }, NULL) == PFO_OK);
        } else {
            left += pfo_store_expire(&store);
            uint32_t good = 0;
            for (int i = 0; i < KEYS; i++) {
                good += timed_is_good(&expected[i]) != 0;
            }
            CHECK(store.table.count == good);
        }
        (void)drain(&store);
        for (int i = 0; i < KEYS; i++) {
            CHECK(is_good(&store, i) == timed_is_good(&expected[i]));
        }
        CHECK(pfo_store_is_consistent(&store));
    }
    CHECK(left > 0);
    pfo_store_clear(&store);
    (void)drain(&store);
    pfo_store_free(&store);
}

static void
deadlines_agree_with_a_list(void)
{
    run_timed_model(10, PFO_STORE_UNBOUNDED, 3000, 21);
    run_timed_model(30, 150, 100, 22);
    run_timed_model(PFO_STORE_UNBOUNDED, 90, 5000000, 23);
    run_timed_model(20, 200, UINT64_C(1) << 40, 24);
    run_timed_model(PFO_STORE_UNBOUNDED, PFO_STORE_UNBOUNDED, UINT64_C(1) << 50, 25);
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
    RUN(without_deadlines_no_clock_is_read);
    RUN(the_due_leave_first);
    RUN(touch_moves_the_deadline);
    RUN(bounds_can_move);
    RUN(clear_gives_memory_back);
    RUN(deadlines_agree_with_a_list);
    return FINISH();
}
