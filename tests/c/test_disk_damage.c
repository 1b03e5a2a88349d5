/* test_disk_damage.c: every byte flipped, every length cut, every system call and allocation failing, directories that are newer,
 * read-only, or deleted underneath: a miss or the right value, counted, never a crash. */
#include "base/alloc.h"
#include "cache/disk_files.h"
#include "disk_fixture.h"

#include <sys/wait.h>

enum { SMALL = 60, LARGE = 33000, KEYS = 5, MOST_FILES = 16 };

static size_t
length_of(unsigned number)
{
    return number == 4 ? LARGE : SMALL + number;
}

/* ---- a directory to come back to ---- */

typedef struct saved_file {
    char path[128];
    size_t length;
    unsigned char *data;
} saved_file;

static saved_file saved[MOST_FILES];
static int saved_count;

static int
save_one(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)place;
    if (kind != FTW_F) {
        return 0;
    }
    REQUIRE(saved_count < MOST_FILES);
    saved_file *file = &saved[saved_count++];
    (void)snprintf(file->path, sizeof file->path, "%s", path);
    file->length = (size_t)facts->st_size;
    file->data = malloc(file->length + 1);
    const int descriptor = open(path, O_RDONLY);
    REQUIRE(file->data != NULL && read(descriptor, file->data, file->length) == (ssize_t)file->length);
    return close(descriptor);
}

static int
remove_file(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    (void)place;
    return kind == FTW_F ? unlink(path) : 0;
}

static void
restore(const fixture *tree)
{
    REQUIRE(nftw(tree->root, remove_file, 16, FTW_PHYS) == 0);
    for (int i = 0; i < saved_count; i++) {
        const int descriptor = open(saved[i].path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        REQUIRE(descriptor >= 0);
        REQUIRE(write(descriptor, saved[i].data, saved[i].length) == (ssize_t)saved[i].length);
        REQUIRE(close(descriptor) == 0);
    }
}

static fixture
saved_directory(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(put_ok(disk, i, 1, length_of(i)));
    }
    CHECK(put_ok(disk, 0, 2, length_of(0))); /* there is garbage, too */
    pfo_disk_close(disk);
    saved_count = 0;
    CHECK(nftw(tree.root, save_one, 16, FTW_PHYS) == 0);
    CHECK(saved_count == 5); /* format, index, lock, a segment, a payload */
    return tree;
}

static void
drop_saved(const fixture *tree)
{
    for (int i = 0; i < saved_count; i++) {
        free(saved[i].data);
    }
    fixture_delete(tree);
}

/* Everything is a miss or right; misses are counted; what is put afterwards is there. */
static void
check_after_damage(pfo_disk *disk, int is_format, int is_tail)
{
    int misses = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        const int version = get_version(disk, i, length_of(i));
        CHECK(version == -1 || version == (i == 0 ? 2 : 1));
        misses += version == -1;
    }
    CHECK(misses == 0 || is_format || is_tail || stats_of(disk).corrupt > 0);
    CHECK(put_ok(disk, 2, 5, 77) && get_version(disk, 2, 77) == 5);
}

static const saved_file *
saved_named(const char *part)
{
    for (int i = 0; i < saved_count; i++) {
        if (strstr(saved[i].path, part) != NULL) {
            return &saved[i];
        }
    }
    REQUIRE(!"saved");
    return NULL;
}

static void
change_byte(const char *path, size_t at, unsigned char byte)
{
    const int descriptor = open(path, O_RDWR);
    REQUIRE(descriptor >= 0 && pwrite(descriptor, &byte, 1, (off_t)at) == 1 && close(descriptor) == 0);
}

/* All bytes that mean something, and a share of the long runs of zeros and of payload. */
static int
is_chosen(const saved_file *file, size_t at, size_t share)
{
    return at < 300 || (file->length < 5000) || (file->data[at] != 0 && file->length < LARGE) || at % share == 0;
}

