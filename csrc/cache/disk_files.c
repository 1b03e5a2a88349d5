/* disk_files.c: see disk_files.h. */
#include "cache/disk_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* renameat() */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef PFO_TESTING
#include <stdatomic.h>

static atomic_long fail_countdown; /* 0: off; 1: this one fails; -1: all fail */
static atomic_int fail_fault;
static atomic_int refuses_reserving;

void
pfo_files_refuse_reserving(int error)
{
    atomic_store(&refuses_reserving, error);
}
static atomic_int fail_on; /* and all after it */
static atomic_long synced;
static atomic_int is_full;

void
pfo_files_refuse_room(int refuses)
{
    atomic_store(&is_full, refuses);
}

static int
injected_full(void)
{
    return atomic_load(&is_full);
}

void
pfo_files_fail_at(long n, pfo_fault fault)
{
    atomic_store(&fail_fault, (int)fault);
    atomic_store(&fail_on, 0);
    atomic_store(&fail_countdown, n);
}

void
pfo_files_fail_from(long n, pfo_fault fault)
{
    atomic_store(&fail_fault, (int)fault);
    atomic_store(&fail_on, 1);
    atomic_store(&fail_countdown, n);
}

long
pfo_files_synced(void)
{
    return atomic_load(&synced);
}

static void
count_sync(void)
{
    atomic_fetch_add(&synced, 1);
}

enum { SECTOR = 4096 };
static _Atomic uint64_t bad_inode;
static _Atomic uint64_t bad_begin;
static _Atomic uint64_t bad_end;

void
pfo_files_unreadable(uint64_t inode, uint64_t begin, uint64_t end)
{
    atomic_store(&bad_inode, begin < end ? inode : 0);
    atomic_store(&bad_begin, begin);
    atomic_store(&bad_end, end);
}

/* How many of the bytes from offset on can be read. */
static size_t
readable(int descriptor, size_t length, uint64_t offset)
{
    struct stat facts;
    const uint64_t begin = atomic_load(&bad_begin);
    if (atomic_load(&bad_inode) == 0 || fstat(descriptor, &facts) != 0 || facts.st_ino != atomic_load(&bad_inode) ||
        offset >= atomic_load(&bad_end) || offset + length <= begin) {
        return length;
    }
    return offset >= begin ? 0 : (size_t)(begin - offset);
}

/* A page that is written whole can be read again; one that is written in part would have to be read for that. */
static int
injected_write_error(int descriptor, size_t length, uint64_t offset)
{
    if (readable(descriptor, length, offset) == length) {
        return 0;
    }
    if (offset % SECTOR != 0 || length % SECTOR != 0) {
        return EIO;
    }
    if (offset <= atomic_load(&bad_begin) && offset + length >= atomic_load(&bad_begin)) {
        atomic_store(&bad_begin, offset + length);
    }
    return 0;
}

/* 0, or the errno value this call shall fail with. */
static int
injected_error(void)
{
    long seen = atomic_load(&fail_countdown);
    while (seen > 0 &&
           !atomic_compare_exchange_weak(&fail_countdown, &seen, seen == 1 && atomic_load(&fail_on) ? -1 : seen - 1)) {
    }
    if (seen != 1 && seen != -1) {
        return 0;
    }
    return atomic_load(&fail_fault) == PFO_FAULT_FULL ? ENOSPC : EIO;
}

/* What a cut transfer still moves. */
static size_t
injected_share(size_t length)
{
    return atomic_load(&fail_fault) == PFO_FAULT_SHORT ? length / 2 : 0;
}

static int
system_allocate(int descriptor, uint64_t length)
{
    const int refusal = atomic_load(&refuses_reserving);
    return refusal != 0 ? refusal : posix_fallocate(descriptor, 0, (off_t)length);
}

static int
system_fallocate(int descriptor, uint64_t length)
{
    const int refusal = atomic_load(&refuses_reserving);
    if (refusal != 0) {
        errno = refusal;
        return -1;
    }
    return fallocate(descriptor, 0, 0, (off_t)length);
}
#else
static int
injected_full(void)
{
    return 0;
}

static size_t
readable(int descriptor, size_t length, uint64_t offset)
{
    (void)descriptor;
    (void)offset;
    return length;
}

static int
injected_write_error(int descriptor, size_t length, uint64_t offset)
{
    (void)descriptor;
    (void)length;
    (void)offset;
    return 0;
}

static void
count_sync(void)
{
}

