/* disk_segments.h: the append-only files that hold records.
 *
 * Contract: a record is written once; later only its state word changes, to DEAD, when it was replaced or deleted. A record that
 * disagrees with its checksums, its place or its slot is never used. Sealed segments that are mostly garbage are copied away and
 * unlinked, so a location may go stale under a reader: it looks the key up again.
 * Threads: reading from anywhere; everything else under the writers' lock.
 * Memory: the handle owns the open files; records are read into the caller's block.
 */
#ifndef PFO_CACHE_DISK_SEGMENTS_H
#define PFO_CACHE_DISK_SEGMENTS_H

#include "cache/disk_handle.h"

enum {
    PFO_RECORD_MOST = 64 * 1024,       /* of a record with its header, aligned */
    PFO_SEGMENT_MOST = 8 * 1024 * 1024 /* at which a segment is sealed at the latest */
};

/* STALE: moved or replaced meanwhile. UNREADABLE: the system refused (no descriptors, no memory), which says nothing about the record. */
typedef enum pfo_record_state {
    PFO_RECORD_WHOLE,
    PFO_RECORD_STALE,
    PFO_RECORD_BROKEN,
    PFO_RECORD_UNREADABLE
} pfo_record_state;

/* A use of an open segment; give it back with pfo_segment_release(). */
typedef struct pfo_segment_use {
    pfo_segment_file *shared; /* or NULL, and own is open */
    pfo_file own;
    const pfo_file *file;
} pfo_segment_use;

uint64_t pfo_record_check(const pfo_record_header *header, uint64_t salt, uint32_t segment, uint32_t offset);
uint32_t pfo_record_bytes(const pfo_record_header *header); /* header and body, aligned */

void pfo_segment_name(uint32_t number, char name[PFO_DISK_NAME]);
/* 0 or an errno value. The file may have been unlinked since it was opened. */
int pfo_segment_use_open(pfo_disk *disk, uint32_t number, pfo_segment_use *use);
/* The same, but the file is in the directory; for writing, and where a read did not give what it should. */
int pfo_segment_use_linked(pfo_disk *disk, uint32_t number, pfo_segment_use *use);
void pfo_segment_release(pfo_segment_use *use);
void pfo_segments_close(pfo_disk *disk); /* all open ones; no reader may be in one */

/* Reads the first `bytes` of the slot's record; the header is checked, and the body where all of it was read. */
pfo_record_state pfo_segment_read(pfo_disk *disk, const pfo_slot *slot, void *record, size_t bytes);

/* Writes a record (its place and header check are filled in) into the active segment, and says where. PFO_STATE: no row is
 * free, the index must grow. */
pfo_status pfo_segment_append(pfo_disk *disk, pfo_index *index, void *record, uint32_t bytes, uint32_t *segment,
                              uint32_t *offset, pfo_error *err);
/* Marks a record dead and takes it out of the accounts. What it leaves empty goes with pfo_segment_drop_empty(), once the slot is changed. */
pfo_status pfo_segment_kill(pfo_disk *disk, pfo_index *index, uint32_t segment, uint32_t offset, uint32_t bytes,
                            pfo_error *err);
/* Takes a record that is dead out of the accounts. */
void pfo_segment_account_death(pfo_disk *disk, pfo_index *index, uint32_t segment, uint32_t bytes);
/* Takes back a record that was appended last and whose sync failed; it does not come back unless the system refuses to write and to cut. */
void pfo_segment_take_back(pfo_disk *disk, pfo_index *index, uint32_t segment, uint32_t offset, uint32_t bytes);
/* fsync where the handle promises to survive a power cut. */
pfo_status pfo_segment_sync(pfo_disk *disk, uint32_t segment, pfo_error *err);
/* Writes a record's state. 0 (also where the segment is gone) or an errno value. */
int pfo_segment_mark(pfo_disk *disk, uint32_t segment, uint32_t offset, uint32_t state);

/* Unlinks a segment and frees its row; pre: nothing in it is live, and index and segments agree: a step ends here. */
void pfo_segment_drop(pfo_disk *disk, pfo_index *index, uint32_t number);
/* The same for a sealed segment that has no live records, and nothing for others. */
void pfo_segment_drop_empty(pfo_disk *disk, pfo_index *index, uint32_t number);

/* ---- disk_compact.c ---- */

/* The sealed segment with the least live share. 0: none. */
uint32_t pfo_segment_worst(const pfo_index *index, pfo_segment_row *row);
/* Copies what is live in a segment to the active one, and unlinks it. Where that fails half-way the copies count and the rest stays. */
pfo_status pfo_segment_compact(pfo_disk *disk, uint32_t number, pfo_error *err);

/* Ends a compaction whose writer was killed: what has a copy is dead. */
pfo_status pfo_segment_settle(pfo_disk *disk, uint32_t number, pfo_error *err);
/* A sealed segment that is mostly garbage is copied away at once, so that no search for such segments is needed. */
void pfo_segment_tidy(pfo_disk *disk, uint32_t number);

/* ---- disk_segments.c ---- */

/* What a scan has found. */
typedef struct pfo_segment_scan_report {
    uint64_t valid_end;  /* of the last whole record */
    uint64_t damaged;    /* stretches that are no whole records, but for a torn tail */
    uint64_t unreadable; /* pages that the disk cannot read: they count as zeros */
} pfo_segment_scan_report;

/* Calls each() for every whole record; stops when it does not return OK. */
typedef pfo_status (*pfo_record_each)(void *context, const pfo_record_header *header, uint32_t offset);
pfo_status pfo_segment_scan(pfo_disk *disk, uint32_t number, uint64_t salt, pfo_record_each each, void *context,
                            pfo_segment_scan_report *report, pfo_error *err);
/* Writes zeros over every page that the disk cannot read: it takes another place for it then. 0 or an errno value. */
int pfo_segment_heal(pfo_disk *disk, uint32_t number);

#endif
