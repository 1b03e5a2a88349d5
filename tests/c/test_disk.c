/* test_disk.c: what the disk cache promises while nothing goes wrong: values, replacing, deleting, expiry, bounds, orders, listing. */
#include "cache/disk_files.h"
#include "cache/disk_journal.h"
#include "disk_fixture.h"

#include <errno.h>

static void
values_of_all_sizes_come_back(void)
{
    const size_t sizes[] = {
        0, 1, 7, 8, 9, 100, 4000, 32 * 1024 - 9, 32 * 1024 - 8, 32 * 1024 - 7, 40000, 262144 - 8, 262144, 1000003
    };
    const size_t count = sizeof sizes / sizeof sizes[0];
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (int round = 0; round < 3; round++) {
        for (unsigned i = 0; i < count; i++) {
            CHECK(put_ok(disk, i, (unsigned)round, sizes[i]));
        }
        for (unsigned i = 0; i < count; i++) {
            CHECK(get_version(disk, i, sizes[i]) == round);
            CHECK(get_version(disk, i, sizes[i]) == round);
        }
        pfo_disk_close(disk);
        disk = open_disk(&tree, ROOMY, "lru");
        for (unsigned i = 0; i < count; i++) {
            CHECK(get_version(disk, i, sizes[i]) == round);
        }
    }
    const pfo_disk_stats stats = stats_of(disk);
    CHECK(stats.entries == count);
    CHECK(stats.payload_files == 6);
    CHECK(stats.corrupt == 0);
    CHECK((long long)stats.bytes >= directory_bytes(&tree));
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static uint64_t clock_ns = 1700000000000000000U;

static uint64_t
moved_clock(void)
{
    return clock_ns;
}

static pfo_disk *
open_clocked(const fixture *tree)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_disk *disk = NULL;
    const pfo_disk_options options = {
        .directory = tree->root, .max_bytes = ROOMY, .policy = "lru", .now_ns = moved_clock
    };
    REQUIRE(pfo_disk_open(&disk, &options, &err) == PFO_OK);
    return disk;
}

static int
delete_key(pfo_disk *disk, unsigned number)
{
    pfo_error err = PFO_ERROR_INIT;
    int existed = -1;
    const pfo_digest key = key_of(number);
    CHECK(pfo_disk_delete(disk, &key, &existed, &err) == PFO_OK);
    return existed;
}

static void
deleted_entries_stay_away(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, 100) && put_ok(disk, 1, 2, 100) && put_ok(disk, 2, 1, 50000) && put_ok(disk, 3, 1, 100));
    CHECK(delete_key(disk, 1) == 1 && delete_key(disk, 1) == 0 && delete_key(disk, 2) == 1 && delete_key(disk, 4) == 0);
    for (int round = 0; round < 2; round++) {
        CHECK(get_version(disk, 1, 100) == -1 && get_version(disk, 2, 50000) == -1 && get_version(disk, 3, 100) == 1);
        CHECK(stats_of(disk).entries == 1 && stats_of(disk).payload_files == 0);
        pfo_disk_close(disk);
        char index[128];
        (void)snprintf(index, sizeof index, "%s/index", tree.root);
        CHECK(round != 0 || unlink(index) == 0); /* the segments alone say the same */
        disk = open_disk(&tree, ROOMY, "lru");
    }
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_disk_clear(disk, &err) == PFO_OK);
    CHECK(get_version(disk, 3, 100) == -1 && stats_of(disk).entries == 0);
    CHECK(put_ok(disk, 3, 2, 100) && get_version(disk, 3, 100) == 2);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
