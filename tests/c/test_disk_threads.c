/* test_disk_threads.c: many threads on one handle and on two, under a bound that makes entries leave, segments move and the index grow:
 * a value that is found is right. Runs under ThreadSanitizer. */
#include "disk_fixture.h"

#include "cache/disk_index.h"

#include <pthread.h>

enum { THREADS = 4, KEYS = 400, ROUNDS = 1500 };

static pfo_disk *handles[2];
static atomic_int wrong;
static atomic_int found;

static size_t
length_of(unsigned number)
{
    return number % 50 == 0 ? 33000 : number % 7 * 100;
}

static void *
work(void *argument)
{
    const unsigned who = *(const unsigned *)argument;
    pfo_disk *disk = handles[who % 2];
    unsigned long long state = who + 77;
    for (unsigned round = 0; round < ROUNDS; round++) {
        const unsigned number = (unsigned)(check_random(&state) % KEYS);
        const pfo_digest key = key_of(number);
        int existed;
        pfo_disk_stats stats;
        switch (check_random(&state) % 16) {
        case 0:
            (void)pfo_disk_delete(disk, &key, &existed, NULL);
            break;
        case 1:
            (void)pfo_disk_touch(disk, &key, 0, &existed, NULL);
            break;
        case 2:
        case 3:
        case 4:
        case 5:
        case 6:
            (void)put_value(disk, number, round % 30, length_of(number), 0, NULL);
            break;
        case 7:
            pfo_disk_get_stats(disk, &stats);
            atomic_fetch_add(&wrong, stats.bytes > stats.max_bytes);
            break;
        default: {
            const int version = get_version(disk, number, length_of(number));
            atomic_fetch_add(&wrong, version < -1);
            atomic_fetch_add(&found, version >= 0);
        }
        }
    }
    return NULL;
}

