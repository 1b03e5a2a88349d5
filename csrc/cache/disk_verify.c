/* disk_verify.c: listing entries, and reading every one of them; see disk.h. Works on any handle; repairs only where it may write. */
#include "cache/disk_payload.h"

#include "base/alloc.h"

#include <string.h>

pfo_status
pfo_disk_next(pfo_disk *disk, uint64_t *cursor, pfo_disk_entry *entry, int *more, pfo_error *err)
{
    pfo_record_header *record = pfo_alloc(PFO_RECORD_MOST);
    *more = 0;
    if (record == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory listing the disk cache");
    }
    pfo_reading_place *place;
    const pfo_index *index = pfo_disk_enter(disk, &place);
    for (; !*more && index != NULL && *cursor < index->slot_count; ++*cursor) {
        pfo_slot slot;
        if (pfo_index_at(index, (uint32_t)*cursor, &slot) != PFO_FOUND ||
            (uint32_t)slot.units * PFO_DISK_ALIGNMENT > PFO_RECORD_MOST ||
            pfo_segment_read(disk, &slot, record, (size_t)slot.units * PFO_DISK_ALIGNMENT) != PFO_RECORD_WHOLE) {
            continue;
        }
        const size_t label = record->label_length > PFO_DISK_LABEL ? PFO_DISK_LABEL : record->label_length;
        *entry = (pfo_disk_entry){ .key = slot.key,
                                   .stored_ns = record->stored_ns,
                                   .expires_ns = record->expires_ns,
                                   .bytes = (uint64_t)slot.units * PFO_DISK_ALIGNMENT +
                                            (uint64_t)slot.file_pages * PFO_DISK_PAGE,
                                   .payload_bytes = record->payload_length,
                                   .is_file = (record->flags & PFO_RECORD_FILE) != 0,
                                   .is_compressed = (record->flags & PFO_RECORD_COMPRESSED) != 0 };
        memcpy(entry->kind, record->kind, sizeof entry->kind);
        memcpy(entry->label, (const char *)(record + 1) + record->length - record->label_length, label);
        *more = 1;
    }
    if (index != NULL) {
        pfo_disk_leave(place);
    }
    pfo_free(record);
    return PFO_OK;
}

/* Reads one entry in full, past what this process remembers of it. WHOLE, or what is wrong. */
static pfo_record_state
check_entry(pfo_disk *disk, const pfo_slot *slot, pfo_record_header *record, pfo_status *status, pfo_error *err)
{
    *status = PFO_OK;
    if ((slot->flags & PFO_RECORD_FILE) == 0) {
        return (uint32_t)slot->units * PFO_DISK_ALIGNMENT > PFO_RECORD_MOST
                   ? PFO_RECORD_BROKEN
                   : pfo_segment_read(disk, slot, record, (size_t)slot->units * PFO_DISK_ALIGNMENT);
    }
    pfo_disk_value value = { 0 };
    const pfo_record_state state = pfo_payload_get(disk, slot, 0, &value, status, err);
    pfo_disk_release(&value);
    return state;
}

static pfo_status
lock_either(pfo_disk *disk, pfo_error *err)
{
    return disk->read_only ? pfo_disk_lock_shared(disk, err) : pfo_disk_lock(disk, err);
}

static void
unlock_either(pfo_disk *disk)
{
    if (disk->read_only) {
        pfo_disk_unlock_shared(disk);
    } else {
        pfo_disk_unlock(disk);
    }
}

/* Entry by entry, each under the lock, so that others get on meanwhile. */
static pfo_status
check_at(pfo_disk *disk, uint32_t position, int repair, pfo_record_header *record, pfo_disk_report *report,
         pfo_error *err)
{
    pfo_slot slot;
    pfo_status status = PFO_OK;
    const pfo_index *index = atomic_load(&disk->index);
    const pfo_found found = pfo_index_at(index, position, &slot);
    if (found == PFO_ABSENT) {
        return PFO_OK;
    }
    report->checked++;
    const pfo_record_state state =
        found == PFO_FOUND ? check_entry(disk, &slot, record, &status, err) : PFO_RECORD_BROKEN;
    if (status != PFO_OK || state == PFO_RECORD_WHOLE) {
        return status;
    }
    if (state == PFO_RECORD_UNREADABLE) {
        return pfo_fail(err, PFO_IO, "the disk cache cannot read an entry of %s", disk->directory);
    }
    report->damaged++;
    atomic_fetch_add(&disk->corrupt, 1);
    if (repair && found == PFO_FOUND) {
        status = pfo_disk_remove_entry(disk, position, &slot, err);
        if (status != PFO_OK && !disk->must_rebuild) {
            return status;
        } /* else who locks next rebuilds the index, without this entry */
        report->repaired++;
    }
    return PFO_OK;
}

static pfo_status
check_all(pfo_disk *disk, int repair, pfo_record_header *record, pfo_disk_report *report, pfo_error *err)
{
    int damaged_slots = 0;
    pfo_status status = PFO_OK;
    for (uint32_t position = 0; status == PFO_OK; position++) {
        PFO_TRY(lock_either(disk, err));
        const pfo_index *index = atomic_load(&disk->index);
        const int at_end = position >= index->slot_count;
        pfo_slot slot;
        if (!at_end) {
            const int is_lost = position % PFO_DISK_BUCKET == 0 && !pfo_index_bucket_is_whole(index, position);
            report->damaged += (uint64_t)is_lost; /* slots that say nothing of themselves any more */
            damaged_slots |= is_lost || pfo_index_at(index, position, &slot) == PFO_DAMAGED;
            status = check_at(disk, position, repair, record, report, err);
        }
        unlock_either(disk);
        if (at_end) {
            break;
        }
    }
    if (status == PFO_OK && damaged_slots && repair) {
        PFO_TRY(pfo_disk_lock(disk, err));
        status = pfo_disk_rebuild(disk, err);
        pfo_disk_unlock(disk);
        report->index_rebuilt = status == PFO_OK;
    }
    return status;
}

pfo_status
pfo_disk_verify(pfo_disk *disk, int repair, pfo_disk_report *report, pfo_error *err)
{
    *report = (pfo_disk_report){ 0 };
    const int may_write = !disk->read_only;
    if (repair && !may_write) {
        return pfo_fail(err, PFO_UNAVAILABLE, "cache_dir %s cannot be repaired: it is open for reading only",
                        disk->directory);
    }
    pfo_record_header *record = pfo_alloc(PFO_RECORD_MOST);
    if (record == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory verifying the disk cache");
    }
    pfo_payloads_close(disk); /* what was checked before is checked again */
    pfo_status status = check_all(disk, repair, record, report, err);
    pfo_free(record);
    if (status == PFO_OK && may_write) {
        PFO_TRY(pfo_disk_lock(disk, err));
        status = pfo_disk_sweep_payloads(disk, atomic_load(&disk->index), repair, &report->orphans,
                                         &report->orphan_bytes, err);
        if (repair) {
            report->repaired += report->orphans;
            pfo_disk_sweep_temporary(disk, &report->orphans, &report->orphan_bytes);
        }
        pfo_disk_unlock(disk);
    }
    return status;
}
