/* sampler.c: see sampler.h.
 *
 * Invariants (under lock): held = min(taken, capacity); the newest sample is ring[(taken - 1) % capacity]; thread is valid
 * exactly while state is RUNNING or STOPPING.
 * Locks: sampler->lock guards everything in a sampler, the probes included; it is held for one sample or one copy. The state and
 * `call` are changed with it, and `call` is read with it before the thread sleeps, so no call to stop is slept through.
 * registry_lock guards the list of samplers and is never held together with another lock.
 */
#include "monitor/sampler.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/platform.h"
#include "base/sync.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

enum { STACK_BYTES = 512 * 1024 };

typedef enum sampler_state { IDLE, RUNNING, STOPPING } sampler_state;

struct pfo_sampler {
    pfo_mutex lock;
    pfo_cond changed;      /* state has changed */
    _Atomic uint32_t call; /* moves when the thread shall stop; what it sleeps on */
    sampler_state state;
    pthread_t thread;
    int64_t interval_ns;
    int64_t taken;
    int64_t missed;
    int64_t peak_rss;
    int64_t probe_ns;
    int64_t finished_cpu_ns; /* of runs that have ended */
    int64_t capacity;
    pfo_memory_sample *ring;
    pfo_sampler_probe probe;
    void *context;
    pfo_probes probes;
    pfo_sampler *previous, *next; /* in the registry */
};

static pfo_mutex registry_lock = PFO_MUTEX_INIT;
static pfo_sampler *registry;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void
clear_locked(pfo_sampler *sampler)
{
    sampler->taken = 0;
    sampler->missed = 0;
    sampler->peak_rss = -1;
    sampler->probe_ns = 0;
    pfo_probes_note_cuda(&sampler->probes, -1, -1, -1, -1);
}

static void
lock_registry(void)
{
    pfo_mutex_lock(&registry_lock);
}

static void
unlock_registry(void)
{
    pfo_mutex_unlock(&registry_lock);
}

/* fork() keeps only the calling thread: the sampling threads are gone, a lock one of them held is made anew, and a sample
 * one of them was writing goes with the rest of the parent's samples. */
static void
reset_in_child(void)
{
    for (pfo_sampler *sampler = registry; sampler != NULL; sampler = sampler->next) {
        (void)pfo_mutex_init(&sampler->lock);
        (void)pfo_cond_init(&sampler->changed);
        sampler->state = IDLE;
        sampler->finished_cpu_ns = 0;
        pfo_probes_forget(&sampler->probes);
        clear_locked(sampler);
    }
    pfo_mutex_unlock(&registry_lock);
}

static void
register_fork_handlers(void)
{
    (void)pthread_atfork(lock_registry, unlock_registry, reset_in_child);
}

static void
enter_registry(pfo_sampler *sampler)
{
    (void)pthread_once(&fork_once, register_fork_handlers);
    pfo_mutex_lock(&registry_lock);
    sampler->next = registry;
    if (registry != NULL) {
        registry->previous = sampler;
    }
    registry = sampler;
    pfo_mutex_unlock(&registry_lock);
}

static void
leave_registry(pfo_sampler *sampler)
{
    pfo_mutex_lock(&registry_lock);
    if (sampler->previous != NULL) {
        sampler->previous->next = sampler->next;
    } else {
        registry = sampler->next;
    }
    if (sampler->next != NULL) {
        sampler->next->previous = sampler->previous;
    }
    pfo_mutex_unlock(&registry_lock);
}

static void
real_probe(void *context, pfo_memory_sample *sample)
{
    pfo_probes_read(context, sample);
}

static pfo_status
check_interval(int64_t interval_ns, pfo_error *err)
{
    if (interval_ns < PFO_SAMPLER_MIN_INTERVAL_NS || interval_ns > PFO_SAMPLER_MAX_INTERVAL_NS) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "interval is %g s; accepted: %g to %g s", (double)interval_ns * 1e-9,
                        (double)PFO_SAMPLER_MIN_INTERVAL_NS * 1e-9, (double)PFO_SAMPLER_MAX_INTERVAL_NS * 1e-9);
    }
    return PFO_OK;
}

/* Probes, lock and condition of a zeroed sampler; on failure none of them is left. */
static pfo_status
prepare(pfo_sampler *sampler, pfo_sampler_probe probe, void *context, pfo_error *err)
{
    sampler->probe = probe != NULL ? probe : real_probe;
    sampler->context = probe != NULL ? context : &sampler->probes;
    PFO_TRY(pfo_probes_open(&sampler->probes, "", err));
    if (pfo_mutex_init(&sampler->lock) != 0) {
        pfo_probes_close(&sampler->probes);
        return pfo_fail(err, PFO_NO_MEMORY, "cannot make the sampler's lock");
    }
    if (pfo_cond_init(&sampler->changed) != 0) {
        pfo_mutex_destroy(&sampler->lock);
        pfo_probes_close(&sampler->probes);
        return pfo_fail(err, PFO_NO_MEMORY, "cannot make the sampler's condition");
    }
    return PFO_OK;
}

