/* disk_handle.h: what the disk tier's files share: the handle, its lock, and how a change to the directory begins and ends.
 *
 * Contract: pfo_disk_lock() gives the one right to write in the directory, over all threads and processes, with an index that is whole and
 * belongs to the directory that is there now; it makes or repairs what is missing. Between it and pfo_disk_unlock() the index says
 * `changing`; a writer that is killed there leaves that word behind, and the next one takes back its last step (disk_journal.h). A function
 * that cannot leave index and segments in agreement calls pfo_disk_distrust(): the index is rebuilt from the segments.
 * A reader counts itself into the place of the index it uses. A new index goes to the other place, whose former index is closed first; if
 * readers are in there still, it joins the current place and the one it replaces is closed with it later. So a handle keeps few indexes.
 * Threads: `lock` guards everything that is neither atomic nor constant. Order of locks: handles list, handle, payloads.
 * Fork: a child closes the lock file that it shares with its parent (an open file description lock would be shared, too) and opens its
 * own; no handle's locks are held while a process forks: fork() waits for the threads that hold one. So nothing that a thread runs with the
 * lock held may fork, or it would wait for itself. No Python code runs there (base/sync.h; signal handlers of Python wait for the
 * interpreter), only system calls and the hooks of tests. There is no way out that would be right: the child would go on with half a
 * change, beside its parent, without the lock that it shares with nobody.
 */
#ifndef PFO_CACHE_DISK_HANDLE_H
#define PFO_CACHE_DISK_HANDLE_H

#include "base/sync.h"
#include "cache/disk_files.h"
#include "cache/disk_index.h"
#include "cache/diskformat.h"

enum { PFO_DISK_OPEN_SEGMENTS = 64, PFO_DISK_CHECKED = 64, PFO_DISK_NAME = 96 };

/* An open segment. `users` counts the readers that are in it; the top bit keeps new ones out while it is exchanged. */
typedef struct pfo_segment_file {
    _Atomic uint32_t number; /* 0: none */
    _Atomic uint32_t users;
    pfo_file file;
} pfo_segment_file;

/* A mapped payload, shared by the values that were got. */
typedef struct pfo_payload_map {
    _Atomic uint32_t references;
    void *base;
    size_t length;
} pfo_payload_map;

/* A payload file whose checksum was found right. */
typedef struct pfo_checked_payload {
    pfo_digest key;
    uint64_t sequence; /* of its record; 0: free */
    pfo_file file;
    struct timespec modified;
    uint64_t last_use;
    char kind[PFO_DISK_KIND];
    uint64_t payload_length;
    uint32_t item_bytes;
    uint16_t flags;
    pfo_payload_map *map;
} pfo_checked_payload;

typedef enum pfo_disk_policy {
    PFO_ORDER_LRU,
    PFO_ORDER_FIFO,
    PFO_ORDER_SIEVE,
    PFO_ORDER_S3FIFO,
    PFO_ORDER_WTINYLFU
} pfo_disk_policy;

/* A candidate for eviction as it was when the index was looked through; disk_order.c. */
typedef struct pfo_victim {
    uint64_t rank; /* the lowest leaves first */
    uint64_t sequence;
    uint32_t position;
    uint32_t stamp;
} pfo_victim;

/* Indexes that readers may be in: one that `users` count themselves into, and the one before it until they have left. */
typedef struct pfo_reading_place {
    _Atomic(pfo_index *) index;
    _Atomic uint32_t users;
} pfo_reading_place;

struct pfo_disk {
    char *directory;
    uint64_t max_bytes;
    uint32_t segment_bytes; /* at which a segment is sealed */
    pfo_disk_policy policy;
    pfo_durability durability;
    pfo_compression compression;
    uint64_t (*now_ns)(void);
    _Atomic int read_only;
    unsigned char boot[16];

    struct pfo_disk *previous; /* the handles of this process, for fork */
    struct pfo_disk *next;
    pfo_mutex lock;
    pfo_file root;               /* for those who hold `lock` */
    _Atomic int root_descriptor; /* root's, for others; while the cache is open it is exchanged, not closed */
    pfo_file lock_file;
    _Atomic uint64_t salt;
    _Atomic(pfo_index *) index; /* for those who hold `lock`; others ask pfo_disk_enter() */
    pfo_reading_place places[2];
    _Atomic uint32_t place; /* the one to enter */
    _Atomic int must_rebuild;
    uint64_t next_temporary;
    pfo_victim *victims; /* ascending; the next one is victims[victim_next] */
    uint32_t victim_count;
    uint32_t victim_next;
    const pfo_index *victims_of;