static void
run_threads(uint64_t max_bytes, int two_handles)
{
    fixture tree = fixture_new();
    pthread_t threads[THREADS];
    unsigned who[THREADS];
    handles[0] = open_disk(&tree, max_bytes, "lru");
    handles[1] = two_handles ? open_disk(&tree, max_bytes, "lru") : handles[0];
    atomic_store(&found, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        who[i] = i;
        REQUIRE(pthread_create(&threads[i], NULL, work, &who[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(atomic_load(&wrong) == 0 && atomic_load(&found) > 100);
    CHECK(stats_of(handles[0]).corrupt == 0 && stats_of(handles[1]).corrupt == 0);
    CHECK(stats_of(handles[0]).write_failures == 0);
    pfo_disk_report report;
    CHECK(pfo_disk_verify(handles[0], 0, &report, NULL) == PFO_OK && report.damaged == 0 && report.orphans == 0);
    CHECK(directory_bytes(&tree) <= (long long)max_bytes);
    if (two_handles) {
        pfo_disk_close(handles[1]);
    }
    pfo_disk_close(handles[0]);
    fixture_delete(&tree);
}

static void
one_handle(void)
{
    run_threads(400 * 1024, 0);
    run_threads(ROOMY, 0);
}

static void
two_handles(void)
{
    run_threads(400 * 1024, 1);
    run_threads(ROOMY, 1);
}

/* ---- large puts at once, each with a record that nobody reserved ---- */

enum { WRITERS = 16, FILE_BYTES = 33000, FILES = 16 };

static const uint64_t tight = 4096 + 24576 + FILES * 36864 + 1024;

static void *
put_files(void *argument)
{
    const unsigned who = *(const unsigned *)argument;
    for (unsigned round = 0; round < 60; round++) {
        (void)put_value(handles[who % 2], who, round, FILE_BYTES, 0, NULL); /* there may be no room just now */
    }
    atomic_fetch_add(&found, 1);
    return NULL;
}

static void
large_puts_at_once_keep_the_bound(void)
{
    fixture tree = fixture_new();
    pthread_t threads[WRITERS];
    unsigned who[WRITERS];
    handles[0] = open_disk(&tree, tight, "lru");
    handles[1] = open_disk(&tree, tight, "lru");
    atomic_store(&found, 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        who[i] = i;
        REQUIRE(pthread_create(&threads[i], NULL, put_files, &who[i]) == 0);
    }
    char path[128];
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    (void)snprintf(path, sizeof path, "%s/lock", tree.root);
    const int lock = open(path, O_RDWR);
    while (atomic_load(&found) != WRITERS) { /* what moves while it is walked would count twice */
        whole.l_type = F_WRLCK;
        CHECK(fcntl(lock, F_OFD_SETLKW, &whole) == 0 && stats_of(handles[0]).bytes <= tight);
        whole.l_type = F_UNLCK;
        CHECK(fcntl(lock, F_OFD_SETLKW, &whole) == 0);
    }
    CHECK(close(lock) == 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(stats_of(handles[0]).entries > 0);
    CHECK(directory_bytes(&tree) <= (long long)tight);
    pfo_disk_close(handles[1]);
    pfo_disk_close(handles[0]);
    fixture_delete(&tree);
}

/* ---- indexes that are replaced under readers ---- */

static void *
clear_again_and_again(void *argument)
{
    pfo_disk *disk = handles[*(const unsigned *)argument % 2];
    for (unsigned round = 0; round < 300; round++) {
        atomic_fetch_add(&wrong, pfo_disk_clear(disk, NULL) != PFO_OK);
        (void)put_value(disk, round % KEYS, round, length_of(round % KEYS), 0, NULL);
    }
    return NULL;
}

static void
clears_beside_readers_harm_nothing(void)
{
    fixture tree = fixture_new();
    pthread_t threads[THREADS];
    unsigned who[THREADS];
    handles[0] = open_disk(&tree, ROOMY, "lru");
    handles[1] = open_disk(&tree, ROOMY, "lru");
    atomic_store(&wrong, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        who[i] = i;
        REQUIRE(pthread_create(&threads[i], NULL, i == 0 ? clear_again_and_again : work, &who[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(atomic_load(&wrong) == 0 && stats_of(handles[0]).corrupt == 0 && stats_of(handles[1]).corrupt == 0);
    pfo_disk_report report;
    CHECK(pfo_disk_verify(handles[0], 0, &report, NULL) == PFO_OK && report.damaged == 0 && report.orphans == 0);
    pfo_disk_close(handles[1]);
    pfo_disk_close(handles[0]);
    fixture_delete(&tree);
}

static atomic_int stop_deleting;

static int
remove_if_possible(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    (void)kind;
    (void)place;
    (void)remove(path);
    return 0;
}

static void *
work_until_stopped(void *argument)
{
    const unsigned who = *(const unsigned *)argument;
    unsigned long long state = who + 7;
    while (!atomic_load(&stop_deleting)) {
        const unsigned number = (unsigned)(check_random(&state) % 50) * 10;
        const pfo_digest key = key_of(number);
        int existed;
        if (check_random(&state) % 4 == 0) {
            (void)put_value(handles[0], number, who, length_of(number), 0, NULL);
        } else if (check_random(&state) % 8 == 0) {
            (void)pfo_disk_delete(handles[0], &key, &existed, NULL);
        } else {
            atomic_fetch_add(&wrong, get_version(handles[0], number, length_of(number)) < -1);
            (void)stats_of(handles[0]);
        }
    }
    return NULL;
}

/* Readers go on with the descriptor of a directory that another thread finds to be gone and opens anew. */
static void
a_directory_deleted_under_threads_harms_nothing(void)
{
    fixture tree = fixture_new();
    pthread_t threads[THREADS];
    unsigned who[THREADS];
    handles[0] = open_disk(&tree, ROOMY, "lru");
    atomic_store(&wrong, 0);
    atomic_store(&stop_deleting, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        who[i] = i;
        REQUIRE(pthread_create(&threads[i], NULL, work_until_stopped, &who[i]) == 0);
    }
    char away[160];
    int deleted = 0;
    (void)snprintf(away, sizeof away, "%s.away", tree.root);
    for (int tries = 0; tries < 100000 && deleted < 40; tries++) {
        if (rename(tree.root, away) != 0) {
            (void)usleep(100); /* until one of them has made it again */
            continue;
        }
        while (access(away, F_OK) == 0) { /* they write to it until it is gone */
            (void)nftw(away, remove_if_possible, 16, FTW_DEPTH | FTW_PHYS);
        }
        deleted++;
    }
    CHECK(deleted == 40);
    atomic_store(&stop_deleting, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(atomic_load(&wrong) == 0);
    CHECK(put_ok(handles[0], 1, 2, 100) && get_version(handles[0], 1, 100) == 2);
    pfo_disk_close(handles[0]);
    handles[0] = open_disk(&tree, ROOMY, "lru");
    CHECK(get_version(handles[0], 1, 100) == 2);
    pfo_disk_close(handles[0]);
    fixture_delete(&tree);
}

/* A slot is torn for a while and whole for a while; what a reader must not say is that its key is not there. */
static atomic_int stop_tearing;
static atomic_uint spins_done;

static void *
tear(void *argument)
{
    _Atomic uint64_t *check = argument;
    for (unsigned i = 0; !atomic_load(&stop_tearing); i++) {
        (void)atomic_fetch_xor(check, 1);
        for (unsigned spin = 0; spin < i % 2 * 200 + i / 2 % 4096; spin++) { /* as long as a few to a thousand looks */
            (void)atomic_fetch_add(&spins_done, 1);
        }
    }
    return NULL;
}

static void
a_slot_that_is_being_changed_is_never_absent(void)
{
    static const unsigned char boot[16] = { 1 };
    pfo_index *index;
    pfo_slot slot = { .key = key_of(1), .sequence = 1 };
    uint32_t position;
    pthread_t thread;
    long absent = 0;
    long whole = 0;
    REQUIRE(pfo_index_create(&index, -1, NULL, PFO_DISK_FIRST_SLOTS, 99, boot, NULL) == PFO_OK);
    REQUIRE(pfo_index_place(index, &slot.key, &position));
    pfo_index_set(index, position, &slot);
    REQUIRE(pthread_create(&thread, NULL, tear, &index->slots[(size_t)position * PFO_SLOT_WORDS]) == 0);
    for (long i = 0; i < 3000000 && absent == 0; i++) {
        const pfo_found seen = pfo_index_find(index, &slot.key, &slot, &position);
        absent += seen == PFO_ABSENT;
        whole += seen == PFO_FOUND;
    }
    atomic_store(&stop_tearing, 1);
    REQUIRE(pthread_join(thread, NULL) == 0);
    CHECK(absent == 0 && whole > 0);
    pfo_index_close(index);
}

int
main(void)
{
    RUN(a_slot_that_is_being_changed_is_never_absent);
    RUN(one_handle);
    RUN(two_handles);
    RUN(clears_beside_readers_harm_nothing);
    RUN(large_puts_at_once_keep_the_bound);
    RUN(a_directory_deleted_under_threads_harms_nothing);
    return FINISH();
}
