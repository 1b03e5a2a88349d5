/* disk.h: the disk tier: a directory of values by 128-bit key, bounded by bytes, shared by any number of processes.
 *
 * Contract: a key is a digest; what it stands for and how a value is encoded are the caller's. Payloads below PFO_DISK_INLINE bytes live in
 * append-only segments, larger ones are files of their own in the format the caller gave them (64-byte aligned data), published by rename
 * and read by mmap. Every record and every index slot carries a checksum: damage is a miss and is counted, never an error or a wrong value.
 * When pfo_disk_put() has returned, a kill loses nothing; with PFO_DURABLE_POWER not even a power cut does; otherwise, after a power
 * cut, entries may be missing, never wrong.
 * The index is derived data: it is rebuilt from the segments when it is missing or damaged. docs/disk-format.md describes the files.
 * Threads and processes: all functions may be called from any thread, on any number of handles and in any number of processes at once, and
 * in a child after fork; readers take no lock.
 * Errors: a failing disk (full, read-only, deleted underneath) is a status of that one call; the handle stays usable.
 * Memory: a handle owns its maps and descriptors; a value that was got owns its bytes until pfo_disk_release().
 */
#ifndef PFO_CACHE_DISK_H
#define PFO_CACHE_DISK_H

#include "base/status.h"
#include "cache/fingerprint.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { PFO_DISK_INLINE = 32 * 1024, PFO_DISK_LABEL = 200, PFO_DISK_KIND = 16 };

typedef struct pfo_disk pfo_disk;

typedef enum pfo_durability { PFO_DURABLE_PROCESS, PFO_DURABLE_POWER } pfo_durability;
typedef enum pfo_compression { PFO_COMPRESS_NEVER, PFO_COMPRESS_AUTO, PFO_COMPRESS_ALWAYS } pfo_compression;

typedef struct pfo_disk_options {
    const char *directory; /* made with mode 0700 if missing (its parents too) */
    uint64_t max_bytes;    /* of everything in the directory, garbage included; hard */
    const char *policy;    /* the order in which entries leave: a name of policy.h */
    pfo_durability durability;
    pfo_compression compression;
    int must_exist;           /* do not make the directory: UNAVAILABLE if it holds no cache (the command line) */
    uint64_t (*now_ns)(void); /* wall clock, ns since 1970; NULL: CLOCK_REALTIME (tests move it) */
} pfo_disk_options;

typedef struct pfo_bytes {
    const void *data;
    size_t length;
} pfo_bytes;

/* What pfo_disk_put() stores. */
typedef struct pfo_disk_record {
    char kind[PFO_DISK_KIND];   /* how the payload is encoded, NUL-padded: the caller's, handed back by get */
    char suffix[PFO_DISK_KIND]; /* of a payload file: ".npy" */
    const char *label;          /* what the key is, for people (UTF-8, cut to PFO_DISK_LABEL bytes); may be NULL */
    const pfo_bytes *parts;     /* the payload is their concatenation */
    size_t part_count;
    size_t item_bytes;   /* width for the byte shuffle before compression; 0 or 1: none */
    uint64_t expires_ns; /* wall clock; 0: never */
    /* NULL, or set by another thread when the value is not wanted any more: what is put or deleted after that is not disturbed by it. */
    const atomic_int *cancelled;
} pfo_disk_record;

/* What pfo_disk_get() found. data may be written to only where get was asked for that: it is then the caller's alone. */
typedef struct pfo_disk_value {
    int found;
    char kind[PFO_DISK_KIND];
    const void *data;
    size_t length;
    uint64_t stored_ns; /* wall clock, of whole seconds */
    uint64_t expires_ns;
    void *map; /* NULL, or the mapping to release */
    size_t map_length;
    void *owned; /* NULL, or heap memory to release */
} pfo_disk_value;

typedef struct pfo_disk_stats {
    uint64_t entries, bytes, max_bytes;                                              /* of the directory, now */
    uint64_t hits, misses, expirations, evictions, rejects, corrupt, write_failures; /* of this handle */
    uint64_t segments, payload_files, garbage_bytes;
} pfo_disk_stats;

