/* policy_fifo.c: first in, first out: entries leave in the order they came, whatever was used.
 *
 * Memory: one small block. Complexity: O(1) each.
 */
#include "base/alloc.h"
#include "cache/policy_queue.h"

static void
fifo_clear(pfo_policy *policy)
{
    pfo_queue_clear(policy->state);
}

static pfo_status
fifo_init(pfo_policy *policy, const pfo_bounds *bounds, pfo_error *err)
{
    (void)bounds;
    policy->head = policy->tail = policy->fresh = PFO_SLOT_NONE;
    policy->state = pfo_alloc(sizeof(pfo_queue));
    if (policy->state == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a fifo policy");
    }
    fifo_clear(policy);
    return PFO_OK;
}

static void
fifo_drop(pfo_policy *policy)
{
    pfo_free(policy->state);
    policy->state = NULL;
}

static void
fifo_admit(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    pfo_queue_push(policy->state, entries, slot);
}

static void
fifo_touch(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    (void)entries;
    policy->fresh = slot; /* a touch changes nothing, this one's repetition neither */
}

static uint32_t
fifo_victim(pfo_policy *policy, pfo_entry *entries)
{
    (void)entries;
    return ((const pfo_queue *)policy->state)->tail;
}

static void
fifo_remove(pfo_policy *policy, pfo_entry *entries, uint32_t slot, int evicted)
{
    (void)evicted;
    pfo_queue_take(policy->state, entries, slot);
}

static size_t
fifo_memory(const pfo_policy *policy)
{
    (void)policy;
    return sizeof(pfo_queue);
}

static int
fifo_is_consistent(const pfo_policy *policy, const pfo_entry *entries, uint32_t count)
{
    const pfo_queue *queue = policy->state;
    return queue->count == count && pfo_queue_is_consistent(queue, entries, 0, 0);
}

const pfo_policy_ops pfo_policy_fifo = {
    .name = "fifo",
    .init = fifo_init,
    .drop = fifo_drop,
    .resize = pfo_policy_resize_nothing,
    .reserve = pfo_policy_reserve_nothing,
    .clear = fifo_clear,
    .admit = fifo_admit,
    .touch = fifo_touch,
    .victim = fifo_victim,
    .remove = fifo_remove,
    .memory = fifo_memory,
    .is_consistent = fifo_is_consistent,
};
