/* disk_put.c: storing and touching, which write a record; see disk.h for the contract.
 *
 * A change is made in an order that a kill cannot harm: payload file, record, death of the old record, slot, old payload file. Whatever was
 * done of it, a rebuild finds either the old entry or the new one, whole. All of it but the last is one step of the journal.
 * Threads: from anywhere; records are made without the writers' lock and published under it. Memory: a record on its way is its maker's.
 */
#include "cache/disk.h"

#include "base/alloc.h"
#include "cache/codec.h"
#include "cache/disk_check.h"
#include "cache/disk_journal.h"
#include "cache/disk_payload.h"

#include <errno.h>
#include <string.h>

enum { GROW_TRIES = 8, PUT_TRIES = 2 };

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
        PFO_TRY(pfo_disk_find_locked(disk, &made->header->key, old, position, replaces, err));
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
            /* two live records: who locks next marks the older one dead, and removes its file */
            pfo_disk_distrust(disk);
            leaves_file = 0;
        }
    }
    pfo_index_add(index, PFO_COUNT_ENTRIES, !replaces);
    if (replaces && (old.flags & PFO_RECORD_FILE) != 0) {
        pfo_index_add(index, PFO_COUNT_FILES, 0 - (uint64_t)1);
        pfo_index_add(index, PFO_COUNT_FILE_PAGES, 0 - (uint64_t)old.file_pages);
    }
    pfo_index_add(index, PFO_COUNT_FILES, (slot.flags & PFO_RECORD_FILE) != 0);
    pfo_index_add(index, PFO_COUNT_FILE_PAGES, slot.file_pages);
    const uint32_t depth = leaves_file ? pfo_journal_note(index, PFO_NOTE_FOLDER, old.key.bytes[0]) : 0;
    pfo_index_set(index, position, &slot); /* last: what a reader has seen is not undone */
    pfo_journal_commit(index);
    if (replaces) {
        pfo_segment_drop_empty(disk, index, old.segment);
    }
    if (leaves_file) {
        const int error = is_named ? pfo_payload_remove(disk, &old.key, &old_file) : EIO;
        if (error != 0 && error != ENOENT) {
            pfo_disk_distrust(disk); /* which looks for files that no entry names */
        }
        pfo_journal_done(index, depth);
    }
    if (replaces) {
        pfo_segment_tidy(disk, old.segment);
    }
    return PFO_OK;
}

/* ---- put ---- */

static int
is_cancelled(const pfo_disk_record *record)
{
    atomic_thread_fence(
        memory_order_seq_cst); /* in order with what was published before, for pfo_disk_is_absent() elsewhere */
    return record->cancelled != NULL && atomic_load(record->cancelled);
}

/* pre: locked. What was just published and cancelled meanwhile goes again, before anybody can have put another. */
static pfo_status
take_back_if_cancelled(pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, int *stored,
                       pfo_error *err)
{
    pfo_slot slot;
    uint32_t position;
    int found;
    if (!is_cancelled(record)) {
        return PFO_OK;
    }
    *stored = 0;
    PFO_TRY(pfo_disk_find_locked(disk, key, &slot, &position, &found, err));
    if (found) {
        PFO_TRY(pfo_disk_remove_entry(disk, position, &slot, err));
        pfo_segment_tidy(disk, slot.segment);
    }
    return PFO_OK;
}

/* pre: locked. */
static pfo_status
publish_inline(pfo_disk *disk, new_record *made, pfo_error *err)
{
    PFO_TRY(pfo_disk_make_room(disk, made->bytes, err));
    pfo_index *index = atomic_load(&disk->index);
    pfo_index_add(index, PFO_COUNT_SEQUENCE, 1);
    made->header->sequence = pfo_index_count(index, PFO_COUNT_SEQUENCE);
    return publish_record(disk, made, 0, err);
}