promises_run_out_and_can_be_renewed(void)
{
    const uint64_t second = 1000000000U;
    fixture tree = fixture_new();
    pfo_disk *disk = open_clocked(&tree);
    pfo_error err = PFO_ERROR_INIT;
    for (unsigned i = 0; i < 4; i++) {
        CHECK(put_value(disk, i, 1, i == 1 ? 50000 : 100, clock_ns + 10 * second, &err) == PFO_OK);
    }
    CHECK(put_ok(disk, 9, 1, 100));
    const pfo_digest key[] = { key_of(0), key_of(1), key_of(7) };
    int existed = 0;
    CHECK(pfo_disk_touch(disk, &key[0], clock_ns + 30 * second, &existed, &err) == PFO_OK && existed);
    CHECK(pfo_disk_touch(disk, &key[1], 0, &existed, &err) == PFO_OK && existed);
    CHECK(pfo_disk_touch(disk, &key[2], 0, &existed, &err) == PFO_OK && !existed);
    clock_ns += 10 * second;
    CHECK(get_version(disk, 0, 100) == 1 && get_version(disk, 1, 50000) == 1 && get_version(disk, 9, 100) == 1);
    CHECK(get_version(disk, 2, 100) == -1 && stats_of(disk).expirations == 1 && stats_of(disk).entries == 4);
    uint64_t removed = 0;
    CHECK(pfo_disk_expire(disk, &removed, &err) == PFO_OK && removed == 1 && stats_of(disk).entries == 3);
    pfo_disk_close(disk);
    disk = open_clocked(&tree);
    CHECK(get_version(disk, 0, 100) == 1 && get_version(disk, 1, 50000) == 1);
    pfo_disk_value value;
    CHECK(pfo_disk_get(disk, &key[0], 0, &value, &err) == PFO_OK && value.expires_ns == clock_ns + 20 * second);
    CHECK(value.stored_ns == (clock_ns - 10 * second) / second * second); /* touched then */
    pfo_disk_release(&value);
    clock_ns -= 3600 * second; /* the clock is set back: never fresh for longer than promised */
    CHECK(get_version(disk, 0, 100) == -1 && get_version(disk, 1, 50000) == 1 && get_version(disk, 9, 100) == 1);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
writable_values_are_private(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, 50000) && put_ok(disk, 2, 1, 100));
    for (unsigned i = 1; i <= 2; i++) {
        const pfo_digest key = key_of(i);
        pfo_disk_value value;
        CHECK(pfo_disk_get(disk, &key, 1, &value, NULL) == PFO_OK && value.found);
        *(unsigned char *)(uintptr_t)value.data ^= 0xff;
        CHECK(get_version(disk, i, i == 1 ? 50000 : 100) == 1);
        pfo_disk_release(&value);
    }
    const pfo_digest key = key_of(1);
    pfo_disk_value value;
    CHECK(pfo_disk_get(disk, &key, 0, &value, NULL) == PFO_OK && value.found && value.length == 50008);
    CHECK(delete_key(disk, 1) == 1);
    pfo_disk_close(disk);
    CHECK(*(const unsigned char *)value.data == 1); /* it outlives entry and handle */
    pfo_disk_release(&value);
    fixture_delete(&tree);
}

static void
the_bound_holds(void)
{
    const char *const policies[] = { "lru", "fifo", "sieve", "s3fifo", "wtinylfu", "auto" };
    const uint64_t bounds[] = { 64 * 1024, 300 * 1024, 2 << 20 };
    for (size_t p = 0; p < sizeof policies / sizeof policies[0]; p++) {
        for (size_t b = 0; b < sizeof bounds / sizeof bounds[0]; b++) {
            fixture tree = fixture_new();
            pfo_disk *disk = open_disk(&tree, bounds[b], policies[p]);
            unsigned long long state = p * 10 + b + 1;
            for (unsigned i = 0; i < 1500; i++) {
                const unsigned number = (unsigned)(check_random(&state) % 600);
                const size_t length = number % 20 == 0 ? 33000 + number : number % 5 * 200;
                CHECK(put_ok(disk, number, i, length) || length > 20000);
                CHECK(length > 20000 || get_version(disk, number, length) == (int)i);
                if (i % 50 == 0) {
                    CHECK(directory_bytes(&tree) <= (long long)bounds[b]);
                    CHECK(directory_bytes(&tree) <= (long long)stats_of(disk).bytes);
                    CHECK(stats_of(disk).bytes <= bounds[b]);
                }
            }
            CHECK((stats_of(disk).evictions > 0) == (b < 2) && stats_of(disk).corrupt == 0);
            CHECK(stats_of(disk).entries > (b == 2 ? 100 : b == 1 ? 20 : 2));
            CHECK(!put_ok(disk, 7, 7, bounds[b]) && stats_of(disk).rejects > 0);
            pfo_disk_close(disk);
            fixture_delete(&tree);
        }
    }
}

