/* fingerprint_arrow_parts.h: what the files of the Arrow fingerprint share; the scheme is in fingerprint_arrow.h.
 *
 * fingerprint_arrow_type.c knows formats and types, fingerprint_arrow_ranges.c ranges of slots and their validity,
 * fingerprint_arrow_values.c layouts that hold values, fingerprint_arrow.c layouts made of other columns.
 * Threads and memory: as fingerprint_arrow.h says. A function that gives PFO_BAD_ARGUMENT leaves the text to its caller.
 */
#ifndef PFO_CACHE_FINGERPRINT_ARROW_PARTS_H
#define PFO_CACHE_FINGERPRINT_ARROW_PARTS_H

#include "cache/fingerprint_arrow.h"
#include "cache/fingerprint_pieces.h"

typedef enum pfo_arrow_layout {
    PFO_ARROW_NULL,
    PFO_ARROW_BOOLEAN,
    PFO_ARROW_FIXED,
    PFO_ARROW_BYTES,
    PFO_ARROW_BYTES_VIEW,
    PFO_ARROW_LIST,
    PFO_ARROW_LIST_VIEW,
    PFO_ARROW_FIXED_LIST,
    PFO_ARROW_STRUCT,
    PFO_ARROW_SPARSE_UNION,
    PFO_ARROW_DENSE_UNION,
    PFO_ARROW_DICTIONARY,
    PFO_ARROW_RUN_ENDS,
} pfo_arrow_layout;

typedef struct pfo_arrow_kind {
    pfo_arrow_layout layout;
    int64_t width; /* bytes of a value, an offset, an index or a run end; elements of a fixed-size list */
} pfo_arrow_kind;

typedef struct pfo_arrow_walk {
    pfo_encoder *encoder;
    pfo_error *err;
    int depth;
} pfo_arrow_walk;

pfo_status pfo_arrow_kind_of(const struct ArrowSchema *schema, pfo_arrow_kind *found, pfo_error *err);
pfo_status pfo_arrow_encode_type(pfo_arrow_walk *at, const struct ArrowSchema *schema);

/* Slots [first, first + count) of an array, counted from the start of its buffers (its offset is in `first`). */
typedef struct pfo_arrow_range {
    const struct ArrowArray *array;
    int64_t first;
    int64_t count;
} pfo_arrow_range;

/* pfo_free(items) releases a list. */
typedef struct pfo_arrow_ranges {
    pfo_arrow_range *items;
    size_t count;
    size_t capacity;
    int64_t slots; /* in all ranges */
} pfo_arrow_ranges;

/* Neighbours become one range, so that a column without nulls is one range per array all the way down. */
pfo_status pfo_arrow_add_range(pfo_arrow_ranges *list, const struct ArrowArray *array, int64_t first, int64_t count);

/* Slots [first, first + count) of a child, counted from the child's own offset. BAD_ARGUMENT where the child has no such slots. */
pfo_status pfo_arrow_add_child_range(pfo_arrow_ranges *list, const struct ArrowArray *child, int64_t first,
                                     int64_t count);

/* The bitmap of an array whose layout has one; NULL if all slots are valid. */
const unsigned char *pfo_arrow_validity(const struct ArrowArray *array);

static inline int
pfo_arrow_bit(const unsigned char *bits, int64_t index)
{
    return bits[index / 8] >> (index % 8) & 1;
}

/* The number of slots from `index` on, up to `end`, that are as valid as the first of them, which *valid tells. bits == NULL: all. */
int64_t pfo_arrow_run(const unsigned char *bits, int64_t index, int64_t end, int *valid);

/* Calls visit for each run of slots of one validity, in order, until it fails. */
typedef pfo_status (*pfo_arrow_visitor)(void *context, const pfo_arrow_range *run, int valid);
pfo_status pfo_arrow_visit_runs(const pfo_arrow_ranges *slots, pfo_arrow_visitor visit, void *context);

/* A signed number out of an array of numbers of `width` bytes. */
static inline int64_t
pfo_arrow_signed(const void *numbers, int64_t width, int64_t index)
{
    switch (width) {
    case 1:
        return ((const int8_t *)numbers)[index];
    case 2:
        return ((const int16_t *)numbers)[index];
    case 4:
        return ((const int32_t *)numbers)[index];
    default:
        return ((const int64_t *)numbers)[index];
    }
}

/* What a slot of a variable-size layout refers to. pre: BYTES, BYTES_VIEW, LIST or LIST_VIEW. */
typedef struct pfo_arrow_extent {
    int64_t begin;
    int64_t length;
} pfo_arrow_extent;

pfo_arrow_extent pfo_arrow_extent_at(pfo_arrow_kind kind, const struct ArrowArray *array, int64_t slot);

/* Validity and lengths; *total is the sum of the lengths. */
pfo_status pfo_arrow_encode_lengths(pfo_arrow_walk *at, const pfo_arrow_ranges *slots, pfo_arrow_kind kind,
                                    uint64_t *total);

void pfo_arrow_encode_validity(pfo_arrow_walk *at, const pfo_arrow_ranges *slots);
pfo_status pfo_arrow_encode_booleans(pfo_arrow_walk *at, const pfo_arrow_ranges *slots);
pfo_status pfo_arrow_encode_fixed(pfo_arrow_walk *at, const pfo_arrow_ranges *slots, int64_t width);
pfo_status pfo_arrow_encode_bytes(pfo_arrow_walk *at, const pfo_arrow_ranges *slots, pfo_arrow_kind kind);

#endif
