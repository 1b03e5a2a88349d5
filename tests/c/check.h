/* check.h: the whole C test harness. A test program is a list of TEST functions and a main that runs them.
 *
 * A failed CHECK prints file, line and text and counts; FINISH's exit code is 0 only when none failed and at least one ran. Threads may
 * use both.
 */
#ifndef PFO_TESTS_CHECK_H
#define PFO_TESTS_CHECK_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static atomic_int check_failures;
static atomic_long check_count;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        atomic_fetch_add_explicit(&check_count, 1, memory_order_relaxed);                                              \
        if (!(condition)) {                                                                                            \
            atomic_fetch_add_explicit(&check_failures, 1, memory_order_relaxed);                                       \
            (void)fprintf(stderr, "%s:%d: CHECK(%s)\n", __FILE__, __LINE__, #condition);                               \
        }                                                                                                              \
    } while (0)

/* Like CHECK, but gives up the program: for conditions without which the rest would crash. */
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        atomic_fetch_add_explicit(&check_count, 1, memory_order_relaxed);                                              \
        if (!(condition)) {                                                                                            \
            (void)fprintf(stderr, "%s:%d: REQUIRE(%s)\n", __FILE__, __LINE__, #condition);                             \
            exit(2);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        const int failures_before = check_failures;                                                                    \
        test();                                                                                                        \
        (void)printf("  %s %s\n", check_failures == failures_before ? "ok  " : "FAIL", #test);                         \
    } while (0)

#define FINISH()                                                                                                       \
    ((void)printf("%s: %ld checks, %d failed\n", __FILE__, check_count, check_failures),                               \
     check_failures == 0 && check_count > 0 ? 0 : 1)

/* A small deterministic generator for random operation strings (xorshift64*). */
static inline unsigned long long
check_random(unsigned long long *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ULL;
}

#endif
