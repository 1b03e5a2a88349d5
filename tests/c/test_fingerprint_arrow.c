/* test_fingerprint_arrow.c: a stream is what the header says, spelled out by the encoder's own parts; chunks, offsets and null slots
 * leave no trace; what does not fit is refused; failing allocations are reported. The layouts in all combinations are tested with
 * pyarrow's arrays (tests/python/test_fingerprint_arrow.py). */
#include "cache/fingerprint_arrow.h"

#include "base/alloc.h"
#include "check.h"
#include "cache/fingerprint_pieces.h"

#include <string.h>

static struct ArrowSchema
schema_of(const char *format, struct ArrowSchema **children, int64_t count)
{
    return (struct ArrowSchema){
        .format = format, .name = "x", .flags = ARROW_FLAG_NULLABLE, .children = children, .n_children = count
    };
}

static struct ArrowArray
array_of(int64_t length, int64_t offset, const void **buffers, int64_t count)
{
    return (struct ArrowArray){
        .length = length, .null_count = -1, .offset = offset, .buffers = buffers, .n_buffers = count
    };
}

static pfo_status
digest_of(const struct ArrowSchema *schema, const struct ArrowArray *arrays, size_t count, pfo_digest *digest)
{
    pfo_encoder encoder;
    pfo_error err = PFO_ERROR_INIT;
    pfo_encoder_start(&encoder, NULL);
    const pfo_status status = pfo_encode_arrow(&encoder, schema, arrays, count, &err);
    if (status != PFO_OK) {
        CHECK(status == PFO_NO_MEMORY || err.text[0] != '\0');
        pfo_encoder_drop(&encoder);
        return status;
    }
    return pfo_encoder_finish(&encoder, digest);
}

static int
same(const pfo_digest *left, const pfo_digest *right)
{
    return memcmp(left, right, sizeof *left) == 0;
}

static void
encode_type(pfo_encoder *encoder, const char *format, uint64_t children)
{
    pfo_encode_payload(encoder, 's', format, strlen(format));
    pfo_encode_payload(encoder, 's', "x", 1);
    pfo_encode_number(encoder, ARROW_FLAG_NULLABLE);
    pfo_encode_number(encoder, 0); /* metadata */
    pfo_encode_number(encoder, children);
}

static void
a_stream_is_what_the_header_says(void)
{
    const unsigned char validity[] = { 0x0d }; /* 1, null, 3, 4 */
    const int32_t values[] = { 1, 77, 3, 4 };
    const void *buffers[] = { validity, values };
    const struct ArrowSchema schema = schema_of("i", NULL, 0);
    const struct ArrowArray array = array_of(4, 0, buffers, 2);
    pfo_digest digest, expected;
    REQUIRE(digest_of(&schema, &array, 1, &digest) == PFO_OK);

    pfo_encoder encoder;
    const int32_t zeroed[] = { 1, 0, 3, 4 };
    pfo_encoder_start(&encoder, NULL);
    pfo_encode_tag(&encoder, 'W');
    encode_type(&encoder, "i", 0);
    pfo_encode_number(&encoder, 0); /* no dictionary */
    pfo_encode_number(&encoder, 4); /* slots */
    pfo_encode_number(&encoder, 1); /* nulls */
    pfo_encode_raw(&encoder, validity, 1);
    pfo_encode_raw(&encoder, zeroed, sizeof zeroed);
    REQUIRE(pfo_encoder_finish(&encoder, &expected) == PFO_OK);
    CHECK(same(&digest, &expected));
}

