/* disk_files.h: every system call of the disk tier, in one place, so that tests can make the n-th one fail or be cut short.
 *
 * Contract: functions return 0 or an errno value unless they say otherwise; calls are repeated after EINTR, reads and writes until they
 * are whole. Names are relative to an open directory. A pfo_file remembers device and inode: a program may close descriptors that it
 * does not know, and the number may then name another file, which we must not write to, lock or close.
 * Threads: no state besides the tests' countdown. Memory: none.
 */
#ifndef PFO_CACHE_DISK_FILES_H
#define PFO_CACHE_DISK_FILES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

typedef struct pfo_file {
    int descriptor; /* -1: closed */
    uint64_t device;
    uint64_t inode;
} pfo_file;

#define PFO_FILE_CLOSED { -1, 0, 0 }

/* flags as for open(); a new file has mode 0600. Anything but a regular file, or a folder where O_DIRECTORY asks for one, is refused with
 * EINVAL: nothing else belongs into a cache, and opening it may wait for ever. */
int pfo_file_open(pfo_file *file, int directory, const char *name, int flags);
void pfo_file_close(pfo_file *file); /* a closed one is allowed */

/* Lets the open descriptor of `file` name the file that `other` is, in one step: others may be using it. Closes `other` in any case. */
int pfo_file_exchange(pfo_file *file, pfo_file *other);

/* 1 if the descriptor still names the file that was opened; *facts then describes it. */
int pfo_file_is_ours(const pfo_file *file, struct stat *facts);

/* Bytes read: fewer than asked for only at the file's end or on an error. */
size_t pfo_file_read(int descriptor, void *data, size_t length, uint64_t offset);
/* All of it or an errno value: EIO for what the disk cannot read, ENODATA behind the file's end. */
int pfo_file_read_whole(int descriptor, void *data, size_t length, uint64_t offset);
int pfo_file_write(int descriptor, const void *data, size_t length, uint64_t offset);
int pfo_file_sync(int descriptor);
int pfo_file_sync_all(int descriptor); /* everything written to the file system that the descriptor is on */
int pfo_file_truncate(int descriptor, uint64_t length);
/* The first length bytes of a new file have room on the disk: a full disk is an error here and not a signal later. */
int pfo_file_allocate(int descriptor, uint64_t length);
/* The same as a wish: blocks are found in one go and not write by write. 0 also where the file system cannot, or a
 * signal came between: the writes will tell. */
int pfo_file_reserve(int descriptor, uint64_t length);
int pfo_file_rename(int directory, const char *from, const char *to);
int pfo_file_remove(int directory, const char *name);
int pfo_file_make_directory(int directory, const char *name); /* mode 0700; one that is there is fine */

/* protection and flags as for mmap(); NULL on failure. */
void *pfo_file_map(int descriptor, size_t length, int protection, int flags);

/* Brings all of a map into memory. EIO when the disk cannot read a page of it, which to touch would be a signal. 0 where the system (Linux
 * before 5.14) cannot tell. */
int pfo_file_populate(const pfo_file *file, void *map, size_t length);

/* The same for the map of a file that is touched in few places: what is in memory already is left where it is. */
int pfo_file_load(const pfo_file *file, void *map, size_t length);

/* Open file description locks: kind F_RDLCK, F_WRLCK or F_UNLCK, over the whole file. EAGAIN when taken and not waiting. */
int pfo_file_lock(int descriptor, short kind, int waiting);

#ifdef PFO_TESTING
typedef enum pfo_fault { PFO_FAULT_IO, PFO_FAULT_FULL, PFO_FAULT_SHORT } pfo_fault;
/* The n-th call from now on fails, once (n >= 1), or moves only half of its bytes and then fails (SHORT); 0 switches injection off. */
void pfo_files_fail_at(long n, pfo_fault fault);
/* pfo_file_reserve() and pfo_file_allocate() meet a file system that answers with this errno value; 0: one that can. */
void pfo_files_refuse_reserving(int error);
void pfo_files_fail_from(long n, pfo_fault fault); /* the n-th and all after it, until pfo_files_fail_at(0, ...) */
/* These bytes of a file (whole pages) cannot be read any more, until pages are written whole. begin == end: all can. */
void pfo_files_unreadable(uint64_t inode, uint64_t begin, uint64_t end);
void pfo_files_refuse_room(int refuses); /* other than 0: the disk is full */
long pfo_files_synced(void);             /* files and folders that were synced so far */
#endif

#endif
