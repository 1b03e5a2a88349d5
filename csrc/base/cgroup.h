/* cgroup.h: which control group this process is in, and what memory and processor time it and its ancestors allow.
 *
 * Works on cgroup v1, v2 and hybrid machines: the group's path comes from /proc/self/cgroup, its place in the file tree from
 * /proc/self/mountinfo (a container sees only a part of the tree, and the path must be cut by the mount's own root).
 * A limit of any ancestor binds too, so every figure is the smallest over the group and all ancestors that can be seen; v1
 * also reports the ancestors that cannot (hierarchical_memory_limit).
 * Every function takes or remembers a root: a prefix put before /proc and before mount points, "" for this machine, a
 * directory with made-up files in tests. Where the files are missing (other systems, no cgroups) the answer is version 0.
 * Threads: no globals. Memory: scratch blocks only, freed before return.
 */
#ifndef PFO_BASE_CGROUP_H
#define PFO_BASE_CGROUP_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { PFO_CGROUP_PATH = 4096 };

typedef struct pfo_cgroup {
    int version;                     /* 0: no group can be seen; 1 or 2 */
    size_t mount_length;             /* directory[0 .. mount_length) is the mount point, where the walk upwards ends */
    char directory[PFO_CGROUP_PATH]; /* the group's own directory, or its nearest ancestor that can be seen */
} pfo_cgroup;

typedef struct pfo_cgroup_memory {
    int64_t limit;         /* hard limit, bytes (v2 memory.max, v1 memory.limit_in_bytes); -1: none */
    int64_t high;          /* v2 memory.high: above it the kernel throttles and reclaims; -1: none */
    int64_t usage;         /* charged to the group itself, page cache included; -1: unknown */
    int64_t inactive_file; /* page cache in it that can go at once; -1: unknown */
    double fullest;        /* largest (usage - inactive_file) / min(limit, high) of a group with a limit; -1: none */
} pfo_cgroup_memory;

/* The group that counts controller ("memory" or "cpu") for this process. PFO_OK with version 0 when none can be seen;
 * else only PFO_NO_MEMORY, PFO_IO, and PFO_OVERFLOW for a path longer than PFO_CGROUP_PATH. */
pfo_status pfo_cgroup_find(const char *root, const char *controller, pfo_cgroup *group, pfo_error *err);

/* Reads all of it anew (some file reads per ancestor). pre: group was found for "memory"; version 0 gives "none". */
void pfo_cgroup_memory_read(const pfo_cgroup *group, pfo_cgroup_memory *memory);

/* Counts since the group was made, of the group and all below it; -1 unknown. They are the kernel's own word for pressure. */
typedef struct pfo_cgroup_events {
    int64_t high;     /* v2: times it was throttled at memory.high */
    int64_t max;      /* times an allocation met the hard limit (v2 memory.events max, v1 memory.failcnt) */
    int64_t oom_kill; /* processes killed for want of memory */
} pfo_cgroup_events;

/* One file read (v2) or two (v1). pre: found for "memory"; version 0 gives -1. */
void pfo_cgroup_events_read(const pfo_cgroup *group, pfo_cgroup_events *events);

/* The file with the group's own usage, to keep open: memory.current or memory.usage_in_bytes. 0 if version is 0 or path is
 * too long. */
int pfo_cgroup_usage_path(const pfo_cgroup *group, char *path, size_t size);

/* Processors' worth of time per wall-clock second, smallest over the ancestors; 0.0: no quota. pre: found for "cpu". */
double pfo_cgroup_cpu_quota(const pfo_cgroup *group);

#endif