static void
flips_in(const char *part, int while_open, size_t share)
{
    fixture tree = saved_directory();
    const saved_file *file = saved_named(part);
    const int is_format = strcmp(part, "/format") == 0;
    for (size_t at = 0; at < file->length; at++) {
        if (!is_chosen(file, at, share)) {
            continue;
        }
        pfo_disk *disk = while_open ? open_disk(&tree, ROOMY, "lru") : NULL;
        if (while_open && at % 2 == 0) {
            CHECK(get_version(disk, 4, LARGE) == 1);
        }
        change_byte(file->path, at, file->data[at] ^ (unsigned char)(1U << (at % 8)));
        disk = while_open ? disk : open_disk(&tree, ROOMY, "lru");
        check_after_damage(disk, is_format, 0);
        pfo_disk_close(disk);
        restore(&tree);
    }
    drop_saved(&tree);
}

static void
flipped_bytes_are_misses(void)
{
    flips_in("/format", 0, 1);
    flips_in("/index", 0, 97);
    flips_in("/segments/", 0, 1);
    flips_in("/payloads/", 0, 41);
}

static void
bytes_flipped_under_an_open_handle_are_misses(void)
{
    flips_in("/index", 1, 97);
    flips_in("/segments/", 1, 1);
    flips_in("/payloads/", 1, 41);
}

static void
cut_files_are_misses(void)
{
    const char *const parts[] = { "/format", "/index", "/segments/", "/payloads/" };
    for (size_t p = 0; p < 4; p++) {
        fixture tree = saved_directory();
        const saved_file *file = saved_named(parts[p]);
        for (size_t length = 0; length < file->length; length += file->length < 5000 ? 1 : 61) {
            REQUIRE(truncate(file->path, (off_t)length) == 0);
            pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
            check_after_damage(disk, 0, 0);
            pfo_disk_close(disk);
            restore(&tree);
        }
        REQUIRE(unlink(file->path) == 0);
        pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
        check_after_damage(disk, 0, 0);
        pfo_disk_close(disk);
        drop_saved(&tree);
    }
}

static void
verify_finds_and_repairs_damage(void)
{
    fixture tree = saved_directory();
    const saved_file *payload = saved_named("/payloads/");
    const saved_file *segment = saved_named("/segments/");
    change_byte(payload->path, 20000, payload->data[20000] ^ 1);
    change_byte(segment->path, 100, segment->data[100] ^ 1); /* version 1 of key 0: garbage */
    change_byte(segment->path, 300, segment->data[300] ^ 1);
    fixture_write(&tree, "payloads/ab/orphan", "1234567");
    fixture_write(&tree, "tmp/orphan", "123");
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    pfo_disk_report report;
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK);
    CHECK(report.checked == 5 && report.damaged == 2 && report.orphans == 1 && report.orphan_bytes == 7);
    CHECK(report.repaired == 0 && !report.index_rebuilt);
    CHECK(pfo_disk_verify(disk, 1, &report, NULL) == PFO_OK);
    CHECK(report.checked == 5 && report.damaged == 2 && report.repaired == 3);
    CHECK(pfo_disk_verify(disk, 1, &report, NULL) == PFO_OK);
    CHECK(report.checked == 3 && report.damaged == 0 && report.orphans == 0 && report.repaired == 0);
    pfo_disk_close(disk);
    drop_saved(&tree);
}

/* ---- failing calls ---- */

static unsigned allowed[KEYS + 1]; /* bit v: version v may be found; bit 31: a miss may */

static void
note_put(pfo_disk *disk, unsigned number, unsigned version)
{
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = put_value(disk, number, version, length_of(number), 0, &err);
    CHECK(status == PFO_OK || err.text[0] != '\0');
    allowed[number] = status == PFO_OK ? 1U << version : allowed[number] | 1U << version;
}

static void
note_delete(pfo_disk *disk, unsigned number)
{
    int existed;
    const pfo_digest key = key_of(number);
    const pfo_status status = pfo_disk_delete(disk, &key, &existed, NULL);
    allowed[number] = status == PFO_OK ? 1U << 31 : allowed[number] | 1U << 31;
}

static void
check_allowed(pfo_disk *disk, int may_miss)
{
    for (unsigned i = 0; i < KEYS; i++) {
        const int version = get_version(disk, i, length_of(i));
        CHECK(version >= -1 || version == -3);
        CHECK(version < 0 ? may_miss || (allowed[i] & 1U << 31) != 0 : (allowed[i] >> version & 1) != 0);
    }
}