static void
lists_of_text_in_any_pieces(void)
{
    /* [["ab", null], null, [], ["c"]] with leftovers in the null slots, whole and as two chunks of one array */
    const unsigned char inner_validity[] = { 0x15 }, outer_validity[] = { 0x0d };
    const int32_t inner_offsets[] = { 0, 2, 4, 4, 6, 7 }, outer_offsets[] = { 0, 2, 4, 4, 5 };
    const void *inner_buffers[] = { inner_validity, inner_offsets, "abxyzzc" };
    const void *outer_buffers[] = { outer_validity, outer_offsets };
    struct ArrowSchema text = schema_of("u", NULL, 0);
    struct ArrowSchema *types[] = { &text };
    const struct ArrowSchema schema = schema_of("+l", types, 1);
    struct ArrowArray inner = array_of(5, 0, inner_buffers, 3);
    struct ArrowArray *children[] = { &inner };
    struct ArrowArray whole = array_of(4, 0, outer_buffers, 2);
    whole.children = children;
    whole.n_children = 1;
    struct ArrowArray halves[2] = { whole, whole };
    halves[0].length = 1;
    halves[1].length = 3;
    halves[1].offset = 1;
    pfo_digest digest, in_halves, expected;
    REQUIRE(digest_of(&schema, &whole, 1, &digest) == PFO_OK);
    REQUIRE(digest_of(&schema, halves, 2, &in_halves) == PFO_OK);
    CHECK(same(&digest, &in_halves));

    pfo_encoder encoder;
    const int64_t outer_lengths[] = { 2, 0, 0, 1 }, inner_lengths[] = { 2, 0, 1 };
    const unsigned char inner_bits = 0x05;
    pfo_encoder_start(&encoder, NULL);
    pfo_encode_tag(&encoder, 'W');
    encode_type(&encoder, "+l", 1);
    encode_type(&encoder, "u", 0);
    pfo_encode_number(&encoder, 0);
    pfo_encode_number(&encoder, 0);
    pfo_encode_number(&encoder, 4);
    pfo_encode_number(&encoder, 1);
    pfo_encode_raw(&encoder, outer_validity, 1);
    pfo_encode_raw(&encoder, outer_lengths, sizeof outer_lengths);
    pfo_encode_number(&encoder, 3);
    pfo_encode_number(&encoder, 1);
    pfo_encode_raw(&encoder, &inner_bits, 1);
    pfo_encode_raw(&encoder, inner_lengths, sizeof inner_lengths);
    pfo_encode_number(&encoder, 3);
    pfo_encode_raw(&encoder, "abc", 3);
    REQUIRE(pfo_encoder_finish(&encoder, &expected) == PFO_OK);
    CHECK(same(&digest, &expected));
}

enum { SLOTS = 100000 };
static double numbers[SLOTS];
static unsigned char bits[SLOTS / 8];

static void
large_columns_in_any_pieces(void)
{
    unsigned long long state = 1;
    for (int i = 0; i < SLOTS; i++) {
        numbers[i] = (double)check_random(&state);
        if (i % 8 == 0) {
            bits[i / 8] = (unsigned char)check_random(&state);
        }
    }
    const struct ArrowSchema schema = schema_of("g", NULL, 0);
    for (int nulls = 0; nulls < 2; nulls++) {
        const void *buffers[] = { nulls ? bits : NULL, numbers };
        const struct ArrowArray whole = array_of(SLOTS, 0, buffers, 2);
        struct ArrowArray parts[3] = { whole, whole, whole };
        parts[0].length = 33333;
        parts[1].offset = 33333;
        parts[1].length = 1;
        parts[2].offset = 33334;
        parts[2].length = SLOTS - 33334;
        pfo_digest digest, in_parts;
        REQUIRE(digest_of(&schema, &whole, 1, &digest) == PFO_OK);
        REQUIRE(digest_of(&schema, parts, 3, &in_parts) == PFO_OK);
        CHECK(same(&digest, &in_parts));
        for (long n = 1;; n++) {
            pfo_alloc_fail_at(n);
            const pfo_status status = digest_of(&schema, parts, 3, &in_parts);
            pfo_alloc_fail_at(0);
            if (status == PFO_OK) {
                break;
            }
            CHECK(status == PFO_NO_MEMORY);
        }
    }
}

