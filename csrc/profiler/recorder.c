/* recorder.c: see recorder.h for the contract.
 *
 * Each (recorder, thread) pair has a lane: a table from name id to histogram, a tree and a stack of frames. Its owner
 * alone writes to it.
 *
 * [lock] One process-wide lock guards the list of recorders, each recorder's list of lanes with `owner` and `epoch`, and
 * the life of tables, histograms, trees and stacks: they are freed or moved only with the lock held, and readers of
 * another thread's lane hold it. New histograms and nodes are published without it. The lock is held for one name's
 * merge, or one lane's tree, while summing, so that a thread which needs it for its first record waits for microseconds;
 * pfo_recorder_measure() walks over all pointers with it.
 *
 * [epoch] Epochs are unique over all recorders and never reused, so they serve as the key of the thread-local cache: a
 * hit says "this is my lane of that recorder in that epoch" without looking at the recorder. A cache entry may survive
 * its recorder or its epoch; then no valid name carries its key any more. Names of an ended epoch still hit until their
 * thread has moved on, and write into data that no reader counts.
 *
 * [frames] A frame's mark is its range's serial and a state. The owner pushes and pops the top without the lock. Another
 * thread that ends the range may only change the state, with the lock, and the owner takes such frames off when they
 * come to the top. A frame leaves the middle of the stack with the lock, since the frames above move.
 */
#include "profiler/recorder.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/platform.h"
#include "base/sync.h"
#include "profiler/capture.h"

#include <stdatomic.h>
#include <string.h>

enum { CACHE_SLOTS = 8, FIRST_TABLE = 16, FIRST_FRAMES = 16, OVERFLOW_BITS = 1 << 16 };

enum { FRAME_OPEN = 0, FRAME_ENDED = 1, FRAME_ABANDONED = 2, STATE_BITS = 2 };

typedef struct frame {
    pfo_call_node *node;
    _Atomic uint64_t mark; /* serial << STATE_BITS | state; [frames] */
} frame;

typedef struct memory_sums {
    _Atomic uint64_t count;
    _Atomic int64_t sum, least, greatest;
} memory_sums;

typedef struct name_entry {
    _Atomic(pfo_histogram *) histogram;
    _Atomic uint64_t suspended_ticks;
    _Atomic(memory_sums *) memory;
} name_entry;

struct pfo_lane {
    struct pfo_lane *next; /* [lock] */
    const void *owner;     /* [lock] address of the owning thread's cache, NULL while no thread has it */
    uint64_t epoch;        /* [lock] */
    pfo_recorder *recorder;
    pfo_spans *spans;  /* the recorder's, NULL without */
    name_entry *table; /* this and what follows: written by the owner, what others read with [lock] */
    pfo_calltree *tree;
    frame *frames;
    uint64_t last_serial;
    int64_t last_tick; /* of the last event */
    uint32_t depth;    /* frames in use */
    uint32_t frame_capacity;
    uint32_t capacity; /* of the table */
    uint32_t number;
    int64_t thread_id;
    char thread_name[PFO_THREAD_NAME_BYTES];
};

struct pfo_recorder {
    struct pfo_recorder *next; /* [lock] */
    pfo_lane *lanes;           /* [lock] */
    uint32_t max_names;
    uint32_t lane_count;    /* [lock] */
    _Atomic uint32_t names; /* changed with [lock] */
    _Atomic uint64_t epoch; /* changed with [lock] */
    _Atomic uint64_t dropped;
    pfo_spans *spans;
    uint64_t first_span;        /* [lock] */
    int64_t begun_tick;         /* [lock] */
    uint64_t *overflow_seen;    /* [lock] a bit for each hash of a name beyond the limit; NULL while there was none */
    uint64_t overflow_distinct; /* [lock] bits set */
};

typedef struct cache_slot {
    uint64_t epoch; /* 0: empty */
    pfo_lane *lane;
} cache_slot;

static pfo_mutex lock = PFO_MUTEX_INIT;
static pfo_recorder *recorders;
static _Atomic uint64_t last_epoch;
static _Thread_local cache_slot cache[CACHE_SLOTS];
static _Atomic(pfo_thread_namer) thread_namer;

static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;
static pthread_key_t exit_key;
static int hooks_error;

/* ---- lanes ----------------------------------------------------------------------------------- */

static void
free_contents(pfo_lane *lane)
{
    for (uint32_t id = 0; id < lane->capacity; id++) {
        pfo_histogram_destroy(atomic_load_explicit(&lane->table[id].histogram, memory_order_relaxed));
        pfo_free(atomic_load_explicit(&lane->table[id].memory, memory_order_relaxed));
    }
    pfo_free(lane->table);
    pfo_free(lane->frames);
    pfo_calltree_destroy(lane->tree);
    lane->table = NULL;
    lane->frames = NULL;
    lane->tree = NULL;
    lane->capacity = 0;
    lane->frame_capacity = 0;
    lane->depth = 0;
}

