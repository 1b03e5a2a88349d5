/* disk_driver.c: the disk tier as a program that reads commands from its input and answers each with one line.
 *
 * The proofs of this folder need whole processes: to kill them, to make their system calls fail, to record what they wrote. What is proven is the
 * engine in C; a process starts in a millisecond, and a test says in Python what must be true. Values are made from (key, version, size) and
 * checked byte by byte when they are read, so an answer "value KEY VERSION" says that every byte of that version was there.
 *
 * Usage: disk_driver DIRECTORY [max_bytes=N] [policy=NAME] [durability=power] [compression=never|auto|always] [must_exist=1]
 * Commands, with their answers; every call that the engine refuses answers "failed STATUS: text":
 *   open, close                  "ok"; the first command that needs the cache opens it
 *   use DIRECTORY                closes, and goes on with another directory: "ok"
 *   put KEY VERSION SIZE [TTL]   "stored", "rejected"; TTL in seconds of the wall clock
 *   get KEY [w]                  "value KEY VERSION SIZE", "absent", "wrong"; w asks for writable memory and writes to it
 *   delete KEY, touch KEY TTL    "existed 0|1"
 *   clear, flush                 "ok";   expire  "removed N"
 *   clock SECONDS                moves the wall clock the engine sees, by so much from the true one: "ok"
 *   verify 0|1                   "report checked=... damaged=... orphans=... repaired=..."
 *   stats                        "stats entries=... bytes=..." and so on;   list  "listed N"
 *   descriptors, resident        "descriptors N", "resident BYTES": of this process
 *   load SEED FIRST COUNT SIZE CLEAR    random operations without end on COUNT keys from FIRST on, sizes up to SIZE, each announced ("try put
 *                                K V") and acknowledged ("put K V"); one operation in CLEAR is a clear (0: none)
 *   threads N OPERATIONS COUNT SIZE   N threads on COUNT shared keys: "threads wrong=N over=N"
 *   soak OPERATIONS COUNT SIZE   "soak before=RESIDENT after=RESIDENT wrong=N"
 *   fork                         the same answers from parent and child afterwards: "forked wrong=N"
 *
 * Threads: one, but for "threads". Memory: one value at a time, released before the answer.
 */
#include "cache/disk.h"

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 32, LINE = 4096, MAX_THREADS = 64 };

typedef struct header {
    uint64_t magic, key, version, size;
} header;

static const uint64_t MAGIC = 0x6f6674707265702aULL;
static pfo_disk_options options = { .max_bytes = 1ULL << 40, .policy = "lru", .compression = PFO_COMPRESS_AUTO };
static pfo_disk *disk;
static int64_t clock_offset_ns;

static uint64_t
next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static uint64_t
shifted_now(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)((int64_t)now.tv_sec * 1000000000 + now.tv_nsec + clock_offset_ns);
}

static pfo_digest
digest_of(uint64_t key)
{
    pfo_digest digest;
    uint64_t state = key;
    for (size_t i = 0; i < sizeof digest.bytes; i += 8) {
        const uint64_t word = next_random(&state);
        memcpy(digest.bytes + i, &word, 8);
    }
    return digest;
}

/* The bytes of one version of a key; odd versions compress well. */
static void
make_value(unsigned char *out, uint64_t key, uint64_t version, size_t size)
{
    const header head = { MAGIC, key, version, size };
    memcpy(out, &head, sizeof head);
    uint64_t state = key * 1000003 + version;
    for (size_t i = HEADER; i < size; i += 8) {
        uint64_t word = next_random(&state);
        word &= version % 2 == 0 ? ~0ULL : 0x0101010101010101ULL;
        memcpy(out + i, &word, size - i < 8 ? size - i : 8);
    }
}

/* Whether data are exactly a value of key; its version goes out. */
static int
check_value(const void *data, size_t length, uint64_t key, uint64_t *version)
{
    header head;
    if (length < sizeof head) {
        return 0;
    }
    memcpy(&head, data, sizeof head);
    if (head.magic != MAGIC || head.key != key || head.size != length) {
        return 0;
    }
    unsigned char *const expected = malloc(length);
    if (expected == NULL) {
        return 0;
    }
    make_value(expected, key, head.version, length);
    const int same = memcmp(expected, data, length) == 0;
    free(expected);
    *version = head.version;
    return same;
}

