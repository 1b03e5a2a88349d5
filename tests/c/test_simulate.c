/* test_simulate.c: traces as text, cut into chunks of every length; counts by hand; bad lines by number; failing allocations. */
#include "cache/simulate.h"

#include "base/alloc.h"
#include "check.h"

#include <string.h>

static const char trace[] = "a\nb,5\r\n\n  a  \nc , 7\na\nwith,comma,2\nb";

static pfo_status
replay(pfo_simulation *simulation, const char *text, size_t length, size_t step, pfo_error *err)
{
    for (size_t at = 0; at < length; at += step) {
        PFO_TRY(pfo_simulation_feed(simulation, text + at, length - at < step ? length - at : step, err));
    }
    return pfo_simulation_finish(simulation, err);
}

static pfo_status
set_up(pfo_simulation *simulation)
{
    PFO_TRY(pfo_simulation_init(simulation, 2, NULL));
    pfo_status status = pfo_simulation_add(simulation, &pfo_policy_lru, &(pfo_bounds){ 2, PFO_STORE_UNBOUNDED }, NULL);
    if (status == PFO_OK) {
        status = pfo_simulation_add(simulation, &pfo_policy_fifo, &(pfo_bounds){ PFO_STORE_UNBOUNDED, 8 }, NULL);
    }
    if (status != PFO_OK) {
        pfo_simulation_free(simulation);
    }
    return status;
}

/* lru of 2: a b A c(-b) A w(-c) b(-a); fifo of 8 bytes: a b A c(-a -b) a w(-c) b. */
static void
counts_do_not_depend_on_the_chunks(void)
{
    for (size_t step = 1; step <= sizeof trace; step++) {
        pfo_simulation simulation;
        REQUIRE(set_up(&simulation) == PFO_OK);
        REQUIRE(replay(&simulation, trace, sizeof trace - 1, step, NULL) == PFO_OK);
        const pfo_simulated *lru = &simulation.caches[0];
        const pfo_simulated *fifo = &simulation.caches[1];
        CHECK(simulation.requests == 7 && simulation.bytes_requested == 1 + 5 + 1 + 7 + 1 + 2 + 1);
        CHECK(lru->hits == 2 && lru->misses == 5 && lru->bytes_missed == 16 && lru->cache.evictions == 3);
        CHECK(fifo->hits == 1 && fifo->misses == 6 && fifo->bytes_missed == 17 && fifo->cache.evictions == 3);
        pfo_simulation_free(&simulation);
    }
}

static void
expect_refusal(const char *text, size_t length, const char *reason)
{
    pfo_simulation simulation;
    pfo_error err = PFO_ERROR_INIT;
    REQUIRE(set_up(&simulation) == PFO_OK);
    CHECK(replay(&simulation, text, length, length, &err) == PFO_BAD_ARGUMENT);
    CHECK(strstr(err.text, reason) != NULL);
    pfo_simulation_free(&simulation);
}

static void
bad_lines_are_named(void)
{
    expect_refusal("a\n\nb,x", 6, "line 3: size x ");
    expect_refusal("a,\n", 3, "line 1: size ");
    expect_refusal("a,-1", 4, "line 1: size -1 ");
    expect_refusal("a,\xff\x01x", 5, "line 1: size ??x ");
    expect_refusal("a\n,5\n", 5, "line 2: no key");
    expect_refusal("a,9223372036854775808", 21, "line 1: size 9223372036854775808 ");
    char *line = calloc(1, PFO_TRACE_LINE + 2);
    REQUIRE(line != NULL);
    memset(line, 'x', PFO_TRACE_LINE + 1);
    expect_refusal(line, PFO_TRACE_LINE + 1, "line 1 is longer");
    free(line);
}

static void
a_failed_allocation_is_told(void)
{
    int failures = 0;
    for (long n = 1; n < 20; n++) {
        pfo_simulation simulation;
        pfo_error err = PFO_ERROR_INIT;
        pfo_alloc_fail_at(n);
        pfo_status status = set_up(&simulation);
        if (status == PFO_OK) {
            status = replay(&simulation, trace, sizeof trace - 1, 3, &err);
            pfo_simulation_free(&simulation);
        }
        pfo_alloc_fail_at(0);
        CHECK(status == PFO_OK || status == PFO_NO_MEMORY);
        failures += status != PFO_OK;
    }
    CHECK(failures >= 5 && failures < 19);
}

int
main(void)
{
    RUN(counts_do_not_depend_on_the_chunks);
    RUN(bad_lines_are_named);
    RUN(a_failed_allocation_is_told);
    return FINISH();
}
