/* disk_payload.c: see disk_payload.h. */
#include "cache/disk_payload.h"

#include "base/alloc.h"
#include "base/pool.h"
#include "cache/codec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* snprintf() */
#include <string.h>
#include <sys/mman.h>

enum {
    FOLDER_LENGTH = 11, /* of "payloads/xx" */
    /* Of one write(): the page cache takes so much into one huge page, which is mapped as one. */
    WRITE_UNIT = 8 * PFO_FINGERPRINT_CHUNK,
    WRITE_PARALLEL = 4 * WRITE_UNIT /* from here on a second thread hashes while the first one writes */
};

void
pfo_payload_name(const pfo_digest *key, uint64_t sequence, const char *suffix, char name[PFO_DISK_NAME])
{
    char text[2 * sizeof key->bytes + 1];
    for (size_t i = 0; i < sizeof key->bytes; i++) {
        (void)snprintf(text + 2 * i, 3, "%02x", key->bytes[i]);
    }
    (void)snprintf(name, PFO_DISK_NAME, "payloads/%.2s/%s-%016llx%.*s", text, text, (unsigned long long)sequence,
                   PFO_DISK_KIND, suffix);
}

static void
folder_of(const char *name, char folder[PFO_DISK_NAME])
{
    (void)snprintf(folder, PFO_DISK_NAME, "%.*s", FOLDER_LENGTH, name);
}

/* ---- writing ---- */

pfo_status
pfo_payload_reserve(pfo_disk *disk, uint64_t bytes, pfo_payload_draft *draft, pfo_error *err)
{
    draft->file.descriptor = -1;
    draft->bytes = bytes;
    draft->reserved = (bytes + PFO_DISK_PAGE - 1) / PFO_DISK_PAGE * PFO_DISK_PAGE;
    PFO_TRY(pfo_disk_make_room(disk, draft->reserved + PFO_RECORD_MOST / 64, err));
    pfo_disk_temporary_name(disk, draft->reserved, draft->name);
    int error = pfo_file_open(&draft->file, disk->root.descriptor, draft->name, O_RDWR | O_CREAT | O_EXCL);
    if (error == 0) {
        error = pfo_file_lock(draft->file.descriptor, F_WRLCK, 0);
        if (error != 0) {
            (void)pfo_payload_drop(disk, draft, 0);
        }
    }
    if (error != 0) {
        return pfo_disk_io_error(err, error, "make", draft->name);
    }
    pfo_index_add(atomic_load(&disk->index), PFO_COUNT_TEMPORARY_BYTES, draft->reserved);
    return PFO_OK;
}

/* What the threads at work on one payload share: the first to come writes it, unit by unit, the other one hashes; then both hash
 * what is left. One alone hashes each unit after it has written it. Bytes that someone changes in between fail their check
 * later, which is a miss. */
typedef struct write_job {
    const pfo_payload_draft *draft;
    pfo_parts_cursor written; /* the writer's alone */
    int alone;
    atomic_int has_writer;
    atomic_int error;    /* an errno value, which ends the job */
    pfo_digest *digests; /* one a chunk of PFO_FINGERPRINT_CHUNK bytes */
    pfo_mutex lock;      /* of what follows */
    pfo_parts_cursor hashed;
    uint64_t next; /* where the next unit to hash begins */
} write_job;

static size_t
unit_at(const write_job *job, uint64_t begin)
{
    const uint64_t left = job->draft->bytes - begin;
    return left < WRITE_UNIT ? (size_t)left : WRITE_UNIT;
}

