/* disk.c: the public functions of the disk tier but opening, listing and verifying; see disk.h for the contract.
 *
 * A change is made in an order that a kill cannot harm: payload file, record, death of the old record, slot, old payload file. Whatever was
 * done of it, a rebuild finds either the old entry or the new one, whole.
 * A reader probes the index, reads the record and believes it only if key, sequence and checksums agree. What is stale (moved or replaced
 * meanwhile) is looked up again; what stays wrong is looked at once more under the writers' lock, counted as corrupt, and taken out.
 */
#include "cache/disk.h"

#include "base/alloc.h"
#include "cache/codec.h"
#include "cache/disk_payload.h"

#include <errno.h>
#include <string.h>

enum { LOOK_UP_TRIES = 8, GROW_TRIES = 8, PUT_TRIES = 2 };

static void
count_one(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* pre: locked. A damaged index is rebuilt before it is asked again: what is done to a key whose slot was lost would leave its record behind,
 * to come back with a later rebuild. */
static pfo_status
find_locked(pfo_disk *disk, const pfo_digest *key, pfo_slot *slot, uint32_t *position, int *found, pfo_error *err)
{
    pfo_found result = pfo_index_find(atomic_load(&disk->index), key, slot, position);
    if (result == PFO_DAMAGED || !pfo_index_is_whole(atomic_load(&disk->index), key)) {
        count_one(&disk->corrupt);
        PFO_TRY(pfo_disk_rebuild(disk, err));
        result = pfo_index_find(atomic_load(&disk->index), key, slot, position);
    }
    *found = result == PFO_FOUND;
    return PFO_OK;
}

/* pre: locked. A sealed segment that is mostly garbage is copied away at once, so that no search for such segments is needed. */
static void
tidy_segment(pfo_disk *disk, uint32_t number)
{
    const pfo_index *index = atomic_load(&disk->index);
    pfo_segment_row row;
    if (number != pfo_index_count(index, PFO_COUNT_ACTIVE) && pfo_index_row(index, number, &row) == PFO_FOUND &&
        (uint64_t)row.live_bytes * 2 < row.size &&
        pfo_disk_bytes(disk, index) + row.live_bytes + disk->segment_bytes <= disk->max_bytes) {
        (void)pfo_segment_compact(disk, number, NULL); /* what was not copied is still where it was */
    }
}

/* ---- get ---- */

static pfo_record_state
read_inline(pfo_disk *disk, const pfo_slot *slot, pfo_disk_value *value, pfo_status *status, pfo_error *err)
{
    const size_t bytes = (size_t)slot->units * PFO_DISK_ALIGNMENT;
    pfo_record_header *header = bytes < sizeof *header ? NULL : pfo_alloc(bytes);
    if (header == NULL) {
        *status = bytes < sizeof *header ? PFO_OK : pfo_fail(err, PFO_NO_MEMORY, "out of memory reading a payload");
        return PFO_RECORD_BROKEN;
    }
    const pfo_record_state state = pfo_segment_read(disk, slot, header, bytes);
    const size_t stored = state == PFO_RECORD_WHOLE ? header->length - header->label_length : 0;
    if (state != PFO_RECORD_WHOLE || (header->flags & PFO_RECORD_FILE) != 0) {
        pfo_free(header);
        return state == PFO_RECORD_WHOLE ? PFO_RECORD_BROKEN : state;
    }
    memcpy(value->kind, header->kind, sizeof value->kind);
    value->length = (size_t)header->payload_length;
    if ((header->flags & PFO_RECORD_COMPRESSED) == 0) {
        value->owned = header;
        value->data = header + 1;
        return stored == value->length ? PFO_RECORD_WHOLE : PFO_RECORD_BROKEN;
    }
    value->owned = pfo_alloc(value->length);
    *status = value->owned == NULL
                  ? PFO_NO_MEMORY
                  : pfo_codec_expand(header + 1, stored, header->item_bytes, value->owned, value->length, NULL);
    value->data = value->owned;
    pfo_free(header);
    if (*status == PFO_NO_MEMORY) {
        (void)pfo_fail(err, PFO_NO_MEMORY, "out of memory expanding a payload");
    }
    const int is_good = *status == PFO_OK;
    *status = *status == PFO_NO_MEMORY ? PFO_NO_MEMORY : PFO_OK;
    return is_good ? PFO_RECORD_WHOLE : PFO_RECORD_BROKEN;
}

static void
forget_value(pfo_disk_value *value)
{
    pfo_disk_release(value);
    *value = (pfo_disk_value){ 0 };
}

static pfo_record_state
read_value(pfo_disk *disk, const pfo_slot *slot, int writable, pfo_disk_value *value, pfo_status *status,
           pfo_error *err)
{
    *status = PFO_OK;
    const pfo_record_state state = (slot->flags & PFO_RECORD_FILE) != 0
                                       ? pfo_payload_get(disk, slot, writable, value, status, err)
                                       : read_inline(disk, slot, value, status, err);
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
        disk->must_rebuild = 1;
    }
}

