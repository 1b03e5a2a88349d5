/* cgroup.c: see cgroup.h. Parsing of /proc/self/cgroup and /proc/self/mountinfo, and the walk over the ancestors.
 *
 * [place] of a group in the file tree. A mount shows the subtree of its hierarchy below the mount's root; group path P and
 * mount root R are both given relative to the root of our cgroup namespace:
 *   R = "/"            directory = mount point + P
 *   P begins with R    directory = mount point + rest of P (a container that sees only its own part)
 *   R = "/.." (n times), P not below it: the mount begins above our namespace; the names between are not told, but the
 *                      mount point is an ancestor of ours, so its limits bind and are what can be known
 *   else               the mount does not show our group (P = "/../x" and R = "/": moved out of the namespace)
 */
#include "base/cgroup.h"

#include "base/alloc.h"
#include "base/procfile.h"

#include <stdio.h> /* snprintf into the caller's buffer; nothing is printed */
#include <string.h>
#include <unistd.h>

enum { SMALL_FILE = 128, STAT_FILE = 16384 };

/* v1 writes LONG_MAX rounded down to a page for "no limit"; no machine has that much. */
static const int64_t no_limit_from = INT64_C(1) << 60;

/* A piece of a text, not NUL-terminated. */
typedef struct piece {
    const char *start;
    size_t length;
} piece;

static int
piece_is(piece text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.start, word, text.length) == 0;
}

/* 1 if the comma-separated list has the word. */
static int
list_has(piece list, const char *word)
{
    const size_t length = strlen(word);
    const char *const end = list.start + list.length;
    for (const char *item = list.start; item < end;) {
        const char *comma = memchr(item, ',', (size_t)(end - item));
        const size_t item_length = (size_t)((comma == NULL ? end : comma) - item);
        if (item_length == length && memcmp(item, word, length) == 0) {
            return 1;
        }
        item += item_length + 1;
    }
    return 0;
}

/* Cuts the next line off *text; 0 at the end. */
static int
next_line(const char **text, piece *line)
{
    if (**text == '\0') {
        return 0;
    }
    const char *end = strchr(*text, '\n');
    line->start = *text;
    line->length = end == NULL ? strlen(*text) : (size_t)(end - *text);
    *text += line->length + (end != NULL);
    return 1;
}

/* Cuts the next part up to the separator off *line; an empty part at the end. */
static piece
next_part(piece *line, char separator)
{
    const char *end = memchr(line->start, separator, line->length);
    piece part = { line->start, end == NULL ? line->length : (size_t)(end - line->start) };
    const size_t used = part.length + (end != NULL);
    line->start += used;
    line->length -= used;
    return part;
}

/* The path of our group: the v1 line that lists controller, or with controller NULL the v2 line "0::path". */
static int
find_own_path(const char *cgroups, const char *controller, piece *path)
{
    piece line;
    while (next_line(&cgroups, &line)) {
        const piece id = next_part(&line, ':');
        const piece controllers = next_part(&line, ':');
        const int found =
            controller != NULL ? list_has(controllers, controller) : piece_is(id, "0") && controllers.length == 0;
        if (found) {
            *path = line;
            return 1;
        }
    }
    return 0;
}

typedef struct mount {
    piece root;
    piece point;
} mount;

/* One line of mountinfo: "id parent device root point options [tags...] - type source superoptions". */
static int
parse_mount(piece line, const char *controller, mount *found)
{
    for (int skipped = 0; skipped < 3; skipped++) {
        (void)next_part(&line, ' ');
    }
    found->root = next_part(&line, ' ');
    found->point = next_part(&line, ' ');
    while (line.length > 0 && !piece_is(next_part(&line, ' '), "-")) {
    }
    const piece type = next_part(&line, ' ');
    (void)next_part(&line, ' ');
    if (controller == NULL) {
        return piece_is(type, "cgroup2");
    }
    return piece_is(type, "cgroup") && list_has(line, controller);
}

