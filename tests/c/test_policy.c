/* test_policy.c: what every policy promises, on a cache of hashes: whole after every operation, bounds kept, the same victim when asked again,
 * the same evictions in every run, and nothing changed by an allocation that failed. What each evicts is compared with naive models in
 * tests/property. */
#include "base/alloc.h"
#include "cache/policy_shadow.h"
#include "check.h"

#include <string.h>

enum { KEYS = 60 };

static uint64_t
next_number(unsigned long long *seed, uint64_t below)
{
    return check_random(seed) % below;
}

static void
fold(void *context, uint64_t hash)
{
    uint64_t *sum = context;
    *sum = (*sum + hash + 1) * UINT64_C(0x100000001B3);
}

static pfo_status
one_operation(pfo_shadow *cache, unsigned long long *seed)
{
    const uint64_t kind = next_number(seed, 1000);
    const uint64_t key = next_number(seed, KEYS) * next_number(seed, KEYS) / KEYS;
    const size_t bytes = (size_t)next_number(seed, 12);
    int hit;
    if (kind < 850) {
        return pfo_shadow_request(cache, key, bytes, &hit, NULL);
    }
    if (kind < 920) {
        return pfo_shadow_set(cache, key, bytes, NULL);
    }
    if (kind < 990) {
        (void)pfo_shadow_delete(cache, key);
    } else if (kind < 997) {
        return pfo_shadow_resize(cache, &(pfo_bounds){ 1 + next_number(seed, 30), 10 + next_number(seed, 90) }, NULL);
    } else {
        pfo_shadow_clear(cache);
    }
    return PFO_OK;
}

static uint64_t
run_once(const pfo_policy_ops *ops, const pfo_bounds *bounds)
{
    unsigned long long seed = 5;
    uint64_t sum = 0;
    pfo_shadow cache;
    REQUIRE(pfo_shadow_init(&cache, ops, bounds, NULL) == PFO_OK);
    cache.evicted = fold;
    cache.context = &sum;
    for (int step = 0; step < 4000; step++) {
        REQUIRE(one_operation(&cache, &seed) == PFO_OK);
        CHECK(pfo_shadow_is_consistent(&cache));
        if (step % 50 == 0) {
            const uint32_t victim = ops->victim(&cache.policy, cache.table.entries);
            CHECK((victim == PFO_SLOT_NONE) == (cache.table.count == 0));
            CHECK(ops->victim(&cache.policy, cache.table.entries) == victim);
            CHECK(pfo_shadow_is_consistent(&cache));
        }
    }
    CHECK(cache.evictions > 0);
    pfo_shadow_free(&cache);
    return sum;
}

static void
names_find_their_policies(void)
{
    int known = 0;
    for (const char *const *name = pfo_policy_names; *name != NULL; name++, known++) {
        const pfo_policy_ops *ops = pfo_policy_by_name(*name);
        REQUIRE(ops != NULL);
        CHECK(strcmp(ops->name, *name) == 0);
    }
    CHECK(known == 6);
    CHECK(pfo_policy_by_name("none of these") == NULL);
}

static void
every_policy_stays_whole_and_repeats_itself(void)
{
    static const pfo_bounds bounds[] = {
        { 20, PFO_STORE_UNBOUNDED }, { 1, PFO_STORE_UNBOUNDED }, { PFO_STORE_UNBOUNDED, 60 }, { 10, 60 }, { 5, 0 },
    };
    for (const char *const *name = pfo_policy_names; *name != NULL; name++) {
        for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++) {
            const pfo_policy_ops *ops = pfo_policy_by_name(*name);
            CHECK(run_once(ops, &bounds[i]) == run_once(ops, &bounds[i]));
        }
    }
}

/* The n-th allocation fails, for every n: the operation that meets it says so and changes nothing that counts; auto's own shadows may
 * miss a request, and a policy it wants may stay away, without a word. */
