/* test_disk_hostile.c: what other programs do to a directory while it is open: files cut short, replaced, or of a kind that nobody
 * expects there. Nothing of it is a crash, an error of get, or the loss of what is put afterwards. */
#include "cache/disk_files.h"
#include "disk_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { LARGE = 33000, OPERATIONS = 9 };

static void
path_of(const fixture *tree, const char *name, char path[128])
{
    (void)snprintf(path, 128, "%s/%s", tree->root, name);
}

static off_t
size_of(const char *path)
{
    struct stat facts;
    REQUIRE(stat(path, &facts) == 0);
    return facts.st_size;
}

static long
count_in(const char *folder, const char *part)
{
    long count = 0;
    char target[256];
    DIR *names = opendir(folder);
    REQUIRE(names != NULL);
    for (const struct dirent *one = readdir(names); one != NULL; one = readdir(names)) {
        const ssize_t length = readlinkat(dirfd(names), one->d_name, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = '\0';
        count += strstr(target, part) != NULL;
    }
    REQUIRE(closedir(names) == 0);
    return count;
}

/* Any public function may be the first to meet what was done. */
static void
do_one(pfo_disk *disk, unsigned which)
{
    const pfo_digest key = key_of(1);
    pfo_disk_report report;
    pfo_disk_entry entry;
    uint64_t cursor = 0;
    int flag;
    switch (which % OPERATIONS) {
    case 0:
        CHECK(get_version(disk, 1, 100) == 1);
        break;
    case 1:
        CHECK(put_ok(disk, 3, 1, 100));
        break;
    case 2:
        CHECK(put_ok(disk, 2, 1, LARGE));
        break;
    case 3:
        CHECK(pfo_disk_touch(disk, &key, 0, &flag, NULL) == PFO_OK && flag);
        break;
    case 4:
        CHECK(pfo_disk_next(disk, &cursor, &entry, &flag, NULL) == PFO_OK);
        break;
    case 5:
        CHECK(pfo_disk_verify(disk, (int)which & 1, &report, NULL) == PFO_OK && report.damaged == 0);
        break;
    case 6:
        CHECK(get_version(disk, 2, LARGE) == 1);
        break;
    case 7:
        CHECK(stats_of(disk).max_bytes == ROOMY);
        break;
    default:
        CHECK(get_version(disk, 9, 1) == -1); /* never put */
    }
}

static void
an_index_cut_short_while_open_is_made_anew(void)
{
    fixture tree = fixture_new();
    char path[128];
    path_of(&tree, "index", path);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    pfo_disk *other = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, 100) && put_ok(disk, 2, 1, LARGE));
    const off_t size = size_of(path);
    for (off_t length = 0; length < size; length += length % 4096 < 3 || length % 4096 > 4092 ? 1 : 67) {
        CHECK(truncate(path, length) == 0);
        do_one(length % 2 == 0 ? disk : other, (unsigned)length);
        CHECK(length % 16 != 0 || (get_version(disk, 1, 100) == 1 && get_version(other, 2, LARGE) == 1));
        CHECK(get_version(disk, 1, 100) == 1 && size_of(path) == size);
    }
    pfo_disk_close(other);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
