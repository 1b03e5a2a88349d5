/* disk_compact.c: how the room of dead records is taken back; see disk_segments.h for the contract.
 *
 * What is live in a segment is copied to the active one, the copies are synced where the handle promises that, and the segment is unlinked. A
 * copy has its record's sequence, so a kill in between leaves two equal ones, of which pfo_segment_settle(), or a rebuild, keeps one.
 */
#include "cache/disk_segments.h"

#include "base/alloc.h"
#include "cache/disk_journal.h"

uint32_t
pfo_segment_worst(const pfo_index *index, pfo_segment_row *row)
{
    const uint32_t active = (uint32_t)pfo_index_count(index, PFO_COUNT_ACTIVE);
    uint32_t worst = 0;
    for (uint32_t place = 0; place < index->row_count; place++) {
        pfo_segment_row one;
        if (pfo_index_row_at(index, place, &one) == PFO_FOUND && one.number != active && one.size != 0 &&
            (worst == 0 || (uint64_t)one.live_bytes * row->size < (uint64_t)row->live_bytes * one.size)) {
            worst = one.number;
            *row = one;
        }
    }
    return worst;
}

typedef struct compaction {
    pfo_disk *disk;
    pfo_error *err;
    unsigned char *record;
    uint32_t number;
    uint32_t moved;
    uint32_t target; /* the segment that the last copy is in; 0: none yet */
} compaction;

/* Copies the record, and lets the slot name the copy: the index need not survive a power cut, so that can come before the sync. */
static pfo_status
copy_record(compaction *run, const pfo_record_header *header, uint32_t offset)
{
    pfo_index *index = atomic_load(&run->disk->index);
    pfo_slot slot;
    uint32_t position;
    if (header->state != PFO_DISK_LIVE || pfo_index_find(index, &header->key, &slot, &position) != PFO_FOUND ||
        slot.segment != run->number || slot.offset != offset) {
        return PFO_OK;
    }
    const uint32_t bytes = (uint32_t)slot.units * PFO_DISK_ALIGNMENT;
    const pfo_record_state state = pfo_segment_read(run->disk, &slot, run->record, bytes);
    if (state == PFO_RECORD_UNREADABLE) {
        return pfo_fail(run->err, PFO_IO, "the disk cache cannot read a segment of %s", run->disk->directory);
    }
    if (state != PFO_RECORD_WHOLE) {
        atomic_fetch_add(&run->disk->corrupt, 1);
        return pfo_disk_remove_entry(run->disk, position, &slot, run->err);
    }
    PFO_TRY(pfo_segment_append(run->disk, index, run->record, bytes, &slot.segment, &slot.offset, run->err));
    pfo_index_set(index, position, &slot);
    pfo_journal_commit(index);
    run->moved++;
    const uint32_t before = run->target;
    run->target = slot.segment;
    return before == 0 || before == slot.segment ? PFO_OK : pfo_segment_sync(run->disk, before, run->err);
}

static pfo_status
move_record(void *context, const pfo_record_header *header, uint32_t offset)
{
    compaction *run = context;
    pfo_status status = copy_record(run, header, offset);
    if (status == PFO_STATE) { /* no row for another segment */
        status = pfo_disk_grow(run->disk, run->err);
        return status == PFO_OK ? copy_record(run, header, offset) : status;
    }
    return status;
}

/* Marks a record dead that has a copy elsewhere. */
static pfo_status
bury_moved(void *context, const pfo_record_header *header, uint32_t offset)
{
    compaction *run = context;
    pfo_index *index = atomic_load(&run->disk->index);
    pfo_slot slot;
    uint32_t position;
    if (header->state != PFO_DISK_LIVE || pfo_index_find(index, &header->key, &slot, &position) != PFO_FOUND ||
        slot.sequence != header->sequence || (slot.segment == run->number && slot.offset == offset)) {
        return PFO_OK;
    }
    pfo_journal_undo(index, PFO_UNDO_MARK, run->number, offset, 0);
    const int error = pfo_segment_mark(run->disk, run->number, offset, PFO_DISK_DEAD);
    if (error != 0) {
        return pfo_disk_io_error(run->err, error, "write", "a segment");
    }
    pfo_segment_account_death(run->disk, index, run->number, pfo_record_bytes(header));
    pfo_journal_commit(index);
    return PFO_OK;
}

