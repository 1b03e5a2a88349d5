/* policy_auto.c: follows whichever of the other policies does best on the live requests.
 *
 * One policy, the active one (wtinylfu at first), orders the live entries. From the first eviction on, the others and the active one are tried out in rounds:
 * each has a shadow, a cache of hashes scaled down to about SHADOW_ENTRIES entries, and sees the requests for that share of the hashes
 * (spatial sampling: Waldspurger, Park, Garthwaite, Ahmad: "Efficient MRC Construction with SHARDS", FAST 2015). A round is WARM_BLOCKS
 * blocks of BLOCK sampled requests to fill empty shadows, and ROUND_BLOCKS that are judged. After a pause the shadows are empty again: what they
 * held before the gap, met again by a loop that went on meanwhile, would be hits that no cache has.
 * Evidence is a policy's lead, in hits a block, and its spread over the blocks. A lead is clear when it is above 1/margin of the requests and CONFIDENCE
 * standard errors above 0 (a loop's hits come in stretches: while less than some turns were seen, the spread says so).
 * At the end of a round the leads over the active policy's shadow are judged by MARGIN, of all rounds, the past counting PAST_PARTS / PAST_OF of
 * itself each round. After every block, also while the shadows fill, the leads over the live cache in this round are judged by EARLY_MARGIN: the live
 * cache may stay far behind its policy's shadow, because a loop keeps out what a switch did not bring. The policy furthest ahead, if its
 * lead is clear, becomes active: before the next admission the live entries move over in the order in which the old policy would have
 * evicted them, oldest first, and all evidence is forgotten.
 * Between rounds are pauses, none after the first SETTLING_ROUNDS rounds, then twice as long each time, until about one request in COST_SHARE is
 * sampled over all: a small cache, whose shadows see every request of a round, pays no more than a large one, which makes no pauses
 * when its scale alone is below twice that share. When the live hit rate of a spell of
 * requests in a pause differs by more than 1/CHANGE from that of the round before, the pause ends, what is known is forgotten,
 * and there are no pauses for SETTLING_ROUNDS rounds, as after an early switch. When it so differs between two rounds, the next pause is short.
 * The scale is set anew, and the shadows emptied, when a round begins with twice or half as many live entries.
 * A shadow that gets no memory misses a request; nothing else depends on it. A new policy that gets none is not taken.
 * Invariants: `wanted` is what the next reserve() prepares, `next` what the next admit() moves to. `fresh` is PFO_SLOT_NONE.
 * Memory: the active policy's state and, in rounds, five shadows of up to 256 slots, about 100 KB in all, whatever the size of the cache: smaller ones choose worse. In a
 * pause the shadows keep their policies' state only.
 */
#include "base/alloc.h"
#include "cache/policy_queue.h"
#include "cache/policy_shadow.h"
#include "cache/policy_sketch.h"

enum { SHADOW_ENTRIES = 255, BLOCK = 256, COST_SHARE = 32, FIRST_CANDIDATE = 4 };
enum { WARM_BLOCKS = 8, ROUND_BLOCKS = 16, SETTLING_ROUNDS = 2, PAST_PARTS = 7, PAST_OF = 8 };
enum { MARGIN = 200, EARLY_MARGIN = 20, EARLY_BLOCKS = 4, CONFIDENCE = 3 };
enum { SPELL_REQUESTS = 1024, SPELL_PER_ENTRY = 8, CHANGE = 10 };

static const pfo_policy_ops *const candidates[] = {
    &pfo_policy_lru, &pfo_policy_fifo, &pfo_policy_sieve, &pfo_policy_s3fifo, &pfo_policy_wtinylfu,
};

enum { CANDIDATES = sizeof candidates / sizeof candidates[0], NO_CANDIDATE = CANDIDATES };

typedef enum auto_phase { OFF, ROUND, PAUSE } auto_phase;

typedef struct auto_rate {
    uint64_t hits;
    uint64_t requests;
} auto_rate;

/* By how many hits a policy was ahead of the active one, over the blocks judged. */
typedef struct auto_lead {
    int64_t sum;
    int64_t squares;
} auto_lead;