/* One line on the standard output by one write(): the shim sees it in its place among the engine's operations. */
static void answer(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void
answer(const char *format, ...)
{
    char line[1024];
    va_list values;
    va_start(values, format);
    const int length = vsnprintf(line, sizeof line - 1, format, values);
    va_end(values);
    if (length < 0 || (size_t)length >= sizeof line - 1) {
        _exit(3);
    }
    line[length] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length + 1) != length + 1) {
        _exit(3);
    }
}

static void
answer_failure(pfo_status status, const pfo_error *err)
{
    answer("failed %s: %s", pfo_status_text(status), err->text);
}

static pfo_status
need_open(pfo_error *err)
{
    return disk != NULL ? PFO_OK : pfo_disk_open(&disk, &options, err);
}

static pfo_status
put(uint64_t key, uint64_t version, size_t size, uint64_t expires_ns, int *stored, pfo_error *err)
{
    PFO_TRY(need_open(err));
    size = size < HEADER ? HEADER : size;
    unsigned char *const value = malloc(size);
    if (value == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a value of %zu bytes", size);
    }
    make_value(value, key, version, size);
    const pfo_bytes parts[] = { { value, HEADER }, { value + HEADER, size - HEADER } };
    char label[64];
    (void)snprintf(label, sizeof label, "key %" PRIu64, key);
    const pfo_disk_record record = {
        .kind = "test",
        .suffix = ".bin",
        .label = label,
        .parts = parts,
        .part_count = 2,
        .item_bytes = 8,
        .expires_ns = expires_ns,
    };
    const pfo_digest digest = digest_of(key);
    const pfo_status status = pfo_disk_put(disk, &digest, &record, stored, err);
    free(value);
    return status;
}

typedef struct reading {
    int found, right;
    uint64_t version;
    size_t size;
} reading;

static pfo_status
get(uint64_t key, int writable, reading *read, pfo_error *err)
{
    *read = (reading){ 0 };
    PFO_TRY(need_open(err));
    const pfo_digest digest = digest_of(key);
    pfo_disk_value value;
    PFO_TRY(pfo_disk_get(disk, &digest, writable, &value, err));
    if (!value.found) {
        return PFO_OK;
    }
    read->found = 1;
    read->size = value.length;
    read->right =
        strncmp(value.kind, "test", PFO_DISK_KIND) == 0 && check_value(value.data, value.length, key, &read->version);
    if (writable && value.length > 0) {
        memset((void *)(uintptr_t)value.data, 0, value.length);
    }
    pfo_disk_release(&value);
    return PFO_OK;
}

static uint64_t
expiry_after(double seconds)
{
    return shifted_now() + (uint64_t)(seconds * 1e9);
}