/* Takes frames off the top that another thread has ended or given up, or, with `all`, every frame. Owner only. */
static void
pop_finished(pfo_lane *lane, int all)
{
    const uint64_t states = (1U << STATE_BITS) - 1;
    while (lane->depth > 0) {
        frame *top = &lane->frames[lane->depth - 1];
        const uint64_t state = atomic_load_explicit(&top->mark, memory_order_relaxed) & states;
        if (state == FRAME_OPEN && !all) {
            return;
        }
        if (state == FRAME_ENDED) {
            pfo_call_node_add_count(top->node);
        }
        atomic_store_explicit(&top->mark, 0, memory_order_relaxed); /* nobody shall find it again */
        lane->depth--;
    }
}

/* Gives up the lanes of one owner (or, with `others`, of everybody but it), to be continued by new threads. */
static void
disown_locked(const void *owner, int others)
{
    for (pfo_recorder *recorder = recorders; recorder != NULL; recorder = recorder->next) {
        const uint64_t epoch = atomic_load_explicit(&recorder->epoch, memory_order_relaxed);
        for (pfo_lane *lane = recorder->lanes; lane != NULL; lane = lane->next) {
            if (lane->owner == NULL || (lane->owner == owner) == others) {
                continue;
            }
            lane->owner = NULL;
            if (lane->epoch != epoch) {
                free_contents(lane);
            }
        }
    }
}

/* Thread-exit hook; `mine` is the ending thread's cache. */
static void
thread_ends(void *mine)
{
    pfo_mutex_lock(&lock);
    disown_locked(mine, 0);
    pfo_mutex_unlock(&lock);
    memset(mine, 0, sizeof cache);
}

static void
before_fork(void)
{
    pfo_mutex_lock(&lock);
}

static void
after_fork_in_parent(void)
{
    pfo_mutex_unlock(&lock);
}

static void
after_fork_in_child(void)
{
    disown_locked(cache, 1);
    pfo_mutex_unlock(&lock);
}

static void
install_hooks(void)
{
    hooks_error = pthread_key_create(&exit_key, thread_ends);
    if (hooks_error == 0) {
        hooks_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    }
}

static uint64_t
new_epoch(void)
{
    return atomic_fetch_add_explicit(&last_epoch, 1, memory_order_relaxed) + 1;
}

static pfo_status
check_limits(int64_t max_names, int64_t span_capacity, pfo_error *err)
{
    if (max_names < 1 || max_names > PFO_RECORDER_MOST_NAMES) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "max_names must be from 1 to %d, not %lld", (int)PFO_RECORDER_MOST_NAMES,
                        (long long)max_names);
    }
    if (span_capacity < 0 || span_capacity > PFO_SPANS_MOST) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "span_capacity must be from 0 to %d, not %lld", (int)PFO_SPANS_MOST,
                        (long long)span_capacity);
    }
    return PFO_OK;
}

pfo_status
pfo_recorder_create(int64_t max_names, int64_t span_capacity, pfo_recorder **out, pfo_error *err)
{
    *out = NULL;
    PFO_TRY(check_limits(max_names, span_capacity, err));
    (void)pthread_once(&hooks_once, install_hooks);
    if (hooks_error != 0) {
        return pfo_fail(err, PFO_UNAVAILABLE, "no thread-exit hook for the profiler: error %d", hooks_error);
    }
    pfo_recorder *recorder = pfo_alloc_array(1, sizeof *recorder);
    pfo_spans *spans = recorder == NULL || span_capacity == 0 ? NULL : pfo_spans_create(span_capacity);
    if (recorder == NULL || (span_capacity > 0 && spans == NULL)) {
        pfo_free(recorder);
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a recorder with %lld spans", (long long)span_capacity);
    }
    recorder->max_names = (uint32_t)max_names;
    recorder->spans = spans;
    recorder->begun_tick = pfo_ticks();
    atomic_init(&recorder->epoch, new_epoch());
    pfo_mutex_lock(&lock);
    recorder->next = recorders;
    recorders = recorder;
    pfo_mutex_unlock(&lock);
    *out = recorder;
    return PFO_OK;
}

void
pfo_recorder_destroy(pfo_recorder *recorder)
{
    if (recorder == NULL) {
        return;
    }
    pfo_mutex_lock(&lock);
    pfo_recorder **link = &recorders;
    while (*link != recorder) {
        link = &(*link)->next;
    }
    *link = recorder->next;
    pfo_mutex_unlock(&lock);
    for (pfo_lane *lane = recorder->lanes; lane != NULL;) {
        pfo_lane *next = lane->next;
        free_contents(lane);
        pfo_free(lane);
        lane = next;
    }
    pfo_spans_release(recorder->spans);
    pfo_free(recorder->overflow_seen);
    pfo_free(recorder);
}

