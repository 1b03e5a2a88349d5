/* diskformat.h: the structures that the disk tier keeps in files, as they lie there. docs/disk-format.md tells the whole story.
 *
 * Invariants: every structure is a multiple of 8 bytes without padding; numbers are in the byte order of the machine that made the
 * directory, and `magic` tells another machine. Checksums are the first 8 bytes of XXH3-128 (canonical form, read in machine order) over
 * the bytes named here, always with the directory's salt, so that nothing from another directory is ever taken for our own.
 * Threads: words that readers meet while a writer changes them are atomic; everything else changes under the writers' lock only.
 */
#ifndef PFO_CACHE_DISKFORMAT_H
#define PFO_CACHE_DISKFORMAT_H

#include "cache/disk.h"

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PFO_DISK_VERSION = 1,
    PFO_DISK_PAGE = 4096,      /* files are counted in these */
    PFO_DISK_ALIGNMENT = 8,    /* of records in a segment */
    PFO_DISK_BUCKET = 8,       /* slots a bucket; a key has two buckets */
    PFO_DISK_FIRST_SLOTS = 256 /* of a new index; a power of two */
};

#define PFO_DISK_FORMAT_MAGIC 0x31656863616f6670ULL /* "pfoache1" where the low byte comes first */
#define PFO_DISK_INDEX_MAGIC 0x337865646e696670ULL  /* "pfindex3" */
/* Far apart, so that no damage of three bytes or fewer turns one into the other. */
#define PFO_DISK_LIVE 0x4556494cU /* "LIVE" */
#define PFO_DISK_DEAD 0x9ca9b6b3U /* ... with every bit turned */
/* `changing` in the index, if not 0. Anything else counts as SPOILED. */
#define PFO_CHANGE_NOTED 0x45544f4eU   /* "NOTE": the journal says what a dead writer was at */
#define PFO_CHANGE_SPOILED 0xbaabb0b1U /* the index must be rebuilt */

/* The file `format`. The first 16 bytes mean the same in every version to come. */
typedef struct pfo_format_header {
    uint64_t magic;
    uint32_t version;
    uint32_t version_again; /* ~version: a damaged version is no newer one */
    uint64_t salt;
    uint64_t check; /* over all before it */
} pfo_format_header;
static_assert(sizeof(pfo_format_header) == 32, "layout of the format file");

/* One record of a segment: this, then length bytes of body: the payload (or a pfo_file_extension), then label_length bytes. */
typedef struct pfo_record_header {
    uint32_t state;  /* LIVE or DEAD; not under the check: it is the one word that changes in place */
    uint32_t length; /* of the body */
    uint64_t check;  /* over everything after it, length, salt, segment and offset */
    pfo_digest key;
    uint64_t sequence; /* of all records of a key the largest counts */
    uint64_t stored_ns;
    uint64_t expires_ns;
    char kind[PFO_DISK_KIND];
    uint64_t body_check;     /* over the body */
    uint64_t payload_length; /* as the caller gave it */
    uint32_t item_bytes;     /* width of the byte shuffle, of compressed payloads */
    uint16_t flags;
    uint16_t label_length;
} pfo_record_header;
static_assert(sizeof(pfo_record_header) == 96, "layout of a record");
static_assert(offsetof(pfo_record_header, key) == 16, "the check covers the rest");

enum { PFO_RECORD_FILE = 1, PFO_RECORD_COMPRESSED = 2 };

/* The body of a record whose payload is a file of its own. */
typedef struct pfo_file_extension {
    uint64_t file_sequence; /* in the file's name; not the record's once that was touched */
    uint64_t file_bytes;
    pfo_digest digest; /* pfo_fingerprint_bytes() of the file */
    char suffix[PFO_DISK_KIND];
} pfo_file_extension;
static_assert(sizeof(pfo_file_extension) == 48, "layout of a record's file part");

