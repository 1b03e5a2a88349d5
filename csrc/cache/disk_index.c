/* disk_index.c: see disk_index.h.
 *
 * The two buckets of a key come from its two halves, each mixed with the salt, so keys need not be spread evenly. With two choices of
 * eight places the table fills to nine tenths before an insertion finds no place.
 */
#include "cache/disk_check.h"
#include "cache/disk_journal.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
    TORN_TRIES = 64,
    QUIET_TRIES = 4096,  /* that give the processor to the writer, */
    PATIENT_TRIES = 200, /* and then that sleep: a writer may have been put off in the middle of a change */
    PATIENCE_NS = 250000,
    SLOTS_PER_ROW = 4,
    WORD_KEY = 1,
    WORD_LAST = PFO_SLOT_WORDS - 1,
    MOST_READS = 15
};

/* The last word of a slot. */
typedef struct last_word {
    uint16_t units;
    uint8_t flags;
    uint8_t used;
    uint32_t stamp;
} last_word;

static uint64_t
slot_check(const pfo_index *index, const pfo_slot *slot, uint32_t position)
{
    uint64_t words[PFO_SLOT_WORDS + 1];
    pfo_slot plain = *slot;
    plain.check = index->salt;
    plain.used = 0;
    plain.stamp = 0;
    memcpy(words, &plain, sizeof plain);
    words[PFO_SLOT_WORDS] = position;
    return pfo_disk_check(words, sizeof words);
}

static uint64_t
row_check(const pfo_index *index, const pfo_segment_row *row, uint32_t place)
{
    uint64_t words[4];
    memcpy(words, row, 16);
    words[2] = index->salt;
    words[3] = place;
    return pfo_disk_check(words, sizeof words);
}

static uint64_t
header_check(const pfo_index_header *header)
{
    return pfo_disk_check(header, offsetof(pfo_index_header, check));
}

static uint64_t
check_of(const pfo_index *index, const uint64_t counters[PFO_COUNTERS])
{
    uint64_t words[PFO_COUNTERS + 1];
    memcpy(words, counters, PFO_COUNTERS * sizeof *counters);
    words[PFO_COUNTERS] = index->salt;
    return pfo_disk_check(words, sizeof words);
}

static void
read_counters(const pfo_index *index, uint64_t counters[PFO_COUNTERS])
{
    for (int i = 0; i < PFO_COUNTERS; i++) {
        counters[i] = pfo_index_count(index, (pfo_counter)i);
    }
}

static uint64_t
counters_check(const pfo_index *index)
{
    uint64_t counters[PFO_COUNTERS];
    read_counters(index, counters);
    return check_of(index, counters);
}

void
pfo_index_counts(const pfo_index *index, uint64_t counters[PFO_COUNTERS])
{
    for (int tries = 0; tries < QUIET_TRIES + PATIENT_TRIES; tries++) {
        const uint64_t check = atomic_load(&index->header->counters_check);
        read_counters(index, counters);
        if (check_of(index, counters) == check) {
            return; /* between two changes: within one the check is still that of the counters before it */
        }
        if (tries < QUIET_TRIES) {
            (void)sched_yield();
        } else {
            const struct timespec pause = { 0, PATIENCE_NS };
            (void)nanosleep(&pause, NULL);
        }
    }
}

static uint32_t
rows_for(uint32_t slot_count)
{
    return slot_count / SLOTS_PER_ROW;
}

uint64_t
pfo_index_bytes(uint32_t slot_count)
{
    const uint64_t bytes = PFO_DISK_PAGE + (uint64_t)slot_count * sizeof(pfo_slot) +
                           (uint64_t)rows_for(slot_count) * sizeof(pfo_segment_row) +
                           (uint64_t)slot_count / PFO_DISK_BUCKET * sizeof(uint64_t);
    return (bytes + PFO_DISK_PAGE - 1) / PFO_DISK_PAGE * PFO_DISK_PAGE;
}