static int
system_allocate(int descriptor, uint64_t length)
{
    return posix_fallocate(descriptor, 0, (off_t)length);
}

static int
system_fallocate(int descriptor, uint64_t length)
{
    return fallocate(descriptor, 0, 0, (off_t)length);
}

static int
injected_error(void)
{
    return 0;
}

static size_t
injected_share(size_t length)
{
    (void)length;
    return 0;
}
#endif

static int
result_of(int returned)
{
    return returned == 0 ? 0 : errno;
}

int
pfo_file_open(pfo_file *file, int directory, const char *name, int flags)
{
    struct stat facts;
    file->descriptor = -1;
    int error = injected_error();
    if (error != 0) {
        return error;
    }
    do {
        file->descriptor = openat(directory, name, flags | O_CLOEXEC | O_NONBLOCK, 0600);
    } while (file->descriptor < 0 && errno == EINTR);
    if (file->descriptor < 0) {
        return errno;
    }
    if (fstat(file->descriptor, &facts) != 0) {
        error = errno;
    } else if (!S_ISREG(facts.st_mode) && (flags & O_DIRECTORY) == 0) {
        error = EINVAL;
    }
    if (error != 0) {
        (void)close(file->descriptor);
        file->descriptor = -1;
        return error;
    }
    file->device = (uint64_t)facts.st_dev;
    file->inode = (uint64_t)facts.st_ino;
    return 0;
}

/* Every hit on disk asks this: newer C libraries make fstat() a newfstatat() with an empty path, a tenth slower. */
static int
stat_descriptor(int descriptor, struct stat *facts)
{
#if defined(__x86_64__) && defined(__LP64__) && defined(SYS_fstat)
    return (int)syscall(SYS_fstat, descriptor, facts); /* here the kernel's struct is the library's */
#else
    return fstat(descriptor, facts);
#endif
}

int
pfo_file_is_ours(const pfo_file *file, struct stat *facts)
{
    return file->descriptor >= 0 && stat_descriptor(file->descriptor, facts) == 0 &&
           file->device == (uint64_t)facts->st_dev && file->inode == (uint64_t)facts->st_ino;
}

void
pfo_file_close(pfo_file *file)
{
    struct stat facts;
    if (pfo_file_is_ours(file, &facts)) {
        (void)close(file->descriptor);
    }
    file->descriptor = -1;
}

int
pfo_file_exchange(pfo_file *file, pfo_file *other)
{
    int error = injected_error();
    if (error == 0 && dup3(other->descriptor, file->descriptor, O_CLOEXEC) < 0) {
        error = errno;
    }
    if (error == 0) {
        file->device = other->device;
        file->inode = other->inode;
    }
    pfo_file_close(other);
    return error;
}