uint64_t
pfo_recorder_epoch(const pfo_recorder *recorder)
{
    return atomic_load_explicit(&recorder->epoch, memory_order_acquire);
}

int64_t
pfo_recorder_max_names(const pfo_recorder *recorder)
{
    return (int64_t)recorder->max_names;
}

int64_t
pfo_recorder_names(pfo_recorder *recorder)
{
    return (int64_t)atomic_load_explicit(&recorder->names, memory_order_acquire);
}

pfo_name
pfo_recorder_add_name(pfo_recorder *recorder)
{
    pfo_mutex_lock(&lock);
    const uint32_t names = atomic_load_explicit(&recorder->names, memory_order_relaxed);
    pfo_name name = { .epoch = pfo_recorder_epoch(recorder), .id = PFO_RECORDER_OVERFLOW };
    if (names < recorder->max_names) {
        name.id = names + 1;
        atomic_store_explicit(&recorder->names, name.id, memory_order_release);
    }
    pfo_mutex_unlock(&lock);
    return name;
}

void
pfo_recorder_note_overflow(pfo_recorder *recorder, uint64_t hash)
{
    const uint64_t bit = (hash ^ hash >> 16 ^ hash >> 32 ^ hash >> 48) % OVERFLOW_BITS;
    pfo_mutex_lock(&lock);
    if (recorder->overflow_seen == NULL) {
        recorder->overflow_seen = pfo_alloc_array(OVERFLOW_BITS / 64, sizeof *recorder->overflow_seen);
    }
    uint64_t *word = recorder->overflow_seen == NULL ? NULL : &recorder->overflow_seen[bit / 64];
    if (word != NULL && (*word >> (bit % 64) & 1) == 0) {
        *word |= (uint64_t)1 << (bit % 64);
        recorder->overflow_distinct++;
    }
    pfo_mutex_unlock(&lock);
}

uint64_t
pfo_recorder_overflow_names(pfo_recorder *recorder)
{
    pfo_mutex_lock(&lock);
    const uint64_t distinct = recorder->overflow_distinct;
    pfo_mutex_unlock(&lock);
    return distinct;
}

int64_t
pfo_recorder_begun_tick(pfo_recorder *recorder)
{
    pfo_mutex_lock(&lock);
    const int64_t tick = recorder->begun_tick;
    pfo_mutex_unlock(&lock);
    return tick;
}

uint64_t
pfo_recorder_reset(pfo_recorder *recorder)
{
    const uint64_t epoch = new_epoch();
    pfo_mutex_lock(&lock);
    atomic_store_explicit(&recorder->names, 0, memory_order_relaxed);
    atomic_store_explicit(&recorder->dropped, 0, memory_order_relaxed);
    atomic_store_explicit(&recorder->epoch, epoch, memory_order_release);
    /* After the epoch: who takes a later position sees the new epoch, and leaves an old range's span out. */
    recorder->first_span = recorder->spans == NULL ? 0 : pfo_spans_head(recorder->spans);
    recorder->begun_tick = pfo_ticks();
    pfo_free(recorder->overflow_seen);
    recorder->overflow_seen = NULL;
    recorder->overflow_distinct = 0;
    for (pfo_lane *lane = recorder->lanes; lane != NULL; lane = lane->next) {
        if (lane->owner == NULL) {
            free_contents(lane);
        }
    }
    pfo_mutex_unlock(&lock);
    return epoch;
}

static void
drop(pfo_recorder *recorder)
{
    (void)atomic_fetch_add_explicit(&recorder->dropped, 1, memory_order_relaxed);
}

void
pfo_recorder_set_thread_namer(pfo_thread_namer namer)
{
    atomic_store_explicit(&thread_namer, namer, memory_order_release);
}

/* Tree and stack for a lane that has none. */
static pfo_status
fill_locked(pfo_lane *lane)
{
    if (lane->tree == NULL) {
        lane->tree = pfo_calltree_create(PFO_RECORDER_OVERFLOW);
    }
    if (lane->frames == NULL) {
        lane->frames = pfo_alloc_array(FIRST_FRAMES, sizeof *lane->frames);
        lane->frame_capacity = lane->frames == NULL ? 0 : (uint32_t)FIRST_FRAMES;
    }
    return lane->tree == NULL || lane->frames == NULL ? PFO_NO_MEMORY : PFO_OK;
}

