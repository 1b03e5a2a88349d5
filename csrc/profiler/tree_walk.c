/* tree_walk.c: see tree_walk.h for the contract. */
#include "profiler/tree_walk.h"

#include "base/alloc.h"

#include <string.h>

void
pfo_tree_walk_close(pfo_tree_walk *walk)
{
    pfo_free(walk->first_child);
    pfo_free(walk->next_sibling);
    pfo_free(walk->first_root);
    pfo_free(walk->path);
    *walk = (pfo_tree_walk){ 0 };
}

pfo_status
pfo_tree_walk_open(pfo_tree_walk *walk, const pfo_capture *capture, pfo_error *err)
{
    const size_t nodes = (size_t)capture->node_count;
    const size_t slots = (size_t)capture->thread_count + 1;
    *walk = (pfo_tree_walk){ .nodes = capture->nodes };
    walk->first_child = pfo_alloc_array(nodes, sizeof *walk->first_child);
    walk->next_sibling = pfo_alloc_array(nodes, sizeof *walk->next_sibling);
    walk->first_root = pfo_alloc_array(slots, sizeof *walk->first_root);
    walk->path = pfo_alloc_array(nodes, sizeof *walk->path);
    if (walk->first_child == NULL || walk->next_sibling == NULL || walk->first_root == NULL || walk->path == NULL) {
        pfo_tree_walk_close(walk);
        return pfo_fail(err, PFO_NO_MEMORY, "no memory to walk a call tree of %d nodes", capture->node_count);
    }
    memset(walk->first_child, 0xFF, nodes * sizeof *walk->first_child); /* all -1 */
    memset(walk->first_root, 0xFF, slots * sizeof *walk->first_root);
    for (int32_t i = capture->node_count - 1; i >= 0; i--) { /* backwards, so that each list begins with the lowest */
        const pfo_capture_node *node = &capture->nodes[i];
        const int32_t slot = node->thread < 0 ? capture->thread_count : node->thread;
        int32_t *list = node->parent < 0 ? &walk->first_root[slot] : &walk->first_child[node->parent];
        walk->next_sibling[i] = *list;
        *list = i;
    }
    return PFO_OK;
}

void
pfo_tree_walk_begin(pfo_tree_walk *walk, int32_t slot)
{
    walk->depth = 0;
    walk->node = walk->first_root[slot]; /* the first step enters it */
    walk->step = PFO_TREE_END;
}

static pfo_tree_step
enter(pfo_tree_walk *walk, int32_t node)
{
    walk->path[walk->depth++] = node;
    walk->node = node;
    return walk->step = PFO_TREE_ENTER;
}

static pfo_tree_step
leave(pfo_tree_walk *walk, int32_t node)
{
    walk->depth--;
    walk->node = node;
    return walk->step = PFO_TREE_LEAVE;
}

pfo_tree_step
pfo_tree_walk_next(pfo_tree_walk *walk)
{
    if (walk->node < 0) {
        return PFO_TREE_END;
    }
    if (walk->step == PFO_TREE_END) {
        return enter(walk, walk->node);
    }
    if (walk->step == PFO_TREE_ENTER) {
        const int32_t child = walk->first_child[walk->node];
        return child >= 0 ? enter(walk, child) : leave(walk, walk->node);
    }
    const int32_t sibling = walk->next_sibling[walk->node];
    if (sibling >= 0) {
        return enter(walk, sibling);
    }
    const int32_t parent = walk->nodes[walk->node].parent;
    if (parent >= 0) {
        return leave(walk, parent);
    }
    walk->node = -1;
    return walk->step = PFO_TREE_END;
}
