/* test_cgroup.c: made-up trees of cgroup v1, v2, hybrid machines, containers and namespaces. */
#include "base/cgroup.h"

#include "base/alloc.h"
#include "fixture.h"

#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MEMORY "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
#define V1_CPU "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct\n"
#define HYBRID_UNIFIED "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
#define OTHER_MOUNTS                                                                                                   \
    "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"                                                          \
    "24 23 0:5 / /proc rw,relatime - proc proc rw\n"                                                                   \
    "37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n"
#define GIB (INT64_C(1) << 30)

static const int64_t v1_none = INT64_C(9223372036854771712);

static pfo_cgroup
find(const fixture *tree, const char *controller, const char *cgroups, const char *mounts)
{
    pfo_cgroup group;
    fixture_write(tree, "proc/self/cgroup", cgroups);
    fixture_write(tree, "proc/self/mountinfo", mounts);
    REQUIRE(pfo_cgroup_find(tree->root, controller, &group, NULL) == PFO_OK);
    return group;
}

/* 1 if the group was found with this version at root + directory. */
static int
is_at(const pfo_cgroup *group, const fixture *tree, int version, const char *directory)
{
    const size_t length = strlen(tree->root);
    return group->version == version && strncmp(group->directory, tree->root, length) == 0 &&
           strcmp(group->directory + length, directory) == 0;
}

static pfo_cgroup_memory
memory_of(const pfo_cgroup *group)
{
    pfo_cgroup_memory memory;
    pfo_cgroup_memory_read(group, &memory);
    return memory;
}

static void
write_number(const fixture *tree, const char *name, int64_t value)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%lld\n", (long long)value);
    fixture_write(tree, name, text);
}

static void
v2_takes_the_smallest_limit_of_all_ancestors(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    fixture_write(&tree, "sys/fs/cgroup/a/memory.max", "max\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/memory.max", "1073741824\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/memory.high", "805306368\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/memory.current", "604110848\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/memory.stat", "anon 1\nfile 2\ninactive_file 67239936\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/c/memory.max", "4294967296\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/c/memory.high", "max\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/c/memory.current", "123456789\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/c/memory.stat", "anon 100\ninactive_anon 5\ninactive_file 456\n");
    const pfo_cgroup group = find(&tree, "memory", "0::/a/b/c\n", OTHER_MOUNTS V2_MOUNT);
    CHECK(is_at(&group, &tree, 2, "/sys/fs/cgroup/a/b/c"));
    const pfo_cgroup_memory memory = memory_of(&group);
    CHECK(memory.limit == GIB);
    CHECK(memory.high == 805306368);
    CHECK(memory.usage == 123456789);
    CHECK(memory.inactive_file == 456);
    const double expected = (604110848.0 - 67239936.0) / 805306368.0; /* b is the fullest, not c */
    CHECK(memory.fullest > expected - 1e-9 && memory.fullest < expected + 1e-9);
    char path[256];
    CHECK(pfo_cgroup_usage_path(&group, path, sizeof path) && strstr(path, "/a/b/c/memory.current") != NULL);
    CHECK(!pfo_cgroup_usage_path(&group, path, 8));
    fixture_delete(&tree);
}

static void
v2_root_group_has_no_files_and_no_limit(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    const pfo_cgroup group = find(&tree, "memory", "0::/\n", V2_MOUNT);
    CHECK(is_at(&group, &tree, 2, "/sys/fs/cgroup"));
    const pfo_cgroup_memory memory = memory_of(&group);
    CHECK(memory.limit == -1 && memory.high == -1 && memory.usage == -1 && memory.inactive_file == -1);
    CHECK(memory.fullest < 0.0);
    fixture_delete(&tree);
}

static void
v1_no_limit_is_none_and_ancestors_bind(void)
{
    const fixture tree = fixture_new();
    write_number(&tree, "sys/fs/cgroup/memory/memory.limit_in_bytes", v1_none);
    write_number(&tree, "sys/fs/cgroup/memory/docker/memory.limit_in_bytes", 3 * GIB);
    write_number(&tree, "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", v1_none);
    write_number(&tree, "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", GIB);
    fixture_write(&tree, "sys/fs/cgroup/memory/docker/x/memory.stat",
                  "inactive_file 1\nhierarchical_memory_limit 9223372036854771712\ntotal_inactive_file 4096\n");
    const char *cgroups = "5:cpuset:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x\n";
    pfo_cgroup group = find(&tree, "memory", cgroups, OTHER_MOUNTS V1_MEMORY);
    CHECK(is_at(&group, &tree, 1, "/sys/fs/cgroup/memory/docker/x"));
    pfo_cgroup_memory memory = memory_of(&group);
    CHECK(memory.limit == 3 * GIB && memory.high == -1);
    CHECK(memory.usage == GIB && memory.inactive_file == 4096);
    write_number(&tree, "sys/fs/cgroup/memory/docker/memory.limit_in_bytes", v1_none);
    memory = memory_of(&group);
    CHECK(memory.limit == -1 && memory.fullest < 0.0);
    fixture_delete(&tree);
}