/* What a reader without the lock could not settle: damage is counted and taken out, an expired entry is removed. */
static pfo_status
get_under_lock(pfo_disk *disk, const pfo_digest *key, int writable, pfo_disk_value *value, pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    int found;
    if (pfo_disk_lock(disk, NULL) != PFO_OK) {
        count_one(&disk->corrupt); /* we may not write, so it stays where it is */
        return PFO_OK;
    }
    pfo_status status = find_locked(disk, key, &slot, &position, &found, NULL);
    if (status == PFO_OK && found) {
        if (pfo_disk_has_expired(disk, &slot, slot.expires_ns != 0 ? disk->now_ns() : 0)) {
            count_one(&disk->expirations);
            (void)pfo_disk_remove_entry(disk, position, &slot, NULL);
        } else {
            const pfo_record_state state = read_value(disk, &slot, writable, value, &status, err);
            if (status == PFO_OK && state != PFO_RECORD_WHOLE && state != PFO_RECORD_UNREADABLE) {
                count_one(&disk->corrupt);
                take_out(disk, position, &slot, state);
            }
        }
    }
    pfo_disk_unlock(disk);
    return status == PFO_NO_MEMORY ? pfo_fail(err, status, "out of memory reading from the disk cache") : PFO_OK;
}

/* The same for a handle that only reads: with writers kept out, what is wrong is damage, and stays where it is. */
static pfo_status
get_under_shared_lock(pfo_disk *disk, const pfo_digest *key, int writable, pfo_disk_value *value, pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    pfo_status status = PFO_OK;
    if (pfo_disk_lock_shared(disk, NULL) != PFO_OK) {
        count_one(&disk->corrupt);
        return PFO_OK;
    }
    const pfo_found found = pfo_index_find(atomic_load(&disk->index), key, &slot, &position);
    const int has_expired =
        found == PFO_FOUND && pfo_disk_has_expired(disk, &slot, slot.expires_ns != 0 ? disk->now_ns() : 0);
    if (has_expired) {
        count_one(&disk->expirations);
    } else if (found == PFO_DAMAGED ||
               (found == PFO_FOUND && read_value(disk, &slot, writable, value, &status, err) != PFO_RECORD_WHOLE &&
                status == PFO_OK)) {
        count_one(&disk->corrupt);
    }
    pfo_disk_unlock_shared(disk);
    return status;
}

typedef enum look { LOOK_SETTLED, LOOK_AGAIN, LOOK_LOCKED } look;

