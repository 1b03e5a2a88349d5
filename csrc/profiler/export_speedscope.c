/* export_speedscope.c: speedscope's own format, one "sampled" profile a thread, made from the call tree.
 *
 * An "evented" profile wants opens and closes in the order of time, and spans come in the order of their ends: turning them round
 * needs memory for all of them, so the timeline is left to the Chrome and Perfetto formats. Here a sample is a path of the tree and its
 * weight that path's self time, which covers every range recorded, also those whose spans were overwritten.
 * Weights are whole nanoseconds; a node without self time is seen in its children only.
 */
#include "profiler/export.h"
#include "profiler/tree_walk.h"

typedef struct speedscope_state {
    const pfo_export_job *job;
    pfo_tree_walk walk;
    const char *separator;
} speedscope_state;

/* Enters nodes until one with self time; 0 at the end of the thread. */
static uint64_t
next_weight(speedscope_state *state)
{
    for (;;) {
        const pfo_tree_step step = pfo_tree_walk_next(&state->walk);
        if (step == PFO_TREE_END) {
            return 0;
        }
        const uint64_t weight = pfo_whole_ns(state->job->capture->nodes[state->walk.node].self_ns);
        if (step == PFO_TREE_ENTER && weight > 0) {
            return weight;
        }
    }
}

static void
put_stack(speedscope_state *state)
{
    const pfo_capture *capture = state->job->capture;
    pfo_put(state->job->writer, "[");
    for (int32_t i = 0; i < state->walk.depth; i++) {
        const int32_t name = capture->nodes[state->walk.path[i]].name;
        pfo_put(state->job->writer, i == 0 ? "" : ",");
        pfo_put_i64(state->job->writer, name < 0 ? capture->name_count : name);
    }
    pfo_put(state->job->writer, "]");
}

/* "command, thread (pid, tid)" */
static void
put_profile_name(pfo_writer *writer, const pfo_capture *capture, int32_t slot)
{
    pfo_put(writer, "\"");
    if (slot == capture->thread_count) {
        pfo_put(writer, "(unknown thread)\"");
        return;
    }
    const pfo_capture_thread *thread = &capture->threads[slot];
    if (thread->process >= 0) {
        const pfo_capture_process *process = &capture->processes[thread->process];
        pfo_put_text(writer, process->command, PFO_ESCAPE_JSON);
        pfo_put(writer, " (");
        pfo_put_i64(writer, process->pid);
        pfo_put(writer, "), ");
    }
    pfo_put_text(writer, thread->name, PFO_ESCAPE_JSON);
    pfo_put(writer, " (");
    pfo_put_i64(writer, thread->id);
    pfo_put(writer, ")\"");
}

static void
put_profile(speedscope_state *state, int32_t slot)
{
    pfo_writer *writer = state->job->writer;
    pfo_put(writer, state->separator);
    pfo_put(writer, "{\"type\":\"sampled\",\"name\":");
    put_profile_name(writer, state->job->capture, slot);
    pfo_put(writer, ",\"unit\":\"nanoseconds\",\"startValue\":0,\"samples\":[");
    state->separator = "";
    pfo_tree_walk_begin(&state->walk, slot);
    while (next_weight(state) > 0 && writer->status == PFO_OK) {
        pfo_put(writer, state->separator);
        put_stack(state);
        state->separator = ",";
    }
    pfo_put(writer, "],\"weights\":[");
    uint64_t sum = 0;
    state->separator = "";
    pfo_tree_walk_begin(&state->walk, slot);
    for (uint64_t weight = next_weight(state); weight > 0; weight = next_weight(state)) {
        pfo_put(writer, state->separator);
        pfo_put_u64(writer, weight);
        sum += weight;
        state->separator = ",";
    }
    pfo_put(writer, "],\"endValue\":");
    pfo_put_u64(writer, sum);
    pfo_put(writer, "}");
    state->separator = ",\n";
}

static void
put_frames(const pfo_export_job *job)
{
    for (int32_t i = 0; i < job->capture->name_count; i++) {
        pfo_put(job->writer, "{\"name\":");
        pfo_put_json(job->writer, job->capture->names[i]);
        pfo_put(job->writer, "},");
    }
    pfo_put(job->writer, "{\"name\":");
    pfo_put_json(job->writer, pfo_export_label(job->capture, -1));
    pfo_put(job->writer, "}");
}

pfo_status
pfo_export_speedscope(const pfo_export_job *job)
{
    const pfo_capture *capture = job->capture;
    speedscope_state state = { .job = job, .separator = "" };
    PFO_TRY(pfo_tree_walk_open(&state.walk, capture, job->err));
    pfo_put(job->writer, "{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\"exporter\":\"perfopt\","
                         "\"name\":\"perfopt\",\"shared\":{\"frames\":[");
    put_frames(job);
    pfo_put(job->writer, "]},\"profiles\":[\n");
    /* A file without a profile is refused by the viewer, so an empty capture has one that is empty. */
    for (int32_t slot = 0; slot <= capture->thread_count && job->writer->status == PFO_OK; slot++) {
        const int last_resort = slot == capture->thread_count && state.separator[0] == '\0';
        if (state.walk.first_root[slot] >= 0 || last_resort) {
            put_profile(&state, slot);
        }
    }
    pfo_put(job->writer, "\n]}\n");
    pfo_tree_walk_close(&state.walk);
    return job->writer->status;
}
