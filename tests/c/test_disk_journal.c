/* test_disk_journal.c: a writer dies before and after every step of the journal; the next one goes on with the same index, and all agrees. */
#include "disk_fixture.h"

#include "cache/disk_journal.h"

#include <signal.h>
#include <sys/wait.h>

enum { KEYS = 40, BOUND = 400 * 1024, FIRST = 16 * 1024, LONG = 40000 };

static unsigned long steps_left; /* of the writer; 0: it lives */

static void
count_down(void)
{
    if (steps_left != 0 && --steps_left == 0) {
        (void)kill(getpid(), SIGKILL);
    }
}

static size_t
length_of(unsigned number)
{
    return number % 8 == 3 ? LONG : FIRST / (1 + number % 5);
}

typedef enum scene { PUTS, FILES, DELETES, EVICTIONS, COMPACTION } scene;

/* The one key that the scene changes, to version 2 or to nothing, last; what else it changes goes under the same acknowledgement. */
static void
play(pfo_disk *disk, scene which)
{
    int existed;
    pfo_digest key;
    switch (which) {
    case PUTS:
        (void)put_ok(disk, 0, 2, length_of(0)); /* replaces */
        (void)put_ok(disk, KEYS, 2, length_of(KEYS));
        break;
    case FILES:
        (void)put_ok(disk, 3, 2, LONG);
        (void)put_ok(disk, KEYS + 3, 2, LONG);
        break;
    case DELETES:
        for (unsigned i = 0; i < 6; i++) {
            key = key_of(i);
            (void)pfo_disk_delete(disk, &key, &existed, NULL);
        }
        break;
    case EVICTIONS:
        for (unsigned i = 0; i < 8; i++) {
            (void)put_ok(disk, KEYS + i, 2, length_of(i));
        }
        break;
    default: /* half of what is there: sealed segments are copied away */
        for (unsigned i = 0; i < KEYS; i += 2) {
            key = key_of(i);
            (void)pfo_disk_delete(disk, &key, &existed, NULL);
        }
        break;
    }
}

static ino_t
index_inode(const fixture *tree)
{
    char path[128];
    struct stat facts;
    (void)snprintf(path, sizeof path, "%s/index", tree->root);
    return stat(path, &facts) == 0 ? facts.st_ino : 0;
}

/* Which keys are there: bit 0: version 1, bit 1: version 2. Anything else is wrong. */
static void
look(pfo_disk *disk, unsigned char *versions)
{
    for (unsigned i = 0; i < 2 * KEYS; i++) {
        const size_t length = i >= KEYS && i < KEYS + 8 ? length_of(i - KEYS) : length_of(i);
        const int version = get_version(disk, i, i == KEYS ? length_of(KEYS) : i == KEYS + 3 ? LONG : length);
        CHECK(version == -1 || version == 1 || version == 2);
        versions[i] = (unsigned char)(version < 0 ? 0 : version);
    }
}

/* 1 when the writer died, 0 when it came to its end. */
static int
die_at(scene which, unsigned long step, uint64_t bound)
{
    fixture tree = fixture_new();
    unsigned char versions[2 * KEYS];
    unsigned char again[2 * KEYS];
    pfo_disk *disk = open_disk(&tree, bound, "lru");
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(put_ok(disk, i, 1, length_of(i)));
    }
    pfo_disk_close(disk);
    const ino_t index = index_inode(&tree);
    const pid_t child = fork();
    if (child == 0) {
        disk = open_disk(&tree, bound, "lru");
        steps_left = step;
        pfo_journal_watch(count_down);
        play(disk, which);
        _exit(0);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    disk = open_disk(&tree, bound, "lru");
    CHECK(index_inode(&tree) == index); /* not rebuilt */
    look(disk, versions);
    if (bound == ROOMY) {
        for (unsigned i = 0; i < KEYS; i++) { /* what no operation was about */
            const int is_changed = which == PUTS      ? i == 0
                                   : which == FILES   ? i == 3
                                   : which == DELETES ? i < 6
                                                      : i % 2 == 0;
            CHECK(is_changed || versions[i] == 1);
        }
    }
    pfo_disk_report report;
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged == 0 && report.orphans == 0);
    CHECK(stats_of(disk).corrupt == 0);
    CHECK(directory_bytes(&tree) <= (long long)stats_of(disk).bytes);
    const pfo_disk_stats before = stats_of(disk);
    pfo_disk_close(disk);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/index", tree.root);
    CHECK(unlink(path) == 0); /* the segments alone say the same */
    disk = open_disk(&tree, bound, "lru");
    look(disk, again);
    CHECK(memcmp(versions, again, sizeof versions) == 0);
    const pfo_disk_stats after = stats_of(disk);
    CHECK(after.entries == before.entries && after.payload_files == before.payload_files);
    CHECK(after.bytes - after.garbage_bytes == before.bytes - before.garbage_bytes);
    CHECK(put_ok(disk, 77, 5, 100) && get_version(disk, 77, 100) == 5);
    pfo_disk_close(disk);
    fixture_delete(&tree);
    return WIFSIGNALED(status);
}

static void
every_step(scene which, uint64_t bound)
{
    unsigned long step = 1;
    const unsigned long stride =
        which == EVICTIONS || which == COMPACTION ? 7 : 1; /* they are long, and much the same */
    while (die_at(which, step, bound)) {
        step += stride;
    }
    CHECK(step > 20);
}

static void
puts_are_undone_or_done(void)
{
    every_step(PUTS, ROOMY);
}

static void
payload_files_are_undone_or_done(void)
{
    every_step(FILES, ROOMY);
}

static void
deletes_are_undone_or_done(void)
{
    every_step(DELETES, ROOMY);
}

static void
evictions_are_undone_or_done(void)
{
    every_step(EVICTIONS, BOUND);
}

static void
compactions_are_brought_to_an_end(void)
{
    every_step(COMPACTION, 1 << 21);
}

int
main(void)
{
    RUN(puts_are_undone_or_done);
    RUN(payload_files_are_undone_or_done);
    RUN(deletes_are_undone_or_done);
    RUN(evictions_are_undone_or_done);
    RUN(compactions_are_brought_to_an_end);
    return FINISH();
}