/* 0: none was left. */
static int
hash_next_unit(write_job *job, unsigned char *stage)
{
    pfo_mutex_lock(&job->lock);
    const uint64_t begin = job->next;
    const size_t length = unit_at(job, begin);
    const unsigned char *bytes = pfo_parts_next(&job->hashed, length, stage);
    job->next += length;
    pfo_mutex_unlock(&job->lock);
    pfo_digest *digest = job->digests + begin / PFO_FINGERPRINT_CHUNK;
    for (size_t done = 0; done < length; done += PFO_FINGERPRINT_CHUNK) {
        const size_t left = length - done;
        const size_t chunk = left < PFO_FINGERPRINT_CHUNK ? left : PFO_FINGERPRINT_CHUNK;
        pfo_xxh_ops_best()->digest(bytes + done, chunk, digest++->bytes);
    }
    return length != 0;
}

static void
write_units(write_job *job, unsigned char *stage)
{
    int error = 0;
    for (uint64_t begin = 0; begin < job->draft->bytes && error == 0; begin += WRITE_UNIT) {
        const size_t length = unit_at(job, begin);
        const unsigned char *bytes = pfo_parts_next(&job->written, length, stage);
        error = pfo_file_write(job->draft->file.descriptor, bytes, length, begin);
        if (error == 0 && job->alone) {
            (void)hash_next_unit(job, stage);
        }
    }
    if (error != 0) {
        atomic_store(&job->error, error);
    }
}

static void
work_on_payload(void *context, int64_t begin, int64_t end)
{
    write_job *job = context;
    (void)begin;
    (void)end;
    unsigned char *stage = pfo_alloc(unit_at(job, 0));
    if (stage == NULL) {
        atomic_store(&job->error, ENOMEM);
        return;
    }
    if (!atomic_exchange(&job->has_writer, 1)) {
        write_units(job, stage);
    }
    while (atomic_load(&job->error) == 0 && hash_next_unit(job, stage)) {
    }
    pfo_free(stage);
}

/* All units and their digest: that of pfo_fingerprint_bytes(). 0 or an errno value. */
static int
write_all_units(write_job *job, pfo_digest *digest)
{
    const uint64_t bytes = job->draft->bytes;
    const size_t chunks = (size_t)((bytes + PFO_FINGERPRINT_CHUNK - 1) / PFO_FINGERPRINT_CHUNK);
    const int threads = bytes >= WRITE_PARALLEL && pfo_pool_default_threads() > 1 ? 2 : 1;
    job->digests = pfo_alloc_array(chunks, sizeof *job->digests);
    if (job->digests == NULL) {
        return ENOMEM;
    }
    job->alone = threads == 1;
    pfo_pool_run(threads, threads, 1, work_on_payload, job);
    if (chunks > 1) {
        pfo_xxh_ops_best()->digest(job->digests, chunks * sizeof *job->digests, digest->bytes);
    } else {
        *digest = job->digests[0];
    }
    pfo_free(job->digests);
    return atomic_load(&job->error);
}

pfo_status
pfo_payload_write(pfo_disk *disk, pfo_payload_draft *draft, const pfo_bytes *parts, size_t part_count,
                  pfo_digest *digest, pfo_error *err)
{
    const pfo_parts_cursor cursor = { .parts = parts, .part_count = part_count };
    write_job job = { .draft = draft, .written = cursor, .hashed = cursor, .lock = PFO_MUTEX_INIT };
    int error = pfo_file_reserve(draft->file.descriptor, draft->bytes);
    if (error == 0) {
        error = write_all_units(&job, digest);
    }
    if (error == 0 && disk->durability == PFO_DURABLE_POWER) {
        error = pfo_file_sync(draft->file.descriptor);
    }
    pfo_mutex_destroy(&job.lock);
    return error == 0 ? PFO_OK : pfo_disk_io_error(err, error, "write", draft->name);
}