a_segment_cut_short_while_open_is_misses(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (unsigned length = 0; length < 800; length++) {
        char path[128];
        unsigned found = 0;
        CHECK(pfo_disk_clear(disk, NULL) == PFO_OK);
        for (unsigned i = 0; i < 4; i++) {
            CHECK(put_ok(disk, i, 1, 100) && get_version(disk, i, 100) == 1);
        }
        for (unsigned number = length + 1; number < length * 3 + 8; number++) {
            char name[64];
            (void)snprintf(name, sizeof name, "segments/%08x.seg", number);
            path_of(&tree, name, path);
            if (access(path, F_OK) == 0) {
                CHECK(truncate(path, (off_t)length) == 0);
                found++;
            }
        }
        CHECK(found == 1);
        if (length % 2 == 0) {
            CHECK(put_ok(disk, 7, 1, 100)); /* not behind a hole */
        }
        for (unsigned i = 0; i < 4; i++) {
            const int version = get_version(disk, i, 100);
            CHECK(length < 211 * (i + 1) ? version == -1 : version == 1 || length < 216 * (i + 1));
        }
        CHECK(put_ok(disk, 2, 2, 100) && get_version(disk, 2, 100) == 2);
        CHECK(length % 2 != 0 || get_version(disk, 7, 100) == 1);
    }
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

/* Damage to the row of the active segment, which every put needs. */
static void
a_damaged_row_loses_no_put(void)
{
    fixture tree = fixture_new();
    char path[128];
    path_of(&tree, "index", path);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, 100) && put_ok(disk, 2, 1, LARGE));
    const int file = open(path, O_RDWR);
    const off_t rows = 4096 + 256 * 64;
    unsigned char bytes[24];
    off_t at = rows;
    while (pread(file, bytes, 24, at) == 24 && bytes[0] == 0) {
        at += 24;
    }
    CHECK(at < rows + 64 * 24 && close(file) == 0);
    for (unsigned i = 0; i < 24 * OPERATIONS; i++) {
        const int index = open(path, O_RDWR);
        const unsigned segments = (unsigned)stats_of(disk).segments;
        unsigned char byte;
        CHECK(segments >= 1);
        for (off_t row = rows; row < rows + 64 * 24; row += 24) { /* of every segment */
            const off_t place = row + (off_t)(i / OPERATIONS);
            if (pread(index, bytes, 24, row) == 24 && memcmp(bytes, "\0\0\0\0", 4) != 0) {
                byte = bytes[i / OPERATIONS] ^ (unsigned char)(1U << i % 8);
                CHECK(pwrite(index, &byte, 1, place) == 1);
            }
        }
        CHECK(close(index) == 0);
        do_one(disk, i);
        CHECK(put_ok(disk, 4, i % 100, 100) && get_version(disk, 4, 100) == (int)(i % 100));
        CHECK(get_version(disk, 1, 100) == 1 && get_version(disk, 2, LARGE) == 1);
    }
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
replaced_indexes_are_let_go(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    pfo_disk *other = open_disk(&tree, ROOMY, "lru");
    for (unsigned i = 0; i < 300; i++) {
        CHECK(pfo_disk_clear(disk, NULL) == PFO_OK);
        CHECK(put_ok(disk, 1, 1, 100) && get_version(other, 1, 100) == 1 && get_version(disk, 1, 100) == 1);
    }
    CHECK(count_in("/proc/self/map_files", tree.root) <= 4 && count_in("/proc/self/fd", tree.root) < 20);
    pfo_disk_close(other);
    pfo_disk_close(disk);
    CHECK(count_in("/proc/self/map_files", tree.root) == 0 && count_in("/proc/self/fd", tree.root) == 0);
    fixture_delete(&tree);
}

/* A process that has run out of descriptors: it misses, and destroys nothing. */
static void
missing_descriptors_lose_no_entry(void)
{
    fixture tree = fixture_new();
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, 100) && put_ok(disk, 2, 1, LARGE));
    pfo_disk_close(disk);
    disk = open_disk(&tree, ROOMY, "lru");
    const struct rlimit tight = { .rlim_cur = 0, .rlim_max = limit.rlim_max };
    for (int round = 0; round < 3; round++) {
        pfo_disk_report report;
        char path[128];
        REQUIRE(setrlimit(RLIMIT_NOFILE, &tight) == 0);
        CHECK(get_version(disk, 1, 100) == (round == 2 ? 1 : -1) &&
              get_version(disk, 2, LARGE) == (round == 2 ? 1 : -1));
        CHECK(round == 2 || put_value(disk, 3, 1, LARGE, 0, NULL) == PFO_IO);
        CHECK(round == 2 || pfo_disk_verify(disk, 1, &report, NULL) != PFO_OK);
        REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        CHECK(round != 0 || (stats_of(disk).corrupt == 0 && stats_of(disk).entries == 2));
        CHECK(round == 0 || (get_version(disk, 1, 100) == 1 && get_version(disk, 2, LARGE) == 1));
        path_of(&tree, "index", path);
        CHECK(round != 0 || truncate(path, 5) == 0); /* in the second round there is a rebuild to do */
    }
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

/* Writers that use a segment's number anew, under a reader that has the old file open. */
static void
a_number_used_again_loses_no_entry(void)
{
    fixture tree = fixture_new();
    char path[128];
    path_of(&tree, "index", path);
    pfo_disk *reader = open_disk(&tree, ROOMY, "lru");
    for (unsigned round = 0; round < 20; round++) {
        pfo_disk *writer = open_disk(&tree, ROOMY, "lru");
        const pfo_digest key = key_of(1);
        int existed;
        CHECK(put_ok(writer, 1, round, 100) && get_version(reader, 1, 100) == (int)round);
        CHECK(pfo_disk_delete(writer, &key, &existed, NULL) == PFO_OK && existed);
        pfo_disk_close(writer);
        for (int i = 0; i < 2; i++) { /* the first rebuild unlinks the empty segment, the second forgets its number */
            CHECK(unlink(path) == 0);
            pfo_disk_close(open_disk(&tree, ROOMY, "lru"));
        }
        writer = open_disk(&tree, ROOMY, "lru");
        CHECK(put_ok(writer, 1, round + 100, 100) && put_ok(writer, 2, round, 100));
        if (round % 2 == 0) {
            CHECK(get_version(reader, 1, 100) == (int)round + 100 && get_version(reader, 2, 100) == (int)round);
        } else {
            CHECK(put_ok(reader, 3, round, 100) && get_version(writer, 3, 100) == (int)round);
            CHECK(get_version(reader, 2, 100) == (int)round);
        }
        CHECK(stats_of(reader).corrupt == 0 && stats_of(writer).corrupt == 0);
        CHECK(pfo_disk_clear(writer, NULL) == PFO_OK);
        pfo_disk_close(writer);
    }
    pfo_disk_close(reader);
    fixture_delete(&tree);
}