static void
a_failed_allocation_changes_nothing(void)
{
    for (const char *const *name = pfo_policy_names; *name != NULL; name++) {
        int met = 0;
        for (long n = 1; n < 60; n++) {
            const pfo_bounds bounds = { 40, PFO_STORE_UNBOUNDED };
            unsigned long long seed = 9;
            pfo_shadow cache;
            pfo_alloc_fail_at(n);
            const pfo_status made = pfo_shadow_init(&cache, pfo_policy_by_name(*name), &bounds, NULL);
            if (made != PFO_OK) {
                CHECK(made == PFO_NO_MEMORY);
                pfo_alloc_fail_at(0);
                met++;
                continue;
            }
            int failures = 0;
            for (int step = 0; step < 3000; step++) {
                const uint32_t count = cache.table.count;
                const uint64_t evictions = cache.evictions;
                int hit;
                const pfo_status status = pfo_shadow_request(
                    &cache, step < 1000 ? next_number(&seed, 200) : (uint64_t)step % 60, 1, &hit, NULL);
                if (status != PFO_OK) {
                    failures++;
                    CHECK(status == PFO_NO_MEMORY && !hit);
                    CHECK(cache.table.count == count && cache.evictions == evictions);
                }
                if (step % 10 == 0 || status != PFO_OK) {
                    CHECK(pfo_shadow_is_consistent(&cache));
                }
            }
            CHECK(failures <= 1);
            met += failures;
            pfo_alloc_fail_at(0);
            pfo_shadow_free(&cache);
        }
        CHECK(met > 1);
    }
}

/* In a pause auto gives its shadows' tables back; when it cannot have them again for the next round, the cache itself goes on as ever. */
static void
auto_goes_on_without_memory_for_its_shadows(void)
{
    enum { BEFORE_THE_PAUSE_ENDS = 25000, REQUESTS = 60000 };
    const pfo_bounds bounds = { 40, PFO_STORE_UNBOUNDED };
    for (long n = 1; n < 40; n++) {
        unsigned long long seed = 5;
        pfo_shadow cache;
        REQUIRE(pfo_shadow_init(&cache, pfo_policy_by_name("auto"), &bounds, NULL) == PFO_OK);
        for (int step = 0; step < REQUESTS; step++) {
            if (step == BEFORE_THE_PAUSE_ENDS) {
                pfo_alloc_fail_at(n);
            }
            int hit;
            REQUIRE(pfo_shadow_request(&cache, next_number(&seed, 200), 1, &hit, NULL) == PFO_OK);
            if (step % 1000 == 0) {
                CHECK(pfo_shadow_is_consistent(&cache) && cache.table.count <= 40);
            }
        }
        pfo_alloc_fail_at(0);
        pfo_shadow_free(&cache);
    }
}

static void
a_trimmed_shadow_holds_nothing_and_fills_again(void)
{
    for (const char *const *name = pfo_policy_names; *name != NULL; name++) {
        const pfo_bounds bounds = { 20, PFO_STORE_UNBOUNDED };
        pfo_shadow cache;
        REQUIRE(pfo_shadow_init(&cache, pfo_policy_by_name(*name), &bounds, NULL) == PFO_OK);
        for (int turn = 0; turn < 2; turn++) {
            for (uint64_t key = 0; key < 20; key++) {
                int hit = 7;
                REQUIRE(pfo_shadow_request(&cache, key, 1, &hit, NULL) == PFO_OK);
                CHECK(!hit);
            }
            CHECK(cache.table.count == 20 && cache.table.capacity >= 20);
            pfo_shadow_trim(&cache);
            CHECK(cache.table.count == 0 && cache.table.capacity == 0 && cache.bytes == 0);
            CHECK(pfo_shadow_is_consistent(&cache));
        }
        pfo_shadow_free(&cache);
    }
}

/* Nothing is ever evicted without bounds, so auto tries nothing out. */
static void
an_unbounded_cache_evicts_nothing(void)
{
    for (const char *const *name = pfo_policy_names; *name != NULL; name++) {
        const pfo_bounds bounds = { PFO_STORE_UNBOUNDED, PFO_STORE_UNBOUNDED };
        pfo_shadow cache;
        REQUIRE(pfo_shadow_init(&cache, pfo_policy_by_name(*name), &bounds, NULL) == PFO_OK);
        for (uint64_t key = 0; key < 5000; key++) {
            int hit = 7;
            REQUIRE(pfo_shadow_request(&cache, key % 3000, 1000, &hit, NULL) == PFO_OK);
            CHECK(hit == (key >= 3000));
        }
        CHECK(cache.evictions == 0 && cache.table.count == 3000 && pfo_shadow_is_consistent(&cache));
        pfo_shadow_free(&cache);
    }
}

int
main(void)
{
    RUN(names_find_their_policies);
    RUN(every_policy_stays_whole_and_repeats_itself);
    RUN(a_failed_allocation_changes_nothing);
    RUN(auto_goes_on_without_memory_for_its_shadows);
    RUN(a_trimmed_shadow_holds_nothing_and_fills_again);
    RUN(an_unbounded_cache_evicts_nothing);
    return FINISH();
}
