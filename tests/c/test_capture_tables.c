/* test_capture_tables.c: what is decoded is what was encoded, and whatever else the bytes say is refused in good order. */
#include "capture_fixture.h"

#include "base/alloc.h"
#include "profiler/capture_tables.h"

static void
what_is_decoded_is_what_was_encoded(void)
{
    for (int spans = 0; spans < 20; spans += 19) { /* nearly empty tables, too */
        pfo_capture *capture = made(spans);
        pfo_capture *read = NULL;
        unsigned char *bytes = NULL;
        unsigned char *again = NULL;
        size_t length = 0;
        size_t same = 0;
        REQUIRE(pfo_capture_encode(capture, &bytes, &length, NULL) == PFO_OK);
        REQUIRE(pfo_capture_decode(bytes, length, &read, NULL) == PFO_OK);
        CHECK(read->row_count == capture->row_count && read->node_count == capture->node_count);
        CHECK(read->thread_count == 1 && read->process_count == 1 && read->name_count == FIXTURE_NAMES);
        const pfo_capture_row *row = row_of(read, "a");
        CHECK(spans == 0 ? row == NULL : row->memory_count == 1 && row->memory_sum < -4.5);
        REQUIRE(pfo_capture_encode(read, &again, &same, NULL) == PFO_OK);
        CHECK(same == length && memcmp(bytes, again, length) == 0);
        pfo_free(bytes);
        pfo_free(again);
        pfo_capture_destroy(capture);
        pfo_capture_destroy(read);
    }
}

/* Tables whose checksum somebody has made right: nothing may crash, whatever they say. */
static void
hostile_tables(void)
{
    pfo_capture *capture = made(6);
    unsigned char *bytes = NULL;
    size_t length = 0;
    REQUIRE(pfo_capture_encode(capture, &bytes, &length, NULL) == PFO_OK);
    unsigned long long state = 3;
    int refused = 0;
    for (int i = 0; i < 20000; i++) {
        const size_t where = (size_t)(check_random(&state) % length);
        const unsigned char old = bytes[where];
        bytes[where] = (unsigned char)(i % 3 == 0 ? 0xFF : check_random(&state));
        pfo_capture *read = NULL;
        const size_t given = i % 5 == 0 ? (size_t)(check_random(&state) % (length + 1)) : length;
        const pfo_status status = pfo_capture_decode(bytes, given, &read, NULL);
        CHECK(status == PFO_OK || status == PFO_IO);
        refused += status == PFO_IO;
        for (int32_t n = 0; read != NULL && n < read->node_count; n++) {
            CHECK(read->nodes[n].parent < n && read->nodes[n].thread < read->thread_count);
        }
        pfo_capture_destroy(read);
        bytes[where] = old;
    }
    CHECK(refused > 1000);
    pfo_free(bytes);
    pfo_capture_destroy(capture);
}

int
main(void)
{
    RUN(what_is_decoded_is_what_was_encoded);
    RUN(hostile_tables);
    return FINISH();
}