/* Things of the wrong kind with the right names; what they lead to is not touched. */
static void
foreign_things_are_left_alone(void)
{
    fixture tree = fixture_new();
    fixture outside = fixture_new();
    char path[128];
    char target[128];
    char inner[128];
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, 100) && put_ok(disk, 2, 1, LARGE));
    pfo_disk_close(disk);
    fixture_write(&outside, "precious", "do not cut");
    path_of(&outside, "precious", target);
    const char *const links[] = { "segments/00000002.seg", "tmp/1-2-3", "payloads/zz" };
    for (int i = 0; i < 3; i++) {
        path_of(&tree, links[i], path);
        CHECK(symlink(i == 2 ? outside.root : target, path) == 0);
    }
    const char *const folders[] = { "segments/00000003.seg", "tmp/1-2-4", "payloads/aa", "payloads/aa/folder" };
    for (int i = 0; i < 4; i++) {
        path_of(&tree, folders[i], path);
        CHECK(mkdir(path, 0700) == 0 || errno == EEXIST);
    }
    const char *const pipes[] = { "segments/00000004.seg", "tmp/1-2-5", "payloads/aa/pipe" };
    for (int i = 0; i < 3; i++) {
        path_of(&tree, pipes[i], path);
        CHECK(mkfifo(path, 0600) == 0);
    }
    fixture_write(&tree, "segments/80000001.seg", "1 and this are in one row of every index");
    fixture_write(&tree, "segments/00000005.seg", "");
    path_of(&tree, "segments/00000005.seg", path);
    CHECK(truncate(path, 1LL << 42) == 0);
    fixture_write(&tree, "segments/notes.txt", "hello");
    for (int round = 0; round < 3; round++) {
        path_of(&tree, "index", path);
        CHECK(unlink(path) == 0);
        disk = open_disk(&tree, ROOMY, "lru");
        CHECK(get_version(disk, 1, 100) == 1 && get_version(disk, 2, LARGE) == 1);
        for (unsigned i = 0; i < 3; i++) {
            CHECK(put_ok(disk, 3 + i, (unsigned)round, 30000) && get_version(disk, 3 + i, 30000) == round);
        }
        pfo_disk_report report;
        CHECK(pfo_disk_verify(disk, 1, &report, NULL) == PFO_OK && report.damaged == 0);
        CHECK(stats_of(disk).entries == 5 && stats_of(disk).bytes < 400000);
        pfo_disk_close(disk);
    }
    disk = open_disk(&tree, ROOMY, "lru");
    CHECK(pfo_disk_clear(disk, NULL) == PFO_OK && put_ok(disk, 1, 9, 100) && get_version(disk, 1, 100) == 9);
    pfo_disk_close(disk);
    CHECK(size_of(target) == 10);
    path_of(&outside, "precious", inner);
    CHECK(access(inner, F_OK) == 0);
    fixture_delete(&outside);
    fixture_delete(&tree);
}

/* An index of yesterday, whole in itself. */
static void
an_old_index_loses_no_put(void)
{
    fixture tree = fixture_new();
    char path[128];
    static unsigned char bytes[64 * 1024];
    path_of(&tree, "index", path);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1, 1, 100));
    int file = open(path, O_RDONLY);
    const ssize_t length = read(file, bytes, sizeof bytes);
    CHECK(length > 4096 && close(file) == 0);
    CHECK(put_ok(disk, 1, 2, 100) && put_ok(disk, 2, 2, 100) && put_ok(disk, 3, 2, LARGE));
    pfo_disk_close(disk);
    file = open(path, O_WRONLY);
    CHECK(write(file, bytes, (size_t)length) == length && close(file) == 0);
    disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 4, 1, 100) && get_version(disk, 4, 100) == 1);
    CHECK(get_version(disk, 1, 100) == 2 && get_version(disk, 2, 100) == 2 && get_version(disk, 3, LARGE) == 2);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

int
main(void)
{
    RUN(an_index_cut_short_while_open_is_made_anew);
    RUN(a_segment_cut_short_while_open_is_misses);
    RUN(a_damaged_row_loses_no_put);
    RUN(replaced_indexes_are_let_go);
    RUN(foreign_things_are_left_alone);
    RUN(an_old_index_loses_no_put);
    RUN(missing_descriptors_lose_no_entry);
    RUN(a_number_used_again_loses_no_entry);
    return FINISH();
}