typedef struct auto_evidence {
    int64_t blocks;
    auto_lead leads[CANDIDATES];
} auto_evidence;

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
    uint64_t threshold;  /* a hash is sampled when the low half of its mix is below; 2^32: all are */
    uint32_t sampled;    /* in the block under way */
    uint32_t warming;    /* blocks to come before the next one is judged */
    auto_evidence early; /* of this round against the live cache */
    auto_evidence round; /* of this round against the active policy's shadow */
    auto_evidence all;   /* of the rounds before, aged, and of this one once it is over */
    uint64_t pause_left;
    uint64_t pause_rounds; /* length of the next pause in rounds */
    uint32_t settling;     /* rounds to come without a pause after them */
    auto_rate live;        /* in this round, or the last one */
    auto_rate live_before; /* in the round before that; no requests when there is none to compare with */
    auto_rate spell;       /* the spell of live requests under way in a pause */
    uint64_t spell_length;
    uint32_t live_hits; /* in the block under way, of the sampled requests, like hits */
    uint32_t hits[CANDIDATES];
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
forget_evidence(auto_state *self)
{
    self->early = self->round = self->all = (auto_evidence){ .blocks = 0 };
}

static void
begin_block(auto_state *self)
{
    self->sampled = 0;
    self->live_hits = 0;
    for (int i = 0; i < CANDIDATES; i++) {
        self->hits[i] = 0;
    }
}

/* Something is new: what was known is forgotten, and the shadows need some rounds to get used to it. */
static void
settle(auto_state *self)
{
    forget_evidence(self);
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
        (void)pfo_shadow_resize(&self->shadows[i], &bounds, NULL); /* no policy here allocates for it */
    }
    forget_evidence(self);
}

/* The shadows are empty and, like the live cache once, fill from the requests to come. */
static void
empty_shadows(auto_state *self)
{
    for (int i = 0; i < CANDIDATES; i++) {
        pfo_shadow_clear(&self->shadows[i]);
    }
    self->warming = WARM_BLOCKS;
    begin_block(self);
}

static void
begin_round(auto_state *self)
{
    const int rescales =
        self->scaled_for == 0 || self->count / 2 > self->scaled_for || self->count < self->scaled_for / 2;
    if (rescales || self->phase != ROUND) {
        empty_shadows(self);
    }
    if (rescales) {
        rescale(self);
    }
    self->early = self->round = (auto_evidence){ .blocks = 0 };
    self->live_before = self->live;
    self->live = (auto_rate){ 0, 0 };
    self->phase = ROUND;
}

static void
begin_pause(auto_state *self)
{
    const uint64_t length = BLOCK * (WARM_BLOCKS + ROUND_BLOCKS);
    const uint64_t requests = (length << 32) / self->threshold; /* live ones in a round */
    const uint64_t longest = (self->threshold * COST_SHARE) >> 32;
    const uint64_t rounds = self->pause_rounds < longest ? self->pause_rounds : longest;
    if (self->settling > 0 || longest < 2) {
        self->settling -= self->settling > 0;
        begin_round(self);
    } else {
        self->pause_left = requests * rounds;
        self->pause_rounds = 2 * rounds;
        self->phase = PAUSE;
        for (int i = 0; i < CANDIDATES; i++) {
            pfo_shadow_trim(&self->shadows[i]);
        }
        self->spell_length = (uint64_t)self->count * SPELL_PER_ENTRY;
        self->spell_length = self->spell_length < SPELL_REQUESTS ? SPELL_REQUESTS : self->spell_length;
        self->spell = (auto_rate){ 0, 0 };
    }
}

static void
count_request(auto_rate *rate, int hit)
{
    rate->hits += hit != 0;
    rate->requests++;
}

static int
differ(const auto_rate *a, const auto_rate *b)
{
    const uint64_t x = a->hits * b->requests;
    const uint64_t y = b->hits * a->requests;
    return (x > y ? x - y : y - x) > a->requests * b->requests / CHANGE;
}

/* One request in a pause, which ends early when the live hit rate is no longer what it was in the round before. */
static void
wait(auto_state *self, int hit)
{
    int moved = 0;
    count_request(&self->spell, hit);
    if (self->spell.requests == self->spell_length) {
        moved = differ(&self->spell, &self->live);
        self->spell = (auto_rate){ 0, 0 };
    }
    if (--self->pause_left == 0 || moved) {
        if (moved) {
            settle(self);
        }
        begin_round(self);
    }
}

