/* capture_tables.h: a capture's tables as bytes and back; see capture_file.h for the format. */
#ifndef PFO_PROFILER_CAPTURE_TABLES_H
#define PFO_PROFILER_CAPTURE_TABLES_H

#include "profiler/capture.h"

/* Everything but the spans; *bytes is the caller's, for pfo_free(). PFO_NO_MEMORY. */
pfo_status pfo_capture_encode(const pfo_capture *capture, unsigned char **bytes, size_t *length, pfo_error *err);

/* The capture in these bytes, without spans. Bytes may be anything: PFO_IO unless every length and index fits;
 * PFO_NO_MEMORY. */
pfo_status pfo_capture_decode(const unsigned char *bytes, size_t length, pfo_capture **out, pfo_error *err);

/* A time within 73 years of the capture's base. Whatever of these is added up stays an int64_t, after a merge too. */
static inline int
pfo_capture_time_is_good(int64_t ns)
{
    const int64_t far = (int64_t)1 << 61;
    return -far < ns && ns < far;
}

static inline void
pfo_put_word(unsigned char *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        to[i] = (unsigned char)(value >> (8 * i));
    }
}

static inline uint64_t
pfo_get_word(const unsigned char *from, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) {
        value |= (uint64_t)from[i] << (8 * i);
    }
    return value;
}

#endif
