/* test_disk_payload.c: payload files as they are written: in units, by two threads, with their room reserved first.
 */
#include "cache/disk_files.h"
#include "cache/disk_payload.h"
#include "disk_fixture.h"

#include <errno.h>

enum { UNIT = 8 * PFO_FINGERPRINT_CHUNK, ENOUGH = 6 * UNIT };

/* A value as parts that end nowhere near the ends of units or chunks. */
static size_t
cut(const unsigned char *data, size_t length, pfo_bytes *parts, size_t most)
{
    size_t count = 0;
    size_t share = 1;
    for (size_t done = 0; done < length; done += parts[count - 1].length) {
        const size_t left = length - done;
        const size_t taken = share < left && count + 1 < most ? share : left;
        parts[count++] = (pfo_bytes){ data + done, taken };
        share = share * 3 + 17;
    }
    return count;
}

static pfo_status
put_cut(pfo_disk *disk, const unsigned char *data, size_t length, pfo_error *err)
{
    pfo_bytes parts[40];
    const pfo_digest key = key_of(1);
    int stored;
    pfo_disk_record record = { .kind = "bytes", .suffix = ".bin", .parts = parts };
    record.part_count = cut(data, length, parts, 40);
    return pfo_disk_put(disk, &key, &record, &stored, err);
}

/* Through a handle that has not met the file, so that all of it is checked. */
static int
is_there(const fixture *tree, const unsigned char *data, size_t length)
{
    pfo_disk *disk = open_disk(tree, 4 * ROOMY, "lru");
    pfo_disk_value value;
    const pfo_digest key = key_of(1);
    REQUIRE(pfo_disk_get(disk, &key, 0, &value, NULL) == PFO_OK);
    const int same = value.found && value.length == length && memcmp(value.data, data, length) == 0;
    pfo_disk_release(&value);
    CHECK(stats_of(disk).corrupt == 0);
    pfo_disk_close(disk);
    return same;
}

static unsigned char *
new_data(size_t length, unsigned version)
{
    unsigned char *data = malloc(length);
    REQUIRE(data != NULL);
    fill_value(1, version, data, length);
    return data;
}

static void
files_of_many_units_come_back(void)
{
    const size_t sizes[] = { PFO_FINGERPRINT_CHUNK, PFO_FINGERPRINT_CHUNK + 1, UNIT - 1,         UNIT,  UNIT + 1,
                             4 * (size_t)UNIT - 1,  4 * (size_t)UNIT,          5 * UNIT + 12345, ENOUGH };
    unsigned char *data = new_data(ENOUGH, 1);
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, 4 * ROOMY, "lru");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        CHECK(put_cut(disk, data, sizes[i], NULL) == PFO_OK);
        CHECK(is_there(&tree, data, sizes[i]));
    }
    CHECK(stats_of(disk).payload_files == 1);
    pfo_disk_close(disk);
    fixture_delete(&tree);
    free(data);
}

/* Whatever call fails, in whichever thread: the old value is there, or the new one, and nothing else. */
static void
a_failing_call_leaves_the_old_file(void)
{
    unsigned char *before = new_data(ENOUGH, 1);
    unsigned char *after = new_data(ENOUGH, 2);
    for (int fault = PFO_FAULT_IO; fault <= PFO_FAULT_SHORT; fault++) {
        int failures = 0;
        for (long n = 1; n <= 20; n += 1 + (n > 12) * 3) {
            fixture tree = fixture_new();
            pfo_disk *disk = open_disk(&tree, 4 * ROOMY, "lru");
            pfo_error err = PFO_ERROR_INIT;
            REQUIRE(put_cut(disk, before, ENOUGH, &err) == PFO_OK);
            pfo_files_fail_at(n, (pfo_fault)fault);
            const pfo_status status = put_cut(disk, after, ENOUGH, &err);
            pfo_files_fail_at(0, PFO_FAULT_IO);
            failures += status != PFO_OK;
            CHECK(status == PFO_OK || status == PFO_IO);
            CHECK(is_there(&tree, status == PFO_OK ? after : before, ENOUGH));
            CHECK(put_cut(disk, after, ENOUGH, &err) == PFO_OK);
            CHECK(is_there(&tree, after, ENOUGH));
            CHECK(stats_of(disk).payload_files == 1);
            pfo_disk_close(disk);
            fixture_delete(&tree);
        }
        CHECK(failures >= 5);
    }
    free(before);
    free(after);
}

/* ZFS over NFS, FUSE and others reserve nothing, and tmpfs gives up for a signal: the value is written all the same. */
static void
a_file_system_that_cannot_reserve_will_do(void)
{
    static const int answers[] = { EOPNOTSUPP, ENOSYS, EINTR };
    unsigned char *data = new_data(ENOUGH, 1);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        fixture tree = fixture_new();
        pfo_disk *disk = open_disk(&tree, 4 * ROOMY, "lru");
        pfo_files_refuse_reserving(answers[i]);
        CHECK(put_cut(disk, data, ENOUGH - 1, NULL) == PFO_OK);
        pfo_files_refuse_reserving(0);
        CHECK(is_there(&tree, data, ENOUGH - 1));
        pfo_disk_close(disk);
        fixture_delete(&tree);
    }
    free(data);
}

int
main(void)
{
    RUN(files_of_many_units_come_back);
    RUN(a_failing_call_leaves_the_old_file);
    RUN(a_file_system_that_cannot_reserve_will_do);
    return FINISH();
}
