/* disk_tier_parts.h: what the files of the disk tier share: disk_tier.c, which has values, and disk_tier_entries.c, which has entries. */
#ifndef PFO_BINDINGS_DISK_TIER_PARTS_H
#define PFO_BINDINGS_DISK_TIER_PARTS_H

#include "bindings/core/disk_tier.h"

enum { PFO_TIER_ARRAYS = 8 };

/* An array over a whole payload file. */
typedef struct pfo_known_array {
    const void *map; /* pfo_disk_value.map, which the array holds */
    PyObject *array; /* NULL: none */
} pfo_known_array;

struct pfo_disk_tier {
    pfo_core_state *state;
    pfo_disk *disk;
    PyObject *cache_dir;
    PyObject *pickle_key; /* bytes or None */
    uint64_t undecodable; /* entries found that are no values */
    uint64_t looked_twice;
    pfo_known_array arrays[PFO_TIER_ARRAYS];
    uint32_t next_array;
    uint32_t users;
    int closed, warned;
};

/* The status as an exception; NULL. A file that is not there or not ours to write is the operating system's refusal, not a missing feature. */
PyObject *pfo_disk_tier_raise(pfo_status status, const pfo_error *err);
/* The end of a call that has counted itself into users. */
void pfo_disk_tier_leave(pfo_disk_tier *tier);

#endif
