/* test_probes.c: where the effective limit comes from, and samples of this process. */
#include "monitor/probes.h"

#include "base/clock.h"
#include "base/platform.h"
#include "fixture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { MIB = 1 << 20 };

static int64_t
limit_of(int64_t limit, int64_t high, int version, int64_t machine, const char *source_name)
{
    const pfo_cgroup_memory memory = { limit, high, -1, -1, -1.0 };
    pfo_limit_source source;
    const int64_t effective = pfo_effective_limit(&memory, version, machine, &source);
    CHECK(strcmp(pfo_limit_source_name(source), source_name) == 0);
    return effective;
}

static void
effective_limit_is_the_smallest_that_is_known(void)
{
    CHECK(limit_of(-1, -1, 0, 100, "machine") == 100);
    CHECK(limit_of(50, -1, 1, 100, "cgroup v1") == 50);
    CHECK(limit_of(50, 40, 2, 100, "cgroup v2") == 40);
    CHECK(limit_of(50, 60, 2, 100, "cgroup v2") == 50);
    CHECK(limit_of(500, 600, 2, 100, "machine") == 100);
    CHECK(limit_of(50, -1, 2, -1, "cgroup v2") == 50);
    CHECK(limit_of(-1, -1, 0, -1, "unknown") == -1);
}

static void
a_sample_follows_the_fixture_and_the_process(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "proc/self/cgroup", "0::/g\n");
    fixture_write(&tree, "proc/self/mountinfo", "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n");
    fixture_write(&tree, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 500 kB\n");
    fixture_write(&tree, "cg/g/memory.max", "600000\n");
    fixture_write(&tree, "cg/g/memory.current", "1234\n");
    fixture_write(&tree, "cg/g/memory.events", "low 0\nhigh 3\nmax 5\noom 1\noom_kill 1\noom_group_kill 9\n");
    pfo_probes probes;
    pfo_memory_sample sample;
    REQUIRE(pfo_probes_open(&probes, tree.root, NULL) == PFO_OK);
    const int64_t before = pfo_monotonic_ns();
    pfo_probes_read(&probes, &sample);
    CHECK(sample.time_ns >= before && sample.time_ns <= pfo_monotonic_ns());
    CHECK(sample.cgroup_usage == 1234 && sample.limit == 600000);
    CHECK(probes.brisk_due_ns <= sample.time_ns + INT64_C(90000000)); /* due at each turn of a sampler at 100 ms */
    CHECK(sample.rss > MIB / 4 && sample.minor_faults > 0 && sample.major_faults >= 0);
    CHECK(sample.throttled == 3 && sample.limit_hits == 5 && sample.oom_kills == 1);
    fixture_write(&tree, "cg/g/memory.current", "5678\n");
    fixture_write(&tree, "cg/g/memory.max", "max\n");
    fixture_write(&tree, "cg/g/memory.events", "low 0\nhigh 4\nmax 7\noom 1\noom_kill 2\n");
    probes.brisk_due_ns = probes.limit_due_ns = probes.events_due_ns = INT64_MAX;
    pfo_probes_read(&probes, &sample);
    CHECK(sample.cgroup_usage == 1234 && sample.limit == 600000 && sample.oom_kills == 1); /* not due yet */
    probes.brisk_due_ns = 0;
    pfo_probes_read(&probes, &sample);
    CHECK(sample.cgroup_usage == 5678 && sample.limit == 600000);
    pfo_probes_forget(&probes);
    pfo_probes_read(&probes, &sample);
    CHECK(sample.limit == 1000 * 1024 && sample.throttled == 4 && sample.limit_hits == 7 && sample.oom_kills == 2);
    pfo_probes_close(&probes);
    fixture_delete(&tree);
}

static void
a_descriptor_closed_by_others_comes_back(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "proc/self/cgroup", "0::/g\n");
    fixture_write(&tree, "proc/self/mountinfo", "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n");
    fixture_write(&tree, "cg/g/memory.current", "1234\n");
    fixture_write(&tree, "other", "42\n");
    char path[128];
    (void)snprintf(path, sizeof path, "%s/other", tree.root);
    pfo_probes probes;
    pfo_memory_sample sample;
    REQUIRE(pfo_probes_open(&probes, tree.root, NULL) == PFO_OK);
    pfo_probes_read(&probes, &sample);
    CHECK(sample.cgroup_usage == 1234);
    const int descriptor = probes.usage.descriptor;
    const int other = open(path, O_RDONLY);
    REQUIRE(other >= 0 && dup2(other, descriptor) == descriptor);
    probes.brisk_due_ns = 0;
    pfo_probes_read(&probes, &sample);
    CHECK(sample.cgroup_usage == -1); /* not the other file's number */
    probes.events_due_ns = 0;
    pfo_probes_read(&probes, &sample);
    CHECK(sample.cgroup_usage == 1234);
    pfo_probes_close(&probes);
    CHECK(fcntl(descriptor, F_GETFD) != -1);
    (void)close(other);
    (void)close(descriptor);
    fixture_delete(&tree);
}

