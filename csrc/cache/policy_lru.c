/* policy_lru.c: least recently used: a doubly linked list through the entries, youngest first.
 *
 * Invariants: fresh == head; walking `next` from head visits every live entry once and ends at tail; `previous` is its mirror image.
 * It keeps its list in the pfo_policy itself and not in a pfo_queue: that would be one more allocation and one more pointer to follow on the
 * path of a hit, and would count entries and bytes of which this policy needs neither.
 * Complexity: O(1) each.
 */
#include "cache/policy.h"

static void
lru_clear(pfo_policy *policy)
{
    policy->head = PFO_SLOT_NONE;
    policy->tail = PFO_SLOT_NONE;
    policy->fresh = PFO_SLOT_NONE;
}

static pfo_status
lru_init(pfo_policy *policy, const pfo_bounds *bounds, pfo_error *err)
{
    (void)bounds;
    (void)err;
    policy->state = NULL;
    lru_clear(policy);
    return PFO_OK;
}

static void
lru_drop(pfo_policy *policy)
{
    lru_clear(policy);
}

static void
lru_admit(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    entries[slot].previous = PFO_SLOT_NONE;
    entries[slot].next = policy->head;
    if (policy->head == PFO_SLOT_NONE) {
        policy->tail = slot;
    } else {
        entries[policy->head].previous = slot;
    }
    policy->head = slot;
    policy->fresh = slot;
}

static void
unlink_slot(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    const uint32_t previous = entries[slot].previous;
    const uint32_t next = entries[slot].next;
    if (previous == PFO_SLOT_NONE) {
        policy->head = next;
        policy->fresh = next;
    } else {
        entries[previous].next = next;
    }
    if (next == PFO_SLOT_NONE) {
        policy->tail = previous;
    } else {
        entries[next].previous = previous;
    }
}

static void
lru_remove(pfo_policy *policy, pfo_entry *entries, uint32_t slot, int evicted)
{
    (void)evicted;
    unlink_slot(policy, entries, slot);
}

static void
lru_touch(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    if (policy->head != slot) {
        unlink_slot(policy, entries, slot);
        lru_admit(policy, entries, slot);
    }
}

static uint32_t
lru_victim(pfo_policy *policy, pfo_entry *entries)
{
    (void)entries;
    return policy->tail;
}

static int
lru_is_consistent(const pfo_policy *policy, const pfo_entry *entries, uint32_t count)
{
    uint32_t listed = 0;
    uint32_t last = PFO_SLOT_NONE;
    for (uint32_t slot = policy->head; slot != PFO_SLOT_NONE; slot = entries[slot].next) {
        if (!entries[slot].live || entries[slot].previous != last || ++listed > count) {
            return 0;
        }
        last = slot;
    }
    return listed == count && last == policy->tail;
}

const pfo_policy_ops pfo_policy_lru = {
    .name = "lru",
    .init = lru_init,
    .drop = lru_drop,
    .resize = pfo_policy_resize_nothing,
    .reserve = pfo_policy_reserve_nothing,
    .clear = lru_clear,
    .admit = lru_admit,
    .touch = lru_touch,
    .victim = lru_victim,
    .remove = lru_remove,
    .memory = pfo_policy_memory_nothing,
    .is_consistent = lru_is_consistent,
};
