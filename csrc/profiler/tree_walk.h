/* tree_walk.h: the call tree of a capture in depth-first order, one thread after the other.
 *
 * pfo_tree_walk_begin() starts with the roots of one thread; pfo_tree_walk_next() then enters and leaves every node of that
 * thread exactly once, parents around their children, children in the order of the table. Nothing recurses, so a tree as
 * deep as it has nodes is no danger.
 * pre: the capture's indices are good (pfo_export checks them). Threads: one at a time.
 * Memory: 12 bytes a node and 4 a thread, from open to close.
 */
#ifndef PFO_PROFILER_TREE_WALK_H
#define PFO_PROFILER_TREE_WALK_H

#include "base/status.h"
#include "profiler/capture.h"

#include <stdint.h>

typedef enum pfo_tree_step { PFO_TREE_END, PFO_TREE_ENTER, PFO_TREE_LEAVE } pfo_tree_step;

typedef struct pfo_tree_walk {
    const pfo_capture_node *nodes;
    int32_t *first_child;
    int32_t *next_sibling; /* of a root: the next root of its thread */
    int32_t *first_root;   /* by slot of thread, see below */
    int32_t *path;         /* from the root to the node just entered, `depth` of them */
    int32_t depth;
    int32_t node; /* of the last step */
    pfo_tree_step step;
} pfo_tree_walk;

/* PFO_NO_MEMORY. */
pfo_status pfo_tree_walk_open(pfo_tree_walk *walk, const pfo_capture *capture, pfo_error *err);
void pfo_tree_walk_close(pfo_tree_walk *walk);

/* slot: the thread's number, or thread_count for the nodes that belong to none. */
void pfo_tree_walk_begin(pfo_tree_walk *walk, int32_t slot);
pfo_tree_step pfo_tree_walk_next(pfo_tree_walk *walk);

#endif
