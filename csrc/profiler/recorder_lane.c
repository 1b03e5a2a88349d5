/* recorder_lane.c: whose lane it is: the thread-local cache, claiming, and what becomes of lanes when their thread ends or
 * the process forks. See recorder_lane.h for the invariants. */
#include "profiler/recorder_lane.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/platform.h"

#include <string.h>

enum { FIRST_FRAMES = 16 };

pfo_mutex pfo_recorder_lock = PFO_MUTEX_INIT;
pfo_recorder *pfo_recorders;
_Thread_local pfo_lane_cache_slot pfo_lane_cache[PFO_LANE_CACHE_SLOTS];

static _Atomic(pfo_thread_namer) thread_namer;
static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;
static pthread_key_t exit_key;
static int hooks_error;

void
pfo_lane_free_contents(pfo_lane *lane)
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

/* Gives up the lanes of one owner (or, with `others`, of everybody but it), to be continued by new threads. */
static void
disown_locked(const void *owner, int others)
{
    for (pfo_recorder *recorder = pfo_recorders; recorder != NULL; recorder = recorder->next) {
        const uint64_t epoch = atomic_load_explicit(&recorder->epoch, memory_order_relaxed);
        for (pfo_lane *lane = recorder->lanes; lane != NULL; lane = lane->next) {
            if (lane->owner == NULL || (lane->owner == owner) == others) {
                continue;
            }
            lane->owner = NULL;
            if (lane->epoch != epoch) {
                pfo_lane_free_contents(lane);
            }
        }
    }
}

/* Thread-exit hook; `mine` is the ending thread's cache. */
static void
thread_ends(void *mine)
{
    pfo_mutex_lock(&pfo_recorder_lock);
    disown_locked(mine, 0);
    pfo_mutex_unlock(&pfo_recorder_lock);
    memset(mine, 0, sizeof pfo_lane_cache);
}

static void
before_fork(void)
{
    pfo_mutex_lock(&pfo_recorder_lock);
}

static void
after_fork_in_parent(void)
{
    pfo_mutex_unlock(&pfo_recorder_lock);
}

static void
after_fork_in_child(void)
{
    disown_locked(pfo_lane_cache, 1);
    for (pfo_recorder *recorder = pfo_recorders; recorder != NULL; recorder = recorder->next) {
        for (pfo_lane *lane = recorder->lanes; lane != NULL; lane = lane->next) {
            lane->thread_id = lane->owner == pfo_lane_cache ? pfo_thread_id() : lane->thread_id;
        }
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
}

static void
install_hooks(void)
{
    hooks_error = pthread_key_create(&exit_key, thread_ends);
    if (hooks_error == 0) {
        hooks_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    }
}

int
pfo_lane_install_hooks(void)
{
    (void)pthread_once(&hooks_once, install_hooks);
    return hooks_error;
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
        if ((*link)->owner == pfo_lane_cache) {
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
    pfo_lane_pop_finished(idle, 1);
    idle->owner = pfo_lane_cache;
    idle->thread_id = pfo_thread_id();
    memcpy(idle->thread_name, thread_name, sizeof idle->thread_name);
    return idle;
}

static void
remember(pfo_lane *lane, uint64_t epoch)
{
    for (int i = 0; i < PFO_LANE_CACHE_SLOTS; i++) {
        if (pfo_lane_cache[i].lane == lane) {
            pfo_lane_cache[i] = (pfo_lane_cache_slot){ 0, NULL };
        }
    }
    pfo_lane_cache[epoch % PFO_LANE_CACHE_SLOTS] = (pfo_lane_cache_slot){ epoch, lane };
}

pfo_lane *
pfo_lane_find_again(pfo_recorder *recorder, uint64_t epoch)
{
    pfo_mutex_lock(&pfo_recorder_lock);
    pfo_lane *lane = recorder->lanes;
    while (lane != NULL && (lane->owner != pfo_lane_cache || lane->epoch != epoch)) {
        lane = lane->next;
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
    if (lane != NULL) {
        remember(lane, epoch);
    }
    return lane;
}

pfo_lane *
pfo_lane_attach(pfo_recorder *recorder, uint64_t epoch, int *passed)
{
    *passed = pfo_recorder_epoch(recorder) != epoch;
    if (*passed) {
        return NULL;
    }
    pfo_lane *known = pfo_lane_find_again(recorder, epoch);
    if (known != NULL) {
        return known;
    }
    if (pthread_getspecific(exit_key) == NULL && pthread_setspecific(exit_key, pfo_lane_cache) != 0) {
        return NULL; /* without the exit hook the lane could never be handed on */
    }
    char thread_name[PFO_THREAD_NAME_BYTES] = "";
    const pfo_thread_namer namer = atomic_load_explicit(&thread_namer, memory_order_acquire);
    (namer != NULL ? namer : pfo_thread_name)(thread_name, sizeof thread_name);
    pfo_mutex_lock(&pfo_recorder_lock);
    pfo_lane *lane = NULL;
    *passed = pfo_recorder_epoch(recorder) != epoch;
    if (!*passed) {
        lane = claim_locked(recorder, thread_name);
        if (lane != NULL) {
            if (lane->epoch != epoch) {
                pfo_lane_free_contents(lane);
                lane->epoch = epoch;
            }
            if (fill_locked(lane) != PFO_OK) {
                lane->owner = NULL; /* what it has is whole, and waits for the next try */
                lane = NULL;
            }
        }
    }
    pfo_mutex_unlock(&pfo_recorder_lock);
    if (lane != NULL) {
        lane->last_tick = pfo_ticks();
        remember(lane, epoch);
    }
    return lane;
}
