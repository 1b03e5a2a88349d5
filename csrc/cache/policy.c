/* policy.c: the policies by name. Constant tables, no state. */
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
