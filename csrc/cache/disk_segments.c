/* disk_segments.c: see disk_segments.h. */
#include "cache/disk_segments.h"

#include "base/alloc.h"
#include "cache/disk_check.h"
#include "cache/disk_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* snprintf() */
#include <string.h>

enum { SCAN_BLOCK = 256 * 1024 };

#define CLOSING 0x80000000U

/* ---- records ---- */

uint64_t
pfo_record_check(const pfo_record_header *header, uint64_t salt, uint32_t segment, uint32_t offset)
{
    unsigned char bytes[sizeof *header + 8];
    memcpy(bytes, header, sizeof *header);
    memcpy(bytes, &segment, sizeof segment);
    memcpy(bytes + offsetof(pfo_record_header, check), &salt, sizeof salt);
    memset(bytes + sizeof *header, 0, 8);
    memcpy(bytes + sizeof *header, &offset, sizeof offset);
    return pfo_disk_check(bytes, sizeof bytes);
}

uint32_t
pfo_record_bytes(const pfo_record_header *header)
{
    return ((uint32_t)sizeof *header + header->length + PFO_DISK_ALIGNMENT - 1) & ~(uint32_t)(PFO_DISK_ALIGNMENT - 1);
}

static int
is_whole_header(const pfo_record_header *header, uint64_t salt, uint32_t segment, uint32_t offset)
{
    return (header->state == PFO_DISK_LIVE || header->state == PFO_DISK_DEAD) &&
           header->length <= PFO_RECORD_MOST - sizeof *header && header->label_length <= header->length &&
           header->check == pfo_record_check(header, salt, segment, offset);
}

/* ---- open segments ---- */

void
pfo_segment_name(uint32_t number, char name[PFO_DISK_NAME])
{
    (void)snprintf(name, PFO_DISK_NAME, "segments/%08x.seg", number);
}

static int
open_segment(const pfo_disk *disk, uint32_t number, pfo_file *file)
{
    char name[PFO_DISK_NAME];
    pfo_segment_name(number, name);
    const int flags = (disk->read_only ? O_RDONLY : O_RDWR) | O_NOFOLLOW;
    const int root = atomic_load(&disk->root_descriptor);
    const int error = pfo_file_open(file, root, name, flags | O_NOATIME);   /* a read writes nothing */
    return error == EPERM ? pfo_file_open(file, root, name, flags) : error; /* another user's file */
}

/* Under segments_lock: puts the segment into its place if no reader is in there. 1 when a use was counted. */
static int
exchange(pfo_segment_file *place, uint32_t number, const pfo_file *file)
{
    uint32_t none = 0;
    if (!atomic_compare_exchange_strong(&place->users, &none, CLOSING)) {
        return 0;
    }
    if (atomic_load(&place->number) != 0) {
        pfo_file_close(&place->file);
    }
    place->file = *file;
    atomic_store(&place->number, number);
    atomic_fetch_sub(&place->users, CLOSING - 1); /* and this one's use */
    return 1;
}

int
pfo_segment_use_open(pfo_disk *disk, uint32_t number, pfo_segment_use *use)
{
    pfo_segment_file *place = &disk->segments[number % PFO_DISK_OPEN_SEGMENTS];
    use->shared = place;
    use->file = &place->file;
    if ((atomic_fetch_add(&place->users, 1) & CLOSING) == 0 && atomic_load(&place->number) == number) {
        return 0;
    }
    atomic_fetch_sub(&place->users, 1);
    const int error = open_segment(disk, number, &use->own);
    if (error != 0) {
        use->shared = NULL;
        return error;
    }
    pfo_mutex_lock(&disk->segments_lock);
    if (!exchange(place, number, &use->own)) {
        use->shared = NULL;
        use->file = &use->own;
    }
    pfo_mutex_unlock(&disk->segments_lock);
    return 0;
}

void
pfo_segment_release(pfo_segment_use *use)
{
    if (use->shared != NULL) {
        atomic_fetch_sub(&use->shared->users, 1);
    } else {
        pfo_file_close(&use->own);
    }
}

/* Closes one if nobody reads in it: an unlinked file shall not keep its room on the disk. */
static void
forget_segment(pfo_disk *disk, pfo_segment_file *place)
{
    pfo_file closed = PFO_FILE_CLOSED;
    pfo_mutex_lock(&disk->segments_lock);
    if (atomic_load(&place->number) != 0 && exchange(place, 0, &closed)) {
        atomic_fetch_sub(&place->users, 1);
    }
    pfo_mutex_unlock(&disk->segments_lock);
}

