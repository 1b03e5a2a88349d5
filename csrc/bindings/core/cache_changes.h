/* cache_changes.h: changes of a cache's keys that are under way, so that what was begun first does not outlive what came after it.
 *
 * Contract: who computes a value, or stores one while the disk lets other threads in, begins a change before and ends it after. A delete
 * makes all changes of its key stale, a newer store those that store: what is stale is not to be kept, and what of it reached the disk
 * is taken back there (pfo_disk_record.cancelled). A computed value gives way to what is being stored already.
 * A clear makes stale all that began before it, and at its end also what was computed meanwhile, perhaps from what it removed.
 * Keys are told apart by their hashes alone, so that nothing here runs code: of two keys with one hash, changed at once, one may be lost.
 * Threads: the GIL; only `is_stale` is read without it. Fork: changes of threads that stay behind are never ended in the child, which
 * costs it their memory; nothing there gives way to them. Memory: the list owns its changes until they are ended; one that outlives the list can still be ended.
 */
#ifndef PFO_BINDINGS_CACHE_CHANGES_H
#define PFO_BINDINGS_CACHE_CHANGES_H

#include "bindings/core/core_state.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct pfo_change pfo_change;

typedef struct pfo_changes {
    pfo_change *first;
    pfo_change *spare; /* memory for the next one, or NULL */
} pfo_changes;

struct pfo_change {
    pfo_changes *changes; /* NULL once those are gone */
    pfo_change *previous;
    pfo_change *next;
    uint64_t hash;         /* of the key */
    const PyObject *owner; /* part of the key, or NULL; only compared */
    atomic_int is_stale;
    int is_storing; /* else computing */
    int gives_way;  /* as pfo_change_store() was told */
    int is_touched; /* the disk was cleared, or the key got another time to live, while it was storing: as stored or not, nobody knows */
    unsigned generation; /* pfo_flight_generation() when it began to store */
};

/* NULL with MemoryError. Runs no code, like all of these. */
pfo_change *pfo_change_begin(pfo_changes *changes, uint64_t hash, const PyObject *owner);
void pfo_change_end(pfo_change *change); /* NULL is allowed */

static inline int
pfo_change_is_stale(const pfo_change *change)
{
    return atomic_load_explicit(&change->is_stale, memory_order_relaxed);
}

/* From here on the change stores. Those that are storing under its key become stale, or, with gives_way, itself. */
void pfo_change_store(pfo_change *change, int gives_way);

/* All of this key become stale. */
void pfo_changes_delete(const pfo_changes *changes, uint64_t hash);
/* Those that store under this key are touched. */
void pfo_changes_touch(const pfo_changes *changes, uint64_t hash);
/* All of this owner become stale; of every one for NULL. */
void pfo_changes_clear(const pfo_changes *changes, const PyObject *owner);
/* The disk has been cleared: what is being set meanwhile is touched, what is being computed becomes stale. */
void pfo_changes_cleared(const pfo_changes *changes);

/* The list is going. */
void pfo_changes_free(pfo_changes *changes);

#endif