pfo_status
pfo_payload_publish(pfo_disk *disk, const pfo_payload_draft *draft, const char *name, pfo_error *err)
{
    char folder[PFO_DISK_NAME];
    folder_of(name, folder);
    int error = pfo_file_rename(disk->root.descriptor, draft->name, name);
    if (error == ENOENT) {
        error = pfo_file_make_directory(disk->root.descriptor, folder);
        if (error == 0) {
            PFO_TRY(pfo_disk_sync_folder(disk, "payloads", err));
            error = pfo_file_rename(disk->root.descriptor, draft->name, name);
        }
    }
    if (error != 0) {
        return pfo_disk_io_error(err, error, "publish", name);
    }
    return pfo_disk_sync_folder(disk, folder, err);
}

int
pfo_payload_drop(pfo_disk *disk, pfo_payload_draft *draft, int published)
{
    int gone = 1;
    if (!published && draft->file.descriptor >= 0) {
        gone = pfo_file_remove(atomic_load(&disk->root_descriptor), draft->name) == 0;
    }
    pfo_file_close(&draft->file);
    return gone;
}

void
pfo_payload_unreserve(pfo_disk *disk, const pfo_payload_draft *draft)
{
    pfo_index *index = atomic_load(&disk->index);
    const uint64_t temporary = pfo_index_count(index, PFO_COUNT_TEMPORARY_BYTES);
    if (temporary >= draft->reserved) { /* less after a clear or a rebuild in between, which have swept */
        pfo_index_set_count(index, PFO_COUNT_TEMPORARY_BYTES, temporary - draft->reserved);
    }
}

int
pfo_payload_remove(pfo_disk *disk, const pfo_digest *key, const pfo_file_extension *extension)
{
    char name[PFO_DISK_NAME];
    pfo_payload_name(key, extension->file_sequence, extension->suffix, name);
    return pfo_file_remove(disk->root.descriptor, name);
}

/* ---- reading ---- */

void
pfo_payload_map_release(pfo_payload_map *map)
{
    if (map != NULL && atomic_fetch_sub(&map->references, 1) == 1) {
        (void)munmap(map->base, map->length);
        pfo_free(map);
    }
}

int
pfo_disk_map_is_shared(const void *map)
{
    return atomic_load(&((const pfo_payload_map *)map)->references) > 1;
}

static pfo_payload_map *
new_map(const pfo_file *file, size_t length, int writable)
{
    pfo_payload_map *map = pfo_alloc(sizeof *map);
    if (map == NULL) {
        return NULL;
    }
    map->base = pfo_file_map(file->descriptor, length, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                             writable ? MAP_PRIVATE : MAP_SHARED);
    map->length = length;
    atomic_store(&map->references, 1);
    if (map->base == NULL) {
        pfo_free(map);
        return NULL;
    }
    return map;
}

static void
forget(pfo_checked_payload *one)
{
    pfo_payload_map_release(one->map);
    pfo_file_close(&one->file);
    *one = (pfo_checked_payload){ .file = PFO_FILE_CLOSED };
}

void
pfo_payloads_close(pfo_disk *disk)
{
    pfo_mutex_lock(&disk->payloads_lock);
    for (int i = 0; i < PFO_DISK_CHECKED; i++) {
        if (disk->checked[i].sequence != 0) {
            forget(&disk->checked[i]);
        }
    }
    pfo_mutex_unlock(&disk->payloads_lock);
}

/* Whether the file is the one that was checked, as it was, and still in the directory. */
static int
is_as_checked(const pfo_checked_payload *one)
{
    struct stat facts;
    return pfo_file_is_ours(&one->file, &facts) && facts.st_nlink != 0 && (uint64_t)facts.st_size == one->map->length &&
           facts.st_mtim.tv_sec == one->modified.tv_sec && facts.st_mtim.tv_nsec == one->modified.tv_nsec;
}

/* pre: payloads_lock. */
static pfo_checked_payload *
find_checked(pfo_disk *disk, const pfo_slot *slot)
{
    for (int i = 0; i < PFO_DISK_CHECKED; i++) {
        pfo_checked_payload *one = &disk->checked[i];
        if (one->sequence == slot->sequence && memcmp(&one->key, &slot->key, sizeof one->key) == 0) {
            if (is_as_checked(one)) {
                return one;
            }
            forget(one);
        }
    }
    return NULL;
}

