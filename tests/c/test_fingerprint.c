/* test_fingerprint.c: every variant gives the same digests, layouts of one content agree, different content differs, threads do not
 * matter, failing allocations are reported. The expected numbers of the scheme are in tests/data/fingerprints.json (Python side);
 * here one stream is spelled out byte by byte against the hash itself. */
#include "cache/fingerprint.h"

#include "base/alloc.h"
#include "check.h"

#include <string.h>

static const pfo_xxh_ops *variants[PFO_CPU_LEVEL_COUNT];
static int variant_count;

static int
same(const pfo_digest *left, const pfo_digest *right)
{
    return memcmp(left->bytes, right->bytes, sizeof left->bytes) == 0;
}

static pfo_digest
digest_of_array(const pfo_xxh_ops *ops, const pfo_array_view *view, int threads)
{
    pfo_encoder encoder;
    pfo_digest digest;
    pfo_encoder_start(&encoder, ops);
    pfo_encode_array(&encoder, view, threads);
    REQUIRE(pfo_encoder_finish(&encoder, &digest) == PFO_OK);
    return digest;
}

static pfo_array_view
view_of(const void *data, int dimensions, const int64_t *shape, const int64_t *strides, size_t item_bytes)
{
    return (pfo_array_view){
        .data = data,
        .shape = shape,
        .strides = strides,
        .item_bytes = item_bytes,
        .dimensions = dimensions,
        .kind = "ndarray",
        .kind_length = 7,
        .dtype = "<i4",
        .dtype_length = 3,
    };
}

static void
a_stream_is_what_the_header_says(void)
{
    static const unsigned char stream[] = {
        1,                                                                                 /* version */
        'i', 8, 0, 0, 0, 0, 0, 0,    0,    0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* -2 */
        's', 2, 0, 0, 0, 0, 0, 0,    0,    'h',  'i',                                      /* "hi" */
        'f', 0, 0, 0, 0, 0, 0, 0xf0, 0x3f,                                                 /* 1.0 */
        '(', 1, 0, 0, 0, 0, 0, 0,    0,    'N',                                            /* (None,) */
    };
    for (int v = 0; v < variant_count; v++) {
        pfo_encoder encoder;
        pfo_digest digest, expected;
        pfo_encoder_start(&encoder, variants[v]);
        pfo_encode_int64(&encoder, -2);
        pfo_encode_payload(&encoder, 's', "hi", 2);
        pfo_encode_double(&encoder, 1.0);
        pfo_encode_count(&encoder, '(', 1);
        pfo_encode_tag(&encoder, 'N');
        REQUIRE(pfo_encoder_finish(&encoder, &digest) == PFO_OK);
        pfo_xxh_baseline.digest(stream, sizeof stream, expected.bytes);
        CHECK(same(&digest, &expected));
    }
}

static void
long_streams_equal_one_pass(void)
{
    enum { PARTS = 3000 };
    static unsigned char stream[1 + PARTS * 9];
    for (int v = 0; v < variant_count; v++) {
        pfo_encoder encoder;
        pfo_digest digest, expected;
        size_t used = 0;
        stream[used++] = PFO_FINGERPRINT_VERSION;
        pfo_encoder_start(&encoder, variants[v]);
        for (int i = 0; i < PARTS; i++) {
            pfo_encode_count(&encoder, '[', (uint64_t)i);
            stream[used++] = '[';
            for (int b = 0; b < 8; b++) {
                stream[used++] = (unsigned char)((uint64_t)i >> (8 * b));
            }
        }
        REQUIRE(pfo_encoder_finish(&encoder, &digest) == PFO_OK);
        pfo_xxh_baseline.digest(stream, used, expected.bytes);
        CHECK(same(&digest, &expected));
    }
}

/* Lengths around every border: inline limit, chunk limit, several chunks; the data rule redone by hand. */
static void
data_rule(void)
{
    static const size_t lengths[] = {
        0, 1, 255, 256, 257, 1000, 262143, 262144, 262145, 524288, 524289, 786432, 5000000
    };
    unsigned char *data = pfo_alloc(5000000);
    REQUIRE(data != NULL);
    unsigned long long seed = 5;
    for (size_t i = 0; i < 5000000; i++) {
        data[i] = (unsigned char)check_random(&seed);
    }
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
        const size_t length = lengths[k];
        unsigned char stream[1 + 9 + 256] = { PFO_FINGERPRINT_VERSION, 'b' };
        for (int b = 0; b < 8; b++) {
            stream[2 + b] = (unsigned char)(length >> (8 * b));
        }
        size_t used = 10;
        if (length <= 256) {
            memcpy(stream + used, data, length);
            used += length;
        } else {
            static unsigned char pieces[16 * 20];
            size_t count = 0;
            for (size_t at = 0; at < length; at += PFO_FINGERPRINT_CHUNK, count++) {
                const size_t piece = length - at < PFO_FINGERPRINT_CHUNK ? length - at : PFO_FINGERPRINT_CHUNK;
                pfo_xxh_baseline.digest(data + at, piece, pieces + 16 * count);
            }
            if (count == 1) {
                memcpy(stream + used, pieces, 16);
            } else {
                pfo_xxh_baseline.digest(pieces, 16 * count, stream + used);
            }
            used += 16;
        }
        pfo_digest expected;
        pfo_xxh_baseline.digest(stream, used, expected.bytes);
        for (int v = 0; v < variant_count; v++) {
            pfo_encoder encoder;
            pfo_digest digest;
            pfo_encoder_start(&encoder, variants[v]);
            pfo_encode_payload(&encoder, 'b', data, length);
            REQUIRE(pfo_encoder_finish(&encoder, &digest) == PFO_OK);
            CHECK(same(&digest, &expected));
        }
    }
    pfo_free(data);
}

