/* fingerprint_arrow_type.c: Arrow types: what layout a format string means, and the `type` part. See fingerprint_arrow.h. */
#include "base/alloc.h"
#include "cache/fingerprint_arrow_parts.h"

#include <stdlib.h>
#include <string.h>

/* ---- formats --------------------------------------------------------------------------------- */

/* The number after a format's colon; fallback if there is none, -1 if it is none. */
static int64_t
number_after(const char *text, char mark, int64_t fallback)
{
    const char *found = strchr(text, mark);
    if (found == NULL) {
        return fallback;
    }
    char *end;
    const long long number = strtoll(found + 1, &end, 10);
    return end == found + 1 || number < 0 || number > INT32_MAX ? -1 : number;
}

static int64_t
width_of_time(const char *format)
{
    switch (format[1]) {
    case 'd':
        return format[2] == 'D' ? 4 : format[2] == 'm' ? 8 : -1;
    case 't':
        return format[2] != '\0' && strchr("sm", format[2]) != NULL   ? 4
               : format[2] != '\0' && strchr("un", format[2]) != NULL ? 8
                                                                      : -1;
    case 's':
    case 'D':
        return 8;
    case 'i':
        return format[2] == 'M' ? 4 : format[2] == 'D' ? 8 : format[2] == 'n' ? 16 : -1;
    default:
        return -1;
    }
}

static int64_t
width_of_decimal(const char *format)
{
    const char *second = strchr(format, ',');
    const int64_t bits = second == NULL ? -1 : number_after(second + 1, ',', 128);
    return bits > 0 && bits % 8 == 0 && bits <= 256 ? bits / 8 : -1;
}

static int64_t
fixed_width(const char *format)
{
    static const struct {
        char letters[8];
        int64_t width;
    } numbers[] = { { "cC", 1 }, { "sSe", 2 }, { "iIf", 4 }, { "lLg", 8 } };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (format[0] != '\0' && format[1] == '\0' && strchr(numbers[i].letters, format[0]) != NULL) {
            return numbers[i].width;
        }
    }
    return format[0] == 't'   ? width_of_time(format)
           : format[0] == 'w' ? number_after(format, ':', -1)
           : format[0] == 'd' ? width_of_decimal(format)
                              : -1;
}

static pfo_status
kind_of_nested(const struct ArrowSchema *schema, pfo_arrow_kind *found)
{
    static const struct {
        const char *prefix;
        pfo_arrow_kind kind;
    } known[] = {
        { "+l", { PFO_ARROW_LIST, 4 } },          { "+L", { PFO_ARROW_LIST, 8 } },
        { "+m", { PFO_ARROW_LIST, 4 } },          { "+vl", { PFO_ARROW_LIST_VIEW, 4 } },
        { "+vL", { PFO_ARROW_LIST_VIEW, 8 } },    { "+w:", { PFO_ARROW_FIXED_LIST, 0 } },
        { "+s", { PFO_ARROW_STRUCT, 0 } },        { "+us:", { PFO_ARROW_SPARSE_UNION, 0 } },
        { "+ud:", { PFO_ARROW_DENSE_UNION, 0 } }, { "+r", { PFO_ARROW_RUN_ENDS, 0 } },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const size_t length = strlen(known[i].prefix);
        const int is_prefix = known[i].prefix[length - 1] == ':';
        if (is_prefix ? strncmp(schema->format, known[i].prefix, length) == 0
                      : strcmp(schema->format, known[i].prefix) == 0) {
            *found = known[i].kind;
            if (found->layout == PFO_ARROW_FIXED_LIST) {
                found->width = number_after(schema->format, ':', -1);
            } else if (found->layout == PFO_ARROW_RUN_ENDS && schema->n_children == 2) {
                found->width = fixed_width(schema->children[0]->format);
            }
            return found->width < 0 ? PFO_BAD_TYPE : PFO_OK;
        }
    }
    return PFO_BAD_TYPE;
}