/* A look without any lock: settled, stale, or something is in the way and the lock will tell what. */
static pfo_status
look_once(pfo_disk *disk, pfo_index *index, const pfo_digest *key, int writable, pfo_disk_value *value, look *outcome,
          pfo_error *err)
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
    const pfo_record_state state = read_value(disk, &slot, writable, value, &status, err);
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
look_up(pfo_disk *disk, const pfo_digest *key, int writable, pfo_disk_value *value, pfo_error *err)
{
    look outcome = LOOK_AGAIN;
    for (int tries = 0; tries < LOOK_UP_TRIES && outcome == LOOK_AGAIN; tries++) {
        pfo_reading_place *place;
        pfo_index *index = pfo_disk_enter(disk, &place);
        if (index == NULL) {
            break;
        }
        const pfo_status status = look_once(disk, index, key, writable, value, &outcome, err);
        pfo_disk_leave(place);
        if (outcome == LOOK_SETTLED) {
            return status;
        }
    }
    if (is_directory_gone(disk)) {
        return PFO_OK;
    }
    return disk->read_only ? get_under_shared_lock(disk, key, writable, value, err)
                           : get_under_lock(disk, key, writable, value, err);
}

pfo_status
pfo_disk_get(pfo_disk *disk, const pfo_digest *key, int writable, pfo_disk_value *value, pfo_error *err)
{
    *value = (pfo_disk_value){ 0 };
    const pfo_status status = look_up(disk, key, writable, value, err);
    count_one(value->found ? &disk->hits : &disk->misses);
    return status;
}

void
pfo_disk_release(pfo_disk_value *value)
{
    pfo_payload_map_release(value->map);
    pfo_free(value->owned);
    value->map = value->owned = NULL;
    value->data = NULL;
}

/* ---- put ---- */

/* A record on its way to a segment. */
typedef struct new_record {
    pfo_record_header *header; /* owned; the body follows it */
    uint32_t bytes;
    uint32_t file_pages;
} new_record;

static pfo_status
make_record(const pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, const pfo_bytes *parts,
            size_t part_count, new_record *made, pfo_error *err)
{
    const size_t length = pfo_parts_length(parts, part_count);
    size_t label = record->label == NULL ? 0 : strlen(record->label);
    label = label > PFO_DISK_LABEL ? PFO_DISK_LABEL : label;
    while (label > 0 && label == PFO_DISK_LABEL && ((unsigned char)record->label[label] & 0xc0U) == 0x80U) {
        label--; /* not in the middle of a character */
        while (label > 0 && ((unsigned char)record->label[label] & 0xc0U) == 0x80U) {
            label--;
        }
    }
    const size_t whole = sizeof *made->header + length + label;
    made->bytes = (uint32_t)((whole + PFO_DISK_ALIGNMENT - 1) / PFO_DISK_ALIGNMENT * PFO_DISK_ALIGNMENT);
    made->file_pages = 0;
    made->header = pfo_alloc(made->bytes);
    if (made->header == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory storing %zu bytes", length);
    }
    unsigned char *body = (unsigned char *)(made->header + 1);
    memset((unsigned char *)made->header + made->bytes - PFO_DISK_ALIGNMENT, 0, PFO_DISK_ALIGNMENT);
    pfo_parts_cursor cursor = { .parts = parts, .part_count = part_count };
    const unsigned char *bytes = pfo_parts_next(&cursor, length, body);
    if (bytes != body && length != 0) {
        memcpy(body, bytes, length);
    }
    if (label != 0) {
        memcpy(body + length, record->label, label);
    }
    *made->header = (pfo_record_header){ .state = PFO_DISK_LIVE,
                                         .length = (uint32_t)(length + label),
                                         .key = *key,
                                         .stored_ns = disk->now_ns(),
                                         .expires_ns = record->expires_ns,
                                         .body_check = pfo_disk_check(body, length + label),
                                         .payload_length = length,
                                         .label_length = (uint16_t)label };
    memcpy(made->header->kind, record->kind, sizeof record->kind);
    return PFO_OK;
}