static pfo_status
put_inline(pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, const pfo_bytes *parts,
           size_t part_count, uint16_t flags, uint64_t payload_length, int *stored, pfo_error *err)
{
    new_record made;
    PFO_TRY(make_record(disk, key, record, parts, part_count, &made, err));
    made.header->flags = flags;
    made.header->payload_length = payload_length;
    made.header->item_bytes = (uint32_t)record->item_bytes;
    pfo_status status = pfo_disk_lock(disk, err);
    if (status == PFO_OK) {
        *stored = !is_cancelled(record);
        if (*stored) {
            status = publish_inline(disk, &made, err);
        }
        if (*stored && status == PFO_OK) {
            status = take_back_if_cancelled(disk, key, record, stored, err);
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
    pfo_slot old;
    uint32_t position;
    int replaces;
    PFO_TRY(pfo_disk_make_room(disk, made->bytes, err)); /* others may have taken what there was */
    /* Damage to the key's places is met now: a rebuild sweeps payloads that no record names, as this one's will be for a moment. */
    PFO_TRY(pfo_disk_find_locked(disk, &made->header->key, &old, &position, &replaces, err));
    pfo_index *index = atomic_load(&disk->index);
    pfo_index_add(index, PFO_COUNT_SEQUENCE, 1);
    made->header->sequence = extension->file_sequence = pfo_index_count(index, PFO_COUNT_SEQUENCE);
    memcpy(made->header + 1, extension, sizeof *extension);
    made->header->body_check = pfo_disk_check(made->header + 1, made->header->length);
    made->file_pages = (uint32_t)(draft->reserved / PFO_DISK_PAGE);
    pfo_payload_name(&made->header->key, extension->file_sequence, extension->suffix, name);
    const uint32_t depth = pfo_journal_note(index, PFO_NOTE_FOLDER, made->header->key.bytes[0]);
    pfo_status status = pfo_payload_publish(disk, draft, name, err);
    if (status == PFO_OK) {
        *published = 1;
        status = publish_record(disk, made, 0, err);
        if (status != PFO_OK && pfo_file_remove(disk->root.descriptor, name) != 0) {
            pfo_disk_distrust(disk);
        }
    }
    pfo_journal_done(atomic_load(&disk->index), depth);
    return status;
}

static pfo_status
put_file(pfo_disk *disk, const pfo_digest *key, const pfo_disk_record *record, const pfo_bytes *parts,
         size_t part_count, uint16_t flags, uint64_t payload_length, int *stored, pfo_error *err)
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
                *stored = !is_cancelled(record);
                if (status == PFO_OK && *stored) {
                    status = publish_file(disk, &draft, &made, &extension, &published, err);
                }
                if (pfo_payload_drop(disk, &draft, published)) {
                    pfo_payload_unreserve(disk, &draft);
                }
                if (status == PFO_OK && *stored) {
                    status = take_back_if_cancelled(disk, key, record, stored, err);
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
    const int fits = !is_too_large(disk, on_disk);
    for (int tries = 0; fits && tries < PUT_TRIES; tries++) {
        pfo_error failure = PFO_ERROR_INIT;
        status = on_disk < PFO_DISK_INLINE
                     ? put_inline(disk, key, record, parts, part_count, flags, length, stored, &failure)
                     : put_file(disk, key, record, parts, part_count, flags, length, stored, &failure);
        if (status == PFO_IO && tries + 1 < PUT_TRIES && atomic_load(&disk->must_rebuild)) {
            continue; /* it met damage; the next lock rebuilds the index */
        }
        if (status != PFO_OK) {
            (void)pfo_fail(err, status, "%s", failure.text);
        }
        break;
    }
    if (!fits) {
        pfo_disk_count_one(&disk->rejects);
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
        pfo_disk_count_one(&disk->write_failures);
        return pfo_fail(err, PFO_UNAVAILABLE, "cache_dir %s cannot be written to: it is open for reading only",
                        disk->directory);
    }
    const pfo_status status = put(disk, key, record, stored, err);
    if (status != PFO_OK) {
        *stored = 0;
        pfo_disk_count_one(&disk->write_failures);
    }
    return status;
}

/* ---- touch ---- */

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
        pfo_disk_find_locked(disk, &slot->key, &now, &position, &found, err); /* room may have cost it its place */
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
    if (pfo_disk_is_absent(disk, key)) {
        return PFO_OK;
    }
    PFO_TRY(pfo_disk_lock(disk, err));
    pfo_status status = pfo_disk_find_locked(disk, key, &slot, &position, existed, err);
    if (status == PFO_OK && *existed) {
        *existed = !pfo_disk_has_expired(disk, &slot, slot.expires_ns != 0 ? disk->now_ns() : 0);
        if (*existed) {
            status = touch_record(disk, &slot, expires_ns, existed, err);
        }
    }
    pfo_disk_unlock(disk);
    return status;
}
