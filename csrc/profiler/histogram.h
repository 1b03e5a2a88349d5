/* histogram.h: how long something took, as a log-linear histogram of ticks with exact figures beside it.
 *
 * Values below 64 have a bucket each; above, every octave [2^e, 2^(e+1)) has 64 equal buckets, so a bucket is never
 * wider than 1/64 of its lower edge and its middle is within 1/128 (0.78 %) of every value in it. The bucket of a value
 * is found by counting leading zeros and shifting. Count, sum, sum of squares (128 bit), smallest and largest are kept
 * apart and are exact. Histograms merge by addition: add(a, b) equals having recorded both into one.
 *
 * Memory: an octave's 64 counters are allocated when the first value falls into it, in two levels, so that a name used
 * once costs less than 1 KB: 112 bytes + 64 for each 8 octaves in use + 512 for each octave in use. Threads: one writer
 * at a time (record, add, clear), any number of readers beside it without a lock. A reader beside a writer sees, for
 * every record in the count it read, that record's value in sum, min, max and buckets; figures of records that are just
 * being written may be there in part. clear() and destroy() need readers to be kept out.
 */
#ifndef PFO_PROFILER_HISTOGRAM_H
#define PFO_PROFILER_HISTOGRAM_H

#include "base/status.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PFO_HISTOGRAM_SUB_BITS = 6,
    PFO_HISTOGRAM_PER_OCTAVE = 1 << PFO_HISTOGRAM_SUB_BITS,
    PFO_HISTOGRAM_OCTAVES = 64 - PFO_HISTOGRAM_SUB_BITS, /* the first holds 0..63 one by one */
    PFO_HISTOGRAM_BUCKETS = PFO_HISTOGRAM_OCTAVES * PFO_HISTOGRAM_PER_OCTAVE
};

typedef struct pfo_histogram pfo_histogram;

/* An empty histogram, NULL when memory is out. */
pfo_histogram *pfo_histogram_create(void);
void pfo_histogram_destroy(pfo_histogram *histogram); /* NULL is allowed */

/* Adds one value; a negative one (a clock that went back) counts as 0. PFO_NO_MEMORY: nothing was added. */
pfo_status pfo_histogram_record(pfo_histogram *histogram, int64_t ticks);

/* Adds all of `from`, which may have a writer at work. PFO_NO_MEMORY: `into` holds a part of it and is good for clear
 * only. */
pfo_status pfo_histogram_add(pfo_histogram *into, const pfo_histogram *from);

/* The same for values in another unit: each bucket of `from` goes to where its middle times `factor` lies, and the exact
 * figures are scaled. A value is then within 1/128 of its old bucket's middle and that within 1/128 of its new one's.
 * pre: factor > 0, and `from` has no writer. */
pfo_status pfo_histogram_add_scaled(pfo_histogram *into, const pfo_histogram *from, double factor);

/* What is exact beside the buckets, for storing a histogram: restore() takes it into an empty one, whose buckets
 * set_bucket() then fills. PFO_NO_MEMORY. pre: 0 <= bucket < PFO_HISTOGRAM_BUCKETS. */
typedef struct pfo_histogram_facts {
    uint64_t count, sum;
    uint64_t squares_low, squares_high; /* sum of squares, 127 bits */
    int64_t smallest, largest;          /* 0 when empty */
} pfo_histogram_facts;

pfo_histogram_facts pfo_histogram_get_facts(const pfo_histogram *histogram);
void pfo_histogram_restore(pfo_histogram *histogram, const pfo_histogram_facts *facts);
pfo_status pfo_histogram_set_bucket(pfo_histogram *histogram, int bucket, uint64_t count);

/* Empties it and keeps its memory for reuse. */
void pfo_histogram_clear(pfo_histogram *histogram);

uint64_t pfo_histogram_count(const pfo_histogram *histogram);
uint64_t pfo_histogram_sum(const pfo_histogram *histogram);
double pfo_histogram_sum_of_squares(const pfo_histogram *histogram); /* the exact integer, rounded once */
int64_t pfo_histogram_min(const pfo_histogram *histogram);           /* 0 when empty */
int64_t pfo_histogram_max(const pfo_histogram *histogram);           /* 0 when empty */

/* Quantiles by nearest rank: the value that at least ceil(q * count) of the values do not exceed, within 0.78 %; exact
 * for the first and the last rank. pre: 0 <= fractions[0] <= fractions[1] ... <= 1. All 0 when empty. O(buckets in
 * use). */
void pfo_histogram_quantiles(const pfo_histogram *histogram, const double *fractions, int how_many, double *ticks);

/* The bucket of a value, and a bucket's smallest value; buckets are numbered in the order of their values from 0. */
int pfo_histogram_bucket_of(int64_t ticks);
int64_t pfo_histogram_bucket_low(int bucket);
uint64_t pfo_histogram_bucket_count(const pfo_histogram *histogram, int bucket);

/* Bytes this histogram holds. */
size_t pfo_histogram_bytes(const pfo_histogram *histogram);

#endif
