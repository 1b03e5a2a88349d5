/* recorder_lane.h: what the recorder's files share: a lane for each (recorder, thread) pair, a table from name id to
 * histogram, a tree and a stack of frames. Its owner alone writes to it.
 *
 * recorder.c: recorders, epochs and names. recorder_lane.c: whose lane it is. recorder_entries.c: histograms and memory.
 * recorder_stack.c: the stack of open ranges, begin and end. recorder_read.c: sums over lanes.
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
#ifndef PFO_PROFILER_RECORDER_LANE_H
#define PFO_PROFILER_RECORDER_LANE_H

#include "base/sync.h"
#include "profiler/recorder.h"

#include <stdatomic.h>

enum { PFO_LANE_CACHE_SLOTS = 8, PFO_OVERFLOW_BITS = 1 << 16 };

enum { PFO_FRAME_OPEN = 0, PFO_FRAME_ENDED = 1, PFO_FRAME_ABANDONED = 2, PFO_FRAME_STATE_BITS = 2 };

typedef struct pfo_frame {
    pfo_call_node *node;
    _Atomic uint64_t mark; /* serial << PFO_FRAME_STATE_BITS | state; [frames] */
} pfo_frame;

typedef struct pfo_memory_sums {
    _Atomic uint64_t count;
    _Atomic int64_t sum, least, greatest;
} pfo_memory_sums;

typedef struct pfo_name_entry {
    _Atomic(pfo_histogram *) histogram;
    _Atomic uint64_t suspended_ticks;
    _Atomic(pfo_memory_sums *) memory;
} pfo_name_entry;

struct pfo_lane {
    struct pfo_lane *next; /* [lock] */
    const void *owner;     /* [lock] address of the owning thread's cache, NULL while no thread has it */
    uint64_t epoch;        /* [lock] */
    pfo_recorder *recorder;
    pfo_spans *spans;      /* the recorder's, NULL without */
    pfo_name_entry *table; /* this and what follows: written by the owner, what others read with [lock] */
    pfo_calltree *tree;
    pfo_frame *frames;
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

typedef struct pfo_lane_cache_slot {
    uint64_t epoch; /* 0: empty */
    pfo_lane *lane;
} pfo_lane_cache_slot;

/* Hidden, so that the way to the thread-local one is as short as to a static one. */
#define PFO_HIDDEN __attribute__((visibility("hidden")))

extern PFO_HIDDEN pfo_mutex pfo_recorder_lock;
extern PFO_HIDDEN pfo_recorder *pfo_recorders; /* [lock] */
extern PFO_HIDDEN _Thread_local pfo_lane_cache_slot pfo_lane_cache[PFO_LANE_CACHE_SLOTS];

/* Makes sure that ending threads and forks are noticed; 0 or the system's error. */
int pfo_lane_install_hooks(void);

/* The calling thread's lane for an epoch that it has not cached; NULL when the epoch has passed (*passed = 1) or
 * memory is out. */
pfo_lane *pfo_lane_attach(pfo_recorder *recorder, uint64_t epoch, int *passed);

/* The calling thread's lane of an epoch that other recorders have pushed out of its cache, with its stack as it was; NULL
 * if it has none. */
pfo_lane *pfo_lane_find_again(pfo_recorder *recorder, uint64_t epoch);

/* [lock], or nobody else knows the lane */
void pfo_lane_free_contents(pfo_lane *lane);

/* Takes frames off the top that another thread has ended or given up, or, with `all`, every frame. Owner only. */
void pfo_lane_pop_finished(pfo_lane *lane, int all);

/* This thread's first record of a name. NULL when memory is out. */
pfo_name_entry *pfo_lane_make_entry(pfo_lane *lane, uint32_t id);

static inline pfo_lane *
pfo_lane_cached(uint64_t epoch)
{
    const pfo_lane_cache_slot *slot = &pfo_lane_cache[epoch % PFO_LANE_CACHE_SLOTS];
    return slot->epoch == epoch ? slot->lane : NULL;
}

static inline pfo_name_entry *
pfo_lane_entry(pfo_lane *lane, uint32_t id)
{
    pfo_name_entry *entry = id < lane->capacity ? &lane->table[id] : NULL;
    if (entry == NULL || atomic_load_explicit(&entry->histogram, memory_order_relaxed) == NULL) {
        entry = pfo_lane_make_entry(lane, id);
    }
    return entry;
}

/* Counts a record that is lost. */
static inline void
pfo_recorder_drop(pfo_recorder *recorder)
{
    (void)atomic_fetch_add_explicit(&recorder->dropped, 1, memory_order_relaxed);
}

#endif
