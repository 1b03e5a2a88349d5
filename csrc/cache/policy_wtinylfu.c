/* policy_wtinylfu.c: W-TinyLFU (Einziger, Friedman, Manes: "TinyLFU: A Highly Efficient Cache Admission Policy", ACM ToS 2017) with a
 * window that adapts by hill climbing (Einziger, Eytan, Friedman, Manes: "Adaptive Software Cache Management", Middleware 2018).
 *
 * New entries come to the window, an LRU queue. The rest of the bounds is main, a segmented LRU: a hit moves an entry from probation to
 * protected, which holds at most 4/5 of main and gives its oldest back to probation. When room is needed and the window fills its share,
 * the window's oldest entry is the candidate: it moves to probation if main has room, or if the sketch has seen it more often than
 * main's oldest, which is the victim then; otherwise the candidate is the victim. Main's oldest is probation's, or protected's when
 * probation is empty. Every use and every admission counts in the sketch, whose counters are halved every 10 requests per entry.
 * Every 10 requests per entry, and at least 2048, the window's share takes a step (first 1/16 of the bounds, upwards): on in the direction
 * of the last one, or back if the hit rate fell by more than 0.2 points since, or at the ends, 1 % and 80 %. Steps shrink by 2 %
 * each time, by a quarter at a turn, and start anew when the hit rate moves by 5 points.
 * Left out: the doorkeeper (a sketch of 2 to 4 columns an entry gains little from it) and random admission (no random numbers here).
 * Invariants: policy_bits names the queue; `chosen` is what victim() named since the last change, or PFO_SLOT_NONE; `fresh` is
 * PFO_SLOT_NONE, because every use counts.
 * Memory: 4 to 8 bytes an entry for the sketch. Complexity: O(1) amortised.
 */
#include "base/alloc.h"
#include "cache/policy_queue.h"
#include "cache/policy_sketch.h"

enum { WINDOW, PROBATION, PROTECTED, QUEUES };
enum {
    PARTS = 65536, /* shares and hit rates are counted in these */
    WINDOW_FIRST = 655,
    WINDOW_LEAST = 655,
    WINDOW_MOST = 52428,
    STEP_FIRST = 4096,
    RESTART_CHANGE = 3277,
    NOISE = 131,
    LEAST_CLIMB_REQUESTS = 2048,
    PERIOD_REQUESTS = 10,
    LEAST_PERIOD_ENTRIES = 16,
    COLUMNS_PER_ENTRY = 2,
};

typedef struct wtinylfu {
    pfo_queue queues[QUEUES];
    pfo_bounds bounds;
    pfo_share window_share;
    pfo_share main_share;
    pfo_share protected_share;
    pfo_sketch sketch;
    uint32_t chosen;
    int32_t window_parts;
    int32_t step;
    int32_t last_rate;
    uint64_t hits; /* since the last step */
    uint64_t requests;
} wtinylfu;

/* ---- shares and their adaptation ------------------------------------------------------------- */

static uint64_t
rest_of(uint64_t bound, uint64_t share)
{
    return bound == PFO_STORE_UNBOUNDED ? bound : bound - (share < bound ? share : bound);
}

static void
set_shares(wtinylfu *self)
{
    const uint32_t window = (uint32_t)self->window_parts;
    self->window_share = pfo_share_of(&self->bounds, window, PARTS);
    self->main_share = (pfo_share){ rest_of(self->bounds.max_entries, self->window_share.entries),
                                    rest_of(self->bounds.max_bytes, self->window_share.bytes) };
    self->protected_share = pfo_share_of(&self->bounds, (PARTS - window) / 5 * 4, PARTS);
}

static void
forget_rates(wtinylfu *self)
{
    self->window_parts = WINDOW_FIRST;
    self->step = STEP_FIRST;
    self->last_rate = 0;
    self->hits = 0;
    self->requests = 0;
    set_shares(self);
}

