/* disk_directory.c: the directory itself: its path, its folders, its format file, names and syncs in it; see disk_handle.h for the contract. */
#include "cache/disk_handle.h"

#include "base/alloc.h"
#include "cache/disk_check.h"
#include "base/procfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* snprintf() */
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

pfo_status
pfo_disk_io_error(pfo_error *err, int error, const char *what, const char *name)
{
    if (error == ENOMEM) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory: cannot %s %s", what, name);
    }
    return pfo_fail(err, PFO_IO, "the disk cache cannot %s %s: %s", what, name, strerror(error));
}

void
pfo_disk_temporary_name(pfo_disk *disk, uint64_t bytes, char name[PFO_DISK_NAME])
{
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random) {
        random = ++disk->next_temporary; /* with the process id it is unique but for processes on other machines */
    }
    (void)snprintf(name, PFO_DISK_NAME, "tmp/%lx-%016llx-%llx", (unsigned long)getpid(), (unsigned long long)random,
                   (unsigned long long)bytes);
}

pfo_status
pfo_disk_sync_folder(pfo_disk *disk, const char *name, pfo_error *err)
{
    pfo_file folder;
    if (disk->durability != PFO_DURABLE_POWER) {
        return PFO_OK;
    }
    int error = pfo_file_open(&folder, disk->root.descriptor, name, O_RDONLY | O_DIRECTORY);
    if (error == 0) {
        error = pfo_file_sync(folder.descriptor);
        pfo_file_close(&folder);
    }
    return error == 0 ? PFO_OK : pfo_disk_io_error(err, error, "sync", name);
}

void
pfo_disk_read_boot(unsigned char boot[16])
{
    char text[64];
    unsigned char digest[PFO_DIGEST_BYTES] = { 0 };
    const ptrdiff_t length = pfo_procfile_read("/proc/sys/kernel/random/boot_id", text, sizeof text);
    if (length > 0) {
        pfo_xxh_ops_best()->digest(text, (size_t)length, digest);
    }
    memcpy(boot, digest, 16);
}

/* ---- the directory ---- */

static uint64_t
format_check(const pfo_format_header *format)
{
    return pfo_disk_check(format, offsetof(pfo_format_header, check));
}

pfo_status
pfo_disk_write_format(pfo_disk *disk, pfo_error *err)
{
    char name[PFO_DISK_NAME];
    pfo_file file;
    pfo_format_header format = { .magic = PFO_DISK_FORMAT_MAGIC,
                                 .version = PFO_DISK_VERSION,
                                 .version_again = ~(uint32_t)PFO_DISK_VERSION,
                                 .salt = atomic_load(&disk->salt) };
    format.check = format_check(&format);
    pfo_disk_temporary_name(disk, sizeof format, name);
    int error = pfo_file_open(&file, disk->root.descriptor, name, O_RDWR | O_CREAT | O_TRUNC);
    if (error == 0) {
        error = pfo_file_write(file.descriptor, &format, sizeof format, 0);
        if (error == 0 && disk->durability == PFO_DURABLE_POWER) {
            error = pfo_file_sync(file.descriptor);
        }
        if (error == 0) {
            error = pfo_file_rename(disk->root.descriptor, name, "format");
        }
        pfo_file_close(&file);
        if (error != 0) {
            (void)pfo_file_remove(disk->root.descriptor, name);
        }
    }
    if (error != 0) {
        return pfo_disk_io_error(err, error, "write", "format");
    }
    return pfo_disk_sync_folder(disk, ".", err);
}

pfo_status
pfo_disk_read_format(pfo_disk *disk, int *known, pfo_error *err)
{
    pfo_file file;
    pfo_format_header format;
    *known = 0;
    const int error = pfo_file_open(&file, disk->root.descriptor, "format", O_RDONLY);
    if (error != 0) {
        return error == ENOENT ? PFO_OK : pfo_disk_io_error(err, error, "open", "format");
    }
    const size_t got = pfo_file_read(file.descriptor, &format, sizeof format, 0);
    pfo_file_close(&file);
    if (got >= 16 && format.magic == __builtin_bswap64(PFO_DISK_FORMAT_MAGIC)) {
        return pfo_fail(err, PFO_STATE, "cache_dir %s was written on a machine of the other byte order",
                        disk->directory);
    }
    if (got >= 16 && format.magic == PFO_DISK_FORMAT_MAGIC && format.version == ~format.version_again &&
        format.version > PFO_DISK_VERSION) {
        return pfo_fail(err, PFO_STATE,
                        "cache_dir %s has format version %u; this version of perfopt reads versions up to %d",
                        disk->directory, format.version, PFO_DISK_VERSION);
    }
    *known = got == sizeof format && format.magic == PFO_DISK_FORMAT_MAGIC && format.version == PFO_DISK_VERSION &&
             format.check == format_check(&format);
    if (*known) {
        atomic_store(&disk->salt, format.salt);
    }
    return PFO_OK;
}

