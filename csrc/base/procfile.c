/* procfile.c: see procfile.h. Reads are repeated after EINTR; nothing here keeps state. */
#include "base/procfile.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIRST_BLOCK = 4096, LONGEST_FILE = 16 << 20 };

static int
open_for_reading(const char *path)
{
    int descriptor;
    do {
        descriptor = open(path, O_RDONLY | O_CLOEXEC);
    } while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

int
pfo_kept_file_open(pfo_kept_file *file, const char *path)
{
    struct stat facts;
    file->descriptor = open_for_reading(path);
    if (file->descriptor < 0) {
        return 0;
    }
    if (fstat(file->descriptor, &facts) != 0) {
        (void)close(file->descriptor);
        file->descriptor = -1;
        return 0;
    }
    file->device = (uint64_t)facts.st_dev;
    file->inode = (uint64_t)facts.st_ino;
    return 1;
}

/* 1 if the descriptor still names the file that was opened. */
static int
still_ours(const pfo_kept_file *file)
{
    struct stat facts;
    return file->descriptor >= 0 && fstat(file->descriptor, &facts) == 0 && file->device == (uint64_t)facts.st_dev &&
           file->inode == (uint64_t)facts.st_ino;
}

ptrdiff_t
pfo_kept_file_read(const pfo_kept_file *file, char *text, size_t size)
{
    if (!still_ours(file)) {
        return -1;
    }
    ptrdiff_t length;
    do {
        length = pread(file->descriptor, text, size - 1, 0);
    } while (length < 0 && errno == EINTR);
    if (length >= 0) {
        text[length] = '\0';
    }
    return length;
}

void
pfo_kept_file_close(pfo_kept_file *file)
{
    if (still_ours(file)) {
        (void)close(file->descriptor);
    }
    file->descriptor = -1;
}

/* Reads until size - 1 bytes are there or the file ends; -1 on an error. */
static ptrdiff_t
read_up_to(int descriptor, char *text, size_t size)
{
    size_t length = 0;
    while (length < size - 1) {
        const ptrdiff_t got = read(descriptor, text + length, size - 1 - length);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return -1;
        }
        if (got == 0) {
            break;
        }
        length += (size_t)got;
    }
    text[length] = '\0';
    return (ptrdiff_t)length;
}

ptrdiff_t
pfo_procfile_read(const char *path, char *text, size_t size)
{
    const int descriptor = open_for_reading(path);
    if (descriptor < 0) {
        return -1;
    }
    const ptrdiff_t length = read_up_to(descriptor, text, size);
    (void)close(descriptor);
    return length;
}

static pfo_status
read_growing(int descriptor, const char *path, char **text, pfo_error *err)
{
    size_t size = FIRST_BLOCK;
    size_t length = 0;
    char *block = pfo_alloc(size);
    if (block == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory reading %s", path);
    }
    for (;;) {
        const ptrdiff_t got = read_up_to(descriptor, block + length, size - length);
        if (got < 0 || size > LONGEST_FILE) {
            pfo_free(block);
            return pfo_fail(err, PFO_IO, "cannot read %s", path);
        }
        length += (size_t)got;
        if (length + 1 < size) {
            *text = block;
            return PFO_OK;
        }
        char *larger = pfo_realloc_array(block, size, 2);
        if (larger == NULL) {
            pfo_free(block);
            return pfo_fail(err, PFO_NO_MEMORY, "out of memory reading %s", path);
        }
        block = larger;
        size *= 2;
    }
}

pfo_status
pfo_procfile_read_all(const char *path, char **text, pfo_error *err)
{
    *text = NULL;
    const int descriptor = open_for_reading(path);
    if (descriptor < 0) {
        return pfo_fail(err, PFO_UNAVAILABLE, "cannot open %s", path);
    }
    const pfo_status status = read_growing(descriptor, path, text, err);
    (void)close(descriptor);
    return status;
}

const char *
pfo_procfile_number(const char *text, int64_t *value)
{
    while (*text == ' ' || *text == '\t') {
        text++;
    }
    if (strncmp(text, "max", 3) == 0) {
        *value = INT64_MAX;
        return text + 3;
    }
    if (*text < '0' || *text > '9') {
        return NULL;
    }
    int64_t number = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        const int digit = *text - '0';
        number = number > (INT64_MAX - digit) / 10 ? INT64_MAX : number * 10 + digit;
    }
    *value = number;
    return text;
}

int
pfo_procfile_field(const char *text, const char *key, int64_t *value)
{
    const size_t length = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, key, length) == 0) {
            const char *rest = line + length;
            if (*rest == ':') {
                rest++;
            }
            if ((*rest == ' ' || *rest == '\t') && pfo_procfile_number(rest, value) != NULL) {
                return 1;
            }
        }
        const char *end = strchr(line, '\n');
        line = end == NULL ? NULL : end + 1;
    }
    return 0;
}