static void
climb(wtinylfu *self)
{
    const int32_t rate = (int32_t)(self->hits * PARTS / self->requests);
    const int32_t change = rate - self->last_rate;
    const int32_t amount = change >= -NOISE ? self->step : -self->step;
    const int32_t parts = self->window_parts + amount;
    self->window_parts = parts < WINDOW_LEAST ? WINDOW_LEAST : parts > WINDOW_MOST ? WINDOW_MOST : parts;
    const int32_t next = self->window_parts == parts ? amount : -amount; /* it turns back at the ends */
    if (change >= RESTART_CHANGE || change <= -RESTART_CHANGE) {
        self->step = next >= 0 ? STEP_FIRST : -STEP_FIRST;
    } else {
        self->step = next == self->step ? next * 49 / 50 : next * 3 / 4;
    }
    self->last_rate = rate;
    self->hits = 0;
    self->requests = 0;
    set_shares(self);
}

static void
count_request(wtinylfu *self, uint64_t hash, int hit)
{
    uint64_t entries = 0;
    for (int i = 0; i < QUEUES; i++) {
        entries += self->queues[i].count;
    }
    const uint64_t period = PERIOD_REQUESTS * (entries < LEAST_PERIOD_ENTRIES ? LEAST_PERIOD_ENTRIES : entries);
    pfo_sketch_add(&self->sketch, hash, period);
    self->hits += hit != 0;
    if (++self->requests >= (period < LEAST_CLIMB_REQUESTS ? LEAST_CLIMB_REQUESTS : period)) {
        climb(self);
    }
}

/* ---- the policy ------------------------------------------------------------------------------ */

static void
wtinylfu_clear(pfo_policy *policy)
{
    wtinylfu *self = policy->state;
    for (int i = 0; i < QUEUES; i++) {
        pfo_queue_clear(&self->queues[i]);
    }
    pfo_sketch_clear(&self->sketch);
    self->chosen = PFO_SLOT_NONE;
    forget_rates(self);
}

static pfo_status
wtinylfu_init(pfo_policy *policy, const pfo_bounds *bounds, pfo_error *err)
{
    policy->head = policy->tail = policy->fresh = PFO_SLOT_NONE;
    wtinylfu *self = pfo_alloc(sizeof *self);
    if (self == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a wtinylfu policy");
    }
    policy->state = self;
    pfo_sketch_init(&self->sketch);
    self->bounds = *bounds;
    wtinylfu_clear(policy);
    return PFO_OK;
}

static void
wtinylfu_drop(pfo_policy *policy)
{
    wtinylfu *self = policy->state;
    pfo_sketch_free(&self->sketch);
    pfo_free(self);
    policy->state = NULL;
}

static pfo_status
wtinylfu_resize(pfo_policy *policy, pfo_entry *entries, const pfo_bounds *bounds, pfo_error *err)
{
    (void)entries;
    (void)err;
    wtinylfu *self = policy->state;
    self->bounds = *bounds;
    self->chosen = PFO_SLOT_NONE;
    set_shares(self);
    return PFO_OK;
}

static pfo_status
wtinylfu_reserve(pfo_policy *policy, uint32_t count, pfo_error *err)
{
    const uint64_t columns = ((uint64_t)count + 1) * COLUMNS_PER_ENTRY;
    return pfo_sketch_reserve(&((wtinylfu *)policy->state)->sketch,
                              columns > UINT32_MAX ? UINT32_MAX : (uint32_t)columns, err);
}

static void
move(wtinylfu *self, pfo_entry *entries, uint32_t slot, uint32_t to)
{
    pfo_queue_move(&self->queues[entries[slot].policy_bits], &self->queues[to], entries, slot);
    entries[slot].policy_bits = to;
}

static void
wtinylfu_admit(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    wtinylfu *self = policy->state;
    self->chosen = PFO_SLOT_NONE;
    entries[slot].policy_bits = WINDOW;
    pfo_queue_push(&self->queues[WINDOW], entries, slot);
    count_request(self, entries[slot].hash, 0);
}

