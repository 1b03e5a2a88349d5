/* procfile.h: the kernel's small text files (/proc, cgroup), read whole, and their few number formats.
 *
 * Contract: readers give -1 or a status when a file is missing or unreadable and leave no partial text behind. A kept
 * file stays open and is read from its start with pread(), so several threads may read one at once.
 * A program may close descriptors it does not know (daemons do), and the number may then name another file: a kept
 * file remembers device and inode and is neither read nor closed when it is not ours any more.
 * Threads: no globals. Memory: pfo_procfile_read_all() gives its caller a block to pfo_free(); nothing else is
 * allocated.
 */
#ifndef PFO_BASE_PROCFILE_H
#define PFO_BASE_PROCFILE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct pfo_kept_file {
    int descriptor; /* -1: closed */
    uint64_t device;
    uint64_t inode;
} pfo_kept_file;

#define PFO_KEPT_FILE_INIT { -1, 0, 0 }

/* 1 if path could be opened for reading, else 0 and the file is closed. */
int pfo_kept_file_open(pfo_kept_file *file, const char *path);
/* Up to size - 1 bytes from the file's start, NUL-terminated; their number, or -1. pre: size >= 1. */
ptrdiff_t pfo_kept_file_read(const pfo_kept_file *file, char *text, size_t size);
/* Closes the descriptor if it still names the file that was opened. A closed file is allowed. */
void pfo_kept_file_close(pfo_kept_file *file);

/* Opens, reads up to size - 1 bytes, NUL-terminates, closes; the number of bytes, or -1. pre: size >= 1. */
ptrdiff_t pfo_procfile_read(const char *path, char *text, size_t size);
/* The whole file, NUL-terminated, in a new block. PFO_UNAVAILABLE when it cannot be opened, PFO_IO when it cannot be
 * read or is longer than 16 MiB, PFO_NO_MEMORY. */
pfo_status pfo_procfile_read_all(const char *path, char **text, pfo_error *err);

/* The decimal number text begins with (after blanks), or INT64_MAX for the word "max"; numbers beyond int64_t saturate.
 * The first byte after it, or NULL if there is no number. */
const char *pfo_procfile_number(const char *text, int64_t *value);
/* The number on the line "key value" or "key: value"; 1 if there is such a line, else 0 and *value is left alone. */
int pfo_procfile_field(const char *text, const char *key, int64_t *value);

#endif
