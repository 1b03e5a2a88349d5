/* cache_changes.c: see cache_changes.h. As a rule there is one change or none, so the list is only walked. */
#include "bindings/core/cache_changes.h"

#include "bindings/core/flight.h"

pfo_change *
pfo_change_begin(pfo_changes *changes, uint64_t hash, const PyObject *owner)
{
    pfo_change *change = changes->spare != NULL ? changes->spare : PyMem_Malloc(sizeof *change);
    if (change == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    changes->spare = NULL;
    change->changes = changes;
    change->previous = NULL;
    change->next = changes->first;
    change->hash = hash;
    change->owner = owner;
    atomic_init(&change->is_stale, 0);
    change->is_storing = 0;
    change->gives_way = 0;
    change->is_touched = 0;
    change->generation = 0;
    if (changes->first != NULL) {
        changes->first->previous = change;
    }
    changes->first = change;
    return change;
}

void
pfo_change_end(pfo_change *change)
{
    pfo_changes *changes = change == NULL ? NULL : change->changes;
    if (changes == NULL) {
        PyMem_Free(change);
        return;
    }
    *(change->previous == NULL ? &changes->first : &change->previous->next) = change->next;
    if (change->next != NULL) {
        change->next->previous = change->previous;
    }
    if (changes->spare == NULL) {
        changes->spare = change;
    } else {
        PyMem_Free(change);
    }
}

/* In order with what its thread reads of the index before and after it writes there (pfo_disk_put()). */
static void
make_stale(pfo_change *change)
{
    atomic_store(&change->is_stale, 1);
    atomic_thread_fence(memory_order_seq_cst);
}

void
pfo_change_store(pfo_change *change, int gives_way)
{
    change->generation = pfo_flight_generation();
    for (pfo_change *other = change->changes->first; other != NULL; other = other->next) {
        if (other != change && other->hash == change->hash && other->is_storing &&
            other->generation == change->generation && !pfo_change_is_stale(other)) {
            make_stale(gives_way ? change : other);
        }
    }
    change->is_storing = 1;
    change->gives_way = gives_way;
}

void
pfo_changes_delete(const pfo_changes *changes, uint64_t hash)
{
    for (pfo_change *change = changes->first; change != NULL; change = change->next) {
        if (change->hash == hash) {
            make_stale(change);
        }
    }
}

void
pfo_changes_touch(const pfo_changes *changes, uint64_t hash)
{
    for (pfo_change *change = changes->first; change != NULL; change = change->next) {
        if (change->hash == hash && change->is_storing) {
            change->is_touched = 1;
        }
    }
}

void
pfo_changes_clear(const pfo_changes *changes, const PyObject *owner)
{
    for (pfo_change *change = changes->first; change != NULL; change = change->next) {
        if (owner == NULL || change->owner == owner) {
            make_stale(change);
        }
    }
}

void
pfo_changes_cleared(const pfo_changes *changes)
{
    for (pfo_change *change = changes->first; change != NULL; change = change->next) {
        if (change->is_storing && !change->gives_way) {
            change->is_touched = 1;
        } else {
            make_stale(change);
        }
    }
}

void
pfo_changes_free(pfo_changes *changes)
{
    for (pfo_change *change = changes->first; change != NULL; change = change->next) {
        change->changes = NULL;
    }
    changes->first = NULL;
    PyMem_Free(changes->spare);
    changes->spare = NULL;
}
