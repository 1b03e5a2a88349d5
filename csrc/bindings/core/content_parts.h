/* content_parts.h: what the files that read Python objects share. content.c knows containers and whom to ask, content_scalars.c numbers,
 * text and bytes, content_buffers.c exporters of memory, content_arrow.c Arrow's capsules. Answers are those of content.h.
 */
#ifndef PFO_BINDINGS_CONTENT_PARTS_H
#define PFO_BINDINGS_CONTENT_PARTS_H

#include "bindings/core/content.h"

enum { PFO_RELEASE_GIL_BYTES = 64 * 1024 };

/* Notes the object's type as the culprit, with a reason (borrowed; NULL: none); answers 1. */
int pfo_content_none(pfo_content *content, PyObject *object, PyObject *reason);

/* None, exact numbers, text, bytes, bytearrays. 1 if the object is none of them. */
int pfo_content_scalar(pfo_encoder *encoder, PyObject *object);

/* Arrays and other exporters of plain numbers; 1 if the object is none. Unless it is known to be bare, an object of a class made in Python
 * may be more than its memory: 1 too. */
int pfo_content_exporter(pfo_content *content, pfo_encoder *encoder, PyObject *object, int known_to_be_bare);

/* A PyCapsule "arrow_schema" or "arrow_array_stream", which it uses up; owner: the object that gave it, to be named. */
int pfo_content_arrow(pfo_content *content, pfo_encoder *encoder, PyObject *owner, PyObject *capsule);

#endif
