/* test_platform_linux.c: this process's own figures against other sources, the heap's switches, fork, lost
 * descriptors. */
#include "base/platform.h"

#include "base/clock.h"
#include "base/procfile.h"
#include "fixture.h"

#include <unistd.h>
#include <string.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED_HEAP 1 /* malloc is the sanitizer's: glibc's heap is not in use */
#else
#define SANITIZED_HEAP 0
#endif

enum { MIB = 1 << 20 };

static int64_t
status_field(const char *key)
{
    char text[4096];
    int64_t kibibytes = -1;
    REQUIRE(pfo_procfile_read("/proc/self/status", text, sizeof text) > 0);
    REQUIRE(pfo_procfile_field(text, key, &kibibytes));
    return kibibytes * 1024;
}

static int
near(int64_t a, int64_t b, int64_t tolerance)
{
    return a - b <= tolerance && b - a <= tolerance;
}

static void
resident_set_agrees_with_status_and_follows_touched_pages(void)
{
    CHECK(near(pfo_process_rss(), status_field("VmRSS"), 2 * MIB));
    const size_t size = (size_t)64 * MIB;
    const int64_t before = pfo_process_rss();
    char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(block != MAP_FAILED);
    CHECK(near(pfo_process_rss(), before, 8 * MIB)); /* mapped is not resident */
    memset(block, 1, size / 2);
    CHECK(near(pfo_process_rss(), before + 32 * MIB, 8 * MIB));
    memset(block, 1, size);
    CHECK(near(pfo_process_rss(), before + 64 * MIB, 8 * MIB));
    CHECK(munmap(block, size) == 0);
    CHECK(near(pfo_process_rss(), before, 8 * MIB));
    CHECK(pfo_process_peak_rss() >= before + 56 * MIB);
    CHECK(near(pfo_process_peak_rss(), status_field("VmHWM"), 2 * MIB));
}

static void
faults_count_touched_pages(void)
{
    const int64_t page = pfo_page_size();
    int64_t minor, major, minor_after, major_after;
    CHECK(page >= 4096 && (page & (page - 1)) == 0);
    const size_t size = 1000 * (size_t)page;
    char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(block != MAP_FAILED);
    (void)madvise(block, size, MADV_NOHUGEPAGE);
    pfo_process_faults(&minor, &major);
    for (size_t i = 0; i < size; i += (size_t)page) {
        block[i] = 1;
    }
    pfo_process_faults(&minor_after, &major_after);
    CHECK(minor_after - minor >= 900);
    CHECK(major >= 0 && major_after >= major);
    CHECK(munmap(block, size) == 0);
}

/* The descriptor open on the statm file, -1 if none. */
static int
statm_descriptor(void)
{
    int found = -1;
    DIR *directory = opendir("/proc/self/fd");
    REQUIRE(directory != NULL);
    for (const struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        char link[64];
        char target[128];
        (void)snprintf(link, sizeof link, "/proc/self/fd/%.20s", entry->d_name);
        const ptrdiff_t length = readlink(link, target, sizeof target - 1);
        if (length > 0) {
            target[length] = '\0';
            if (strstr(target, "/statm") != NULL) {
                found = atoi(entry->d_name);
            }
        }
    }
    (void)closedir(directory);
    return found;
}

static void
a_descriptor_closed_by_others_is_replaced(void)
{
    const int64_t before = pfo_process_rss();
    const int descriptor = statm_descriptor();
    REQUIRE(descriptor >= 0);
    REQUIRE(close(descriptor) == 0);
    const int other = open("/dev/null", O_RDONLY);
    REQUIRE(other >= 0);
    if (other != descriptor) {
        REQUIRE(dup2(other, descriptor) == descriptor);
    }
    CHECK(near(pfo_process_rss(), before, 4 * MIB));
    CHECK(fcntl(descriptor, F_GETFD) != -1); /* theirs now: still open */
    CHECK(near(pfo_process_rss(), before, 4 * MIB));
    (void)close(descriptor);
    if (other != descriptor) {
        (void)close(other);
    }
}

