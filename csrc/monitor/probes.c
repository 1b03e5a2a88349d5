/* probes.c: see probes.h. System calls cost more than anything else here, all the more as the caches went cold while the sampler
 * slept: reading statm, for which the kernel adds up counters of all processors, takes 13 us of a turn then, and counting faults
 * below one. The other figures change slowly or cost a walk and have budgets. */
#include "monitor/probes.h"

#include "base/clock.h"
#include "base/platform.h"

#include <string.h>

enum { COST_SHARE = 4000 }; /* a walk that took t is not repeated before COST_SHARE * t */
static const int64_t brisk_valid_ns =
    INT64_C(90000000); /* a turn at 100 ms that comes a little early finds them due, too */
static const int64_t slow_valid_ns = INT64_C(1000000000);
static const int64_t limit_valid_ns = INT64_C(5000000000);
static const int64_t machine_valid_ns = INT64_C(60000000000);

static const char *const source_names[PFO_LIMIT_SOURCE_COUNT] = {
#define PFO_LIMIT_NAME(id, name) name,
    PFO_LIMIT_SOURCES(PFO_LIMIT_NAME)
#undef PFO_LIMIT_NAME
};

const char *
pfo_limit_source_name(pfo_limit_source source)
{
    const int index = (int)source;
    return source_names[index >= 0 && index < PFO_LIMIT_SOURCE_COUNT ? index : 0];
}

int64_t
pfo_effective_limit(const pfo_cgroup_memory *cgroup, int version, int64_t machine_total, pfo_limit_source *source)
{
    const pfo_limit_source group_source = version == 1 ? PFO_LIMIT_CGROUP_V1 : PFO_LIMIT_CGROUP_V2;
    const int64_t candidates[3] = { machine_total, cgroup->limit, cgroup->high };
    int64_t smallest = -1;
    *source = PFO_LIMIT_UNKNOWN;
    for (int i = 0; i < 3; i++) {
        if (candidates[i] > 0 && (smallest < 0 || candidates[i] < smallest)) {
            smallest = candidates[i];
            *source = i == 0 ? PFO_LIMIT_MACHINE : group_source;
        }
    }
    return smallest;
}

static void
open_usage(pfo_probes *probes)
{
    char path[PFO_CGROUP_PATH + 64];
    if (pfo_cgroup_usage_path(&probes->group, path, sizeof path)) {
        (void)pfo_kept_file_open(&probes->usage, path);
    }
}

pfo_status
pfo_probes_open(pfo_probes *probes, const char *root, pfo_error *err)
{
    memset(probes, 0, sizeof *probes);
    probes->usage = (pfo_kept_file)PFO_KEPT_FILE_INIT;
    probes->last = (pfo_memory_sample){ .limit = -1, .uss = -1, .throttled = -1, .limit_hits = -1, .oom_kills = -1 };
    pfo_probes_note_cuda(probes, -1, -1, -1, -1);
    const size_t length = strlen(root);
    if (length >= sizeof probes->root) {
        return pfo_fail(err, PFO_OVERFLOW, "root is %zu bytes long; at most %zu are accepted", length,
                        sizeof probes->root - 1);
    }
    memcpy(probes->root, root, length + 1);
    PFO_TRY(pfo_cgroup_find(root, "memory", &probes->group, err));
    open_usage(probes);
    return PFO_OK;
}

static int64_t
read_usage(pfo_probes *probes)
{
    char text[64];
    int64_t usage;
    if (pfo_kept_file_read(&probes->usage, text, sizeof text) <= 0 || pfo_procfile_number(text, &usage) == NULL) {
        pfo_kept_file_close(
            &probes->usage); /* somebody closed a descriptor that was not theirs, or the group is gone */
        return -1;
    }
    return usage;
}

static void
read_limit(pfo_probes *probes, int64_t now)
{
    pfo_cgroup_memory memory;
    pfo_limit_source source;
    if (now >= probes->machine_due_ns) {
        probes->machine_total = pfo_machine_memory_read(probes->root).total;
        probes->machine_due_ns = now + machine_valid_ns;
    }
    pfo_cgroup_memory_read(&probes->group, &memory);
    probes->last.limit = pfo_effective_limit(&memory, probes->group.version, probes->machine_total, &source);
}

