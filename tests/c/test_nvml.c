/* test_nvml.c: the driver's figures from fake_nvml.so, which lies and refuses as it is told. */
#include "monitor/nvml.h"

#include "check.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct fake_nvml { /* as in fake_nvml.c */
    int start, count, handle, read;
    unsigned devices;
    unsigned long long total;
    int starts, ends, lost;
};

static char path[4096];
static struct fake_nvml *fake;
static pfo_nvml_memory memory[PFO_NVML_MAX_DEVICES];

static int64_t now; /* what the tests' clock shows */

static pfo_status
ask(int *count, const char *says)
{
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_nvml_read(path, now, memory, count, &err);
    CHECK(status == PFO_OK ? says == NULL : says != NULL && strstr(err.text, says) != NULL);
    return status;
}

static void
without_a_library_the_reason_is_told(void)
{
    int count = 7;
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_nvml_read("no-such-library.so", now, memory, &count, &err) == PFO_UNAVAILABLE && count == 0);
    CHECK(strstr(err.text, "no-such-library.so cannot be opened") != NULL);
}

static void
a_driver_that_does_not_start_is_asked_again(void)
{
    int count;
    fake->start = 9;
    CHECK(ask(&count, "cannot start (its error 9)") == PFO_UNAVAILABLE && count == 0);
    fake->start = 0;
    now += PFO_NVML_FIRST_PAUSE_NS; /* the missing library was the first failure, this the second */
    CHECK(ask(&count, NULL) == PFO_OK && count == 2);
    CHECK(memory[1].total == 2000 && memory[1].free == 500 && memory[1].used == 1500);
    CHECK(fake->starts == 2);
    CHECK(ask(&count, NULL) == PFO_OK && fake->starts == 2); /* one session */
}

/* Reads until the state of failures is clean again. */
static void
recover(void)
{
    int count;
    fake->start = fake->count = fake->handle = fake->read = fake->lost = 0;
    now += 2 * PFO_NVML_LONGEST_PAUSE_NS;
    CHECK(ask(&count, NULL) == PFO_OK && count == 2);
}

static void
a_count_that_is_refused_fails_all(void)
{
    int count;
    fake->count = 999;
    CHECK(ask(&count, "no memory figures (its error 999)") == PFO_UNAVAILABLE && count == 0);
    const int before = fake->starts;
    recover();
    CHECK(fake->starts == before); /* such an error does not end the session */
}

static void
a_device_that_refuses_takes_no_other_with_it(void)
{
    int *const calls[2] = { &fake->handle, &fake->read };
    for (int i = 0; i < 2; i++) {
        int count;
        fake->lost = 1;
        *calls[i] = 4;
        CHECK(ask(&count, NULL) == PFO_OK && count == 2);
        CHECK(memory[0].total == -1 && memory[0].used == -1 && memory[0].free == -1);
        CHECK(strcmp(memory[0].reason, "its error 4") == 0);
        CHECK(memory[1].total == 2000 && memory[1].reason[0] == '\0');
        recover();
        CHECK(memory[0].total == 1000 && memory[0].reason[0] == '\0');
    }
}

static void
a_restarted_driver_gets_a_new_session(void)
{
    static const int ending[5] = { 1, 9, 15, 16, 18 };
    for (int i = 0; i < 5; i++) {
        int count;
        const int starts = fake->starts;
        const int ends = fake->ends;
        fake->count = ending[i];
        CHECK(ask(&count, "no memory figures") == PFO_UNAVAILABLE);
        fake->count = 0;
        CHECK(ask(&count, NULL) == PFO_OK && count == 2);
        CHECK(fake->starts == starts + 1 && fake->ends == ends + 1);
    }
}

static void
a_driver_that_stays_away_is_asked_ever_more_seldom(void)
{
    int count;
    fake->count = 1;
    CHECK(ask(&count, "no memory figures") == PFO_UNAVAILABLE); /* the session is over */
    fake->start = 9;
    const int before = fake->starts;
    CHECK(ask(&count, "cannot start (its error 9)") == PFO_UNAVAILABLE && fake->starts == before + 1);
    int64_t pause = PFO_NVML_FIRST_PAUSE_NS;
    for (int i = 2; i < 12; i++) {
        now += pause - 1;
        CHECK(ask(&count, "cannot start (its error 9)") == PFO_UNAVAILABLE && fake->starts == before + i - 1);
        now += 1;
        CHECK(ask(&count, "cannot start (its error 9)") == PFO_UNAVAILABLE && fake->starts == before + i);
        pause = pause < PFO_NVML_LONGEST_PAUSE_NS ? 2 * pause : pause;
    }
    recover();
}

static void
a_lost_device_is_looked_for_while_the_others_are_read(void)
{
    int count;
    const int before = fake->starts;
    fake->lost = 2;
    fake->read = 15;
    for (int second = 0; second < 100; second++) {
        CHECK(ask(&count, NULL) == PFO_OK && count == 2 && memory[0].total == 1000);
        CHECK(strcmp(memory[1].reason, "its error 15: GPU is lost") == 0);
        now += INT64_C(1000000000);
    }
    CHECK(fake->starts - before == 7); /* after 0, 1, 2, 4, ... 32 seconds */
    recover();
    CHECK(memory[1].total == 2000 && fake->starts - before == 8);
}

static void
numbers_of_devices_and_bytes_are_bounded(void)
{
    int count;
    fake->devices = 0;
    CHECK(ask(&count, NULL) == PFO_OK && count == 0);
    fake->devices = 4000000000U;
    CHECK(ask(&count, NULL) == PFO_OK && count == PFO_NVML_MAX_DEVICES);
    fake->devices = 1;
    fake->total = ~0ULL;
    CHECK(ask(&count, NULL) == PFO_OK && memory[0].total == INT64_MAX && memory[0].used == INT64_MAX);
    fake->devices = 2;
    fake->total = 1000;
}

static void
a_forked_child_has_a_session_of_its_own(void)
{
    const int before = fake->starts;
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        int count;
        const int fine = ask(&count, NULL) == PFO_OK && count == 2 && fake->starts == before + 1;
        _exit(fine ? 0 : 1);
    }
    int state;
    REQUIRE(waitpid(child, &state, 0) == child);
    CHECK(WIFEXITED(state) && WEXITSTATUS(state) == 0 && fake->starts == before);
}

int
main(int argc, char **argv)
{
    REQUIRE(argc > 0);
    const char *const slash = strrchr(argv[0], '/');
    const int folder = slash == NULL ? 0 : (int)(slash - argv[0]) + 1;
    (void)snprintf(path, sizeof path, "%.*sfake_nvml.so", folder, folder == 0 ? "" : argv[0]);
    void *const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != NULL);
    fake = dlsym(library, "fake_nvml");
    REQUIRE(fake != NULL);
    RUN(without_a_library_the_reason_is_told);
    RUN(a_driver_that_does_not_start_is_asked_again);
    RUN(a_count_that_is_refused_fails_all);
    RUN(a_device_that_refuses_takes_no_other_with_it);
    RUN(a_restarted_driver_gets_a_new_session);
    RUN(a_driver_that_stays_away_is_asked_ever_more_seldom);
    RUN(a_lost_device_is_looked_for_while_the_others_are_read);
    RUN(numbers_of_devices_and_bytes_are_bounded);
    RUN(a_forked_child_has_a_session_of_its_own);
    (void)dlclose(library);
    return FINISH();
}
