/* fingerprint_arrow.c: see fingerprint_arrow.h for the scheme.
 *
 * A column is walked as a list of ranges of slots of its arrays. Each layout writes what its slots hold and gives its children the
 * ranges that are reached from valid slots; so a chunk's border, an offset and a null's leftovers vanish on the way down.
 */
#include "base/alloc.h"
#include "cache/fingerprint_arrow_parts.h"

#include <stdlib.h>
#include <string.h>

static pfo_status encode_column(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_ranges *slots);

/* ---- nested layouts -------------------------------------------------------------------------- */

typedef struct child_ranges {
    pfo_arrow_ranges ranges;
    pfo_arrow_kind kind;
    int64_t child;
} child_ranges;

static pfo_status
add_children_run(void *context, const pfo_arrow_range *run, int valid)
{
    child_ranges *out = context;
    const struct ArrowArray *array = run->array;
    if (!valid) {
        return PFO_OK;
    }
    if (out->child >= array->n_children) {
        return PFO_BAD_ARGUMENT;
    }
    const struct ArrowArray *child = array->children[out->child];
    switch (out->kind.layout) {
    case PFO_ARROW_STRUCT:
        return pfo_arrow_add_child_range(&out->ranges, child, run->first, run->count);
    case PFO_ARROW_FIXED_LIST:
        return pfo_arrow_add_child_range(&out->ranges, child, run->first * out->kind.width,
                                         run->count * out->kind.width);
    case PFO_ARROW_LIST: {
        const int64_t begin = pfo_arrow_signed(array->buffers[1], out->kind.width, run->first);
        const int64_t end = pfo_arrow_signed(array->buffers[1], out->kind.width, run->first + run->count);
        return pfo_arrow_add_child_range(&out->ranges, child, begin, end - begin);
    }
    default: /* PFO_ARROW_LIST_VIEW */
        for (int64_t i = run->first; i < run->first + run->count; i++) {
            const pfo_arrow_extent elements = pfo_arrow_extent_at(out->kind, array, i);
            PFO_TRY(elements.length == 0
                        ? PFO_OK
                        : pfo_arrow_add_child_range(&out->ranges, child, elements.begin, elements.length));
        }
        return PFO_OK;
    }
}

/* One child's column: the elements or fields of the valid slots. */
static pfo_status
encode_child(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_ranges *slots, pfo_arrow_kind kind,
             int64_t child)
{
    child_ranges out = { .kind = kind, .child = child };
    pfo_status status = pfo_arrow_visit_runs(slots, add_children_run, &out);
    if (status == PFO_OK) {
        status = encode_column(at, schema->children[child], &out.ranges);
    }
    pfo_free(out.ranges.items);
    return status;
}

static pfo_status
encode_nested(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_ranges *slots, pfo_arrow_kind kind)
{
    uint64_t ignored;
    if (kind.layout == PFO_ARROW_LIST || kind.layout == PFO_ARROW_LIST_VIEW) {
        PFO_TRY(pfo_arrow_encode_lengths(at, slots, kind, &ignored));
    } else {
        pfo_arrow_encode_validity(at, slots);
    }
    for (int64_t i = 0; i < schema->n_children; i++) {
        PFO_TRY(encode_child(at, schema, slots, kind, i));
    }
    return PFO_OK;
}

/* The type ids of a union's children, from its format "+us:0,1,5"; PFO_BAD_TYPE if the text says something else. */
static pfo_status
type_ids_of(const struct ArrowSchema *schema, signed char child_of[128], pfo_error *err)
{
    const char *text = strchr(schema->format, ':') + 1;
    memset(child_of, -1, 128);
    int64_t child = 0;
    while (*text != '\0') {
        char *end;
        const long id = strtol(text, &end, 10);
        if (end == text || id < 0 || id > 127 || child >= schema->n_children || child > 127) {
            return pfo_fail(err, PFO_BAD_TYPE, "unknown Arrow format '%.60s'", schema->format);
        }
        child_of[id] = (signed char)child++;
        text = *end == ',' ? end + 1 : end;
    }
    return PFO_OK;
}

