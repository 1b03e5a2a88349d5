/* disk_recover.c: what is done with a directory that nobody left in order; see disk_handle.h for the contract.
 *
 * The segments are the truth: of all live records of a key the one with the largest sequence counts. A rebuild reads every header once,
 * marks the records that lost dead (so that they cannot come back when the winner is deleted), cuts torn tails, and begins a new segment
 * afterwards, so that nothing is ever appended behind damage.
 */
#include "cache/disk_payload.h"

#include "base/alloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* sscanf(), snprintf() */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { SEQUENCE_GAP = 65536 }; /* over sequences that may have been given to records that are lost */

/* What cannot be opened or removed because it is none of ours: a folder, link or pipe, or another user's. It is left alone. */
static int
is_foreign(int error)
{
    return error == ENOTDIR || error == EISDIR || error == ELOOP || error == EINVAL || error == EACCES ||
           error == EPERM;
}

pfo_status
pfo_disk_walk(const pfo_disk *disk, const char *folder, pfo_disk_each each, void *context, pfo_error *err)
{
    pfo_file file;
    const int is_inner = strchr(folder, '/') != NULL; /* the outer ones may be links to where there is room */
    const int error =
        pfo_file_open(&file, disk->root.descriptor, folder, O_RDONLY | O_DIRECTORY | (is_inner ? O_NOFOLLOW : 0));
    if (error != 0) {
        return error == ENOENT || is_foreign(error) ? PFO_OK : pfo_disk_io_error(err, error, "open", folder);
    }
    DIR *names = fdopendir(file.descriptor);
    if (names == NULL) {
        pfo_file_close(&file);
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory listing %s", folder);
    }
    pfo_status status = PFO_OK;
    for (const struct dirent *one = readdir(names); one != NULL && status == PFO_OK; one = readdir(names)) {
        if (one->d_name[0] != '.' && strlen(one->d_name) < PFO_DISK_NAME - 16) {
            status = each(context, folder, one->d_name);
        }
    }
    (void)closedir(names);
    return status;
}

static void
join(char path[PFO_DISK_NAME], const char *folder, const char *name)
{
    (void)snprintf(path, PFO_DISK_NAME, "%.14s/%.80s", folder, name);
}

/* ---- drafts ---- */

typedef struct draft_sweep {
    pfo_disk *disk;
    uint64_t kept_bytes, orphans, orphan_bytes;
} draft_sweep;

static pfo_status
sweep_draft(void *context, const char *folder, const char *name)
{
    draft_sweep *sweep = context;
    char path[PFO_DISK_NAME];
    pfo_file file;
    struct stat facts;
    unsigned long long meant = 0;
    const char *size = strrchr(name, '-');
    join(path, folder, name);
    if (pfo_file_open(&file, sweep->disk->root.descriptor, path, O_RDWR | O_NOFOLLOW) != 0) {
        return PFO_OK; /* published or removed meanwhile */
    }
    if (size != NULL) {
        meant = strtoull(size + 1, NULL, 16);
    }
    if (pfo_file_lock(file.descriptor, F_WRLCK, 0) == EAGAIN) {
        sweep->kept_bytes += meant; /* someone is writing it */
    } else if (pfo_file_is_ours(&file, &facts) && pfo_file_remove(sweep->disk->root.descriptor, path) == 0) {
        sweep->orphans++;
        sweep->orphan_bytes += (uint64_t)facts.st_size;
    } else {
        sweep->kept_bytes += meant;
    }
    pfo_file_close(&file);
    return PFO_OK;
}

void
pfo_disk_sweep_temporary(pfo_disk *disk, uint64_t *orphans, uint64_t *orphan_bytes)
{
    draft_sweep sweep = { .disk = disk };
    if (pfo_disk_walk(disk, "tmp", sweep_draft, &sweep, NULL) == PFO_OK) {
        pfo_index_set_count(atomic_load(&disk->index), PFO_COUNT_TEMPORARY_BYTES, sweep.kept_bytes);
    }
    if (orphans != NULL) {
        *orphans += sweep.orphans;
        *orphan_bytes += sweep.orphan_bytes;
    }
}

/* ---- payload files ---- */

typedef struct payload_sweep {
    pfo_disk *disk;
    const pfo_index *index;
    int remove;
    uint64_t orphans, orphan_bytes;
    pfo_error *err;
} payload_sweep;