static int
is_linked(const pfo_file *file)
{
    struct stat facts;
    return pfo_file_is_ours(file, &facts) && facts.st_nlink != 0;
}

int
pfo_segment_use_linked(pfo_disk *disk, uint32_t number, pfo_segment_use *use)
{
    const int error = pfo_segment_use_open(disk, number, use);
    if (error != 0 || is_linked(use->file)) {
        return error;
    }
    /* Unlinked, with another of its number in its place perhaps, or its descriptor closed by someone else. */
    pfo_segment_release(use);
    forget_segment(disk, &disk->segments[number % PFO_DISK_OPEN_SEGMENTS]);
    use->shared = NULL;
    use->file = &use->own;
    return open_segment(disk, number, &use->own);
}

void
pfo_segments_close(pfo_disk *disk)
{
    for (int i = 0; i < PFO_DISK_OPEN_SEGMENTS; i++) {
        forget_segment(disk, &disk->segments[i]);
    }
}

/* ---- reading ---- */

static pfo_record_state
read_record(pfo_disk *disk, const pfo_slot *slot, const pfo_segment_use *use, void *record, size_t bytes)
{
    pfo_record_header *header = record;
    const size_t got = pfo_file_read(use->file->descriptor, record, bytes, slot->offset);
    const uint64_t salt = atomic_load_explicit(&disk->salt, memory_order_relaxed);
    if (got != bytes || !is_whole_header(header, salt, slot->segment, slot->offset)) {
        return PFO_RECORD_BROKEN;
    }
    if (header->state != PFO_DISK_LIVE || header->sequence != slot->sequence ||
        memcmp(&header->key, &slot->key, sizeof slot->key) != 0) {
        return PFO_RECORD_STALE;
    }
    if (pfo_record_bytes(header) != (uint32_t)slot->units * PFO_DISK_ALIGNMENT) {
        return PFO_RECORD_BROKEN;
    }
    return sizeof *header + header->length > bytes || pfo_disk_check(header + 1, header->length) == header->body_check
               ? PFO_RECORD_WHOLE
               : PFO_RECORD_BROKEN;
}

pfo_record_state
pfo_segment_read(pfo_disk *disk, const pfo_slot *slot, void *record, size_t bytes)
{
    pfo_segment_use use;
    int error = pfo_segment_use_open(disk, slot->segment, &use);
    if (error == 0) {
        pfo_record_state state = read_record(disk, slot, &use, record, bytes);
        const int is_sure = state == PFO_RECORD_WHOLE || is_linked(use.file);
        pfo_segment_release(&use);
        if (is_sure) {
            return state;
        }
        error = pfo_segment_use_linked(disk, slot->segment, &use);
        if (error == 0) {
            state = read_record(disk, slot, &use, record, bytes);
            pfo_segment_release(&use);
            return state;
        }
    }
    return error == ENOENT ? PFO_RECORD_STALE : PFO_RECORD_UNREADABLE;
}

/* A kill may cut a write between two pages, behind a whole header: the body of a live record counts, too. */
static int
is_whole_record(const unsigned char *record, size_t held, uint64_t salt, uint32_t segment, uint32_t offset)
{
    pfo_record_header header;
    memcpy(&header, record, sizeof header);
    return is_whole_header(&header, salt, segment, offset) && sizeof header + header.length <= held &&
           (header.state == PFO_DISK_DEAD ||
            pfo_disk_check(record + sizeof header, header.length) == header.body_check);
}

/* Reads `wanted` bytes; a page that the disk cannot read at the second try, or that is not there any more, is zeros. */
static void
fill_block(const pfo_file *file, unsigned char *block, size_t wanted, uint64_t begin, pfo_segment_scan_report *report)
{
    size_t held = pfo_file_read(file->descriptor, block, wanted, begin);
    while (held < wanted) {
        const size_t to_end = PFO_DISK_PAGE - (size_t)((begin + held) % PFO_DISK_PAGE);
        const size_t length = to_end < wanted - held ? to_end : wanted - held;
        if (pfo_file_read(file->descriptor, block + held, length, begin + held) != length) {
            memset(block + held, 0, length);
            report->unreadable++;
        }
        held += length;
        held += held < wanted ? pfo_file_read(file->descriptor, block + held, wanted - held, begin + held) : 0;
    }
}