static pfo_slot
slot_of(const new_record *made, uint32_t segment, uint32_t offset, uint32_t stamp)
{
    return (pfo_slot){ .key = made->header->key,
                       .sequence = made->header->sequence,
                       .expires_ns = made->header->expires_ns,
                       .segment = segment,
                       .offset = offset,
                       .stored_s = (uint32_t)(made->header->stored_ns / 1000000000U),
                       .file_pages = made->file_pages,
                       .units = (uint16_t)(made->bytes / PFO_DISK_ALIGNMENT),
                       .flags = (uint8_t)made->header->flags,
                       .stamp = stamp };
}

/* Appends the record, with a place for its key found first, and the old entry, if any. */
static pfo_status
append_record(pfo_disk *disk, new_record *made, pfo_slot *old, int *replaces, uint32_t *position, pfo_slot *slot,
              pfo_error *err)
{
    for (int tries = 0; tries < GROW_TRIES; tries++) {
        uint32_t segment;
        uint32_t offset;
        PFO_TRY(find_locked(disk, &made->header->key, old, position, replaces, err));
        if (!*replaces) {
            PFO_TRY(pfo_disk_find_place(disk, &made->header->key, position, err));
        }
        pfo_index *index = atomic_load(&disk->index);
        const pfo_status status = pfo_segment_append(disk, index, made->header, made->bytes, &segment, &offset, err);
        if (status == PFO_OK) {
            const uint32_t clock = (uint32_t)atomic_fetch_add(&index->header->clock, 1) + 1;
            *slot = slot_of(made, segment, offset, clock);
            return PFO_OK;
        }
        if (status != PFO_STATE) {
            return status;
        }
        PFO_TRY(pfo_disk_grow(disk, err)); /* no row for another segment; rows come with slots */
    }
    return pfo_fail(err, PFO_IO, "the index of %s has no room for another segment", disk->directory);
}

/* pre: locked, and there is room. keeps_file: the new record names the old one's payload file. */
static pfo_status
publish_record(pfo_disk *disk, new_record *made, int keeps_file, pfo_error *err)
{
    pfo_slot old;
    pfo_slot slot;
    int replaces;
    uint32_t position;
    pfo_record_header old_header;
    pfo_file_extension old_file;
    PFO_TRY(append_record(disk, made, &old, &replaces, &position, &slot, err));
    pfo_index *index = atomic_load(&disk->index);
    const pfo_status status = pfo_segment_sync(disk, slot.segment, err);
    if (status != PFO_OK) {
        pfo_segment_take_back(disk, index, slot.segment, slot.offset, made->bytes);
        return status;
    }
    /* From here on the new record counts, so nothing below is a failure of the put. */
    int leaves_file = replaces && !keeps_file && (old.flags & PFO_RECORD_FILE) != 0;
    const int is_named = leaves_file && pfo_payload_record(disk, &old, &old_header, &old_file) == PFO_RECORD_WHOLE;
    if (replaces) {
        slot.used = old.used & 15U;
        if (pfo_segment_kill(disk, index, old.segment, old.offset, (uint32_t)old.units * PFO_DISK_ALIGNMENT, NULL) !=
            PFO_OK) {
            disk->must_rebuild =
                1; /* two live records: who locks next marks the older one dead, and removes its file */
            leaves_file = 0;
        }
    }
    pfo_index_set(index, position, &slot);
    pfo_index_add(index, PFO_COUNT_ENTRIES, !replaces);
    if (replaces && (old.flags & PFO_RECORD_FILE) != 0) {
        pfo_index_add(index, PFO_COUNT_FILES, 0 - (uint64_t)1);
        pfo_index_add(index, PFO_COUNT_FILE_PAGES, 0 - (uint64_t)old.file_pages);
    }
    pfo_index_add(index, PFO_COUNT_FILES, (slot.flags & PFO_RECORD_FILE) != 0);
    pfo_index_add(index, PFO_COUNT_FILE_PAGES, slot.file_pages);
    if (leaves_file) {
        const int error = is_named ? pfo_payload_remove(disk, &old.key, &old_file) : EIO;
        if (error != 0 && error != ENOENT) {
            disk->must_rebuild = 1; /* which looks for files that no entry names */
        }
    }
    if (replaces) {
        tidy_segment(disk, old.segment);
    }
    return PFO_OK;
}

