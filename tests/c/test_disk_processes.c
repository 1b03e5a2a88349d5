/* test_disk_processes.c: fork before and after opening, many processes under a bound, and kill -9 of a writer at random moments. */
#include "disk_fixture.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static int
exit_code_of(pid_t child)
{
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static size_t
length_of(unsigned number)
{
    return number % 10 == 3 ? 40000 : number % 4 == 1 ? 20000 : number % 9 * 50;
}

static void
parent_and_child_share_a_handle(void)
{
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(disk, 1000, 1, 40000) && get_version(disk, 1000, 40000) == 1);
    pid_t children[3];
    for (unsigned c = 0; c < 3; c++) {
        children[c] = fork();
        if (children[c] == 0) {
            check_failures = 0;
            for (unsigned i = 0; i < 300; i++) {
                CHECK(put_ok(disk, c * 300 + i, 1, length_of(i)));
                CHECK(put_ok(disk, 2000 + i % 5, c, 100) && get_version(disk, 2000 + i % 5, 100) >= 0);
                CHECK(get_version(disk, c * 300 + i, length_of(i)) == 1);
            }
            CHECK(get_version(disk, 1000, 40000) == 1);
            _exit(check_failures != 0);
        }
    }
    for (unsigned i = 0; i < 300; i++) {
        CHECK(put_ok(disk, 5000 + i, 1, length_of(i)) && get_version(disk, 5000 + i, length_of(i)) == 1);
    }
    for (unsigned c = 0; c < 3; c++) {
        CHECK(exit_code_of(children[c]) == 0);
    }
    for (unsigned i = 0; i < 900; i++) {
        CHECK(get_version(disk, i, length_of(i % 300)) == 1);
    }
    CHECK(stats_of(disk).entries == 1 + 900 + 300 + 5 && stats_of(disk).corrupt == 0);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
many_processes_keep_the_bound(void)
{
    const uint64_t bound = 600 * 1024;
    fixture tree = fixture_new();
    pfo_disk *disk = open_disk(&tree, bound, "sieve");
    pid_t children[4];
    for (unsigned c = 0; c < 4; c++) {
        children[c] = fork();
        if (children[c] == 0) {
            check_failures = 0;
            unsigned long long state = c + 5;
            pfo_disk *own = open_disk(&tree, bound, "sieve");
            for (unsigned i = 0; i < 1500; i++) {
                const unsigned number = (unsigned)(check_random(&state) % 500);
                CHECK(get_version(own, number, length_of(number)) >= -1);
                (void)put_value(own, number, i, length_of(number), 0, NULL);
            }
            CHECK(stats_of(own).corrupt == 0);
            pfo_disk_close(own);
            _exit(check_failures != 0);
        }
    }
    char path[128];
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    (void)snprintf(path, sizeof path, "%s/lock", tree.root);
    const int lock = open(path, O_RDWR);
    for (int i = 0; i < 100; i++) {
        whole.l_type = F_WRLCK; /* what moves while it is walked would count twice */
        CHECK(fcntl(lock, F_OFD_SETLKW, &whole) == 0);
        CHECK(directory_bytes(&tree) <= (long long)bound);
        whole.l_type = F_UNLCK;
        CHECK(fcntl(lock, F_OFD_SETLKW, &whole) == 0);
        CHECK(get_version(disk, (unsigned)i, length_of((unsigned)i)) >= -1);
    }
    for (unsigned c = 0; c < 4; c++) {
        CHECK(exit_code_of(children[c]) == 0);
    }
    CHECK(close(lock) == 0);
    pfo_disk_report report;
    CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged == 0 && report.orphans == 0);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

static void
write_until_told(const fixture *tree, int pipe_end)
{
    char byte;
    pfo_disk *disk = open_disk(tree, ROOMY, "lru");
    CHECK(fcntl(pipe_end, F_SETFL, O_NONBLOCK) == 0);
    for (unsigned i = 0; read(pipe_end, &byte, 1) != 0; i++) {
        CHECK(put_ok(disk, i % 3, i, 100) && (i % 500 != 0 || put_ok(disk, 10 + i / 500 % 600, i, 100)));
    }
    pfo_disk_close(disk);
    _exit(check_failures != 0);
}

/* A handle that only reads cannot take the writers' lock, but what is there all the time it finds all the time. */
static void
a_reader_beside_a_writer_misses_nothing(void)
{
    fixture tree = fixture_new();
    int ends[2];
    if (geteuid() != 0) {
        (void)printf("  (skipped: only the superuser can make a directory that it may read and not write)\n");
        return;
    }
    pfo_disk_close(open_disk(&tree, ROOMY, "lru"));
    pfo_disk *writer = open_disk(&tree, ROOMY, "lru");
    CHECK(put_ok(writer, 0, 0, 100) && put_ok(writer, 1, 0, 100) && put_ok(writer, 2, 0, 100));
    pfo_disk_close(writer);
    const char *const names[] = { "", "/index", "/lock", "/format" };
    for (int i = 0; i < 4; i++) {
        char path[128];
        (void)snprintf(path, sizeof path, "%s%s", tree.root, names[i]);
        CHECK(chmod(path, 0755) == 0);
    }
    CHECK(seteuid(65534) == 0);
    pfo_disk *disk = open_disk(&tree, ROOMY, "lru"); /* as one who may only read */
    CHECK(seteuid(0) == 0);
    CHECK(put_value(disk, 1, 3, 10, 0, NULL) == PFO_UNAVAILABLE);
    REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    if (child == 0) {
        REQUIRE(close(ends[1]) == 0);
        check_failures = 0;
        write_until_told(&tree, ends[0]);
    }
    long missed = 0;
    for (unsigned i = 0; i < 200000; i++) {
        missed += get_version(disk, i % 3, 100) < 0;
    }
    CHECK(missed == 0 && stats_of(disk).corrupt == 0 && stats_of(disk).hits >= 200000);
    CHECK(close(ends[1]) == 0 && close(ends[0]) == 0 && exit_code_of(child) == 0);
    pfo_disk_close(disk);
    fixture_delete(&tree);
}

enum { KILLS = 40, KILL_KEYS = 24 };

/* Puts version after version and says each one that it was told is stored. */
static void
write_until_killed(const fixture *tree, int pipe_end, unsigned first)
{
    pfo_disk *disk = open_disk(tree, ROOMY, "lru");
    for (unsigned i = first;; i++) {
        if (!put_ok(disk, i % KILL_KEYS, i, length_of(i % KILL_KEYS)) || write(pipe_end, &i, sizeof i) != sizeof i) {
            _exit(1);
        }
    }
}

/* What was acknowledged, or the one put that was under way. */
static int
is_right(pfo_disk *disk, unsigned key, unsigned acknowledged, unsigned next)
{
    const int got = get_version(disk, key, length_of(key));
    return got == (int)acknowledged || (next % KILL_KEYS == key && got == (int)next) ||
           (acknowledged == 0 && got == -1);
}

static void
killed_writers_lose_nothing(void)
{
    fixture tree = fixture_new();
    unsigned acknowledged[KILL_KEYS] = { 0 };
    unsigned next = KILL_KEYS;
    unsigned long long state = 12345;
    pfo_disk *watching = open_disk(&tree, ROOMY, "lru");
    for (int kills = 0; kills < KILLS; kills++) {
        int ends[2];
        REQUIRE(pipe(ends) == 0);
        const pid_t child = fork();
        if (child == 0) {
            write_until_killed(&tree, ends[1], next);
        }
        REQUIRE(close(ends[1]) == 0);
        const struct timespec pause = { .tv_sec = 0, .tv_nsec = (long)(check_random(&state) % 12000000) };
        (void)nanosleep(&pause, NULL);
        REQUIRE(kill(child, SIGKILL) == 0);
        (void)exit_code_of(child);
        unsigned version;
        while (read(ends[0], &version, sizeof version) == sizeof version) {
            acknowledged[version % KILL_KEYS] = version;
            next = version + 1;
        }
        REQUIRE(close(ends[0]) == 0);
        pfo_disk *disk = kills % 2 == 0 ? open_disk(&tree, ROOMY, "lru") : watching;
        for (unsigned i = 0; i < KILL_KEYS;
             i++) { /* before and after the recovery, which may finish what was not said */
            CHECK(is_right(disk, i, acknowledged[i], next));
        }
        pfo_disk_report report;
        CHECK(pfo_disk_verify(disk, 0, &report, NULL) == PFO_OK && report.damaged == 0 && report.orphans == 0);
        for (unsigned i = 0; i < KILL_KEYS; i++) {
            CHECK(is_right(disk, i, acknowledged[i], next));
        }
        if (get_version(disk, next % KILL_KEYS, length_of(next % KILL_KEYS)) == (int)next) {
            acknowledged[next % KILL_KEYS] = next;
        }
        CHECK(stats_of(disk).corrupt == 0);
        CHECK(directory_bytes(&tree) <= (long long)stats_of(disk).bytes);
        next++;
        if (kills % 2 == 0) {
            pfo_disk_close(disk);
        }
    }
    CHECK(next > KILLS + KILL_KEYS);
    pfo_disk_close(watching);
    fixture_delete(&tree);
}

static atomic_int stop_opening;

static void *
open_again_and_again(void *argument)
{
    const fixture *tree = argument;
    while (!atomic_load(&stop_opening)) {
        pfo_disk *disk = NULL;
        const pfo_disk_options options = { .directory = tree->root, .max_bytes = ROOMY, .policy = "lru" };
        if (pfo_disk_open(&disk, &options, NULL) == PFO_OK) {
            pfo_disk_close(disk);
        }
    }
    return NULL;
}

/* Descriptors of this process that name a lock file. */
static int
count_locks(void)
{
    int count = 0;
    for (int descriptor = 0; descriptor < 64; descriptor++) {
        char link[64];
        char target[256];
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        const ssize_t length = readlink(link, target, sizeof target - 1);
        count += length > 5 && memcmp(target + length - 5, "/lock", 5) == 0;
    }
    return count;
}

/* A child that kept the lock file of a handle which another thread was opening would keep the lock, too, should its parent die. */
static void
a_child_keeps_no_lock_of_a_handle_that_is_being_opened(void)
{
    fixture tree = fixture_new();
    pthread_t thread;
    int kept = 0;
    pfo_disk_close(open_disk(&tree, ROOMY, "lru"));
    atomic_store(&stop_opening, 0);
    REQUIRE(pthread_create(&thread, NULL, open_again_and_again, &tree) == 0);
    for (int i = 0; i < 200; i++) {
        const pid_t child = fork();
        if (child == 0) {
            _exit(count_locks());
        }
        kept += exit_code_of(child);
    }
    atomic_store(&stop_opening, 1);
    REQUIRE(pthread_join(thread, NULL) == 0);
    CHECK(kept == 0);
    fixture_delete(&tree);
}

int
main(void)
{
    RUN(parent_and_child_share_a_handle);
    RUN(many_processes_keep_the_bound);
    RUN(a_reader_beside_a_writer_misses_nothing);
    RUN(killed_writers_lose_nothing);
    RUN(a_child_keeps_no_lock_of_a_handle_that_is_being_opened);
    return FINISH();
}