/* Element (i, j, k) of a box inside a larger block, by any order of axes and any steps, equals its contiguous copy. */
static void
layouts_agree(void)
{
    enum { A = 13, B = 17, C = 19 };
    static int32_t block[2 * A][B][3 * C];
    static int32_t copy[A * B * C];
    static int32_t turned[A * B * C];
    unsigned long long seed = 8;
    for (size_t i = 0; i < sizeof block / sizeof(int32_t); i++) {
        (&block[0][0][0])[i] = (int32_t)check_random(&seed);
    }
    /* block[2a][B - 1 - b][3c] */
    const int64_t shape[3] = { A, B, C };
    const int64_t strides[3] = { (int64_t)sizeof block[0] * 2, -(int64_t)sizeof block[0][0], 12 };
    size_t n = 0;
    for (int a = 0; a < A; a++) {
        for (int b = 0; b < B; b++) {
            for (int c = 0; c < C; c++) {
                copy[n++] = block[2 * a][B - 1 - b][3 * c];
                turned[(c * B + b) * A + a] = block[2 * a][B - 1 - b][3 * c];
            }
        }
    }
    const int64_t plain[3] = { B * C * 4, C * 4, 4 };
    const int64_t fortran[3] = { 4, A * 4, A * B * 4 };
    const pfo_array_view strided = view_of(&block[0][B - 1][0], 3, shape, strides, 4);
    const pfo_array_view contiguous = view_of(copy, 3, shape, plain, 4);
    const pfo_array_view columns = view_of(turned, 3, shape, fortran, 4);
    const pfo_digest expected = digest_of_array(NULL, &contiguous, 1);
    for (int v = 0; v < variant_count; v++) {
        const pfo_digest one = digest_of_array(variants[v], &strided, 1);
        const pfo_digest two = digest_of_array(variants[v], &columns, 1);
        CHECK(same(&one, &expected));
        CHECK(same(&two, &expected));
    }
    turned[77] ^= 1;
    const pfo_digest changed = digest_of_array(NULL, &columns, 1);
    CHECK(!same(&changed, &expected));
}

static void
large_arrays_do_not_depend_on_threads(void)
{
    enum { ROWS = 1500, COLUMNS = 1037 };
    int32_t *data = pfo_alloc((size_t)ROWS * COLUMNS * 4);
    int32_t *turned = pfo_alloc((size_t)ROWS * COLUMNS * 4);
    REQUIRE(data != NULL && turned != NULL);
    for (int r = 0; r < ROWS; r++) {
        for (int c = 0; c < COLUMNS; c++) {
            data[r * COLUMNS + c] = r * 31 + c * c;
            turned[c * ROWS + r] = r * 31 + c * c;
        }
    }
    const int64_t shape[2] = { ROWS, COLUMNS };
    const int64_t rows_first[2] = { COLUMNS * 4, 4 };
    const int64_t columns_first[2] = { 4, ROWS * 4 };
    const pfo_array_view by_rows = view_of(data, 2, shape, rows_first, 4);
    const pfo_array_view by_columns = view_of(turned, 2, shape, columns_first, 4);
    const pfo_digest expected = digest_of_array(NULL, &by_rows, 1);
    for (int threads = 1; threads <= 5; threads += 2) {
        const pfo_digest one = digest_of_array(NULL, &by_rows, threads);
        const pfo_digest two = digest_of_array(NULL, &by_columns, threads);
        CHECK(same(&one, &expected));
        CHECK(same(&two, &expected));
    }
    data[ROWS * COLUMNS - 1] ^= 1;
    const pfo_digest last = digest_of_array(NULL, &by_rows, 2);
    CHECK(!same(&last, &expected));

    for (long n = 1; n <= 2; n++) { /* 1: the list of chunk digests, 2: a staging buffer */
        pfo_encoder encoder;
        pfo_digest digest;
        pfo_encoder_start(&encoder, NULL);
        pfo_alloc_fail_at(n);
        pfo_encode_array(&encoder, &by_columns, 1);
        CHECK(pfo_encoder_finish(&encoder, &digest) == PFO_NO_MEMORY);
        pfo_alloc_fail_at(0);
    }
    pfo_free(data);
    pfo_free(turned);
}

