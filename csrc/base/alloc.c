/* alloc.c: checked wrappers over the C allocator. See alloc.h for the contract. */
#include "base/alloc.h"

#include <stdint.h>
#include <stdlib.h>

#ifdef PFO_TESTING
#include <stdatomic.h>

static atomic_long fail_countdown; /* 0 = off; reaches 1 = this one fails */

void
pfo_alloc_fail_at(long n)
{
    atomic_store(&fail_countdown, n);
}

static int
injected_failure(void)
{
    long seen = atomic_load(&fail_countdown);
    while (seen > 0 && !atomic_compare_exchange_weak(&fail_countdown, &seen, seen - 1)) {
    }
    return seen == 1;
}
#else
static int
injected_failure(void)
{
    return 0;
}
#endif

void *
pfo_alloc(size_t bytes)
{
    return injected_failure() ? NULL : malloc(bytes == 0 ? 1 : bytes);
}

void *
pfo_alloc_array(size_t count, size_t item_bytes)
{
    if (injected_failure()) {
        return NULL;
    }
    return count == 0 || item_bytes == 0 ? calloc(1, 1) : calloc(count, item_bytes); /* calloc checks the product */
}

void *
pfo_realloc_array(void *block, size_t count, size_t item_bytes)
{
    if (injected_failure() || (item_bytes != 0 && count > SIZE_MAX / item_bytes)) {
        return NULL;
    }
    const size_t bytes = count * item_bytes;
    return realloc(block, bytes == 0 ? 1 : bytes);
}

void
pfo_free(void *block)
{
    free(block);
}

void *
pfo_alloc_aligned(size_t alignment, size_t bytes)
{
    void *block = NULL;
    if (injected_failure() || posix_memalign(&block, alignment, bytes == 0 ? alignment : bytes) != 0) {
        return NULL;
    }
    return block;
}

void
pfo_free_aligned(void *block)
{
    free(block);
}