/* The key a payload file's name begins with. */
static int
parse_key(const char *name, pfo_digest *key)
{
    for (size_t i = 0; i < sizeof key->bytes; i++) {
        unsigned byte;
        if (sscanf(name + 2 * i, "%2x", &byte) != 1) {
            return 0;
        }
        key->bytes[i] = (unsigned char)byte;
    }
    return 1;
}

/* WHOLE when an entry names the file. */
static pfo_record_state
find_name(const payload_sweep *sweep, const char *path, const char *name)
{
    pfo_digest key;
    pfo_slot slot;
    uint32_t position;
    pfo_record_header header;
    pfo_file_extension extension;
    char right[PFO_DISK_NAME];
    if (strlen(name) < 2 * sizeof key.bytes || !parse_key(name, &key) ||
        pfo_index_find(sweep->index, &key, &slot, &position) != PFO_FOUND || (slot.flags & PFO_RECORD_FILE) == 0) {
        return PFO_RECORD_STALE;
    }
    const pfo_record_state state = pfo_payload_record(sweep->disk, &slot, &header, &extension);
    if (state != PFO_RECORD_WHOLE) {
        return state;
    }
    pfo_payload_name(&key, extension.file_sequence, extension.suffix, right);
    return strcmp(right, path) == 0 ? PFO_RECORD_WHOLE : PFO_RECORD_STALE;
}

static pfo_status
sweep_payload(void *context, const char *folder, const char *name)
{
    payload_sweep *sweep = context;
    char path[PFO_DISK_NAME];
    struct stat facts;
    join(path, folder, name);
    const pfo_record_state state = find_name(sweep, path, name);
    if (state == PFO_RECORD_WHOLE) {
        return PFO_OK;
    }
    if (state == PFO_RECORD_UNREADABLE) {
        return pfo_fail(sweep->err, PFO_IO, "the disk cache cannot read a segment of %s", sweep->disk->directory);
    }
    if (fstatat(sweep->disk->root.descriptor, path, &facts, AT_SYMLINK_NOFOLLOW) == 0) {
        sweep->orphans++;
        sweep->orphan_bytes += (uint64_t)facts.st_size;
    }
    if (sweep->remove) {
        const int error = pfo_file_remove(sweep->disk->root.descriptor, path);
        if (error != 0 && error != ENOENT && !is_foreign(error)) {
            return pfo_disk_io_error(sweep->err, error, "remove", path);
        }
    }
    return PFO_OK;
}

static pfo_status
sweep_folder(void *context, const char *folder, const char *name)
{
    payload_sweep *sweep = context;
    char path[PFO_DISK_NAME];
    join(path, folder, name);
    return strlen(name) == 2 ? pfo_disk_walk(sweep->disk, path, sweep_payload, sweep, sweep->err) : PFO_OK;
}

pfo_status
pfo_disk_sweep_payloads(pfo_disk *disk, const pfo_index *index, int remove, uint64_t *orphans, uint64_t *orphan_bytes,
                        pfo_error *err)
{
    payload_sweep sweep = { .disk = disk, .index = index, .remove = remove, .err = err };
    const pfo_status status = pfo_disk_walk(disk, "payloads", sweep_folder, &sweep, err);
    if (orphans != NULL) {
        *orphans += sweep.orphans;
        *orphan_bytes += sweep.orphan_bytes;
    }
    return status;
}

pfo_status
pfo_disk_sweep_folder(pfo_disk *disk, const pfo_index *index, unsigned char number, pfo_error *err)
{
    payload_sweep sweep = { .disk = disk, .index = index, .remove = 1, .err = err };
    char folder[PFO_DISK_NAME];
    (void)snprintf(folder, sizeof folder, "payloads/%02x", number);
    return pfo_disk_walk(disk, folder, sweep_payload, &sweep, err);
}

typedef struct removal {
    pfo_disk *disk;
    pfo_error *err;
} removal;

static pfo_status
remove_one(void *context, const char *folder, const char *name)
{
    const removal *all = context;
    char path[PFO_DISK_NAME];
    join(path, folder, name);
    const int error = pfo_file_remove(all->disk->root.descriptor, path);
    return error == 0 || error == ENOENT || is_foreign(error) ? PFO_OK
                                                              : pfo_disk_io_error(all->err, error, "remove", path);
}