static void
shapes_of_nothing_and_of_one(void)
{
    const int32_t number = 42;
    const int64_t shape[3] = { 0, 5, 1 };
    const int64_t swapped[3] = { 5, 0, 1 };
    const int64_t strides[3] = { 4, 4, 4 };
    const int64_t ones[3] = { 1, 1, 1 };
    const int64_t odd[3] = { -400, 12, 7 }; /* strides of length-1 dimensions mean nothing */
    const pfo_array_view none = view_of(&number, 3, shape, strides, 4);
    const pfo_array_view other = view_of(&number, 3, swapped, strides, 4);
    const pfo_array_view scalar = view_of(&number, 0, NULL, NULL, 4);
    const pfo_array_view one = view_of(&number, 3, ones, strides, 4);
    const pfo_array_view same_one = view_of(&number, 3, ones, odd, 4);
    const pfo_digest digests[4] = { digest_of_array(NULL, &none, 1), digest_of_array(NULL, &other, 1),
                                    digest_of_array(NULL, &scalar, 1), digest_of_array(NULL, &one, 1) };
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < i; j++) {
            CHECK(!same(&digests[i], &digests[j]));
        }
    }
    const pfo_digest odd_one = digest_of_array(NULL, &same_one, 1);
    CHECK(same(&odd_one, &digests[3]));

    const int64_t broadcast_shape[2] = { 300, 5 };
    const int64_t still[2] = { 0, 0 };
    const int64_t plain[2] = { 20, 4 };
    static int32_t filled[300 * 5];
    for (int i = 0; i < 300 * 5; i++) {
        filled[i] = 42;
    }
    const pfo_array_view broadcast = view_of(&number, 2, broadcast_shape, still, 4);
    const pfo_array_view full = view_of(filled, 2, broadcast_shape, plain, 4);
    const pfo_digest spread = digest_of_array(NULL, &broadcast, 1);
    const pfo_digest copied = digest_of_array(NULL, &full, 1);
    CHECK(same(&spread, &copied));
}

static void
impossible_views_are_refused(void)
{
    int64_t shape[65];
    int64_t strides[65];
    for (int i = 0; i < 65; i++) {
        shape[i] = 1;
        strides[i] = 0;
    }
    const int32_t number = 1;
    pfo_encoder encoder;
    pfo_digest digest;
    pfo_array_view view = view_of(&number, 65, shape, strides, 4);
    pfo_encoder_start(&encoder, NULL);
    pfo_encode_array(&encoder, &view, 1);
    CHECK(pfo_encoder_finish(&encoder, &digest) == PFO_BAD_ARGUMENT);

    shape[0] = INT64_MAX;
    shape[1] = INT64_MAX;
    view.dimensions = 2;
    pfo_encoder_start(&encoder, NULL);
    pfo_encode_array(&encoder, &view, 1);
    CHECK(pfo_encoder_finish(&encoder, &digest) == PFO_OVERFLOW);
}

static void
order_of_unordered_parts_is_nothing(void)
{
    pfo_digest forward[20];
    pfo_digest backward[20];
    for (int i = 0; i < 20; i++) {
        memset(forward[i].bytes, i * 37, 16);
        backward[19 - i] = forward[i];
    }
    pfo_digest one, two;
    pfo_encoder encoder;
    pfo_encoder_start(&encoder, NULL);
    pfo_encode_unordered(&encoder, forward, 20);
    REQUIRE(pfo_encoder_finish(&encoder, &one) == PFO_OK);
    pfo_encoder_start(&encoder, NULL);
    pfo_encode_unordered(&encoder, backward, 20);
    REQUIRE(pfo_encoder_finish(&encoder, &two) == PFO_OK);
    CHECK(same(&one, &two));
}

static void
a_stream_without_memory_fails(void)
{
    pfo_encoder encoder;
    pfo_digest digest;
    pfo_encoder_start(&encoder, NULL);
    pfo_alloc_fail_at(1);
    for (int i = 0; i < 100; i++) {
        pfo_encode_int64(&encoder, i);
    }
    CHECK(pfo_encoder_finish(&encoder, &digest) == PFO_NO_MEMORY);
    pfo_alloc_fail_at(0);
}

int
main(void)
{
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_xxh_ops *ops = pfo_xxh_ops_for((pfo_cpu_level)level);
        if (ops != NULL) {
            variants[variant_count++] = ops;
        }
    }
    REQUIRE(variant_count >= 1);
    RUN(a_stream_is_what_the_header_says);
    RUN(long_streams_equal_one_pass);
    RUN(data_rule);
    RUN(layouts_agree);
    RUN(large_arrays_do_not_depend_on_threads);
    RUN(shapes_of_nothing_and_of_one);
    RUN(impossible_views_are_refused);
    RUN(order_of_unordered_parts_is_nothing);
    RUN(a_stream_without_memory_fails);
    return FINISH();
}
