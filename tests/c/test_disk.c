/* test_disk.c: what the disk cache promises while nothing goes wrong: values, replacing, deleting, expiry, bounds, orders, listing. */
#include "disk_fixture.h"

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

int
main(void)
{
    RUN(values_of_all_sizes_come_back);
    return FINISH();
}
