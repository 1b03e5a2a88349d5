/* export_pstats.c: what pstats.Stats(path) loads: Python's marshal of {function: (cc, nc, tt, ct, {caller: (nc, cc, tt, ct)})}.
 *
 * A function is the tuple ("~", 0, name), which pstats prints as the bare name; a name that is not UTF-8 and the overflow row have another
 * number (pfo_export_distinction), because two keys that are written alike would lose one. nc counts calls, cc those that no
 * call of the same function encloses; tt is self time and ct the time of the calls that cc counts, both in seconds. A caller's figures
 * count the same for that edge alone, with cc and ct of the outermost calls over the edge (cProfile's meaning).
 * Marshal writes fixed-size little-endian fields (versions 0 to 5 alike for the types used here).
 */
#include "profiler/export.h"

#include "base/alloc.h"
#include "profiler/tree_walk.h"

#include <stdlib.h>
#include <string.h>

enum { NO_CALLER = -2, SHIFT = 15 };

typedef struct figures {
    uint64_t calls;
    uint64_t outermost;
    double self_ns;
    double total_ns;
} figures;

/* A caller and what it calls, numbered in the order of (name, caller). */
typedef struct edge {
    int32_t name;
    int32_t caller; /* NO_CALLER for a root */
} edge;

typedef struct pstats_state {
    const pfo_export_job *job;
    pfo_tree_walk walk;
    edge *edges;         /* different ones, sorted; edge_count of them */
    figures *sums;       /* by edge */
    figures *name_sums;  /* by name + 1 */
    int32_t *open_edges; /* how often an edge is on the path */
    int32_t *open_names; /* the same by name + 1 */
    int32_t edge_count;
} pstats_state;

static int
by_name_then_caller(const void *a, const void *b)
{
    const edge *left = a;
    const edge *right = b;
    if (left->name != right->name) {
        return left->name < right->name ? -1 : 1;
    }
    return left->caller < right->caller ? -1 : left->caller > right->caller;
}

static edge
edge_of(const pfo_capture *capture, int32_t node)
{
    const int32_t parent = capture->nodes[node].parent;
    return (edge){ capture->nodes[node].name, parent < 0 ? NO_CALLER : capture->nodes[parent].name };
}

static void
close_state(pstats_state *state)
{
    pfo_tree_walk_close(&state->walk);
    pfo_free(state->edges);
    pfo_free(state->sums);
    pfo_free(state->name_sums);
    pfo_free(state->open_edges);
    pfo_free(state->open_names);
}

static void
collect_edges(pstats_state *state)
{
    const pfo_capture *capture = state->job->capture;
    for (int32_t i = 0; i < capture->node_count; i++) {
        state->edges[i] = edge_of(capture, i);
    }
    if (capture->node_count > 0) {
        qsort(state->edges, (size_t)capture->node_count, sizeof *state->edges, by_name_then_caller);
    }
    for (int32_t i = 0; i < capture->node_count; i++) {
        if (i == 0 || by_name_then_caller(&state->edges[i], &state->edges[state->edge_count - 1]) != 0) {
            state->edges[state->edge_count++] = state->edges[i];
        }
    }
}

static pfo_status
open_state(pstats_state *state, pfo_error *err)
{
    const size_t nodes = (size_t)state->job->capture->node_count;
    const size_t names = (size_t)state->job->capture->name_count + 1;
    PFO_TRY(pfo_tree_walk_open(&state->walk, state->job->capture, err));
    state->edges = pfo_alloc_array(nodes, sizeof *state->edges);
    state->sums = pfo_alloc_array(nodes, sizeof *state->sums);
    state->open_edges = pfo_alloc_array(nodes, sizeof *state->open_edges);
    state->name_sums = pfo_alloc_array(names, sizeof *state->name_sums);
    state->open_names = pfo_alloc_array(names, sizeof *state->open_names);
    if (state->edges == NULL || state->sums == NULL || state->open_edges == NULL || state->name_sums == NULL ||
        state->open_names == NULL) {
        close_state(state);
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to sum a call tree of %zu nodes", nodes);
    }
    collect_edges(state);
    return PFO_OK;
}

static void
count_call(figures *sum, const pfo_capture_node *node, int outermost)
{
    sum->calls += node->count;
    sum->self_ns += node->self_ns;
    if (outermost) {
        sum->outermost += node->count;
        sum->total_ns += node->total_ns;
    }
}

static void
sum_thread(pstats_state *state, int32_t slot)
{
    const pfo_capture *capture = state->job->capture;
    pfo_tree_walk_begin(&state->walk, slot);
    for (;;) {
        const pfo_tree_step step = pfo_tree_walk_next(&state->walk);
        if (step == PFO_TREE_END) {
            return;
        }
        const pfo_capture_node *node = &capture->nodes[state->walk.node];
        const edge key = edge_of(capture, state->walk.node);
        const edge *found = bsearch(&key, state->edges, (size_t)state->edge_count, sizeof key, by_name_then_caller);
        const ptrdiff_t number = found - state->edges;
        if (step == PFO_TREE_ENTER) {
            count_call(&state->sums[number], node, state->open_edges[number]++ == 0);
            count_call(&state->name_sums[node->name + 1], node, state->open_names[node->name + 1]++ == 0);
        } else {
            state->open_edges[number]--;
            state->open_names[node->name + 1]--;
        }
    }
}