static pfo_status
put_inline(pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, const pfo_bytes *parts,
           size_t part_count, uint16_t flags, uint64_t payload_length, pfo_error *err)
{
    new_record made;
    PFO_TRY(make_record(disk, key, record, parts, part_count, &made, err));
    made.header->flags = flags;
    made.header->payload_length = payload_length;
    made.header->item_bytes = (uint32_t)record->item_bytes;
    pfo_status status = pfo_disk_lock(disk, err);
    if (status == PFO_OK) {
        status = pfo_disk_make_room(disk, made.bytes, err);
        if (status == PFO_OK) {
            pfo_index *index = atomic_load(&disk->index);
            pfo_index_add(index, PFO_COUNT_SEQUENCE, 1);
            made.header->sequence = pfo_index_count(index, PFO_COUNT_SEQUENCE);
            status = publish_record(disk, &made, 0, err);
        }
        pfo_disk_unlock(disk);
    }
    pfo_free(made.header);
    return status;
}

/* pre: locked. From a written draft to an entry. */
static pfo_status
publish_file(pfo_disk *disk, pfo_payload_draft *draft, new_record *made, pfo_file_extension *extension, int *published,
             pfo_error *err)
{
    char name[PFO_DISK_NAME];
    PFO_TRY(pfo_disk_make_room(disk, made->bytes, err)); /* others may have taken what there was */
    pfo_index *index = atomic_load(&disk->index);
    pfo_index_add(index, PFO_COUNT_SEQUENCE, 1);
    made->header->sequence = extension->file_sequence = pfo_index_count(index, PFO_COUNT_SEQUENCE);
    memcpy(made->header + 1, extension, sizeof *extension);
    made->header->body_check = pfo_disk_check(made->header + 1, made->header->length);
    made->file_pages = (uint32_t)(draft->reserved / PFO_DISK_PAGE);
    pfo_payload_name(&made->header->key, extension->file_sequence, extension->suffix, name);
    pfo_status status = pfo_payload_publish(disk, draft, name, err);
    if (status == PFO_OK) {
        *published = 1;
        status = publish_record(disk, made, 0, err);
        if (status != PFO_OK && pfo_file_remove(disk->root.descriptor, name) != 0) {
            disk->must_rebuild = 1;
        }
    }
    return status;
}

static pfo_status
put_file(pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, const pfo_bytes *parts,
         size_t part_count, uint16_t flags, uint64_t payload_length, pfo_error *err)
{
    pfo_file_extension extension = { .file_bytes = pfo_parts_length(parts, part_count) };
    const pfo_bytes body = { &extension, sizeof extension };
    pfo_payload_draft draft;
    new_record made;
    int published = 0;
    memcpy(extension.suffix, record->suffix, sizeof extension.suffix);
    PFO_TRY(make_record(disk, key, record, &body, 1, &made, err));
    made.header->flags = flags | PFO_RECORD_FILE;
    made.header->payload_length = payload_length;
    made.header->item_bytes = (uint32_t)record->item_bytes;
    pfo_status status = pfo_disk_lock(disk, err);
    if (status == PFO_OK) {
        status = pfo_payload_reserve(disk, extension.file_bytes, &draft, err);
        pfo_disk_unlock(disk);
        if (status == PFO_OK) {
            status = pfo_payload_write(disk, &draft, parts, part_count, &extension.digest, err);
            const pfo_status locked = pfo_disk_lock(disk, err);
            if (locked == PFO_OK) {
                if (status == PFO_OK) {
                    status = publish_file(disk, &draft, &made, &extension, &published, err);
                }
                if (pfo_payload_drop(disk, &draft, published)) {
                    pfo_payload_unreserve(disk, &draft);
                }
                pfo_disk_unlock(disk);
            } else {
                (void)pfo_payload_drop(disk, &draft, 0);
                status = status == PFO_OK ? locked : status;
            }
        }
    }
    pfo_free(made.header);
    return status;
}

