/* device_array.h: an array in a device's memory whose content was hashed there, as a part of a fingerprint. */
#ifndef PFO_BINDINGS_DEVICE_ARRAY_H
#define PFO_BINDINGS_DEVICE_ARRAY_H

#include "bindings/core/core_state.h"

#include "cache/fingerprint.h"

/* Encodes a device_array as the NumPy array with the same dtype, shape and bytes would be. pre: object is of state->device_array. */
void pfo_device_array_encode(pfo_encoder *encoder, PyObject *object);

#endif