static pfo_status
collect_chosen(const pfo_arrow_ranges *slots, pfo_arrow_kind kind, const signed char child_of[128], int64_t child,
               pfo_arrow_ranges *chosen)
{
    for (size_t i = 0; i < slots->count; i++) {
        const pfo_arrow_range *r = &slots->items[i];
        const struct ArrowArray *array = r->array;
        const signed char *ids = array->buffers[0];
        for (int64_t slot = r->first; slot < r->first + r->count; slot++) {
            if (ids[slot] < 0 || child_of[(int)ids[slot]] < 0 || child >= array->n_children) {
                return PFO_BAD_ARGUMENT;
            }
            if (child_of[(int)ids[slot]] == child) {
                const int64_t place =
                    kind.layout == PFO_ARROW_DENSE_UNION ? ((const int32_t *)array->buffers[1])[slot] : slot;
                PFO_TRY(pfo_arrow_add_child_range(chosen, array->children[child], place, 1));
            }
        }
    }
    return PFO_OK;
}

static pfo_status
encode_union(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_ranges *slots, pfo_arrow_kind kind)
{
    signed char child_of[128];
    PFO_TRY(type_ids_of(schema, child_of, at->err));
    pfo_pieces pieces;
    pfo_pieces_start(&pieces, at->encoder, 0);
    for (size_t i = 0; i < slots->count; i++) {
        const pfo_arrow_range *r = &slots->items[i];
        pfo_pieces_put(&pieces, (const signed char *)r->array->buffers[0] + r->first, (size_t)r->count);
    }
    pfo_pieces_finish(&pieces);
    for (int64_t child = 0; child < schema->n_children; child++) {
        pfo_arrow_ranges chosen = { NULL, 0, 0, 0 };
        pfo_status status = collect_chosen(slots, kind, child_of, child, &chosen);
        if (status == PFO_OK) {
            status = encode_column(at, schema->children[child], &chosen);
        }
        pfo_free(chosen.items);
        PFO_TRY(status);
    }
    return PFO_OK;
}

/* ---- layouts that refer to values: dictionary and run-end encoded ---------------------------- */

/* Digest of the column of one slot of an array of values; zeros for a null. index counts from the array's own offset. */
static pfo_status
digest_value(pfo_arrow_walk *at, const struct ArrowSchema *schema, const struct ArrowArray *values, int64_t index,
             pfo_digest *digest)
{
    if (index < 0 || index >= values->length) {
        return PFO_BAD_ARGUMENT;
    }
    pfo_arrow_kind kind;
    PFO_TRY(pfo_arrow_kind_of(schema, &kind, at->err));
    const int64_t slot = values->offset + index;
    const int has_validity = kind.layout != PFO_ARROW_SPARSE_UNION && kind.layout != PFO_ARROW_DENSE_UNION &&
                             kind.layout != PFO_ARROW_RUN_ENDS;
    const unsigned char *bits = has_validity ? pfo_arrow_validity(values) : NULL;
    if (kind.layout == PFO_ARROW_NULL || (bits != NULL && !pfo_arrow_bit(bits, slot))) {
        memset(digest, 0, sizeof *digest);
        return PFO_OK;
    }
    pfo_encoder encoder;
    pfo_encoder_start(&encoder, at->encoder->ops);
    pfo_arrow_walk inner = { &encoder, at->err, at->depth };
    pfo_arrow_range one = { values, slot, 1 };
    const pfo_arrow_ranges single = { &one, 1, 1, 1 };
    const pfo_status status = encode_column(&inner, schema, &single);
    if (status != PFO_OK) {
        pfo_encoder_drop(&encoder);
        return status;
    }
    return pfo_encoder_finish(&encoder, digest);
}

typedef struct dictionary_run {
    pfo_arrow_walk *at;
    pfo_pieces pieces;
    const struct ArrowSchema *schema; /* of the values */
    const struct ArrowArray *values;  /* whose digests are kept */
    pfo_digest *digests;
    int64_t width;
    int is_unsigned;
} dictionary_run;

/* Whether two arrays of one type are views of the same slots. */
static int
is_same_memory(const struct ArrowArray *left, const struct ArrowArray *right)
{
    return left == right ||
           (left->length == right->length && left->offset == right->offset && left->n_buffers == right->n_buffers &&
            left->n_children == 0 && right->n_children == 0 && left->dictionary == NULL && right->dictionary == NULL &&
            memcmp(left->buffers, right->buffers, (size_t)left->n_buffers * sizeof *left->buffers) == 0);
}

