/* test_store_memory.c: what the store takes beside keys and values, under every policy and bound, while it fills and long after it is full:
 * at most 160 bytes an entry from 500 entries on, with deadlines or without.
 *
 * `auto` has shadows in its rounds, as large under a small cache as under a large one: these are bounded by themselves, and the bar is met from
 * WHERE_AUTO_MEETS_IT on.
 * PFO_PRINT_MEMORY=1 prints the table of docs/policies.md.
 */
#include "cache/store.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

enum { BAR = 160, FROM = 500, STEP = 61 };
enum { WHERE_AUTO_MEETS_IT = 2000, AUTO_BESIDE_SHADOWS = 125, AUTO_SHADOWS = 102 * 1024 };

static int value;

static uint64_t
clock_at_rest(void)
{
    return 1;
}

static int
is_auto(const pfo_store *store)
{
    return store->policy.ops == &pfo_policy_auto;
}

/* Distinct keys with repetitions of late ones, so that queues, ghosts and shadows fill. */
static void
request(pfo_store *store, uint64_t number, uint64_t ttl_ns)
{
    const uint64_t key = number % 3 == 2 ? number - number % 50 : number;
    const uint32_t slot = pfo_table_find_identity(&store->table, key, &value);
    if (slot != PFO_SLOT_NONE) {
        pfo_store_hit(store, slot);
        return;
    }
    const pfo_item item = { .hash = key, .key = &value, .value = &value, .bytes = 100, .ttl_ns = ttl_ns };
    int stored = 0;
    REQUIRE(pfo_store_insert(store, &item, &stored, NULL) == PFO_OK && stored);
    pfo_victim victim;
    while (pfo_store_take_victim(store, &victim)) {
        CHECK(victim.reason == PFO_LEAVE_EVICTED);
    }
}

/* The most bytes an entry while the store fills with `entries` and goes on for `turns` times as many requests; *full: the most once it was
 * full. */
static double
most_bytes_an_entry(const char *name, const pfo_bounds *bounds, uint64_t entries, uint64_t turns, uint64_t ttl_ns,
                    double *full)
{
    pfo_store store;
    double most = 0;
    *full = 0;
    REQUIRE(pfo_store_init(&store, pfo_policy_by_name(name), bounds, NULL) == PFO_OK);
    store.now_ns = clock_at_rest;
    for (uint64_t i = 0; i < entries * turns && (turns > 1 || store.table.count < entries); i++) {
        request(&store, i, ttl_ns);
        const uint32_t count = store.table.count;
        if (count >= FROM && i % STEP == 0) {
            const size_t bytes = pfo_store_memory(&store);
            const double each = (double)bytes / count;
            most = each > most ? each : most;
            *full = count == entries && each > *full ? each : *full;
            if (is_auto(&store) && count < WHERE_AUTO_MEETS_IT) {
                CHECK(bytes <= (size_t)AUTO_BESIDE_SHADOWS * count + AUTO_SHADOWS);
            } else {
                CHECK(each <= BAR);
            }
        }
    }
    CHECK(store.table.count >= entries && pfo_store_is_consistent(&store));
    pfo_store_clear(&store);
    pfo_victim victim;
    while (pfo_store_take_victim(&store, &victim)) {
        CHECK(victim.reason == PFO_LEAVE_CLEARED);
    }
    pfo_store_free(&store);
    return most;
}

static const uint64_t sizes[] = { 500, 700, 1000, 1024, 1025, 2000, 10000, 100000 };

enum { SIZES = sizeof sizes / sizeof sizes[0] };

static void
bounded_by_entries(void)
{
    for (const char *const *name = pfo_policy_names; *name != NULL; name++) {
        for (int i = 0; i < SIZES; i++) {
            const pfo_bounds bounds = { sizes[i], PFO_STORE_UNBOUNDED };
            double full;
            const double plain = most_bytes_an_entry(*name, &bounds, sizes[i], 10, 0, &full);
            double full_timed;
            const double timed = most_bytes_an_entry(*name, &bounds, sizes[i], 10, 1000000, &full_timed);
            if (getenv("PFO_PRINT_MEMORY") != NULL) {
                printf("| %s | %llu | %.0f | %.0f | %.0f | %.0f |\n", *name, (unsigned long long)sizes[i], full, plain,
                       full_timed, timed);
            }
        }
    }
}

static void
bounded_by_bytes(void)
{
    for (const char *const *name = pfo_policy_names; *name != NULL; name++) {
        for (int i = 0; i < SIZES; i++) {
            const pfo_bounds bounds = { PFO_STORE_UNBOUNDED, sizes[i] * 100 };
            double full;
            (void)most_bytes_an_entry(*name, &bounds, sizes[i], 10, 0, &full);
            (void)most_bytes_an_entry(*name, &bounds, sizes[i], 10, 1000000, &full);
        }
    }
}

static void
unbounded(void)
{
    for (const char *const *name = pfo_policy_names; *name != NULL; name++) {
        const pfo_bounds bounds = { PFO_STORE_UNBOUNDED, PFO_STORE_UNBOUNDED };
        double full;
        (void)most_bytes_an_entry(*name, &bounds, 30000, 2, 0, &full);
        (void)most_bytes_an_entry(*name, &bounds, 30000, 2, 1000000, &full);
    }
}

int
main(void)
{
    RUN(bounded_by_entries);
    RUN(bounded_by_bytes);
    RUN(unbounded);
    return FINISH();
}
