/* test_disk_media.c: a disk that forgets what was written to it, or cannot read it any more. No old value comes back, the cache opens, and what
 * was lost is a miss and is counted. */
#include "cache/disk_files.h"
#include "cache/disk_index.h"
#include "disk_fixture.h"

enum { KEYS = 40, SMALL = 60, LARGE = 33000 };

static void
path_of(const fixture *tree, const char *name, char path[128])
{
    (void)snprintf(path, 128, "%s/%s", tree->root, name);
}

/* ---- lost writes to the index ---- */

static unsigned char index_copy[1 << 20];

/* The index file as it is now, through its name: the same pages that the handle has mapped. */
static size_t
read_index(const fixture *tree)
{
    char path[128];
    path_of(tree, "index", path);
    const int descriptor = open(path, O_RDONLY);
    const ssize_t length = read(descriptor, index_copy, sizeof index_copy);
    REQUIRE(descriptor >= 0 && length > 0 && close(descriptor) == 0);
    return (size_t)length;
}

static void
write_index(const fixture *tree, const void *data, size_t length, size_t offset)
{
    char path[128];
    path_of(tree, "index", path);
    const int descriptor = open(path, O_RDWR);
    REQUIRE(descriptor >= 0 && pwrite(descriptor, data, length, (off_t)offset) == (ssize_t)length);
    REQUIRE(close(descriptor) == 0);
}

/* Where the slot of a key lies in the index. */
static size_t
slot_of_key(const fixture *tree, unsigned number)
{
    const pfo_digest key = key_of(number);
    const size_t length = read_index(tree);
    for (size_t at = PFO_DISK_PAGE; at + sizeof(pfo_slot) <= length; at += sizeof(pfo_slot)) {
        if (memcmp(index_copy + at + offsetof(pfo_slot, key), &key, sizeof key) == 0) {
            return at;
        }
    }
    REQUIRE(!"the key has a slot");
    return 0;
}

static void
lose_slot(const fixture *tree, unsigned number)
{
    static const unsigned char nothing[sizeof(pfo_slot)];
    write_index(tree, nothing, sizeof nothing, slot_of_key(tree, number));
}

static int
delete_value(pfo_disk *disk, unsigned number)
{
    int existed = -1;
    const pfo_digest key = key_of(number);
    CHECK(pfo_disk_delete(disk, &key, &existed, NULL) == PFO_OK);
    return existed;
}

/* Opens the directory again, without its index. */
static pfo_disk *
reopen_rebuilt(const fixture *tree, pfo_disk *disk)
{
    char path[128];
    pfo_disk_close(disk);
    path_of(tree, "index", path);
    REQUIRE(unlink(path) == 0);
    return open_disk(tree, ROOMY, "lru");
}

static void
nothing_comes_back_after_a_lost_slot(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(put_ok(disk, i, 1, SMALL));
    }
    for (unsigned i = 0; i < KEYS; i += 2) {
        lose_slot(&tree, i);
        CHECK(put_ok(disk, i, 2, SMALL) && get_version(disk, i, SMALL) == 2);
        CHECK(delete_value(disk, i) == 1 && get_version(disk, i, SMALL) == -1);
    }
    CHECK(stats_of(disk).entries == KEYS / 2 && stats_of(disk).corrupt == KEYS / 2);
    disk = reopen_rebuilt(&tree, disk);
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(get_version(disk, i, SMALL) == (i % 2 == 0 ? -1 : 1));
    }
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
a_lost_slot_does_not_hide_its_entry_from_a_delete(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, SMALL) && put_ok(disk, 2, 1, LARGE));
    lose_slot(&tree, 1);
    CHECK(delete_value(disk, 1) == 1);
    lose_slot(&tree, 2);
    CHECK(delete_value(disk, 2) == 1 && stats_of(disk).entries == 0 && stats_of(disk).payload_files == 0);
    disk = reopen_rebuilt(&tree, disk);
    CHECK(get_version(disk, 1, SMALL) == -1 && get_version(disk, 2, LARGE) == -1);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

