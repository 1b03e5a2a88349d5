/* calltree.c: see calltree.h for the contract.
 *
 * [chunks] Nodes lie in chunks that double: chunk 0 holds nodes 0..15, chunk k > 0 nodes [8 << k, 16 << k). A chunk's
 * pointer and a node's fields are stored before the node is published by a release store of `used`; a reader looks at
 * indexes below the `used` that it loaded only.
 *
 * [index] (parent, name) -> node by open addressing with linear probing, at most half full; entries are node indexes,
 * 0 is empty (the root is nobody's child). Used by the writer alone.
 */
#include "profiler/calltree.h"

#include "base/alloc.h"

enum { FIRST_CHUNK = 16, CHUNKS = 12, FIRST_INDEX = 32 };

_Static_assert((FIRST_CHUNK << (CHUNKS - 1)) >= PFO_CALLTREE_MOST_NODES, "every node has a place");

struct pfo_calltree {
    pfo_call_node *chunks[CHUNKS];
    _Atomic uint32_t used;
    uint32_t *index;
    _Atomic uint32_t index_capacity;
};

static inline int
chunk_of(uint32_t index)
{
    return index < FIRST_CHUNK ? 0 : 32 - __builtin_clz(index / FIRST_CHUNK);
}

static inline uint32_t
chunk_size(int chunk)
{
    return chunk == 0 ? (uint32_t)FIRST_CHUNK : (uint32_t)FIRST_CHUNK << (chunk - 1);
}

static inline uint32_t
chunk_start(int chunk)
{
    return chunk == 0 ? 0 : chunk_size(chunk);
}

static inline pfo_call_node *
place_of(const pfo_calltree *tree, uint32_t index)
{
    const int chunk = chunk_of(index);
    return &tree->chunks[chunk][index - chunk_start(chunk)];
}

static inline uint32_t
used(const pfo_calltree *tree)
{
    return atomic_load_explicit(&tree->used, memory_order_relaxed);
}

/* A new node, published; NULL when memory or numbers are out. */
static pfo_call_node *
add_node(pfo_calltree *tree, pfo_call_node *parent, uint32_t name)
{
    const uint32_t index = used(tree);
    if (index >= PFO_CALLTREE_MOST_NODES) {
        return NULL;
    }
    const int chunk = chunk_of(index);
    if (tree->chunks[chunk] == NULL) {
        tree->chunks[chunk] = pfo_alloc_array(chunk_size(chunk), sizeof(pfo_call_node));
        if (tree->chunks[chunk] == NULL) {
            return NULL;
        }
    }
    pfo_call_node *node = place_of(tree, index);
    node->parent = parent;
    node->name = name;
    node->index = index;
    atomic_store_explicit(&tree->used, index + 1, memory_order_release);
    return node;
}

pfo_calltree *
pfo_calltree_create(uint32_t overflow_name)
{
    pfo_calltree *tree = pfo_alloc_array(1, sizeof *tree);
    if (tree == NULL) {
        return NULL;
    }
    tree->index = pfo_alloc_array(FIRST_INDEX, sizeof *tree->index);
    pfo_call_node *root = tree->index == NULL ? NULL : add_node(tree, NULL, overflow_name);
    if (root == NULL) {
        pfo_calltree_destroy(tree);
        return NULL;
    }
    atomic_init(&tree->index_capacity, FIRST_INDEX);
    (void)add_node(tree, root, overflow_name); /* in the root's chunk: cannot fail */
    return tree;
}

void
pfo_calltree_destroy(pfo_calltree *tree)
{
    if (tree == NULL) {
        return;
    }
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        pfo_free(tree->chunks[chunk]);
    }
    pfo_free(tree->index);
    pfo_free(tree);
}

pfo_call_node *
pfo_calltree_root(pfo_calltree *tree)
{
    return tree->chunks[0];
}

pfo_call_node *
pfo_calltree_overflow(pfo_calltree *tree)
{
    return tree->chunks[0] + 1;
}

/* Where (parent, name) is, or the empty place where it belongs. */
static uint32_t *
find_place(const pfo_calltree *tree, uint32_t *index, uint32_t capacity, uint32_t parent, uint32_t name)
{
    const uint64_t key = ((uint64_t)parent << 32 | name) * 0x9E3779B97F4A7C15U;
    for (uint32_t at = (uint32_t)(key >> 40) & (capacity - 1);; at = (at + 1) & (capacity - 1)) {
        if (index[at] == 0) {
            return &index[at];
        }
        const pfo_call_node *node = place_of(tree, index[at]);
        if (node->name == name && node->parent->index == parent) {
            return &index[at];
        }
    }
}

/* Twice as many places; 0, or -1 when memory is out. */
static int
grow_index(pfo_calltree *tree)
{
    const uint32_t capacity = 2 * atomic_load_explicit(&tree->index_capacity, memory_order_relaxed);
    uint32_t *index = pfo_alloc_array(capacity, sizeof *index);
    if (index == NULL) {
        return -1;
    }
    for (uint32_t i = 2; i < used(tree); i++) { /* the root and the overflow node are never looked up */
        const pfo_call_node *node = place_of(tree, i);
        *find_place(tree, index, capacity, node->parent->index, node->name) = i;
    }
    uint32_t *old = tree->index;
    tree->index = index; /* before the old one goes: a fork may come in between */
    atomic_store_explicit(&tree->index_capacity, capacity, memory_order_relaxed);
    pfo_free(old);
    return 0;
}

pfo_call_node *
pfo_calltree_find_child(pfo_calltree *tree, pfo_call_node *parent, uint32_t name)
{
    pfo_call_node *overflow = pfo_calltree_overflow(tree);
    if (parent == overflow) {
        return overflow;
    }
    const uint32_t capacity = atomic_load_explicit(&tree->index_capacity, memory_order_relaxed);
    uint32_t *place = find_place(tree, tree->index, capacity, parent->index, name);
    if (*place == 0) {
        if (2 * used(tree) >= capacity) {
            if (grow_index(tree) < 0) {
                return overflow;
            }
            place = find_place(tree, tree->index, 2 * capacity, parent->index, name);
        }
        const pfo_call_node *made = add_node(tree, parent, name);
        if (made == NULL) {
            return overflow;
        }
        *place = made->index;
    }
    parent->last_child = place_of(tree, *place);
    return parent->last_child;
}

uint32_t
pfo_calltree_count(const pfo_calltree *tree)
{
    return atomic_load_explicit(&tree->used, memory_order_acquire);
}

const pfo_call_node *
pfo_calltree_node(const pfo_calltree *tree, uint32_t index)
{
    return place_of(tree, index);
}

size_t
pfo_calltree_bytes(const pfo_calltree *tree)
{
    const int last_chunk = chunk_of(pfo_calltree_count(tree) - 1);
    return sizeof *tree + (chunk_start(last_chunk) + chunk_size(last_chunk)) * sizeof(pfo_call_node) +
           atomic_load_explicit(&tree->index_capacity, memory_order_relaxed) * sizeof *tree->index;
}
