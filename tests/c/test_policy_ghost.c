/* test_policy_ghost.c: the ghosts against a plain array, oldest first, with hashes that share their home bucket. */
#include "cache/policy_ghost.h"

#include "base/alloc.h"
#include "check.h"

#include <string.h>

enum { LIMIT = 100, HASHES = 300 };

static uint64_t list[LIMIT];
static uint32_t listed;

static int
list_remove(uint64_t hash)
{
    for (uint32_t i = 0; i < listed; i++) {
        if (list[i] == hash) {
            memmove(&list[i], &list[i + 1], (size_t)(listed - i - 1) * sizeof list[0]);
            listed--;
            return 1;
        }
    }
    return 0;
}

static void
agrees_with_an_array(void)
{
    unsigned long long seed = 3;
    pfo_ghost ghost;
    pfo_ghost_init(&ghost);
    CHECK(!pfo_ghost_remove(&ghost, 0));
    for (int step = 0; step < 20000; step++) {
        const uint64_t hash = check_random(&seed) % HASHES << (step % 2 == 0 ? 0 : 60);
        REQUIRE(pfo_ghost_reserve(&ghost, listed + 1, 0, NULL) == PFO_OK);
        const unsigned long long kind = check_random(&seed) % 1000;
        if (kind < 600) {
            (void)list_remove(hash);
            if (listed == LIMIT) {
                pfo_ghost_drop_oldest(&ghost);
                CHECK(list_remove(list[0]));
            }
            list[listed++] = hash;
            pfo_ghost_add(&ghost, hash);
        } else if (kind < 999) {
            CHECK(pfo_ghost_remove(&ghost, hash) == list_remove(hash));
        } else {
            pfo_ghost_free(&ghost);
            listed = 0;
        }
        CHECK(ghost.count == listed && pfo_ghost_is_consistent(&ghost));
    }
    while (listed > 0) {
        CHECK(ghost.nodes[ghost.tail].hash == list[0]);
        pfo_ghost_drop_oldest(&ghost);
        CHECK(list_remove(list[0]) && pfo_ghost_is_consistent(&ghost));
    }
    pfo_ghost_free(&ghost);
}

static void
a_failed_reservation_changes_nothing(void)
{
    for (long n = 1; n <= 2; n++) {
        pfo_ghost ghost;
        pfo_ghost_init(&ghost);
        REQUIRE(pfo_ghost_reserve(&ghost, 16, 0, NULL) == PFO_OK);
        for (uint64_t hash = 0; hash < 16; hash++) {
            pfo_ghost_add(&ghost, hash);
        }
        pfo_alloc_fail_at(n);
        CHECK(pfo_ghost_reserve(&ghost, 17, 0, NULL) == PFO_NO_MEMORY);
        pfo_alloc_fail_at(0);
        CHECK(ghost.capacity == 16 && ghost.count == 16 && pfo_ghost_is_consistent(&ghost));
        CHECK(pfo_ghost_reserve(&ghost, 17, 0, NULL) == PFO_OK && pfo_ghost_is_consistent(&ghost));
        pfo_ghost_free(&ghost);
    }
}

static void
grows_to_what_is_enough(void)
{
    pfo_ghost ghost;
    pfo_ghost_init(&ghost);
    CHECK(pfo_ghost_memory(&ghost) == 0);
    for (uint32_t i = 1; i <= 400; i++) {
        REQUIRE(pfo_ghost_reserve(&ghost, i, 200, NULL) == PFO_OK);
        pfo_ghost_add(&ghost, i);
        CHECK(i <= 200 ? ghost.capacity <= 200 : ghost.capacity > 200);
        CHECK(ghost.capacity >= i && ghost.capacity <= i + i / 4 + 16);
        CHECK(pfo_ghost_is_consistent(&ghost));
    }
    CHECK(pfo_ghost_memory(&ghost) >= 400 * sizeof(pfo_ghost_node));
    pfo_ghost_free(&ghost);
    CHECK(pfo_ghost_memory(&ghost) == 0);
    REQUIRE(pfo_ghost_reserve(&ghost, 300, 300, NULL) == PFO_OK);
    CHECK(ghost.capacity == 300);
    pfo_ghost_free(&ghost);
}

int
main(void)
{
    RUN(agrees_with_an_array);
    RUN(a_failed_reservation_changes_nothing);
    RUN(grows_to_what_is_enough);
    return FINISH();
}