/* Slots and sums: each page in turn, and both. */
static void
nothing_comes_back_after_a_lost_page(void)
{
    static const unsigned char nothing[PFO_DISK_PAGE];
    const size_t pages = (size_t)pfo_index_bytes(PFO_DISK_FIRST_SLOTS) / PFO_DISK_PAGE;
    for (size_t page = 0; page <= pages; page++) {
        fixture tree = fixture_new();
        pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
        for (unsigned i = 0; i < KEYS; i++) {
            CHECK(put_ok(disk, i, 1, SMALL));
        }
        for (size_t one = 1; one < pages; one++) { /* the last round: all but the header */
            if (one == page || page == pages) {
                write_index(&tree, nothing, sizeof nothing, one * PFO_DISK_PAGE);
            }
        }
        if (page == 0) {
            write_index(&tree, nothing, sizeof nothing, 0);
        }
        for (unsigned i = 0; i < KEYS; i += 2) {
            CHECK(put_ok(disk, i, 2, SMALL) && delete_value(disk, i) == 1);
        }
        disk = reopen_rebuilt(&tree, disk);
        for (unsigned i = 0; i < KEYS; i++) {
            CHECK(get_version(disk, i, SMALL) == (i % 2 == 0 ? -1 : 1));
        }
        pfo_disk_close(disk);
        fixture_delete(&tree);
    }
}

/* A page of slots that was not written back is read anew as it was before: every slot in it is whole. */
static void
nothing_comes_back_after_a_page_of_old_slots(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(put_ok(disk, i, 1, SMALL));
    }
    const size_t at = slot_of_key(&tree, 7) / PFO_DISK_PAGE * PFO_DISK_PAGE;
    static unsigned char page[PFO_DISK_PAGE];
    (void)memcpy(page, index_copy + at, sizeof page);
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(put_ok(disk, i, 2, SMALL));
    }
    write_index(&tree, page, sizeof page, at);
    for (unsigned i = 0; i < KEYS; i++) {
        if (i % 3 == 0) {
            CHECK(get_version(disk, i, SMALL) == 2); /* the record tells that the slot is old */
        }
        CHECK(put_ok(disk, i, 3, SMALL) && delete_value(disk, i) == 1);
    }
    disk = reopen_rebuilt(&tree, disk);
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(get_version(disk, i, SMALL) == -1);
    }
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
a_growing_index_does_not_leave_a_lost_slot_behind(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 0, 1, SMALL));
    lose_slot(&tree, 0);
    for (unsigned i = 1; i < 4 * PFO_DISK_FIRST_SLOTS; i++) {
        CHECK(put_ok(disk, i, 1, SMALL));
    }
    CHECK(put_ok(disk, 0, 2, SMALL) && delete_value(disk, 0) == 1);
    disk = reopen_rebuilt(&tree, disk);
    CHECK(get_version(disk, 0, SMALL) == -1 && get_version(disk, 1, SMALL) == 1);
    CHECK(stats_of(disk).entries == 4 * PFO_DISK_FIRST_SLOTS - 1);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
verify_finds_lost_slots_and_brings_their_entries_back(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    pfo_disk_report report;
    CHECK(put_ok(disk, 1, 1, SMALL) && put_ok(disk, 2, 1, LARGE));
    lose_slot(&tree, 2);
    CHECK(get_version(disk, 2, LARGE) == -1); /* a reader cannot tell */
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged == 1 && !report.index_rebuilt);
    CHECK(pfo_disk_verify(disk, 1, &report, NULL) == PFO_OK && report.damaged == 1 && report.index_rebuilt);
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged == 0 && report.orphans == 0);
    CHECK(get_version(disk, 1, SMALL) == 1 && get_version(disk, 2, LARGE) == 1);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

int
main(void)
{
    RUN(nothing_comes_back_after_a_lost_slot);
    RUN(a_lost_slot_does_not_hide_its_entry_from_a_delete);
    RUN(nothing_comes_back_after_a_lost_page);
    RUN(nothing_comes_back_after_a_page_of_old_slots);
    RUN(a_growing_index_does_not_leave_a_lost_slot_behind);
    RUN(verify_finds_lost_slots_and_brings_their_entries_back);
    return FINISH();
}
