/* disk_fixture.h: a disk cache in a temporary directory, with values that can be told right from wrong by their key alone. */
#ifndef PFO_TESTS_DISK_FIXTURE_H
#define PFO_TESTS_DISK_FIXTURE_H

#include "cache/disk.h"
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>

enum { ROOMY = 64 << 20 };

static inline pfo_digest
key_of(unsigned number)
{
    pfo_digest key = { { 0 } };
    unsigned long long state = 0x9e3779b97f4a7c15ULL * (number + 1ULL);
    for (int i = 0; i < 16; i++) {
        key.bytes[i] = (unsigned char)(check_random(&state) >> 56);
    }
    return key;
}

/* Byte i of the value of a key in a version. Not compressible. */
static inline void
fill_value(unsigned number, unsigned version, unsigned char *data, size_t length)
{
    unsigned long long state = 0xda942042e4dd58b5ULL * (number * 1000003ULL + version + 1);
    for (size_t i = 0; i < length; i++) {
        data[i] = (unsigned char)(check_random(&state) >> 56);
    }
}

static inline pfo_disk *
open_disk(const fixture *tree, uint64_t max_bytes, const char *policy)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_disk *disk = NULL;
    const pfo_disk_options options = { .directory = tree->root, .max_bytes = max_bytes, .policy = policy };
    if (pfo_disk_open(&disk, &options, &err) != PFO_OK) {
        (void)fprintf(stderr, "open: %s\n", err.text);
    }
    REQUIRE(disk != NULL);
    return disk;
}

static inline pfo_status
put_value(pfo_disk *disk, unsigned number, unsigned version, size_t length, uint64_t expires_ns, pfo_error *err)
{
    unsigned char *data = malloc(length + 8);
    if (data == NULL) {
        abort(); /* not REQUIRE: threads call this */
    }
    (void)memcpy(data, &version, 4);
    (void)memcpy(data + 4, &number, 4);
    fill_value(number, version, data + 8, length);
    const pfo_bytes parts[] = { { data, 8 }, { data + 8, length } };
    pfo_disk_record record = { .kind = "bytes", .suffix = ".bin", .label = "a label", .parts = parts, .part_count = 2 };
    record.expires_ns = expires_ns;
    const pfo_digest key = key_of(number);
    int stored = 0;
    const pfo_status status = pfo_disk_put(disk, &key, &record, &stored, err);
    free(data);
    return status == PFO_OK && !stored ? PFO_OVERFLOW : status;
}

static inline int
put_ok(pfo_disk *disk, unsigned number, unsigned version, size_t length)
{
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = put_value(disk, number, version, length, 0, &err);
    if (status != PFO_OK && status != PFO_OVERFLOW) {
        (void)fprintf(stderr, "put: %s\n", err.text);
    }
    return status == PFO_OK;
}

/* Version of the value found, -1 for a miss, -2 for a wrong value, -3 for an error. */
static inline int
get_version(pfo_disk *disk, unsigned number, size_t length)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_disk_value value;
    const pfo_digest key = key_of(number);
    if (pfo_disk_get(disk, &key, 0, &value, &err) != PFO_OK) {
        return -3;
    }
    int result = -1;
    if (value.found) {
        unsigned version;
        unsigned whose;
        result = -2;
        if (value.length == length + 8 && strcmp(value.kind, "bytes") == 0) {
            (void)memcpy(&version, value.data, 4);
            (void)memcpy(&whose, (const unsigned char *)value.data + 4, 4);
            unsigned char *right = malloc(length + 1);
            if (right == NULL) {
                abort();
            }
            fill_value(number, version, right, length);
            if (whose == number && memcmp(right, (const unsigned char *)value.data + 8, length) == 0) {
                result = (int)version;
            }
            free(right);
        }
    }
    pfo_disk_release(&value);
    return result;
}

static long long walked_bytes;

static inline int
add_size(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)path;
    (void)place;
    walked_bytes += kind == FTW_F ? (long long)facts->st_size : 0;
    return 0;
}

/* Sizes of all files in the directory; -1 when something went while it was walked. */
static inline long long
directory_bytes(const fixture *tree)
{
    walked_bytes = 0;
    return nftw(tree->root, add_size, 16, FTW_PHYS) == 0 ? walked_bytes : -1;
}

static inline pfo_disk_stats
stats_of(pfo_disk *disk)
{
    pfo_disk_stats stats;
    pfo_disk_get_stats(disk, &stats);
    return stats;
}

#endif
