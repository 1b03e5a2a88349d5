/* disk.c: reading, removing and counting in the disk tier; see disk.h for the contract, disk_put.c for writing, disk_handle.c for opening.
 *
 * A reader probes the index, reads the record and believes it only if key, sequence and checksums agree. What is stale (moved or replaced
 * meanwhile) is looked up again; what stays wrong is looked at once more under the writers' lock, counted as corrupt, and taken out.
 */
#include "cache/disk.h"

#include "base/alloc.h"
#include "cache/codec.h"
#include "cache/disk_payload.h"

#include <string.h>

enum { LOOK_UP_TRIES = 8 };

pfo_status
pfo_disk_find_locked(pfo_disk *disk, const pfo_digest *key, pfo_slot *slot, uint32_t *position, int *found,
                     pfo_error *err)
{
    pfo_found result = pfo_index_find(atomic_load(&disk->index), key, slot, position);
    if (result == PFO_DAMAGED || !pfo_index_is_whole(atomic_load(&disk->index), key)) {
        pfo_disk_count_one(&disk->corrupt);
        PFO_TRY(pfo_disk_rebuild(disk, err));
        result = pfo_index_find(atomic_load(&disk->index), key, slot, position);
    }
    *found = result == PFO_FOUND;
    return PFO_OK;
}

/* ---- get ---- */

/* How a value is read: what pfo_disk_get_into() was asked for. */
typedef struct reading {
    int writable;
    void *scratch; /* of PFO_DISK_SCRATCH bytes, or NULL */
} reading;

/* The compressed payload of a record, expanded. */
static pfo_record_state
expand_inline(const pfo_record_header *header, size_t stored, pfo_disk_value *value, pfo_status *status, pfo_error *err)
{
    value->data = value->owned = pfo_alloc(value->length);
    *status = value->owned == NULL
                  ? PFO_NO_MEMORY
                  : pfo_codec_expand(header + 1, stored, header->item_bytes, value->owned, value->length, NULL);
    if (*status == PFO_NO_MEMORY) {
        (void)pfo_fail(err, PFO_NO_MEMORY, "out of memory expanding a payload");
        return PFO_RECORD_BROKEN;
    }
    const int is_good = *status == PFO_OK;
    *status = PFO_OK;
    return is_good ? PFO_RECORD_WHOLE : PFO_RECORD_BROKEN;
}

static pfo_record_state
read_inline(pfo_disk *disk, const pfo_slot *slot, const reading *how, pfo_disk_value *value, pfo_status *status,
            pfo_error *err)
{
    const size_t bytes = (size_t)slot->units * PFO_DISK_ALIGNMENT;
    if (bytes < sizeof(pfo_record_header)) {
        return PFO_RECORD_BROKEN;
    }
    void *block = how->scratch != NULL && bytes <= PFO_DISK_SCRATCH ? NULL : pfo_alloc(bytes);
    pfo_record_header *header = block != NULL ? block : how->scratch;
    if (block == NULL && (header == NULL || bytes > PFO_DISK_SCRATCH)) {
        *status = pfo_fail(err, PFO_NO_MEMORY, "out of memory reading a payload");
        return PFO_RECORD_BROKEN;
    }
    pfo_record_state state = pfo_segment_read(disk, slot, header, bytes);
    if (state != PFO_RECORD_WHOLE || (header->flags & PFO_RECORD_FILE) != 0) {
        pfo_free(block);
        return state == PFO_RECORD_WHOLE ? PFO_RECORD_BROKEN : state;
    }
    const size_t stored = header->length - header->label_length;
    memcpy(value->kind, header->kind, sizeof value->kind);
    value->length = (size_t)header->payload_length;
    if ((header->flags & PFO_RECORD_COMPRESSED) == 0) {
        value->owned = block;
        value->data = header + 1;
        return stored == value->length ? PFO_RECORD_WHOLE : PFO_RECORD_BROKEN;
    }
    state = expand_inline(header, stored, value, status, err);
    pfo_free(block);
    return state;
}

static void
forget_value(pfo_disk_value *value)
{
    pfo_disk_release(value);
    *value = (pfo_disk_value){ 0 };
}

static pfo_record_state
read_value(pfo_disk *disk, const pfo_slot *slot, const reading *how, pfo_disk_value *value, pfo_status *status,
           pfo_error *err)
{
    *status = PFO_OK;
    const pfo_record_state state = (slot->flags & PFO_RECORD_FILE) != 0
                                       ? pfo_payload_get(disk, slot, how->writable, value, status, err)
                                       : read_inline(disk, slot, how, value, status, err);
    if (state != PFO_RECORD_WHOLE || *status != PFO_OK) {
        forget_value(value);
        return state;
    }
    value->found = 1;
    value->stored_ns = (uint64_t)slot->stored_s * 1000000000U;
    value->expires_ns = slot->expires_ns;
    return state;
}

