/* export_file.c: see export_file.h for the contract. */
#include "profiler/export_file.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NEW_NAME_TRIES = 100, NEW_NAME_ROOM = 32 };

/* The system's text of an errno, never NULL; GNU's strerror_r may use the buffer or a string of its own. */
static const char *
reason(int number, char *buffer, size_t bytes)
{
    return strerror_r(number, buffer, bytes);
}

static pfo_status
fail_io(pfo_error *err, const char *what, const char *path, int number)
{
    char buffer[128];
    return pfo_fail(err, PFO_IO, "%s %.100s: %s", what, path, reason(number, buffer, sizeof buffer));
}

static pfo_status
write_all(void *context, const void *bytes, size_t length, pfo_error *err)
{
    const int descriptor = *(const int *)context;
    const char *at = bytes;
    while (length > 0) {
        const ssize_t written = write(descriptor, at, length);
        if (written < 0 && errno != EINTR) {
            char buffer[128];
            return pfo_fail(err, PFO_IO, "the export could not be written: %s", reason(errno, buffer, sizeof buffer));
        }
        if (written > 0) {
            at += written;
            length -= (size_t)written;
        }
    }
    return PFO_OK;
}

pfo_sink
pfo_sink_to_descriptor(const int *descriptor)
{
    union {
        const int *constant;
        void *plain;
    } context = { .constant = descriptor }; /* a sink's context is not const; this one is only read */
    return (pfo_sink){ write_all, context.plain };
}

static pfo_status
write_through(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source, int descriptor,
              pfo_error *err)
{
    const pfo_sink sink = pfo_sink_to_descriptor(&descriptor);
    return pfo_export(format, capture, source, &sink, err);
}

/* Opens a file that was not there, beside the path; `name` is path + ".N.tmp". */
static int
open_new(const char *path, char *name, size_t room)
{
    int descriptor = -1;
    for (int i = 0; i < NEW_NAME_TRIES && descriptor < 0; i++) {
        (void)snprintf(name, room, "%s.%ld-%d.tmp", path, (long)getpid(), i);
        descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor < 0 && errno != EEXIST) {
            return -1;
        }
    }
    return descriptor;
}

static pfo_status
replace(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source, const char *path,
        char *name, size_t room, pfo_error *err)
{
    const int descriptor = open_new(path, name, room);
    if (descriptor < 0) {
        return fail_io(err, "cannot create the export", path, errno);
    }
    pfo_status status = write_through(format, capture, source, descriptor, err);
    if (close(descriptor) != 0 && status == PFO_OK) {
        status = fail_io(err, "cannot finish the export", path, errno);
    }
    if (status == PFO_OK && rename(name, path) != 0) {
        status = fail_io(err, "cannot put the export in its place,", path, errno);
    }
    if (status != PFO_OK) {
        (void)unlink(name);
    }
    return status;
}

pfo_status
pfo_export_to_file(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source,
                   const char *path, pfo_error *err)
{
    struct stat facts;
    if (stat(path, &facts) == 0 && !S_ISREG(facts.st_mode)) {
        const int descriptor = open(path, O_WRONLY | O_CLOEXEC);
        if (descriptor < 0) {
            return fail_io(err, "cannot open the export", path, errno);
        }
        const pfo_status status = write_through(format, capture, source, descriptor, err);
        if (close(descriptor) != 0 && status == PFO_OK) {
            return fail_io(err, "cannot finish the export", path, errno);
        }
        return status;
    }
    const size_t room = strlen(path) + NEW_NAME_ROOM;
    char *name = pfo_alloc(room);
    if (name == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for the export's name");
    }
    const pfo_status status = replace(format, capture, source, path, name, room, err);
    pfo_free(name);
    return status;
}
