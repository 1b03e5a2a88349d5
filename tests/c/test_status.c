/* test_status.c: the first error wins, texts are cut and never NULL. */
#include "base/status.h"

#include "check.h"

#include <string.h>

static void
every_status_has_a_text(void)
{
    for (int i = 0; i < PFO_STATUS_COUNT; i++) {
        CHECK(strlen(pfo_status_text((pfo_status)i)) > 1);
    }
    CHECK(strcmp(pfo_status_text(PFO_STATUS_COUNT), "unknown status") == 0);
    CHECK(strcmp(pfo_status_text((pfo_status)-1), "unknown status") == 0);
}

static pfo_status
fails_twice(pfo_error *err)
{
    (void)pfo_fail(err, PFO_IO, "first %d", 1);
    return pfo_fail(err, PFO_STATE, "second");
}

static pfo_status
forwards(pfo_error *err)
{
    PFO_TRY(fails_twice(err));
    return PFO_OK;
}

static void
first_error_wins(void)
{
    pfo_error err = PFO_ERROR_INIT;
    CHECK(forwards(&err) == PFO_STATE);
    CHECK(err.code == PFO_IO);
    CHECK(strcmp(err.text, "first 1") == 0);
    CHECK(fails_twice(NULL) == PFO_STATE);
}

static void
long_text_is_cut(void)
{
    char text[2 * PFO_ERROR_TEXT];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_fail(&err, PFO_BAD_TYPE, "%s", text) == PFO_BAD_TYPE);
    CHECK(strlen(err.text) == PFO_ERROR_TEXT - 1);
}

int
main(void)
{
    RUN(every_status_has_a_text);
    RUN(first_error_wins);
    RUN(long_text_is_cut);
    return FINISH();
}