static int
is_directory_gone(const pfo_disk *disk)
{
    struct stat facts;
    return fstat(atomic_load(&disk->root_descriptor), &facts) != 0 || facts.st_nlink == 0;
}

/* pre: locked. Damage is taken out. A whole slot whose record is dead or another's is older than the segment: there may be a newer record of the
 * key that only a rebuild finds. */
static void
take_out(pfo_disk *disk, uint32_t position, const pfo_slot *slot, pfo_record_state state)
{
    if ((state == PFO_RECORD_STALE && (slot->flags & PFO_RECORD_FILE) == 0) ||
        pfo_disk_remove_entry(disk, position, slot, NULL) != PFO_OK) {
        pfo_disk_distrust(disk);
    }
}

/* What a reader without the lock could not settle: damage is counted and taken out, an expired entry is removed. */
static pfo_status
get_under_lock(pfo_disk *disk, const pfo_digest *key, const reading *how, pfo_disk_value *value, pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    int found;
    if (pfo_disk_lock(disk, NULL) != PFO_OK) {
        pfo_disk_count_one(&disk->corrupt); /* we may not write, so it stays where it is */
        return PFO_OK;
    }
    pfo_status status = pfo_disk_find_locked(disk, key, &slot, &position, &found, NULL);
    if (status == PFO_OK && found) {
        if (pfo_disk_has_expired(disk, &slot, slot.expires_ns != 0 ? disk->now_ns() : 0)) {
            pfo_disk_count_one(&disk->expirations);
            (void)pfo_disk_remove_entry(disk, position, &slot, NULL);
        } else {
            const pfo_record_state state = read_value(disk, &slot, how, value, &status, err);
            if (status == PFO_OK && state != PFO_RECORD_WHOLE && state != PFO_RECORD_UNREADABLE) {
                pfo_disk_count_one(&disk->corrupt);
                take_out(disk, position, &slot, state);
            }
        }
    }
    pfo_disk_unlock(disk);
    return status == PFO_NO_MEMORY ? pfo_fail(err, status, "out of memory reading from the disk cache") : PFO_OK;
}

/* The same for a handle that only reads: with writers kept out, what is wrong is damage, and stays where it is. */
static pfo_status
get_under_shared_lock(pfo_disk *disk, const pfo_digest *key, const reading *how, pfo_disk_value *value, pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    pfo_status status = PFO_OK;
    if (pfo_disk_lock_shared(disk, NULL) != PFO_OK) {
        pfo_disk_count_one(&disk->corrupt);
        return PFO_OK;
    }
    const pfo_found found = pfo_index_find(atomic_load(&disk->index), key, &slot, &position);
    const int has_expired =
        found == PFO_FOUND && pfo_disk_has_expired(disk, &slot, slot.expires_ns != 0 ? disk->now_ns() : 0);
    if (has_expired) {
        pfo_disk_count_one(&disk->expirations);
    } else if (found == PFO_DAMAGED ||
               (found == PFO_FOUND && read_value(disk, &slot, how, value, &status, err) != PFO_RECORD_WHOLE &&
                status == PFO_OK)) {
        pfo_disk_count_one(&disk->corrupt);
    }
    pfo_disk_unlock_shared(disk);
    return status;
}

typedef enum look { LOOK_SETTLED, LOOK_AGAIN, LOOK_LOCKED } look;

/* A look without any lock: settled, stale, or something is in the way and the lock will tell what. */
static pfo_status
look_once(pfo_disk *disk, pfo_index *index, const pfo_digest *key, const reading *how, pfo_disk_value *value,
          look *outcome, pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    pfo_status status;
    const pfo_found found = pfo_index_find(index, key, &slot, &position);
    *outcome = LOOK_LOCKED;
    if (found == PFO_ABSENT && !index->in_memory) {
        *outcome = pfo_index_is_retired(index) ? LOOK_AGAIN : LOOK_SETTLED;
    }
    if (found != PFO_FOUND || (slot.expires_ns != 0 && pfo_disk_has_expired(disk, &slot, disk->now_ns()))) {
        return PFO_OK;
    }
    const pfo_record_state state = read_value(disk, &slot, how, value, &status, err);
    if (status != PFO_OK || state == PFO_RECORD_WHOLE || state == PFO_RECORD_UNREADABLE) {
        *outcome = LOOK_SETTLED;
    } else if (state == PFO_RECORD_STALE) {
        *outcome = LOOK_AGAIN;
    }
    if (status == PFO_OK && state == PFO_RECORD_WHOLE) {
        pfo_index_note(index, position, slot.sequence);
    }
    return status;
}

