/* test_alloc.c: zeroing, overflow, alignment, and the failure injection that other tests build on. */
#include "base/alloc.h"

#include "check.h"

#include <stdint.h>
#include <string.h>

static void
arrays_are_zeroed_and_sizes_checked(void)
{
    unsigned char *array = pfo_alloc_array(1000, 3);
    REQUIRE(array != NULL);
    int sum = 0;
    for (int i = 0; i < 3000; i++) {
        sum += array[i];
    }
    CHECK(sum == 0);
    pfo_free(array);
    CHECK(pfo_alloc_array(SIZE_MAX / 2, 4) == NULL);
    CHECK(pfo_realloc_array(NULL, SIZE_MAX / 2, 4) == NULL);
}

static void
growing_keeps_the_content(void)
{
    char *text = pfo_realloc_array(NULL, 4, 1);
    REQUIRE(text != NULL);
    memcpy(text, "abc", 4);
    text = pfo_realloc_array(text, 100000, 1);
    REQUIRE(text != NULL);
    CHECK(strcmp(text, "abc") == 0);
    pfo_free(text);
}

static void
zero_bytes_are_a_block(void)
{
    void *a = pfo_alloc(0);
    void *b = pfo_alloc_array(0, 8);
    void *c = pfo_realloc_array(NULL, 0, 8);
    CHECK(a != NULL && b != NULL && c != NULL);
    pfo_free(a);
    pfo_free(b);
    pfo_free(c);
    pfo_free(NULL);
    pfo_free_aligned(NULL);
}

static void
alignment_holds(void)
{
    for (size_t alignment = sizeof(void *); alignment <= 4096; alignment *= 2) {
        void *block = pfo_alloc_aligned(alignment, 10);
        REQUIRE(block != NULL);
        CHECK((uintptr_t)block % alignment == 0);
        pfo_free_aligned(block);
    }
}

static void
the_nth_allocation_fails_once(void)
{
    pfo_alloc_fail_at(2);
    void *first = pfo_alloc(1);
    void *second = pfo_alloc(1);
    void *third = pfo_alloc(1);
    CHECK(first != NULL && second == NULL && third != NULL);
    pfo_free(first);
    pfo_free(third);
    pfo_alloc_fail_at(1);
    CHECK(pfo_alloc_aligned(64, 1) == NULL);
    pfo_alloc_fail_at(0);
}

int
main(void)
{
    RUN(arrays_are_zeroed_and_sizes_checked);
    RUN(growing_keeps_the_content);
    RUN(zero_bytes_are_a_block);
    RUN(alignment_holds);
    RUN(the_nth_allocation_fails_once);
    return FINISH();
}
