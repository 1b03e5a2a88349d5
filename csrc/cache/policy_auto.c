/* policy_auto.c: follows whichever of the other policies does best on the live requests.
 *
 * One policy, the active one (wtinylfu at first), orders the live entries. From the first eviction on, the others and the active one are tried out in rounds:
 * each has a shadow, a cache of hashes scaled down to about SHADOW_ENTRIES entries, and sees the requests for that share of the hashes
 * (spatial sampling: Waldspurger, Park, Garthwaite, Ahmad: "Efficient MRC Construction with SHARDS", FAST 2015). A round is WARM sampled
 * requests to fill the shadows and JUDGED ones whose hits are counted; then the scores, hits of this round plus 3/4 of the past, are
 * compared. Where one policy leads the active one by more than 1/MARGIN of the requests, it becomes active: before the next admission the
 * live entries move over in the order in which the old policy would have evicted them, oldest first.
 * A lead of more than 1/EARLY_MARGIN ends the round at once, and the past does not count.
 * Between rounds are pauses, none after the first SETTLING_ROUNDS rounds, then twice as long each time, until one request in COST_SHARE is sampled over
 * all: a small cache, whose shadows see every request of a round, pays no more than a large one. A pause ends early when the live hit rate
 * of a block of requests differs from that of the round before by more than 1/BLOCK_CHANGE. Then,
 * and after a switch, there are no pauses for SETTLING_ROUNDS rounds again.
 * The scale is set anew, and the shadows emptied, when a round begins with twice or half as many live entries.
 * A shadow that gets no memory misses a request; nothing else depends on it. A new policy that gets none is not taken.
 * Invariants: `wanted` is what the next reserve() prepares, `next` what the next admit() moves to. `fresh` is PFO_SLOT_NONE.
 * Memory: the active policy's state and five shadows of about 70 bytes an entry: up to 110 KB in all, whatever the size of the cache.
 */
#include "base/alloc.h"
#include "cache/policy_queue.h"
#include "cache/policy_shadow.h"
#include "cache/policy_sketch.h"

enum { SHADOW_ENTRIES = 255, WARM = 512, JUDGED = 2048, MARGIN = 200, COST_SHARE = 16, FIRST_CANDIDATE = 4 };
enum {
    EARLY_STEP = 512,
    EARLY_MARGIN = 6,
    BLOCK_REQUESTS = 1024,
    BLOCK_PER_ENTRY = 8,
    BLOCK_CHANGE = 10,
    SETTLING_ROUNDS = 4
};

static const pfo_policy_ops *const candidates[] = {
    &pfo_policy_lru, &pfo_policy_fifo, &pfo_policy_sieve, &pfo_policy_s3fifo, &pfo_policy_wtinylfu,
};

enum { CANDIDATES = sizeof candidates / sizeof candidates[0], NO_CANDIDATE = CANDIDATES };

typedef enum auto_phase { OFF, ROUND, PAUSE } auto_phase;

typedef struct auto_state {
    pfo_policy active;
    pfo_policy next;
    uint32_t active_index;
    uint32_t wanted;
    uint32_t next_index;
    auto_phase phase;
    pfo_bounds bounds;
    uint32_t count; /* live entries at the last reservation */
    uint32_t scaled_for;
    uint64_t threshold; /* a hash is sampled when the low half of its mix is below; 2^32: all are */
    uint32_t sampled;   /* in this round */
    uint64_t pause_left;
    uint64_t pause_rounds;   /* length of the next pause in rounds */
    uint32_t settling;       /* rounds to come without a pause after them */
    uint64_t block_requests; /* the block of live requests under way in a pause */
    uint64_t block_hits;
    uint64_t round_requests; /* live ones of the last round, what a block is compared with */
    uint64_t round_hits;
    uint64_t block_length;
    uint64_t requests_judged;
    uint64_t hits[CANDIDATES];
    uint64_t scores[CANDIDATES];
    pfo_shadow shadows[CANDIDATES];
} auto_state;

/* ---- rounds ---------------------------------------------------------------------------------- */

static uint64_t
scaled(uint64_t bound, uint64_t threshold)
{
    if (bound == PFO_STORE_UNBOUNDED) {
        return bound;
    }
    const uint64_t part = (bound >> 32) * threshold + ((bound & UINT32_MAX) * threshold >> 32);
    return part == 0 ? bound != 0 : part;
}

static void
forget_scores(auto_state *self)
{
    self->requests_judged = 0;
    for (int i = 0; i < CANDIDATES; i++) {
        self->scores[i] = 0;
    }
}

/* The shadows need some rounds to get used to something new. */
static void
settle(auto_state *self)
{
    self->settling = SETTLING_ROUNDS;
    self->pause_rounds = 1;
}