static pfo_status
look_up(pfo_disk *disk, const pfo_digest *key, const reading *how, pfo_disk_value *value, pfo_error *err)
{
    look outcome = LOOK_AGAIN;
    for (int tries = 0; tries < LOOK_UP_TRIES && outcome == LOOK_AGAIN; tries++) {
        pfo_reading_place *place;
        pfo_index *index = pfo_disk_enter(disk, &place);
        if (index == NULL) {
            break;
        }
        const pfo_status status = look_once(disk, index, key, how, value, &outcome, err);
        pfo_disk_leave(place);
        if (outcome == LOOK_SETTLED) {
            return status;
        }
    }
    if (is_directory_gone(disk)) {
        return PFO_OK;
    }
    return disk->read_only ? get_under_shared_lock(disk, key, how, value, err)
                           : get_under_lock(disk, key, how, value, err);
}

pfo_status
pfo_disk_get_into(pfo_disk *disk, const pfo_digest *key, int writable, void *scratch, pfo_disk_value *value,
                  pfo_error *err)
{
    const reading how = { writable, scratch };
    *value = (pfo_disk_value){ 0 };
    const pfo_status status = look_up(disk, key, &how, value, err);
    pfo_disk_count_one(value->found ? &disk->hits : &disk->misses);
    return status;
}

pfo_status
pfo_disk_get(pfo_disk *disk, const pfo_digest *key, int writable, pfo_disk_value *value, pfo_error *err)
{
    return pfo_disk_get_into(disk, key, writable, NULL, value, err);
}

void
pfo_disk_release(pfo_disk_value *value)
{
    pfo_payload_map_release(value->map);
    pfo_free(value->owned);
    value->map = value->owned = NULL;
    value->data = NULL;
}

/* ---- delete, clear, expire, flush ---- */

int
pfo_disk_is_absent(pfo_disk *disk, const pfo_digest *key)
{
    pfo_slot slot;
    uint32_t position;
    pfo_reading_place *place;
    const pfo_index *index = pfo_disk_enter(disk, &place);
    if (index == NULL) {
        return 0;
    }
    const int absent = pfo_index_find(index, key, &slot, &position) == PFO_ABSENT && pfo_index_is_whole(index, key) &&
                       !pfo_index_is_retired(index);
    pfo_disk_leave(place);
    return absent;
}

static pfo_status
delete_once(pfo_disk *disk, const pfo_digest *key, const atomic_int *cancelled, int *existed, pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    PFO_TRY(pfo_disk_lock(disk, err));
    *existed = 0;
    pfo_status status = cancelled != NULL && atomic_load(cancelled)
                            ? PFO_OK
                            : pfo_disk_find_locked(disk, key, &slot, &position, existed, err);
    if (status == PFO_OK && *existed) {
        *existed = !pfo_disk_has_expired(disk, &slot, slot.expires_ns != 0 ? disk->now_ns() : 0);
        status = pfo_disk_remove_entry(disk, position, &slot, err);
        if (status == PFO_OK) {
            pfo_segment_tidy(disk, slot.segment);
        }
    }
    pfo_disk_unlock(disk);
    return status;
}

pfo_status
pfo_disk_delete_unless(pfo_disk *disk, const pfo_digest *key, const atomic_int *cancelled, int *existed, pfo_error *err)
{
    *existed = 0;
    if (pfo_disk_is_absent(disk, key)) {
        return PFO_OK;
    }
    pfo_error failure = PFO_ERROR_INIT;
    pfo_status status = delete_once(disk, key, cancelled, existed, &failure);
    if (status == PFO_IO && atomic_load(&disk->must_rebuild)) { /* it met damage; the next lock rebuilds the index */
        failure = (pfo_error)PFO_ERROR_INIT;
        status = delete_once(disk, key, cancelled, existed, &failure);
    }
    return status == PFO_OK ? PFO_OK : pfo_fail(err, status, "%s", failure.text);
}

pfo_status
pfo_disk_delete(pfo_disk *disk, const pfo_digest *key, int *existed, pfo_error *err)
{
    return pfo_disk_delete_unless(disk, key, NULL, existed, err);
}

/* A full disk must not keep the cache from being emptied: where there is no room for a new index beside the old one, the old one goes
 * first, and where there is none even then, the next who locks makes it. */