/* Appends text to path of *length bytes; with unescape, mountinfo's \040 and the like become bytes. 0: too long. */
static int
append(char *path, size_t *length, piece text, int unescape)
{
    for (size_t i = 0; i < text.length; i++) {
        char c = text.start[i];
        if (unescape && c == '\\' && i + 3 < text.length) {
            const char *digits = text.start + i + 1;
            c = (char)(((digits[0] - '0') << 6) | ((digits[1] - '0') << 3) | (digits[2] - '0'));
            i += 3;
        }
        if (*length + 1 >= PFO_CGROUP_PATH) {
            return 0;
        }
        path[(*length)++] = c;
    }
    path[*length] = '\0';
    return 1;
}

/* 1 if path is root or lies below it; *rest is then what follows root ("" or "/..."). */
static int
below(piece path, piece root, piece *rest)
{
    const size_t length = piece_is(root, "/") ? 0 : root.length;
    if (path.length < length || memcmp(path.start, root.start, length) != 0 ||
        (path.length > length && path.start[length] != '/')) {
        return 0;
    }
    rest->start = path.start + length;
    rest->length = path.length - length;
    if (piece_is(*rest, "/")) {
        rest->length = 0;
    }
    return 1;
}

/* Rank of a mount for our path: 2 shows our group, 1 shows only an ancestor, 0 neither; see [place]. */
static int
rank_mount(piece path, const mount *seen, piece *rest)
{
    rest->start = "";
    rest->length = 0;
    if (below(path, seen->root, rest)) {
        const int leaves =
            rest->length >= 3 && memcmp(rest->start, "/..", 3) == 0 && (rest->length == 3 || rest->start[3] == '/');
        if (!leaves) {
            return 2;
        }
        rest->length = 0;
        return 0;
    }
    const size_t ups = seen->root.length / 3;
    for (size_t i = 0; i < ups; i++) {
        if (memcmp(seen->root.start + 3 * i, "/..", 3) != 0) {
            return 0;
        }
    }
    return ups > 0 && seen->root.length == 3 * ups;
}

/* The best mount that shows path: own group before ancestor, larger part before smaller (more ancestors), later before
 * earlier (it lies on top). 1 found, 0 none, -1 path too long. */
static int
place_group(const char *root, const char *mounts, const char *controller, piece path, pfo_cgroup *group)
{
    int best_rank = 0;
    mount best = { { "", 0 }, { "", 0 } };
    piece best_rest = { "", 0 };
    piece line;
    while (next_line(&mounts, &line)) {
        mount seen;
        piece rest;
        if (!parse_mount(line, controller, &seen)) {
            continue;
        }
        const int rank = rank_mount(path, &seen, &rest);
        if (rank > best_rank || (rank > 0 && rank == best_rank && seen.root.length <= best.root.length)) {
            best_rank = rank;
            best = seen;
            best_rest = rest;
        }
    }
    if (best_rank == 0) {
        return 0;
    }
    const piece prefix = { root, strlen(root) };
    size_t length = 0;
    if (!append(group->directory, &length, prefix, 0) || !append(group->directory, &length, best.point, 1)) {
        return -1;
    }
    group->mount_length = length;
    return append(group->directory, &length, best_rest, 0) ? 1 : -1;
}

/* The v1 hierarchy of controller if there is one, else the v2 hierarchy (a controller lives in one of them only). */
static int
find_in(const char *root, const char *cgroups, const char *mounts, const char *controller, pfo_cgroup *group)
{
    for (int version = 1; version <= 2; version++) {
        const char *wanted = version == 1 ? controller : NULL;
        piece path;
        if (find_own_path(cgroups, wanted, &path)) {
            const int placed = place_group(root, mounts, wanted, path, group);
            if (placed != 0) {
                group->version = placed > 0 ? version : 0;
                return placed;
            }
        }
    }
    return 0;
}

/* Moves from a group to its parent; 0 when the mount point was the last. */
static int
go_up(const pfo_cgroup *group, size_t *length)
{
    if (*length <= group->mount_length) {
        return 0;
    }
    do {
        (*length)--;
    } while (*length > group->mount_length && group->directory[*length] != '/');
    return 1;
}

/* A container may see only its own part of the tree under a path it is not told: the nearest group that is there
 * counts. */