    pfo_mutex segments_lock; /* of opening and closing segments */
    pfo_segment_file segments[PFO_DISK_OPEN_SEGMENTS];
    pfo_mutex payloads_lock;
    pfo_checked_payload checked[PFO_DISK_CHECKED];
    uint64_t payload_uses;

    _Atomic uint64_t hits, misses, expirations, evictions, rejects, corrupt, write_failures;
};

/* ---- disk_handle.c ---- */

pfo_status pfo_disk_lock(pfo_disk *disk, pfo_error *err);
/* The same for who empties the directory: an index that would have to be rebuilt stays as it is, or missing, and must_rebuild is set. */
pfo_status pfo_disk_lock_to_clear(pfo_disk *disk, pfo_error *err);
void pfo_disk_unlock(pfo_disk *disk);
/* The index to read from, mapped anew if another took its place; it stays mapped until pfo_disk_leave(). NULL (and nothing to leave):
 * there is none that can be used; the directory is gone, or the file was damaged and no writer has come by since. */
pfo_index *pfo_disk_enter(pfo_disk *disk, pfo_reading_place **place);
void pfo_disk_leave(pfo_reading_place *place);
/* For a handle that only reads: keeps writers out (where there is a lock file), and has the directory's index in its newest state, or one
 * made in memory. */
pfo_status pfo_disk_lock_shared(pfo_disk *disk, pfo_error *err);
void pfo_disk_unlock_shared(pfo_disk *disk);
/* pre: locked. Puts the file `name` in the place of the index; on failure the old one stays. Owns index either way. name == NULL: an
 * index in memory, for a handle that only reads. */
pfo_status pfo_disk_publish_index(pfo_disk *disk, pfo_index *index, const char *name, pfo_error *err);
/* pre: locked. An index of twice the slots, with everything in it. */
pfo_status pfo_disk_grow(pfo_disk *disk, pfo_error *err);
/* pre: locked. Unlinks the index, which frees its room on the disk as soon as no reader is in it; the next who locks makes one. */
void pfo_disk_drop_index(pfo_disk *disk);
/* pre: locked. The same with half the slots. OVERFLOW: they are too few. */
pfo_status pfo_disk_shrink(pfo_disk *disk, pfo_error *err);
/* Everything in the directory, in bytes, garbage included: by counters that were read together, or by those that stand; pre of the second:
 * locked. */
uint64_t pfo_disk_bytes_of(const pfo_index *index, const uint64_t counters[PFO_COUNTERS]);
uint64_t pfo_disk_bytes(const pfo_index *index);

/* pre: locked. Index and segments may disagree: who locks next rebuilds the index, whoever dies until then. */
void pfo_disk_distrust(pfo_disk *disk);
/* pre: locked. They agree again, in the index that was published last. */
void pfo_disk_trust(pfo_disk *disk);

/* ---- disk_resume.c; pre: locked ---- */

/* Brings a change to an end whose writer was killed. 0: that cannot be done; the index must be rebuilt. */
int pfo_disk_resume(pfo_disk *disk);

/* ---- disk_directory.c ---- */

/* A name in tmp/ that nobody else uses; it ends with the bytes the file is meant to have. */
void pfo_disk_temporary_name(pfo_disk *disk, uint64_t bytes, char name[PFO_DISK_NAME]);
/* fsync of the folder `name` where the handle promises to survive a power cut. */
pfo_status pfo_disk_sync_folder(pfo_disk *disk, const char *name, pfo_error *err);
/* IO with the system's text, and which file. */
pfo_status pfo_disk_io_error(pfo_error *err, int error, const char *what, const char *name);
/* Which run of the machine this is: after a power cut the index may be a mixture of old and new pages. */
void pfo_disk_read_boot(unsigned char boot[16]);
/* pre: `lock` is held. Opens the directory, for the first time or because the one that was open is gone: readers may be using its
 * descriptor, which comes to name the new one. On failure the old one stays, and is found to be gone again. */
