/* disk_index.h: the index of the disk tier: a mapped table of checksummed 64-byte slots, found by key, without locks for readers.
 *
 * Contract: a key has two buckets of eight slots; an entry never moves within a map, so a reader needs one probe. A reader copies a slot
 * and checks it; a copy torn by a writer fails its check and is taken again. Positions, sizes and counts are bounded by what was checked
 * when the map was made, never by what the map says later, so that damage cannot lead outside of it.
 * The index is derived from the segments; nothing here needs to reach the disk. But what reached it may be lost again without a word (a page
 * that was not written back and is read anew), and an empty slot has no checksum: so each bucket has a sum over its slots in another
 * page, and a writer believes neither what a bucket holds nor what it lacks before the sum agrees.
 * Threads and processes: pfo_index_find(), _at(), _note() and _count() from anywhere; everything else under the writers' lock.
 * Memory: an index owns its map and its descriptor; disk_handle.h says when a replaced one is closed.
 */
#ifndef PFO_CACHE_DISK_INDEX_H
#define PFO_CACHE_DISK_INDEX_H

#include "cache/disk_files.h"
#include "cache/diskformat.h"

typedef struct pfo_index {
    unsigned char *base;
    size_t bytes;
    pfo_index_header *header;
    pfo_index_journal *journal;
    _Atomic uint64_t *slots;
    pfo_segment_row *rows;
    _Atomic uint64_t *sums; /* of each bucket; see pfo_index_is_whole() */
    uint32_t slot_count;
    uint32_t row_count;
    uint64_t salt;
    int writable;
    int in_memory;
    pfo_file file;           /* closed for an index in memory */
    struct pfo_index *older; /* closed together with this one */
} pfo_index;

/* Bytes of an index with this many slots. */
uint64_t pfo_index_bytes(uint32_t slot_count);

/* A new, empty index. name == NULL: in memory only. STATE never; IO, NO_MEMORY. */
pfo_status pfo_index_create(pfo_index **index, int directory, const char *name, uint32_t slot_count, uint64_t salt,
                            const unsigned char boot[16], pfo_error *err);
/* Maps the index of that name. *index == NULL with PFO_OK: there is none that can be used. */
pfo_status pfo_index_open(pfo_index **index, int directory, const char *name, int writable, uint64_t salt,
                          pfo_error *err);
void pfo_index_retire(pfo_index *index); /* another file has taken its place */
void pfo_index_close(pfo_index *index);  /* and the older ones; NULL is allowed */
int pfo_index_is_retired(const pfo_index *index);
/* Whether the map may be touched and is the directory's index: one fstat tells whether another program has cut the file short (touching
 * the lost pages is a signal) or it was unlinked, and the header whether another has taken its place. An index in memory always is. */
int pfo_index_is_current(const pfo_index *index); /* NULL is not */

typedef enum pfo_found { PFO_ABSENT, PFO_FOUND, PFO_DAMAGED } pfo_found;

/* ABSENT only when every slot in the key's buckets is whole. */
pfo_found pfo_index_find(const pfo_index *index, const pfo_digest *key, pfo_slot *slot, uint32_t *position);
/* Whether both of the key's buckets are as they were left, empty slots and replaced ones included. Beside a writer it may say no. */
int pfo_index_is_whole(const pfo_index *index, const pfo_digest *key);
int pfo_index_bucket_is_whole(const pfo_index *index, uint32_t position); /* the one of that slot; pre: locked */
/* ABSENT: empty. pre: position < slot_count. */
pfo_found pfo_index_at(const pfo_index *index, uint32_t position, pfo_slot *slot);
/* Notes a read of the entry for the policies. Losing a note is harmless, so it never waits. */
void pfo_index_note(pfo_index *index, uint32_t position, uint64_t sequence);

/* An empty place for the key; 0 when both of its buckets are full. */
int pfo_index_place(const pfo_index *index, const pfo_digest *key, uint32_t *position);
/* The slots of the key's buckets, for choosing one that must go: positions[2 * PFO_DISK_BUCKET]. */
void pfo_index_neighbours(const pfo_index *index, const pfo_digest *key, uint32_t *positions);
void pfo_index_set(pfo_index *index, uint32_t position, const pfo_slot *slot); /* slot->check is computed */
void pfo_index_clear(pfo_index *index, uint32_t position);
/* New `used` bits for an entry, by the policies. */
void pfo_index_set_used(pfo_index *index, uint32_t position, const pfo_slot *slot, uint8_t used);
/* Every entry and row of from into an empty `to`. OVERFLOW: they do not fit; STATE: `from` is damaged. */
pfo_status pfo_index_copy(const pfo_index *from, pfo_index *to);

/* FOUND: *row is segment `number`'s. ABSENT: its row is free. DAMAGED: the row is another's, or broken. */
pfo_found pfo_index_row(const pfo_index *index, uint32_t number, pfo_segment_row *row);
pfo_found pfo_index_row_at(const pfo_index *index, uint32_t place, pfo_segment_row *row);
void pfo_index_set_row(pfo_index *index, uint32_t number, const pfo_segment_row *row); /* NULL: frees it */

uint64_t pfo_index_count(const pfo_index *index, pfo_counter which);
/* All of them as they stood between two changes, also beside writers; a mixture only where writers leave no such moment for thousands
 * of looks and 50 ms more, or one died within a change. */
void pfo_index_counts(const pfo_index *index, uint64_t counters[PFO_COUNTERS]);
void pfo_index_set_count(pfo_index *index, pfo_counter which, uint64_t value);
void pfo_index_add(pfo_index *index, pfo_counter which, uint64_t amount); /* modulo 2^64: subtracts, too */
/* Marks the beginning and the end of a change. 0: the last writer died in one, or the counters are damaged. */
int pfo_index_begin(pfo_index *index);
void pfo_index_end(pfo_index *index);
void pfo_index_spoil(pfo_index *index); /* who comes next rebuilds it, even if this writer dies now */
uint32_t pfo_index_clock(const pfo_index *index);

#endif