static void
a_forked_child_sees_itself(void)
{
    const size_t size = (size_t)96 * MIB;
    char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(block != MAP_FAILED);
    memset(block, 1, size);
    CHECK(pfo_process_rss() > 90 * MIB);
    const pid_t child = fork();
    if (child == 0) {
        (void)munmap(block, size);
        _exit(pfo_process_rss() > 0 && pfo_process_rss() < status_field("VmRSS") + 4 * MIB &&
                      pfo_process_rss() > status_field("VmRSS") - 4 * MIB
                  ? 0
                  : 1);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(munmap(block, size) == 0);
}

static void
machine_memory_from_a_fixture_and_from_here(void)
{
    const fixture tree = fixture_new();
    pfo_machine_memory memory = pfo_machine_memory_read(tree.root);
    CHECK(memory.total == -1 && memory.available == -1);
    fixture_write(&tree, "proc/meminfo", "MemTotal:       2048 kB\nMemFree:  12 kB\nMemAvailable:    1024 kB\n");
    memory = pfo_machine_memory_read(tree.root);
    CHECK(memory.total == 2048 * 1024 && memory.available == 1024 * 1024);
    fixture_write(&tree, "proc/meminfo", "MemTotal:       2048 kB\n");
    memory = pfo_machine_memory_read(tree.root);
    CHECK(memory.total == 2048 * 1024 && memory.available == -1);
    fixture_delete(&tree);
    memory = pfo_machine_memory_read("");
    CHECK(memory.total > 0 && memory.available > 0 && memory.available <= memory.total);
    CHECK(near(memory.total, (int64_t)sysconf(_SC_PHYS_PAGES) * pfo_page_size(), 64 * MIB));
}

static void
heap_figures_follow_malloc(void)
{
    if (SANITIZED_HEAP || pfo_heap_read().in_use < 0) {
        return;
    }
    enum { BLOCKS = 1000, SIZE = 50000 };
    static char *blocks[BLOCKS];
    const pfo_heap_info before = pfo_heap_read();
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(SIZE);
        REQUIRE(blocks[i] != NULL);
        memset(blocks[i], 1, SIZE);
    }
    CHECK(pfo_heap_read().in_use - before.in_use >= (int64_t)BLOCKS * SIZE);
    for (int i = 0; i < BLOCKS - 1; i++) { /* the last one keeps the heap's top where it is */
        free(blocks[i]);
    }
    const pfo_heap_info after = pfo_heap_read();
    CHECK(near(after.in_use, before.in_use, MIB));
    CHECK(after.retained - before.retained >= 40 * MIB);
    const int64_t resident = pfo_process_rss();
    int64_t given_back = -1;
    CHECK(pfo_heap_trim(&given_back, NULL) == PFO_OK);
    CHECK(given_back >= 40 * MIB);
    CHECK(pfo_process_rss() <= resident - 40 * MIB);
    free(blocks[BLOCKS - 1]);
}

/* Page faults of a second round over blocks of size bytes that a first round has allocated, touched and freed. */
static int64_t
faults_of_reuse(size_t size)
{
    int64_t before = 0, after = 0, major;
    for (int turn = 0; turn < 2; turn++) {
        pfo_process_faults(&before, &major);
        for (int i = 0; i < 4; i++) {
            char *block = malloc(size);
            REQUIRE(block != NULL);
            for (size_t at = 0; at < size; at += 4096) {
                ((volatile char *)block)[at] = 1;
            }
            free(block);
        }
        pfo_process_faults(&after, &major);
    }
    return after - before;
}

static void
retained_heap_is_reused_without_faults(void)
{
    int64_t given_back = -1;
    if (SANITIZED_HEAP || pfo_heap_retain(1, &given_back, NULL) != PFO_OK) {
        return;
    }
    CHECK(given_back == 0);
    CHECK(faults_of_reuse((size_t)20 * MIB) < 200);
    CHECK(faults_of_reuse((size_t)200 * MIB) < 200); /* beyond malloc's largest mmap threshold */
    const int64_t resident = pfo_process_rss();
    CHECK(pfo_heap_retain(0, &given_back, NULL) == PFO_OK);
    CHECK(given_back >= 150 * MIB);
    CHECK(pfo_process_rss() <= resident - 150 * MIB);
    CHECK(faults_of_reuse((size_t)200 * MIB) > 1000);
}

static void
usable_processors_are_within_the_machine(void)
{
    const int count = pfo_usable_processors();
    CHECK(count >= 1 && count <= (int)sysconf(_SC_NPROCESSORS_CONF));
    CHECK(pfo_usable_processors() == count);
}

static void *
burn(void *stop)
{
    while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED)) {
    }
    return NULL;
}

static void
processor_time_of_a_thread_grows(void)
{
    pthread_t thread;
    int stop = 0;
    REQUIRE(pfo_thread_create_quiet(&thread, NULL, burn, &stop) == 0);
    const int64_t begin = pfo_monotonic_ns();
    int64_t used = 0;
    while (used < 1000000 && pfo_monotonic_ns() - begin < INT64_C(20000000000)) {
        used = pfo_thread_cpu_ns(thread);
    }
    CHECK(used >= 1000000);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    REQUIRE(pthread_join(thread, NULL) == 0);
}

static void
threads_and_the_process_can_be_told(void)
{
    CHECK(pfo_thread_id() == (int64_t)getpid()); /* the first thread's number is the process's */
    char text[4096];
    pfo_thread_name(text, sizeof text);
    CHECK(strcmp(text, "test_platform_l") == 0); /* the kernel keeps 15 bytes */
    pfo_thread_name(text, 5);
    CHECK(strcmp(text, "test") == 0);
    pfo_process_command(text, sizeof text);
    CHECK(strstr(text, "test_platform_linux") != NULL);
    pfo_process_command(text, 4);
    CHECK(strlen(text) == 3);
    CHECK(pfo_pid_namespace() > 0);
}

int
main(void)
{
    RUN(resident_set_agrees_with_status_and_follows_touched_pages);
    RUN(faults_count_touched_pages);
    RUN(a_descriptor_closed_by_others_is_replaced);
    RUN(a_forked_child_sees_itself);
    RUN(machine_memory_from_a_fixture_and_from_here);
    RUN(heap_figures_follow_malloc);
    RUN(retained_heap_is_reused_without_faults);
    RUN(usable_processors_are_within_the_machine);
    RUN(processor_time_of_a_thread_grows);
    RUN(threads_and_the_process_can_be_told);
    return FINISH();
}