static void
v1_limit_of_an_unseen_ancestor_is_known_from_the_statistics(void)
{
    const fixture tree = fixture_new();
    write_number(&tree, "sys/fs/cgroup/memory/memory.limit_in_bytes", v1_none);
    write_number(&tree, "sys/fs/cgroup/memory/memory.usage_in_bytes", GIB);
    fixture_write(&tree, "sys/fs/cgroup/memory/memory.stat",
                  "hierarchical_memory_limit 2147483648\ntotal_inactive_file 536870912\n");
    const pfo_cgroup group = find(&tree, "memory", "4:memory:/docker/x\n",
                                  "35 31 0:32 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    CHECK(is_at(&group, &tree, 1, "/sys/fs/cgroup/memory"));
    const pfo_cgroup_memory memory = memory_of(&group);
    CHECK(memory.limit == 2 * GIB);
    CHECK(memory.fullest > 0.2499 && memory.fullest < 0.2501);
    fixture_delete(&tree);
}

static void
hybrid_machines_count_memory_in_v1(void)
{
    const fixture tree = fixture_new();
    const char *cgroups = "9:name=systemd:/\n4:memory:/process/24ec\n2:cpuacct:/\n1:cpu:/\n0::/\n";
    write_number(&tree, "sys/fs/cgroup/memory/process/24ec/memory.limit_in_bytes", GIB);
    fixture_write(&tree, "sys/fs/cgroup/unified/cgroup.procs", "");
    const pfo_cgroup group = find(&tree, "memory", cgroups, OTHER_MOUNTS V1_MEMORY HYBRID_UNIFIED);
    CHECK(is_at(&group, &tree, 1, "/sys/fs/cgroup/memory/process/24ec"));
    CHECK(memory_of(&group).limit == GIB);
    /* v1 without a memory hierarchy in sight: v2 has it. */
    fixture_write(&tree, "sys/fs/cgroup/unified/memory.max", "4096\n");
    const pfo_cgroup unified = find(&tree, "memory", cgroups, OTHER_MOUNTS HYBRID_UNIFIED);
    CHECK(is_at(&unified, &tree, 2, "/sys/fs/cgroup/unified"));
    CHECK(memory_of(&unified).limit == 4096);
    fixture_delete(&tree);
}

static void
a_container_sees_its_own_part_of_the_tree(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "sys/fs/cgroup/memory.max", "4096\n");
    fixture_write(&tree, "sys/fs/cgroup/inner/memory.max", "8192\n");
    const char *mounts = "30 23 0:26 /kubepods/pod1/c1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    pfo_cgroup group = find(&tree, "memory", "0::/kubepods/pod1/c1\n", mounts);
    CHECK(is_at(&group, &tree, 2, "/sys/fs/cgroup"));
    CHECK(memory_of(&group).limit == 4096);
    group = find(&tree, "memory", "0::/kubepods/pod1/c1/inner\n", mounts);
    CHECK(is_at(&group, &tree, 2, "/sys/fs/cgroup/inner"));
    CHECK(memory_of(&group).limit == 4096);
    group = find(&tree, "memory", "0::/kubepods/pod1/c10\n", mounts); /* begins alike, lies elsewhere */
    CHECK(group.version == 0);
    /* The path is the host's, the mount shows only our part without saying so: the nearest directory that is there. */
    group = find(&tree, "memory", "0::/kubepods/pod1/c1\n", V2_MOUNT);
    CHECK(is_at(&group, &tree, 2, "/sys/fs/cgroup"));
    CHECK(memory_of(&group).limit == 4096);
    fixture_delete(&tree);
}

