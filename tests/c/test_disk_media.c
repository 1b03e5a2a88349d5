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

/* The damage is met by the put itself, whose payload no record names yet: the rebuild must not take it for an orphan. */
static void
a_put_that_meets_a_lost_slot_keeps_its_payload(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, LARGE));
    lose_slot(&tree, 1);
    CHECK(put_ok(disk, 1, 2, LARGE) && get_version(disk, 1, LARGE) == 2);
    CHECK(stats_of(disk).entries == 1 && stats_of(disk).payload_files == 1);
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

/* ---- a disk that fails and goes on failing ---- */

static pfo_disk *
open_durable(const fixture *tree, uint64_t max_bytes, pfo_durability durability)
{
    pfo_disk *disk = NULL;
    const pfo_disk_options options = {
        .directory = tree->root, .max_bytes = max_bytes, .policy = "lru", .durability = durability
    };
    REQUIRE(pfo_disk_open(&disk, &options, NULL) == PFO_OK);
    return disk;
}

/* One put over an old entry, failing from its n-th call on, for ever or once. What it said is what is found, then and after a rebuild. 1
 * when the put failed. */
static int
put_over_failure(long n, size_t length, pfo_durability durability, int for_ever)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_durable(&tree, ROOMY, durability);
    CHECK(put_ok(disk, 1, 1, length));
    if (for_ever) {
        pfo_files_fail_from(n, PFO_FAULT_IO);
    } else {
        pfo_files_fail_at(n, PFO_FAULT_IO);
    }
    const int failed = put_value(disk, 1, 2, length, 0, NULL) != PFO_OK;
    pfo_files_fail_at(0, PFO_FAULT_IO);
    CHECK(get_version(disk, 1, length) == (failed ? 1 : 2));
    disk = reopen_rebuilt(&tree, disk);
    CHECK(get_version(disk, 1, length) == (failed ? 1 : 2));
    CHECK(delete_value(disk, 1) == 1);
    disk = reopen_rebuilt(&tree, disk);
    CHECK(get_version(disk, 1, length) == -1 && stats_of(disk).corrupt == 0);
    pfo_disk_close(disk);
    fixture_delete(&tree);
    return failed;
}

static void
a_put_that_failed_does_not_come_back(void)
{
    int failures = 0;
    for (long n = 1; n < 30; n++) {
        failures += put_over_failure(n, SMALL, PFO_DURABLE_PROCESS, 1);
        failures += put_over_failure(n, SMALL, PFO_DURABLE_POWER, 0);
        failures += put_over_failure(n, LARGE, PFO_DURABLE_PROCESS, 1);
        failures += put_over_failure(n, LARGE, PFO_DURABLE_POWER, 0);
    }
    CHECK(failures > 20);
}

static void
compaction_syncs_a_segment_not_a_record(void)
{
    enum { MANY = 600 };
    fixture tree = fixture_new();
    pfo_disk *disk = open_durable(&tree, 2 << 20, PFO_DURABLE_POWER); /* segments of 32 KiB: about 190 records */
    int compactions = 0;
    for (unsigned i = 0; i < MANY; i++) {
        CHECK(put_ok(disk, i, 1, SMALL));
    }
    for (unsigned i = 0; i < MANY; i++) {
        if (i % 3 == 0) {
            continue;
        }
        const uint64_t garbage = stats_of(disk).garbage_bytes;
        const long before = pfo_files_synced();
        CHECK(delete_value(disk, i) == 1);
        CHECK(pfo_files_synced() - before <= 6);
        compactions += stats_of(disk).garbage_bytes < garbage;
    }
    CHECK(compactions >= 2);
    for (int rebuilt = 0; rebuilt < 2; rebuilt++) {
        for (unsigned i = 0; i < MANY; i++) {
            CHECK(get_version(disk, i, SMALL) == (i % 3 == 0 ? 1 : -1));
        }
        disk = reopen_rebuilt(&tree, disk);
    }
    CHECK(stats_of(disk).entries == MANY / 3);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

/* Deletes until a segment is copied away, with the n-th call failing in there: nothing is lost, and nothing is live twice. */
static void
a_compaction_that_fails_loses_nothing(void)
{
    enum { MANY = 300 };
    for (long n = 1; n < 400; n += n < 40 ? 1 : 17) {
        fixture tree = fixture_new();
        pfo_disk *disk = open_durable(&tree, 2 << 20, n % 2 == 0 ? PFO_DURABLE_POWER : PFO_DURABLE_PROCESS);
        for (unsigned i = 0; i < MANY; i++) {
            CHECK(put_ok(disk, i, 1, SMALL));
        }
        unsigned gone = 0;
        for (; gone < 90; gone++) {
            CHECK(delete_value(disk, gone) == 1);
        }
        pfo_files_fail_from(n, PFO_FAULT_FULL);
        for (; gone < 120; gone++) {
            int existed;
            const pfo_digest key = key_of(gone);
            (void)pfo_disk_delete(disk, &key, &existed, NULL);
        }
        pfo_files_fail_at(0, PFO_FAULT_FULL);
        for (unsigned i = gone; i < MANY; i++) {
            CHECK(get_version(disk, i, SMALL) == 1);
            if (i % 2 == 0) {
                CHECK(delete_value(disk, i) == 1);
            }
        }
        disk = reopen_rebuilt(&tree, disk);
        for (unsigned i = gone; i < MANY; i++) {
            CHECK(get_version(disk, i, SMALL) == (i % 2 == 0 ? -1 : 1));
        }
        CHECK(stats_of(disk).corrupt == 0);
        pfo_disk_close(disk);
        fixture_delete(&tree);
    }
}

/* ---- sectors that cannot be read ---- */

static uint64_t
inode_of(const fixture *tree, const char *name)
{
    char path[128];
    struct stat facts;
    path_of(tree, name, path);
    REQUIRE(stat(path, &facts) == 0);
    return (uint64_t)facts.st_ino;
}

static char found_path[128];

static int
find_payload(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    (void)place;
    if (kind == FTW_F && strstr(path, "/payloads/") != NULL) {
        (void)snprintf(found_path, sizeof found_path, "%s", path);
    }
    return 0;
}

/* Keys 0 to KEYS - 1 are small, KEYS is a file. */
static fixture
filled_directory(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(put_ok(disk, i, 1, 500));
    }
    CHECK(put_ok(disk, KEYS, 1, LARGE));
    pfo_disk_close(disk);
    return tree;
}

