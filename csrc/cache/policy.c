/* policy.c: the policies by name, and what several of them share. Constant tables, no state. */
#include "cache/policy.h"

#include <string.h>

static const pfo_policy_ops *const policies[] = {
    &pfo_policy_lru, &pfo_policy_fifo, &pfo_policy_sieve, &pfo_policy_s3fifo, &pfo_policy_wtinylfu, &pfo_policy_auto,
};

const char *const pfo_policy_names[] = { "lru", "fifo", "sieve", "s3fifo", "wtinylfu", "auto", NULL };

const pfo_policy_ops *
pfo_policy_by_name(const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        if (strcmp(policies[i]->name, name) == 0) {
            return policies[i];
        }
    }
    return NULL;
}

pfo_status
pfo_policy_resize_nothing(pfo_policy *policy, pfo_entry *entries, const pfo_bounds *bounds, pfo_error *err)
{
    (void)policy;
    (void)entries;
    (void)bounds;
    (void)err;
    return PFO_OK;
}

pfo_status
pfo_policy_reserve_nothing(pfo_policy *policy, uint32_t count, pfo_error *err)
{
    (void)policy;
    (void)count;
    (void)err;
    return PFO_OK;
}

size_t
pfo_policy_memory_nothing(const pfo_policy *policy)
{
    (void)policy;
    return 0;
}
