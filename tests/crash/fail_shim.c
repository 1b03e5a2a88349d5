/* fail_shim.c: preloaded into a process, makes its file operations below one directory fail, die or be written down.
 *
 * Environment:
 *   PERFOPT_SHIM_DIR    only operations on paths (and descriptors of files) below this directory count; nothing happens without it
 *   PERFOPT_SHIM_FAIL   number of the operation, from 1, that fails; 0 or unset: none
 *   PERFOPT_SHIM_HOW    enospc, eio, emfile: that error; short: half of a write, ENOSPC for the rest; kill: SIGKILL instead of it.
 *                       With "+" at the end every later operation fails too
 *   PERFOPT_SHIM_ONLY   comma-separated names: only these operations count ("write,fsync")
 *   PERFOPT_SHIM_COUNT  a file that gets the number of counted operations when the process ends
 *   PERFOPT_SHIM_LOG    a file that gets a record of every change (see the struct), for replays of a power cut. Stores through
 *                       shared maps are found by comparing the maps with a copy before each record. Lines that the process writes to
 *                       its standard output are records too, so that acknowledgements stand in their place
 *   PERFOPT_SHIM_BOOT   a file that is read as the kernel's boot_id: for the process the machine has been started anew
 *
 * Operations: open (and creat), write (pwrite, writev, pwritev), read (pread), fsync (fdatasync, msync), rename, link, unlink, mkdir, mmap,
 * ftruncate, fallocate, lock (flock, fcntl). Both names of each (open and open64) are caught; glibc's stdio is not.
 * Threads: counters are atomic; the log is for processes of one thread.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, MAX_MAPS = 64, PAGE = 4096 };

typedef struct log_record {
    char what[16]; /* create, write, truncate, sync, syncdir, rename, link, unlink, mkdir, note */
    uint64_t inode;
    int64_t offset; /* of a write; the new length of a truncate */
    uint32_t path_bytes, target_bytes;
    uint64_t data_bytes; /* path, target and data follow */
} log_record;

typedef struct watched_map {
    unsigned char *address, *copy;
    size_t length;
    int64_t offset;
    uint64_t inode;
} watched_map;

static struct {
    int ready;
    char directory[PATH_BYTES];
    size_t directory_bytes;
    long fail_at;
    int error, is_short, is_kill, sticky;
    const char *only, *count_file, *boot_file;
    int log;
} shim = { .log = -1 };
static atomic_long counter;
static watched_map maps[MAX_MAPS];

#define REAL(name) ((__typeof__(&(name)))real(#name))

static void *
real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void
start(void)
{
    const char *const directory = getenv("PERFOPT_SHIM_DIR");
    if (directory == NULL || shim.ready) {
        return;
    }
    const char *const number = getenv("PERFOPT_SHIM_FAIL");
    const char *const how = getenv("PERFOPT_SHIM_HOW") != NULL ? getenv("PERFOPT_SHIM_HOW") : "eio";
    const char *const log = getenv("PERFOPT_SHIM_LOG");
    (void)snprintf(shim.directory, sizeof shim.directory, "%s", directory);
    shim.directory_bytes = strlen(shim.directory);
    shim.fail_at = number != NULL ? atol(number) : 0;
    shim.is_short = strncmp(how, "short", 5) == 0;
    shim.is_kill = strncmp(how, "kill", 4) == 0;
    shim.sticky = strchr(how, '+') != NULL;
    shim.error = strncmp(how, "eio", 3) == 0 ? EIO : strncmp(how, "emfile", 6) == 0 ? EMFILE : ENOSPC;
    shim.only = getenv("PERFOPT_SHIM_ONLY");
    shim.count_file = getenv("PERFOPT_SHIM_COUNT");
    shim.boot_file = getenv("PERFOPT_SHIM_BOOT");
    if (log != NULL) {
        shim.log = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    shim.ready = 1;
}

__attribute__((destructor)) static void
finish(void)
{
    if (shim.ready && shim.count_file != NULL) {
        char text[32];
        const int length = snprintf(text, sizeof text, "%ld\n", atomic_load(&counter));
        const int file = REAL(open)(shim.count_file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (file >= 0 && REAL(write)(file, text, (size_t)length) != length) {
            _exit(99);
        }
    }
}

static int
is_below(const char *path)
{
    return strncmp(path, shim.directory, shim.directory_bytes) == 0 &&
           (path[shim.directory_bytes] == '/' || path[shim.directory_bytes] == '\0');
}

static int
path_of_descriptor(int file, char *path)
{
    char link[64];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    const ssize_t length = readlink(link, path, PATH_BYTES - 1);
    path[length < 0 ? 0 : length] = '\0';
    return length >= 0;
}

/* The absolute path of name below folder, as the kernel would see it. */
static void
full_path(int folder, const char *name, char *path)
{
    char base[PATH_BYTES] = "";
    if (name[0] == '/') {
        (void)snprintf(path, PATH_BYTES, "%s", name);
        return;
    }
    if (folder == AT_FDCWD) {
        if (getcwd(base, sizeof base) == NULL) {
            base[0] = '\0';
        }
    } else {
        (void)path_of_descriptor(folder, base);
    }
    const size_t length = strlen(base);
    memcpy(path, base, length);
    (void)snprintf(path + length, PATH_BYTES - length, "/%s", name);
}

static int
is_named(const char *what)
{
    const size_t length = strlen(what);
    for (const char *at = shim.only; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, what, length) == 0 && (at[length] == ',' || at[length] == '\0')) {
            return 1;
        }
    }
    return shim.only == NULL;
}