/* Digests of all entries of a dictionary that is not the last array's: chunks usually share one. */
static pfo_status
use_dictionary(dictionary_run *out, const struct ArrowArray *values)
{
    if (values == NULL) {
        return PFO_BAD_ARGUMENT;
    }
    if (out->values != NULL && is_same_memory(values, out->values)) {
        return PFO_OK;
    }
    pfo_free(out->digests);
    out->values = NULL;
    out->digests = pfo_alloc_array((size_t)values->length + 1, sizeof *out->digests);
    if (out->digests == NULL) {
        return PFO_NO_MEMORY;
    }
    for (int64_t i = 0; i < values->length; i++) {
        PFO_TRY(digest_value(out->at, out->schema, values, i, &out->digests[i]));
    }
    out->values = values;
    return PFO_OK;
}

static pfo_status
put_dictionary_run(void *context, const pfo_arrow_range *run, int valid)
{
    dictionary_run *out = context;
    if (!valid) {
        pfo_pieces_put_zeros(&out->pieces, (size_t)run->count * sizeof(pfo_digest));
        return PFO_OK;
    }
    PFO_TRY(use_dictionary(out, run->array->dictionary));
    for (int64_t i = run->first; i < run->first + run->count; i++) {
        int64_t index = pfo_arrow_signed(run->array->buffers[1], out->width, i);
        if (out->is_unsigned && out->width < 8) {
            index &= (INT64_C(1) << (8 * out->width)) - 1;
        }
        if (index < 0 || index >= out->values->length) {
            return PFO_BAD_ARGUMENT;
        }
        pfo_pieces_put(&out->pieces, &out->digests[index], sizeof(pfo_digest));
    }
    return PFO_OK;
}

static pfo_status
encode_dictionary(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_ranges *slots, int64_t width)
{
    dictionary_run out = {
        .at = at,
        .schema = schema->dictionary,
        .width = width,
        .is_unsigned = schema->format[0] >= 'A' && schema->format[0] <= 'Z',
    };
    pfo_pieces_start(&out.pieces, at->encoder, 0);
    const pfo_status status = pfo_arrow_visit_runs(slots, put_dictionary_run, &out);
    pfo_pieces_finish(&out.pieces);
    pfo_free(out.digests);
    return status;
}

typedef struct joined_run {
    uint64_t length;
    pfo_digest digest;
} joined_run;

typedef struct joined_runs {
    joined_run *items;
    size_t count;
    size_t capacity;
} joined_runs;

