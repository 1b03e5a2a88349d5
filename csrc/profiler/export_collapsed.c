/* export_collapsed.c: collapsed stacks, "a;b;c 1234" a line: a path of the call tree and its self time in whole nanoseconds.
 *
 * Threads are not told apart: readers add up lines with the same stack. A frame must not hold a semicolon or a line break and must
 * not be empty: see PFO_ESCAPE_FRAME, and "(unnamed)" stands for "".
 */
#include "profiler/export.h"
#include "profiler/tree_walk.h"

static void
put_line(const pfo_export_job *job, const pfo_tree_walk *walk, uint64_t weight)
{
    static const pfo_text unnamed = { "(unnamed)", 9 };
    for (int32_t i = 0; i < walk->depth; i++) {
        const pfo_text name = pfo_export_label(job->capture, walk->nodes[walk->path[i]].name);
        pfo_put(job->writer, i == 0 ? "" : ";");
        pfo_put_text(job->writer, name.length == 0 ? unnamed : name, PFO_ESCAPE_FRAME);
    }
    pfo_put(job->writer, " ");
    pfo_put_u64(job->writer, weight);
    pfo_put(job->writer, "\n");
}

pfo_status
pfo_export_collapsed(const pfo_export_job *job)
{
    pfo_tree_walk walk;
    PFO_TRY(pfo_tree_walk_open(&walk, job->capture, job->err));
    for (int32_t slot = 0; slot <= job->capture->thread_count && job->writer->status == PFO_OK; slot++) {
        pfo_tree_walk_begin(&walk, slot);
        pfo_tree_step step = pfo_tree_walk_next(&walk);
        for (; step != PFO_TREE_END && job->writer->status == PFO_OK; step = pfo_tree_walk_next(&walk)) {
            const uint64_t weight = pfo_whole_ns(walk.nodes[walk.node].self_ns);
            if (step == PFO_TREE_ENTER && weight > 0) {
                put_line(job, &walk, weight);
            }
        }
    }
    pfo_tree_walk_close(&walk);
    return job->writer->status;
}