/* The calling thread's own lane, else one that waits for a thread, else a new one; NULL when memory is out. */
static pfo_lane *
claim_locked(pfo_recorder *recorder, const char *thread_name)
{
    pfo_lane *idle = NULL;
    pfo_lane **link = &recorder->lanes;
    for (; *link != NULL; link = &(*link)->next) {
        if ((*link)->owner == cache) {
            return *link;
        }
        if ((*link)->owner == NULL) {
            idle = *link;
        }
    }
    if (idle == NULL) {
        idle = pfo_alloc_array(1, sizeof *idle);
        if (idle == NULL) {
            return NULL;
        }
        idle->epoch = pfo_recorder_epoch(recorder);
        idle->recorder = recorder;
        idle->spans = recorder->spans;
        idle->number = recorder->lane_count++;
        *link = idle;
    }
    pop_finished(idle, 1);
    idle->owner = cache;
    idle->thread_id = pfo_thread_id();
    memcpy(idle->thread_name, thread_name, sizeof idle->thread_name);
    return idle;
}

static void
remember(pfo_lane *lane, uint64_t epoch)
{
    for (int i = 0; i < CACHE_SLOTS; i++) {
        if (cache[i].lane == lane) {
            cache[i] = (cache_slot){ 0, NULL };
        }
    }
    cache[epoch % CACHE_SLOTS] = (cache_slot){ epoch, lane };
}

/* The calling thread's lane for an epoch that is not in its cache; NULL when the epoch has passed (*passed = 1) or
 * memory is out. */
static pfo_lane *
attach(pfo_recorder *recorder, uint64_t epoch, int *passed)
{
    *passed = pfo_recorder_epoch(recorder) != epoch;
    if (*passed) {
        return NULL;
    }
    if (pthread_getspecific(exit_key) == NULL && pthread_setspecific(exit_key, cache) != 0) {
        return NULL; /* without the exit hook the lane could never be handed on */
    }
    char thread_name[PFO_THREAD_NAME_BYTES] = "";
    const pfo_thread_namer namer = atomic_load_explicit(&thread_namer, memory_order_acquire);
    (namer != NULL ? namer : pfo_thread_name)(thread_name, sizeof thread_name);
    pfo_mutex_lock(&lock);
    pfo_lane *lane = NULL;
    *passed = pfo_recorder_epoch(recorder) != epoch;
    if (!*passed) {
        lane = claim_locked(recorder, thread_name);
        if (lane != NULL) {
            if (lane->epoch != epoch) {
                free_contents(lane);
                lane->epoch = epoch;
            }
            if (fill_locked(lane) != PFO_OK) {
                lane->owner = NULL; /* what it has is whole, and waits for the next try */
                lane = NULL;
            }
        }
    }
    pfo_mutex_unlock(&lock);
    if (lane != NULL) {
        lane->last_tick = pfo_ticks();
        remember(lane, epoch);
    }
    return lane;
}

static inline pfo_lane *
cached_lane(uint64_t epoch)
{
    const cache_slot *slot = &cache[epoch % CACHE_SLOTS];
    return slot->epoch == epoch ? slot->lane : NULL;
}

/* ---- histograms ------------------------------------------------------------------------------ */

static pfo_status
grow_table(pfo_lane *lane, uint32_t id)
{
    uint32_t capacity = lane->capacity < FIRST_TABLE ? FIRST_TABLE : lane->capacity;
    while (capacity <= id) {
        capacity *= 2;
    }
    name_entry *table = pfo_alloc_array(capacity, sizeof *table);
    if (table == NULL) {
        return PFO_NO_MEMORY;
    }
    for (uint32_t i = 0; i < lane->capacity; i++) {
        name_entry *from = &lane->table[i];
        atomic_init(&table[i].histogram, atomic_load_explicit(&from->histogram, memory_order_relaxed));
        atomic_init(&table[i].suspended_ticks, atomic_load_explicit(&from->suspended_ticks, memory_order_relaxed));
        atomic_init(&table[i].memory, atomic_load_explicit(&from->memory, memory_order_relaxed));
    }
    pfo_mutex_lock(&lock);
    name_entry *old = lane->table;
    lane->table = table;
    lane->capacity = capacity;
    pfo_mutex_unlock(&lock);
    pfo_free(old);
    return PFO_OK;
}

/* This thread's first record of a name. NULL when memory is out. */
static name_entry *
make_entry(pfo_lane *lane, uint32_t id)
{
    if (id >= lane->capacity && grow_table(lane, id) != PFO_OK) {
        return NULL;
    }
    pfo_histogram *made = pfo_histogram_create();
    if (made == NULL) {
        return NULL;
    }
    atomic_store_explicit(&lane->table[id].histogram, made, memory_order_release);
    return &lane->table[id];
}

static inline name_entry *
entry_of(pfo_lane *lane, uint32_t id)
{
    name_entry *entry = id < lane->capacity ? &lane->table[id] : NULL;
    if (entry == NULL || atomic_load_explicit(&entry->histogram, memory_order_relaxed) == NULL) {
        entry = make_entry(lane, id);
    }
    return entry;
}