static pfo_status
clear_locked(pfo_disk *disk, pfo_error *err)
{
    char name[PFO_DISK_NAME];
    pfo_index *index;
    const pfo_index *old = atomic_load(&disk->index);
    const int was_whole = !disk->must_rebuild;
    pfo_disk_distrust(disk); /* until it is done */
    PFO_TRY(pfo_disk_remove_all(disk, err));
    PFO_TRY(pfo_disk_sync_folder(disk, "segments", err));
    if (!was_whole) {
        pfo_disk_drop_index(disk);
        return PFO_OK;
    }
    const uint64_t salt = old->salt;
    const uint64_t sequence = pfo_index_count(old, PFO_COUNT_SEQUENCE);
    const uint64_t last_segment = pfo_index_count(old, PFO_COUNT_LAST_SEGMENT);
    pfo_disk_temporary_name(disk, pfo_index_bytes(PFO_DISK_FIRST_SLOTS), name);
    if (pfo_index_create(&index, disk->root.descriptor, name, PFO_DISK_FIRST_SLOTS, salt, disk->boot, NULL) != PFO_OK) {
        pfo_disk_drop_index(disk);
        return PFO_OK;
    }
    pfo_index_set_count(index, PFO_COUNT_SEQUENCE, sequence);
    pfo_index_set_count(index, PFO_COUNT_LAST_SEGMENT, last_segment);
    PFO_TRY(pfo_disk_publish_index(disk, index, name, err));
    pfo_disk_trust(disk);
    pfo_disk_sweep_temporary(disk, NULL, NULL);
    return PFO_OK;
}

pfo_status
pfo_disk_clear(pfo_disk *disk, pfo_error *err)
{
    PFO_TRY(pfo_disk_lock_to_clear(disk, err));
    const pfo_status status = clear_locked(disk, err);
    pfo_disk_unlock(disk);
    return status;
}

pfo_status
pfo_disk_expire(pfo_disk *disk, uint64_t *removed, pfo_error *err)
{
    pfo_status status = PFO_OK;
    *removed = 0;
    PFO_TRY(pfo_disk_lock(disk, err));
    const uint64_t now_ns = disk->now_ns();
    const pfo_index *index = atomic_load(&disk->index);
    for (uint32_t position = 0; position < index->slot_count && status == PFO_OK; position++) {
        pfo_slot slot;
        if (pfo_index_at(index, position, &slot) == PFO_FOUND && pfo_disk_has_expired(disk, &slot, now_ns)) {
            status = pfo_disk_remove_entry(disk, position, &slot, err);
            *removed += status == PFO_OK;
        }
    }
    atomic_fetch_add(&disk->expirations, *removed);
    pfo_disk_unlock(disk);
    return status;
}

pfo_status
pfo_disk_flush(pfo_disk *disk, pfo_error *err)
{
    if (disk->read_only) {
        return PFO_OK;
    }
    PFO_TRY(pfo_disk_lock(disk, err));
    const int error = pfo_file_sync_all(disk->root.descriptor);
    pfo_disk_unlock(disk);
    return error == 0 ? PFO_OK : pfo_disk_io_error(err, error, "sync", disk->directory);
}

/* ---- numbers ---- */

static uint64_t
read_counter(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void
pfo_disk_get_stats(pfo_disk *disk, pfo_disk_stats *stats)
{
    *stats = (pfo_disk_stats){ .max_bytes = disk->max_bytes,
                               .hits = read_counter(&disk->hits),
                               .misses = read_counter(&disk->misses),
                               .expirations = read_counter(&disk->expirations),
                               .evictions = read_counter(&disk->evictions),
                               .rejects = read_counter(&disk->rejects),
                               .corrupt = read_counter(&disk->corrupt),
                               .write_failures = read_counter(&disk->write_failures) };
    pfo_reading_place *place;
    const pfo_index *index = is_directory_gone(disk) ? NULL : pfo_disk_enter(disk, &place);
    if (index != NULL) {
        uint64_t counters[PFO_COUNTERS];
        pfo_index_counts(index, counters);
        stats->entries = counters[PFO_COUNT_ENTRIES];
        stats->bytes = pfo_disk_bytes_of(index, counters);
        stats->segments = counters[PFO_COUNT_SEGMENTS];
        stats->payload_files = counters[PFO_COUNT_FILES];
        stats->garbage_bytes = counters[PFO_COUNT_SEGMENT_BYTES] - counters[PFO_COUNT_LIVE_BYTES];
        pfo_disk_leave(place);
    }
}

void
pfo_disk_reset_counters(pfo_disk *disk)
{
    _Atomic uint64_t *const counters[] = { &disk->hits,    &disk->misses,  &disk->expirations,   &disk->evictions,
                                           &disk->rejects, &disk->corrupt, &disk->write_failures };
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
        atomic_store(counters[i], 0);
    }
}