static void
namespaces_with_parents_above_their_root(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "sys/fs/cgroup/memory.max", "4096\n");
    fixture_write(&tree, "sys/fs/cgroup/sibling/memory.max", "1024\n");
    fixture_write(&tree, "sys/fs/cgroup/x/memory.max", "512\n");
    const char *up1 = "30 23 0:26 /.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    const char *up2 = "30 23 0:26 /../.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    pfo_cgroup group = find(&tree, "memory", "0::/../sibling\n", up1);
    CHECK(is_at(&group, &tree, 2, "/sys/fs/cgroup/sibling"));
    CHECK(memory_of(&group).limit == 1024);
    group = find(&tree, "memory", "0::/\n", up1); /* our own name is not told: the ancestor that is */
    CHECK(is_at(&group, &tree, 2, "/sys/fs/cgroup"));
    CHECK(memory_of(&group).limit == 4096);
    group = find(&tree, "memory", "0::/../x\n", up2);
    CHECK(is_at(&group, &tree, 2, "/sys/fs/cgroup"));
    group = find(&tree, "memory", "0::/../x\n", V2_MOUNT); /* moved out of what the mount shows */
    CHECK(group.version == 0);
    CHECK(memory_of(&group).limit == -1);
    group = find(&tree, "memory", "0::/..\n", V2_MOUNT);
    CHECK(group.version == 0);
    fixture_delete(&tree);
}

static void
the_better_of_several_mounts_is_taken(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "part/memory.max", "1\n");
    fixture_write(&tree, "whole/docker/x/memory.max", "2\n");
    fixture_write(&tree, "top/docker/x/memory.max", "3\n");
    const char *part = "50 23 0:26 /docker/x /part ro - cgroup2 cgroup rw\n";
    const char *whole = "51 23 0:26 / /whole ro - cgroup2 cgroup rw\n";
    const char *top = "52 23 0:26 / /top ro - cgroup2 cgroup rw\n";
    char mounts[512];
    (void)snprintf(mounts, sizeof mounts, "%s%s%s", part, whole, top);
    pfo_cgroup group = find(&tree, "memory", "0::/docker/x\n", mounts);
    CHECK(memory_of(&group).limit == 3);
    (void)snprintf(mounts, sizeof mounts, "%s%s", whole, part);
    group = find(&tree, "memory", "0::/docker/x\n", mounts);
    CHECK(memory_of(&group).limit == 2);
    fixture_delete(&tree);
}

static void
mount_points_with_blanks_are_unescaped(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "my cg\\roups/g/memory.max", "77\n");
    const pfo_cgroup group =
        find(&tree, "memory", "0::/g\n", "30 23 0:26 / /my\\040cg\\134roups rw - cgroup2 cgroup2 rw\n");
    CHECK(is_at(&group, &tree, 2, "/my cg\\roups/g"));
    CHECK(memory_of(&group).limit == 77);
    fixture_delete(&tree);
}

static void
missing_and_broken_files_mean_no_cgroup(void)
{
    const fixture tree = fixture_new();
    pfo_cgroup group;
    CHECK(pfo_cgroup_find(tree.root, "memory", &group, NULL) == PFO_OK && group.version == 0);
    fixture_write(&tree, "proc/self/cgroup", "0::/\n");
    CHECK(pfo_cgroup_find(tree.root, "memory", &group, NULL) == PFO_OK && group.version == 0);
    const char *broken[] = { "", "\n\n", "0", "::", "0::", "nonsense", "4:memory", "4:memory:\n0:x:/\n" };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        group = find(&tree, "memory", broken[i], "\n30\n30 23 0:26 / /x\n30 23 0:26 / /x rw -\n- - - - -\n");
        CHECK(group.version == 0);
        group = find(&tree, "memory", broken[i], V2_MOUNT V1_MEMORY);
        CHECK(memory_of(&group).limit == -1);
    }
    fixture_write(&tree, "sys/fs/cgroup/memory.max", "garbage\n");
    group = find(&tree, "memory", "0::/\n", V2_MOUNT);
    CHECK(group.version == 2 && memory_of(&group).limit == -1);
    fixture_delete(&tree);
}

static void
too_long_paths_are_an_error(void)
{
    const fixture tree = fixture_new();
    char cgroups[PFO_CGROUP_PATH + 16] = "0::/";
    memset(cgroups + 4, 'a', PFO_CGROUP_PATH);
    cgroups[PFO_CGROUP_PATH + 4] = '\0';
    fixture_write(&tree, "proc/self/cgroup", cgroups);
    fixture_write(&tree, "proc/self/mountinfo", V2_MOUNT);
    pfo_cgroup group;
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_cgroup_find(tree.root, "memory", &group, &err) == PFO_OVERFLOW && group.version == 0);
    CHECK(strstr(err.text, "memory") != NULL);
    CHECK(pfo_cgroup_find(cgroups, "memory", &group, NULL) == PFO_OVERFLOW && group.version == 0);
    fixture_delete(&tree);
}