/* A little of everything, with the n-th call failing somewhere in it. */
static void
work_with_failure(void (*arm)(long), long n, pfo_durability durability)
{
    fixture tree = fixture_new();
    const pfo_disk_options options = {
        .directory = tree.root, .max_bytes = ROOMY, .policy = "lru", .durability = durability
    };
    pfo_disk *disk = NULL;
    int existed;
    uint64_t removed;
    pfo_disk_report report;
    const pfo_digest key = key_of(1);
    for (unsigned i = 0; i < KEYS; i++) {
        allowed[i] = 1U << 31;
    }
    arm(n);
    pfo_status status = pfo_disk_open(&disk, &options, NULL);
    CHECK((status == PFO_OK) == (disk != NULL));
    if (disk == NULL) {
        REQUIRE(pfo_disk_open(&disk, &options, NULL) == PFO_OK);
    }
    for (unsigned i = 0; i < KEYS; i++) {
        note_put(disk, i, 1);
    }
    note_put(disk, 4, 2);
    note_put(disk, 0, 2);
    (void)pfo_disk_touch(disk, &key, 0, &existed, NULL);
    note_delete(disk, 2);
    (void)pfo_disk_expire(disk, &removed, NULL);
    (void)pfo_disk_verify(disk, 0, &report, NULL);
    check_allowed(disk, 1);
    arm(0);
    check_allowed(disk, 0);
    pfo_disk_close(disk);
    arm(n);
    status = pfo_disk_open(&disk, &options, NULL);
    arm(0);
    if (status != PFO_OK) {
        REQUIRE(pfo_disk_open(&disk, &options, NULL) == PFO_OK);
    }
    check_allowed(disk, 0);
    pfo_disk_close(disk);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/index", tree.root);
    (void)unlink(path);
    arm(n);
    status = pfo_disk_open(&disk, &options, NULL);
    arm(0);
    if (status != PFO_OK) {
        REQUIRE(pfo_disk_open(&disk, &options, NULL) == PFO_OK);
    }
    check_allowed(disk, 1); /* a record that the rebuild could not read is given up */
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.orphans == 0 && report.damaged == 0);
    CHECK(directory_bytes(&tree) <= (long long)stats_of(disk).bytes);
    note_put(disk, 3, 4);
    CHECK(allowed[3] == 1U << 4 && get_version(disk, 3, length_of(3)) == 4);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static pfo_fault chosen_fault;

static void
arm_files(long n)
{
    pfo_files_fail_at(n, chosen_fault);
}

static void
failing_system_calls_harm_nothing(void)
{
    for (int fault = PFO_FAULT_IO; fault <= PFO_FAULT_SHORT; fault++) {
        chosen_fault = (pfo_fault)fault;
        for (long n = 1; n < 200; n++) {
            work_with_failure(arm_files, n,
                              fault == PFO_FAULT_FULL && n % 8 == 0 ? PFO_DURABLE_POWER : PFO_DURABLE_PROCESS);
        }
    }
}

static void
failing_allocations_harm_nothing(void)
{
    for (long n = 1; n < 60; n++) {
        work_with_failure(pfo_alloc_fail_at, n, PFO_DURABLE_PROCESS);
    }
}

static void
a_full_disk_is_an_error_with_a_clear_text(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 4, 1, LARGE));
    int failures = 0;
    for (long n = 1; n < 12; n++) {
        pfo_error err = PFO_ERROR_INIT;
        pfo_files_fail_at(n, PFO_FAULT_FULL);
        const pfo_status status = put_value(disk, 4, 2, LARGE, 0, &err);
        pfo_files_fail_at(0, PFO_FAULT_FULL);
        CHECK(status == PFO_OK || (status == PFO_IO && strstr(err.text, "No space left") != NULL));
        failures += status != PFO_OK;
        CHECK(get_version(disk, 4, LARGE) == (status == PFO_OK ? 2 : 1));
        CHECK(status == PFO_OK || directory_bytes(&tree) <= (long long)stats_of(disk).bytes);
        CHECK(put_ok(disk, 4, 1, LARGE));
    }
    CHECK(failures >= 4 && stats_of(disk).write_failures == (uint64_t)failures);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

/* ---- other people's directories ---- */