static pfo_status
remove_in_folder(void *context, const char *folder, const char *name)
{
    const removal *all = context;
    char path[PFO_DISK_NAME];
    join(path, folder, name);
    return strlen(name) == 2 ? pfo_disk_walk(all->disk, path, remove_one, context, all->err) : PFO_OK;
}

pfo_status
pfo_disk_remove_all(pfo_disk *disk, pfo_error *err)
{
    removal all = { .disk = disk, .err = err };
    pfo_segments_close(disk);
    PFO_TRY(pfo_disk_walk(disk, "segments", remove_one, &all, err));
    return pfo_disk_walk(disk, "payloads", remove_in_folder, &all, err);
}

/* ---- rebuild ---- */

typedef struct rebuild {
    pfo_disk *disk;
    pfo_index *index;
    char name[PFO_DISK_NAME]; /* "" in memory */
    uint32_t segment;         /* being scanned */
    uint64_t sequence;
    uint64_t damaged;
    int has_written; /* to segments: marks and cuts */
    int begin_again; /* a segment is gone that slots name */
    pfo_error *err;
} rebuild;

static pfo_status
begin_index(rebuild *run, uint32_t slot_count)
{
    const uint64_t salt = atomic_load(&run->disk->salt);
    if (run->disk->read_only) {
        run->name[0] = '\0';
        return pfo_index_create(&run->index, -1, NULL, slot_count, salt, run->disk->boot, run->err);
    }
    pfo_disk_temporary_name(run->disk, pfo_index_bytes(slot_count), run->name);
    pfo_error failure = PFO_ERROR_INIT;
    pfo_status status = pfo_index_create(&run->index, run->disk->root.descriptor, run->name, slot_count, salt,
                                         run->disk->boot, &failure);
    const pfo_index *old = atomic_load(&run->disk->index);
    const int is_read =
        pfo_index_is_current(old) && memcmp(old->header->boot, run->disk->boot, sizeof run->disk->boot) == 0;
    if (status == PFO_IO &&
        !is_read) { /* the disk may be full: the old index, which is of no use, has room for a new one */
        pfo_disk_drop_index(run->disk);
        status = pfo_index_create(&run->index, run->disk->root.descriptor, run->name, slot_count, salt, run->disk->boot,
                                  run->err);
    } else if (status != PFO_OK) {
        (void)pfo_fail(run->err, status, "%s", failure.text);
    }
    return status;
}

static void
drop_index(rebuild *run)
{
    pfo_index_close(run->index);
    run->index = NULL;
    if (run->name[0] != '\0') {
        (void)pfo_file_remove(run->disk->root.descriptor, run->name);
    }
}

static pfo_status
enlarge(rebuild *run)
{
    rebuild larger = *run;
    for (uint32_t slots = run->index->slot_count * 2; slots > run->index->slot_count; slots *= 2) {
        PFO_TRY(begin_index(&larger, slots));
        if (pfo_index_copy(run->index, larger.index) == PFO_OK) {
            drop_index(run);
            *run = larger;
            return PFO_OK;
        }
        drop_index(&larger);
    }
    return pfo_fail(run->err, PFO_OVERFLOW, "the index of %s cannot grow further", run->disk->directory);
}