pfo_status
pfo_arrow_kind_of(const struct ArrowSchema *schema, pfo_arrow_kind *found, pfo_error *err)
{
    const char *format = schema->format;
    pfo_status status = PFO_OK;
    if (schema->dictionary != NULL) {
        *found = (pfo_arrow_kind){ PFO_ARROW_DICTIONARY, fixed_width(format) };
        status =
            found->width == 1 || found->width == 2 || found->width == 4 || found->width == 8 ? PFO_OK : PFO_BAD_TYPE;
    } else if (format[0] == '+') {
        status = kind_of_nested(schema, found);
    } else if (strcmp(format, "n") == 0) {
        *found = (pfo_arrow_kind){ PFO_ARROW_NULL, 0 };
    } else if (strcmp(format, "b") == 0) {
        *found = (pfo_arrow_kind){ PFO_ARROW_BOOLEAN, 0 };
    } else if (strcmp(format, "u") == 0 || strcmp(format, "z") == 0) {
        *found = (pfo_arrow_kind){ PFO_ARROW_BYTES, 4 };
    } else if (strcmp(format, "U") == 0 || strcmp(format, "Z") == 0) {
        *found = (pfo_arrow_kind){ PFO_ARROW_BYTES, 8 };
    } else if (strcmp(format, "vu") == 0 || strcmp(format, "vz") == 0) {
        *found = (pfo_arrow_kind){ PFO_ARROW_BYTES_VIEW, 16 };
    } else {
        *found = (pfo_arrow_kind){ PFO_ARROW_FIXED, fixed_width(format) };
        status = found->width < 0 ? PFO_BAD_TYPE : PFO_OK;
    }
    return status == PFO_OK ? PFO_OK : pfo_fail(err, status, "unknown Arrow format '%.60s'", format);
}

/* ---- types ----------------------------------------------------------------------------------- */

static int
compare_digests(const void *left, const void *right)
{
    return memcmp(left, right, sizeof(pfo_digest));
}

/* Native int32 numbers, not aligned: how many pairs, then for each the key's and the value's length and bytes. */
static pfo_status
encode_metadata(pfo_arrow_walk *at, const char *metadata)
{
    int32_t pairs = 0;
    if (metadata != NULL) {
        memcpy(&pairs, metadata, sizeof pairs);
        metadata += sizeof pairs;
    }
    if (pairs < 0) {
        return pfo_fail(at->err, PFO_BAD_ARGUMENT, "Arrow metadata with %d pairs", pairs);
    }
    pfo_digest *digests = pfo_alloc_array((size_t)pairs + 1, sizeof *digests);
    if (digests == NULL) {
        return PFO_NO_MEMORY;
    }
    pfo_status status = PFO_OK;
    for (int32_t i = 0; i < pairs && status == PFO_OK; i++) {
        pfo_encoder pair;
        pfo_encoder_start(&pair, at->encoder->ops);
        for (int part = 0; part < 2; part++) {
            int32_t length;
            memcpy(&length, metadata, sizeof length);
            pfo_encode_payload(&pair, 'b', metadata + sizeof length, (size_t)length);
            metadata += sizeof length + (size_t)length;
        }
        status = pfo_encoder_finish(&pair, &digests[i]);
    }
    if (status == PFO_OK) {
        qsort(digests, (size_t)pairs, sizeof *digests, compare_digests);
        pfo_encode_number(at->encoder, (uint64_t)pairs);
        pfo_encode_raw(at->encoder, digests, (size_t)pairs * sizeof *digests);
    }
    pfo_free(digests);
    return status;
}

static void
encode_string(pfo_encoder *encoder, const char *text)
{
    pfo_encode_payload(encoder, 's', text == NULL ? "" : text, text == NULL ? 0 : strlen(text));
}

pfo_status
pfo_arrow_encode_type(pfo_arrow_walk *at, const struct ArrowSchema *schema)
{
    pfo_arrow_kind ignored;
    if (at->depth >= PFO_ARROW_MAX_DEPTH) {
        return pfo_fail(at->err, PFO_BAD_TYPE, "an Arrow type nested deeper than %d levels", (int)PFO_ARROW_MAX_DEPTH);
    }
    PFO_TRY(pfo_arrow_kind_of(schema, &ignored, at->err));
    encode_string(at->encoder, schema->format);
    encode_string(at->encoder, schema->name);
    pfo_encode_number(at->encoder, (uint64_t)schema->flags & (ARROW_FLAG_DICTIONARY_ORDERED | ARROW_FLAG_NULLABLE |
                                                              ARROW_FLAG_MAP_KEYS_SORTED));
    PFO_TRY(encode_metadata(at, schema->metadata));
    pfo_encode_number(at->encoder, (uint64_t)schema->n_children);
    at->depth++;
    for (int64_t i = 0; i < schema->n_children; i++) {
        PFO_TRY(pfo_arrow_encode_type(at, schema->children[i]));
    }
    pfo_encode_number(at->encoder, schema->dictionary != NULL);
    if (schema->dictionary != NULL) {
        PFO_TRY(pfo_arrow_encode_type(at, schema->dictionary));
    }
    at->depth--;
    return PFO_OK;
}