/* Whether it could be stored in an otherwise empty directory. */
static int
is_too_large(pfo_disk *disk, uint64_t length)
{
    pfo_reading_place *place;
    const pfo_index *index = pfo_disk_enter(disk, &place);
    const uint64_t index_bytes = index != NULL ? index->bytes : pfo_index_bytes(PFO_DISK_FIRST_SLOTS);
    if (index != NULL) {
        pfo_disk_leave(place);
    }
    const uint64_t pages = (length + PFO_DISK_PAGE - 1) / PFO_DISK_PAGE * PFO_DISK_PAGE;
    const uint64_t need =
        length < PFO_DISK_INLINE ? length + sizeof(pfo_record_header) + PFO_DISK_LABEL : pages + PFO_RECORD_MOST / 64;
    const uint64_t fixed = PFO_DISK_PAGE + index_bytes;
    return need > disk->max_bytes || need + fixed > disk->max_bytes;
}

static pfo_status
put(pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, int *stored, pfo_error *err)
{
    const size_t length = pfo_parts_length(record->parts, record->part_count);
    const pfo_bytes *parts = record->parts;
    size_t part_count = record->part_count;
    pfo_bytes packed = { NULL, 0 };
    void *block = NULL;
    uint16_t flags = 0;
    if (disk->compression == PFO_COMPRESS_ALWAYS ||
        (disk->compression == PFO_COMPRESS_AUTO && pfo_codec_pays(parts, part_count, record->item_bytes))) {
        PFO_TRY(pfo_codec_compress(parts, part_count, record->item_bytes, &block, &packed.length, err));
        if (packed.length < length) {
            packed.data = block;
            parts = &packed;
            part_count = 1;
            flags = PFO_RECORD_COMPRESSED;
        }
    }
    const size_t on_disk = pfo_parts_length(parts, part_count);
    pfo_status status = PFO_OK;
    *stored = !is_too_large(disk, on_disk);
    for (int tries = 0; *stored && tries < PUT_TRIES; tries++) {
        pfo_error failure = PFO_ERROR_INIT;
        status = on_disk < PFO_DISK_INLINE ? put_inline(disk, key, record, parts, part_count, flags, length, &failure)
                                           : put_file(disk, key, record, parts, part_count, flags, length, &failure);
        if (status == PFO_IO && tries + 1 < PUT_TRIES && atomic_load(&disk->must_rebuild)) {
            continue; /* it met damage; the next lock rebuilds the index */
        }
        if (status != PFO_OK) {
            (void)pfo_fail(err, status, "%s", failure.text);
        }
        break;
    }
    if (!*stored) {
        count_one(&disk->rejects);
    }
    pfo_free(block);
    return status;
}

pfo_status
pfo_disk_put(pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, int *stored, pfo_error *err)
{
    *stored = 0;
    if (memchr(record->suffix, '/', sizeof record->suffix) != NULL ||
        memchr(record->suffix, '\0', sizeof record->suffix) == NULL) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "suffix is '%.16s'; accepted: up to 15 characters without a slash",
                        record->suffix);
    }
    if (disk->read_only) {
        count_one(&disk->write_failures);
        return pfo_fail(err, PFO_UNAVAILABLE, "cache_dir %s cannot be written to: it is open for reading only",
                        disk->directory);
    }
    const pfo_status status = put(disk, key, record, stored, err);
    if (status != PFO_OK) {
        *stored = 0;
        count_one(&disk->write_failures);
    }
    return status;
}

/* ---- delete, touch, clear, expire, flush ---- */

/* Whether the index says so without a doubt, which needs no lock: most changes of a key in memory meet nothing here, and a directory
 * that cannot be written to has nothing to refuse them. */