static void
put_u32(pfo_writer *writer, uint32_t number)
{
    const unsigned char bytes[] = { (unsigned char)number, (unsigned char)(number >> 8), (unsigned char)(number >> 16),
                                    (unsigned char)(number >> 24) };
    pfo_put_bytes(writer, bytes, sizeof bytes);
}

static void
put_tuple(pfo_writer *writer, uint32_t items)
{
    pfo_put(writer, "(");
    put_u32(writer, items);
}

/* 'i' holds 32 bits; 'l' holds digits of 15 bits, the lowest first, after their number. */
static void
put_integer(pfo_writer *writer, uint64_t number)
{
    if (number <= INT32_MAX) {
        pfo_put(writer, "i");
        put_u32(writer, (uint32_t)number);
        return;
    }
    uint32_t digits = 0;
    for (uint64_t rest = number; rest > 0; rest >>= SHIFT) {
        digits++;
    }
    pfo_put(writer, "l");
    put_u32(writer, digits);
    for (; number > 0; number >>= SHIFT) {
        const unsigned digit = (unsigned)(number & ((1U << SHIFT) - 1));
        const unsigned char bytes[] = { (unsigned char)digit, (unsigned char)(digit >> 8) };
        pfo_put_bytes(writer, bytes, sizeof bytes);
    }
}

static void
put_seconds(pfo_writer *writer, double ns)
{
    const double seconds = ns / 1e9;
    uint64_t bits = 0;
    memcpy(&bits, &seconds, sizeof bits);
    pfo_put(writer, "g");
    put_u32(writer, (uint32_t)bits);
    put_u32(writer, (uint32_t)(bits >> 32));
}

static pfo_status
put_function(const pfo_export_job *job, pfo_text text, int32_t number)
{
    const size_t length = pfo_text_valid_length(text);
    if (length > INT32_MAX) {
        return pfo_fail(job->err, PFO_OVERFLOW, "a name of %zu bytes is too long for pstats; at most %d", length,
                        INT32_MAX);
    }
    put_tuple(job->writer, 3);
    pfo_put(job->writer, "u");
    put_u32(job->writer, 1);
    pfo_put(job->writer, "~i");
    put_u32(job->writer, (uint32_t)number);
    pfo_put(job->writer, "u");
    put_u32(job->writer, (uint32_t)length);
    pfo_put_text(job->writer, text, PFO_ESCAPE_NONE);
    return PFO_OK;
}

static pfo_status
put_named(const pfo_export_job *job, int32_t name)
{
    return put_function(job, pfo_export_label(job->capture, name), pfo_export_distinction(job->capture, name));
}

static void
put_figures(pfo_writer *writer, uint64_t first, uint64_t second, const figures *sum)
{
    put_integer(writer, first);
    put_integer(writer, second);
    put_seconds(writer, sum->self_ns);
    put_seconds(writer, sum->total_ns);
}

/* All of one name: its edges are [first, last). */
static pfo_status
put_name(const pstats_state *state, int32_t first, int32_t last)
{
    pfo_writer *writer = state->job->writer;
    const int32_t name = state->edges[first].name;
    const figures *sum = &state->name_sums[name + 1];
    PFO_TRY(put_named(state->job, name));
    put_tuple(writer, 5);
    put_figures(writer, sum->outermost, sum->calls, sum);
    pfo_put(writer, "{");
    for (int32_t i = first; i < last; i++) {
        if (state->edges[i].caller == NO_CALLER) {
            continue;
        }
        PFO_TRY(put_named(state->job, state->edges[i].caller));
        put_tuple(writer, 4);
        put_figures(writer, state->sums[i].calls, state->sums[i].outermost, &state->sums[i]);
    }
    pfo_put(writer, "0");
    return writer->status;
}

/* pstats refuses a table without functions. */
static pfo_status
put_nothing(const pfo_export_job *job)
{
    static const pfo_text nothing = { "(nothing recorded)", 18 };
    PFO_TRY(put_function(job, nothing, 0));
    put_tuple(job->writer, 5);
    put_figures(job->writer, 0, 0, &(figures){ 0 });
    pfo_put(job->writer, "{0");
    return job->writer->status;
}

static pfo_status
put_all(const pstats_state *state)
{
    pfo_put(state->job->writer, "{");
    if (state->edge_count == 0) {
        PFO_TRY(put_nothing(state->job));
    }
    for (int32_t first = 0; first < state->edge_count;) {
        int32_t last = first + 1;
        while (last < state->edge_count && state->edges[last].name == state->edges[first].name) {
            last++;
        }
        PFO_TRY(put_name(state, first, last));
        first = last;
    }
    pfo_put(state->job->writer, "0");
    return PFO_OK;
}

pfo_status
pfo_export_pstats(const pfo_export_job *job)
{
    pstats_state state = { .job = job };
    PFO_TRY(open_state(&state, job->err));
    for (int32_t slot = 0; slot <= job->capture->thread_count; slot++) {
        sum_thread(&state, slot);
    }
    const pfo_status status = put_all(&state);
    close_state(&state);
    return status;
}