static void
newer_formats_are_refused(void)
{
    fixture tree = saved_directory();
    const saved_file *format = saved_named("/format");
    const pfo_disk_options options = { .directory = tree.root, .max_bytes = ROOMY, .policy = "lru" };
    pfo_disk *disk = NULL;
    pfo_error err = PFO_ERROR_INIT;
    change_byte(format->path, 8, 2);
    change_byte(format->path, 12, 0xfd);
    CHECK(pfo_disk_open(&disk, &options, &err) == PFO_STATE && disk == NULL);
    CHECK(strstr(err.text, "version 2") != NULL);
    restore(&tree);
    for (size_t i = 0; i < 8; i++) {
        change_byte(format->path, i, format->data[7 - i]);
    }
    err = (pfo_error)PFO_ERROR_INIT;
    CHECK(pfo_disk_open(&disk, &options, &err) == PFO_STATE && strstr(err.text, "byte order") != NULL);
    drop_saved(&tree);
}

static int
allow_reading(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    (void)place;
    return chmod(path, kind == FTW_F ? 0444 : 0555);
}

static void
read_by_nobody(const fixture *tree)
{
    const pfo_disk_options options = { .directory = tree->root, .max_bytes = ROOMY, .policy = "lru" };
    pfo_disk *disk = NULL;
    pfo_error err = PFO_ERROR_INIT;
    REQUIRE(pfo_disk_open(&disk, &options, &err) == PFO_OK);
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(get_version(disk, i, length_of(i)) == (i == 0 ? 2 : 1));
    }
    CHECK(put_value(disk, 1, 3, 10, 0, &err) == PFO_UNAVAILABLE && strstr(err.text, "reading only") != NULL);
    int existed;
    pfo_disk_report report;
    const pfo_digest key = key_of(1);
    CHECK(pfo_disk_delete(disk, &key, &existed, NULL) == PFO_UNAVAILABLE);
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.checked == 5 && report.damaged == 0);
    CHECK(pfo_disk_verify(disk, 1, &report, NULL) == PFO_UNAVAILABLE && pfo_disk_flush(disk, NULL) == PFO_OK);
    pfo_disk_close(disk);
}

static void
read_only_directories_are_read(void)
{
    if (getuid() != 0 && geteuid() != 0) {
        (void)printf("  (as %d: permissions bind us without changing the user)\n", (int)getuid());
    }
    for (int damage = 0; damage < 3; damage++) {
        fixture tree = saved_directory();
        const saved_file *index = saved_named("/index");
        if (damage == 1) {
            CHECK(unlink(index->path) == 0);
        } else if (damage == 2) {
            CHECK(truncate(index->path, 100) == 0);
        }
        CHECK(nftw(tree.root, allow_reading, 16, FTW_PHYS) == 0);
        const pid_t child = fork();
        if (child == 0) {
            check_failures = getuid() == 0 && setuid(65534) != 0;
            read_by_nobody(&tree);
            _exit(check_failures != 0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(nftw(tree.root, remove_file, 16, FTW_PHYS) == 0 || getuid() != 0);
        CHECK(chmod(tree.root, 0700) == 0);
        drop_saved(&tree);
    }
}

static void
a_deleted_directory_is_made_anew(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    for (unsigned round = 1; round < 4; round++) {
        CHECK(put_ok(disk, 1, round, 100) && put_ok(disk, 2, round, LARGE));
        CHECK(get_version(disk, 1, 100) == (int)round && get_version(disk, 2, LARGE) == (int)round);
        fixture_delete(&tree);
        CHECK(get_version(disk, 1, 100) == -1 && get_version(disk, 2, LARGE) == -1);
        CHECK(access(tree.root, F_OK) != 0); /* reading makes nothing */
        CHECK(stats_of(disk).entries == 0);
    }
    CHECK(put_ok(disk, 2, 9, LARGE) && get_version(disk, 2, LARGE) == 9 && get_version(disk, 1, 100) == -1);
    pfo_disk_close(disk);
    disk = open_disk(&tree, ROOMY, "lru");
    CHECK(get_version(disk, 2, LARGE) == 9);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

int
main(void)
{
    RUN(flipped_bytes_are_misses);
    RUN(bytes_flipped_under_an_open_handle_are_misses);
    RUN(cut_files_are_misses);
    RUN(verify_finds_and_repairs_damage);
    RUN(failing_system_calls_harm_nothing);
    RUN(failing_allocations_harm_nothing);
    RUN(a_full_disk_is_an_error_with_a_clear_text);
    RUN(newer_formats_are_refused);
    RUN(read_only_directories_are_read);
    RUN(a_deleted_directory_is_made_anew);
    return FINISH();
}