static void
dictionaries_and_runs_out_of_memory(void)
{
    const int64_t values[] = { 5, 6, 5 };
    const int32_t ends[] = { 2, 3, 7 };
    const int8_t codes[] = { 0, 1, 2, 0 };
    const void *value_buffers[] = { NULL, values }, *end_buffers[] = { NULL, ends }, *code_buffers[] = { NULL, codes };
    struct ArrowSchema number = schema_of("l", NULL, 0), end = schema_of("i", NULL, 0);
    struct ArrowSchema *children[] = { &end, &number };
    struct ArrowArray value_array = array_of(3, 0, value_buffers, 2), end_array = array_of(3, 0, end_buffers, 2);
    struct ArrowArray *child_arrays[] = { &end_array, &value_array };
    struct ArrowSchema coded = schema_of("c", NULL, 0);
    coded.dictionary = &number;
    struct ArrowArray codes_array = array_of(4, 0, code_buffers, 2);
    codes_array.dictionary = &value_array;
    const struct ArrowSchema runs = schema_of("+r", children, 2);
    struct ArrowArray runs_array = array_of(7, 0, NULL, 0);
    runs_array.children = child_arrays;
    runs_array.n_children = 2;
    const struct ArrowSchema *schemas[] = { &coded, &runs };
    const struct ArrowArray *arrays[] = { &codes_array, &runs_array };
    for (int kind = 0; kind < 2; kind++) {
        pfo_digest digest;
        long failures = 0;
        for (long n = 1;; n++) {
            pfo_alloc_fail_at(n);
            const pfo_status status = digest_of(schemas[kind], arrays[kind], 1, &digest);
            pfo_alloc_fail_at(0);
            if (status == PFO_OK) {
                break;
            }
            CHECK(status == PFO_NO_MEMORY);
            failures++;
        }
        CHECK(failures >= 3);
    }
    runs_array.length = 8; /* behind the last run */
    pfo_digest digest;
    CHECK(digest_of(&runs, &runs_array, 1, &digest) == PFO_BAD_ARGUMENT);
    const int8_t outside[] = { 0, 3, 0, -1 };
    code_buffers[1] = outside;
    CHECK(digest_of(&coded, &codes_array, 1, &digest) == PFO_BAD_ARGUMENT);
}

static void
what_is_unknown_is_refused(void)
{
    static const char *const formats[] = { "",   "?",  "+",   "+x",  "d:5", "d:5,2,x", "d:5,2,7", "w",  "w:-1", "w:x",
                                           "tx", "td", "tdx", "ttx", "tix", "vx",      "+w:",     "ii", "+us",  "ux" };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const struct ArrowSchema schema = schema_of(formats[i], NULL, 0);
        const struct ArrowArray array = array_of(0, 0, NULL, 0);
        pfo_digest digest;
        CHECK(digest_of(&schema, &array, 1, &digest) == PFO_BAD_TYPE);
    }
    struct ArrowSchema deep[PFO_ARROW_MAX_DEPTH + 2];
    struct ArrowSchema *next[PFO_ARROW_MAX_DEPTH + 2];
    for (int i = PFO_ARROW_MAX_DEPTH + 1; i >= 0; i--) {
        next[i] = i > PFO_ARROW_MAX_DEPTH ? NULL : &deep[i + 1];
        deep[i] = schema_of(i > PFO_ARROW_MAX_DEPTH ? "i" : "+l", &next[i], i > PFO_ARROW_MAX_DEPTH ? 0 : 1);
    }
    pfo_digest digest;
    CHECK(digest_of(&deep[0], NULL, 0, &digest) == PFO_BAD_TYPE);
    CHECK(digest_of(&deep[2], NULL, 0, &digest) == PFO_OK);
}

int
main(void)
{
    RUN(a_stream_is_what_the_header_says);
    RUN(lists_of_text_in_any_pieces);
    RUN(large_columns_in_any_pieces);
    RUN(dictionaries_and_runs_out_of_memory);
    RUN(what_is_unknown_is_refused);
    return FINISH();
}
