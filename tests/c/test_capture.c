/* test_capture.c: the tables of a capture as they are built. */
#include "check.h"

#include "profiler/capture_build.h"

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

int
main(void)
{
    RUN(text_must_be_utf8);
    return FINISH();
}
