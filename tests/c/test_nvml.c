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
    int starts;
};

static char path[4096];
static struct fake_nvml *fake;
static pfo_nvml_memory memory[PFO_NVML_MAX_DEVICES];

static pfo_status
ask(int *count, const char *says)
{
    pfo_error err = PFO_ERROR_INIT;
    const pfo_status status = pfo_nvml_read(path, memory, count, &err);
    CHECK(status == PFO_OK ? says == NULL : says != NULL && strstr(err.text, says) != NULL);
    return status;
}

static void
without_a_library_the_reason_is_told(void)
{
    int count = 7;
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_nvml_read("no-such-library.so", memory, &count, &err) == PFO_UNAVAILABLE && count == 0);
    CHECK(strstr(err.text, "no-such-library.so cannot be opened") != NULL);
}

static void
a_driver_that_does_not_start_is_asked_again(void)
{
    int count;
    fake->start = 9;
    CHECK(ask(&count, "cannot start (its error 9)") == PFO_UNAVAILABLE && count == 0);
    fake->start = 0;
    CHECK(ask(&count, NULL) == PFO_OK && count == 2);
    CHECK(memory[1].total == 2000 && memory[1].free == 500 && memory[1].used == 1500);
    CHECK(fake->starts == 2);
    CHECK(ask(&count, NULL) == PFO_OK && fake->starts == 2); /* one session */
}

static void
each_call_may_refuse(void)
{
    int *const calls[3] = { &fake->count, &fake->handle, &fake->read };
    for (int i = 0; i < 3; i++) {
        int count;
        *calls[i] = 15;
        CHECK(ask(&count, "no memory figures (its error 15)") == PFO_UNAVAILABLE && count == 0);
        *calls[i] = 0;
        CHECK(ask(&count, NULL) == PFO_OK && count == 2);
    }
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
    RUN(each_call_may_refuse);
    RUN(numbers_of_devices_and_bytes_are_bounded);
    RUN(a_forked_child_has_a_session_of_its_own);
    (void)dlclose(library);
    return FINISH();
}
