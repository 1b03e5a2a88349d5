/* disk_room.c: how entries leave and how room is made under the bound; see disk_handle.h for the contract.
 *
 * Order of work when bytes are wanted: drafts of dead writers, then garbage (the sealed segment with the least live share, while that
 * is below three quarters), then entries in the policy's order. Evicting makes garbage, so the loop ends.
 */
#include "cache/disk_journal.h"
#include "cache/disk_payload.h"

#include <errno.h>

pfo_status
pfo_disk_remove_entry(pfo_disk *disk, uint32_t position, const pfo_slot *slot, pfo_error *err)
{
    pfo_index *index = atomic_load(&disk->index);
    pfo_record_header header;
    pfo_file_extension extension;
    const int is_file = (slot->flags & PFO_RECORD_FILE) != 0;
    const int is_named = is_file && pfo_payload_record(disk, slot, &header, &extension) == PFO_RECORD_WHOLE;
    PFO_TRY(
        pfo_segment_kill(disk, index, slot->segment, slot->offset, (uint32_t)slot->units * PFO_DISK_ALIGNMENT, err));
    pfo_index_clear(index, position);
    pfo_index_add(index, PFO_COUNT_ENTRIES, 0 - (uint64_t)1);
    pfo_index_add(index, PFO_COUNT_FILES, 0 - (uint64_t)is_file);
    pfo_index_add(index, PFO_COUNT_FILE_PAGES, 0 - (uint64_t)slot->file_pages);
    const uint32_t depth = is_file ? pfo_journal_note(index, PFO_NOTE_FOLDER, slot->key.bytes[0]) : 0;
    pfo_journal_commit(index);
    pfo_segment_drop_empty(disk, index, slot->segment);
    if (is_file) {
        const int error = is_named ? pfo_payload_remove(disk, &slot->key, &extension) : EIO;
        if (error != 0 && error != ENOENT) {
            pfo_disk_distrust(disk); /* which looks for files that no entry names */
        }
        pfo_journal_done(index, depth);
    }
    return PFO_OK;
}

/* Takes back what is not worth its room, without going over so many bytes meanwhile. *done: something was. */
static pfo_status
collect_garbage(pfo_disk *disk, pfo_index *index, uint64_t most, int *done, pfo_error *err)
{
    pfo_segment_row row;
    *done = 0;
    const uint32_t active = (uint32_t)pfo_index_count(index, PFO_COUNT_ACTIVE);
    if (active != 0 && pfo_index_row(index, active, &row) == PFO_FOUND && row.live_records == 0 && row.size != 0) {
        pfo_segment_drop(disk, index, active);
        *done = 1;
        return PFO_OK;
    }
    const uint32_t worst = pfo_segment_worst(index, &row);
    if (worst == 0 || (uint64_t)row.live_bytes * 4 >= (uint64_t)row.size * 3 ||
        pfo_disk_bytes(index) + row.live_bytes > most) {
        return PFO_OK;
    }
    *done = 1;
    return pfo_segment_compact(disk, worst, err);
}

pfo_status
pfo_disk_make_room(pfo_disk *disk, uint64_t need, pfo_error *err)
{
    const uint64_t spare = disk->max_bytes / 8 >= disk->segment_bytes ? disk->segment_bytes : 0; /* for compaction */
    int swept = 0;
    for (;;) {
        pfo_index *index = atomic_load(&disk->index);
        uint32_t position;
        pfo_slot slot;
        int done;
        const uint64_t bytes = pfo_disk_bytes(index);
        if (bytes + need + spare <= disk->max_bytes) {
            return PFO_OK;
        }
        if (!swept && pfo_index_count(index, PFO_COUNT_TEMPORARY_BYTES) != 0) {
            pfo_disk_sweep_temporary(disk, NULL, NULL);
            swept = 1;
            continue;
        }
        PFO_TRY(collect_garbage(disk, index, disk->max_bytes, &done, err));
        if (disk->must_rebuild) {
            return pfo_fail(err, PFO_IO, "the index of %s is damaged; it will be rebuilt", disk->directory);
        }
        if (done) {
            continue;
        }
        PFO_TRY(pfo_disk_next_victim(disk, index, &position, &slot, &done, err));
        if (!done) {
            return bytes + need <= disk->max_bytes
                       ? PFO_OK
                       : pfo_fail(err, PFO_UNAVAILABLE, "%llu bytes do not fit into %s now: others are being written",
                                  (unsigned long long)need, disk->directory);
        }
        PFO_TRY(pfo_disk_remove_entry(disk, position, &slot, err));
        atomic_fetch_add_explicit(&disk->evictions, 1, memory_order_relaxed);
    }
}