static inline name_entry *
record(pfo_lane *lane, uint32_t id, int64_t ticks)
{
    name_entry *entry = entry_of(lane, id);
    if (entry == NULL ||
        pfo_histogram_record(atomic_load_explicit(&entry->histogram, memory_order_relaxed), ticks) != PFO_OK) {
        drop(lane->recorder);
        return NULL;
    }
    return entry;
}

static void
add_span(const pfo_lane *lane, const pfo_raw_span *span)
{
    const uint64_t position = pfo_spans_take(lane->spans);
    if (pfo_recorder_epoch(lane->recorder) == lane->epoch) {
        pfo_spans_fill(lane->spans, position, span);
    }
}

/* ---- the stack ------------------------------------------------------------------------------- */

/* The time since the last event goes to whatever is on top of the stack. */
static inline void
advance(pfo_lane *lane, int64_t tick)
{
    pfo_call_node *top = lane->depth > 0 ? lane->frames[lane->depth - 1].node : pfo_calltree_root(lane->tree);
    pfo_call_node_add_self(top, tick - lane->last_tick);
    lane->last_tick = tick;
}

/* Room for one more frame; 0 when the stack is as deep as it may be, or memory is out. */
static int
grow_frames(pfo_lane *lane)
{
    if (lane->frame_capacity >= PFO_RECORDER_DEEPEST) {
        return 0;
    }
    const uint32_t capacity = 2 * lane->frame_capacity;
    frame *frames = pfo_alloc_array(capacity, sizeof *frames);
    if (frames == NULL) {
        return 0;
    }
    pfo_mutex_lock(&lock);
    for (uint32_t i = 0; i < lane->depth; i++) {
        frames[i].node = lane->frames[i].node;
        atomic_init(&frames[i].mark, atomic_load_explicit(&lane->frames[i].mark, memory_order_relaxed));
    }
    frame *old = lane->frames;
    lane->frames = frames;
    lane->frame_capacity = capacity;
    pfo_mutex_unlock(&lock);
    pfo_free(old);
    return 1;
}

/* Puts a range on the stack and reads its begin tick. */
static inline void
push(pfo_lane *lane, pfo_open_range *range)
{
    pop_finished(lane, 0);
    range->lane = lane;
    range->place = lane->depth;
    if (lane->depth == lane->frame_capacity && !grow_frames(lane)) {
        range->serial = 0;
        range->begin_tick = pfo_ticks();
        return;
    }
    pfo_call_node *top = lane->depth > 0 ? lane->frames[lane->depth - 1].node : pfo_calltree_root(lane->tree);
    frame *mine = &lane->frames[lane->depth];
    mine->node = pfo_calltree_child(lane->tree, top, range->name.id);
    range->serial = ++lane->last_serial;
    atomic_store_explicit(&mine->mark, range->serial << STATE_BITS | FRAME_OPEN, memory_order_relaxed);
    const int64_t tick = pfo_ticks();
    pfo_call_node_add_self(top, tick - lane->last_tick);
    lane->last_tick = tick;
    lane->depth++;
    range->begin_tick = tick;
}

/* The frame of a range, which can only have moved down since it was pushed; UINT32_MAX if it is gone. */
static uint32_t
find_frame(const pfo_lane *lane, const pfo_open_range *range)
{
    uint32_t place = range->place < lane->frame_capacity ? range->place + 1 : lane->frame_capacity;
    while (place-- > 0) {
        if (atomic_load_explicit(&lane->frames[place].mark, memory_order_relaxed) ==
            (range->serial << STATE_BITS | FRAME_OPEN)) {
            return place;
        }
    }
    return UINT32_MAX;
}

/* Takes a frame out from below others of its own lane: those get the nodes of the context without it. */
static void
remove_frame(pfo_lane *lane, uint32_t place)
{
    pfo_mutex_lock(&lock);
    lane->depth--;
    pfo_call_node *below = place > 0 ? lane->frames[place - 1].node : pfo_calltree_root(lane->tree);
    for (uint32_t i = place; i < lane->depth; i++) {
        const frame *from = &lane->frames[i + 1];
        below = pfo_calltree_child(lane->tree, below, from->node->name);
        lane->frames[i].node = below;
        atomic_store_explicit(&lane->frames[i].mark, atomic_load_explicit(&from->mark, memory_order_relaxed),
                              memory_order_relaxed);
    }
    atomic_store_explicit(&lane->frames[lane->depth].mark, 0, memory_order_relaxed); /* nobody shall find it twice */
    pfo_mutex_unlock(&lock);
}