static void
running_out_of_memory_is_reported(void)
{
    const fixture tree = fixture_new();
    pfo_cgroup group = find(&tree, "memory", "0::/\n", V2_MOUNT);
    for (long n = 1; n <= 2; n++) {
        pfo_alloc_fail_at(n);
        CHECK(pfo_cgroup_find(tree.root, "memory", &group, NULL) == PFO_NO_MEMORY && group.version == 0);
        pfo_alloc_fail_at(0);
    }
    fixture_delete(&tree);
}

static int
quota_is(const pfo_cgroup *group, double expected)
{
    const double quota = pfo_cgroup_cpu_quota(group);
    return quota > expected - 1e-9 && quota < expected + 1e-9;
}

static void
cpu_quotas_of_both_versions(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    fixture_write(&tree, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    pfo_cgroup group = find(&tree, "cpu", "0::/a/b\n", V2_MOUNT);
    CHECK(quota_is(&group, 2.5));
    fixture_write(&tree, "sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    CHECK(quota_is(&group, 0.5));
    fixture_write(&tree, "sys/fs/cgroup/a/b/cpu.max", "50000\n");
    CHECK(quota_is(&group, 2.5));
    group = find(&tree, "cpu", "0::/\n", V2_MOUNT);
    CHECK(quota_is(&group, 0.0));

    fixture_write(&tree, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    fixture_write(&tree, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    fixture_write(&tree, "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "150000\n");
    fixture_write(&tree, "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
    group = find(&tree, "cpu", "3:cpu,cpuacct:/x\n0::/\n", V1_CPU V2_MOUNT);
    CHECK(group.version == 1 && quota_is(&group, 1.5));
    group = find(&tree, "cpu", "3:cpu,cpuacct:/\n", V1_CPU);
    CHECK(group.version == 1 && quota_is(&group, 0.0));
    group = find(&tree, "cpu", "", "");
    CHECK(group.version == 0 && quota_is(&group, 0.0));
    fixture_delete(&tree);
}

static void
events_are_read_in_both_versions(void)
{
    const fixture tree = fixture_new();
    fixture_write(&tree, "proc/self/cgroup", "4:memory:/box\n0::/g\n");
    fixture_write(&tree, "proc/self/mountinfo", "35 31 0:32 / /v1 rw - cgroup cgroup rw,memory\n");
    fixture_write(&tree, "v1/box/memory.failcnt", "12\n");
    fixture_write(&tree, "v1/box/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
    pfo_cgroup group;
    pfo_cgroup_events events;
    REQUIRE(pfo_cgroup_find(tree.root, "memory", &group, NULL) == PFO_OK && group.version == 1);
    pfo_cgroup_events_read(&group, &events);
    CHECK(events.high == -1 && events.max == 12 && events.oom_kill == 3);
    fixture_write(&tree, "proc/self/mountinfo", "30 23 0:26 / /v2 rw - cgroup2 cgroup2 rw\n");
    fixture_write(&tree, "v2/g/memory.events", "low 0\nhigh 1\nmax 2\noom 0\noom_kill 0\n");
    REQUIRE(pfo_cgroup_find(tree.root, "memory", &group, NULL) == PFO_OK && group.version == 2);
    pfo_cgroup_events_read(&group, &events);
    CHECK(events.high == 1 && events.max == 2 && events.oom_kill == 0);
    group.version = 0;
    pfo_cgroup_events_read(&group, &events);
    CHECK(events.high == -1 && events.max == -1 && events.oom_kill == -1);
    fixture_delete(&tree);
}

int
main(void)
{
    RUN(events_are_read_in_both_versions);
    RUN(v2_takes_the_smallest_limit_of_all_ancestors);
    RUN(v2_root_group_has_no_files_and_no_limit);
    RUN(v1_no_limit_is_none_and_ancestors_bind);
    RUN(v1_limit_of_an_unseen_ancestor_is_known_from_the_statistics);
    RUN(hybrid_machines_count_memory_in_v1);
    RUN(a_container_sees_its_own_part_of_the_tree);
    RUN(namespaces_with_parents_above_their_root);
    RUN(the_better_of_several_mounts_is_taken);
    RUN(mount_points_with_blanks_are_unescaped);
    RUN(missing_and_broken_files_mean_no_cgroup);
    RUN(too_long_paths_are_an_error);
    RUN(running_out_of_memory_is_reported);
    RUN(cpu_quotas_of_both_versions);
    return FINISH();
}
