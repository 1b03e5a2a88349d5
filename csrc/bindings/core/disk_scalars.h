/* disk_scalars.h: None, bool, 64-bit int, float, str and bytes as payloads of the disk tier, each a kind of its own.
 *
 * Contract: only these very types, no subclasses; what comes back is equal to the bit. Threads: with the GIL.
 * Memory: an encoded scalar looks into the value or into owner; it must not outlive the value nor move once it was filled in.
 */
#ifndef PFO_BINDINGS_DISK_SCALARS_H
#define PFO_BINDINGS_DISK_SCALARS_H

#include <Python.h>

#include "cache/disk.h"

typedef struct pfo_scalar {
    const char *kind;
    const char *suffix; /* of a file */
    const void *data;   /* into the value, number, or owner */
    size_t length;
    unsigned char number[8];
    PyObject *owner; /* NULL, or a reference that the caller releases */
} pfo_scalar;

/* 1 if value is one of the scalars, 0 if not, -1 with an exception. */
int pfo_scalar_encode(PyObject *value, pfo_scalar *out);

/* A new reference, or NULL, perhaps with an exception, for bytes that are no such value. */
typedef PyObject *(*pfo_scalar_decode)(const unsigned char *data, size_t length);

/* NULL if kind is none of the scalars'. */
pfo_scalar_decode pfo_scalar_decoder(const char kind[PFO_DISK_KIND]);

#endif
