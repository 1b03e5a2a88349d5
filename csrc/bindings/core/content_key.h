/* content_key.h: ContentKey: what keys() gives for a key whose object the cache does not keep (arrays, lists, dicts, ...).
 *
 * A ContentKey holds the typed parts of a key (digests, not arrays), so it stands for the same entry in get, delete and touch; it is
 * hashable and equal to any other ContentKey of the same content. Needs the GIL.
 */
#ifndef PFO_BINDINGS_CONTENT_KEY_H
#define PFO_BINDINGS_CONTENT_KEY_H

#include "bindings/core/key.h"

/* A new ContentKey with parts of its own; NULL with an exception. */
PyObject *pfo_content_key_of(pfo_core_state *state, const void *kept, uint64_t hash);
PyObject *pfo_content_key_of_builder(const pfo_key_builder *builder);

/* The kept key in a ContentKey, borrowed. */
const void *pfo_content_key_kept(PyObject *content_key);

#endif
