/* test_recorder_model.c: random programs of begin, end, suspend, resume and abandon in any order, with other recorders in
 * between, against a model of the tree and the rows written as plainly as can be; on a clock that the test sets, so that every
 * figure must be equal. */
#include "capture_fixture.h"

enum { LIVE = 10, STEPS = 60, PROGRAMS = 2000, NODES = 4096, OTHERS = 9 };

typedef struct model_node {
    int parent, name;
    uint64_t count;
    int64_t self;
} model_node;

typedef enum kind { FREE, PLAIN, RUNS, WAITS } kind;

typedef struct live_range {
    kind kind;
    int name;
    int64_t began, active, stretch; /* ticks; the stretch that runs now began at `stretch` */
    pfo_open_range plain;
    pfo_suspending_range suspending;
} live_range;

typedef struct model {
    model_node nodes[NODES];
    int node_count;
    int stack[LIVE]; /* live ranges, the innermost last */
    int places[LIVE];
    int depth;
    int64_t last;
    live_range live[LIVE];
    uint64_t counts[FIXTURE_NAMES];
    int64_t totals[FIXTURE_NAMES], actives[FIXTURE_NAMES];
} model;

static int
child(model *own, int parent, int name)
{
    for (int i = 0; i < own->node_count; i++) {
        if (own->nodes[i].parent == parent && own->nodes[i].name == name) {
            return i;
        }
    }
    REQUIRE(own->node_count < NODES);
    own->nodes[own->node_count] = (model_node){ parent, name, 0, 0 };
    return own->node_count++;
}

static void
pass(model *own, int64_t tick)
{
    if (own->depth > 0) {
        own->nodes[own->places[own->depth - 1]].self += tick - own->last;
    }
    own->last = tick;
}

static void
push(model *own, int range, int64_t tick)
{
    pass(own, tick);
    const int top = own->depth > 0 ? own->places[own->depth - 1] : -1;
    own->stack[own->depth] = range;
    own->places[own->depth++] = child(own, top, own->live[range].name);
    own->live[range].stretch = tick;
}

static void
take_off(model *own, int range, int64_t tick, int counts)
{
    pass(own, tick);
    int at = 0;
    while (own->stack[at] != range) {
        at++;
    }
    own->nodes[own->places[at]].count += counts ? 1 : 0;
    own->depth--;
    for (int i = at; i < own->depth; i++) {
        own->stack[i] = own->stack[i + 1];
        own->places[i] = child(own, i > 0 ? own->places[i - 1] : -1, own->live[own->stack[i]].name);
    }
    own->live[range].active += tick - own->live[range].stretch;
}

static void
finish(model *own, int range, int64_t tick)
{
    live_range *it = &own->live[range];
    take_off(own, range, tick, 1);
    own->counts[it->name]++;
    own->totals[it->name] += tick - it->began;
    own->actives[it->name] += it->active;
    it->kind = FREE;
}

static void
start(model *own, const taped *tape, int range, int64_t tick, unsigned long long *state)
{
    live_range *it = &own->live[range];
    *it = (live_range){ .kind = check_random(state) % 2 == 0 ? PLAIN : RUNS, .began = tick };
    it->name = (int)(check_random(state) % 4);
    push(own, range, tick);
    if (it->kind == PLAIN) {
        pfo_recorder_begin(tape->recorder, tape->names[it->name], &it->plain);
    } else {
        pfo_recorder_begin_suspending(tape->recorder, tape->names[it->name], &it->suspending);
    }
}