/* A policy's first victim among ten files, of which those in `read` were got again, in that order. */
static int
first_to_leave(const char *policy, const unsigned *read, size_t count)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, 600 * 1024, policy);
    for (unsigned i = 0; i < 10; i++) {
        CHECK(put_ok(disk, i, 1, 40000));
    }
    for (size_t i = 0; i < count; i++) {
        CHECK(get_version(disk, read[i], 40000) == 1);
    }
    for (unsigned i = 10; stats_of(disk).evictions == 0 && i < 30; i++) {
        CHECK(put_ok(disk, i, 1, 40000));
    }
    int gone = -1;
    CHECK(stats_of(disk).evictions == 1);
    for (unsigned i = 0; i < 10; i++) {
        if (get_version(disk, i, 40000) == -1) {
            gone = (int)i;
        }
    }
    pfo_disk_close(disk);
    fixture_delete(&tree);
    return gone;
}

static void
policies_order_the_leaving(void)
{
    const unsigned first[] = { 0, 1, 0 };
    const unsigned all[] = { 9, 8, 7, 6, 5, 4, 3, 2, 1, 0 };
    CHECK(first_to_leave("lru", first, 3) == 2);
    CHECK(first_to_leave("lru", all, 10) == 9);
    CHECK(first_to_leave("fifo", first, 3) == 0);
    CHECK(first_to_leave("sieve", first, 3) == 2);
    CHECK(first_to_leave("s3fifo", first, 3) == 2);
    CHECK(first_to_leave("wtinylfu", first, 3) == 2);
    CHECK(first_to_leave("auto", first, 3) == 2);
}

