/* content.h: from a Python object to the parts of a fingerprint (cache/fingerprint.h).
 *
 * C reads None, numbers, text, bytes, the built-in containers, and whatever exports its memory as an array of plain numbers; any
 * other object is described by perfopt._keys.reduce() as a tuple of simpler ones. An object is never identified by its repr or address.
 * Answers: 0 done; 1 the object (or one inside it) has no content that can be read: `culprit` names its type, no exception is set;
 * -1 exception set. Needs the GIL; it is released while more than 64 KiB are hashed.
 */
#ifndef PFO_BINDINGS_CONTENT_H
#define PFO_BINDINGS_CONTENT_H

#include "bindings/core/core_state.h"

#include "cache/fingerprint.h"

enum { PFO_CONTENT_MAX_DEPTH = 200 };

typedef struct pfo_content {
    pfo_core_state *state;
    PyObject *types; /* NULL, or a list that collects the classes met, for keys that live in this process only; owned */
    PyTypeObject *culprit; /* set with answer 1; owned */
    PyObject *reason;      /* NULL, or a str that says why the culprit has no content; owned */
} pfo_content;

void pfo_content_clear(pfo_content *content);

/* Appends the object's parts to the encoder. */
int pfo_content_encode(pfo_content *content, pfo_encoder *encoder, PyObject *object, int depth);

/* The digest of the stream that holds just this object. */
int pfo_content_digest(pfo_content *content, PyObject *object, int depth, pfo_digest *digest);

/* The description of an object that C cannot read: a new tuple (class or None, text, part, ...), or answer 1 if there
 * is none. */
int pfo_content_reduce(pfo_content *content, PyObject *object, PyObject **reduction);

/* 1 for objects that are keyed by content although they may be hashable: containers, arrays, tensors, modules; -1 on
 * error. */
int pfo_content_goes_before_hash(pfo_core_state *state, PyObject *object);

/* -1 with RecursionError when depth is past the limit, or with what a signal handler raised. */
int pfo_content_check_depth(int depth);

#endif