/* The copies are safe: what they were copied from goes, at once if all of it was. */
static pfo_status
leave_segment(compaction *run)
{
    pfo_segment_scan_report report;
    pfo_segment_row row;
    pfo_index *index = atomic_load(&run->disk->index);
    if (pfo_index_row(index, run->number, &row) != PFO_FOUND) {
        return PFO_OK; /* nothing in it was live */
    }
    if (row.live_records == run->moved) {
        pfo_segment_drop(run->disk, index, run->number);
        return pfo_disk_sync_folder(run->disk, "segments", run->err);
    }
    PFO_TRY(
        pfo_segment_scan(run->disk, run->number, atomic_load(&run->disk->salt), bury_moved, run, &report, run->err));
    PFO_TRY(pfo_segment_sync(run->disk, run->number, run->err));
    pfo_segment_drop_empty(run->disk, index, run->number);
    return PFO_OK;
}

pfo_status
pfo_segment_settle(pfo_disk *disk, uint32_t number, pfo_error *err)
{
    pfo_segment_scan_report report;
    pfo_segment_row row;
    compaction run = { .disk = disk, .err = err, .number = number };
    pfo_index *index = atomic_load(&disk->index);
    if (pfo_index_row(index, number, &row) != PFO_FOUND) {
        return PFO_OK; /* it was dropped already */
    }
    const int error =
        disk->durability == PFO_DURABLE_POWER ? pfo_file_sync_all(disk->root.descriptor) : 0; /* the copies */
    if (error != 0) {
        return pfo_disk_io_error(err, error, "sync", disk->directory);
    }
    PFO_TRY(pfo_segment_scan(disk, number, atomic_load(&disk->salt), bury_moved, &run, &report, err));
    if (report.damaged != 0 || report.unreadable != 0) {
        return pfo_fail(err, PFO_IO, "the disk cache cannot read a segment of %s", disk->directory);
    }
    pfo_segment_drop_empty(disk, index, number);
    return PFO_OK;
}

pfo_status
pfo_segment_compact(pfo_disk *disk, uint32_t number, pfo_error *err)
{
    pfo_segment_scan_report report;
    compaction run = { .disk = disk, .err = err, .record = pfo_alloc(PFO_RECORD_MOST), .number = number };
    if (run.record == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory compacting a segment");
    }
    pfo_journal_commit(atomic_load(&disk->index));
    const uint32_t depth = pfo_journal_note(atomic_load(&disk->index), PFO_NOTE_COMPACT, number);
    const pfo_status copied = pfo_segment_scan(disk, number, atomic_load(&disk->salt), move_record, &run, &report, err);
    pfo_free(run.record);
    pfo_status status = run.target == 0 ? PFO_OK : pfo_segment_sync(disk, run.target, err);
    if (status == PFO_OK) {
        status = leave_segment(&run);
    }
    pfo_segment_row row;
    if (status != PFO_OK || (copied == PFO_OK && pfo_index_row(atomic_load(&disk->index), number, &row) == PFO_FOUND)) {
        pfo_disk_distrust(disk); /* records are live twice, or the scan missed a damaged one that a slot names */
    }
    pfo_journal_done(atomic_load(&disk->index), depth);
    return copied == PFO_OK ? status : copied;
}

void
pfo_segment_tidy(pfo_disk *disk, uint32_t number)
{
    const pfo_index *index = atomic_load(&disk->index);
    pfo_segment_row row;
    if (number != pfo_index_count(index, PFO_COUNT_ACTIVE) && pfo_index_row(index, number, &row) == PFO_FOUND &&
        (uint64_t)row.live_bytes * 2 < row.size &&
        pfo_disk_bytes(index) + row.live_bytes + disk->segment_bytes <= disk->max_bytes) {
        (void)pfo_segment_compact(disk, number, NULL); /* what was not copied is still where it was */
    }
}