pfo_status
pfo_segment_scan(pfo_disk *disk, uint32_t number, uint64_t salt, pfo_record_each each, void *context,
                 pfo_segment_scan_report *report, pfo_error *err)
{
    char name[PFO_DISK_NAME];
    pfo_file file;
    struct stat facts;
    pfo_segment_name(number, name);
    *report = (pfo_segment_scan_report){ 0 };
    const int error = pfo_file_open(&file, disk->root.descriptor, name, O_RDONLY | O_NOFOLLOW);
    if (error != 0) {
        return pfo_disk_io_error(err, error, "open", name);
    }
    unsigned char *block = pfo_alloc(SCAN_BLOCK);
    if (block == NULL) {
        pfo_file_close(&file);
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory reading %s", name);
    }
    pfo_status status = PFO_OK;
    uint64_t begin = 0; /* of the block */
    size_t held = 0;
    uint64_t offset = 0;
    int in_damage = 0;
    const uint64_t most = PFO_SEGMENT_MOST + PFO_RECORD_MOST; /* what follows was not written by us */
    uint64_t size = pfo_file_is_ours(&file, &facts) ? (uint64_t)facts.st_size : 0;
    size = size < most ? size : most;
    while (status == PFO_OK && offset + sizeof(pfo_record_header) <= size) {
        const size_t wanted = size - offset < PFO_RECORD_MOST ? (size_t)(size - offset) : PFO_RECORD_MOST;
        if (offset < begin || offset + wanted > begin + held) {
            begin = offset;
            held = size - begin < SCAN_BLOCK ? (size_t)(size - begin) : SCAN_BLOCK;
            fill_block(&file, block, held, begin, report);
        }
        const unsigned char *record = block + (offset - begin);
        if (!is_whole_record(record, wanted, salt, number, (uint32_t)offset)) {
            in_damage = 1; /* looks for the next whole one; at the end it is the torn tail of a writer that died */
            offset += PFO_DISK_ALIGNMENT;
            continue;
        }
        pfo_record_header header;
        memcpy(&header, record, sizeof header);
        report->damaged += (uint64_t)in_damage;
        in_damage = 0;
        status = each(context, &header, (uint32_t)offset);
        offset += pfo_record_bytes(&header);
        report->valid_end = offset;
    }
    report->damaged += (uint64_t)(in_damage && report->unreadable != 0);
    pfo_free(block);
    pfo_file_close(&file);
    return status;
}

int
pfo_segment_heal(pfo_disk *disk, uint32_t number)
{
    pfo_segment_use use;
    struct stat facts;
    unsigned char page[PFO_DISK_PAGE];
    int error = pfo_segment_use_linked(disk, number, &use);
    if (error != 0) {
        return error;
    }
    if (!pfo_file_is_ours(use.file, &facts)) {
        error = EBADF;
    }
    const uint64_t size = error == 0 ? (uint64_t)facts.st_size : 0;
    for (uint64_t offset = 0; offset < size && error == 0; offset += sizeof page) {
        const size_t length = size - offset < sizeof page ? (size_t)(size - offset) : sizeof page;
        if (pfo_file_read_whole(use.file->descriptor, page, length, offset) != EIO) {
            continue;
        }
        memset(page, 0, sizeof page); /* a page that is written in part would have to be read */
        error = pfo_file_write(use.file->descriptor, page, sizeof page, offset);
        if (error == 0 && length < sizeof page) {
            error = pfo_file_truncate(use.file->descriptor, size);
        }
    }
    pfo_segment_release(&use);
    return error;
}

/* ---- writing ---- */

static pfo_status
start_segment(pfo_disk *disk, pfo_index *index, pfo_segment_row *row, pfo_error *err)
{
    char name[PFO_DISK_NAME];
    pfo_file file;
    uint32_t number = (uint32_t)pfo_index_count(index, PFO_COUNT_LAST_SEGMENT);
    int error = EEXIST;
    for (uint32_t tries = 0; tries < index->row_count && error == EEXIST; tries++) {
        number = number == UINT32_MAX ? 1 : number + 1;
        if (pfo_index_row_at(index, number % index->row_count, row) == PFO_ABSENT) {
            pfo_segment_name(number, name);
            error = pfo_file_open(&file, disk->root.descriptor, name, O_RDWR | O_CREAT | O_EXCL);
        }
    }
    if (error != 0) {
        return error == EEXIST ? PFO_STATE : pfo_disk_io_error(err, error, "make", name);
    }
    pfo_file_close(&file);
    pfo_index_set_count(index, PFO_COUNT_LAST_SEGMENT, number);
    *row = (pfo_segment_row){ .number = number };
    pfo_index_set_row(index, number, row);
    pfo_index_set_count(index, PFO_COUNT_ACTIVE, number);
    pfo_index_add(index, PFO_COUNT_SEGMENTS, 1);
    pfo_journal_commit(index); /* an empty segment is a whole one */
    return pfo_disk_sync_folder(disk, "segments", err);
}

