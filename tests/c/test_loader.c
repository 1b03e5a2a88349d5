/* Tests of backend/loader.c against the shared objects made from fake_backend.c. What happens once in a process is tested in
 * forked children. */
#include "check.h"

#include "backend/loader.h"

#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[PATH_MAX / 2];

static const char *
beside(const char *name)
{
    static char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int
opens(const char *path, char reason[PFO_BACKEND_REASON])
{
    const pfo_backend *backend = NULL;
    reason[0] = '\0';
    const int opened = pfo_backend_open(path, &backend, reason, PFO_BACKEND_REASON);
    CHECK(opened == (backend != NULL));
    CHECK(opened == (reason[0] == '\0'));
    return opened;
}

static void
test_opens_the_right_one(void)
{
    char reason[PFO_BACKEND_REASON];
    CHECK(opens(beside("fake_good.so"), reason));
}

static void
test_names_both_versions(void)
{
    char reason[PFO_BACKEND_REASON];
    CHECK(!opens(beside("fake_version.so"), reason));
    CHECK(strstr(reason, "version 43") != NULL && strstr(reason, "version 2") != NULL);
    CHECK(!opens(beside("fake_size.so"), reason));
    CHECK(strstr(reason, "bytes") != NULL);
}

static void
test_keeps_the_reason(void)
{
    char reason[PFO_BACKEND_REASON];
    CHECK(!opens(beside("fake_nosymbol.so"), reason));
    CHECK(strstr(reason, "no symbol " PFO_BACKEND_SYMBOL) != NULL);
    CHECK(!opens(beside("there_is_no_such.so"), reason));
    CHECK(strstr(reason, "does not exist") != NULL);
    CHECK(!opens("/proc/self/status", reason));
    CHECK(strstr(reason, "cannot open /proc/self/status") != NULL);
}

static void
test_cuts_a_long_reason(void)
{
    char reason[16];
    const pfo_backend *backend;
    CHECK(!pfo_backend_open(beside("there_is_no_such.so"), &backend, reason, sizeof reason));
    CHECK(strlen(reason) == sizeof reason - 1);
}

/* Runs body in a child with the two variables set (NULL: unset); 1 if all its checks held. */
static int
in_child(const char *switch_value, const char *library, int (*body)(void))
{
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        (void)(switch_value != NULL ? setenv("PERFOPT_CUDA", switch_value, 1) : unsetenv("PERFOPT_CUDA"));
        (void)(library != NULL ? setenv("PERFOPT_CUDA_LIB", library, 1) : unsetenv("PERFOPT_CUDA_LIB"));
        _exit(body() ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int
reason_has(const char *text)
{
    const pfo_backend_info *info = pfo_backend_describe();
    pfo_error err = PFO_ERROR_INIT;
    const pfo_backend *backend;
    return info->backend == NULL && info->device_count == 0 && strstr(info->reason, text) != NULL &&
           pfo_backend_require(&backend, &err) == PFO_DEVICE && backend == NULL &&
           strncmp(err.text, "no CUDA backend: ", 17) == 0;
}

static int
is_off(void)
{
    return reason_has("PERFOPT_CUDA=off") && pfo_backend_describe()->path[0] == '\0';
}

static int
is_unknown_switch(void)
{
    return reason_has("PERFOPT_CUDA=maybe is unknown; accepted: auto, on, off");
}

static int
is_relative(void)
{
    return reason_has("is not an absolute path");
}

static int
is_too_long(void)
{
    return reason_has("longer than");
}

static int
has_no_driver(void)
{
    return reason_has("no driver is installed") && strcmp(pfo_backend_describe()->name, "fake") == 0;
}

static int
has_no_device(void)
{
    return reason_has("no device");
}

/* Without PERFOPT_CUDA_LIB: the program's own folder, known only when the program was started by its absolute path. */
static int
looks_beside_itself(void)
{
    const char *path = pfo_backend_describe()->path;
    return path[0] == '\0' ? reason_has("is not known") : path[0] == '/' && strstr(path, "/_backends/") != NULL;
}

static int
is_good(void)
{
    const pfo_backend_info *info = pfo_backend_describe();
    const pfo_backend *backend = NULL;
    return info->backend != NULL && info->device_count == 1 && strcmp(info->name, "fake") == 0 &&
           info->reason[0] == '\0' && pfo_backend_require(&backend, NULL) == PFO_OK && backend == info->backend &&
           pfo_backend_describe() == info;
}

static void *
describe_on_thread(void *unused)
{
    (void)unused;
    return (void *)(uintptr_t)(const void *)pfo_backend_describe()->backend;
}

static int
is_the_same_on_all_threads(void)
{
    enum { COUNT = 8 };
    pthread_t threads[COUNT];
    void *seen[COUNT];
    int same = 1;
    for (int i = 0; i < COUNT; i++) {
        if (pthread_create(&threads[i], NULL, describe_on_thread, NULL) != 0) {
            return 0;
        }
    }
    for (int i = 0; i < COUNT; i++) {
        (void)pthread_join(threads[i], &seen[i]);
        same = same && seen[i] != NULL && seen[i] == seen[0];
    }
    return same;
}

static void
test_once_in_a_process(void)
{
    static char too_long[PATH_MAX + 2];
    memset(too_long, 'x', PATH_MAX);
    too_long[0] = '/';
    CHECK(in_child("off", beside("fake_good.so"), is_off));
    CHECK(in_child("maybe", beside("fake_good.so"), is_unknown_switch));
    CHECK(in_child(NULL, "fake_good.so", is_relative));
    CHECK(in_child(NULL, too_long, is_too_long));
    CHECK(in_child("on", beside("fake_nodriver.so"), has_no_driver));
    CHECK(in_child("auto", beside("fake_nodevice.so"), has_no_device));
    CHECK(in_child(NULL, NULL, looks_beside_itself));
    CHECK(in_child(NULL, "", looks_beside_itself));
    CHECK(in_child("", beside("fake_good.so"), is_good));
    CHECK(in_child(NULL, beside("fake_good.so"), is_the_same_on_all_threads));
}

int
main(void)
{
    char self[PATH_MAX / 2];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    REQUIRE(length > 0);
    self[length] = '\0';
    (void)snprintf(folder, sizeof folder, "%s", dirname(self));
    RUN(test_opens_the_right_one);
    RUN(test_names_both_versions);
    RUN(test_keeps_the_reason);
    RUN(test_cuts_a_long_reason);
    RUN(test_once_in_a_process);
    return FINISH();
}
