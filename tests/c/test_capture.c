/* test_capture.c: the tables of a capture as they are built. */
#include "check.h"

#include "base/alloc.h"
#include "profiler/capture_build.h"

#include <math.h>
#include <string.h>

static void
text_must_be_utf8(void)
{
    const char *good[] = { "", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x9A\x80", "\xF4\x8F\xBF\xBF" };
    const char *bad[] = {
        "\x80", "\xC3", "\xC0\x80", "\xED\xA0\x80", "\xE0\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82"
    };
    for (int i = 0; i < 6; i++) {
        CHECK(pfo_text_is_utf8((pfo_text){ good[i], strlen(good[i]) }));
    }
    for (int i = 0; i < 8; i++) {
        CHECK(!pfo_text_is_utf8((pfo_text){ bad[i], strlen(bad[i]) }));
    }
}

/* A chain and a fan below one root: every total is its self time and all below, and the roots' totals are all there is. */
static void
totals_are_sums_over_subtrees(void)
{
    enum { NODES = 1000 };
    pfo_capture *capture = pfo_capture_create();
    const pfo_capture_process process = { 1, 1, 1, 1, { "p", 1 } };
    const pfo_capture_thread thread = { 0, 1, { "t", 1 } };
    REQUIRE(pfo_capture_add_process(capture, &process, NULL) == PFO_OK);
    REQUIRE(pfo_capture_add_thread(capture, &thread, NULL) == PFO_OK);
    double all = 0;
    for (int32_t i = 0; i < NODES; i++) {
        const pfo_capture_node node = {
            .parent = i < NODES / 2 ? i - 1 : 0, .name = -1, .thread = 0, .count = 1, .self_ns = (double)(i * i)
        };
        REQUIRE(pfo_capture_add_node(capture, &node, NULL) == PFO_OK);
        all += node.self_ns;
    }
    pfo_capture_sum_nodes(capture);
    CHECK(fabs(capture->nodes[0].total_ns - all) < 0.5);
    const double last = (NODES / 2 - 1.0) * (NODES / 2 - 1.0);
    CHECK(fabs(capture->nodes[NODES / 2 - 1].total_ns - last) < 0.5);
    CHECK(fabs(capture->nodes[NODES / 2 - 2].total_ns - last - (NODES / 2 - 2.0) * (NODES / 2 - 2.0)) < 0.5);
    CHECK(fabs(capture->nodes[NODES - 1].total_ns - (NODES - 1.0) * (NODES - 1.0)) < 0.5);
    pfo_capture_destroy(capture);
}

/* Texts are copied, whatever they hold and however long they are, and stay where they are. */
static void
names_are_copied_whole(void)
{
    enum { NAMES = 300, LONG = 1 << 20 };
    pfo_capture *capture = pfo_capture_create();
    char *text = pfo_alloc_array(LONG, 1);
    REQUIRE(capture != NULL && text != NULL);
    for (int i = 0; i < NAMES; i++) {
        const size_t length = i == 7 ? LONG : (size_t)(i * 11);
        memset(text, 'A' + i % 26, length);
        if (i == 9) {
            text[3] = '\0';
        }
        REQUIRE(pfo_capture_add_name(capture, (pfo_text){ text, length }, NULL) == PFO_OK);
    }
    CHECK(capture->name_count == NAMES && capture->names[0].length == 0 && capture->names[7].length == LONG);
    CHECK(capture->names[9].length == 99 && capture->names[9].bytes[3] == '\0' && capture->names[9].bytes[4] == 'J');
    for (int i = 1; i < NAMES; i++) {
        CHECK(capture->names[i].bytes[0] == 'A' + i % 26);
        CHECK(capture->names[i].bytes[capture->names[i].length - 1] == 'A' + i % 26);
    }
    pfo_free(text);
    pfo_capture_destroy(capture);
}

int
main(void)
{
    RUN(totals_are_sums_over_subtrees);
    RUN(names_are_copied_whole);
    RUN(text_must_be_utf8);
    return FINISH();
}