/* A slot of the index, as values. In the map it is eight atomic words; the last one holds what readers change. */
typedef struct pfo_slot {
    uint64_t check; /* over key ... flags, salt, and the slot's position */
    pfo_digest key;
    uint64_t sequence; /* 0: empty */
    uint64_t expires_ns;
    uint32_t segment;
    uint32_t offset;
    uint32_t stored_s;   /* wall clock, seconds since 1970 */
    uint32_t file_pages; /* of the payload file; 0: the payload is in the record */
    uint16_t units;      /* of PFO_DISK_ALIGNMENT bytes in the record */
    uint8_t flags;       /* of the record */
    uint8_t used;        /* not checked: bit 7: visited; bits 0 to 3: reads, saturating */
    uint32_t stamp;      /* not checked: the clock of accesses at the last one */
} pfo_slot;
static_assert(sizeof(pfo_slot) == 64, "layout of a slot");

enum { PFO_SLOT_WORDS = 8 };

/* What the index knows of one segment; segment n is in row n % rows. */
typedef struct pfo_segment_row {
    uint32_t number; /* 0: free */
    uint32_t size;
    uint32_t live_bytes;
    uint32_t live_records;
    uint64_t check; /* over all before it, salt and row */
} pfo_segment_row;
static_assert(sizeof(pfo_segment_row) == 24, "layout of a segment's row");

typedef enum pfo_counter {
    PFO_COUNT_SEQUENCE,     /* last one given */
    PFO_COUNT_LAST_SEGMENT, /* number last given */
    PFO_COUNT_ACTIVE,       /* segment that is appended to; 0: none */
    PFO_COUNT_ENTRIES,
    PFO_COUNT_SEGMENTS,
    PFO_COUNT_SEGMENT_BYTES, /* sizes of all segments */
    PFO_COUNT_LIVE_BYTES,    /* of them in live records */
    PFO_COUNT_FILES,
    PFO_COUNT_FILE_PAGES,
    PFO_COUNT_TEMPORARY_BYTES,
    PFO_COUNT_HAND, /* of the policies that have one: a sequence */
    PFO_COUNTERS
} pfo_counter;

/* The first page of the index; slots follow, then rows, then for each bucket the sum of its slots' checks (and of a constant of its own). */
typedef struct pfo_index_header {
    uint64_t magic;
    uint32_t version;
    uint32_t slot_count; /* a power of two */
    uint64_t salt;
    unsigned char boot[16];    /* of the machine's run in which it was made: what another run left may be a mixture */
    uint64_t check;            /* over all before it */
    _Atomic uint32_t retired;  /* another file has taken its place */
    _Atomic uint32_t changing; /* PFO_CHANGE_*: a writer is at work, or died there */
    _Atomic uint64_t counters[PFO_COUNTERS];
    _Atomic uint64_t counters_check; /* over the counters and salt; right whenever `changing` is 0 */
    _Atomic uint64_t clock;          /* of accesses */
} pfo_index_header;

enum { PFO_JOURNAL_AT = 512, PFO_JOURNAL_NOTES = 16, PFO_JOURNAL_ENTRIES = 140 };

/* In the header's page behind it; disk_journal.h. Of no meaning while `changing` is 0. */
typedef struct pfo_journal_entry {
    _Atomic uint64_t what; /* pfo_undo in the highest byte, and where */
    _Atomic uint64_t before;
    _Atomic uint64_t after;
} pfo_journal_entry;

typedef struct pfo_index_journal {
    _Atomic uint32_t count;                    /* of entries */
    _Atomic uint32_t depth;                    /* of notes */
    _Atomic uint64_t notes[PFO_JOURNAL_NOTES]; /* pfo_note in the upper half, and of what */
    pfo_journal_entry entries[PFO_JOURNAL_ENTRIES];
} pfo_index_journal;
static_assert(sizeof(pfo_index_header) <= PFO_JOURNAL_AT, "the header has the beginning of a page");
static_assert(PFO_JOURNAL_AT + sizeof(pfo_index_journal) <= PFO_DISK_PAGE, "and the journal the rest");
static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint32_t) == 4, "atomics are plain words in the map");

#endif