/* Marks the frame of a range whose lane is another thread's. 1 if it was there. */
static int
mark_elsewhere(const pfo_open_range *range, uint64_t state)
{
    pfo_lane *lane = range->lane;
    pfo_mutex_lock(&lock);
    uint32_t place = UINT32_MAX;
    if (lane->epoch == range->name.epoch && lane->frames != NULL) {
        place = find_frame(lane, range);
    }
    if (place != UINT32_MAX) {
        atomic_store_explicit(&lane->frames[place].mark, range->serial << STATE_BITS | state, memory_order_relaxed);
    }
    pfo_mutex_unlock(&lock);
    return place != UINT32_MAX;
}

/* Takes a range off whatever stack it is on, wherever it is there. `mine` is the calling thread's lane. Returns 1 if its
 * node has counted it or will. */
static int
take_off(pfo_lane *mine, const pfo_open_range *range, int64_t tick, uint64_t state)
{
    if (range->serial == 0 || range->lane == NULL) {
        return 0;
    }
    if (range->lane != mine) {
        return mark_elsewhere(range, state);
    }
    const uint32_t place = find_frame(mine, range);
    if (place == UINT32_MAX || place >= mine->depth) {
        return 0;
    }
    advance(mine, tick);
    if (state == FRAME_ENDED) {
        pfo_call_node_add_count(mine->frames[place].node);
    }
    remove_frame(mine, place);
    pop_finished(mine, 0);
    return 1;
}

/* Takes a range off if it is on top of the calling thread's stack, as nearly all are. 0: it is not. */
static inline int
pop(pfo_lane *mine, const pfo_open_range *range, int64_t tick, int counts)
{
    if (mine == NULL || mine != range->lane || mine->depth == 0) {
        return 0;
    }
    const frame *top = &mine->frames[mine->depth - 1];
    if (atomic_load_explicit(&top->mark, memory_order_relaxed) != (range->serial << STATE_BITS | FRAME_OPEN)) {
        return 0;
    }
    pfo_call_node_add_self(top->node, tick - mine->last_tick);
    mine->last_tick = tick;
    if (counts) {
        pfo_call_node_add_count(top->node);
    }
    mine->depth--;
    return 1;
}

void
pfo_recorder_begin(pfo_recorder *recorder, pfo_name name, pfo_open_range *range)
{
    pfo_lane *lane = cached_lane(name.epoch);
    range->name = name;
    if (lane == NULL) {
        int passed;
        lane = attach(recorder, name.epoch, &passed);
        if (lane == NULL) {
            range->lane = NULL;
            range->serial = 0;
            range->place = 0;
            range->begin_tick = pfo_ticks();
            return;
        }
    }
    push(lane, range);
}

/* The end of a range that is not on top of the calling thread's stack. Returns the lane that records it, NULL if it is
 * not to be recorded. */
static pfo_lane *
end_slowly(pfo_recorder *recorder, const pfo_open_range *range, int64_t end_tick)
{
    pfo_lane *lane = cached_lane(range->name.epoch);
    if (lane == NULL) {
        int passed;
        lane = attach(recorder, range->name.epoch, &passed);
        if (lane == NULL) {
            if (!passed) {
                drop(recorder);
            }
            return NULL;
        }
    }
    if (!take_off(lane, range, end_tick, FRAME_ENDED)) {
        pfo_call_node_add_count(pfo_calltree_overflow(lane->tree));
    }
    return lane;
}

void
pfo_recorder_end(pfo_recorder *recorder, pfo_open_range *range, int64_t end_tick)
{
    pfo_lane *lane = cached_lane(range->name.epoch);
    uint32_t flags = 0;
    if (!pop(lane, range, end_tick, 1)) {
        lane = end_slowly(recorder, range, end_tick);
        if (lane == NULL) {
            return;
        }
        flags = range->serial == 0 ? 0 : PFO_SPAN_SUSPENDS;
    }
    const int64_t ticks = end_tick < range->begin_tick ? 0 : end_tick - range->begin_tick;
    (void)record(lane, range->name.id, ticks);
    if (lane->spans != NULL) {
        const pfo_lane *begun = range->lane == NULL ? lane : range->lane;
        const pfo_raw_span span = { range->begin_tick, ticks, range->name.id, begun->number, range->place, flags };
        add_span(lane, &span);
    }
}

void
pfo_recorder_abandon(pfo_recorder *recorder, pfo_open_range *range, int64_t tick)
{
    (void)recorder;
    pfo_lane *lane = cached_lane(range->name.epoch);
    if (!pop(lane, range, tick, 0)) {
        (void)take_off(lane, range, tick, FRAME_ABANDONED);
    }
}

void
pfo_recorder_begin_suspending(pfo_recorder *recorder, pfo_name name, pfo_suspending_range *range)
{
    pfo_recorder_begin(recorder, name, &range->frame);
    range->first_tick = range->frame.begin_tick;
    range->depth = range->frame.place;
    range->active_ticks = 0;
}

