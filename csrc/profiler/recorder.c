/* recorder.c: see recorder.h for the contract.
 *
 * Each (recorder, thread) pair has a thread_data: a table from name id to histogram. Its owner alone writes to it.
 *
 * [lock] One process-wide lock guards the list of recorders, each recorder's list of thread_data with `owner` and
 * `epoch`, and the life of tables and histograms: they are freed or moved only with the lock held, and readers of
 * another thread's data hold it. New histograms are published without it (release store into the table). The lock is
 * held for one name's merge at most while summing, so that a thread which needs it for its first record waits for
 * microseconds; pfo_recorder_measure() walks over all pointers with it.
 *
 * [epoch] Epochs are unique over all recorders and never reused, so they serve as the key of the thread-local cache: a
 * hit says "this is my data of that recorder in that epoch" without looking at the recorder. A cache entry may survive
 * its recorder or its epoch; then no valid name carries its key any more. Names of an ended epoch still hit until their
 * thread has moved on, and write into data that no reader counts.
 */
#include "profiler/recorder.h"

#include "base/alloc.h"
#include "base/sync.h"

#include <stdatomic.h>
#include <string.h>

enum { CACHE_SLOTS = 8, FIRST_TABLE = 16 };

typedef struct thread_data {
    struct thread_data *next;        /* [lock] */
    const void *owner;               /* [lock] address of the owning thread's cache, NULL while no thread has it */
    uint64_t epoch;                  /* [lock] */
    _Atomic(pfo_histogram *) *table; /* written by the owner with [lock] */
    uint32_t capacity;               /* of the table; like it */
} thread_data;

struct pfo_recorder {
    struct pfo_recorder *next; /* [lock] */
    thread_data *threads;      /* [lock] */
    uint32_t max_names;
    _Atomic uint32_t names; /* changed with [lock] */
    _Atomic uint64_t epoch; /* changed with [lock] */
    _Atomic uint64_t dropped;
};

typedef struct cache_slot {
    uint64_t epoch; /* 0: empty */
    thread_data *data;
} cache_slot;

static pfo_mutex lock = PFO_MUTEX_INIT;
static pfo_recorder *recorders;
static _Atomic uint64_t last_epoch;
static _Thread_local cache_slot cache[CACHE_SLOTS];

static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;
static pthread_key_t exit_key;
static int hooks_error;

static void
free_contents(thread_data *data)
{
    for (uint32_t id = 0; id < data->capacity; id++) {
        pfo_histogram_destroy(atomic_load_explicit(&data->table[id], memory_order_relaxed));
    }
    pfo_free(data->table);
    data->table = NULL;
    data->capacity = 0;
}