/* One entry, for listing. */
typedef struct pfo_disk_entry {
    pfo_digest key;
    char kind[PFO_DISK_KIND];
    char label[PFO_DISK_LABEL + 1];
    uint64_t stored_ns, expires_ns;
    uint64_t bytes;         /* on disk */
    uint64_t payload_bytes; /* as the caller gave it */
    int is_file, is_compressed;
} pfo_disk_entry;

/* Opens, makes or repairs a cache. STATE with a clear text when the directory was written by a newer version; IO when it can
 * be neither made nor read. What is over max_bytes leaves. A directory without write permission opens for reading: puts then fail with UNAVAILABLE. */
pfo_status pfo_disk_open(pfo_disk **disk, const pfo_disk_options *options, pfo_error *err);
void pfo_disk_close(pfo_disk *disk); /* NULL is allowed; values that were got stay good */

/* value->found says whether there is a live, undamaged entry; the status is only bad for NO_MEMORY. A payload file is checked in
 * full the first time this process meets it. writable != 0 asks for memory the caller may write to (privately). */
pfo_status pfo_disk_get(pfo_disk *disk, const pfo_digest *key, int writable, pfo_disk_value *value, pfo_error *err);
void pfo_disk_release(pfo_disk_value *value);
/* The same for who looks at the value at once: a small record is read to scratch, aligned for a pfo_slot, instead of the heap. Data that lies
 * there may be written to. */
enum { PFO_DISK_SCRATCH = 1024 };
pfo_status pfo_disk_get_into(pfo_disk *disk, const pfo_digest *key, int writable, void *scratch, pfo_disk_value *value,
                             pfo_error *err);

/* Whether somebody besides one holder of this map (pfo_disk_value.map) has it: other values, or a handle that remembers its file as checked. */
int pfo_disk_map_is_shared(const void *map);

/* Stores or replaces. *stored == 0 with PFO_OK: it alone exceeds max_bytes (counted as a reject), or was cancelled. On failure the old
 * entry, if any, is still there and whole. What is cancelled before its turn to write changes nothing; later, it is taken out again before
 * anybody else's turn. So who sets `cancelled` (with sequential consistency) and deletes or puts the key then has the last word. */
pfo_status pfo_disk_put(pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, int *stored,
                        pfo_error *err);

/* cancelled: NULL, or as in pfo_disk_record: nothing is deleted any more once it is set. */
pfo_status pfo_disk_delete_unless(pfo_disk *disk, const pfo_digest *key, const atomic_int *cancelled, int *existed,
                                  pfo_error *err);
pfo_status pfo_disk_delete(pfo_disk *disk, const pfo_digest *key, int *existed, pfo_error *err);
pfo_status pfo_disk_touch(pfo_disk *disk, const pfo_digest *key, uint64_t expires_ns, int *existed, pfo_error *err);
pfo_status pfo_disk_clear(pfo_disk *disk, pfo_error *err);
pfo_status pfo_disk_expire(pfo_disk *disk, uint64_t *removed, pfo_error *err);
pfo_status pfo_disk_flush(pfo_disk *disk, pfo_error *err); /* fsync of everything this handle wrote */

/* Reads and checks every entry and looks for orphans; with repair removes what is damaged or belongs to nothing. */
typedef struct pfo_disk_report {
    uint64_t checked, damaged, orphans, orphan_bytes, repaired;
    int index_rebuilt;
} pfo_disk_report;
pfo_status pfo_disk_verify(pfo_disk *disk, int repair, pfo_disk_report *report, pfo_error *err);

/* Entry by entry in no order; start with *cursor = 0; *more = 0 after the last. Entries that come or go meanwhile may be missed. */
pfo_status pfo_disk_next(pfo_disk *disk, uint64_t *cursor, pfo_disk_entry *entry, int *more, pfo_error *err);

void pfo_disk_get_stats(pfo_disk *disk, pfo_disk_stats *stats);
void pfo_disk_reset_counters(pfo_disk *disk);

#endif