/* pre: payloads_lock. In the place of one that is gone from the directory, or of the one not used for longest. */
static void
remember(pfo_disk *disk, const pfo_checked_payload *checked)
{
    pfo_checked_payload *place = NULL;
    for (int i = 0; i < PFO_DISK_CHECKED; i++) {
        pfo_checked_payload *one = &disk->checked[i];
        if (one->sequence != 0 && !is_as_checked(one)) {
            forget(one); /* or an unlinked file would keep its room on the disk */
        }
        if (place == NULL || one->last_use < place->last_use) {
            place = one;
        }
    }
    if (place->sequence != 0) {
        forget(place);
    }
    *place = *checked;
}

pfo_record_state
pfo_payload_record(pfo_disk *disk, const pfo_slot *slot, pfo_record_header *header, pfo_file_extension *extension)
{
    _Alignas(8) unsigned char record[sizeof *header + sizeof *extension + PFO_DISK_LABEL + PFO_DISK_ALIGNMENT];
    const size_t bytes = (size_t)slot->units * PFO_DISK_ALIGNMENT;
    if (bytes > sizeof record || bytes < sizeof *header + sizeof *extension) {
        return PFO_RECORD_BROKEN;
    }
    const pfo_record_state state = pfo_segment_read(disk, slot, record, bytes);
    memcpy(header, record, sizeof *header);
    memcpy(extension, record + sizeof *header, sizeof *extension);
    if (state == PFO_RECORD_WHOLE &&
        ((header->flags & PFO_RECORD_FILE) == 0 || extension->file_bytes == 0 || header->length < sizeof *extension)) {
        return PFO_RECORD_BROKEN;
    }
    return state;
}

/* Opens, maps and hashes the payload file of a record. */
static pfo_record_state
check_file(pfo_disk *disk, const pfo_slot *slot, pfo_checked_payload *checked, pfo_status *status, pfo_error *err)
{
    pfo_record_header header;
    pfo_file_extension extension;
    char name[PFO_DISK_NAME];
    struct stat facts;
    pfo_digest digest;
    const pfo_record_state state = pfo_payload_record(disk, slot, &header, &extension);
    if (state != PFO_RECORD_WHOLE) {
        return state;
    }
    *checked = (pfo_checked_payload){ .key = slot->key,
                                      .sequence = slot->sequence,
                                      .payload_length = header.payload_length,
                                      .item_bytes = header.item_bytes,
                                      .flags = header.flags };
    memcpy(checked->kind, header.kind, sizeof checked->kind);
    pfo_payload_name(&slot->key, extension.file_sequence, extension.suffix, name);
    const int error = pfo_file_open(&checked->file, atomic_load(&disk->root_descriptor), name, O_RDONLY | O_NOFOLLOW);
    if (error != 0) {
        const int is_refused = error == EMFILE || error == ENFILE || error == ENOMEM;
        return error == ENOENT ? PFO_RECORD_STALE : is_refused ? PFO_RECORD_UNREADABLE : PFO_RECORD_BROKEN;
    }
    if (!pfo_file_is_ours(&checked->file, &facts) || !S_ISREG(facts.st_mode) ||
        (uint64_t)facts.st_size != extension.file_bytes) {
        pfo_file_close(&checked->file);
        return PFO_RECORD_BROKEN;
    }
    checked->modified = facts.st_mtim;
    checked->map = new_map(&checked->file, (size_t)extension.file_bytes, 0);
    if (checked->map == NULL) {
        pfo_file_close(&checked->file);
        *status = pfo_fail(err, PFO_NO_MEMORY, "out of memory mapping %s", name);
        return PFO_RECORD_STALE;
    }
    if (pfo_file_populate(&checked->file, checked->map->base, checked->map->length) != 0) {
        pfo_payload_map_release(checked->map);
        pfo_file_close(&checked->file);
        return PFO_RECORD_BROKEN;
    }
    *status = pfo_fingerprint_bytes(NULL, checked->map->base, checked->map->length, 0, &digest);
    if (*status == PFO_OK && memcmp(&digest, &extension.digest, sizeof digest) == 0) {
        return PFO_RECORD_WHOLE;
    }
    pfo_payload_map_release(checked->map);
    pfo_file_close(&checked->file);
    if (*status != PFO_OK) {
        (void)pfo_fail(err, *status, "out of memory checking %s", name);
        return PFO_RECORD_STALE;
    }
    return PFO_RECORD_BROKEN;
}