static void
wtinylfu_touch(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    wtinylfu *self = policy->state;
    const pfo_queue *protected = &self->queues[PROTECTED];
    self->chosen = PFO_SLOT_NONE;
    move(self, entries, slot, entries[slot].policy_bits == WINDOW ? WINDOW : PROTECTED);
    while (protected->count > self->protected_share.entries || protected->bytes > self->protected_share.bytes) {
        move(self, entries, protected->tail, PROBATION);
    }
    count_request(self, entries[slot].hash, 1);
}

static int
main_has_room(const wtinylfu *self, size_t bytes)
{
    const uint64_t count = (uint64_t)self->queues[PROBATION].count + self->queues[PROTECTED].count;
    const uint64_t used = self->queues[PROBATION].bytes + self->queues[PROTECTED].bytes;
    return count < self->main_share.entries && used <= self->main_share.bytes && bytes <= self->main_share.bytes - used;
}

static uint32_t
choose(wtinylfu *self, pfo_entry *entries)
{
    const pfo_queue *window = &self->queues[WINDOW];
    while (window->count > 0 && pfo_queue_fills(window, &self->window_share) &&
           main_has_room(self, entries[window->tail].bytes)) {
        move(self, entries, window->tail, PROBATION);
    }
    const uint32_t candidate = window->tail;
    const uint32_t oldest =
        self->queues[PROBATION].tail != PFO_SLOT_NONE ? self->queues[PROBATION].tail : self->queues[PROTECTED].tail;
    if (candidate == PFO_SLOT_NONE || oldest == PFO_SLOT_NONE) {
        return candidate != PFO_SLOT_NONE ? candidate : oldest;
    }
    if (!pfo_queue_fills(window, &self->window_share)) {
        return oldest;
    }
    if (pfo_sketch_estimate(&self->sketch, entries[candidate].hash) <=
        pfo_sketch_estimate(&self->sketch, entries[oldest].hash)) {
        return candidate;
    }
    move(self, entries, candidate, PROBATION);
    return oldest;
}

static uint32_t
wtinylfu_victim(pfo_policy *policy, pfo_entry *entries)
{
    wtinylfu *self = policy->state;
    if (self->chosen == PFO_SLOT_NONE) {
        self->chosen = choose(self, entries);
    }
    return self->chosen;
}

static void
wtinylfu_remove(pfo_policy *policy, pfo_entry *entries, uint32_t slot, int evicted)
{
    (void)evicted;
    wtinylfu *self = policy->state;
    self->chosen = PFO_SLOT_NONE;
    pfo_queue_take(&self->queues[entries[slot].policy_bits], entries, slot);
}

static size_t
wtinylfu_memory(const pfo_policy *policy)
{
    const wtinylfu *self = policy->state;
    return sizeof *self + pfo_sketch_memory(&self->sketch);
}

static int
wtinylfu_is_consistent(const pfo_policy *policy, const pfo_entry *entries, uint32_t count)
{
    const wtinylfu *self = policy->state;
    uint32_t listed = 0;
    for (uint32_t i = 0; i < QUEUES; i++) {
        listed += self->queues[i].count;
        if (!pfo_queue_is_consistent(&self->queues[i], entries, UINT32_MAX, i)) {
            return 0;
        }
    }
    return listed == count && self->window_parts >= WINDOW_LEAST && self->window_parts <= WINDOW_MOST &&
           policy->fresh == PFO_SLOT_NONE && (self->chosen == PFO_SLOT_NONE || entries[self->chosen].live);
}

const pfo_policy_ops pfo_policy_wtinylfu = {
    .name = "wtinylfu",
    .init = wtinylfu_init,
    .drop = wtinylfu_drop,
    .resize = wtinylfu_resize,
    .reserve = wtinylfu_reserve,
    .clear = wtinylfu_clear,
    .admit = wtinylfu_admit,
    .touch = wtinylfu_touch,
    .victim = wtinylfu_victim,
    .remove = wtinylfu_remove,
    .memory = wtinylfu_memory,
    .is_consistent = wtinylfu_is_consistent,
};
