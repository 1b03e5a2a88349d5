/* policy_sieve.c: SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is Simpler than LRU", NSDI 2024).
 *
 * A hit marks the entry as visited and moves nothing. A hand walks from the oldest entry to the youngest, takes the marks away, and
 * stops at the first entry without one: the victim. Past the youngest it begins at the oldest again. New entries come in at the young end
 * without a mark.
 * Invariants: policy_bits is VISITED or 0; the hand is an entry of the queue, or PFO_SLOT_NONE: then the next walk begins at the tail.
 * `fresh` is an entry that carries the mark.
 * Memory: one small block. Complexity: O(1), amortised for victim().
 */
#include "base/alloc.h"
#include "cache/policy_queue.h"

enum { VISITED = 1 };

typedef struct sieve {
    pfo_queue queue;
    uint32_t hand;
} sieve;

static void
sieve_clear(pfo_policy *policy)
{
    sieve *self = policy->state;
    pfo_queue_clear(&self->queue);
    self->hand = PFO_SLOT_NONE;
    policy->fresh = PFO_SLOT_NONE;
}

static pfo_status
sieve_init(pfo_policy *policy, const pfo_bounds *bounds, pfo_error *err)
{
    (void)bounds;
    policy->head = policy->tail = PFO_SLOT_NONE;
    policy->state = pfo_alloc(sizeof(sieve));
    if (policy->state == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a sieve policy");
    }
    sieve_clear(policy);
    return PFO_OK;
}

static void
sieve_drop(pfo_policy *policy)
{
    pfo_free(policy->state);
    policy->state = NULL;
}

static void
sieve_admit(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    entries[slot].policy_bits = 0;
    pfo_queue_push(&((sieve *)policy->state)->queue, entries, slot);
}

static void
sieve_touch(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    entries[slot].policy_bits = VISITED;
    policy->fresh = slot;
}

static uint32_t
sieve_victim(pfo_policy *policy, pfo_entry *entries)
{
    sieve *self = policy->state;
    uint32_t slot = self->hand != PFO_SLOT_NONE ? self->hand : self->queue.tail;
    while (slot != PFO_SLOT_NONE && entries[slot].policy_bits == VISITED) {
        entries[slot].policy_bits = 0;
        policy->fresh = PFO_SLOT_NONE;
        slot = entries[slot].previous != PFO_SLOT_NONE ? entries[slot].previous : self->queue.tail;
    }
    self->hand = slot;
    return slot;
}

static void
sieve_remove(pfo_policy *policy, pfo_entry *entries, uint32_t slot, int evicted)
{
    (void)evicted;
    sieve *self = policy->state;
    if (self->hand == slot) {
        self->hand = entries[slot].previous;
    }
    if (policy->fresh == slot) {
        policy->fresh = PFO_SLOT_NONE;
    }
    pfo_queue_take(&self->queue, entries, slot);
}

static size_t
sieve_memory(const pfo_policy *policy)
{
    (void)policy;
    return sizeof(sieve);
}

static int
sieve_is_consistent(const pfo_policy *policy, const pfo_entry *entries, uint32_t count)
{
    const sieve *self = policy->state;
    int hand_found = self->hand == PFO_SLOT_NONE;
    for (uint32_t slot = self->queue.head; slot != PFO_SLOT_NONE && !hand_found; slot = entries[slot].next) {
        hand_found = slot == self->hand;
    }
    return hand_found && self->queue.count == count && pfo_queue_is_consistent(&self->queue, entries, ~1U, 0) &&
           (policy->fresh == PFO_SLOT_NONE ||
            (entries[policy->fresh].live && entries[policy->fresh].policy_bits == VISITED));
}

const pfo_policy_ops pfo_policy_sieve = {
    .name = "sieve",
    .init = sieve_init,
    .drop = sieve_drop,
    .resize = pfo_policy_resize_nothing,
    .reserve = pfo_policy_reserve_nothing,
    .clear = sieve_clear,
    .admit = sieve_admit,
    .touch = sieve_touch,
    .victim = sieve_victim,
    .remove = sieve_remove,
    .memory = sieve_memory,
    .is_consistent = sieve_is_consistent,
};
