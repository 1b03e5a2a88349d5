/* export_file.h: an export into a file, whole or not at all.
 *
 * The bytes go to a new file beside the path, which takes the path's place once everything is written; after a failure the
 * path is as it was and nothing is left over. A path that exists and is no regular file (a pipe, /dev/stdout) is
 * written to directly. Nothing is synced: an export can be made again.
 * Threads: any, each with its own call. Memory: the export's.
 */
#ifndef PFO_PROFILER_EXPORT_FILE_H
#define PFO_PROFILER_EXPORT_FILE_H

#include "profiler/export.h"

/* PFO_IO names the path and the system's reason; else as pfo_export(). */
pfo_status pfo_export_to_file(pfo_export_format format, const pfo_capture *capture, const pfo_span_source *source,
                              const char *path, pfo_error *err);

/* A sink over an open descriptor, which stays the caller's. It writes all or fails with PFO_IO. */
pfo_sink pfo_sink_to_descriptor(const int *descriptor);

#endif