void
pfo_recorder_suspend(pfo_recorder *recorder, pfo_suspending_range *range, int64_t tick)
{
    if (tick > range->frame.begin_tick) {
        range->active_ticks += tick - range->frame.begin_tick;
    }
    pfo_recorder_abandon(recorder, &range->frame, tick);
}

void
pfo_recorder_resume(pfo_recorder *recorder, pfo_suspending_range *range)
{
    const pfo_name name = range->frame.name;
    pfo_recorder_begin(recorder, name, &range->frame);
}

void
pfo_recorder_end_suspending(pfo_recorder *recorder, pfo_suspending_range *range, int64_t end_tick)
{
    pfo_lane *lane = cached_lane(range->frame.name.epoch);
    if (!pop(lane, &range->frame, end_tick, 1)) {
        lane = end_slowly(recorder, &range->frame, end_tick);
        if (lane == NULL) {
            return;
        }
    }
    const int64_t last = end_tick > range->frame.begin_tick ? end_tick - range->frame.begin_tick : 0;
    const int64_t active = range->active_ticks + last;
    const int64_t wall = end_tick - range->first_tick > active ? end_tick - range->first_tick : active;
    name_entry *entry = record(lane, range->frame.name.id, wall);
    if (entry != NULL) {
        atomic_store_explicit(&entry->suspended_ticks,
                              atomic_load_explicit(&entry->suspended_ticks, memory_order_relaxed) +
                                  (uint64_t)(wall - active),
                              memory_order_relaxed);
    }
    if (lane->spans != NULL) {
        const pfo_lane *begun = range->frame.lane == NULL ? lane : range->frame.lane;
        const pfo_raw_span span = { range->first_tick, wall,         range->frame.name.id,
                                    begun->number,     range->depth, PFO_SPAN_SUSPENDS };
        add_span(lane, &span);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* The entry's memory sums, made if they are not there; NULL when memory is out. */
static memory_sums *
memory_of(pfo_lane *lane, uint32_t id)
{
    name_entry *entry = entry_of(lane, id);
    if (entry == NULL) {
        return NULL;
    }
    memory_sums *sums = atomic_load_explicit(&entry->memory, memory_order_relaxed);
    if (sums == NULL) {
        sums = pfo_alloc_array(1, sizeof *sums);
        if (sums != NULL) {
            atomic_init(&sums->least, INT64_MAX);
            atomic_init(&sums->greatest, INT64_MIN);
            atomic_store_explicit(&entry->memory, sums, memory_order_release);
        }
    }
    return sums;
}

void
pfo_recorder_add_memory(pfo_recorder *recorder, pfo_name name, int64_t bytes)
{
    pfo_lane *lane = cached_lane(name.epoch);
    int passed = 0;
    if (lane == NULL) {
        lane = attach(recorder, name.epoch, &passed);
    }
    memory_sums *sums = lane == NULL ? NULL : memory_of(lane, name.id);
    if (sums == NULL) {
        if (!passed) {
            drop(recorder);
        }
        return;
    }
    if (bytes < atomic_load_explicit(&sums->least, memory_order_relaxed)) {
        atomic_store_explicit(&sums->least, bytes, memory_order_relaxed);
    }
    if (bytes > atomic_load_explicit(&sums->greatest, memory_order_relaxed)) {
        atomic_store_explicit(&sums->greatest, bytes, memory_order_relaxed);
    }
    atomic_store_explicit(&sums->sum, atomic_load_explicit(&sums->sum, memory_order_relaxed) + bytes,
                          memory_order_relaxed);
    atomic_store_explicit(&sums->count, atomic_load_explicit(&sums->count, memory_order_relaxed) + 1,
                          memory_order_release);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void
add_sums(pfo_name_sums *sums, const name_entry *entry)
{
    sums->suspended_ticks += atomic_load_explicit(&entry->suspended_ticks, memory_order_relaxed);
    const memory_sums *memory = atomic_load_explicit(&entry->memory, memory_order_acquire);
    const uint64_t count = memory == NULL ? 0 : atomic_load_explicit(&memory->count, memory_order_acquire);
    if (count == 0) {
        return;
    }
    const int64_t least = atomic_load_explicit(&memory->least, memory_order_relaxed);
    const int64_t greatest = atomic_load_explicit(&memory->greatest, memory_order_relaxed);
    sums->memory_least = sums->memory_count == 0 || least < sums->memory_least ? least : sums->memory_least;
    sums->memory_greatest =
        sums->memory_count == 0 || greatest > sums->memory_greatest ? greatest : sums->memory_greatest;
    sums->memory_count += count;
    sums->memory_sum += atomic_load_explicit(&memory->sum, memory_order_relaxed);
}

/* Sums one name over all threads. PFO_STATE if the epoch has passed. */
static pfo_status
merge_name(pfo_recorder *recorder, uint64_t epoch, uint32_t id, pfo_histogram *merged, pfo_name_sums *sums,
           pfo_error *err)
{
    pfo_status status = PFO_OK;
    memset(sums, 0, sizeof *sums);
    pfo_mutex_lock(&lock);
    const int passed = pfo_recorder_epoch(recorder) != epoch;
    for (const pfo_lane *lane = recorder->lanes; !passed && lane != NULL && status == PFO_OK; lane = lane->next) {
        if (lane->epoch != epoch || id >= lane->capacity) {
            continue;
        }
        const name_entry *entry = &lane->table[id];
        const pfo_histogram *histogram = atomic_load_explicit(&entry->histogram, memory_order_acquire);
        if (histogram != NULL) {
            status = pfo_histogram_add(merged, histogram);
            add_sums(sums, entry);
        }
    }
    pfo_mutex_unlock(&lock);
    if (passed) {
        return pfo_fail(err, PFO_STATE, "the recorder was reset meanwhile");
    }
    return status == PFO_OK ? PFO_OK : pfo_fail(err, status, "no memory to sum the recorded ranges");
}

pfo_status
pfo_recorder_visit_names(pfo_recorder *recorder, uint64_t epoch, pfo_name_visitor visitor, void *context,
                         pfo_error *err)
{
    pfo_histogram *merged = pfo_histogram_create();
    if (merged == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to sum the recorded ranges");
    }
    const int64_t names = pfo_recorder_names(recorder);
    pfo_status status = PFO_OK;
    for (int64_t id = 0; id <= names && status == PFO_OK; id++) {
        pfo_name_sums sums;
        status = merge_name(recorder, epoch, (uint32_t)id, merged, &sums, err);
        if (status == PFO_OK && pfo_histogram_count(merged) > 0) {
            status = visitor(context, (uint32_t)id, merged, &sums, err);
            pfo_histogram_clear(merged);
        }
    }
    pfo_histogram_destroy(merged);
    return status;
}

pfo_status
pfo_recorder_visit_lanes(pfo_recorder *recorder, uint64_t epoch, pfo_lane_visitor visitor, void *context,
                         pfo_error *err)
{
    pfo_status status = PFO_OK;
    pfo_mutex_lock(&lock);
    if (pfo_recorder_epoch(recorder) != epoch) {
        status = pfo_fail(err, PFO_STATE, "the recorder was reset meanwhile");
    }
    for (const pfo_lane *lane = recorder->lanes; lane != NULL && status == PFO_OK; lane = lane->next) {
        if (lane->epoch == epoch && lane->tree != NULL) {
            const pfo_lane_view view = { lane->number, lane->thread_id, lane->thread_name, lane->tree };
            status = visitor(context, &view, err);
        }
    }
    pfo_mutex_unlock(&lock);
    return status;
}

pfo_spans *
pfo_recorder_spans(pfo_recorder *recorder, uint64_t *first)
{
    pfo_mutex_lock(&lock);
    *first = recorder->first_span;
    pfo_mutex_unlock(&lock);
    return recorder->spans;
}

static size_t
contents_bytes(const pfo_lane *lane)
{
    size_t bytes = lane->capacity * sizeof *lane->table + lane->frame_capacity * sizeof *lane->frames;
    bytes += lane->tree == NULL ? 0 : pfo_calltree_bytes(lane->tree);
    for (uint32_t id = 0; id < lane->capacity; id++) {
        const name_entry *entry = &lane->table[id];
        const pfo_histogram *histogram = atomic_load_explicit(&entry->histogram, memory_order_acquire);
        bytes += histogram == NULL ? 0 : pfo_histogram_bytes(histogram);
        bytes += atomic_load_explicit(&entry->memory, memory_order_relaxed) == NULL ? 0 : sizeof(memory_sums);
    }
    return bytes;
}

pfo_recorder_usage
pfo_recorder_measure(pfo_recorder *recorder)
{
    pfo_recorder_usage usage = { .threads = 0, .bytes = sizeof *recorder, .dropped = 0 };
    usage.bytes += recorder->spans == NULL ? 0 : pfo_spans_bytes(recorder->spans);
    pfo_mutex_lock(&lock);
    usage.bytes += recorder->overflow_seen == NULL ? 0 : OVERFLOW_BITS / 8;
    for (const pfo_lane *lane = recorder->lanes; lane != NULL; lane = lane->next) {
        usage.threads++;
        usage.bytes += sizeof *lane + contents_bytes(lane);
    }
    pfo_mutex_unlock(&lock);
    usage.dropped = atomic_load_explicit(&recorder->dropped, memory_order_relaxed);
    return usage;
}
