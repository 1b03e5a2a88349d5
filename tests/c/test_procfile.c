/* test_procfile.c: numbers and fields as the kernel writes them; kept files that survive a closed descriptor. */
#include "base/procfile.h"

#include "base/alloc.h"
#include "fixture.h"

#include <fcntl.h>

static int64_t
number_of(const char *text)
{
    int64_t value = -7;
    return pfo_procfile_number(text, &value) != NULL ? value : -1;
}

static void
numbers_are_read_and_saturate(void)
{
    CHECK(number_of("0\n") == 0);
    CHECK(number_of("  42 100\n") == 42);
    CHECK(number_of("max\n") == INT64_MAX);
    CHECK(number_of("max 100000\n") == INT64_MAX);
    CHECK(number_of("9223372036854771712\n") == INT64_C(9223372036854771712));
    CHECK(number_of("9223372036854775807") == INT64_MAX);
    CHECK(number_of("9223372036854775808") == INT64_MAX);
    CHECK(number_of("18446744073709551615\n") == INT64_MAX);
    CHECK(number_of("-1\n") == -1); /* no limit in v1 quotas: not a number here */
    CHECK(number_of("") == -1);
    CHECK(number_of("\n5") == -1);
    int64_t value;
    const char *rest = pfo_procfile_number("200000 100000", &value);
    CHECK(rest != NULL && number_of(rest) == 100000);
}

static void
fields_are_found_by_whole_key(void)
{
    const char *text =
        "MemTotalExtra: 9 kB\nMemTotal:       24684092 kB\ninactive_file 77\ntotal_inactive_file 99\nempty:\n";
    int64_t value = -1;
    CHECK(pfo_procfile_field(text, "MemTotal", &value) && value == 24684092);
    CHECK(pfo_procfile_field(text, "inactive_file", &value) && value == 77);
    CHECK(pfo_procfile_field(text, "total_inactive_file", &value) && value == 99);
    value = 5;
    CHECK(!pfo_procfile_field(text, "Mem", &value) && value == 5);
    CHECK(!pfo_procfile_field(text, "empty", &value) && value == 5);
    CHECK(!pfo_procfile_field("", "x", &value));
    CHECK(pfo_procfile_field("a 1\nlast 3", "last", &value) && value == 3);
}

static void
files_are_read_whole_or_cut(void)
{
    const fixture tree = fixture_new();
    char path[128];
    char text[8];
    (void)snprintf(path, sizeof path, "%s/f", tree.root);
    CHECK(pfo_procfile_read(path, text, sizeof text) == -1);
    fixture_write(&tree, "f", "0123456789");
    CHECK(pfo_procfile_read(path, text, sizeof text) == 7 && strcmp(text, "0123456") == 0);
    fixture_write(&tree, "f", "");
    CHECK(pfo_procfile_read(path, text, sizeof text) == 0 && text[0] == '\0');
    fixture_delete(&tree);
}

static void
long_files_grow_the_block(void)
{
    const size_t sizes[] = { 0, 1, 4094, 4095, 4096, 8191, 100000 };
    const fixture tree = fixture_new();
    char path[128];
    (void)snprintf(path, sizeof path, "%s/f", tree.root);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *content = pfo_alloc(sizes[i] + 1);
        REQUIRE(content != NULL);
        memset(content, 'x', sizes[i]);
        content[sizes[i]] = '\0';
        fixture_write(&tree, "f", content);
        char *text = NULL;
        CHECK(pfo_procfile_read_all(path, &text, NULL) == PFO_OK);
        CHECK(text != NULL && strcmp(text, content) == 0);
        pfo_free(text);
        pfo_free(content);
    }
    fixture_delete(&tree);
}

static void
missing_files_and_directories_are_refused(void)
{
    char *text = NULL;
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_procfile_read_all("/nonexistent/file", &text, &err) == PFO_UNAVAILABLE && text == NULL);
    CHECK(strstr(err.text, "/nonexistent/file") != NULL);
    CHECK(pfo_procfile_read_all("/tmp", &text, NULL) == PFO_IO && text == NULL);
}

static void
running_out_of_memory_is_reported(void)
{
    const fixture tree = fixture_new();
    char path[128];
    char content[9000];
    (void)snprintf(path, sizeof path, "%s/f", tree.root);
    memset(content, 'x', sizeof content - 1);
    content[sizeof content - 1] = '\0';
    fixture_write(&tree, "f", content);
    pfo_status status = PFO_NO_MEMORY;
    int failures = 0;
    for (long n = 1; status == PFO_NO_MEMORY && n < 20; n++) {
        char *text = NULL;
        pfo_alloc_fail_at(n);
        status = pfo_procfile_read_all(path, &text, NULL);
        pfo_alloc_fail_at(0);
        failures += status == PFO_NO_MEMORY;
        CHECK((text != NULL) == (status == PFO_OK));
        pfo_free(text);
    }
    CHECK(status == PFO_OK && failures >= 2);
    fixture_delete(&tree);
}

static void
kept_files_show_new_content(void)
{
    const fixture tree = fixture_new();
    char path[128];
    char text[16];
    (void)snprintf(path, sizeof path, "%s/f", tree.root);
    pfo_kept_file file = PFO_KEPT_FILE_INIT;
    CHECK(pfo_kept_file_read(&file, text, sizeof text) == -1);
    CHECK(!pfo_kept_file_open(&file, path) && file.descriptor == -1);
    fixture_write(&tree, "f", "1");
    REQUIRE(pfo_kept_file_open(&file, path));
    CHECK(pfo_kept_file_read(&file, text, sizeof text) == 1 && strcmp(text, "1") == 0);
    fixture_write(&tree, "f", "22");
    CHECK(pfo_kept_file_read(&file, text, sizeof text) == 2 && strcmp(text, "22") == 0);
    const int descriptor = file.descriptor;
    pfo_kept_file_close(&file);
    CHECK(file.descriptor == -1 && fcntl(descriptor, F_GETFD) == -1);
    pfo_kept_file_close(&file);
    fixture_delete(&tree);
}

static void
a_descriptor_that_names_another_file_is_not_read_and_left_open(void)
{
    const fixture tree = fixture_new();
    char path[128];
    (void)snprintf(path, sizeof path, "%s/f", tree.root);
    fixture_write(&tree, "f", "1");
    fixture_write(&tree, "other", "2");
    pfo_kept_file file = PFO_KEPT_FILE_INIT;
    REQUIRE(pfo_kept_file_open(&file, path));
    const int descriptor = file.descriptor;
    (void)snprintf(path, sizeof path, "%s/other", tree.root);
    const int other = open(path, O_RDONLY);
    REQUIRE(other >= 0 && dup2(other, descriptor) == descriptor);
    char text[16];
    CHECK(pfo_kept_file_read(&file, text, sizeof text) == -1);
    pfo_kept_file_close(&file);
    CHECK(fcntl(descriptor, F_GETFD) != -1);
    (void)close(other);
    (void)close(descriptor);
    fixture_delete(&tree);
}

int
main(void)
{
    RUN(numbers_are_read_and_saturate);
    RUN(fields_are_found_by_whole_key);
    RUN(files_are_read_whole_or_cut);
    RUN(long_files_grow_the_block);
    RUN(missing_files_and_directories_are_refused);
    RUN(running_out_of_memory_is_reported);
    RUN(kept_files_show_new_content);
    RUN(a_descriptor_that_names_another_file_is_not_read_and_left_open);
    return FINISH();
}
