/* test_policy_sketch.c: the frequency sketch: never below the true count, saturation, halving, and growth that changes no estimate. */
#include "cache/policy_sketch.h"

#include "base/alloc.h"
#include "check.h"

enum { HASHES = 40 };

static void
estimates_are_upper_bounds_and_age(void)
{
    uint32_t counts[HASHES] = { 0 };
    pfo_sketch sketch;
    pfo_sketch_init(&sketch);
    REQUIRE(pfo_sketch_reserve(&sketch, 1000, NULL) == PFO_OK);
    CHECK(sketch.width == 1024);
    int exact = 0;
    for (uint64_t step = 0; step < 400; step++) {
        const uint64_t hash = step * step % HASHES;
        pfo_sketch_add(&sketch, hash, UINT64_MAX);
        counts[hash] += counts[hash] < PFO_SKETCH_MAX;
    }
    for (uint64_t hash = 0; hash < HASHES; hash++) {
        CHECK(pfo_sketch_estimate(&sketch, hash) >= counts[hash]);
        exact += pfo_sketch_estimate(&sketch, hash) == counts[hash];
    }
    CHECK(exact > HASHES - 3); /* 1024 columns for 40 hashes */
    CHECK(pfo_sketch_estimate(&sketch, 0) == PFO_SKETCH_MAX);
    pfo_sketch_add(&sketch, 0, 401);
    CHECK(sketch.additions == 200);
    CHECK(pfo_sketch_estimate(&sketch, 0) == PFO_SKETCH_MAX / 2);
    pfo_sketch_clear(&sketch);
    CHECK(sketch.additions == 0 && pfo_sketch_estimate(&sketch, 0) == 0);
    pfo_sketch_free(&sketch);
}

static void
growing_changes_no_estimate(void)
{
    pfo_sketch sketch;
    pfo_sketch_init(&sketch);
    REQUIRE(pfo_sketch_reserve(&sketch, 1, NULL) == PFO_OK);
    CHECK(sketch.width == PFO_SKETCH_FIRST_WIDTH);
    for (uint64_t step = 0; step < 300; step++) {
        pfo_sketch_add(&sketch, step % 50, UINT64_MAX);
    }
    uint32_t before[50];
    for (uint64_t hash = 0; hash < 50; hash++) {
        before[hash] = pfo_sketch_estimate(&sketch, hash);
    }
    pfo_alloc_fail_at(1);
    CHECK(pfo_sketch_reserve(&sketch, 5000, NULL) == PFO_NO_MEMORY);
    pfo_alloc_fail_at(0);
    CHECK(sketch.width == PFO_SKETCH_FIRST_WIDTH);
    REQUIRE(pfo_sketch_reserve(&sketch, 5000, NULL) == PFO_OK);
    CHECK(sketch.width == 8192);
    for (uint64_t hash = 0; hash < 50; hash++) {
        CHECK(pfo_sketch_estimate(&sketch, hash) == before[hash]);
    }
    pfo_sketch_free(&sketch);
}

int
main(void)
{
    RUN(estimates_are_upper_bounds_and_age);
    RUN(growing_changes_no_estimate);
    return FINISH();
}