/* The active segment with room for `bytes` more. */
static pfo_status
active_row(pfo_disk *disk, pfo_index *index, uint32_t bytes, pfo_segment_row *row, pfo_error *err)
{
    const uint32_t active = (uint32_t)pfo_index_count(index, PFO_COUNT_ACTIVE);
    if (active != 0) {
        const pfo_found found = pfo_index_row(index, active, row);
        if (found == PFO_FOUND && (row->size == 0 || row->size + bytes <= disk->segment_bytes)) {
            return PFO_OK;
        }
        pfo_index_set_count(index, PFO_COUNT_ACTIVE, 0); /* sealed */
        if (found != PFO_FOUND) {
            pfo_disk_distrust(disk); /* by who locks next; what is written now goes to a segment of its own */
        } else if (row->live_records == 0) {
            pfo_segment_drop(disk, index, active);
        }
    }
    return start_segment(disk, index, row, err);
}

pfo_status
pfo_segment_append(pfo_disk *disk, pfo_index *index, void *record, uint32_t bytes, uint32_t *segment, uint32_t *offset,
                   pfo_error *err)
{
    pfo_segment_row row;
    pfo_segment_use use;
    struct stat facts;
    char name[PFO_DISK_NAME];
    pfo_record_header *header = record;
    PFO_TRY(active_row(disk, index, bytes, &row, err));
    pfo_segment_name(row.number, name);
    int error = pfo_segment_use_linked(disk, row.number, &use);
    if (error == 0 && (!pfo_file_is_ours(use.file, &facts) || (uint64_t)facts.st_size != row.size)) {
        pfo_segment_release(&use);
        error = ENOENT;
    }
    if (error != 0) {
        if (error == ENOENT) {
            pfo_disk_distrust(disk);
        } /* someone else has unlinked or changed it, or put an old index there */
        return pfo_disk_io_error(err, error, "open", name);
    }
    header->check = pfo_record_check(header, atomic_load(&disk->salt), row.number, row.size);
    pfo_journal_undo(index, PFO_UNDO_TAIL, row.number, row.size, 0);
    error = pfo_file_write(use.file->descriptor, record, bytes, row.size);
    if (error != 0 && pfo_file_truncate(use.file->descriptor, row.size) != 0) {
        pfo_disk_distrust(disk); /* what was written of it is not in the accounts */
    }
    pfo_segment_release(&use);
    if (error != 0) {
        return pfo_disk_io_error(err, error, "write", name);
    }
    *segment = row.number;
    *offset = row.size;
    row.size += bytes;
    row.live_bytes += bytes;
    row.live_records++;
    pfo_index_set_row(index, row.number, &row);
    pfo_index_add(index, PFO_COUNT_SEGMENT_BYTES, bytes);
    pfo_index_add(index, PFO_COUNT_LIVE_BYTES, bytes);
    return PFO_OK;
}

pfo_status
pfo_segment_sync(pfo_disk *disk, uint32_t segment, pfo_error *err)
{
    pfo_segment_use use;
    if (disk->durability != PFO_DURABLE_POWER) {
        return PFO_OK;
    }
    int error = pfo_segment_use_linked(disk, segment, &use);
    if (error == 0) {
        error = pfo_file_sync(use.file->descriptor);
        pfo_segment_release(&use);
    }
    return error == 0 ? PFO_OK : pfo_disk_io_error(err, error, "sync", "a segment");
}