/* Whether this operation is one that shall fail; errno is set then. */
static int
fails(const char *what, const char *path)
{
    if (!shim.ready || !is_below(path) || !is_named(what)) {
        return 0;
    }
    const long number = atomic_fetch_add(&counter, 1) + 1;
    if (shim.fail_at == 0 || number < shim.fail_at || (number > shim.fail_at && !shim.sticky)) {
        return 0;
    }
    if (shim.is_kill) {
        (void)kill(getpid(), SIGKILL);
    }
    errno = shim.error;
    return 1;
}

static int
fails_descriptor(const char *what, int file)
{
    char path[PATH_BYTES];
    return shim.ready && path_of_descriptor(file, path) && fails(what, path);
}

/* ---- the log ---- */

static void
append_record(const char *what, uint64_t inode, int64_t offset, const char *path, const char *target, const void *data,
              size_t length)
{
    log_record record = {
        .inode = inode,
        .offset = offset,
        .path_bytes = path != NULL ? (uint32_t)strlen(path) : 0,
        .target_bytes = target != NULL ? (uint32_t)strlen(target) : 0,
        .data_bytes = length,
    };
    (void)snprintf(record.what, sizeof record.what, "%s", what);
    const struct iovec parts[] = {
        { &record, sizeof record },
        { (void *)(uintptr_t)path, record.path_bytes },
        { (void *)(uintptr_t)target, record.target_bytes },
        { (void *)(uintptr_t)data, length },
    };
    if (REAL(writev)(shim.log, parts, 4) < 0) {
        _exit(98);
    }
}

/* Records what was stored through shared maps since the last record. */
static void
log_stores(void)
{
    for (watched_map *map = maps; map < maps + MAX_MAPS; map++) {
        for (size_t at = 0; map->address != NULL && at < map->length; at += PAGE) {
            const size_t length = map->length - at < PAGE ? map->length - at : PAGE;
            if (memcmp(map->address + at, map->copy + at, length) != 0) {
                memcpy(map->copy + at, map->address + at, length);
                append_record("write", map->inode, map->offset + (int64_t)at, NULL, NULL, map->copy + at, length);
            }
        }
    }
}

static void
record_change(const char *what, uint64_t inode, int64_t offset, const char *path, const char *target, const void *data,
              size_t length)
{
    const int kept = errno;
    log_stores();
    append_record(what, inode, offset, path, target, data, length);
    errno = kept;
}

static uint64_t
inode_of(int file)
{
    struct stat facts;
    return fstat(file, &facts) == 0 ? (uint64_t)facts.st_ino : 0;
}

static int
is_logged(int file, char *path)
{
    return shim.log >= 0 && path_of_descriptor(file, path) && is_below(path);
}

