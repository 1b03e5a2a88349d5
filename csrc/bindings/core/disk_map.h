/* disk_map.h: a Python object that owns what pfo_disk_get() found and lends it by the buffer protocol (disk_map_type.c). */
#ifndef PFO_BINDINGS_DISK_MAP_H
#define PFO_BINDINGS_DISK_MAP_H

#include "bindings/core/core_state.h"

#include "cache/disk.h"

/* Takes value over, also on failure, and releases it with the last buffer. writable: its bytes may be written to (private to this
 * process); otherwise nobody who asks for a writable buffer gets one. A new reference, or NULL with MemoryError. */
PyObject *pfo_disk_map_new(pfo_core_state *state, const pfo_disk_value *value, int writable);

#endif
