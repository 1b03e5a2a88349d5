/* test_cpu.c: PERFOPT_CPU is obeyed, and refused when unknown or not runnable here. */
#include "base/cpu.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

static void
every_supported_level_can_be_forced(void)
{
    for (int i = 0; i < PFO_CPU_LEVEL_COUNT; i++) {
        const pfo_cpu_level wanted = (pfo_cpu_level)i;
        REQUIRE(setenv("PERFOPT_CPU", pfo_cpu_level_name(wanted), 1) == 0);
        pfo_cpu_level level = PFO_CPU_LEVEL_COUNT;
        pfo_error err = PFO_ERROR_INIT;
        const pfo_status status = pfo_cpu_select(&level, &err);
        if (pfo_cpu_supports(wanted)) {
            CHECK(status == PFO_OK && level == wanted);
        } else {
            CHECK(status == PFO_UNAVAILABLE && level == PFO_CPU_SCALAR);
            CHECK(strstr(err.text, pfo_cpu_level_name(wanted)) != NULL);
        }
    }
}

static void
unknown_level_is_refused(void)
{
    REQUIRE(setenv("PERFOPT_CPU", "abacus", 1) == 0);
    pfo_cpu_level level = PFO_CPU_LEVEL_COUNT;
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_cpu_select(&level, &err) == PFO_BAD_ARGUMENT);
    CHECK(level == PFO_CPU_SCALAR);
    CHECK(strstr(err.text, "abacus") != NULL && strstr(err.text, "avx512") != NULL);
}

static void
default_is_the_best_supported(void)
{
    REQUIRE(unsetenv("PERFOPT_CPU") == 0);
    pfo_cpu_level level = PFO_CPU_LEVEL_COUNT;
    CHECK(pfo_cpu_select(&level, NULL) == PFO_OK);
    CHECK(pfo_cpu_supports(level));
    CHECK(pfo_cpu_supports(PFO_CPU_SCALAR));
    for (int i = (int)level + 1; i < PFO_CPU_LEVEL_COUNT; i++) {
        CHECK(!pfo_cpu_supports((pfo_cpu_level)i));
    }
}

int
main(void)
{
    RUN(every_supported_level_can_be_forced);
    RUN(unknown_level_is_refused);
    RUN(default_is_the_best_supported);
    return FINISH();
}