static void
rescale(auto_state *self)
{
    const uint64_t count = self->count > 0 ? self->count : 1;
    self->scaled_for = (uint32_t)count;
    self->threshold = count <= SHADOW_ENTRIES ? UINT64_C(1) << 32 : ((uint64_t)SHADOW_ENTRIES << 32) / count;
    const pfo_bounds bounds = { scaled(self->bounds.max_entries, self->threshold),
                                scaled(self->bounds.max_bytes, self->threshold) };
    for (int i = 0; i < CANDIDATES; i++) {
        pfo_shadow_clear(&self->shadows[i]);
        (void)pfo_shadow_resize(&self->shadows[i], &bounds, NULL); /* no policy here allocates for it */
    }
    forget_scores(self);
}

static void
begin_round(auto_state *self)
{
    if (self->scaled_for == 0 || self->count / 2 > self->scaled_for || self->count < self->scaled_for / 2) {
        rescale(self);
    }
    for (int i = 0; i < CANDIDATES; i++) {
        self->hits[i] = 0;
    }
    self->sampled = 0;
    self->round_requests = 0;
    self->round_hits = 0;
    self->phase = ROUND;
}

static void
begin_pause(auto_state *self)
{
    const uint64_t requests = ((uint64_t)(WARM + JUDGED) << 32) / self->threshold; /* live ones in a round */
    const uint64_t longest = (self->threshold * COST_SHARE) >> 32;
    const uint64_t rounds = self->pause_rounds < longest ? self->pause_rounds : longest;
    if (self->settling > 0 || rounds == 0) {
        self->settling -= self->settling > 0;
        begin_round(self);
    } else {
        self->pause_left = requests * rounds;
        self->pause_rounds = 2 * rounds;
        self->phase = PAUSE;
        self->block_length = (uint64_t)self->count * BLOCK_PER_ENTRY;
        self->block_length = self->block_length < BLOCK_REQUESTS ? BLOCK_REQUESTS : self->block_length;
        self->block_requests = 0;
        self->block_hits = 0;
    }
}

/* One request in a pause, which ends early when the live hit rate is no longer what it was in the round before. */
static void
wait(auto_state *self, int hit)
{
    int moved = 0;
    self->block_hits += hit != 0;
    if (++self->block_requests == self->block_length) {
        const uint64_t now = self->block_hits * self->round_requests;
        const uint64_t then = self->round_hits * self->block_length;
        moved = (now > then ? now - then : then - now) > self->block_length * self->round_requests / BLOCK_CHANGE;
        self->block_requests = 0;
        self->block_hits = 0;
    }
    if (--self->pause_left == 0 || moved) {
        if (moved) {
            settle(self);
            forget_scores(self);
        }
        begin_round(self);
    }
}

/* Whether a policy leads the active one by so much, in the middle of a round, that there is nothing to wait for. */
static int
is_clear(const auto_state *self)
{
    const uint64_t judged = self->sampled - WARM;
    uint64_t best = 0;
    for (uint32_t i = 0; i < CANDIDATES; i++) {
        best = self->hits[i] > best ? self->hits[i] : best;
    }
    return judged % EARLY_STEP == 0 && (best - self->hits[self->active_index]) * EARLY_MARGIN > judged;
}

static void
judge(auto_state *self)
{
    uint32_t best = self->active_index;
    self->requests_judged = self->requests_judged * 3 / 4 + (self->sampled - WARM);
    for (uint32_t i = 0; i < CANDIDATES; i++) {
        self->scores[i] = self->scores[i] * 3 / 4 + self->hits[i];
        best = self->scores[i] > self->scores[best] ? i : best;
    }
    if ((self->scores[best] - self->scores[self->active_index]) * MARGIN > self->requests_judged) {
        self->wanted = best;
        settle(self);
    }
    begin_pause(self);
}

static void
observe(auto_state *self, const pfo_entry *entry, int hit)
{
    if (self->phase == PAUSE) {
        wait(self, hit);
        return;
    }
    self->round_requests++;
    self->round_hits += hit != 0;
    if ((pfo_policy_mix(entry->hash) & UINT32_MAX) >= self->threshold) {
        return;
    }
    const int counts = ++self->sampled > WARM;
    for (int i = 0; i < CANDIDATES; i++) {
        int in;
        (void)pfo_shadow_request(&self->shadows[i], entry->hash, entry->bytes, &in, NULL);
        self->hits[i] += (uint64_t)(in & counts);
    }
    if (counts && is_clear(self)) {
        forget_scores(self);
        judge(self);
    } else if (self->sampled == WARM + JUDGED) {
        judge(self);
    }
}

/* ---- the policy ------------------------------------------------------------------------------ */

static void
forget(auto_state *self)
{
    self->phase = OFF;
    self->scaled_for = 0;
    self->count = 0;
    self->wanted = NO_CANDIDATE;
    settle(self);
}

static void
drop_next(auto_state *self)
{
    if (self->next.ops != NULL) {
        self->next.ops->drop(&self->next);
        self->next.ops = NULL;
    }
}

static void
auto_drop(pfo_policy *policy)
{
    auto_state *self = policy->state;
    for (int i = 0; i < CANDIDATES; i++) {
        if (self->shadows[i].policy.ops != NULL) {
            pfo_shadow_free(&self->shadows[i]);
        }
    }
    drop_next(self);
    if (self->active.ops != NULL) {
        self->active.ops->drop(&self->active);
    }
    pfo_free(self);
    policy->state = NULL;
}

