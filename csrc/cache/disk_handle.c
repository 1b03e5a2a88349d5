/* disk_handle.c: see disk_handle.h. Opening and closing a handle, the writers' lock, the change of indexes, fork. */
#include "cache/disk_handle.h"

#include "base/alloc.h"
#include "cache/disk_journal.h"
#include "cache/disk_payload.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

enum { LOCK_TRIES = 8, REMAP_TRIES = 16 };

/* ---- fork ---- */

static pfo_mutex handles_lock = PFO_MUTEX_INIT;
static pfo_disk *handles;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void
before_fork(void)
{
    pfo_mutex_lock(&handles_lock);
    for (pfo_disk *disk = handles; disk != NULL; disk = disk->next) {
        pfo_mutex_lock(&disk->lock);
        pfo_mutex_lock(&disk->segments_lock);
        pfo_mutex_lock(&disk->payloads_lock);
    }
}

static void
after_fork_in_parent(void)
{
    for (pfo_disk *disk = handles; disk != NULL; disk = disk->next) {
        pfo_mutex_unlock(&disk->payloads_lock);
        pfo_mutex_unlock(&disk->segments_lock);
        pfo_mutex_unlock(&disk->lock);
    }
    pfo_mutex_unlock(&handles_lock);
}

/* Readers of other threads are gone with their threads: what they counted as users is theirs no more. */
static void
after_fork_in_child(void)
{
    for (pfo_disk *disk = handles; disk != NULL; disk = disk->next) {
        pfo_file_close(&disk->lock_file);
        for (int i = 0; i < PFO_DISK_OPEN_SEGMENTS; i++) {
            atomic_store(&disk->segments[i].users, 0);
        }
        atomic_store(&disk->places[0].users, 0);
        atomic_store(&disk->places[1].users, 0);
        disk->payloads_lock = (pfo_mutex)PFO_MUTEX_INIT;
        disk->segments_lock = (pfo_mutex)PFO_MUTEX_INIT;
        disk->lock = (pfo_mutex)PFO_MUTEX_INIT;
    }
    handles_lock = (pfo_mutex)PFO_MUTEX_INIT;
}