static void
read_events(pfo_probes *probes)
{
    pfo_cgroup_events events;
    pfo_cgroup_events_read(&probes->group, &events);
    probes->last.throttled = events.high;
    probes->last.limit_hits = events.max;
    probes->last.oom_kills = events.oom_kill;
}

/* 1 if there were faults since they were last counted, or if they cannot be counted. */
static int
count_faults(pfo_memory_sample *last)
{
    const int64_t minor = last->minor_faults;
    const int64_t major = last->major_faults;
    pfo_process_faults(&last->minor_faults, &last->major_faults);
    return last->minor_faults < 0 || last->minor_faults != minor || last->major_faults != major;
}

/* What is read at the sampler's rate; brisk: what would else be left out, too. */
static void
read_resident(pfo_probes *probes, int brisk)
{
    if (brisk || !probes->faulting) {
        probes->faulting = count_faults(&probes->last);
    }
    if (brisk || probes->faulting) {
        probes->last.rss = pfo_process_rss();
    }
}

/* When something that took from begin until now may be read again. */
static int64_t
due_after(int64_t begin, int64_t valid_ns)
{
    const int64_t end = pfo_monotonic_ns();
    const int64_t pause = COST_SHARE * (end - begin);
    return end + (pause > valid_ns ? pause : valid_ns);
}

/* All that has a budget or changes slowly. */
static void
read_slow(pfo_probes *probes, int64_t now)
{
    if (now >= probes->events_due_ns) {
        if (probes->usage.descriptor < 0) {
            open_usage(probes);
            probes->brisk_due_ns = 0;
        }
        read_events(probes);
        probes->events_due_ns = now + slow_valid_ns;
    }
    if (now >= probes->limit_due_ns) {
        read_limit(probes, now);
        probes->limit_due_ns = now + limit_valid_ns;
    }
    if (now >= probes->heap_due_ns) {
        const int64_t begin = pfo_monotonic_ns();
        const pfo_heap_info heap = pfo_heap_read();
        probes->last.heap_in_use = heap.in_use;
        probes->last.heap_retained = heap.retained;
        probes->heap_due_ns = due_after(begin, brisk_valid_ns);
    }
    if (now >= probes->uss_due_ns) {
        const int64_t begin = pfo_monotonic_ns();
        probes->last.uss = pfo_process_uss();
        probes->uss_due_ns = due_after(begin, slow_valid_ns);
    }
}

void
pfo_probes_read(pfo_probes *probes, pfo_memory_sample *sample)
{
    const int64_t now = pfo_monotonic_ns();
    read_slow(probes, now);
    const int brisk = now >= probes->brisk_due_ns;
    if (brisk) {
        probes->last.cgroup_usage = read_usage(probes);
        probes->brisk_due_ns = now + brisk_valid_ns;
    }
    read_resident(probes, brisk);
    probes->last.time_ns = now;
    *sample = probes->last;
}

void
pfo_probes_want_resident(pfo_probes *probes)
{
    probes->faulting = 1;
}

void
pfo_probes_note_cuda(pfo_probes *probes, int64_t time_ns, int64_t allocated, int64_t reserved, int64_t total)
{
    probes->last.cuda_time_ns = time_ns;
    probes->last.cuda_allocated = allocated;
    probes->last.cuda_reserved = reserved;
    probes->last.cuda_total = total;
}

void
pfo_probes_forget(pfo_probes *probes)
{
    probes->brisk_due_ns = 0;
    probes->heap_due_ns = 0;
    probes->events_due_ns = 0;
    probes->limit_due_ns = 0;
    probes->machine_due_ns = 0;
    probes->uss_due_ns = 0;
}

void
pfo_probes_close(pfo_probes *probes)
{
    pfo_kept_file_close(&probes->usage);
}
