/* policy_s3fifo.c: S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO Queues are All You Need for Cache Eviction", SOSP 2023).
 *
 * Two FIFO queues: `small` with a tenth of the bounds, `main` with the rest; and the ghosts, the hashes of what was evicted out of small.
 * A new entry goes to small, or to main when its hash is a ghost. A hit adds 1 to the entry's count, up to 3, and moves nothing.
 * While small fills its share, or main is empty, small's oldest entry is looked at: used more than once it moves to main, its count back
 * at 0, otherwise it is the victim and becomes a ghost. Else main's oldest entry is looked at: with a count above 0 it goes round again with
 * one less, otherwise it is the victim.
 * There are at most as many ghosts as live entries (the paper: as many as main holds), so that a byte bound needs no guess at a number.
 * Invariants: policy_bits is the count, plus IN_MAIN. `fresh` has the highest count, or is PFO_SLOT_NONE.
 * Memory: 22 to 28 bytes a ghost, once something may be evicted. Complexity: O(1), amortised for victim().
 */
#include "base/alloc.h"
#include "cache/policy_ghost.h"
#include "cache/policy_queue.h"

enum { COUNT = 3, IN_MAIN = 4, PROMOTED_FROM = 2, SMALL_PARTS = 1, SMALL_OF = 10 };

typedef struct s3fifo {
    pfo_queue small;
    pfo_queue main;
    pfo_bounds bounds;
    pfo_share small_share;
    pfo_ghost ghost;
} s3fifo;

static void
s3fifo_clear(pfo_policy *policy)
{
    s3fifo *self = policy->state;
    pfo_queue_clear(&self->small);
    pfo_queue_clear(&self->main);
    pfo_ghost_free(&self->ghost);
    policy->fresh = PFO_SLOT_NONE;
}

static pfo_status
s3fifo_init(pfo_policy *policy, const pfo_bounds *bounds, pfo_error *err)
{
    policy->head = policy->tail = PFO_SLOT_NONE;
    s3fifo *self = pfo_alloc(sizeof *self);
    if (self == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for an s3fifo policy");
    }
    policy->state = self;
    pfo_ghost_init(&self->ghost);
    self->bounds = *bounds;
    self->small_share = pfo_share_of(bounds, SMALL_PARTS, SMALL_OF);
    s3fifo_clear(policy);
    return PFO_OK;
}

static void
s3fifo_drop(pfo_policy *policy)
{
    s3fifo *self = policy->state;
    pfo_ghost_free(&self->ghost);
    pfo_free(self);
    policy->state = NULL;
}

/* Memory for what evictions out of `count` entries leave behind. */
static pfo_status
reserve_ghosts(s3fifo *self, const pfo_bounds *bounds, uint32_t count, pfo_error *err)
{
    return pfo_may_evict(bounds, count) ? pfo_ghost_reserve(&self->ghost, count, bounds->max_entries, err) : PFO_OK;
}

static pfo_status
s3fifo_resize(pfo_policy *policy, pfo_entry *entries, const pfo_bounds *bounds, pfo_error *err)
{
    (void)entries;
    s3fifo *self = policy->state;
    PFO_TRY(reserve_ghosts(self, bounds, self->small.count + self->main.count, err));
    self->bounds = *bounds;
    self->small_share = pfo_share_of(bounds, SMALL_PARTS, SMALL_OF);
    return PFO_OK;
}

static pfo_status
s3fifo_reserve(pfo_policy *policy, uint32_t count, pfo_error *err)
{
    s3fifo *self = policy->state;
    return reserve_ghosts(self, &self->bounds, count, err);
}

static void
s3fifo_admit(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    s3fifo *self = policy->state;
    const int returns = pfo_ghost_remove(&self->ghost, entries[slot].hash);
    entries[slot].policy_bits = returns ? IN_MAIN : 0;
    pfo_queue_push(returns ? &self->main : &self->small, entries, slot);
}

static void
s3fifo_touch(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    if ((entries[slot].policy_bits & COUNT) < COUNT) {
        entries[slot].policy_bits++;
    }
    if ((entries[slot].policy_bits & COUNT) == COUNT) {
        policy->fresh = slot;
    }
}

static uint32_t
s3fifo_victim(pfo_policy *policy, pfo_entry *entries)
{
    s3fifo *self = policy->state;
    for (;;) {
        const int from_small =
            self->main.count == 0 || (self->small.count > 0 && pfo_queue_fills(&self->small, &self->small_share));
        const uint32_t slot = from_small ? self->small.tail : self->main.tail;
        if (slot == PFO_SLOT_NONE) {
            return slot;
        }
        const uint32_t count = entries[slot].policy_bits & COUNT;
        if (from_small ? count < PROMOTED_FROM : count == 0) {
            return slot;
        }
        entries[slot].policy_bits = from_small ? IN_MAIN : IN_MAIN | (count - 1);
        pfo_queue_move(from_small ? &self->small : &self->main, &self->main, entries, slot);
        policy->fresh = PFO_SLOT_NONE;
    }
}

static void
remember(s3fifo *self, uint64_t hash)
{
    const uint32_t limit = self->small.count + self->main.count;
    while (self->ghost.count > 0 && self->ghost.count >= limit) {
        pfo_ghost_drop_oldest(&self->ghost);
    }
    if (limit > 0) {
        pfo_ghost_add(&self->ghost, hash);
    }
}

static void
s3fifo_remove(pfo_policy *policy, pfo_entry *entries, uint32_t slot, int evicted)
{
    s3fifo *self = policy->state;
    const int in_main = (entries[slot].policy_bits & IN_MAIN) != 0;
    if (policy->fresh == slot) {
        policy->fresh = PFO_SLOT_NONE;
    }
    pfo_queue_take(in_main ? &self->main : &self->small, entries, slot);
    if (evicted && !in_main) {
        remember(self, entries[slot].hash);
    }
}

static size_t
s3fifo_memory(const pfo_policy *policy)
{
    const s3fifo *self = policy->state;
    return sizeof *self + pfo_ghost_memory(&self->ghost);
}

static int
s3fifo_is_consistent(const pfo_policy *policy, const pfo_entry *entries, uint32_t count)
{
    const s3fifo *self = policy->state;
    return self->small.count + self->main.count == count &&
           pfo_queue_is_consistent(&self->small, entries, ~(uint32_t)COUNT, 0) &&
           pfo_queue_is_consistent(&self->main, entries, ~(uint32_t)COUNT, IN_MAIN) &&
           pfo_ghost_is_consistent(&self->ghost) &&
           (policy->fresh == PFO_SLOT_NONE ||
            (entries[policy->fresh].live && (entries[policy->fresh].policy_bits & COUNT) == COUNT));
}

const pfo_policy_ops pfo_policy_s3fifo = {
    .name = "s3fifo",
    .init = s3fifo_init,
    .drop = s3fifo_drop,
    .resize = s3fifo_resize,
    .reserve = s3fifo_reserve,
    .clear = s3fifo_clear,
    .admit = s3fifo_admit,
    .touch = s3fifo_touch,
    .victim = s3fifo_victim,
    .remove = s3fifo_remove,
    .memory = s3fifo_memory,
    .is_consistent = s3fifo_is_consistent,
};
