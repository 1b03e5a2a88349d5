/* capture_file.h: captures as files.
 *
 * Format, version 1, all numbers little-endian: a header of 64 bytes, the tables, the spans.
 *   header  "PFOCAPT\n", u32 version, u32 header bytes, u64 bytes of tables, u64 spans, u64 XXH3-64 of the tables,
 *           u32 spans a block, 12 bytes of zeros, u64 XXH3-64 of the header's first 56 bytes
 *   tables  the fields of pfo_capture in its order; a text is u64 length and its bytes, a double its IEEE 754 bits, a
 *           histogram its facts and (u16 bucket, u64 count) for each bucket that is not empty
 *   spans   blocks of 2048 (the last may be shorter): 32 bytes a span, then u64 XXH3-64 of the block, seeded with its number
 * A file is written beside its place and renamed, so that it is whole or not there. Whatever differs from what was
 * written is refused: a wrong checksum, a length that does not fit, an index outside its table.
 */
#ifndef PFO_PROFILER_CAPTURE_FILE_H
#define PFO_PROFILER_CAPTURE_FILE_H

#include "profiler/capture.h"

/* Writes the capture and all spans that can be read now; an existing file is replaced, and anything else
 * that is there (a device, a pipe) refused. PFO_IO, PFO_NO_MEMORY. Constant
 * memory beside the tables. */
pfo_status pfo_capture_save(const pfo_capture *capture, const char *path, pfo_error *err);

/* Reads the tables and checks the whole file. Spans stay in it: it is kept open (and may be unlinked, but must not be
 * changed) while the capture, or one merged from it, lives. PFO_IO: cannot be read, is no capture, damaged, or of a later
 * version; PFO_NO_MEMORY. */
pfo_status pfo_capture_load(const char *path, pfo_capture **out, pfo_error *err);

#endif