int
pfo_disk_salvage_salt(pfo_disk *disk)
{
    pfo_file file;
    pfo_index_header header;
    if (pfo_file_open(&file, disk->root.descriptor, "index", O_RDONLY) != 0) {
        return 0;
    }
    const size_t got = pfo_file_read(file.descriptor, &header, sizeof header, 0);
    pfo_file_close(&file);
    if (got != sizeof header || header.magic != PFO_DISK_INDEX_MAGIC || header.version != PFO_DISK_VERSION ||
        header.check != pfo_disk_check(&header, offsetof(pfo_index_header, check))) {
        return 0;
    }
    atomic_store(&disk->salt, header.salt);
    return 1;
}

/* mkdir -p */
static int
make_path(const char *path)
{
    char *copy = pfo_alloc(strlen(path) + 1);
    if (copy == NULL) {
        return ENOMEM;
    }
    (void)memcpy(copy, path, strlen(path) + 1);
    int error = 0;
    for (char *slash = strchr(copy + 1, '/'); slash != NULL && error == 0; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        error = pfo_file_make_directory(AT_FDCWD, copy);
        if (error != 0 && access(copy, F_OK) == 0) {
            error = 0; /* one that is there may be where we may make nothing */
        }
        *slash = '/';
    }
    if (error == 0) {
        error = pfo_file_make_directory(AT_FDCWD, copy);
    }
    pfo_free(copy);
    return error;
}

static pfo_status
open_root(const pfo_disk *disk, pfo_file *root, pfo_error *err)
{
    int error = pfo_file_open(root, AT_FDCWD, disk->directory, O_RDONLY | O_DIRECTORY);
    if (error == ENOENT) {
        error = make_path(disk->directory);
        if (error == 0) {
            error = pfo_file_open(root, AT_FDCWD, disk->directory, O_RDONLY | O_DIRECTORY);
        }
    }
    return error == 0 ? PFO_OK : pfo_disk_io_error(err, error, "open", disk->directory);
}

/* The folders and the lock file in a directory that was opened; sets read_only where we may not write. 0 or an errno value. */
static int
furnish(pfo_disk *disk, const pfo_file *root)
{
    static const char *const folders[] = { "segments", "payloads", "tmp" };
    int error = pfo_file_open(&disk->lock_file, root->descriptor, "lock", O_RDWR | O_CREAT);
    for (size_t i = 0; i < sizeof folders / sizeof folders[0] && error == 0; i++) {
        error = pfo_file_make_directory(root->descriptor, folders[i]);
    }
    if (error == EACCES || error == EROFS || error == EPERM) {
        pfo_file_close(&disk->lock_file);
        (void)pfo_file_open(&disk->lock_file, root->descriptor, "lock", O_RDONLY);
        disk->read_only = 1;
        return 0;
    }
    if (error == 0 && disk->durability == PFO_DURABLE_POWER) {
        error = pfo_file_sync_all(
            root->descriptor); /* also what handles without this promise have made, and the folders above */
    }
    return error;
}

pfo_status
pfo_disk_open_directory(pfo_disk *disk, pfo_error *err)
{
    pfo_file root;
    PFO_TRY(open_root(disk, &root, err));
    int error = furnish(disk, &root);
    if (error == 0 && disk->root.descriptor >= 0) {
        error = pfo_file_exchange(&disk->root, &root);
    } else if (error == 0) {
        disk->root = root;
        atomic_store(&disk->root_descriptor, root.descriptor);
    } else {
        pfo_file_close(&root);
    }
    if (error != 0) {
        pfo_file_close(&disk->lock_file);
        return pfo_disk_io_error(err, error, "make", disk->directory);
    }
    return PFO_OK;
}