pfo_status pfo_disk_open_directory(pfo_disk *disk, pfo_error *err);
pfo_status pfo_disk_write_format(pfo_disk *disk, pfo_error *err); /* with the handle's salt */
/* *known: the salt was read. STATE: not a directory for this version. */
pfo_status pfo_disk_read_format(pfo_disk *disk, int *known, pfo_error *err);
/* 1: has the salt of an index whose format file was lost, so that its segments can be read still. */
int pfo_disk_salvage_salt(pfo_disk *disk);

/* ---- disk.c ---- */

static inline void
pfo_disk_count_one(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* pre: locked. A damaged index is rebuilt before it is asked again: what is done to a key whose slot was lost would leave its record behind,
 * to come back with a later rebuild. */
pfo_status pfo_disk_find_locked(pfo_disk *disk, const pfo_digest *key, pfo_slot *slot, uint32_t *position, int *found,
                                pfo_error *err);
/* Whether the index says so without a doubt, which needs no lock: most changes of a key in memory meet nothing here, and a directory
 * that cannot be written to has nothing to refuse them. */
int pfo_disk_is_absent(pfo_disk *disk, const pfo_digest *key);

/* ---- disk_recover.c; pre: locked, or a handle that only reads ---- */

/* A new index from what the segments say; published unless the handle only reads, where it is kept in memory. */
pfo_status pfo_disk_rebuild(pfo_disk *disk, pfo_error *err);
/* Removes temporary files that nobody is writing, and sums the others up. */
void pfo_disk_sweep_temporary(pfo_disk *disk, uint64_t *orphans, uint64_t *orphan_bytes);
/* Payload files that no entry names; remove != 0 unlinks them. */
pfo_status pfo_disk_sweep_payloads(pfo_disk *disk, const pfo_index *index, int remove, uint64_t *orphans,
                                   uint64_t *orphan_bytes, pfo_error *err);
/* The same, with remove, for one of the 256 folders. */
pfo_status pfo_disk_sweep_folder(pfo_disk *disk, const pfo_index *index, unsigned char number, pfo_error *err);
/* Unlinks all segments and payload files. */
pfo_status pfo_disk_remove_all(pfo_disk *disk, pfo_error *err);
/* Calls each(context, folder, name) for everything in a folder but names that begin with a dot, until it does not return OK. A missing
 * folder is empty. */
typedef pfo_status (*pfo_disk_each)(void *context, const char *folder, const char *name);
pfo_status pfo_disk_walk(const pfo_disk *disk, const char *folder, pfo_disk_each each, void *context, pfo_error *err);

/* ---- disk_room.c; pre: locked ---- */

/* Takes the entry out: record, slot, payload file. */
pfo_status pfo_disk_remove_entry(pfo_disk *disk, uint32_t position, const pfo_slot *slot, pfo_error *err);
/* Evicts and compacts until `need` more bytes fit the bound. UNAVAILABLE when they cannot. */
pfo_status pfo_disk_make_room(pfo_disk *disk, uint64_t need, pfo_error *err);
/* Brings what was written under a larger bound below this one, the index too. What fails is left to the next put. */
void pfo_disk_keep_bound(pfo_disk *disk);
/* A place for the key, growing the index or giving up a neighbour. The index may be another afterwards. */
pfo_status pfo_disk_find_place(pfo_disk *disk, const pfo_digest *key, uint32_t *position, pfo_error *err);

/* ---- disk_order.c; pre: locked ---- */

/* PFO_BAD_ARGUMENT for an unknown name. */
pfo_status pfo_disk_policy_by_name(const char *name, pfo_disk_policy *policy, pfo_error *err);
/* The entry that leaves next. *found == 0: there is none. */
pfo_status pfo_disk_next_victim(pfo_disk *disk, pfo_index *index, uint32_t *position, pfo_slot *slot, int *found,
                                pfo_error *err);
/* 1 when the entry's promise has run out, or the clock was set back to before it was stored. */
int pfo_disk_has_expired(const pfo_disk *disk, const pfo_slot *slot, uint64_t now_ns);

#endif