static void
climb_to_existing(pfo_cgroup *group)
{
    size_t length = strlen(group->directory);
    while (group->version != 0 && access(group->directory, F_OK) != 0 && go_up(group, &length)) {
        group->directory[length] = '\0';
    }
}

static pfo_status
read_proc_file(const char *root, const char *name, char **text, pfo_error *err)
{
    char path[PFO_CGROUP_PATH];
    const int length = snprintf(path, sizeof path, "%s/proc/self/%s", root, name);
    if (length < 0 || (size_t)length >= sizeof path) {
        return pfo_fail(err, PFO_OVERFLOW, "root is longer than %d bytes", (int)PFO_CGROUP_PATH);
    }
    return pfo_procfile_read_all(path, text, err);
}

pfo_status
pfo_cgroup_find(const char *root, const char *controller, pfo_cgroup *group, pfo_error *err)
{
    group->version = 0;
    group->mount_length = 0;
    group->directory[0] = '\0';
    char *cgroups = NULL;
    char *mounts = NULL;
    pfo_error local = PFO_ERROR_INIT;
    pfo_status status = read_proc_file(root, "cgroup", &cgroups, &local);
    if (status == PFO_OK) {
        status = read_proc_file(root, "mountinfo", &mounts, &local);
    }
    if (status == PFO_OK && find_in(root, cgroups, mounts, controller, group) < 0) {
        status = pfo_fail(&local, PFO_OVERFLOW, "path of the %s cgroup is longer than %d bytes", controller,
                          (int)PFO_CGROUP_PATH);
    }
    pfo_free(cgroups);
    pfo_free(mounts);
    climb_to_existing(group);
    if (status == PFO_UNAVAILABLE) {
        return PFO_OK;
    }
    return status == PFO_OK ? PFO_OK : pfo_fail(err, status, "%s", local.text);
}

/* Text of directory[0 .. length)/name, or -1. */
static ptrdiff_t
read_group_file(const pfo_cgroup *group, size_t length, const char *name, char *text, size_t size)
{
    char path[PFO_CGROUP_PATH + 64];
    const int written = snprintf(path, sizeof path, "%.*s/%s", (int)length, group->directory, name);
    if (written < 0 || (size_t)written >= sizeof path) {
        return -1;
    }
    return pfo_procfile_read(path, text, size);
}

/* The number in a group's file; -1 when the file is missing or holds no number, or when it says "no limit". */
static int64_t
read_group_number(const pfo_cgroup *group, size_t length, const char *name)
{
    char text[SMALL_FILE];
    int64_t value;
    if (read_group_file(group, length, name, text, sizeof text) < 0 || pfo_procfile_number(text, &value) == NULL) {
        return -1;
    }
    return value >= no_limit_from ? -1 : value;
}

/* The smaller of two limits where -1 means none. */
static int64_t
smaller_limit(int64_t a, int64_t b)
{
    if (a < 0 || b < 0) {
        return a < 0 ? b : a;
    }
    return a < b ? a : b;
}

typedef struct memory_names {
    const char *limit, *high, *usage, *inactive_file, *hierarchical_limit;
} memory_names;

static const memory_names names_of_version[3] = {
    { NULL, NULL, NULL, NULL, NULL },
    { "memory.limit_in_bytes", NULL, "memory.usage_in_bytes", "total_inactive_file", "hierarchical_memory_limit" },
    { "memory.max", "memory.high", "memory.current", "inactive_file", NULL },
};

static void
read_usage(const pfo_cgroup *group, size_t length, pfo_cgroup_memory *level)
{
    const memory_names *names = &names_of_version[group->version];
    char text[STAT_FILE];
    level->usage = read_group_number(group, length, names->usage);
    level->inactive_file = -1;
    if (read_group_file(group, length, "memory.stat", text, sizeof text) < 0) {
        return;
    }
    (void)pfo_procfile_field(text, names->inactive_file, &level->inactive_file);
    int64_t inherited = INT64_MAX;
    if (names->hierarchical_limit != NULL && pfo_procfile_field(text, names->hierarchical_limit, &inherited) &&
        inherited < no_limit_from) {
        level->limit = smaller_limit(level->limit, inherited);
    }
}

