/* calltree.h: the calling-context tree of one thread: a node for each path of names that ranges were open under.
 *
 * A node holds its own time only, self. What a node took with everything inside it is the sum over its subtree, so that
 * the self times of a tree add up to the totals of its roots by construction, whatever order ranges end in.
 * Limits: PFO_CALLTREE_MOST_NODES nodes; a path beyond them, or one for which there is no memory, leads to one overflow
 * node beside the roots, which counts. Nodes stay where they are until the tree is destroyed.
 * Threads: one writer (child, and the inline functions that add), any number of readers beside it (count, node). A
 * reader sees whole nodes; count and self of a node at work may be one range apart. destroy() needs everybody kept out.
 * Memory: 48 bytes a node and about 8 for finding it, from base/alloc.h.
 */
#ifndef PFO_PROFILER_CALLTREE_H
#define PFO_PROFILER_CALLTREE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { PFO_CALLTREE_MOST_NODES = 1 << 15 };

typedef struct pfo_call_node {
    _Atomic uint64_t count;
    _Atomic uint64_t self_ticks;
    struct pfo_call_node *parent;     /* NULL: the root, which stands for "no range open" */
    struct pfo_call_node *last_child; /* entered last; the writer's alone */
    uint32_t name;
    uint32_t index; /* the root is 0, the overflow node 1; a parent's is smaller than its children's */
} pfo_call_node;

typedef struct pfo_calltree pfo_calltree;

/* A root and an overflow node with the name `overflow_name`; NULL when memory is out. */
pfo_calltree *pfo_calltree_create(uint32_t overflow_name);
void pfo_calltree_destroy(pfo_calltree *tree); /* NULL is allowed */

pfo_call_node *pfo_calltree_root(pfo_calltree *tree);
pfo_call_node *pfo_calltree_overflow(pfo_calltree *tree);

/* The child by hash, made if it is new; the overflow node when there is no room. Remembers it as the last child. */
pfo_call_node *pfo_calltree_find_child(pfo_calltree *tree, pfo_call_node *parent, uint32_t name);

static inline pfo_call_node *
pfo_calltree_child(pfo_calltree *tree, pfo_call_node *parent, uint32_t name)
{
    pfo_call_node *last = parent->last_child;
    return last != NULL && last->name == name ? last : pfo_calltree_find_child(tree, parent, name);
}

/* Writer only: a load and a store, no atomic addition. */
static inline void
pfo_call_node_add_self(pfo_call_node *node, int64_t ticks)
{
    const uint64_t more = ticks < 0 ? 0 : (uint64_t)ticks; /* a clock that went back counts as 0 */
    atomic_store_explicit(&node->self_ticks, atomic_load_explicit(&node->self_ticks, memory_order_relaxed) + more,
                          memory_order_relaxed);
}

static inline void
pfo_call_node_add_count(pfo_call_node *node)
{
    atomic_store_explicit(&node->count, atomic_load_explicit(&node->count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

/* Nodes so far, and one of them by index. */
uint32_t pfo_calltree_count(const pfo_calltree *tree);
const pfo_call_node *pfo_calltree_node(const pfo_calltree *tree, uint32_t index);

size_t pfo_calltree_bytes(const pfo_calltree *tree); /* may be read beside the writer */

#endif