/* The active segment of a larger bound may be most of what there is: sealed, it can be copied away. */
static void
seal_oversized(const pfo_disk *disk, pfo_index *index)
{
    pfo_segment_row row;
    const uint32_t active = (uint32_t)pfo_index_count(index, PFO_COUNT_ACTIVE);
    if (active != 0 && pfo_index_row(index, active, &row) == PFO_FOUND && row.size > disk->segment_bytes) {
        pfo_index_set_count(index, PFO_COUNT_ACTIVE, 0);
    }
}

/* Whether the index could be halved. What is in its way, two segments with one row or a full bucket, goes with segments and entries. */
static int
shrinks(pfo_disk *disk)
{
    const pfo_index *index = atomic_load(&disk->index);
    return pfo_index_count(index, PFO_COUNT_ENTRIES) < index->slot_count / 4 && pfo_disk_shrink(disk, NULL) == PFO_OK;
}

void
pfo_disk_keep_bound(pfo_disk *disk)
{
    int may_shrink = 1; /* it was not tried since something went */
    while (!disk->must_rebuild) {
        pfo_index *index = atomic_load(&disk->index);
        pfo_slot slot;
        uint32_t position;
        int done;
        if (pfo_disk_bytes(index) <= disk->max_bytes) {
            return;
        }
        if (may_shrink && shrinks(disk)) {
            continue;
        }
        seal_oversized(disk, index);
        /* It is over the bound already, so a copy may be, too. */
        if (collect_garbage(disk, index, UINT64_MAX, &done, NULL) != PFO_OK) {
            return;
        }
        may_shrink = done;
        if (done) {
            continue;
        }
        if (pfo_disk_next_victim(disk, index, &position, &slot, &done, NULL) != PFO_OK || !done ||
            pfo_disk_remove_entry(disk, position, &slot, NULL) != PFO_OK) {
            return;
        }
        atomic_fetch_add_explicit(&disk->evictions, 1, memory_order_relaxed);
        may_shrink = pfo_index_count(index, PFO_COUNT_ENTRIES) % 16 == 0;
    }
}

/* Gives up the least recently used of the entries that share the key's buckets. */
static pfo_status
give_up_neighbour(pfo_disk *disk, const pfo_digest *key, uint32_t *position, pfo_error *err)
{
    pfo_index *index = atomic_load(&disk->index);
    uint32_t positions[2 * PFO_DISK_BUCKET];
    const uint32_t now = pfo_index_clock(index);
    pfo_slot chosen = { 0 };
    pfo_index_neighbours(index, key, positions);
    for (size_t i = 0; i < sizeof positions / sizeof positions[0]; i++) {
        pfo_slot slot;
        if (pfo_index_at(index, positions[i], &slot) == PFO_FOUND &&
            (chosen.sequence == 0 || now - slot.stamp > now - chosen.stamp)) {
            chosen = slot;
            *position = positions[i];
        }
    }
    if (chosen.sequence == 0) {
        pfo_disk_distrust(disk); /* neither empty nor whole */
        return pfo_fail(err, PFO_IO, "the index of %s is damaged; it will be rebuilt", disk->directory);
    }
    PFO_TRY(pfo_disk_remove_entry(disk, *position, &chosen, err));
    atomic_fetch_add_explicit(&disk->evictions, 1, memory_order_relaxed);
    return PFO_OK;
}

pfo_status
pfo_disk_find_place(pfo_disk *disk, const pfo_digest *key, uint32_t *position, pfo_error *err)
{
    const pfo_index *index = atomic_load(&disk->index);
    if (pfo_index_place(index, key, position)) {
        return PFO_OK;
    }
    /* While it grows, the old index and the new one are both there. */
    const uint64_t larger = pfo_index_bytes(index->slot_count * 2);
    if (pfo_disk_bytes(index) + larger <= disk->max_bytes) {
        PFO_TRY(pfo_disk_grow(disk, err));
        index = atomic_load(&disk->index);
        if (pfo_index_place(index, key, position)) {
            return PFO_OK;
        }
    }
    return give_up_neighbour(disk, key, position, err);
}