static void
without_cgroups_the_rest_is_still_there(void)
{
    const fixture tree = fixture_new();
    pfo_probes probes;
    pfo_memory_sample sample;
    REQUIRE(pfo_probes_open(&probes, tree.root, NULL) == PFO_OK);
    pfo_probes_read(&probes, &sample);
    CHECK(sample.cgroup_usage == -1 && sample.limit == -1 && sample.rss > 0);
    pfo_probes_close(&probes);
    fixture_delete(&tree);
    REQUIRE(pfo_probes_open(&probes, "", NULL) == PFO_OK);
    pfo_probes_read(&probes, &sample);
    CHECK(sample.limit > 0 && sample.limit <= pfo_machine_memory_read("").total);
    pfo_probes_close(&probes);
}

static void
a_root_that_is_too_long_is_refused(void)
{
    char root[400];
    memset(root, 'r', sizeof root - 1);
    root[sizeof root - 1] = '\0';
    pfo_probes probes;
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_probes_open(&probes, root, &err) == PFO_OVERFLOW);
    CHECK(strstr(err.text, "399") != NULL);
    pfo_probes_close(&probes);
}

static void
samples_see_growth_and_the_child_sees_itself(void)
{
    pfo_probes probes;
    pfo_memory_sample before, after;
    REQUIRE(pfo_probes_open(&probes, "", NULL) == PFO_OK);
    pfo_probes_read(&probes, &before);
    const size_t size = (size_t)48 * MIB;
    char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(block != MAP_FAILED);
    memset(block, 1, size);
    pfo_probes_read(&probes, &after);
    CHECK(after.rss - before.rss >= 44 * MIB && after.uss == before.uss); /* a second has not gone by */
    CHECK(before.uss > 0 && before.uss <= before.rss + 4 * MIB);
    pfo_probes_forget(&probes);
    pfo_probes_read(&probes, &after);
    CHECK(after.uss - before.uss >= 44 * MIB);
    CHECK(after.minor_faults > before.minor_faults && after.time_ns > before.time_ns);
    const pid_t child = fork();
    if (child == 0) {
        pfo_memory_sample own;
        (void)munmap(block, size);
        pfo_probes_forget(&probes);
        pfo_probes_read(&probes, &own);
        _exit(own.rss > 0 && own.uss < after.uss - 40 * MIB && own.rss < after.rss - 40 * MIB ? 0 : 1);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(munmap(block, size) == 0);
    pfo_probes_close(&probes);
}

static void
the_resident_set_is_read_where_faults_came_in(void)
{
    pfo_probes probes;
    pfo_memory_sample sample;
    REQUIRE(pfo_probes_open(&probes, "", NULL) == PFO_OK);
    pfo_probes_read(&probes, &sample);
    probes.brisk_due_ns = probes.heap_due_ns = probes.uss_due_ns = probes.events_due_ns = probes.limit_due_ns =
        INT64_MAX;
    do { /* the pages of what is called here come in once */
        probes.faulting = 0;
        probes.last.rss = 77;
        pfo_probes_read(&probes, &sample);
    } while (probes.faulting);
    CHECK(sample.rss == 77);
    char *block = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(block != MAP_FAILED);
    const int64_t faults = sample.minor_faults;
    memset(block, 1, MIB);
    pfo_probes_read(&probes, &sample);
    CHECK(sample.rss > 77 && sample.minor_faults > faults && probes.faulting);
    probes.last.rss = 77;
    probes.last.minor_faults = 5;
    pfo_probes_read(&probes, &sample);
    CHECK(sample.rss > 77 && sample.minor_faults == 5); /* not counted again before it is due */
    const int64_t before = sample.rss;
    CHECK(munmap(block, MIB) == 0);
    probes.brisk_due_ns = 0;
    pfo_probes_read(&probes, &sample); /* falls bring no faults: seen when due */
    CHECK(sample.rss < before && sample.minor_faults > 5);
    probes.faulting = 0;
    probes.last.rss = 77;
    pfo_probes_want_resident(&probes);
    pfo_probes_read(&probes, &sample);
    CHECK(sample.rss > 77);
    pfo_probes_close(&probes);
}

static void
the_heap_is_walked_within_its_budget(void)
{
    pfo_probes probes;
    pfo_memory_sample sample;
    REQUIRE(pfo_probes_open(&probes, "", NULL) == PFO_OK);
    pfo_probes_read(&probes, &sample);
    CHECK(probes.heap_due_ns > pfo_monotonic_ns()); /* the walk took t > 0: none for 4000 t */
    probes.last.heap_in_use = 77;
    probes.heap_due_ns = INT64_MAX;
    pfo_probes_read(&probes, &sample);
    CHECK(sample.heap_in_use == 77);
    probes.heap_due_ns = 0;
    pfo_probes_read(&probes, &sample);
    CHECK(sample.heap_in_use != 77);
    pfo_probes_close(&probes);
}

int
main(void)
{
    RUN(effective_limit_is_the_smallest_that_is_known);
    RUN(a_sample_follows_the_fixture_and_the_process);
    RUN(a_descriptor_closed_by_others_comes_back);
    RUN(without_cgroups_the_rest_is_still_there);
    RUN(a_root_that_is_too_long_is_refused);
    RUN(samples_see_growth_and_the_child_sees_itself);
    RUN(the_resident_set_is_read_where_faults_came_in);
    RUN(the_heap_is_walked_within_its_budget);
    return FINISH();
}