static void
watch_map(void *address, size_t length, int file, int64_t offset)
{
    log_stores();
    for (watched_map *map = maps; map < maps + MAX_MAPS; map++) {
        if (map->address == NULL) {
            struct stat facts;
            if (fstat(file, &facts) != 0 || facts.st_size < offset) {
                return;
            }
            const size_t there = (size_t)(facts.st_size - offset);
            *map = (watched_map){ address, malloc(length), there < length ? there : length, offset, inode_of(file) };
            memcpy(map->copy, map->address, map->length);
            return;
        }
    }
    _exit(97);
}

static void
forget_map(const void *address)
{
    log_stores();
    for (watched_map *map = maps; map < maps + MAX_MAPS; map++) {
        if (map->address == address) {
            free(map->copy);
            *map = (watched_map){ 0 };
        }
    }
}

/* ---- the operations ---- */

static int
open_common(int folder, const char *name, int flags, mode_t mode)
{
    char path[PATH_BYTES] = "";
    struct stat facts;
    if (!shim.ready) {
        return REAL(openat)(folder, name, flags, mode);
    }
    full_path(folder, name, path);
    if (shim.boot_file != NULL && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) {
        return REAL(openat)(AT_FDCWD, shim.boot_file, flags, mode);
    }
    if (fails("open", path)) {
        return -1;
    }
    const int logged = shim.log >= 0 && is_below(path);
    const int is_new = logged && (flags & O_CREAT) != 0 && stat(path, &facts) != 0;
    const int file = REAL(openat)(folder, name, flags, mode);
    if (file >= 0 && is_new) {
        record_change("create", inode_of(file), 0, path, NULL, NULL, 0);
    } else if (file >= 0 && logged && (flags & O_TRUNC) != 0) {
        record_change("truncate", inode_of(file), 0, NULL, NULL, NULL, 0);
    }
    return file;
}

#define MODE_OF(flags)                                                                                                 \
    mode_t mode = 0;                                                                                                   \
    if (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE) {                                              \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode = va_arg(more, mode_t);                                                                                   \
        va_end(more);                                                                                                  \
    }

int
open(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_common(AT_FDCWD, path, flags, mode);
}

int
open64(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_common(AT_FDCWD, path, flags, mode);
}

int
openat(int folder, const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_common(folder, path, flags, mode);
}

int
openat64(int folder, const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_common(folder, path, flags, mode);
}