static pfo_status
start_policy(pfo_policy *policy, uint32_t index, const pfo_bounds *bounds, pfo_error *err)
{
    policy->ops = candidates[index];
    const pfo_status status = policy->ops->init(policy, bounds, err);
    if (status != PFO_OK) {
        policy->ops = NULL;
    }
    return status;
}

static pfo_status
auto_init(pfo_policy *policy, const pfo_bounds *bounds, pfo_error *err)
{
    policy->head = policy->tail = policy->fresh = PFO_SLOT_NONE;
    auto_state *self = pfo_alloc_array(1, sizeof *self);
    if (self == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for an auto policy");
    }
    policy->state = self;
    self->bounds = *bounds;
    self->active_index = FIRST_CANDIDATE;
    forget(self);
    pfo_status status = start_policy(&self->active, FIRST_CANDIDATE, bounds, err);
    for (int i = 0; i < CANDIDATES && status == PFO_OK; i++) {
        status = pfo_shadow_init(&self->shadows[i], candidates[i], bounds, err);
        if (status != PFO_OK) {
            self->shadows[i].policy.ops = NULL;
        }
    }
    if (status != PFO_OK) {
        auto_drop(policy);
    }
    return status;
}

static pfo_status
auto_resize(pfo_policy *policy, pfo_entry *entries, const pfo_bounds *bounds, pfo_error *err)
{
    auto_state *self = policy->state;
    PFO_TRY(self->active.ops->resize(&self->active, entries, bounds, err));
    drop_next(self);
    self->bounds = *bounds;
    self->scaled_for = 0; /* the next round begins with new shadows */
    return PFO_OK;
}

static pfo_status
auto_reserve(pfo_policy *policy, uint32_t count, pfo_error *err)
{
    auto_state *self = policy->state;
    self->count = count;
    if (self->wanted != NO_CANDIDATE) {
        drop_next(self);
        if (start_policy(&self->next, self->wanted, &self->bounds, NULL) == PFO_OK) {
            self->next_index = self->wanted;
        }
        self->wanted = NO_CANDIDATE;
    }
    if (self->next.ops != NULL && self->next.ops->reserve(&self->next, count, NULL) != PFO_OK) {
        drop_next(self);
    }
    return self->active.ops->reserve(&self->active, count, err);
}

static void
auto_clear(pfo_policy *policy)
{
    auto_state *self = policy->state;
    drop_next(self);
    self->active.ops->clear(&self->active);
    forget(self);
}

static void
switch_policy(auto_state *self, pfo_entry *entries)
{
    for (uint32_t slot; (slot = self->active.ops->victim(&self->active, entries)) != PFO_SLOT_NONE;) {
        self->active.ops->remove(&self->active, entries, slot, 0);
        self->next.ops->admit(&self->next, entries, slot);
    }
    self->active.ops->drop(&self->active);
    self->active = self->next;
    self->active_index = self->next_index;
    self->next.ops = NULL;
}

static void
auto_admit(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    auto_state *self = policy->state;
    if (self->next.ops != NULL) {
        switch_policy(self, entries);
    }
    self->active.ops->admit(&self->active, entries, slot);
    if (self->phase != OFF) {
        observe(self, &entries[slot], 0);
    }
}

static void
auto_touch(pfo_policy *policy, pfo_entry *entries, uint32_t slot)
{
    auto_state *self = policy->state;
    if (self->active.fresh != slot) {
        self->active.ops->touch(&self->active, entries, slot);
    }
    if (self->phase != OFF) {
        observe(self, &entries[slot], 1);
    }
}

static uint32_t
auto_victim(pfo_policy *policy, pfo_entry *entries)
{
    auto_state *self = policy->state;
    if (self->phase == OFF && self->count > 0) {
        begin_round(self);
    }
    return self->active.ops->victim(&self->active, entries);
}

static void
auto_remove(pfo_policy *policy, pfo_entry *entries, uint32_t slot, int evicted)
{
    auto_state *self = policy->state;
    self->active.ops->remove(&self->active, entries, slot, evicted);
}

static int
auto_is_consistent(const pfo_policy *policy, const pfo_entry *entries, uint32_t count)
{
    const auto_state *self = policy->state;
    for (int i = 0; i < CANDIDATES; i++) {
        if (!pfo_shadow_is_consistent(&self->shadows[i])) {
            return 0;
        }
    }
    return policy->fresh == PFO_SLOT_NONE && self->active.ops == candidates[self->active_index] &&
           self->active.ops->is_consistent(&self->active, entries, count);
}

const pfo_policy_ops pfo_policy_auto = {
    .name = "auto",
    .init = auto_init,
    .drop = auto_drop,
    .resize = auto_resize,
    .reserve = auto_reserve,
    .clear = auto_clear,
    .admit = auto_admit,
    .touch = auto_touch,
    .victim = auto_victim,
    .remove = auto_remove,
    .is_consistent = auto_is_consistent,
};