static void
register_fork_handlers(void)
{
    (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void
enlist(pfo_disk *disk)
{
    (void)pthread_once(&fork_once, register_fork_handlers);
    pfo_mutex_lock(&handles_lock);
    disk->next = handles;
    if (handles != NULL) {
        handles->previous = disk;
    }
    handles = disk;
    pfo_mutex_unlock(&handles_lock);
}

static void
delist(pfo_disk *disk)
{
    pfo_mutex_lock(&handles_lock);
    if (disk->previous != NULL) {
        disk->previous->next = disk->next;
    } else {
        handles = disk->next;
    }
    if (disk->next != NULL) {
        disk->next->previous = disk->previous;
    }
    pfo_mutex_unlock(&handles_lock);
}

void
pfo_disk_distrust(pfo_disk *disk)
{
    pfo_index *index = atomic_load(&disk->index);
    disk->must_rebuild = 1;
    if (pfo_index_is_current(index) && index->writable) {
        pfo_index_spoil(index);
    }
}

void
pfo_disk_trust(pfo_disk *disk)
{
    pfo_index *index = atomic_load(&disk->index);
    disk->must_rebuild = 0;
    if (index != NULL && index->writable && !index->in_memory) {
        pfo_journal_clear(index);
        atomic_store(&index->header->changing, PFO_CHANGE_NOTED);
    }
}

/* ---- indexes ---- */

uint64_t
pfo_disk_bytes_of(const pfo_index *index, const uint64_t counters[PFO_COUNTERS])
{
    return PFO_DISK_PAGE + index->bytes + counters[PFO_COUNT_SEGMENT_BYTES] +
           counters[PFO_COUNT_FILE_PAGES] * PFO_DISK_PAGE + counters[PFO_COUNT_TEMPORARY_BYTES];
}

uint64_t
pfo_disk_bytes(const pfo_index *index)
{
    const uint64_t counters[PFO_COUNTERS] = {
        [PFO_COUNT_SEGMENT_BYTES] = pfo_index_count(index, PFO_COUNT_SEGMENT_BYTES),
        [PFO_COUNT_FILE_PAGES] = pfo_index_count(index, PFO_COUNT_FILE_PAGES),
        [PFO_COUNT_TEMPORARY_BYTES] = pfo_index_count(index, PFO_COUNT_TEMPORARY_BYTES),
    };
    return pfo_disk_bytes_of(index, counters);
}

/* Closes what was replaced, if its readers have left. New ones cannot stay: they look at `place` again once they are counted. */
static int
close_replaced(pfo_disk *disk)
{
    pfo_reading_place *other = &disk->places[1 - atomic_load(&disk->place)];
    if (atomic_load(&other->users) != 0) {
        return 0;
    }
    pfo_index_close(atomic_exchange(&other->index, NULL));
    return 1;
}

static void
adopt(pfo_disk *disk, pfo_index *index)
{
    const uint32_t now = atomic_load(&disk->place);
    if (close_replaced(disk)) {
        atomic_store(&disk->places[1 - now].index, index);
        atomic_store(&disk->place, 1 - now);
    } else {
        index->older = atomic_load(&disk->places[now].index);
        atomic_store(&disk->places[now].index, index);
    }
    atomic_store(&disk->index, index);
    disk->victim_next = disk->victim_count = 0;
}

pfo_status
pfo_disk_publish_index(pfo_disk *disk, pfo_index *index, const char *name, pfo_error *err)
{
    pfo_index *old = atomic_load(&disk->index);
    if (name == NULL) {
        adopt(disk, index);
        return PFO_OK;
    }
    if (atomic_load(&index->header->changing) == 0) {
        atomic_store(&index->header->changing, disk->must_rebuild ? PFO_CHANGE_SPOILED : PFO_CHANGE_NOTED);
    }
    const int error = pfo_file_rename(disk->root.descriptor, name, "index");
    if (error != 0) {
        pfo_index_close(index);
        (void)pfo_file_remove(disk->root.descriptor, name);
        return pfo_disk_io_error(err, error, "replace", "index");
    }
    if (old != NULL && old->writable) {
        pfo_index_retire(old);
    }
    adopt(disk, index);
    return PFO_OK;
}

void
pfo_disk_drop_index(pfo_disk *disk)
{
    pfo_index *old = atomic_load(&disk->index);
    pfo_disk_distrust(disk);
    (void)pfo_file_remove(disk->root.descriptor, "index");
    if (old != NULL && old->writable) {
        pfo_index_retire(old);
    }
    if (close_replaced(disk)) {
        atomic_store(&disk->index, NULL);
        atomic_store(&disk->place, 1 - atomic_load(&disk->place)); /* where there is none */
        (void)close_replaced(disk);
    }
}

/* An index of so many slots with everything in it. OVERFLOW: it does not fit. */
static pfo_status
change_size(pfo_disk *disk, uint32_t slots, pfo_error *err)
{
    char name[PFO_DISK_NAME];
    pfo_index *index;
    const pfo_index *old = atomic_load(&disk->index);
    pfo_disk_temporary_name(disk, pfo_index_bytes(slots), name);
    PFO_TRY(pfo_index_create(&index, disk->root.descriptor, name, slots, old->salt, disk->boot, err));
    pfo_journal_commit(atomic_load(&disk->index));
    const pfo_status copied = pfo_index_copy(old, index);
    if (copied == PFO_OK) {
        return pfo_disk_publish_index(disk, index, name, err);
    }
    pfo_index_close(index);
    (void)pfo_file_remove(disk->root.descriptor, name);
    if (copied != PFO_OVERFLOW) {
        pfo_disk_distrust(disk);
        return pfo_fail(err, PFO_IO, "the index of %s is damaged; it will be rebuilt", disk->directory);
    }
    return PFO_OVERFLOW;
}

pfo_status
pfo_disk_grow(pfo_disk *disk, pfo_error *err)
{
    const uint32_t now = atomic_load(&disk->index)->slot_count;
    for (uint32_t slots = now * 2; slots > now; slots *= 2) {
        const pfo_status status = change_size(disk, slots, err);
        if (status != PFO_OVERFLOW) {
            return status;
        }
    }
    return pfo_fail(err, PFO_OVERFLOW, "the index of %s cannot grow further", disk->directory);
}

pfo_status
pfo_disk_shrink(pfo_disk *disk, pfo_error *err)
{
    const uint32_t now = atomic_load(&disk->index)->slot_count;
    return now <= PFO_DISK_FIRST_SLOTS ? PFO_OVERFLOW : change_size(disk, now / 2, err);
}

static pfo_status
remap(pfo_disk *disk, pfo_error *err)
{
    pfo_index *index;
    PFO_TRY(pfo_index_open(&index, disk->root.descriptor, "index", !disk->read_only, atomic_load(&disk->salt), err));
    if (index != NULL) {
        pfo_segments_close(
            disk); /* whoever replaced the index may have unlinked them: they would keep their room on the disk */
        adopt(disk, index);
    }
    return PFO_OK;
}

/* Counts the caller into the place of the newest index. */
static pfo_reading_place *
count_in(pfo_disk *disk)
{
    for (;;) {
        const uint32_t at = atomic_load(&disk->place);
        pfo_reading_place *place = &disk->places[at];
        atomic_fetch_add(&place->users, 1);
        if (atomic_load(&disk->place) == at) {
            return place;
        }
        atomic_fetch_sub(&place->users, 1);
    }
}

pfo_index *
pfo_disk_enter(pfo_disk *disk, pfo_reading_place **place)
{
    for (int tries = 0; tries < REMAP_TRIES; tries++) {
        *place = count_in(disk);
        pfo_index *index = atomic_load(&(*place)->index);
        if (pfo_index_is_current(index)) {
            return index;
        }
        pfo_disk_leave(*place);
        pfo_mutex_lock(&disk->lock);
        const int is_new =
            atomic_load(&disk->index) != index || (remap(disk, NULL) == PFO_OK && atomic_load(&disk->index) != index);
        pfo_mutex_unlock(&disk->lock);
        if (!is_new) {
            break;
        }
    }
    *place = NULL;
    return NULL;
}

void
pfo_disk_leave(pfo_reading_place *place)
{
    atomic_fetch_sub(&place->users, 1);
}

static void
close_indexes(pfo_disk *disk)
{
    pfo_index_close(atomic_load(&disk->places[0].index));
    pfo_index_close(atomic_load(&disk->places[1].index));
}

/* ---- the lock ---- */

/* Opens what is missing, and locks; the directory may be deleted and made again by others at any time. */
static pfo_status
lock_directory(pfo_disk *disk, pfo_error *err)
{
    for (int tries = 0; tries < LOCK_TRIES; tries++) {
        struct stat facts;
        if (disk->root.descriptor >= 0 && !pfo_file_is_ours(&disk->root, &facts)) {
            disk->root.descriptor = -1;
        }
        if (disk->root.descriptor < 0 || facts.st_nlink == 0) {
            pfo_segments_close(disk);
            pfo_payloads_close(disk);
            pfo_file_close(&disk->lock_file);
            PFO_TRY(pfo_disk_open_directory(disk, err));
            if (disk->read_only) {
                break;
            }
        }
        if (!pfo_file_is_ours(&disk->lock_file, &facts) || facts.st_nlink == 0) {
            pfo_file_close(&disk->lock_file);
            const int error = pfo_file_open(&disk->lock_file, disk->root.descriptor, "lock", O_RDWR | O_CREAT);
            if (error == ENOENT) {
                continue; /* the directory was deleted just now */
            }
            if (error != 0) {
                return pfo_disk_io_error(err, error, "open", "lock");
            }
        }
        const int error = pfo_file_lock(disk->lock_file.descriptor, F_WRLCK, 1);
        if (error != 0) {
            return pfo_disk_io_error(err, error, "lock", disk->directory);
        }
        if (pfo_file_is_ours(&disk->lock_file, &facts) && facts.st_nlink != 0) {
            return PFO_OK;
        }
    }
    return pfo_fail(err, PFO_IO, "the disk cache cannot lock %s: it is deleted again and again", disk->directory);
}

/* After the lock: a salt, the folders, and a whole index, unless may_lack. */
static pfo_status
begin_change(pfo_disk *disk, int may_lack, pfo_error *err)
{
    pfo_index *index = atomic_load(&disk->index);
    if (!pfo_index_is_current(index)) {
        static const char *const folders[] = { "segments", "payloads", "tmp" };
        for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
            const int error = pfo_file_make_directory(disk->root.descriptor, folders[i]);
            if (error != 0) {
                return pfo_disk_io_error(err, error, "make", folders[i]);
            }
        }
        int known;
        PFO_TRY(pfo_disk_read_format(disk, &known, err));
        if (!known) {
            if (!pfo_disk_salvage_salt(disk)) {
                uint64_t salt = 0;
                PFO_TRY(pfo_disk_remove_all(disk, err)); /* nothing in them can be checked */
                if (getrandom(&salt, sizeof salt, 0) != (ssize_t)sizeof salt) {
                    return pfo_fail(err, PFO_IO, "the system gives no random numbers");
                }
                atomic_store(&disk->salt, salt);
            }
            PFO_TRY(pfo_disk_write_format(disk, err));
        }
        PFO_TRY(remap(disk, err));
        index = atomic_load(&disk->index);
    }
    if (pfo_index_is_current(index) && index->salt == atomic_load(&disk->salt) && !disk->must_rebuild &&
        memcmp(index->header->boot, disk->boot, sizeof disk->boot) == 0 &&
        (pfo_index_begin(index) || pfo_disk_resume(disk))) {
        return PFO_OK;
    }
    pfo_disk_distrust(disk);
    return may_lack ? PFO_OK : pfo_disk_rebuild(disk, err);
}

static pfo_status
lock(pfo_disk *disk, int may_lack, pfo_error *err)
{
    pfo_mutex_lock(&disk->lock);
    pfo_status status = disk->read_only ? PFO_UNAVAILABLE : lock_directory(disk, err);
    if (status == PFO_OK) {
        status = begin_change(disk, may_lack, err);
        if (status != PFO_OK) {
            (void)pfo_file_lock(disk->lock_file.descriptor, F_UNLCK, 0);
        }
    }
    if (status != PFO_OK) {
        pfo_mutex_unlock(&disk->lock);
        if (disk->read_only) {
            return pfo_fail(err, PFO_UNAVAILABLE, "cache_dir %s cannot be written to: it is open for reading only",
                            disk->directory);
        }
    }
    return status;
}

pfo_status
pfo_disk_lock(pfo_disk *disk, pfo_error *err)
{
    return lock(disk, 0, err);
}

pfo_status
pfo_disk_lock_to_clear(pfo_disk *disk, pfo_error *err)
{
    return lock(disk, 1, err);
}

void
pfo_disk_unlock(pfo_disk *disk)
{
    pfo_index *index = atomic_load(&disk->index);
    if (!disk->must_rebuild) {
        pfo_index_end(index);
    }
    (void)close_replaced(disk);
    (void)pfo_file_lock(disk->lock_file.descriptor, F_UNLCK, 0);
    pfo_mutex_unlock(&disk->lock);
}

static int
is_settled(const pfo_disk *disk, const pfo_index *index)
{
    return pfo_index_is_current(index) && !index->in_memory && atomic_load(&index->header->changing) == 0 &&
           memcmp(index->header->boot, disk->boot, sizeof disk->boot) == 0;
}

/* The directory's index where it can be relied on, else one made in memory. */
static pfo_status
begin_reading(pfo_disk *disk, pfo_error *err)
{
    const pfo_index *now = atomic_load(&disk->index);
    pfo_index *index;
    if (is_settled(disk, now)) {
        return PFO_OK;
    }
    PFO_TRY(pfo_index_open(&index, disk->root.descriptor, "index", 0, atomic_load(&disk->salt), err));
    if (is_settled(disk, index)) {
        adopt(disk, index);
        return PFO_OK;
    }
    pfo_index_close(index);
    return now != NULL && now->in_memory ? PFO_OK : pfo_disk_rebuild(disk, err);
}

pfo_status
pfo_disk_lock_shared(pfo_disk *disk, pfo_error *err)
{
    pfo_mutex_lock(&disk->lock);
    if (disk->lock_file.descriptor >= 0) {
        (void)pfo_file_lock(disk->lock_file.descriptor, F_RDLCK, 1);
    }
    const pfo_status status = begin_reading(disk, err);
    if (status != PFO_OK) {
        pfo_disk_unlock_shared(disk);
    }
    return status;
}

void
pfo_disk_unlock_shared(pfo_disk *disk)
{
    (void)close_replaced(disk);
    if (disk->lock_file.descriptor >= 0) {
        (void)pfo_file_lock(disk->lock_file.descriptor, F_UNLCK, 0);
    }
    pfo_mutex_unlock(&disk->lock);
}

/* ---- opening and closing ---- */

/* Closes all but the maps, and only then is the handle none that a fork must care for. */
static void
leave_directory(pfo_disk *disk)
{
    pfo_mutex_lock(&disk->lock);
    pfo_segments_close(disk);
    pfo_payloads_close(disk);
    pfo_file_close(&disk->lock_file);
    pfo_file_close(&disk->root);
    pfo_mutex_unlock(&disk->lock);
    delist(disk);
}

static uint64_t
wall_clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static uint32_t
segment_bytes_for(uint64_t max_bytes)
{
    const uint64_t share = max_bytes / 64;
    return (uint32_t)(share < 32 * 1024 ? 32 * 1024 : share > PFO_SEGMENT_MOST ? PFO_SEGMENT_MOST : share);
}

static pfo_status
open_for_reading(pfo_disk *disk, pfo_error *err)
{
    int known;
    PFO_TRY(pfo_disk_read_format(disk, &known, err));
    if (!known && !pfo_disk_salvage_salt(disk)) {
        return pfo_fail(err, PFO_UNAVAILABLE, "%s holds no cache, and one cannot be made there: it is read-only",
                        disk->directory);
    }
    PFO_TRY(pfo_disk_lock_shared(disk, err));
    pfo_disk_unlock_shared(disk);
    return PFO_OK;
}

static pfo_status
check_exists(const pfo_disk *disk, pfo_error *err)
{
    pfo_file root;
    pfo_file file;
    if (pfo_file_open(&root, AT_FDCWD, disk->directory, O_RDONLY | O_DIRECTORY) != 0) {
        return pfo_fail(err, PFO_UNAVAILABLE, "there is no directory %s", disk->directory);
    }
    const int error = pfo_file_open(&file, root.descriptor, "format", O_RDONLY);
    pfo_file_close(&root);
    if (error != 0) {
        return pfo_fail(err, PFO_UNAVAILABLE, "%s holds no cache", disk->directory);
    }
    pfo_file_close(&file);
    return PFO_OK;
}

static pfo_status
open_all(pfo_disk *disk, const pfo_disk_options *options, pfo_error *err)
{
    if (options->must_exist) {
        PFO_TRY(check_exists(disk, err));
    }
    pfo_mutex_lock(&disk->lock);
    pfo_status status = pfo_disk_open_directory(disk, err);
    pfo_mutex_unlock(&disk->lock);
    PFO_TRY(status);
    if (disk->read_only) {
        return open_for_reading(disk, err);
    }
    status = pfo_disk_lock(disk, err);
    if (status == PFO_OK) {
        pfo_disk_sweep_temporary(disk, NULL, NULL);
        pfo_disk_keep_bound(disk);
        pfo_disk_unlock(disk);
    }
    return status;
}

pfo_status
pfo_disk_open(pfo_disk **out, const pfo_disk_options *options, pfo_error *err)
{
    *out = NULL;
    if (options->directory == NULL || options->directory[0] == '\0') {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "cache_dir is empty; a directory's path is needed");
    }
    const uint64_t least = PFO_DISK_PAGE + pfo_index_bytes(PFO_DISK_FIRST_SLOTS);
    if (options->max_bytes < least) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "max_disk_bytes is %llu; a cache on disk needs at least %llu",
                        (unsigned long long)options->max_bytes, (unsigned long long)least);
    }
    pfo_disk *disk = pfo_alloc_array(1, sizeof *disk);
    if (disk == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory opening a disk cache");
    }
    const size_t length = strlen(options->directory) + 1;
    disk->directory = pfo_alloc(length);
    disk->root.descriptor = disk->lock_file.descriptor = disk->root_descriptor = -1;
    pfo_status status = disk->directory == NULL ? pfo_fail(err, PFO_NO_MEMORY, "out of memory opening a disk cache")
                                                : pfo_disk_policy_by_name(options->policy, &disk->policy, err);
    if (status == PFO_OK) {
        (void)memcpy(disk->directory, options->directory, length);
        disk->max_bytes = options->max_bytes;
        disk->segment_bytes = segment_bytes_for(options->max_bytes);
        disk->durability = options->durability;
        disk->compression = options->compression;
        disk->now_ns = options->now_ns != NULL ? options->now_ns : wall_clock_ns;
        disk->lock = disk->segments_lock = disk->payloads_lock = (pfo_mutex)PFO_MUTEX_INIT;
        pfo_disk_read_boot(disk->boot);
        enlist(disk); /* before it locks: a child that is forked meanwhile must not share the lock */
        status = open_all(disk, options, err);
        if (status != PFO_OK) {
            leave_directory(disk);
        }
    }
    if (status != PFO_OK) {
        close_indexes(disk);
        pfo_free(disk->victims);
        pfo_free(disk->directory);
        pfo_free(disk);
        return status;
    }
    *out = disk;
    return PFO_OK;
}

void
pfo_disk_close(pfo_disk *disk)
{
    if (disk == NULL) {
        return;
    }
    leave_directory(disk);
    close_indexes(disk);
    pfo_mutex_destroy(&disk->payloads_lock);
    pfo_mutex_destroy(&disk->segments_lock);
    pfo_mutex_destroy(&disk->lock);
    pfo_free(disk->victims);
    pfo_free(disk->directory);
    pfo_free(disk);
}
