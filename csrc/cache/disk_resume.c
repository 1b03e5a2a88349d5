/* disk_resume.c: what is done with a change whose writer was killed; disk_journal.h says what it left behind, disk_handle.h has the contract.
 *
 * The step that was under way is undone, what its notes name is done again, and the accounts are compared with the rows. A kill in here leaves
 * words that are not as the journal says, or notes: the next one resumes, or rebuilds. Nothing is trusted that does not agree.
 */
#include "cache/disk_journal.h"
#include "cache/disk_payload.h"

#include <errno.h>

/* The last word of a slot: readers change it without the lock. */
static int
is_readers_word(const pfo_index *index, uint64_t offset)
{
    const uint64_t end = PFO_DISK_PAGE + (uint64_t)index->slot_count * sizeof(pfo_slot);
    return offset >= PFO_DISK_PAGE && offset < end && offset % sizeof(pfo_slot) == sizeof(pfo_slot) - 8;
}

static int
undo_word(pfo_index *index, uint64_t offset, uint64_t before, uint64_t after)
{
    const int is_counter = offset >= offsetof(pfo_index_header, counters) &&
                           offset < offsetof(pfo_index_header, counters) + PFO_COUNTERS * sizeof(uint64_t);
    if (offset % 8 != 0 || offset >= index->bytes || (offset < PFO_DISK_PAGE && !is_counter)) {
        return EINVAL;
    }
    _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)(index->base + offset);
    const uint64_t now = atomic_load(word);
    if (now != before && now != after && !is_readers_word(index, offset)) {
        return EINVAL;
    }
    atomic_store(word, before);
    return 0;
}

/* At most one record is there: more was not written in one step. */
static int
cut_tail(pfo_disk *disk, uint32_t number, uint64_t size)
{
    pfo_segment_use use;
    struct stat facts;
    int error = pfo_segment_use_linked(disk, number, &use);
    if (error != 0) {
        return error;
    }
    if (!pfo_file_is_ours(use.file, &facts) || (uint64_t)facts.st_size < size ||
        (uint64_t)facts.st_size > size + PFO_RECORD_MOST) {
        error = EINVAL;
    } else if ((uint64_t)facts.st_size != size) {
        error = pfo_file_truncate(use.file->descriptor, size);
    }
    pfo_segment_release(&use);
    return error;
}

static int
undo_step(pfo_disk *disk, pfo_index *index)
{
    const pfo_index_journal *journal = index->journal;
    uint32_t count = atomic_load(&journal->count);
    int error = count <= PFO_JOURNAL_ENTRIES ? 0 : EINVAL;
    while (error == 0 && count-- > 0) {
        const uint64_t what = atomic_load(&journal->entries[count].what);
        const uint64_t before = atomic_load(&journal->entries[count].before);
        const uint64_t at = what & 0xffffffffffffffU;
        switch ((int)(what >> 56)) {
        case PFO_UNDO_WORD:
            error = undo_word(index, at, before, atomic_load(&journal->entries[count].after));
            break;
        case PFO_UNDO_MARK:
            error = pfo_segment_mark(disk, (uint32_t)at, (uint32_t)before, PFO_DISK_LIVE);
            break;
        case PFO_UNDO_TAIL:
            error = cut_tail(disk, (uint32_t)at, before);
            break;
        default:
            error = EINVAL;
        }
    }
    if (error == 0 && disk->durability == PFO_DURABLE_POWER) {
        error = pfo_file_sync_all(disk->root.descriptor); /* what was undone shall not be found after a power cut */
    }
    if (error == 0) {
        pfo_journal_commit(index);
    }
    return error;
}

static pfo_status
do_again(pfo_disk *disk, pfo_note kind, uint32_t value, pfo_error *err)
{
    pfo_index *index = atomic_load(&disk->index);
    pfo_segment_row row;
    switch (kind) {
    case PFO_NOTE_FOLDER:
        return pfo_disk_sweep_folder(disk, index, (unsigned char)value, err);
    case PFO_NOTE_DROP:
        if (pfo_index_row(index, value, &row) == PFO_FOUND) {
            pfo_segment_drop(disk, index, value);
        }
        return PFO_OK;
    case PFO_NOTE_COMPACT:
        return pfo_segment_settle(disk, value, err);
    }
    return pfo_fail(err, PFO_STATE, "the index of %s is damaged", disk->directory);
}

/* The innermost was begun last. */
static pfo_status
do_notes(pfo_disk *disk, pfo_error *err)
{
    pfo_index *index = atomic_load(&disk->index);
    uint32_t depth = atomic_load(&index->journal->depth);
    if (depth > PFO_JOURNAL_NOTES) {
        return pfo_fail(err, PFO_STATE, "the index of %s is damaged", disk->directory);
    }
    while (depth-- > 0) {
        const uint64_t note = atomic_load(&index->journal->notes[depth]);
        PFO_TRY(do_again(disk, (pfo_note)(note >> 32), (uint32_t)note, err));
        pfo_journal_done(index, depth);
    }
    return PFO_OK;
}

/* Whether the counters say what the rows say, and the row of the segment that is appended to what its file says. */
static int
agrees(pfo_disk *disk, const pfo_index *index)
{
    uint64_t segments = 0, bytes = 0, live_bytes = 0, records = 0;
    pfo_segment_row row;
    for (uint32_t place = 0; place < index->row_count; place++) {
        const pfo_found found = pfo_index_row_at(index, place, &row);
        if (found == PFO_DAMAGED) {
            return 0;
        }
        if (found == PFO_FOUND) {
            segments++;
            bytes += row.size;
            live_bytes += row.live_bytes;
            records += row.live_records;
        }
    }
    if (pfo_index_count(index, PFO_COUNT_SEGMENTS) != segments ||
        pfo_index_count(index, PFO_COUNT_SEGMENT_BYTES) != bytes ||
        pfo_index_count(index, PFO_COUNT_LIVE_BYTES) != live_bytes ||
        pfo_index_count(index, PFO_COUNT_ENTRIES) != records) {
        return 0;
    }
    const uint32_t active = (uint32_t)pfo_index_count(index, PFO_COUNT_ACTIVE);
    pfo_segment_use use;
    struct stat facts;
    if (active == 0) {
        return 1;
    }
    if (pfo_index_row(index, active, &row) != PFO_FOUND || pfo_segment_use_linked(disk, active, &use) != 0) {
        return 0;
    }
    const int is_same = pfo_file_is_ours(use.file, &facts) && (uint64_t)facts.st_size == row.size;
    pfo_segment_release(&use);
    return is_same;
}

int
pfo_disk_resume(pfo_disk *disk)
{
    pfo_index *index = atomic_load(&disk->index);
    if (atomic_load(&index->header->changing) != PFO_CHANGE_NOTED || undo_step(disk, index) != 0 ||
        do_notes(disk, NULL) != PFO_OK || disk->must_rebuild || !agrees(disk, index)) {
        return 0;
    }
    pfo_disk_sweep_temporary(disk, NULL, NULL); /* the dead writer's draft */
    pfo_journal_clear(index);
    return 1;
}