/* Gives up the data of one owner (or, with `others`, of everybody but it), to be continued by new threads. */
static void
disown_locked(const void *owner, int others)
{
    for (pfo_recorder *recorder = recorders; recorder != NULL; recorder = recorder->next) {
        const uint64_t epoch = atomic_load_explicit(&recorder->epoch, memory_order_relaxed);
        for (thread_data *data = recorder->threads; data != NULL; data = data->next) {
            if (data->owner == NULL || (data->owner == owner) == others) {
                continue;
            }
            data->owner = NULL;
            if (data->epoch != epoch) {
                free_contents(data);
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

pfo_status
pfo_recorder_create(int64_t max_names, pfo_recorder **out, pfo_error *err)
{
    *out = NULL;
    if (max_names < 1 || max_names > PFO_RECORDER_MOST_NAMES) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "max_names must be from 1 to %d, not %lld", (int)PFO_RECORDER_MOST_NAMES,
                        (long long)max_names);
    }
    (void)pthread_once(&hooks_once, install_hooks);
    if (hooks_error != 0) {
        return pfo_fail(err, PFO_UNAVAILABLE, "no thread-exit hook for the profiler: error %d", hooks_error);
    }
    pfo_recorder *recorder = pfo_alloc_array(1, sizeof *recorder);
    if (recorder == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a recorder");
    }
    recorder->max_names = (uint32_t)max_names;
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
    for (thread_data *data = recorder->threads; data != NULL;) {
        thread_data *next = data->next;
        free_contents(data);
        pfo_free(data);
        data = next;
    }
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

uint64_t
pfo_recorder_reset(pfo_recorder *recorder)
{
    const uint64_t epoch = new_epoch();
    pfo_mutex_lock(&lock);
    atomic_store_explicit(&recorder->names, 0, memory_order_relaxed);
    atomic_store_explicit(&recorder->dropped, 0, memory_order_relaxed);
    atomic_store_explicit(&recorder->epoch, epoch, memory_order_release);
    for (thread_data *data = recorder->threads; data != NULL; data = data->next) {
        if (data->owner == NULL) {
            free_contents(data);
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

/* The calling thread's own data, else one that waits for a thread, else a new one; NULL when memory is out. */
static thread_data *
claim_locked(pfo_recorder *recorder)
{
    thread_data *idle = NULL;
    for (thread_data *data = recorder->threads; data != NULL; data = data->next) {
        if (data->owner == cache) {
            return data;
        }
        if (data->owner == NULL) {
            idle = data;
        }
    }
    if (idle == NULL) {
        idle = pfo_alloc_array(1, sizeof *idle);
        if (idle == NULL) {
            return NULL;
        }
        idle->epoch = pfo_recorder_epoch(recorder);
        idle->next = recorder->threads;
        recorder->threads = idle;
    }
    idle->owner = cache;
    return idle;
}

/* The calling thread's data for an epoch that is not in its cache; NULL when the epoch has passed or memory is out. */
static thread_data *
attach(pfo_recorder *recorder, uint64_t epoch)
{
    if (pthread_getspecific(exit_key) == NULL && pthread_setspecific(exit_key, cache) != 0) {
        drop(recorder); /* without the exit hook the data could never be handed on */
        return NULL;
    }
    pfo_mutex_lock(&lock);
    thread_data *data = NULL;
    if (pfo_recorder_epoch(recorder) == epoch) {
        data = claim_locked(recorder);
        if (data == NULL) {
            drop(recorder);
        } else if (data->epoch != epoch) {
            free_contents(data);
            data->epoch = epoch;
        }
    }
    pfo_mutex_unlock(&lock);
    if (data != NULL) {
        for (int i = 0; i < CACHE_SLOTS; i++) {
            if (cache[i].data == data) {
                cache[i] = (cache_slot){ 0, NULL };
            }
        }
        cache[epoch % CACHE_SLOTS] = (cache_slot){ epoch, data };
    }
    return data;
}

static pfo_status
grow_table(thread_data *data, uint32_t id)
{
    uint32_t capacity = data->capacity < FIRST_TABLE ? FIRST_TABLE : data->capacity;
    while (capacity <= id) {
        capacity *= 2;
    }
    _Atomic(pfo_histogram *) *table = pfo_alloc_array(capacity, sizeof *table);
    if (table == NULL) {
        return PFO_NO_MEMORY;
    }
    for (uint32_t i = 0; i < data->capacity; i++) {
        atomic_init(&table[i], atomic_load_explicit(&data->table[i], memory_order_relaxed));
    }
    pfo_mutex_lock(&lock);
    _Atomic(pfo_histogram *) *old = data->table;
    data->table = table;
    data->capacity = capacity;
    pfo_mutex_unlock(&lock);
    pfo_free(old);
    return PFO_OK;
}

/* This thread's first record of a name. NULL when memory is out. */
static pfo_histogram *
make_histogram(thread_data *data, uint32_t id)
{
    if (id >= data->capacity && grow_table(data, id) != PFO_OK) {
        return NULL;
    }
    pfo_histogram *made = pfo_histogram_create();
    if (made != NULL) {
        atomic_store_explicit(&data->table[id], made, memory_order_release);
    }
    return made;
}

void
pfo_recorder_record(pfo_recorder *recorder, pfo_name name, int64_t begin_tick, int64_t end_tick)
{
    const cache_slot *slot = &cache[name.epoch % CACHE_SLOTS];
    thread_data *data = slot->epoch == name.epoch ? slot->data : attach(recorder, name.epoch);
    if (data == NULL) {
        return;
    }
    pfo_histogram *histogram =
        name.id < data->capacity ? atomic_load_explicit(&data->table[name.id], memory_order_relaxed) : NULL;
    if (histogram == NULL) {
        histogram = make_histogram(data, name.id);
    }
    if (histogram == NULL || pfo_histogram_record(histogram, end_tick - begin_tick) != PFO_OK) {
        drop(recorder);
    }
}

/* Sums one name over all threads into `merged`; *live = 0 if the epoch has passed. */
static pfo_status
merge_name(pfo_recorder *recorder, uint64_t epoch, uint32_t id, pfo_histogram *merged, int *live)
{
    pfo_status status = PFO_OK;
    pfo_mutex_lock(&lock);
    *live = pfo_recorder_epoch(recorder) == epoch;
    for (thread_data *data = recorder->threads; *live && data != NULL && status == PFO_OK; data = data->next) {
        if (data->epoch != epoch || id >= data->capacity) {
            continue;
        }
        const pfo_histogram *histogram = atomic_load_explicit(&data->table[id], memory_order_acquire);
        if (histogram != NULL) {
            status = pfo_histogram_add(merged, histogram);
        }
    }
    pfo_mutex_unlock(&lock);
    return status;
}

pfo_status
pfo_recorder_visit(pfo_recorder *recorder, uint64_t epoch, pfo_recorder_visitor visitor, void *context, pfo_error *err)
{
    pfo_histogram *merged = pfo_histogram_create();
    if (merged == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to sum the recorded ranges");
    }
    const int64_t names = pfo_recorder_names(recorder);
    pfo_status status = PFO_OK;
    int live = 1;
    for (int64_t id = 0; id <= names && live; id++) {
        status = merge_name(recorder, epoch, (uint32_t)id, merged, &live);
        if (status != PFO_OK) {
            status = pfo_fail(err, status, "no memory to sum the recorded ranges");
            break;
        }
        if (pfo_histogram_count(merged) > 0) {
            visitor(context, (uint32_t)id, merged);
            pfo_histogram_clear(merged);
        }
    }
    pfo_histogram_destroy(merged);
    return status;
}

pfo_recorder_usage
pfo_recorder_measure(pfo_recorder *recorder)
{
    pfo_recorder_usage usage = { .threads = 0, .bytes = sizeof *recorder, .dropped = 0 };
    pfo_mutex_lock(&lock);
    for (const thread_data *data = recorder->threads; data != NULL; data = data->next) {
        usage.threads++;
        usage.bytes += sizeof *data + data->capacity * sizeof *data->table;
        for (uint32_t id = 0; id < data->capacity; id++) {
            const pfo_histogram *histogram = atomic_load_explicit(&data->table[id], memory_order_acquire);
            usage.bytes += histogram == NULL ? 0 : pfo_histogram_bytes(histogram);
        }
    }
    pfo_mutex_unlock(&lock);
    usage.dropped = atomic_load_explicit(&recorder->dropped, memory_order_relaxed);
    return usage;
}
