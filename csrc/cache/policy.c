/* policy.c: the policies by name. Constant tables, no state. */
#include "cache/policy.h"

#include <string.h>

static const pfo_policy_ops *const policies[] = { &pfo_policy_lru };

const char *const pfo_policy_names[] = { "lru", NULL };

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