static void
command_put(const char *arguments)
{
    uint64_t key = 0;
    uint64_t version = 0;
    uint64_t size = 0;
    double ttl = 0;
    int stored = 0;
    pfo_error err = { 0 };
    const int given = sscanf(arguments, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %lf", &key, &version, &size, &ttl);
    const pfo_status status = put(key, version, size, given == 4 ? expiry_after(ttl) : 0, &stored, &err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
    } else {
        answer("%s", stored ? "stored" : "rejected");
    }
}

static void
command_get(const char *arguments)
{
    uint64_t key = 0;
    char writable = 0;
    reading read;
    pfo_error err = { 0 };
    (void)sscanf(arguments, "%" SCNu64 " %c", &key, &writable);
    const pfo_status status = get(key, writable == 'w', &read, &err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
    } else if (!read.found) {
        answer("absent");
    } else if (!read.right) {
        answer("wrong");
    } else {
        answer("value %" PRIu64 " %" PRIu64 " %zu", key, read.version, read.size);
    }
}

static void
command_delete(const char *arguments)
{
    uint64_t key = 0;
    int existed = 0;
    pfo_error err = { 0 };
    (void)sscanf(arguments, "%" SCNu64, &key);
    const pfo_digest digest = digest_of(key);
    pfo_status status = need_open(&err);
    status = status != PFO_OK ? status : pfo_disk_delete(disk, &digest, &existed, &err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
    } else {
        answer("existed %d", existed);
    }
}

static void
command_touch(const char *arguments)
{
    uint64_t key = 0;
    double ttl = 0;
    int existed = 0;
    pfo_error err = { 0 };
    (void)sscanf(arguments, "%" SCNu64 " %lf", &key, &ttl);
    const pfo_digest digest = digest_of(key);
    pfo_status status = need_open(&err);
    status = status != PFO_OK ? status : pfo_disk_touch(disk, &digest, expiry_after(ttl), &existed, &err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
    } else {
        answer("existed %d", existed);
    }
}

/* Commands that answer "ok". */
static void
command_plain(pfo_status (*run)(pfo_disk *, pfo_error *))
{
    pfo_error err = { 0 };
    pfo_status status = need_open(&err);
    status = status != PFO_OK || run == NULL ? status : run(disk, &err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
    } else {
        answer("ok");
    }
}

static void
command_close(void)
{
    pfo_disk_close(disk);
    disk = NULL;
    answer("ok");
}

static void
command_use(const char *arguments)
{
    static char directory[LINE];
    pfo_disk_close(disk);
    disk = NULL;
    (void)snprintf(directory, sizeof directory, "%s", arguments);
    options.directory = directory;
    answer("ok");
}

static void
command_expire(void)
{
    uint64_t removed = 0;
    pfo_error err = { 0 };
    pfo_status status = need_open(&err);
    status = status != PFO_OK ? status : pfo_disk_expire(disk, &removed, &err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
    } else {
        answer("removed %" PRIu64 "", removed);
    }
}

static void
command_verify(const char *arguments)
{
    pfo_disk_report report = { 0 };
    pfo_error err = { 0 };
    pfo_status status = need_open(&err);
    status = status != PFO_OK ? status : pfo_disk_verify(disk, atoi(arguments), &report, &err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
        return;
    }
    answer("report checked=%" PRIu64 " damaged=%" PRIu64 " orphans=%" PRIu64 " orphan_bytes=%" PRIu64
           " repaired=%" PRIu64 " index_rebuilt=%d",
           report.checked, report.damaged, report.orphans, report.orphan_bytes, report.repaired, report.index_rebuilt);
}

static void
command_stats(void)
{
    pfo_disk_stats stats;
    pfo_error err = { 0 };
    const pfo_status status = need_open(&err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
        return;
    }
    pfo_disk_get_stats(disk, &stats);
    answer("stats entries=%" PRIu64 " bytes=%" PRIu64 " hits=%" PRIu64 " misses=%" PRIu64 " expirations=%" PRIu64
           " evictions=%" PRIu64 " rejects=%" PRIu64 " corrupt=%" PRIu64 " write_failures=%" PRIu64 " segments=%" PRIu64
           " payload_files=%" PRIu64 " garbage_bytes=%" PRIu64 "",
           stats.entries, stats.bytes, stats.hits, stats.misses, stats.expirations, stats.evictions, stats.rejects,
           stats.corrupt, stats.write_failures, stats.segments, stats.payload_files, stats.garbage_bytes);
}

static void
command_list(void)
{
    uint64_t cursor = 0;
    uint64_t count = 0;
    int more = 1;
    pfo_error err = { 0 };
    pfo_status status = need_open(&err);
    while (status == PFO_OK && more) {
        pfo_disk_entry entry;
        status = pfo_disk_next(disk, &cursor, &entry, &more, &err);
        count += status == PFO_OK && more ? 1U : 0U;
    }
    if (status != PFO_OK) {
        answer_failure(status, &err);
    } else {
        answer("listed %" PRIu64 "", count);
    }
}

static void
command_descriptors(void)
{
    int count = 0;
    DIR *const folder = opendir("/proc/self/fd");
    while (folder != NULL && readdir(folder) != NULL) {
        count++;
    }
    (void)closedir(folder);
    answer("descriptors %d", count - 3); /* ".", ".." and the folder itself */
}

static uint64_t
resident_bytes(void)
{
    unsigned long pages = 0;
    FILE *const file = fopen("/proc/self/statm", "r");
    if (file != NULL) {
        if (fscanf(file, "%*u %lu", &pages) != 1) {
            pages = 0;
        }
        (void)fclose(file);
    }
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Mostly small values, now and then one large enough to be a file. */
static size_t
random_size(uint64_t *state, uint64_t largest)
{
    const uint64_t bound = next_random(state) % 16 == 0 ? largest : 2000;
    return (size_t)(HEADER + next_random(state) % (bound < largest ? bound : largest));
}

/* Announces and acknowledges. */
static void
say(const char *text, uint64_t key, uint64_t version)
{
    answer("%s %" PRIu64 " %" PRIu64, text, key, version);
}

static void
load_clear(void)
{
    pfo_error err = { 0 };
    say("try clear", 0, 0);
    say(pfo_disk_clear(disk, &err) == PFO_OK ? "clear" : "failed", 0, 0);
}

static void
load_delete(uint64_t key)
{
    int existed = 0;
    pfo_error err = { 0 };
    const pfo_digest digest = digest_of(key);
    say("try delete", key, 0);
    say(pfo_disk_delete(disk, &digest, &existed, &err) == PFO_OK ? "delete" : "failed", key, 0);
}

static void
load_put(uint64_t key, uint64_t version, size_t size)
{
    int stored = 0;
    pfo_error err = { 0 };
    say("try put", key, version);
    const pfo_status status = put(key, version, size, 0, &stored, &err);
    say(status != PFO_OK ? "failed" : stored ? "put" : "rejected", key, version);
}

static void
load_get(uint64_t key)
{
    reading read;
    pfo_error err = { 0 };
    if (get(key, 0, &read, &err) != PFO_OK || (read.found && !read.right)) {
        say("WRONG", key, read.version);
    }
}

static void
command_load(const char *arguments)
{
    uint64_t seed = 0;
    uint64_t first = 0;
    uint64_t count = 1;
    uint64_t largest = 2000;
    uint64_t clear = 0;
    pfo_error err = { 0 };
    (void)sscanf(arguments, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &seed, &first, &count, &largest,
                 &clear);
    if (need_open(&err) != PFO_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        exit(4);
    }
    for (uint64_t version = seed << 32;; version++) {
        const uint64_t choice = next_random(&seed);
        const uint64_t key = first + next_random(&seed) % count;
        if (clear != 0 && choice % clear == 0) {
            load_clear();
        } else if (choice % 10 == 0) {
            load_delete(key);
        } else if (choice % 10 == 1) {
            load_get(key);
        } else {
            load_put(key, version, random_size(&seed, largest));
        }
    }
}

typedef struct crew {
    uint64_t operations, count, largest;
    atomic_uint_fast64_t wrong, over, seeds;
} crew;

static void
one_operation(crew *task, uint64_t *state)
{
    const uint64_t key = next_random(state) % task->count;
    const uint64_t choice = next_random(state) % 16;
    pfo_error err = { 0 };
    if (choice == 0) {
        int existed = 0;
        const pfo_digest digest = digest_of(key);
        task->wrong += pfo_disk_delete(disk, &digest, &existed, &err) != PFO_OK;
    } else if (choice < 6) {
        int stored = 0;
        task->wrong += put(key, next_random(state), random_size(state, task->largest), 0, &stored, &err) != PFO_OK;
    } else {
        reading read;
        task->wrong += get(key, 0, &read, &err) != PFO_OK || (read.found && !read.right);
    }
}

static void *
crew_member(void *argument)
{
    crew *const task = argument;
    uint64_t state = (task->seeds++ + 1) * 77;
    for (uint64_t i = 0; i < task->operations; i++) {
        one_operation(task, &state);
        if (i % 64 == 0) {
            pfo_disk_stats stats;
            pfo_disk_get_stats(disk, &stats);
            task->over += stats.bytes > options.max_bytes;
        }
    }
    return NULL;
}

static void
command_threads(const char *arguments)
{
    unsigned wanted = 0;
    unsigned started = 0;
    pthread_t threads[MAX_THREADS];
    crew task = { .count = 1 };
    pfo_error err = { 0 };
    (void)sscanf(arguments, "%u %" SCNu64 " %" SCNu64 " %" SCNu64, &wanted, &task.operations, &task.count,
                 &task.largest);
    const pfo_status status = need_open(&err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
        return;
    }
    while (started < wanted && started < MAX_THREADS &&
           pthread_create(&threads[started], NULL, crew_member, &task) == 0) {
        started++;
    }
    for (unsigned i = 0; i < started; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    answer("threads started=%u wrong=%" PRIuFAST64 " over=%" PRIuFAST64 "", started, task.wrong, task.over);
}

static void
command_soak(const char *arguments)
{
    crew task = { .count = 1 };
    uint64_t state = 5;
    pfo_error err = { 0 };
    (void)sscanf(arguments, "%" SCNu64 " %" SCNu64 " %" SCNu64, &task.operations, &task.count, &task.largest);
    const pfo_status status = need_open(&err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
        return;
    }
    uint64_t before = 0;
    for (uint64_t i = 0; i < task.operations; i++) {
        if (i == task.operations / 2) {
            before = resident_bytes();
        }
        one_operation(&task, &state);
    }
    answer("soak before=%" PRIu64 " after=%" PRIu64 " wrong=%" PRIuFAST64 "", before, resident_bytes(), task.wrong);
}

/* A child that inherited the open cache works on it at the same time as its parent. */
static void
command_fork(void)
{
    crew task = { .operations = 300, .count = 50, .largest = 40000 };
    pfo_error err = { 0 };
    const pfo_status status = need_open(&err);
    if (status != PFO_OK) {
        answer_failure(status, &err);
        return;
    }
    const pid_t child = fork();
    uint64_t state = child == 0 ? 11 : 12;
    for (uint64_t i = 0; i < task.operations; i++) {
        one_operation(&task, &state);
    }
    if (child == 0) {
        pfo_disk_close(disk);
        _exit(task.wrong == 0 ? 0 : 1);
    }
    int code = 0;
    const int lost = child < 0 || waitpid(child, &code, 0) != child || code != 0;
    answer("forked wrong=%" PRIuFAST64 " child=%d", task.wrong, lost ? code : 0);
}

static int
is_command(const char *line, const char *name, const char **arguments)
{
    const size_t length = strlen(name);
    if (strncmp(line, name, length) != 0 || (line[length] != ' ' && line[length] != '\0')) {
        return 0;
    }
    *arguments = line + length + (line[length] == ' ' ? 1 : 0);
    return 1;
}

static void
run_command(const char *line)
{
    const char *arguments = "";
    if (is_command(line, "put", &arguments)) {
        command_put(arguments);
    } else if (is_command(line, "get", &arguments)) {
        command_get(arguments);
    } else if (is_command(line, "delete", &arguments)) {
        command_delete(arguments);
    } else if (is_command(line, "touch", &arguments)) {
        command_touch(arguments);
    } else if (is_command(line, "open", &arguments)) {
        command_plain(NULL);
    } else if (is_command(line, "clear", &arguments)) {
        command_plain(pfo_disk_clear);
    } else if (is_command(line, "flush", &arguments)) {
        command_plain(pfo_disk_flush);
    } else if (is_command(line, "close", &arguments)) {
        command_close();
    } else if (is_command(line, "use", &arguments)) {
        command_use(arguments);
    } else if (is_command(line, "expire", &arguments)) {
        command_expire();
    } else if (is_command(line, "clock", &arguments)) {
        clock_offset_ns = (int64_t)(atof(arguments) * 1e9);
        answer("ok");
    } else if (is_command(line, "verify", &arguments)) {
        command_verify(arguments);
    } else if (is_command(line, "stats", &arguments)) {
        command_stats();
    } else if (is_command(line, "list", &arguments)) {
        command_list();
    } else if (is_command(line, "descriptors", &arguments)) {
        command_descriptors();
    } else if (is_command(line, "resident", &arguments)) {
        answer("resident %" PRIu64 "", resident_bytes());
    } else if (is_command(line, "load", &arguments)) {
        command_load(arguments);
    } else if (is_command(line, "threads", &arguments)) {
        command_threads(arguments);
    } else if (is_command(line, "soak", &arguments)) {
        command_soak(arguments);
    } else if (is_command(line, "fork", &arguments)) {
        command_fork();
    } else {
        (void)fprintf(stderr, "unknown command: %s\n", line);
        exit(2);
    }
}

static int
read_option(const char *text)
{
    if (strncmp(text, "max_bytes=", 10) == 0) {
        options.max_bytes = strtoull(text + 10, NULL, 10);
    } else if (strncmp(text, "policy=", 7) == 0) {
        options.policy = text + 7;
    } else if (strcmp(text, "durability=power") == 0) {
        options.durability = PFO_DURABLE_POWER;
    } else if (strcmp(text, "compression=never") == 0) {
        options.compression = PFO_COMPRESS_NEVER;
    } else if (strcmp(text, "compression=always") == 0) {
        options.compression = PFO_COMPRESS_ALWAYS;
    } else if (strcmp(text, "must_exist=1") == 0) {
        options.must_exist = 1;
    } else {
        return 0;
    }
    return 1;
}

int
main(int count, char **arguments)
{
    char line[LINE];
    options.directory = count > 1 ? arguments[1] : "";
    options.now_ns = shifted_now;
    for (int i = 2; i < count; i++) {
        if (!read_option(arguments[i])) {
            (void)fprintf(stderr, "unknown option: %s\n", arguments[i]);
            return 2;
        }
    }
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        run_command(line);
    }
    pfo_disk_close(disk);
    return 0;
}
