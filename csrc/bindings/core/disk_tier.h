/* disk_tier.h: Python values in a cache directory: the codec (perfopt._codec and the scalars here) over the engine (cache/disk.h).
 *
 * Contract: a value comes back equal and of the same types as it went in, or not at all. Nothing that is read is ever executed or looked up
 * by a name on disk; a pickle is only read when it carries a valid HMAC under the user's key.
 * Errors: functions that return int return 0, or -1 with an exception; what else they return is said at each.
 * Threads: call with the GIL; it is released around all disk work, so other threads may use or close the tier meanwhile. Closing a tier
 * that is in use takes effect when its last call returns. User code runs only in pickles.
 * Memory: a tier owns its handle and a reference to the key; values own the maps that they look into (disk_map_type.c) and outlive the tier.
 * Of the arrays in payload files that were read last it keeps one each, whose views it hands out while the file is as it was checked; but no
 * longer than the engine keeps the map itself.
 */
#ifndef PFO_BINDINGS_DISK_TIER_H
#define PFO_BINDINGS_DISK_TIER_H

#include "bindings/core/core_state.h"

#include "cache/disk.h"

typedef struct pfo_disk_tier pfo_disk_tier;

typedef struct pfo_disk_tier_options {
    PyObject *cache_dir;     /* str */
    uint64_t max_disk_bytes; /* of everything in the directory */
    const char *policy;      /* a name of policy.h */
    const char *durability;  /* "process" or "power" */
    const char *compression; /* "auto", "zstd" or "none" */
    PyObject *pickle_key;    /* bytes, at least PFO_PICKLE_KEY_BYTES of them; NULL or None: no pickles */
    int must_exist;          /* an OSError instead of a new directory */
} pfo_disk_tier_options;

enum { PFO_PICKLE_KEY_BYTES = 16 };

/* OSError when the directory can be neither made nor read, RuntimeError when a newer version wrote it, ValueError or TypeError for an option. */
int pfo_disk_tier_open(pfo_core_state *state, const pfo_disk_tier_options *options, pfo_disk_tier **tier);
void pfo_disk_tier_close(pfo_disk_tier *tier); /* NULL is allowed */

/* On the wall clock: when an entry was stored, in whole seconds, and its end, 0 for never. is_prepared: nothing in the value can be changed,
 * so it is as pfo_value_prepare() would make it, without a guard. */
typedef struct pfo_disk_times {
    uint64_t stored_ns, expires_ns;
    int is_prepared;
} pfo_disk_times;

/* *value is a new reference, or NULL for a miss. A payload that cannot be decoded is a miss and
 * is counted as corrupt; only MemoryError, KeyboardInterrupt and SystemExit (and the like) come out. */
int pfo_disk_tier_get(pfo_disk_tier *tier, const pfo_digest *key, PyObject **value, pfo_disk_times *times);

/* 0; or 1, without an exception, when the value cannot be stored in a safe format: *culprit is then the type that cannot (a new
 * reference). label: str or NULL. expires_ns: wall clock, 0: never. *stored is 0 when the value exceeds the bound by itself, and when the
 * disk fails (full, read-only, deleted): that is counted, and warned of once in the life of a tier (RuntimeWarning).
 * cancelled: NULL, or as in pfo_disk_record; *stored is 0 then, too. */
int pfo_disk_tier_put(pfo_disk_tier *tier, const pfo_digest *key, PyObject *label, PyObject *value, uint64_t expires_ns,
                      const atomic_int *cancelled, int *stored, PyTypeObject **culprit);

/* A disk that fails here is an OSError: who deletes must know that it is still there. */
int pfo_disk_tier_delete(pfo_disk_tier *tier, const pfo_digest *key, const atomic_int *cancelled, int *existed);
int pfo_disk_tier_touch(pfo_disk_tier *tier, const pfo_digest *key, uint64_t expires_ns, int *existed);
int pfo_disk_tier_clear(pfo_disk_tier *tier);
int pfo_disk_tier_expire(pfo_disk_tier *tier, uint64_t *removed);
int pfo_disk_tier_flush(pfo_disk_tier *tier);

/* A new dict of pfo_disk_report's fields; NULL with an exception. */
PyObject *pfo_disk_tier_verify(pfo_disk_tier *tier, int repair);

/* A new list of one dict an entry (pfo_disk_entry's fields, the key as 16 bytes); NULL with an exception. */
PyObject *pfo_disk_tier_list(pfo_disk_tier *tier);

/* Payloads that could not be decoded are counted as misses and corrupt, not as hits. */
void pfo_disk_tier_get_stats(pfo_disk_tier *tier, pfo_disk_stats *stats);
void pfo_disk_tier_reset_counters(pfo_disk_tier *tier);

/* For tp_traverse of the tier's owner. */
int pfo_disk_tier_traverse(pfo_disk_tier *tier, visitproc visit, void *arg);

#endif