static void
lay_out(pfo_index *index, unsigned char *base, uint32_t slot_count)
{
    index->base = base;
    index->bytes = (size_t)pfo_index_bytes(slot_count);
    index->header = (pfo_index_header *)(void *)base;
    index->journal = (pfo_index_journal *)(void *)(base + PFO_JOURNAL_AT);
    index->slots = (_Atomic uint64_t *)(void *)(base + PFO_DISK_PAGE);
    index->rows = (pfo_segment_row *)(void *)(base + PFO_DISK_PAGE + (size_t)slot_count * sizeof(pfo_slot));
    index->slot_count = slot_count;
    index->row_count = rows_for(slot_count);
    index->sums = (_Atomic uint64_t *)(void *)(index->rows + index->row_count);
}

static uint64_t
mixed(uint64_t word)
{
    word ^= word >> 32;
    word *= 0x9e3779b97f4a7c15ULL;
    return word ^ (word >> 29);
}

/* The sum of an empty bucket: not zero, so that lost pages of slots and of sums do not agree. */
static uint64_t
empty_sum(const pfo_index *index, uint32_t bucket)
{
    return mixed(index->salt ^ (0x9e3779b97f4a7c15ULL * (bucket + 1ULL))) | 1;
}

static pfo_status
map_new_file(pfo_index *index, int directory, const char *name, uint64_t bytes, unsigned char **base, pfo_error *err)
{
    int error = pfo_file_open(&index->file, directory, name, O_RDWR | O_CREAT | O_TRUNC);
    if (error == 0) {
        error = pfo_file_allocate(index->file.descriptor, bytes);
    }
    if (error != 0) {
        return pfo_fail(err, PFO_IO, "cannot make an index of %llu bytes: %s", (unsigned long long)bytes,
                        strerror(error));
    }
    *base = pfo_file_map(index->file.descriptor, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
    return *base != NULL ? PFO_OK : pfo_fail(err, PFO_NO_MEMORY, "out of memory mapping the index");
}

pfo_status
pfo_index_create(pfo_index **out, int directory, const char *name, uint32_t slot_count, uint64_t salt,
                 const unsigned char boot[16], pfo_error *err)
{
    const uint64_t bytes = pfo_index_bytes(slot_count);
    unsigned char *base = NULL;
    pfo_index *index = pfo_alloc_array(1, sizeof *index);
    if (index == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory opening the index");
    }
    index->file.descriptor = -1;
    pfo_status status = PFO_OK;
    if (name != NULL) {
        status = map_new_file(index, directory, name, bytes, &base, err);
    } else {
        base = pfo_file_map(-1, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
        status = base != NULL ? PFO_OK : pfo_fail(err, PFO_NO_MEMORY, "out of memory making an index");
    }
    if (status != PFO_OK) {
        if (index->file.descriptor >= 0) {
            pfo_file_close(&index->file);
            (void)pfo_file_remove(directory, name);
        }
        pfo_free(index);
        return status;
    }
    lay_out(index, base, slot_count);
    index->salt = salt;
    index->writable = 1;
    index->in_memory = name == NULL;
    index->header->magic = PFO_DISK_INDEX_MAGIC;
    index->header->version = PFO_DISK_VERSION;
    index->header->slot_count = slot_count;
    index->header->salt = salt;
    memcpy(index->header->boot, boot, sizeof index->header->boot);
    index->header->check = header_check(index->header);
    for (uint32_t bucket = 0; bucket < slot_count / PFO_DISK_BUCKET; bucket++) {
        atomic_store_explicit(&index->sums[bucket], empty_sum(index, bucket), memory_order_relaxed);
    }
    pfo_index_end(index);
    *out = index;
    return PFO_OK;
}

/* Whether the file begins with a header of ours and is as long as that says. */
static int
is_usable(const pfo_file *file, uint64_t salt, uint32_t *slot_count)
{
    _Alignas(8) unsigned char page[sizeof(pfo_index_header)];
    struct stat facts;
    if (!pfo_file_is_ours(file, &facts) || pfo_file_read(file->descriptor, page, sizeof page, 0) != sizeof page) {
        return 0;
    }
    const pfo_index_header *header = (const pfo_index_header *)(const void *)page;
    *slot_count = header->slot_count;
    return header->magic == PFO_DISK_INDEX_MAGIC && header->version == PFO_DISK_VERSION && header->salt == salt &&
           header->check == header_check(header) && header->slot_count >= PFO_DISK_FIRST_SLOTS &&
           (header->slot_count & (header->slot_count - 1)) == 0 &&
           (uint64_t)facts.st_size == pfo_index_bytes(header->slot_count);
}

pfo_status
pfo_index_open(pfo_index **out, int directory, const char *name, int writable, uint64_t salt, pfo_error *err)
{
    uint32_t slot_count;
    *out = NULL;
    pfo_index *index = pfo_alloc_array(1, sizeof *index);
    if (index == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory opening the index");
    }
    if (pfo_file_open(&index->file, directory, name, writable ? O_RDWR : O_RDONLY) != 0 ||
        !is_usable(&index->file, salt, &slot_count)) {
        pfo_file_close(&index->file);
        pfo_free(index);
        return PFO_OK;
    }
    unsigned char *base = pfo_file_map(index->file.descriptor, (size_t)pfo_index_bytes(slot_count),
                                       writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED);
    if (base == NULL) {
        pfo_file_close(&index->file);
        pfo_free(index);
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory mapping the index");
    }
    lay_out(index, base, slot_count);
    if (pfo_file_load(&index->file, base, index->bytes) != 0) {
        pfo_index_close(index); /* to touch what the disk cannot read would be a signal */
        return PFO_OK;
    }
    index->salt = salt;
    index->writable = writable;
    *out = index;
    return PFO_OK;
}

int
pfo_index_is_current(const pfo_index *index)
{
    struct stat facts;
    if (index == NULL) {
        return 0;
    }
    if (index->in_memory) {
        return 1;
    }
    return pfo_file_is_ours(&index->file, &facts) && facts.st_nlink != 0 && (uint64_t)facts.st_size == index->bytes &&
           atomic_load_explicit(&index->header->retired, memory_order_relaxed) == 0;
}

int
pfo_index_is_retired(const pfo_index *index)
{
    return atomic_load(&index->header->retired) != 0;
}

void
pfo_index_retire(pfo_index *index)
{
    struct stat facts;
    if (pfo_file_is_ours(&index->file, &facts) && (uint64_t)facts.st_size == index->bytes) {
        atomic_store(&index->header->retired, 1);
    } /* else others see that it was cut short, and that its name is another file's */
}

void
pfo_index_close(pfo_index *index)
{
    while (index != NULL) {
        pfo_index *older = index->older;
        (void)munmap(index->base, index->bytes);
        pfo_file_close(&index->file);
        pfo_free(index);
        index = older;
    }
}

/* ---- places ---- */

/* First slot of the key's bucket number `choice`, and the place within it where the search begins. */
static uint32_t
bucket_of(const pfo_index *index, const pfo_digest *key, int choice, uint32_t *begin)
{
    uint64_t half;
    memcpy(&half, key->bytes + 8 * choice, sizeof half);
    const uint64_t hash = mixed(half ^ index->salt);
    *begin = (uint32_t)(hash >> 61);
    return (uint32_t)(hash >> 8) & (index->slot_count - 1) & ~(uint32_t)(PFO_DISK_BUCKET - 1);
}

static uint32_t
place_in(uint32_t bucket, uint32_t begin, uint32_t step)
{
    return bucket + ((begin + step) & (PFO_DISK_BUCKET - 1));
}

static _Atomic uint64_t *
words_of(const pfo_index *index, uint32_t position)
{
    return index->slots + (size_t)position * PFO_SLOT_WORDS;
}

/* Copies a slot word by word. 1 when it is empty. */
static int
copy_slot(const _Atomic uint64_t *words, pfo_slot *slot)
{
    uint64_t copy[PFO_SLOT_WORDS];
    uint64_t any = 0;
    for (int i = 0; i < PFO_SLOT_WORDS; i++) {
        copy[i] = atomic_load_explicit(&words[i], memory_order_relaxed);
        any |= copy[i];
    }
    memcpy(slot, copy, sizeof copy);
    return any == 0;
}

pfo_found
pfo_index_at(const pfo_index *index, uint32_t position, pfo_slot *slot)
{
    const _Atomic uint64_t *words = words_of(index, position);
    for (int tries = 0; tries < TORN_TRIES; tries++) {
        if (copy_slot(words, slot)) {
            return PFO_ABSENT;
        }
        if (slot->check == slot_check(index, slot, position) && slot->sequence != 0) {
            return PFO_FOUND;
        }
    }
    return PFO_DAMAGED;
}

pfo_found
pfo_index_find(const pfo_index *index, const pfo_digest *key, pfo_slot *slot, uint32_t *position)
{
    uint64_t first_half;
    uint32_t bucket[2];
    uint32_t begin[2];
    memcpy(&first_half, key->bytes, sizeof first_half);
    for (int choice = 0; choice < 2; choice++) {
        bucket[choice] = bucket_of(index, key, choice, &begin[choice]);
        for (uint32_t step = 0; step < PFO_DISK_BUCKET; step++) {
            const uint32_t at = place_in(bucket[choice], begin[choice], step);
            if (atomic_load_explicit(words_of(index, at) + WORD_KEY, memory_order_relaxed) == first_half &&
                pfo_index_at(index, at, slot) == PFO_FOUND && memcmp(&slot->key, key, sizeof *key) == 0) {
                *position = at;
                return PFO_FOUND;
            }
        }
    }
    for (int choice = 0; choice < 2; choice++) { /* its slot may have been torn, or hide its key */
        for (uint32_t step = 0; step < PFO_DISK_BUCKET; step++) {
            const uint32_t at = bucket[choice] + step;
            const pfo_found found = pfo_index_at(index, at, slot);
            if (found == PFO_DAMAGED) {
                return PFO_DAMAGED;
            }
            if (found == PFO_FOUND && memcmp(&slot->key, key, sizeof *key) == 0) {
                *position = at;
                return PFO_FOUND;
            }
        }
    }
    return PFO_ABSENT;
}

int
pfo_index_bucket_is_whole(const pfo_index *index, uint32_t position)
{
    const uint32_t bucket = position / PFO_DISK_BUCKET;
    uint64_t sum = empty_sum(index, bucket);
    for (uint32_t step = 0; step < PFO_DISK_BUCKET; step++) {
        sum += atomic_load_explicit(words_of(index, bucket * PFO_DISK_BUCKET + step), memory_order_relaxed);
    }
    return sum == atomic_load_explicit(&index->sums[bucket], memory_order_relaxed);
}

int
pfo_index_is_whole(const pfo_index *index, const pfo_digest *key)
{
    uint32_t begin;
    return pfo_index_bucket_is_whole(index, bucket_of(index, key, 0, &begin)) &&
           pfo_index_bucket_is_whole(index, bucket_of(index, key, 1, &begin));
}

void
pfo_index_note(pfo_index *index, uint32_t position, uint64_t sequence)
{
    if (!index->writable) {
        return;
    }
    _Atomic uint64_t *words = words_of(index, position);
    uint64_t seen = atomic_load_explicit(&words[WORD_LAST], memory_order_relaxed);
    last_word last;
    memcpy(&last, &seen, sizeof last);
    uint64_t now = atomic_load_explicit(&index->header->clock, memory_order_relaxed);
    if (last.stamp == (uint32_t)now && (last.used & 0x80) != 0) {
        return; /* the youngest already; a hot entry costs the readers no shared write */
    }
    now = atomic_fetch_add_explicit(&index->header->clock, 1, memory_order_relaxed) + 1;
    const unsigned reads = last.used & MOST_READS;
    last.used = (uint8_t)(0x80U | (reads < MOST_READS ? reads + 1 : reads));
    last.stamp = (uint32_t)now;
    uint64_t wanted;
    memcpy(&wanted, &last, sizeof wanted);
    pfo_slot slot;
    (void)copy_slot(words, &slot);
    if (slot.sequence ==
        sequence) { /* else another entry's by now; if it changes only after this, the exchange fails or is harmless */
        (void)atomic_compare_exchange_strong_explicit(&words[WORD_LAST], &seen, wanted, memory_order_relaxed,
                                                      memory_order_relaxed);
    }
}

int
pfo_index_place(const pfo_index *index, const pfo_digest *key, uint32_t *position)
{
    pfo_slot slot;
    uint32_t free_count[2] = { 0, 0 };
    uint32_t first[2] = { 0, 0 };
    for (int choice = 0; choice < 2; choice++) {
        uint32_t begin;
        const uint32_t bucket = bucket_of(index, key, choice, &begin);
        for (uint32_t step = PFO_DISK_BUCKET; step-- > 0;) {
            const uint32_t at = place_in(bucket, begin, step);
            if (copy_slot(words_of(index, at), &slot)) {
                free_count[choice]++;
                first[choice] = at;
            }
        }
    }
    const int choice = free_count[1] > free_count[0] + 2; /* the first bucket is searched first */
    *position = first[choice];
    return free_count[choice] != 0;
}

void
pfo_index_neighbours(const pfo_index *index, const pfo_digest *key, uint32_t *positions)
{
    for (int choice = 0; choice < 2; choice++) {
        uint32_t begin;
        const uint32_t bucket = bucket_of(index, key, choice, &begin);
        for (uint32_t step = 0; step < PFO_DISK_BUCKET; step++) {
            *positions++ = bucket + step;
        }
    }
}

/* Every change of a word that a killed writer must not leave half done. */
static void
change_word(pfo_index *index, _Atomic uint64_t *word, uint64_t value)
{
    const uint64_t before = atomic_load_explicit(word, memory_order_relaxed);
    if (before != value) {
        pfo_journal_undo(index, PFO_UNDO_WORD, (uint64_t)((uintptr_t)word - (uintptr_t)index->base), before, value);
        atomic_store_explicit(word, value, memory_order_release);
    }
}

/* Brings the bucket's sum from the slot's present check to another. One that was wrong before stays wrong. */
static void
move_sum(pfo_index *index, uint32_t position, uint64_t check)
{
    _Atomic uint64_t *sum = &index->sums[position / PFO_DISK_BUCKET];
    const uint64_t before = atomic_load_explicit(words_of(index, position), memory_order_relaxed);
    change_word(index, sum, atomic_load_explicit(sum, memory_order_relaxed) - before + check);
}

void
pfo_index_set(pfo_index *index, uint32_t position, const pfo_slot *slot)
{
    uint64_t copy[PFO_SLOT_WORDS];
    pfo_slot whole = *slot;
    whole.check = slot_check(index, slot, position);
    memcpy(copy, &whole, sizeof copy);
    move_sum(index, position, whole.check);
    for (int i = 0; i < PFO_SLOT_WORDS; i++) {
        change_word(index, &words_of(index, position)[i], copy[i]);
    }
}

void
pfo_index_clear(pfo_index *index, uint32_t position)
{
    move_sum(index, position, 0);
    for (int i = 0; i < PFO_SLOT_WORDS; i++) {
        change_word(index, &words_of(index, position)[i], 0);
    }
}

void
pfo_index_set_used(pfo_index *index, uint32_t position, const pfo_slot *slot, uint8_t used)
{
    last_word last = { .units = slot->units, .flags = slot->flags, .used = slot->used, .stamp = slot->stamp };
    uint64_t seen;
    uint64_t wanted;
    memcpy(&seen, &last, sizeof seen);
    last.used = used;
    memcpy(&wanted, &last, sizeof wanted);
    (void)atomic_compare_exchange_strong_explicit(&words_of(index, position)[WORD_LAST], &seen, wanted,
                                                  memory_order_relaxed, memory_order_relaxed);
}

pfo_status
pfo_index_copy(const pfo_index *from, pfo_index *to)
{
    for (uint32_t at = 0; at < from->slot_count; at++) {
        pfo_slot slot;
        uint32_t position;
        const pfo_found found = pfo_index_at(from, at, &slot);
        if (found == PFO_DAMAGED || (at % PFO_DISK_BUCKET == 0 && !pfo_index_bucket_is_whole(from, at))) {
            return PFO_STATE;
        }
        if (found == PFO_ABSENT) {
            continue;
        }
        if (!pfo_index_place(to, &slot.key, &position)) {
            return PFO_OVERFLOW;
        }
        pfo_index_set(to, position, &slot);
    }
    for (uint32_t place = 0; place < from->row_count; place++) {
        pfo_segment_row row;
        pfo_segment_row taken;
        if (pfo_index_row_at(from, place, &row) != PFO_FOUND) {
            continue;
        }
        if (pfo_index_row(to, row.number, &taken) != PFO_ABSENT) {
            return PFO_OVERFLOW;
        }
        pfo_index_set_row(to, row.number, &row);
    }
    for (int i = 0; i < PFO_COUNTERS; i++) {
        pfo_index_set_count(to, (pfo_counter)i, pfo_index_count(from, (pfo_counter)i));
    }
    atomic_store(&to->header->clock, atomic_load(&from->header->clock));
    pfo_journal_copy(from, to);
    return PFO_OK;
}

/* ---- segments ---- */

pfo_found
pfo_index_row_at(const pfo_index *index, uint32_t place, pfo_segment_row *row)
{
    *row = index->rows[place];
    if (row->number == 0 && row->check == 0) {
        return PFO_ABSENT;
    }
    return row->check == row_check(index, row, place) && row->number % index->row_count == place ? PFO_FOUND
                                                                                                 : PFO_DAMAGED;
}

pfo_found
pfo_index_row(const pfo_index *index, uint32_t number, pfo_segment_row *row)
{
    const pfo_found found = pfo_index_row_at(index, number % index->row_count, row);
    return found == PFO_FOUND && row->number != number ? PFO_DAMAGED : found;
}

void
pfo_index_set_row(pfo_index *index, uint32_t number, const pfo_segment_row *row)
{
    const uint32_t place = number % index->row_count;
    uint64_t words[sizeof *row / 8] = { 0 };
    if (row != NULL) {
        pfo_segment_row whole = *row;
        whole.check = row_check(index, row, place);
        memcpy(words, &whole, sizeof words);
    }
    _Atomic uint64_t *to = (_Atomic uint64_t *)(void *)&index->rows[place];
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        change_word(index, &to[i], words[i]);
    }
}

/* ---- counters ---- */

uint64_t
pfo_index_count(const pfo_index *index, pfo_counter which)
{
    return atomic_load_explicit(&index->header->counters[which], memory_order_relaxed);
}

void
pfo_index_set_count(pfo_index *index, pfo_counter which, uint64_t value)
{
    change_word(index, &index->header->counters[which], value);
}

void
pfo_index_add(pfo_index *index, pfo_counter which, uint64_t amount)
{
    pfo_index_set_count(index, which, pfo_index_count(index, which) + amount);
}

int
pfo_index_begin(pfo_index *index)
{
    if (atomic_load(&index->header->changing) != 0 ||
        atomic_load(&index->header->counters_check) != counters_check(index)) {
        return 0;
    }
    pfo_journal_clear(index);
    atomic_store(&index->header->changing, PFO_CHANGE_NOTED);
    return 1;
}

void
pfo_index_end(pfo_index *index)
{
    pfo_journal_clear(index);
    atomic_store(&index->header->counters_check, counters_check(index));
    atomic_store(&index->header->changing, 0);
}

void
pfo_index_spoil(pfo_index *index)
{
    atomic_store(&index->header->changing, PFO_CHANGE_SPOILED);
}

uint32_t
pfo_index_clock(const pfo_index *index)
{
    return (uint32_t)atomic_load_explicit(&index->header->clock, memory_order_relaxed);
}