static int
is_absent(pfo_disk *disk, const pfo_digest *key)
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
delete_once(pfo_disk *disk, const pfo_digest *key, int *existed, pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    PFO_TRY(pfo_disk_lock(disk, err));
    pfo_status status = find_locked(disk, key, &slot, &position, existed, err);
    if (status == PFO_OK && *existed) {
        *existed = !pfo_disk_has_expired(disk, &slot, slot.expires_ns != 0 ? disk->now_ns() : 0);
        status = pfo_disk_remove_entry(disk, position, &slot, err);
        if (status == PFO_OK) {
            tidy_segment(disk, slot.segment);
        }
    }
    pfo_disk_unlock(disk);
    return status;
}

pfo_status
pfo_disk_delete(pfo_disk *disk, const pfo_digest *key, int *existed, pfo_error *err)
{
    *existed = 0;
    if (is_absent(disk, key)) {
        return PFO_OK;
    }
    pfo_error failure = PFO_ERROR_INIT;
    pfo_status status = delete_once(disk, key, existed, &failure);
    if (status == PFO_IO && atomic_load(&disk->must_rebuild)) { /* it met damage; the next lock rebuilds the index */
        failure = (pfo_error)PFO_ERROR_INIT;
        status = delete_once(disk, key, existed, &failure);
    }
    return status == PFO_OK ? PFO_OK : pfo_fail(err, status, "%s", failure.text);
}

/* pre: locked. Writes the entry's record again with another expiry. */
static pfo_status
touch_record(pfo_disk *disk, const pfo_slot *slot, uint64_t expires_ns, int *existed, pfo_error *err)
{
    new_record made = { .bytes = (uint32_t)slot->units * PFO_DISK_ALIGNMENT, .file_pages = slot->file_pages };
    PFO_TRY(pfo_disk_make_room(disk, made.bytes, err));
    made.header = pfo_alloc(made.bytes);
    if (made.header == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory touching an entry");
    }
    pfo_slot now;
    uint32_t position;
    int found;
    pfo_status status =
        find_locked(disk, &slot->key, &now, &position, &found, err); /* room may have cost it its place */
    *existed = status == PFO_OK && found && now.sequence == slot->sequence &&
               pfo_segment_read(disk, &now, made.header, made.bytes) == PFO_RECORD_WHOLE;
    if (*existed) {
        pfo_index *index = atomic_load(&disk->index);
        pfo_index_add(index, PFO_COUNT_SEQUENCE, 1);
        made.header->sequence = pfo_index_count(index, PFO_COUNT_SEQUENCE);
        made.header->stored_ns = disk->now_ns();
        made.header->expires_ns = expires_ns;
        status = publish_record(disk, &made, 1, err);
    }
    pfo_free(made.header);
    return status;
}

pfo_status
pfo_disk_touch(pfo_disk *disk, const pfo_digest *key, uint64_t expires_ns, int *existed, pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    *existed = 0;
    if (is_absent(disk, key)) {
        return PFO_OK;
    }
    PFO_TRY(pfo_disk_lock(disk, err));
    pfo_status status = find_locked(disk, key, &slot, &position, existed, err);
    if (status == PFO_OK && *existed) {
        *existed = !pfo_disk_has_expired(disk, &slot, slot.expires_ns != 0 ? disk->now_ns() : 0);
        if (*existed) {
            status = touch_record(disk, &slot, expires_ns, existed, err);
        }
    }
    pfo_disk_unlock(disk);
    return status;
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
    disk->must_rebuild = 1; /* until it is done */
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
    disk->must_rebuild = 0;
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
        stats->entries = pfo_index_count(index, PFO_COUNT_ENTRIES);
        stats->bytes = pfo_disk_bytes(disk, index);
        stats->segments = pfo_index_count(index, PFO_COUNT_SEGMENTS);
        stats->payload_files = pfo_index_count(index, PFO_COUNT_FILES);
        stats->garbage_bytes =
            pfo_index_count(index, PFO_COUNT_SEGMENT_BYTES) - pfo_index_count(index, PFO_COUNT_LIVE_BYTES);
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