static size_t
read_all(int descriptor, unsigned char *data, size_t wanted, uint64_t offset)
{
    const size_t length = readable(descriptor, wanted, offset);
    size_t done = 0;
    while (done < length) {
        const ssize_t got = pread(descriptor, data + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        done += (size_t)got;
    }
    return done;
}

size_t
pfo_file_read(int descriptor, void *data, size_t length, uint64_t offset)
{
    return read_all(descriptor, data, injected_error() != 0 ? injected_share(length) : length, offset);
}

int
pfo_file_read_whole(int descriptor, void *data, size_t length, uint64_t offset)
{
    const int error = injected_error();
    if (error != 0 || readable(descriptor, length, offset) != length) {
        return error != 0 ? error : EIO;
    }
    errno = 0;
    return read_all(descriptor, data, length, offset) == length ? 0 : errno != 0 ? errno : ENODATA;
}

static int
write_all(int descriptor, const unsigned char *data, size_t length, uint64_t offset)
{
    size_t done = 0;
    while (done < length) {
        const ssize_t put = pwrite(descriptor, data + done, length - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return put < 0 ? errno : EIO;
        }
        done += (size_t)put;
    }
    return 0;
}

int
pfo_file_write(int descriptor, const void *data, size_t length, uint64_t offset)
{
    const int error = injected_error();
    if (error != 0) {
        (void)write_all(descriptor, data, injected_share(length), offset);
        return error;
    }
    const int refused = injected_write_error(descriptor, length, offset);
    return refused != 0 ? refused : write_all(descriptor, data, length, offset);
}

int
pfo_file_sync(int descriptor)
{
    const int error = injected_error();
    count_sync();
    return error != 0 ? error : result_of(fsync(descriptor));
}

int
pfo_file_sync_all(int descriptor)
{
    const int error = injected_error();
    return error != 0 ? error : result_of(syncfs(descriptor));
}

int
pfo_file_truncate(int descriptor, uint64_t length)
{
    const int error = injected_error();
    return error != 0 ? error : result_of(ftruncate(descriptor, (off_t)length));
}

static int
write_zeros(int descriptor, uint64_t length)
{
    static const unsigned char zeros[16 * 1024];
    int error = 0;
    for (uint64_t done = 0; done < length && error == 0; done += sizeof zeros) {
        const uint64_t left = length - done;
        error = write_all(descriptor, zeros, left < sizeof zeros ? (size_t)left : sizeof zeros, done);
    }
    return error;
}

int
pfo_file_allocate(int descriptor, uint64_t length)
{
    const int error = injected_full() ? ENOSPC : injected_error();
    if (error != 0) {
        return error;
    }
    const int result = system_allocate(descriptor, length);
    /* A memory file system undoes all of it for a signal: with a profiler's timer, repeating it could last for ever. */
    return result == EINTR ? write_zeros(descriptor, length) : result;
}

int
pfo_file_reserve(int descriptor, uint64_t length)
{
    int error = injected_error();
    if (error == 0) {
        error = result_of(system_fallocate(descriptor, length));
    }
    return error == EOPNOTSUPP || error == ENOSYS || error == EINTR ? 0 : error;
}

int
pfo_file_rename(int directory, const char *from, const char *to)
{
    const int error = injected_error();
    return error != 0 ? error : result_of(renameat(directory, from, directory, to));
}

int
pfo_file_remove(int directory, const char *name)
{
    const int error = injected_error();
    return error != 0 ? error : result_of(unlinkat(directory, name, 0));
}

int
pfo_file_make_directory(int directory, const char *name)
{
    int error = injected_error();
    if (error == 0) {
        error = result_of(mkdirat(directory, name, 0700));
    }
    return error == EEXIST ? 0 : error;
}

void *
pfo_file_map(int descriptor, size_t length, int protection, int flags)
{
    if (injected_error() != 0) {
        return NULL;
    }
    void *map = mmap(NULL, length, protection, flags, descriptor, 0);
    return map == MAP_FAILED ? NULL : map;
}

int
pfo_file_populate(const pfo_file *file, void *map, size_t length)
{
    if (readable(file->descriptor, length, 0) != length) {
        return EIO;
    }
#ifdef MADV_POPULATE_READ
    int error;
    do {
        error = result_of(madvise(map, length, MADV_POPULATE_READ));
    } while (error == EINTR || error == EAGAIN);
    return error == EFAULT || error == EHWPOISON ? EIO : 0; /* others: no memory now, or an older system */
#else
    (void)map;
    return 0;
#endif
}

/* Whether the page cache holds all of it, read without an error. For a file that we may not write to the system may say so of any page. */
static int
is_in_memory(void *map, size_t length, size_t page)
{
    enum { WINDOW = 4096 }; /* pages asked for at once */
    unsigned char held[WINDOW];
    for (size_t begin = 0; begin < length; begin += WINDOW * page) {
        const size_t part = length - begin < WINDOW * page ? length - begin : WINDOW * page;
        if (mincore((char *)map + begin, part, held) != 0) {
            return 0;
        }
        for (size_t i = 0; i < (part + page - 1) / page; i++) {
            if ((held[i] & 1) == 0) {
                return 0;
            }
        }
    }
    return 1;
}

int
pfo_file_load(const pfo_file *file, void *map, size_t length)
{
    const int may_write = (fcntl(file->descriptor, F_GETFL) & O_ACCMODE) == O_RDWR;
    if (may_write && is_in_memory(map, length, (size_t)sysconf(_SC_PAGESIZE)) &&
        readable(file->descriptor, length, 0) == length) {
        return 0;
    }
    return pfo_file_populate(file, map, length);
}

int
pfo_file_lock(int descriptor, short kind, int waiting)
{
    struct flock request = { .l_type = kind, .l_whence = SEEK_SET };
    int error = kind == F_UNLCK ? 0 : injected_error(); /* giving back does not fail */
    if (error != 0) {
        return error;
    }
    do {
        error = result_of(fcntl(descriptor, waiting ? F_OFD_SETLKW : F_OFD_SETLK, &request));
    } while (error == EINTR);
    return error == EACCES ? EAGAIN : error;
}
