/* instance_note.h: weak references in kept keys, and what happens when their object dies (key.h [instances]). */
#ifndef PFO_BINDINGS_INSTANCE_NOTE_H
#define PFO_BINDINGS_INSTANCE_NOTE_H

#include "bindings/core/key.h"

/* A new note: a weak reference to object whose death calls orphaned(owner, hash, kept); NULL with an exception. */
PyObject *pfo_instance_remember(pfo_core_state *state, PyObject *object, PyObject *owner, uint64_t hash, void *kept,
                                pfo_key_orphaned orphaned);

/* Forgets the owner, so that nothing happens when the object dies. Runs no code. */
void pfo_instance_disown(PyObject *note);

/* Disowns the note and drops its weak reference. */
void pfo_instance_forget(PyObject *note);

/* The object a note refers to, borrowed and only good for comparing; NULL when it is gone. */
PyObject *pfo_instance_of(PyObject *note);

#endif
