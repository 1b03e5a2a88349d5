/* test_export_file.c: a file is there whole or as it was; pipes are written to directly; failures name the path and the reason. */
#include "export_fixture.h"
#include "fixture.h"

#include "base/alloc.h"
#include "profiler/export_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>

typedef struct place {
    fixture tree;
    char path[128];
} place;

static place
new_place(void)
{
    place made = { .tree = fixture_new() };
    (void)snprintf(made.path, sizeof made.path, "%s/out.csv", made.tree.root);
    return made;
}

static int
entries(const char *directory)
{
    DIR *opened = opendir(directory);
    REQUIRE(opened != NULL);
    int count = -2; /* "." and ".." */
    while (readdir(opened) != NULL) {
        count++;
    }
    (void)closedir(opened);
    return count;
}

static size_t
size_of(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0 ? (size_t)facts.st_size : (size_t)-1;
}

static void
test_the_file_holds_what_a_sink_gets(void)
{
    made_capture *made = made_capture_new();
    const place at = new_place();
    test_sink sink = { .keep = 1 };
    const pfo_sink handle = test_sink_of(&sink);
    REQUIRE(pfo_export(PFO_EXPORT_csv, &made->capture, NULL, &handle, NULL) == PFO_OK);
    for (int again = 0; again < 2; again++) { /* a new file, then over the old one */
        CHECK(pfo_export_to_file(PFO_EXPORT_csv, &made->capture, NULL, at.path, NULL) == PFO_OK);
        CHECK(size_of(at.path) == sink.length && entries(at.tree.root) == 1);
    }
    char *read_back = malloc(sink.length);
    REQUIRE(read_back != NULL);
    FILE *file = fopen(at.path, "rb");
    REQUIRE(file != NULL);
    CHECK(fread(read_back, 1, sink.length, file) == sink.length);
    CHECK(memcmp(read_back, sink.bytes, sink.length) == 0);
    (void)fclose(file);
    free(read_back);
    free(sink.bytes);
    fixture_delete(&at.tree);
    made_capture_free(made);
}

static void
test_a_failure_leaves_the_old_file_and_nothing_else(void)
{
    made_capture *made = made_capture_new();
    const place at = new_place();
    fixture_write(&at.tree, "out.csv", "old");
    const pfo_span wrong = { .name = 99 };
    array_source spans = { .spans = &wrong, .count = 1 };
    const pfo_span_source source = array_source_of(&spans);
    CHECK(pfo_export_to_file(PFO_EXPORT_perfetto, &made->capture, &source, at.path, NULL) == PFO_BAD_ARGUMENT);
    CHECK(size_of(at.path) == 3 && entries(at.tree.root) == 1);
    int failures = 0;
    for (long n = 1;; n++) {
        pfo_alloc_fail_at(n);
        const pfo_status status = pfo_export_to_file(PFO_EXPORT_pstats, &made->capture, NULL, at.path, NULL);
        pfo_alloc_fail_at(0);
        if (status == PFO_OK) {
            break;
        }
        CHECK(status == PFO_NO_MEMORY && size_of(at.path) == 3 && entries(at.tree.root) == 1);
        failures++;
    }
    CHECK(failures > 3 && size_of(at.path) > 3 && entries(at.tree.root) == 1);
    fixture_delete(&at.tree);
    made_capture_free(made);
}

static void
test_paths_that_cannot_be(void)
{
    const pfo_capture nothing = { .base_epoch_ns = 1 };
    const place at = new_place();
    char path[256];
    (void)snprintf(path, sizeof path, "%s/not/there.csv", at.tree.root);
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_export_to_file(PFO_EXPORT_csv, &nothing, NULL, path, &err) == PFO_IO);
    CHECK(strstr(err.text, path) != NULL && strstr(err.text, "No such file") != NULL);
    err = (pfo_error)PFO_ERROR_INIT;
    CHECK(pfo_export_to_file(PFO_EXPORT_csv, &nothing, NULL, at.tree.root, &err) == PFO_IO);
    CHECK(strstr(err.text, "Is a directory") != NULL);
    CHECK(entries(at.tree.root) == 0);
    fixture_delete(&at.tree);
}

static void *
drain(void *path)
{
    char bytes[4096];
    size_t total = 0;
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    for (ssize_t got = 1; got > 0; total += (size_t)(got > 0 ? got : 0)) {
        got = read(descriptor, bytes, sizeof bytes);
    }
    (void)close(descriptor);
    return (void *)total; /* NOLINT */
}

static void
test_a_pipe_and_a_full_disk(void)
{
    made_capture *made = made_capture_new();
    const place at = new_place();
    REQUIRE(mkfifo(at.path, 0600) == 0);
    pthread_t reader;
    char path[sizeof at.path];
    memcpy(path, at.path, sizeof path);
    REQUIRE(pthread_create(&reader, NULL, drain, path) == 0);
    CHECK(pfo_export_to_file(PFO_EXPORT_csv, &made->capture, NULL, at.path, NULL) == PFO_OK);
    void *total = NULL;
    REQUIRE(pthread_join(reader, &total) == 0);
    CHECK((size_t)total > LONG_NAME);
    CHECK(entries(at.tree.root) == 1);
    if (access("/dev/full", W_OK) == 0) {
        pfo_error err = PFO_ERROR_INIT;
        CHECK(pfo_export_to_file(PFO_EXPORT_csv, &made->capture, NULL, "/dev/full", &err) == PFO_IO);
        CHECK(strstr(err.text, "No space left") != NULL);
    }
    fixture_delete(&at.tree);
    made_capture_free(made);
}

int
main(void)
{
    RUN(test_the_file_holds_what_a_sink_gets);
    RUN(test_a_failure_leaves_the_old_file_and_nothing_else);
    RUN(test_paths_that_cannot_be);
    RUN(test_a_pipe_and_a_full_disk);
    return FINISH();
}
