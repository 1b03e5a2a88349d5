/* disk_tier_parts.h: what the files of the disk tier share: disk_tier.c, which has values, and disk_tier_entries.c, which has entries. */
#ifndef PFO_BINDINGS_DISK_TIER_PARTS_H
#define PFO_BINDINGS_DISK_TIER_PARTS_H

#include "bindings/core/disk_tier.h"

struct pfo_disk_tier {
    pfo_core_state *state;
    pfo_disk *disk;
    PyObject *cache_dir;
    PyObject *pickle_key; /* bytes or None */
    uint64_t undecodable; /* entries found that are no values */
    uint64_t looked_twice;
    uint32_t users;
    int closed, warned;
};

/* The status as an exception; NULL. A file that is not there or not ours to write is the operating system's refusal, not a missing feature. */
PyObject *pfo_disk_tier_raise(pfo_status status, const pfo_error *err);
/* The end of a call that has counted itself into users. */
void pfo_disk_tier_leave(pfo_disk_tier *tier);

#endif