static unsigned
count_small(pfo_disk *disk)
{
    unsigned count = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        const int version = get_version(disk, i, 500);
        CHECK(version == 1 || version == -1);
        count += version == 1;
    }
    return count;
}

static void
check_healed(const fixture *tree, pfo_disk *disk)
{
    pfo_disk_report report;
    CHECK(pfo_disk_verify(disk, 1, &report, NULL) == PFO_OK);
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged == 0 && report.orphans == 0);
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(put_ok(disk, i, 2, 500) && get_version(disk, i, 500) == 2);
        CHECK(i % 2 == 0 || delete_value(disk, i) == 1);
    }
    pfo_files_unreadable(0, 0, 0); /* and when the sector can be read again, nothing comes back */
    disk = reopen_rebuilt(tree, disk);
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(get_version(disk, i, 500) == (i % 2 == 0 ? 2 : -1));
    }
    pfo_disk_close(disk);
}

/* A page in the middle of a segment, its first and its last one; met by a rebuild, or by reads of an open cache. */
static void
an_unreadable_page_of_a_segment_costs_its_entries_alone(void)
{
    for (int met = 0; met < 4; met++) {
        for (uint64_t page = 0; page < 7; page++) {
            fixture tree = filled_directory();
            const uint64_t inode = inode_of(&tree, "segments/00000001.seg");
            if (met == 0) {
                char path[128];
                path_of(&tree, "index", path);
                REQUIRE(unlink(path) == 0);
            }
            pfo_files_unreadable(inode, page * 4096, (page + 1) * 4096);
            pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
            if (met == 2) {
                pfo_disk_report report;
                CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged > 0);
                CHECK(pfo_disk_verify(disk, 1, &report, NULL) == PFO_OK && report.repaired > 0);
            }
            if (met == 3) {
                for (unsigned i = 0; i < KEYS; i += 2) {
                    int existed;
                    const pfo_digest key = key_of(i);
                    CHECK(pfo_disk_delete(disk, &key, &existed, NULL) == PFO_OK);
                    CHECK(get_version(disk, i, 500) == -1);
                }
            }
            const unsigned left = count_small(disk);
            CHECK(left < KEYS && left >= (met == 3 ? KEYS / 2 - 9 : KEYS - 9));
            CHECK(stats_of(disk).corrupt > 0);
            check_healed(&tree, disk);
            fixture_delete(&tree);
        }
    }
}

/* With every call failing once in the rebuild that meets it, the write that should heal the page among them. */
static void
a_page_that_cannot_be_healed_costs_its_segment(void)
{
    int given_up = 0;
    for (long n = 1; n < 60; n++) {
        fixture tree = filled_directory();
        pfo_disk *disk = NULL;
        char path[128];
        const pfo_disk_options options = { .directory = tree.root, .max_bytes = ROOMY, .policy = "lru" };
        const uint64_t inode = inode_of(&tree, "segments/00000001.seg");
        path_of(&tree, "index", path);
        REQUIRE(unlink(path) == 0);
        pfo_files_unreadable(inode, 8192, 12288);
        pfo_files_fail_at(n, PFO_FAULT_IO);
        (void)pfo_disk_open(&disk, &options, NULL);
        pfo_files_fail_at(0, PFO_FAULT_IO);
        if (disk == NULL) {
            disk = open_disk(&tree, ROOMY, "lru");
        }
        pfo_files_unreadable(0, 0, 0);
        given_up += count_small(disk) == 0;
        check_healed(&tree, disk);
        fixture_delete(&tree);
    }
    CHECK(given_up >= 1 && given_up < 20);
}