/* One step of the life of a range that there is; `last`: only towards its end. */
static void
go_on(model *own, const taped *tape, int range, int64_t tick, unsigned choice, int last)
{
    live_range *it = &own->live[range];
    if (it->kind == PLAIN && choice % 8 == 0) {
        take_off(own, range, tick, 0);
        it->kind = FREE;
        pfo_recorder_abandon(tape->recorder, &it->plain, tick);
    } else if (it->kind == PLAIN) {
        finish(own, range, tick);
        pfo_recorder_end(tape->recorder, &it->plain, tick);
    } else if (it->kind == WAITS) {
        push(own, range, tick);
        it->kind = RUNS;
        pfo_recorder_resume(tape->recorder, &it->suspending);
    } else if (!last && choice % 3 != 0) {
        take_off(own, range, tick, 0);
        it->kind = WAITS;
        pfo_recorder_suspend(tape->recorder, &it->suspending, tick);
    } else {
        finish(own, range, tick);
        pfo_recorder_end_suspending(tape->recorder, &it->suspending, tick);
    }
}

/* The capture's node of one of the model's, -1 for none. */
static int32_t
find_node(const pfo_capture *capture, const model *own, int node)
{
    if (node < 0) {
        return -1;
    }
    const int32_t parent = find_node(capture, own, own->nodes[node].parent);
    for (int32_t i = 0; i < capture->node_count; i++) {
        if (capture->nodes[i].parent == parent && capture->nodes[i].name == own->nodes[node].name) {
            return i;
        }
    }
    return -2;
}

static int
same(double figure, int64_t ticks)
{
    return figure >= (double)ticks && figure <= (double)ticks;
}

static void
compare(const taped *tape, const model *own)
{
    pfo_capture *capture = take(tape);
    CHECK(capture->node_count == own->node_count);
    for (int i = 0; i < own->node_count; i++) {
        const int32_t at = find_node(capture, own, i);
        CHECK(at >= 0);
        CHECK(at < 0 || (capture->nodes[at].count == own->nodes[i].count &&
                         same(capture->nodes[at].self_ns, own->nodes[i].self)));
    }
    for (int name = 0; name < 4; name++) {
        const char text[] = { (char)('a' + name), '\0' };
        const pfo_capture_row *row = row_of(capture, text);
        CHECK((row == NULL) == (own->counts[name] == 0));
        CHECK(row == NULL || (row->count == own->counts[name] && same(row->total_ns, own->totals[name]) &&
                              same(row->active_ns, own->actives[name])));
    }
    pfo_capture_destroy(capture);
}

static void
random_programs_give_the_models_figures(void)
{
    pfo_recorder *others[OTHERS];
    pfo_name names[OTHERS];
    for (int i = 0; i < OTHERS; i++) {
        REQUIRE(pfo_recorder_create(1, 0, &others[i], NULL) == PFO_OK);
        names[i] = pfo_recorder_add_name(others[i]);
    }
    static model own;
    unsigned long long state = 5;
    for (int program = 0; program < PROGRAMS; program++) {
        const taped tape = taped_new(FIXTURE_NAMES, 0);
        memset(&own, 0, sizeof own);
        int64_t tick = 1000;
        for (int step = 0; step < STEPS + 2 * LIVE; step++) {
            const int last = step >= STEPS;
            const int range = last ? (step - STEPS) / 2 : (int)(check_random(&state) % LIVE);
            tick += (int64_t)(check_random(&state) % 50);
            at(tick);
            if (own.live[range].kind != FREE) {
                go_on(&own, &tape, range, tick, (unsigned)(check_random(&state) % 1000), last);
            } else if (!last) {
                start(&own, &tape, range, tick, &state);
            }
            for (int i = 0; i < OTHERS && step % 4 == 0; i++) { /* they push each other out of the thread's memory */
                pfo_open_range open;
                pfo_recorder_begin(others[i], names[i], &open);
                pfo_recorder_end(others[i], &open, tick);
            }
        }
        compare(&tape, &own);
        pfo_recorder_destroy(tape.recorder);
    }
    for (int i = 0; i < OTHERS; i++) {
        pfo_recorder_destroy(others[i]);
    }
}

int
main(void)
{
    RUN(random_programs_give_the_models_figures);
    return FINISH();
}