/* Fills value from a checked file; pre: payloads_lock, which is given back. */
static pfo_record_state
hand_out(pfo_disk *disk, pfo_checked_payload *checked, int writable, pfo_disk_value *value, pfo_status *status,
         pfo_error *err)
{
    pfo_payload_map *map = checked->map;
    const uint16_t flags = checked->flags;
    const uint32_t item_bytes = checked->item_bytes;
    checked->last_use = ++disk->payload_uses;
    memcpy(value->kind, checked->kind, sizeof value->kind);
    value->length = (size_t)checked->payload_length;
    if ((flags & PFO_RECORD_COMPRESSED) == 0 && writable) {
        map = new_map(&checked->file, checked->map->length, 1);
    } else {
        atomic_fetch_add(&map->references, 1);
    }
    pfo_mutex_unlock(&disk->payloads_lock);
    if (map == NULL) {
        *status = pfo_fail(err, PFO_NO_MEMORY, "out of memory mapping a payload");
        return PFO_RECORD_STALE;
    }
    if ((flags & PFO_RECORD_COMPRESSED) == 0) {
        value->map = map;
        value->map_length = map->length;
        value->data = map->base;
        return PFO_RECORD_WHOLE;
    }
    value->owned = pfo_alloc(value->length);
    *status = value->owned == NULL
                  ? pfo_fail(err, PFO_NO_MEMORY, "out of memory expanding a payload")
                  : pfo_codec_expand(map->base, map->length, item_bytes, value->owned, value->length, NULL);
    pfo_payload_map_release(map);
    if (*status != PFO_OK) {
        pfo_free(value->owned);
        value->owned = NULL;
        if (*status == PFO_NO_MEMORY) {
            (void)pfo_fail(err, PFO_NO_MEMORY, "out of memory expanding a payload");
            return PFO_RECORD_STALE;
        }
        *status = PFO_OK;
        return PFO_RECORD_BROKEN;
    }
    value->data = value->owned;
    return PFO_RECORD_WHOLE;
}

pfo_record_state
pfo_payload_get(pfo_disk *disk, const pfo_slot *slot, int writable, pfo_disk_value *value, pfo_status *status,
                pfo_error *err)
{
    pfo_checked_payload checked;
    *status = PFO_OK;
    pfo_mutex_lock(&disk->payloads_lock);
    pfo_checked_payload *known = find_checked(disk, slot);
    if (known != NULL) {
        return hand_out(disk, known, writable, value, status, err);
    }
    pfo_mutex_unlock(&disk->payloads_lock);
    const pfo_record_state state = check_file(disk, slot, &checked, status, err);
    if (state != PFO_RECORD_WHOLE) {
        return state;
    }
    pfo_mutex_lock(&disk->payloads_lock);
    known = find_checked(disk, slot);
    if (known != NULL) { /* another thread was faster */
        forget(&checked);
        return hand_out(disk, known, writable, value, status, err);
    }
    remember(disk, &checked);
    for (int i = 0; i < PFO_DISK_CHECKED && known == NULL; i++) {
        known = disk->checked[i].map == checked.map ? &disk->checked[i] : NULL;
    }
    return hand_out(disk, known, writable, value, status, err);
}
