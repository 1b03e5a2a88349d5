/* recorder_entries.c: what a lane keeps of each name beside the tree: its histogram and the changes of memory. See
 * recorder_lane.h for the invariants. */
#include "profiler/recorder_lane.h"

#include "base/alloc.h"

enum { FIRST_TABLE = 16 };

static pfo_status
grow_table(pfo_lane *lane, uint32_t id)
{
    uint32_t capacity = lane->capacity < FIRST_TABLE ? FIRST_TABLE : lane->capacity;
    while (capacity <= id) {
        capacity *= 2;
    }
    pfo_name_entry *table = pfo_alloc_array(capacity, sizeof *table);
    if (table == NULL) {
        return PFO_NO_MEMORY;
    }
    for (uint32_t i = 0; i < lane->capacity; i++) {
        pfo_name_entry *from = &lane->table[i];
        atomic_init(&table[i].histogram, atomic_load_explicit(&from->histogram, memory_order_relaxed));
        atomic_init(&table[i].suspended_ticks, atomic_load_explicit(&from->suspended_ticks, memory_order_relaxed));
        atomic_init(&table[i].memory, atomic_load_explicit(&from->memory, memory_order_relaxed));
    }
    pfo_mutex_lock(&pfo_recorder_lock);
    pfo_name_entry *old = lane->table;
    lane->table = table;
    lane->capacity = capacity;
    pfo_mutex_unlock(&pfo_recorder_lock);
    pfo_free(old);
    return PFO_OK;
}

pfo_name_entry *
pfo_lane_make_entry(pfo_lane *lane, uint32_t id)
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

/* The entry's memory sums, made if they are not there; NULL when memory is out. */
static pfo_memory_sums *
memory_of(pfo_lane *lane, uint32_t id)
{
    pfo_name_entry *entry = pfo_lane_entry(lane, id);
    if (entry == NULL) {
        return NULL;
    }
    pfo_memory_sums *sums = atomic_load_explicit(&entry->memory, memory_order_relaxed);
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
    pfo_lane *lane = pfo_lane_cached(name.epoch);
    int passed = 0;
    if (lane == NULL) {
        lane = pfo_lane_attach(recorder, name.epoch, &passed);
    }
    pfo_memory_sums *sums = lane == NULL ? NULL : memory_of(lane, name.id);
    if (sums == NULL) {
        if (!passed) {
            pfo_recorder_drop(recorder);
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