/* The slot of a record; BROKEN when its payload file is not there. */
static pfo_record_state
describe(const rebuild *run, const pfo_record_header *header, uint32_t offset, pfo_slot *slot)
{
    *slot = (pfo_slot){ .key = header->key,
                        .sequence = header->sequence,
                        .expires_ns = header->expires_ns,
                        .segment = run->segment,
                        .offset = offset,
                        .stored_s = (uint32_t)(header->stored_ns / 1000000000U),
                        .units = (uint16_t)(pfo_record_bytes(header) / PFO_DISK_ALIGNMENT),
                        .flags = (uint8_t)header->flags,
                        .stamp = (uint32_t)header->sequence };
    if ((header->flags & PFO_RECORD_FILE) == 0) {
        return PFO_RECORD_WHOLE;
    }
    pfo_record_header again;
    pfo_file_extension extension;
    struct stat facts;
    char name[PFO_DISK_NAME];
    const pfo_record_state state = pfo_payload_record(run->disk, slot, &again, &extension);
    if (state != PFO_RECORD_WHOLE) {
        return state;
    }
    pfo_payload_name(&slot->key, extension.file_sequence, extension.suffix, name);
    slot->file_pages = (uint32_t)((extension.file_bytes + PFO_DISK_PAGE - 1) / PFO_DISK_PAGE);
    return fstatat(run->disk->root.descriptor, name, &facts, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(facts.st_mode) &&
                   (uint64_t)facts.st_size == extension.file_bytes
               ? PFO_RECORD_WHOLE
               : PFO_RECORD_BROKEN;
}

static pfo_status
mark_dead(rebuild *run, uint32_t segment, uint32_t offset)
{
    run->has_written = 1;
    const int error = run->disk->read_only ? 0 : pfo_segment_mark(run->disk, segment, offset, PFO_DISK_DEAD);
    return error == 0 ? PFO_OK : pfo_disk_io_error(run->err, error, "write", "a segment");
}

static pfo_status
take_record(void *context, const pfo_record_header *header, uint32_t offset)
{
    rebuild *run = context;
    pfo_slot slot;
    pfo_slot rival;
    uint32_t position;
    if (header->sequence > run->sequence) {
        run->sequence = header->sequence;
    }
    if (header->state != PFO_DISK_LIVE) {
        return PFO_OK;
    }
    const pfo_record_state state = describe(run, header, offset, &slot);
    if (state == PFO_RECORD_UNREADABLE) {
        return pfo_fail(run->err, PFO_IO, "the disk cache cannot read a segment of %s", run->disk->directory);
    }
    if (state != PFO_RECORD_WHOLE) {
        run->damaged++;
        return mark_dead(run, run->segment, offset);
    }
    if (pfo_index_find(run->index, &slot.key, &rival, &position) == PFO_FOUND) {
        if (rival.sequence >= slot.sequence) {
            return mark_dead(run, run->segment, offset);
        }
        PFO_TRY(mark_dead(run, rival.segment, rival.offset));
    } else {
        while (!pfo_index_place(run->index, &slot.key, &position)) {
            PFO_TRY(enlarge(run));
        }
    }
    pfo_index_set(run->index, position, &slot);
    return PFO_OK;
}

static pfo_status
remove_segment(const rebuild *run, const char *path)
{
    const int error = pfo_file_remove(run->disk->root.descriptor, path);
    return error == 0 || error == ENOENT || is_foreign(error) ? PFO_OK
                                                              : pfo_disk_io_error(run->err, error, "remove", path);
}

/* Cuts off a torn tail. */
static pfo_status
cut_segment(rebuild *run, const char *path, uint64_t end)
{
    run->has_written = 1;
    pfo_segment_use use;
    int error = pfo_segment_use_linked(run->disk, run->segment, &use);
    if (error == 0) {
        error = pfo_file_truncate(use.file->descriptor, end);
        pfo_segment_release(&use);
    }
    return error == 0 ? PFO_OK : pfo_disk_io_error(run->err, error, "cut", path);
}

/* What could not be read shall not be there again some day, when newer records of its keys have come and gone. A segment that can be neither
 * read nor written in a place is given up. */
static pfo_status
heal_segment(rebuild *run, const char *path)
{
    run->has_written = 1;
    if (pfo_segment_heal(run->disk, run->segment) == 0) {
        return PFO_OK;
    }
    PFO_TRY(remove_segment(run, path));
    run->begin_again = 1;
    return PFO_OK;
}

static pfo_status
take_segment(void *context, const char *folder, const char *name)
{
    rebuild *run = context;
    char path[PFO_DISK_NAME];
    char right[PFO_DISK_NAME];
    unsigned number = 0;
    pfo_segment_scan_report report;
    struct stat facts;
    pfo_segment_row row;
    join(path, folder, name);
    if (sscanf(name, "%8x.seg", &number) != 1 || number == 0) {
        return PFO_OK;
    }
    pfo_segment_name(number, right);
    if (strcmp(path, right) != 0) {
        return PFO_OK;
    }
    if (fstatat(run->disk->root.descriptor, path, &facts, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(facts.st_mode)) {
        return PFO_OK; /* not a file of ours, whatever its name says */
    }
    if (number > pfo_index_count(run->index, PFO_COUNT_LAST_SEGMENT)) {
        pfo_index_set_count(run->index, PFO_COUNT_LAST_SEGMENT, number);
    }
    run->segment = number;
    PFO_TRY(pfo_segment_scan(run->disk, number, run->index->salt, take_record, run, &report, run->err));
    const uint64_t end = report.valid_end;
    run->damaged += report.damaged;
    if (end == 0) { /* nothing in it can be read, so it needs no row */
        return run->disk->read_only ? PFO_OK : remove_segment(run, path);
    }
    while (pfo_index_row_at(run->index, number % run->index->row_count, &row) != PFO_ABSENT) {
        PFO_TRY(enlarge(run));
    }
    row = (pfo_segment_row){ .number = number, .size = (uint32_t)end };
    pfo_index_set_row(run->index, number, &row);
    if (run->disk->read_only) {
        return PFO_OK;
    }
    PFO_TRY((uint64_t)facts.st_size == end ? PFO_OK : cut_segment(run, path, end));
    return report.unreadable == 0 ? PFO_OK : heal_segment(run, path);
}

/* Counts what the slots name. */
static void
account(pfo_index *index)
{
    for (uint32_t position = 0; position < index->slot_count; position++) {
        pfo_slot slot;
        pfo_segment_row row;
        if (pfo_index_at(index, position, &slot) != PFO_FOUND ||
            pfo_index_row(index, slot.segment, &row) != PFO_FOUND) {
            continue;
        }
        const uint32_t bytes = (uint32_t)slot.units * PFO_DISK_ALIGNMENT;
        row.live_bytes += bytes;
        row.live_records++;
        pfo_index_set_row(index, slot.segment, &row);
        pfo_index_add(index, PFO_COUNT_ENTRIES, 1);
        pfo_index_add(index, PFO_COUNT_LIVE_BYTES, bytes);
        pfo_index_add(index, PFO_COUNT_FILES, (slot.flags & PFO_RECORD_FILE) != 0);
        pfo_index_add(index, PFO_COUNT_FILE_PAGES, slot.file_pages);
    }
    for (uint32_t place = 0; place < index->row_count; place++) {
        pfo_segment_row row;
        if (pfo_index_row_at(index, place, &row) == PFO_FOUND) {
            pfo_index_add(index, PFO_COUNT_SEGMENTS, 1);
            pfo_index_add(index, PFO_COUNT_SEGMENT_BYTES, row.size);
        }
    }
}

static void
drop_empty_segments(pfo_disk *disk, pfo_index *index)
{
    for (uint32_t place = 0; place < index->row_count; place++) {
        pfo_segment_row row;
        if (pfo_index_row_at(index, place, &row) == PFO_FOUND && row.live_records == 0) {
            pfo_segment_drop(disk, index, row.number);
        }
    }
}

pfo_status
pfo_disk_rebuild(pfo_disk *disk, pfo_error *err)
{
    rebuild run = { .disk = disk, .err = err };
    pfo_disk_distrust(disk); /* until all of this is done */
    pfo_status status;
    do {
        run.begin_again = 0;
        PFO_TRY(begin_index(&run, PFO_DISK_FIRST_SLOTS));
        status = pfo_disk_walk(disk, "segments", take_segment, &run, err);
        if (status != PFO_OK || run.begin_again) {
            drop_index(&run);
        }
    } while (status == PFO_OK && run.begin_again);
    PFO_TRY(status);
    account(run.index);
    if (run.sequence == 0 && getrandom(&run.sequence, sizeof run.sequence, 0) == (ssize_t)sizeof run.sequence) {
        run.sequence >>=
            16; /* a reader may have a segment open yet that was cleared: no record is taken for one in there */
    }
    pfo_index_set_count(run.index, PFO_COUNT_SEQUENCE, run.sequence + SEQUENCE_GAP);
    atomic_store(&run.index->header->clock, run.sequence + SEQUENCE_GAP);
    atomic_fetch_add(&disk->corrupt, run.damaged);
    if (disk->read_only) {
        pfo_disk_trust(disk);
        return pfo_disk_publish_index(disk, run.index, NULL, err);
    }
    status = pfo_disk_sweep_payloads(disk, run.index, 1, NULL, NULL, err);
    if (status != PFO_OK) {
        drop_index(&run);
        return status;
    }
    if (run.has_written && disk->durability == PFO_DURABLE_POWER) {
        const int error = pfo_file_sync_all(disk->root.descriptor); /* a record that lost must not win after a cut */
        if (error != 0) {
            drop_index(&run);
            return pfo_disk_io_error(err, error, "sync", disk->directory);
        }
    }
    PFO_TRY(pfo_disk_publish_index(disk, run.index, run.name, err));
    pfo_disk_trust(disk);
    drop_empty_segments(disk, run.index);
    pfo_disk_sweep_temporary(disk, NULL, NULL);
    return PFO_OK;
}