int
creat(const char *path, mode_t mode)
{
    return open_common(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

/* offset -1: at the file's own position. The one way in which anything is written. */
static ssize_t
write_common(int file, const struct iovec *parts, int count, off_t offset)
{
    char path[PATH_BYTES];
    size_t length = 0;
    for (int i = 0; i < count; i++) {
        length += parts[i].iov_len;
    }
    if (shim.ready && fails_descriptor("write", file)) {
        if (!shim.is_short || length < 2) {
            return -1;
        }
        length /= 2;
    }
    unsigned char *const data = malloc(length == 0 ? 1 : length);
    size_t copied = 0;
    for (int i = 0; i < count && copied < length; i++) {
        const size_t part = parts[i].iov_len < length - copied ? parts[i].iov_len : length - copied;
        memcpy(data + copied, parts[i].iov_base, part);
        copied += part;
    }
    const ssize_t written = offset < 0 ? REAL(write)(file, data, length) : REAL(pwrite)(file, data, length, offset);
    if (written > 0 && file == STDOUT_FILENO && shim.log >= 0) {
        record_change("note", 0, 0, NULL, NULL, data, (size_t)written);
    } else if (written > 0 && is_logged(file, path)) {
        const int appends = (fcntl(file, F_GETFL) & O_APPEND) != 0;
        const off_t end = offset < 0 ? lseek(file, 0, SEEK_CUR) : offset + written;
        struct stat facts;
        const off_t begin =
            appends && offset >= 0 && fstat(file, &facts) == 0 ? facts.st_size - written : end - written;
        record_change("write", inode_of(file), begin, NULL, NULL, data, (size_t)written);
    }
    free(data);
    return written;
}

ssize_t
write(int file, const void *data, size_t length)
{
    const struct iovec part = { (void *)(uintptr_t)data, length };
    return write_common(file, &part, 1, -1);
}

ssize_t
pwrite(int file, const void *data, size_t length, off_t offset)
{
    const struct iovec part = { (void *)(uintptr_t)data, length };
    return write_common(file, &part, 1, offset);
}

ssize_t
pwrite64(int file, const void *data, size_t length, off_t offset)
{
    return pwrite(file, data, length, offset);
}

ssize_t
writev(int file, const struct iovec *parts, int count)
{
    return write_common(file, parts, count, -1);
}

ssize_t
pwritev(int file, const struct iovec *parts, int count, off_t offset)
{
    return write_common(file, parts, count, offset);
}

ssize_t
pwritev64(int file, const struct iovec *parts, int count, off_t offset)
{
    return write_common(file, parts, count, offset);
}

ssize_t
read(int file, void *data, size_t length)
{
    return fails_descriptor("read", file) ? -1 : REAL(read)(file, data, length);
}

ssize_t
pread(int file, void *data, size_t length, off_t offset)
{
    return fails_descriptor("read", file) ? -1 : REAL(pread)(file, data, length, offset);
}

ssize_t
pread64(int file, void *data, size_t length, off_t offset)
{
    return pread(file, data, length, offset);
}

static void
record_sync(int file)
{
    char path[PATH_BYTES];
    struct stat facts;
    if (is_logged(file, path) && fstat(file, &facts) == 0) {
        record_change(S_ISDIR(facts.st_mode) ? "syncdir" : "sync", (uint64_t)facts.st_ino, 0, path, NULL, NULL, 0);
    }
}

int
fsync(int file)
{
    const int result = fails_descriptor("fsync", file) ? -1 : REAL(fsync)(file);
    if (result == 0) {
        record_sync(file);
    }
    return result;
}

int
fdatasync(int file)
{
    const int result = fails_descriptor("fsync", file) ? -1 : REAL(fdatasync)(file);
    if (result == 0) {
        record_sync(file);
    }
    return result;
}

int
msync(void *address, size_t length, int flags)
{
    if (shim.ready && is_named("fsync") && shim.fail_at != 0) {
        const long number = atomic_fetch_add(&counter, 1) + 1;
        if (number == shim.fail_at || (number > shim.fail_at && shim.sticky)) {
            if (shim.is_kill) {
                (void)kill(getpid(), SIGKILL);
            }
            errno = shim.error;
            return -1;
        }
    }
    const int result = REAL(msync)(address, length, flags);
    for (watched_map *map = maps; result == 0 && shim.log >= 0 && map < maps + MAX_MAPS; map++) {
        if (map->address != NULL && (flags & MS_SYNC) != 0 && (unsigned char *)address >= map->address &&
            (unsigned char *)address < map->address + map->length) {
            record_change("sync", map->inode, 0, NULL, NULL, NULL, 0);
        }
    }
    return result;
}

static int
rename_common(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    char old[PATH_BYTES];
    char new[PATH_BYTES];
    full_path(from_folder, from, old);
    full_path(to_folder, to, new);
    if (fails("rename", new)) {
        return -1;
    }
    const int result = flags == 0 ? REAL(renameat)(from_folder, from, to_folder, to)
                                  : REAL(renameat2)(from_folder, from, to_folder, to, flags);
    if (result == 0 && shim.log >= 0 && is_below(new)) {
        record_change("rename", 0, 0, old, new, NULL, 0);
    }
    return result;
}

int
rename(const char *from, const char *to)
{
    return rename_common(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int
renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return rename_common(from_folder, from, to_folder, to, 0);
}

int
renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    return rename_common(from_folder, from, to_folder, to, flags);
}

static int
link_common(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    char new[PATH_BYTES];
    struct stat facts;
    full_path(to_folder, to, new);
    if (fails("link", new)) {
        return -1;
    }
    const int result = REAL(linkat)(from_folder, from, to_folder, to, flags);
    if (result == 0 && shim.log >= 0 && is_below(new) && stat(new, &facts) == 0) {
        record_change("create", (uint64_t)facts.st_ino, 0, new, "link", NULL, 0);
    }
    return result;
}

int
link(const char *from, const char *to)
{
    return link_common(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int
linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    return link_common(from_folder, from, to_folder, to, flags);
}

static int
unlink_common(int folder, const char *name, int flags)
{
    char path[PATH_BYTES];
    full_path(folder, name, path);
    if (fails("unlink", path)) {
        return -1;
    }
    const int result = REAL(unlinkat)(folder, name, flags);
    if (result == 0 && shim.log >= 0 && is_below(path)) {
        record_change("unlink", 0, 0, path, NULL, NULL, 0);
    }
    return result;
}

int
unlink(const char *path)
{
    return unlink_common(AT_FDCWD, path, 0);
}

int
unlinkat(int folder, const char *name, int flags)
{
    return unlink_common(folder, name, flags);
}

static int
mkdir_common(int folder, const char *name, mode_t mode)
{
    char path[PATH_BYTES];
    full_path(folder, name, path);
    if (fails("mkdir", path)) {
        return -1;
    }
    const int result = REAL(mkdirat)(folder, name, mode);
    if (result == 0 && shim.log >= 0 && is_below(path)) {
        record_change("mkdir", 0, 0, path, NULL, NULL, 0);
    }
    return result;
}

int
mkdir(const char *path, mode_t mode)
{
    return mkdir_common(AT_FDCWD, path, mode);
}

int
mkdirat(int folder, const char *name, mode_t mode)
{
    return mkdir_common(folder, name, mode);
}

void *
mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    if (file >= 0 && fails_descriptor("mmap", file)) {
        return MAP_FAILED;
    }
    void *const made = REAL(mmap)(address, length, protection, flags, file, offset);
    char path[PATH_BYTES];
    if (made != MAP_FAILED && file >= 0 && (flags & MAP_TYPE) != MAP_PRIVATE && (protection & PROT_WRITE) != 0 &&
        is_logged(file, path)) {
        watch_map(made, length, file, offset);
    }
    return made;
}

void *
mmap64(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    return mmap(address, length, protection, flags, file, offset);
}

int
munmap(void *address, size_t length)
{
    if (shim.log >= 0) {
        forget_map(address);
    }
    return REAL(munmap)(address, length);
}

int
ftruncate(int file, off_t length)
{
    char path[PATH_BYTES];
    if (fails_descriptor("ftruncate", file)) {
        return -1;
    }
    const int result = REAL(ftruncate)(file, length);
    if (result == 0 && is_logged(file, path)) {
        record_change("truncate", inode_of(file), length, NULL, NULL, NULL, 0);
    }
    return result;
}

int
ftruncate64(int file, off_t length)
{
    return ftruncate(file, length);
}

static void
record_growth(int file)
{
    char path[PATH_BYTES];
    struct stat facts;
    if (is_logged(file, path) && fstat(file, &facts) == 0) {
        record_change("truncate", (uint64_t)facts.st_ino, facts.st_size, NULL, NULL, NULL, 0);
    }
}

int
fallocate(int file, int mode, off_t offset, off_t length)
{
    const int result = fails_descriptor("fallocate", file) ? -1 : REAL(fallocate)(file, mode, offset, length);
    if (result == 0) {
        record_growth(file);
    }
    return result;
}

int
fallocate64(int file, int mode, off_t offset, off_t length)
{
    return fallocate(file, mode, offset, length);
}

int
posix_fallocate(int file, off_t offset, off_t length)
{
    const int result = fails_descriptor("fallocate", file) ? errno : REAL(posix_fallocate)(file, offset, length);
    if (result == 0) {
        record_growth(file);
    }
    return result;
}

int
posix_fallocate64(int file, off_t offset, off_t length)
{
    return posix_fallocate(file, offset, length);
}

int
flock(int file, int operation)
{
    return operation != LOCK_UN && fails_descriptor("lock", file) ? -1 : REAL(flock)(file, operation);
}

static int
fcntl_common(int file, int command, void *argument)
{
    const int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    if (locks && ((const struct flock *)argument)->l_type != F_UNLCK && fails_descriptor("lock", file)) {
        return -1;
    }
    return REAL(fcntl)(file, command, argument);
}

int
fcntl(int file, int command, ...)
{
    va_list more;
    va_start(more, command);
    void *const argument = va_arg(more, void *);
    va_end(more);
    return fcntl_common(file, command, argument);
}

int
fcntl64(int file, int command, ...)
{
    va_list more;
    va_start(more, command);
    void *const argument = va_arg(more, void *);
    va_end(more);
    return fcntl_common(file, command, argument);
}