pfo_status
pfo_sampler_create(int64_t interval_ns, int64_t capacity, pfo_sampler_probe probe, void *context, pfo_sampler **created,
                   pfo_error *err)
{
    *created = NULL;
    PFO_TRY(check_interval(interval_ns, err));
    if (capacity < 1 || capacity > PFO_SAMPLER_MAX_CAPACITY) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "capacity is %lld; accepted: 1 to %d", (long long)capacity,
                        (int)PFO_SAMPLER_MAX_CAPACITY);
    }
    pfo_sampler *sampler = pfo_alloc_array(1, sizeof *sampler);
    pfo_memory_sample *ring = pfo_alloc_array((size_t)capacity, sizeof *ring);
    if (sampler == NULL || ring == NULL) {
        pfo_free(ring);
        pfo_free(sampler);
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for a ring of %lld samples", (long long)capacity);
    }
    const pfo_status status = prepare(sampler, probe, context, err);
    if (status != PFO_OK) {
        pfo_free(ring);
        pfo_free(sampler);
        return status;
    }
    sampler->interval_ns = interval_ns;
    sampler->capacity = capacity;
    sampler->ring = ring;
    clear_locked(sampler);
    enter_registry(sampler);
    *created = sampler;
    return PFO_OK;
}

void
pfo_sampler_destroy(pfo_sampler *sampler)
{
    if (sampler == NULL) {
        return;
    }
    pfo_sampler_stop(sampler);
    leave_registry(sampler);
    pfo_cond_destroy(&sampler->changed);
    pfo_mutex_destroy(&sampler->lock);
    pfo_probes_close(&sampler->probes);
    pfo_free(sampler->ring);
    pfo_free(sampler);
}

/* Takes a sample; when it was done. */
static int64_t
sample_locked(pfo_sampler *sampler)
{
    pfo_memory_sample *slot = &sampler->ring[sampler->taken % sampler->capacity];
    const int64_t begin = pfo_monotonic_ns();
    sampler->probe(sampler->context, slot);
    const int64_t end = pfo_monotonic_ns();
    sampler->probe_ns += end - begin;
    sampler->taken++;
    if (slot->rss > sampler->peak_rss) {
        sampler->peak_rss = slot->rss;
    }
    return end;
}

static void *
sampler_main(void *argument)
{
    pfo_sampler *sampler = argument;
    pfo_mutex_lock(&sampler->lock);
    int64_t due = pfo_monotonic_ns();
    while (sampler->state == RUNNING) {
        const int64_t done = sample_locked(sampler);
        due += sampler->interval_ns;
        const int64_t late = done - due;
        if (late >= 0) { /* the turns that have passed are skipped, so that a stall is not followed by a burst */
            const int64_t passed = late / sampler->interval_ns + 1;
            sampler->missed += passed;
            due += passed * sampler->interval_ns;
        }
        const uint32_t seen = atomic_load_explicit(&sampler->call, memory_order_relaxed);
        pfo_mutex_unlock(&sampler->lock);
        while (!pfo_word_wait(&sampler->call, seen, due) &&
               atomic_load_explicit(&sampler->call, memory_order_relaxed) == seen) {
        }
        pfo_mutex_lock(&sampler->lock);
    }
    pfo_mutex_unlock(&sampler->lock);
    return NULL;
}

static int
start_thread(pthread_t *thread, pfo_sampler *sampler)
{
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) == 0) {
        (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
        const int error = pfo_thread_create_quiet(thread, &attributes, sampler_main, sampler);
        (void)pthread_attr_destroy(&attributes);
        if (error == 0) {
            return 0;
        }
    }
    /* Libraries with much thread-local data need a larger stack than ours: the default then. */
    return pfo_thread_create_quiet(thread, NULL, sampler_main, sampler);
}

static pfo_status
start_locked(pfo_sampler *sampler, int64_t interval_ns, pfo_error *err)
{
    while (sampler->state == STOPPING) {
        pfo_cond_wait(&sampler->changed, &sampler->lock);
    }
    if (sampler->state == RUNNING) {
        return pfo_fail(err, PFO_STATE, "the sampler is running already");
    }
    if (interval_ns != 0) {
        sampler->interval_ns = interval_ns;
    }
    sampler->state = RUNNING;
    const int error = start_thread(&sampler->thread, sampler);
    if (error != 0) {
        sampler->state = IDLE;
        return pfo_fail(err, PFO_UNAVAILABLE, "cannot start the sampling thread: %s",
                        error == EAGAIN ? "too many threads" : "refused by the system");
    }
    return PFO_OK;
}