/* What of the level's limit is taken by memory that cannot go at once; -1.0 without a limit. */
static double
fullness(const pfo_cgroup_memory *level)
{
    const int64_t limit = smaller_limit(level->limit, level->high);
    if (limit <= 0 || level->usage < 0) {
        return -1.0;
    }
    const int64_t file = level->inactive_file > 0 ? level->inactive_file : 0;
    return level->usage > file ? (double)(level->usage - file) / (double)limit : 0.0;
}

void
pfo_cgroup_memory_read(const pfo_cgroup *group, pfo_cgroup_memory *memory)
{
    *memory = (pfo_cgroup_memory){ -1, -1, -1, -1, -1.0 };
    if (group->version == 0) {
        return;
    }
    const memory_names *names = &names_of_version[group->version];
    const size_t own_length = strlen(group->directory);
    size_t length = own_length;
    do {
        pfo_cgroup_memory level = { -1, -1, -1, -1, -1.0 };
        level.limit = read_group_number(group, length, names->limit);
        level.high = names->high == NULL ? -1 : read_group_number(group, length, names->high);
        if (length == own_length || smaller_limit(level.limit, level.high) > 0) {
            read_usage(group, length, &level);
        }
        if (length == own_length) {
            memory->usage = level.usage;
            memory->inactive_file = level.inactive_file;
        }
        const double share = fullness(&level);
        memory->fullest = share > memory->fullest ? share : memory->fullest;
        memory->limit = smaller_limit(memory->limit, level.limit);
        memory->high = smaller_limit(memory->high, level.high);
    } while (go_up(group, &length));
}

void
pfo_cgroup_events_read(const pfo_cgroup *group, pfo_cgroup_events *events)
{
    char text[SMALL_FILE * 4];
    *events = (pfo_cgroup_events){ -1, -1, -1 };
    if (group->version == 0) {
        return;
    }
    const size_t length = strlen(group->directory);
    const char *const name = group->version == 1 ? "memory.oom_control" : "memory.events";
    if (read_group_file(group, length, name, text, sizeof text) > 0) {
        (void)pfo_procfile_field(text, "oom_kill", &events->oom_kill);
        (void)pfo_procfile_field(text, "high", &events->high);
        (void)pfo_procfile_field(text, "max", &events->max);
    }
    if (group->version == 1) {
        events->max = read_group_number(group, length, "memory.failcnt");
    }
}

int
pfo_cgroup_usage_path(const pfo_cgroup *group, char *path, size_t size)
{
    if (group->version == 0) {
        return 0;
    }
    const int length = snprintf(path, size, "%s/%s", group->directory, names_of_version[group->version].usage);
    return length > 0 && (size_t)length < size;
}

/* Quota of one group in processors; 0.0 when it has none. */
static double
quota_of_level(const pfo_cgroup *group, size_t length)
{
    int64_t quota = -1;
    int64_t period = -1;
    if (group->version == 1) {
        quota = read_group_number(group, length, "cpu.cfs_quota_us");
        period = read_group_number(group, length, "cpu.cfs_period_us");
    } else {
        char text[SMALL_FILE];
        if (read_group_file(group, length, "cpu.max", text, sizeof text) < 0) {
            return 0.0;
        }
        const char *rest = pfo_procfile_number(text, &quota);
        if (rest == NULL || pfo_procfile_number(rest, &period) == NULL || quota >= no_limit_from) {
            return 0.0;
        }
    }
    return quota > 0 && period > 0 ? (double)quota / (double)period : 0.0;
}

double
pfo_cgroup_cpu_quota(const pfo_cgroup *group)
{
    if (group->version == 0) {
        return 0.0;
    }
    double smallest = 0.0;
    size_t length = strlen(group->directory);
    do {
        const double quota = quota_of_level(group, length);
        if (quota > 0.0 && (smallest <= 0.0 || quota < smallest)) {
            smallest = quota;
        }
    } while (go_up(group, &length));
    return smallest;
}