static void
many_entries_grow_the_index_and_garbage_goes(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    pfo_disk *other = open_disk(&tree, ROOMY, "lru"); /* sees it grow */
    for (unsigned i = 0; i < 5000; i++) {
        CHECK(put_ok(i % 2 == 0 ? disk : other, i, 1, 100));
    }
    for (unsigned round = 2; round < 20; round++) {
        for (unsigned i = 0; i < 5000; i += 2) {
            CHECK(put_ok(disk, i, round, 100));
        }
    }
    for (unsigned i = 0; i < 5000; i++) {
        CHECK(get_version(i % 3 == 0 ? disk : other, i, 100) == (i % 2 == 0 ? 19 : 1));
    }
    const pfo_disk_stats stats = stats_of(other);
    CHECK(stats.entries == 5000);
    CHECK(stats.garbage_bytes < 5000 * 208 + 2 * (1 << 20));
    pfo_disk_report report;
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK);
    CHECK(report.checked == 5000 && report.damaged == 0 && report.orphans == 0);
    pfo_disk_close(other);
    pfo_disk_close(disk);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/index", tree.root);
    CHECK(unlink(path) == 0);
    disk = open_disk(&tree, ROOMY, "lru"); /* a rebuild says the same */
    const pfo_disk_stats rebuilt = stats_of(disk);
    CHECK(rebuilt.entries == stats.entries && rebuilt.garbage_bytes <= stats.garbage_bytes && rebuilt.corrupt == 0);
    for (unsigned i = 0; i < 5000; i++) {
        CHECK(get_version(disk, i, 100) == (i % 2 == 0 ? 19 : 1));
    }
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
entries_are_listed_with_their_labels(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (unsigned i = 0; i < 300; i++) {
        CHECK(put_ok(disk, i, 1, i == 5 ? 50000 : 10));
    }
    uint64_t cursor = 0;
    pfo_disk_entry entry;
    int more = 0;
    int seen = 0;
    int files = 0;
    while (pfo_disk_next(disk, &cursor, &entry, &more, NULL) == PFO_OK && more) {
        CHECK(strcmp(entry.label, "a label") == 0 && strcmp(entry.kind, "bytes") == 0 && !entry.is_compressed);
        CHECK(entry.payload_bytes == (entry.is_file ? 50008 : 18) && entry.bytes > entry.payload_bytes);
        CHECK(entry.stored_ns > 1600000000000000000U && entry.expires_ns == 0);
        seen++;
        files += entry.is_file;
    }
    CHECK(seen == 300 && files == 1);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
compressed_values_come_back(void)
{
    const pfo_compression choices[] = { PFO_COMPRESS_AUTO, PFO_COMPRESS_ALWAYS };
    enum { COUNT = 200000 };
    static int numbers[COUNT];
    for (int i = 0; i < COUNT; i++) {
        numbers[i] = i / 3;
    }
    for (size_t c = 0; c < 2; c++) {
        fixture tree = fixture_new();
        pfo_disk *disk = NULL;
        const pfo_disk_options options = {
            .directory = tree.root, .max_bytes = ROOMY, .policy = "lru", .compression = choices[c]
        };
        REQUIRE(pfo_disk_open(&disk, &options, NULL) == PFO_OK);
        for (unsigned count = 1; count <= COUNT; count = count * 3 + 1) {
            const pfo_bytes part = { numbers, count * sizeof numbers[0] };
            const pfo_disk_record record = {
                .kind = "i4", .suffix = ".npy", .parts = &part, .part_count = 1, .item_bytes = 4
            };
            const pfo_digest key = key_of(count);
            int stored = 0;
            CHECK(pfo_disk_put(disk, &key, &record, &stored, NULL) == PFO_OK && stored);
            for (int again = 0; again < 2; again++) {
                pfo_disk_value value;
                CHECK(pfo_disk_get(disk, &key, 0, &value, NULL) == PFO_OK && value.found);
                CHECK(value.length == part.length && memcmp(value.data, numbers, part.length) == 0);
                pfo_disk_release(&value);
            }
        }
        CHECK(stats_of(disk).bytes < 250000);
        CHECK(put_ok(disk, 1000001, 1, 100000)); /* noise: AUTO leaves it a map, ALWAYS finds that it does not shrink */
        CHECK(get_version(disk, 1000001, 100000) == 1);
        pfo_disk_close(disk);
        fixture_delete(&tree);
    }
}

static void
bad_options_are_refused(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = NULL;
    pfo_error err = PFO_ERROR_INIT;
    pfo_disk_options options = { .directory = tree.root, .max_bytes = 1000, .policy = "lru" };
    CHECK(pfo_disk_open(&disk, &options, &err) == PFO_BAD_ARGUMENT && strstr(err.text, "max_disk_bytes") != NULL);
    options.max_bytes = ROOMY;
    options.policy = "random";
    err = (pfo_error)PFO_ERROR_INIT;
    CHECK(pfo_disk_open(&disk, &options, &err) == PFO_BAD_ARGUMENT && strstr(err.text, "sieve") != NULL);
    options.policy = "lru";
    options.must_exist = 1;
    err = (pfo_error)PFO_ERROR_INIT;
    CHECK(pfo_disk_open(&disk, &options, &err) == PFO_UNAVAILABLE && disk == NULL);
    options.must_exist = 0;
    REQUIRE(pfo_disk_open(&disk, &options, NULL) == PFO_OK);
    const pfo_bytes part = { "x", 1 };
    const pfo_disk_record record = { .kind = "k", .suffix = "/../x", .parts = &part, .part_count = 1 };
    const pfo_digest key = key_of(1);
    int stored;
    err = (pfo_error)PFO_ERROR_INIT;
    CHECK(pfo_disk_put(disk, &key, &record, &stored, &err) == PFO_BAD_ARGUMENT);
    pfo_disk_close(disk);
    options.must_exist = 1;
    CHECK(pfo_disk_open(&disk, &options, NULL) == PFO_OK);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static const char *copy_target;

static int
copy_one(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    (void)place;
    char name[256];
    (void)snprintf(name, sizeof name, "%s%s", copy_target, path + strlen("tests/data/disk-v1"));
    if (kind == FTW_D) {
        return mkdir(name, 0700) != 0 && errno != EEXIST;
    }
    static unsigned char data[64 * 1024];
    const int from = open(path, O_RDONLY);
    const int to = open(name, O_RDWR | O_CREAT, 0600);
    const ssize_t length = read(from, data, sizeof data);
    return length < 0 || write(to, data, (size_t)length) != length || close(from) != 0 || close(to) != 0;
}

/* What version 1 of the format wrote once; made on a little-endian machine. */
static void
the_golden_directory_is_read(void)
{
    fixture tree = fixture_new();
    copy_target = tree.root;
    REQUIRE(nftw("tests/data/disk-v1", copy_one, 16, FTW_PHYS) == 0);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(stats_of(disk).entries == 5 && stats_of(disk).corrupt == 0 && stats_of(disk).payload_files == 1);
    for (unsigned i = 0; i < 4; i++) {
        CHECK(get_version(disk, i, i == 3 ? 33000 : 50 * i) == (i == 0 ? 2 : 1));
    }
    pfo_disk_value value;
    const pfo_digest key = key_of(4);
    CHECK(pfo_disk_get(disk, &key, 0, &value, NULL) == PFO_OK && value.found && strcmp(value.kind, "i4") == 0);
    for (int i = 0; i < 3000 && value.length == 12000; i++) {
        int number;
        (void)memcpy(&number, (const char *)value.data + 4 * i, 4);
        CHECK(number == i);
    }
    pfo_disk_release(&value);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
a_smaller_bound_holds_from_the_opening_on(void)
{
    static const char *const policies[] = { "lru", "fifo", "sieve", "s3fifo", "wtinylfu" };
    for (size_t p = 0; p < sizeof policies / sizeof policies[0]; p++) {
        fixture tree = fixture_new();
        pfo_disk *disk = open_disk(&tree, ROOMY, policies[p]);
        for (unsigned i = 0; i < 3000; i++) {
            CHECK(put_ok(disk, i, 1, i % 500 == 7 ? 40000 : 300));
        }
        pfo_disk_close(disk);
        for (uint64_t bound = 1 << 20; bound >= 64 << 10; bound /= 4) {
            disk = open_disk(&tree, bound, policies[p]);
            CHECK(stats_of(disk).bytes <= bound && directory_bytes(&tree) <= (long long)bound);
            CHECK(stats_of(disk).bytes > bound / 4 && stats_of(disk).evictions > 0);
            CHECK(p > 1 || get_version(disk, 2999, 300) == 1); /* the youngest */
            CHECK(get_version(disk, 0, 300) == -1 || p > 1);
            pfo_disk_report report;
            CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged == 0 && report.orphans == 0);
            pfo_disk_close(disk);
        }
        fixture_delete(&tree);
    }
}

/* ---- cancelled ---- */

static atomic_int cancelled;
static int steps_left; /* of the journal, until somebody cancels */

static void
cancel_at_step(void)
{
    if (--steps_left == 0) {
        atomic_store(&cancelled, 1);
    }
}

/* Puts a version under key 0 that is cancelled at that step, not at all for -1. 1 when it was stored. */
static int
put_and_cancel(pfo_disk *disk, size_t length, int step)
{
    pfo_error err = PFO_ERROR_INIT;
    unsigned char data[40000] = { 2 };
    const pfo_bytes part = { data, length };
    const pfo_disk_record record = {
        .kind = "bytes", .suffix = ".bin", .parts = &part, .part_count = 1, .cancelled = &cancelled
    };
    const pfo_digest key = key_of(0);
    int stored = -1;
    atomic_store(&cancelled, step == 0);
    steps_left = step;
    pfo_journal_watch(cancel_at_step);
    CHECK(pfo_disk_put(disk, &key, &record, &stored, &err) == PFO_OK);
    pfo_journal_watch(NULL);
    return stored;
}

static int
has_entry(pfo_disk *disk, unsigned number)
{
    pfo_disk_value value;
    const pfo_digest key = key_of(number);
    CHECK(pfo_disk_get(disk, &key, 0, &value, NULL) == PFO_OK);
    const int found = value.found;
    pfo_disk_release(&value);
    return found;
}

static void
what_is_cancelled_while_it_is_put_is_not_there(void)
{
    const size_t lengths[] = { 100, 40000 };
    for (int with_old = 0; with_old < 2; with_old++) {
        for (size_t i = 0; i < 2; i++) {
            int taken_back = 0;
            atomic_store(&cancelled, 1);
            for (int step = 0; atomic_load(&cancelled); step++) { /* until it is cancelled after the last one */
                fixture tree = fixture_new();
                pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
                REQUIRE(step < 100);
                CHECK(put_ok(disk, 1, 1, lengths[i]) && (!with_old || put_ok(disk, 0, 1, lengths[1 - i])));
                const int stored = put_and_cancel(disk, lengths[i], step);
                const int is_there = has_entry(disk, 0);
                CHECK(stored ? step > 0 : atomic_load(&cancelled));
                if (!stored && is_there) { /* cancelled before its turn to write */
                    CHECK(with_old && get_version(disk, 0, lengths[1 - i]) == 1);
                }
                CHECK(!stored || is_there);
                taken_back += !stored && !is_there;
                CHECK(get_version(disk, 1, lengths[i]) == 1);
                pfo_disk_report report;
                CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged + report.orphans == 0);
                const pfo_disk_stats stats = stats_of(disk);
                CHECK(stats.rejects == 0 && stats.write_failures == 0 && stats.corrupt == 0);
                CHECK(stats.entries == 1U + (unsigned)is_there);
                pfo_disk_close(disk);
                fixture_delete(&tree);
            }
            CHECK(taken_back >= 3);
        }
    }
}

static void
a_cancelled_delete_deletes_nothing(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    const pfo_digest key = key_of(0);
    int existed = -1;
    CHECK(put_ok(disk, 0, 1, 100));
    atomic_store(&cancelled, 1);
    CHECK(pfo_disk_delete_unless(disk, &key, &cancelled, &existed, NULL) == PFO_OK && existed == 0);
    CHECK(get_version(disk, 0, 100) == 1);
    atomic_store(&cancelled, 0);
    CHECK(pfo_disk_delete_unless(disk, &key, &cancelled, &existed, NULL) == PFO_OK && existed == 1);
    CHECK(!has_entry(disk, 0));
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

/* As on a memory file system under a profiler's timer, where room is never found in one go. */
static void
an_index_is_made_while_signals_come(void)
{
    fixture tree = fixture_new();
    pfo_files_refuse_reserving(EINTR);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (unsigned i = 0; i < 1000; i++) { /* it grows */
        CHECK(put_ok(disk, i, 1, 20));
    }
    pfo_files_refuse_reserving(0);
    for (unsigned i = 0; i < 1000; i++) {
        CHECK(get_version(disk, i, 20) == 1);
    }
    struct stat facts;
    char path[128];
    (void)snprintf(path, sizeof path, "%s/index", tree.root);
    CHECK(stat(path, &facts) == 0 && facts.st_blocks * 512 >= facts.st_size);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

int
main(void)
{
    RUN(what_is_cancelled_while_it_is_put_is_not_there);
    RUN(a_cancelled_delete_deletes_nothing);
    RUN(an_index_is_made_while_signals_come);
    RUN(values_of_all_sizes_come_back);
    RUN(deleted_entries_stay_away);
    RUN(promises_run_out_and_can_be_renewed);
    RUN(writable_values_are_private);
    RUN(the_bound_holds);
    RUN(policies_order_the_leaving);
    RUN(many_entries_grow_the_index_and_garbage_goes);
    RUN(entries_are_listed_with_their_labels);
    RUN(compressed_values_come_back);
    RUN(bad_options_are_refused);
    RUN(the_golden_directory_is_read);
    RUN(a_smaller_bound_holds_from_the_opening_on);
    return FINISH();
}
