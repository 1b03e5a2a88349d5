/* disk_payload.h: payloads that are files of their own: written to tmp/, published by rename, read by mmap.
 *
 * Contract: a file holds exactly the payload's bytes. It is checked in full the first time this process meets it; after that it is enough
 * that it is the same file, of the same length, unmodified and not unlinked. Maps that were handed out stay good when the file goes.
 * A file is locked (OFD) while it is being written in tmp/, so that a sweep knows it from one whose writer died.
 * Threads: everything but pfo_payload_reserve() and pfo_payload_publish() (writers' lock) from anywhere.
 */
#ifndef PFO_CACHE_DISK_PAYLOAD_H
#define PFO_CACHE_DISK_PAYLOAD_H

#include "cache/disk_segments.h"

typedef struct pfo_payload_draft {
    pfo_file file;
    uint64_t bytes;    /* of the file */
    uint64_t reserved; /* counted as temporary in the index */
    char name[PFO_DISK_NAME];
} pfo_payload_draft;

/* payloads/xx/<key>-<sequence><suffix>; the folder is its first 11 characters. */
void pfo_payload_name(const pfo_digest *key, uint64_t sequence, const char *suffix, char name[PFO_DISK_NAME]);

/* Makes room and an empty, locked file. */
pfo_status pfo_payload_reserve(pfo_disk *disk, uint64_t bytes, pfo_payload_draft *draft, pfo_error *err);
/* Writes the parts and gives their digest; a second thread of the pool hashes large ones meanwhile. Written in units of a huge page, the
 * file is mapped in huge pages where the file system keeps such folios (ext4 since Linux 6.16, XFS). Call without the lock. */
pfo_status pfo_payload_write(pfo_disk *disk, pfo_payload_draft *draft, const pfo_bytes *parts, size_t part_count,
                             pfo_digest *digest, pfo_error *err);
/* Moves the draft to its name. */
pfo_status pfo_payload_publish(pfo_disk *disk, const pfo_payload_draft *draft, const char *name, pfo_error *err);
/* Closes the draft; published == 0 removes the file as well. 0: it is still there, and a sweep will find it. */
int pfo_payload_drop(pfo_disk *disk, pfo_payload_draft *draft, int published);
/* pre: locked. Gives back what was reserved for a draft that is gone. */
void pfo_payload_unreserve(pfo_disk *disk, const pfo_payload_draft *draft);

/* The value of a slot whose payload is a file. STALE: look the key up again. *status: NO_MEMORY or OK. */
pfo_record_state pfo_payload_get(pfo_disk *disk, const pfo_slot *slot, int writable, pfo_disk_value *value,
                                 pfo_status *status, pfo_error *err);
/* Unlinks the payload file of a record. 0 or an errno value. */
int pfo_payload_remove(pfo_disk *disk, const pfo_digest *key, const pfo_file_extension *extension);
/* Reads a record whose payload is a file. */
pfo_record_state pfo_payload_record(pfo_disk *disk, const pfo_slot *slot, pfo_record_header *header,
                                    pfo_file_extension *extension);
void pfo_payload_map_release(pfo_payload_map *map);
void pfo_payloads_close(pfo_disk *disk); /* forgets all checked files */

#endif
