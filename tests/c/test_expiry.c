/* test_expiry.c: the timer wheel against a plain list of deadlines, over short and long times. */
#include "cache/expiry.h"

#include "base/alloc.h"
#include "cache/table.h"
#include "check.h"

enum { SLOTS = 300 };

static uint64_t deadlines[SLOTS]; /* 0: not in the wheel */

/* Takes everything that is due out of both and checks that it is the same. */
static void
take_due(pfo_expiry *expiry, uint64_t now)
{
    for (uint32_t slot; (slot = pfo_expiry_due(expiry, now)) != PFO_SLOT_NONE;) {
        REQUIRE(slot < SLOTS && deadlines[slot] != 0);
        CHECK(deadlines[slot] <= now);
        CHECK(pfo_expiry_due(expiry, now) == slot); /* named until it is removed */
        pfo_expiry_remove(expiry, slot);
        deadlines[slot] = 0;
    }
    uint32_t count = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        CHECK(deadlines[slot] == 0 || deadlines[slot] > now);
        count += deadlines[slot] != 0;
    }
    CHECK(count == expiry->count && pfo_expiry_is_consistent(expiry));
}

static void
run_model(uint64_t start, uint64_t longest, unsigned long long seed)
{
    pfo_expiry expiry;
    pfo_expiry_init(&expiry);
    REQUIRE(pfo_expiry_reserve(&expiry, SLOTS, NULL) == PFO_OK);
    uint64_t now = start;
    for (int slot = 0; slot < SLOTS; slot++) {
        deadlines[slot] = 0;
    }
    for (int step = 0; step < 3000; step++) {
        const uint32_t slot = (uint32_t)(check_random(&seed) % SLOTS);
        if (deadlines[slot] != 0) {
            pfo_expiry_remove(&expiry, slot);
            deadlines[slot] = 0;
        } else {
            const uint64_t shift = check_random(&seed) % 64;
            const uint64_t away = (check_random(&seed) % longest) >> shift;
            deadlines[slot] = away > UINT64_MAX - now ? UINT64_MAX : now + away + 1;
            pfo_expiry_add(&expiry, slot, deadlines[slot], now);
        }
        if (step % 5 == 0) {
            now += (check_random(&seed) % longest) >> (check_random(&seed) % 64);
            take_due(&expiry, now);
        }
        if (step % 100 == 0) {
            take_due(&expiry, now > 5000 ? now - 5000 : 0); /* a clock that went back finds nothing wrong */
        }
    }
    take_due(&expiry, UINT64_MAX - 1);
    pfo_expiry_free(&expiry);
}

static void
agrees_with_a_list(void)
{
    run_model(0, 1000, 1);
    run_model(123456789, 100000, 2);
    run_model(1, UINT64_C(1) << 30, 3);
    run_model(UINT64_C(1) << 41, UINT64_C(1) << 45, 4);
    run_model(UINT64_C(1) << 50, UINT64_C(1) << 54, 5);
    run_model(12345, UINT64_C(1) << 52, 6);
}

static void
nothing_is_due_before_its_time(void)
{
    pfo_expiry expiry;
    pfo_expiry_init(&expiry);
    CHECK(pfo_expiry_due(&expiry, UINT64_MAX) == PFO_SLOT_NONE && pfo_expiry_memory(&expiry) == 0);
    REQUIRE(pfo_expiry_reserve(&expiry, 70, NULL) == PFO_OK);
    for (uint32_t slot = 0; slot < 64; slot++) { /* each digit of the wheel and both sides of it */
        pfo_expiry_add(&expiry, slot, UINT64_C(1) << slot, 0);
    }
    for (uint32_t slot = 0; slot < 64; slot++) {
        const uint64_t deadline = UINT64_C(1) << slot;
        CHECK(pfo_expiry_due(&expiry, deadline - 1) == PFO_SLOT_NONE);
        CHECK(pfo_expiry_due(&expiry, deadline) == slot);
        pfo_expiry_remove(&expiry, slot);
        CHECK(pfo_expiry_is_consistent(&expiry));
    }
    pfo_expiry_add(&expiry, 3, 77, UINT64_MAX); /* past already when it comes */
    CHECK(pfo_expiry_due(&expiry, UINT64_MAX) == 3);
    pfo_expiry_free(&expiry);
    CHECK(expiry.count == 0 && pfo_expiry_memory(&expiry) == 0);
}

static void
a_failed_reserve_changes_nothing(void)
{
    for (long n = 1; n <= 2; n++) {
        pfo_expiry expiry;
        pfo_expiry_init(&expiry);
        pfo_error err = PFO_ERROR_INIT;
        pfo_alloc_fail_at(n);
        CHECK(pfo_expiry_reserve(&expiry, 10, &err) == PFO_NO_MEMORY && err.text[0] != '\0');
        pfo_alloc_fail_at(0);
        CHECK(expiry.capacity == 0 && pfo_expiry_is_consistent(&expiry));
        REQUIRE(pfo_expiry_reserve(&expiry, 10, NULL) == PFO_OK);
        pfo_expiry_add(&expiry, 9, 5, 0);
        pfo_alloc_fail_at(1);
        CHECK(pfo_expiry_reserve(&expiry, 20, NULL) == PFO_NO_MEMORY);
        pfo_alloc_fail_at(0);
        CHECK(pfo_expiry_due(&expiry, 5) == 9);
        pfo_expiry_free(&expiry);
    }
}

int
main(void)
{
    RUN(agrees_with_a_list);
    RUN(nothing_is_due_before_its_time);
    RUN(a_failed_reserve_changes_nothing);
    return FINISH();
}