pfo_status
pfo_sampler_start(pfo_sampler *sampler, int64_t interval_ns, pfo_error *err)
{
    if (interval_ns != 0) {
        PFO_TRY(check_interval(interval_ns, err));
    }
    pfo_mutex_lock(&sampler->lock);
    const pfo_status status = start_locked(sampler, interval_ns, err);
    pfo_mutex_unlock(&sampler->lock);
    return status;
}

void
pfo_sampler_stop(pfo_sampler *sampler)
{
    pfo_mutex_lock(&sampler->lock);
    while (sampler->state == STOPPING) { /* somebody else joins it */
        pfo_cond_wait(&sampler->changed, &sampler->lock);
    }
    if (sampler->state == RUNNING) {
        const pthread_t thread = sampler->thread;
        const int64_t used = pfo_thread_cpu_ns(thread);
        sampler->finished_cpu_ns += used > 0 ? used : 0;
        sampler->state = STOPPING;
        (void)atomic_fetch_add_explicit(&sampler->call, 1, memory_order_relaxed);
        pfo_word_wake(&sampler->call);
        pfo_mutex_unlock(&sampler->lock);
        (void)pthread_join(thread, NULL);
        pfo_mutex_lock(&sampler->lock);
        sampler->state = IDLE;
        pfo_cond_broadcast(&sampler->changed);
    }
    pfo_mutex_unlock(&sampler->lock);
}

void
pfo_sampler_sample(pfo_sampler *sampler, pfo_memory_sample *sample)
{
    pfo_mutex_lock(&sampler->lock);
    pfo_probes_want_resident(&sampler->probes);
    (void)sample_locked(sampler);
    if (sample != NULL) {
        *sample = sampler->ring[(sampler->taken - 1) % sampler->capacity];
    }
    pfo_mutex_unlock(&sampler->lock);
}

int64_t
pfo_sampler_note_cuda(pfo_sampler *sampler, int64_t allocated, int64_t reserved, int64_t total)
{
    pfo_mutex_lock(&sampler->lock);
    const int64_t now = pfo_monotonic_ns(); /* with the lock, so that later notes have later times */
    pfo_probes_note_cuda(&sampler->probes, now, allocated, reserved, total);
    pfo_mutex_unlock(&sampler->lock);
    return now;
}

static int64_t
held_locked(const pfo_sampler *sampler)
{
    return sampler->taken < sampler->capacity ? sampler->taken : sampler->capacity;
}

int64_t
pfo_sampler_copy(pfo_sampler *sampler, pfo_memory_sample *samples, int64_t room)
{
    pfo_mutex_lock(&sampler->lock);
    const int64_t held = held_locked(sampler);
    const int64_t count = room < held ? (room > 0 ? room : 0) : held;
    if (count > 0) {
        const int64_t first = (sampler->taken - count) % sampler->capacity;
        const int64_t to_end = sampler->capacity - first < count ? sampler->capacity - first : count;
        memcpy(samples, sampler->ring + first, (size_t)to_end * sizeof *samples);
        memcpy(samples + to_end, sampler->ring, (size_t)(count - to_end) * sizeof *samples);
    }
    pfo_mutex_unlock(&sampler->lock);
    return count;
}

int64_t
pfo_sampler_peak_since(pfo_sampler *sampler, int64_t time_ns)
{
    int64_t peak = -1;
    pfo_mutex_lock(&sampler->lock);
    for (int64_t back = 1; back <= held_locked(sampler); back++) {
        const pfo_memory_sample *sample = &sampler->ring[(sampler->taken - back) % sampler->capacity];
        if (sample->time_ns < time_ns) {
            break;
        }
        peak = sample->rss > peak ? sample->rss : peak;
    }
    pfo_mutex_unlock(&sampler->lock);
    return peak;
}

void
pfo_sampler_clear(pfo_sampler *sampler)
{
    pfo_mutex_lock(&sampler->lock);
    clear_locked(sampler);
    pfo_mutex_unlock(&sampler->lock);
}

void
pfo_sampler_count(pfo_sampler *sampler, pfo_sampler_counts *counts)
{
    pfo_mutex_lock(&sampler->lock);
    const int64_t running_cpu = sampler->state == RUNNING ? pfo_thread_cpu_ns(sampler->thread) : 0;
    *counts = (pfo_sampler_counts){
        .interval_ns = sampler->interval_ns,
        .capacity = sampler->capacity,
        .held = held_locked(sampler),
        .taken = sampler->taken,
        .missed = sampler->missed,
        .peak_rss = sampler->peak_rss,
        .probe_ns = sampler->probe_ns,
        .cpu_ns = running_cpu < 0 ? -1 : sampler->finished_cpu_ns + running_cpu,
        .running = sampler->state == RUNNING,
    };
    pfo_mutex_unlock(&sampler->lock);
}