static pfo_status
join_run(joined_runs *list, uint64_t length, const pfo_digest *digest)
{
    if (list->count > 0 && memcmp(&list->items[list->count - 1].digest, digest, sizeof *digest) == 0) {
        list->items[list->count - 1].length += length;
        return PFO_OK;
    }
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity == 0 ? 16 : list->capacity * 2;
        joined_run *items = pfo_realloc_array(list->items, capacity, sizeof *items);
        if (items == NULL) {
            return PFO_NO_MEMORY;
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = (joined_run){ length, *digest };
    return PFO_OK;
}

static pfo_status
join_runs(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_range *slots, int64_t width,
          joined_runs *list)
{
    const struct ArrowArray *array = slots->array;
    if (array->n_children != 2) {
        return PFO_BAD_ARGUMENT;
    }
    const struct ArrowArray *ends = array->children[0];
    const struct ArrowArray *values = array->children[1];
    int64_t slot = slots->first;
    const int64_t end = slots->first + slots->count;
    int64_t low = 0, high = ends->length; /* the first run that ends behind the first slot */
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (pfo_arrow_signed(ends->buffers[1], width, ends->offset + middle) <= slot) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (int64_t run = low; slot < end; run++) {
        pfo_digest digest;
        if (run >= ends->length) {
            return PFO_BAD_ARGUMENT;
        }
        const int64_t run_end = pfo_arrow_signed(ends->buffers[1], width, ends->offset + run);
        const int64_t until = run_end < end ? run_end : end;
        if (until <= slot) {
            return PFO_BAD_ARGUMENT;
        }
        PFO_TRY(digest_value(at, schema->children[1], values, run, &digest));
        PFO_TRY(join_run(list, (uint64_t)(until - slot), &digest));
        slot = until;
    }
    return PFO_OK;
}

static pfo_status
encode_run_ends(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_ranges *slots, int64_t width)
{
    joined_runs list = { NULL, 0, 0 };
    pfo_status status = PFO_OK;
    for (size_t i = 0; i < slots->count && status == PFO_OK; i++) {
        status = join_runs(at, schema, &slots->items[i], width, &list);
    }
    if (status == PFO_OK) {
        pfo_pieces pieces;
        pfo_encode_number(at->encoder, list.count);
        pfo_pieces_start(&pieces, at->encoder, 0);
        pfo_pieces_put(&pieces, list.items, list.count * sizeof *list.items);
        pfo_pieces_finish(&pieces);
    }
    pfo_free(list.items);
    return status;
}

/* ---- columns --------------------------------------------------------------------------------- */

static pfo_status
encode_layout(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_ranges *slots)
{
    pfo_arrow_kind kind;
    PFO_TRY(pfo_arrow_kind_of(schema, &kind, at->err));
    switch (kind.layout) {
    case PFO_ARROW_NULL:
        return PFO_OK;
    case PFO_ARROW_BOOLEAN:
        return pfo_arrow_encode_booleans(at, slots);
    case PFO_ARROW_FIXED:
        return pfo_arrow_encode_fixed(at, slots, kind.width);
    case PFO_ARROW_BYTES:
    case PFO_ARROW_BYTES_VIEW:
        return pfo_arrow_encode_bytes(at, slots, kind);
    case PFO_ARROW_LIST:
    case PFO_ARROW_LIST_VIEW:
    case PFO_ARROW_FIXED_LIST:
    case PFO_ARROW_STRUCT:
        return encode_nested(at, schema, slots, kind);
    case PFO_ARROW_SPARSE_UNION:
    case PFO_ARROW_DENSE_UNION:
        return encode_union(at, schema, slots, kind);
    case PFO_ARROW_DICTIONARY:
        return encode_dictionary(at, schema, slots, kind.width);
    case PFO_ARROW_RUN_ENDS:
        return encode_run_ends(at, schema, slots, kind.width);
    }
    return PFO_BAD_TYPE;
}

/* pre: pfo_arrow_encode_type() has gone through the schema, so its depth is bounded. */
static pfo_status
encode_column(pfo_arrow_walk *at, const struct ArrowSchema *schema, const pfo_arrow_ranges *slots)
{
    pfo_encode_number(at->encoder, (uint64_t)slots->slots);
    PFO_TRY(encode_layout(at, schema, slots));
    return at->encoder->status;
}

static pfo_status
start(pfo_encoder *encoder, const struct ArrowSchema *schema, char tag, pfo_error *err)
{
    const union {
        uint16_t number;
        unsigned char first;
    } probe = { 1 };
    if (probe.first != 1) {
        return pfo_fail(err, PFO_UNAVAILABLE, "fingerprints of Arrow data need a little-endian machine");
    }
    pfo_arrow_walk at = { encoder, err, 0 };
    pfo_encode_tag(encoder, tag);
    PFO_TRY(pfo_arrow_encode_type(&at, schema));
    return encoder->status;
}

pfo_status
pfo_encode_arrow_schema(pfo_encoder *encoder, const struct ArrowSchema *schema, pfo_error *err)
{
    return start(encoder, schema, 'V', err);
}

pfo_status
pfo_encode_arrow(pfo_encoder *encoder, const struct ArrowSchema *schema, const struct ArrowArray *arrays, size_t count,
                 pfo_error *err)
{
    PFO_TRY(start(encoder, schema, 'W', err));
    pfo_arrow_walk at = { encoder, err, 0 };
    pfo_arrow_ranges slots = { NULL, 0, 0, 0 };
    pfo_status status = PFO_OK;
    for (size_t i = 0; i < count && status == PFO_OK; i++) {
        status = pfo_arrow_add_range(&slots, &arrays[i], arrays[i].offset, arrays[i].length);
    }
    if (status == PFO_OK) {
        status = encode_column(&at, schema, &slots);
    }
    pfo_free(slots.items);
    return status == PFO_BAD_ARGUMENT ? pfo_fail(err, status, "the Arrow data do not fit their type") : status;
}