static void
a_whole_unreadable_segment_costs_its_entries_alone(void)
{
    fixture tree = filled_directory();
    char path[128];
    path_of(&tree, "index", path);
    REQUIRE(unlink(path) == 0);
    pfo_files_unreadable(inode_of(&tree, "segments/00000001.seg"), 0, 1 << 20);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    pfo_files_unreadable(0, 0, 0);
    CHECK(count_small(disk) == 0 && stats_of(disk).corrupt == 1 && stats_of(disk).entries == 0);
    CHECK(stats_of(disk).payload_files == 0);
    check_healed(&tree, disk);
    fixture_delete(&tree);
}

static void
an_unreadable_payload_is_a_miss(void)
{
    fixture tree = filled_directory();
    struct stat facts;
    REQUIRE(nftw(tree.root, find_payload, 16, FTW_PHYS) == 0 && stat(found_path, &facts) == 0);
    pfo_files_unreadable((uint64_t)facts.st_ino, 8192, 12288);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    pfo_disk_report report;
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged == 1);
    CHECK(get_version(disk, KEYS, LARGE) == -1 && stats_of(disk).corrupt == 2);
    CHECK(count_small(disk) == KEYS && stats_of(disk).payload_files == 0 && access(found_path, F_OK) != 0);
    pfo_files_unreadable(0, 0, 0);
    CHECK(put_ok(disk, KEYS, 2, LARGE) && get_version(disk, KEYS, LARGE) == 2);
    check_healed(&tree, disk);
    fixture_delete(&tree);
}

static void
an_unreadable_index_is_made_anew(void)
{
    for (uint64_t page = 0; page < 6; page++) {
        fixture tree = filled_directory();
        pfo_files_unreadable(inode_of(&tree, "index"), page * 4096, (page + 1) * 4096);
        pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
        pfo_files_unreadable(0, 0, 0);
        CHECK(count_small(disk) == KEYS && get_version(disk, KEYS, LARGE) == 1);
        check_healed(&tree, disk);
        fixture_delete(&tree);
    }
}

static void
an_unreadable_format_file_is_made_anew(void)
{
    fixture tree = filled_directory();
    pfo_files_unreadable(inode_of(&tree, "format"), 0, 4096);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    pfo_files_unreadable(0, 0, 0);
    CHECK(count_small(disk) == KEYS && get_version(disk, KEYS, LARGE) == 1);
    check_healed(&tree, disk);
    fixture_delete(&tree);
}

/* ---- a full disk ---- */

/* No file can be made or grow. */
static void
a_full_disk_can_be_cleared(void)
{
    for (int damage = 0; damage < 3; damage++) {
        fixture tree = filled_directory();
        pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
        if (damage == 1) {
            lose_slot(&tree, 3);
            pfo_files_refuse_room(1);
            CHECK(put_value(disk, 3, 2, 500, 0, NULL) == PFO_IO);
        } else if (damage == 2) {
            char path[128];
            path_of(&tree, "index", path);
            REQUIRE(truncate(path, 100) == 0);
        }
        pfo_files_refuse_room(1);
        CHECK(pfo_disk_clear(disk, NULL) == PFO_OK);
        CHECK(count_small(disk) == 0 && stats_of(disk).entries == 0 && directory_bytes(&tree) < 24 * 1024);
        pfo_files_refuse_room(0);
        CHECK(put_ok(disk, 1, 2, 500) && get_version(disk, 1, 500) == 2 && stats_of(disk).entries == 1);
        disk = reopen_rebuilt(&tree, disk);
        CHECK(get_version(disk, 1, 500) == 2 && get_version(disk, 2, 500) == -1);
        pfo_disk_close(disk);
        fixture_delete(&tree);
    }
}

int
main(void)
{
    RUN(nothing_comes_back_after_a_lost_slot);
    RUN(a_lost_slot_does_not_hide_its_entry_from_a_delete);
    RUN(a_put_that_meets_a_lost_slot_keeps_its_payload);
    RUN(nothing_comes_back_after_a_lost_page);
    RUN(nothing_comes_back_after_a_page_of_old_slots);
    RUN(a_growing_index_does_not_leave_a_lost_slot_behind);
    RUN(verify_finds_lost_slots_and_brings_their_entries_back);
    RUN(a_put_that_failed_does_not_come_back);
    RUN(compaction_syncs_a_segment_not_a_record);
    RUN(a_compaction_that_fails_loses_nothing);
    RUN(an_unreadable_page_of_a_segment_costs_its_entries_alone);
    RUN(a_page_that_cannot_be_healed_costs_its_segment);
    RUN(a_whole_unreadable_segment_costs_its_entries_alone);
    RUN(an_unreadable_payload_is_a_miss);
    RUN(an_unreadable_index_is_made_anew);
    RUN(an_unreadable_format_file_is_made_anew);
    RUN(a_full_disk_can_be_cleared);
    return FINISH();
}