/* Whether the mean lead of a block is worth a switch, and CONFIDENCE standard errors above nothing. */
static int
is_clear(const auto_lead *lead, int64_t blocks, int margin)
{
    const int64_t spread = blocks * lead->squares - lead->sum * lead->sum; /* blocks squared times the variance */
    return lead->sum * margin > blocks * BLOCK &&
           lead->sum * lead->sum * (blocks - 1) > (int64_t)CONFIDENCE * CONFIDENCE * spread;
}

/* The policy furthest ahead, if that is not the active one and its lead is clear. */
static uint32_t
find_clear(const auto_evidence *evidence, uint32_t active, int margin)
{
    uint32_t best = active;
    for (uint32_t i = 0; i < CANDIDATES; i++) {
        best = evidence->leads[i].sum > evidence->leads[best].sum ? i : best;
    }
    const int clear = best != active && evidence->blocks >= EARLY_BLOCKS &&
                      is_clear(&evidence->leads[best], evidence->blocks, margin);
    return clear ? best : NO_CANDIDATE;
}

/* The past counts less with every round. */
static void
add_round(auto_state *self)
{
    self->all.blocks = self->all.blocks * PAST_PARTS / PAST_OF + self->round.blocks;
    for (int i = 0; i < CANDIDATES; i++) {
        auto_lead *lead = &self->all.leads[i];
        lead->sum = lead->sum * PAST_PARTS / PAST_OF + self->round.leads[i].sum;
        lead->squares = lead->squares * PAST_PARTS / PAST_OF + self->round.leads[i].squares;
    }
}

static void
add_block(auto_evidence *evidence, const uint32_t *hits, uint32_t hits_of_other)
{
    evidence->blocks++;
    for (int i = 0; i < CANDIDATES; i++) {
        const int64_t ahead = (int64_t)hits[i] - hits_of_other;
        evidence->leads[i].sum += ahead;
        evidence->leads[i].squares += ahead * ahead;
    }
}

/* At the end of a block. */
static void
judge(auto_state *self)
{
    add_block(&self->early, self->hits, self->live_hits);
    add_block(&self->round, self->hits, self->hits[self->active_index]);
    begin_block(self);
    if (self->warming > 0 && --self->warming == 0) {
        self->early = self->round = (auto_evidence){ .blocks = 0 };
    }
    uint32_t best = find_clear(&self->early, self->active_index, EARLY_MARGIN);
    const int over = self->warming == 0 && self->round.blocks == ROUND_BLOCKS;
    const int late = over && best == NO_CANDIDATE;
    if (late) {
        if (differ(&self->live, &self->live_before)) {
            self->all = (auto_evidence){ .blocks = 0 };
            self->pause_rounds = 1;
        }
        add_round(self);
        best = find_clear(&self->all, self->active_index, MARGIN);
    }
    if (best != NO_CANDIDATE) {
        self->wanted = best;
        if (late) {
            forget_evidence(self);
        } else {
            settle(self); /* what is so far ahead so soon comes with a change of the stream */
        }
    }
    if (over || best != NO_CANDIDATE) {
        begin_pause(self);
    }
}

static void
observe(auto_state *self, const pfo_entry *entry, int hit)
{
    if (self->phase == PAUSE) {
        wait(self, hit);
        return;
    }
    count_request(&self->live, hit);
    if ((pfo_policy_mix(entry->hash) & UINT32_MAX) >= self->threshold) {
        return;
    }
    self->live_hits += hit != 0;
    for (int i = 0; i < CANDIDATES; i++) {
        int in;
        (void)pfo_shadow_request(&self->shadows[i], entry->hash, entry->bytes, &in, NULL);
        self->hits[i] += (uint32_t)in;
    }
    if (++self->sampled == BLOCK) {
        judge(self);
    }
}

/* ---- the policy ------------------------------------------------------------------------------ */

static void
forget(auto_state *self)
{
    self->phase = OFF;
    self->scaled_for = 0;
    self->live = (auto_rate){ 0, 0 };
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
    forget_evidence(self); /* it was against the old one */
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

static size_t
auto_memory(const pfo_policy *policy)
{
    const auto_state *self = policy->state;
    size_t bytes = sizeof *self + self->active.ops->memory(&self->active);
    if (self->next.ops != NULL) {
        bytes += self->next.ops->memory(&self->next);
    }
    for (int i = 0; i < CANDIDATES; i++) {
        bytes += pfo_shadow_memory(&self->shadows[i]);
    }
    return bytes;
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
    .memory = auto_memory,
    .is_consistent = auto_is_consistent,
};