int
pfo_segment_mark(pfo_disk *disk, uint32_t segment, uint32_t offset, uint32_t state)
{
    pfo_segment_use use;
    struct stat facts;
    int error = pfo_segment_use_linked(disk, segment, &use);
    if (error != 0) {
        return error == ENOENT ? 0 : error; /* gone with all its records */
    }
    if (!pfo_file_is_ours(use.file, &facts)) {
        error = EBADF;
    } else if ((uint64_t)facts.st_size > offset) {
        error = pfo_file_write(use.file->descriptor, &state, sizeof state, offset);
    }
    pfo_segment_release(&use);
    return error;
}

void
pfo_segment_account_death(pfo_disk *disk, pfo_index *index, uint32_t segment, uint32_t bytes)
{
    pfo_segment_row row;
    if (pfo_index_row(index, segment, &row) != PFO_FOUND || row.live_bytes < bytes || row.live_records == 0) {
        pfo_disk_distrust(disk);
        return;
    }
    row.live_bytes -= bytes;
    row.live_records--;
    pfo_index_set_row(index, segment, &row);
    pfo_index_add(index, PFO_COUNT_LIVE_BYTES, 0 - (uint64_t)bytes);
}

pfo_status
pfo_segment_kill(pfo_disk *disk, pfo_index *index, uint32_t segment, uint32_t offset, uint32_t bytes, pfo_error *err)
{
    pfo_journal_undo(index, PFO_UNDO_MARK, segment, offset, 0);
    const int error = pfo_segment_mark(disk, segment, offset, PFO_DISK_DEAD);
    const pfo_status status =
        error == 0 ? pfo_segment_sync(disk, segment, err) : pfo_disk_io_error(err, error, "write", "a segment");
    if (status != PFO_OK) {
        (void)pfo_segment_mark(disk, segment, offset, PFO_DISK_LIVE); /* it may be half written; the entry stays */
        if (error == EIO) {
            pfo_disk_distrust(disk);
        } /* the page cannot be read, perhaps: a rebuild sees to that */
        return status;
    }
    pfo_segment_account_death(disk, index, segment, bytes);
    return PFO_OK;
}

void
pfo_segment_take_back(pfo_disk *disk, pfo_index *index, uint32_t segment, uint32_t offset, uint32_t bytes)
{
    pfo_segment_use use;
    if (pfo_segment_mark(disk, segment, offset, PFO_DISK_DEAD) == 0) {
        (void)pfo_segment_sync(disk, segment, NULL); /* the sync before has failed: nobody can promise more */
        pfo_segment_account_death(disk, index, segment, bytes);
        return;
    }
    pfo_disk_distrust(disk);
    if (pfo_segment_use_linked(disk, segment, &use) == 0) {
        (void)pfo_file_truncate(use.file->descriptor, offset);
        pfo_segment_release(&use);
    }
}

void
pfo_segment_drop(pfo_disk *disk, pfo_index *index, uint32_t number)
{
    char name[PFO_DISK_NAME];
    pfo_segment_row row;
    pfo_segment_name(number, name);
    pfo_journal_commit(index);
    const uint32_t depth = pfo_journal_note(index, PFO_NOTE_DROP, number);
    const int error = pfo_file_remove(disk->root.descriptor, name);
    if ((error != 0 && error != ENOENT) || pfo_index_row(index, number, &row) != PFO_FOUND) {
        pfo_disk_distrust(disk);
        return;
    }
    pfo_segment_file *place = &disk->segments[number % PFO_DISK_OPEN_SEGMENTS];
    if (atomic_load(&place->number) == number) {
        forget_segment(disk, place);
    }
    pfo_index_add(index, PFO_COUNT_SEGMENTS, 0 - (uint64_t)1);
    pfo_index_add(index, PFO_COUNT_SEGMENT_BYTES, 0 - (uint64_t)row.size);
    pfo_index_add(index, PFO_COUNT_LIVE_BYTES, 0 - (uint64_t)row.live_bytes);
    if (pfo_index_count(index, PFO_COUNT_ACTIVE) == number) {
        pfo_index_set_count(index, PFO_COUNT_ACTIVE, 0);
    }
    pfo_index_set_row(index, number, NULL);
    pfo_journal_commit(index);
    pfo_journal_done(index, depth);
}

void
pfo_segment_drop_empty(pfo_disk *disk, pfo_index *index, uint32_t number)
{
    pfo_segment_row row;
    if (number != pfo_index_count(index, PFO_COUNT_ACTIVE) && pfo_index_row(index, number, &row) == PFO_FOUND &&
        row.live_records == 0) {
        pfo_segment_drop(disk, index, number);
    }
}
