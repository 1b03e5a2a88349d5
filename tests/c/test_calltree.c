/* test_calltree.c: children by name, many nodes, the limit, a reader beside the writer, failing allocations. */
#include "check.h"

#include "base/alloc.h"
#include "profiler/calltree.h"

#include <pthread.h>

static void
children_are_found_again(void)
{
    pfo_calltree *tree = pfo_calltree_create(0);
    REQUIRE(tree != NULL);
    pfo_call_node *root = pfo_calltree_root(tree);
    enum { WIDE = 500 };
    pfo_call_node *made[WIDE];
    for (uint32_t i = 0; i < WIDE; i++) {
        made[i] = pfo_calltree_child(tree, i % 3 == 0 || i == 1 ? root : made[i - 1], i + 1);
        CHECK(made[i]->name == i + 1 && made[i]->index == i + 2);
    }
    for (uint32_t i = 0; i < WIDE; i++) {
        CHECK(pfo_calltree_child(tree, made[i]->parent, i + 1) == made[i]);
        CHECK(pfo_calltree_node(tree, i + 2) == made[i] && made[i]->parent->index < made[i]->index);
    }
    CHECK(pfo_calltree_count(tree) == WIDE + 2);
    CHECK(pfo_calltree_bytes(tree) < WIDE * 200);
    pfo_calltree_destroy(tree);
    pfo_calltree_destroy(NULL);
}

static void
beyond_the_limit_there_is_one_node(void)
{
    pfo_calltree *tree = pfo_calltree_create(7);
    REQUIRE(tree != NULL);
    pfo_call_node *root = pfo_calltree_root(tree);
    pfo_call_node *overflow = pfo_calltree_overflow(tree);
    CHECK(overflow->name == 7 && overflow->parent == root);
    for (uint32_t i = 2; i < PFO_CALLTREE_MOST_NODES; i++) {
        CHECK(pfo_calltree_child(tree, root, i) != overflow);
    }
    CHECK(pfo_calltree_child(tree, root, 1 << 30) == overflow);
    CHECK(pfo_calltree_child(tree, overflow, 3) == overflow);
    CHECK(pfo_calltree_child(tree, root, 100)->name == 100);
    CHECK(pfo_calltree_count(tree) == PFO_CALLTREE_MOST_NODES);
    pfo_calltree_destroy(tree);
}

static void *
grow(void *tree)
{
    pfo_call_node *node = pfo_calltree_root(tree);
    for (uint32_t i = 1; i < 5000; i++) {
        node = pfo_calltree_child(tree, i % 50 == 0 ? pfo_calltree_root(tree) : node, i);
        pfo_call_node_add_self(node, i);
        pfo_call_node_add_count(node);
    }
    return NULL;
}

static void
a_reader_sees_whole_nodes(void)
{
    pfo_calltree *tree = pfo_calltree_create(0);
    pthread_t writer;
    REQUIRE(tree != NULL && pthread_create(&writer, NULL, grow, tree) == 0);
    uint32_t count = 0;
    while (count < 5001) {
        count = pfo_calltree_count(tree);
        for (uint32_t i = 2; i < count; i++) {
            const pfo_call_node *node = pfo_calltree_node(tree, i);
            CHECK(node->name == i - 1 && node->parent->index < i && atomic_load(&node->self_ticks) <= i);
        }
    }
    REQUIRE(pthread_join(writer, NULL) == 0);
    pfo_calltree_destroy(tree);
}

static void
a_failing_allocation_leads_to_the_overflow_node(void)
{
    for (long n = 1; n < 12; n++) {
        pfo_alloc_fail_at(n);
        pfo_calltree *tree = pfo_calltree_create(0);
        for (uint32_t i = 1; tree != NULL && i < 300; i++) {
            const pfo_call_node *node = pfo_calltree_child(tree, pfo_calltree_root(tree), i);
            CHECK(node->name == i || node == pfo_calltree_overflow(tree));
        }
        pfo_alloc_fail_at(0);
        for (uint32_t i = 1; tree != NULL && i < 300; i++) {
            CHECK(pfo_calltree_child(tree, pfo_calltree_root(tree), i)->name == i);
        }
        CHECK((tree == NULL) == (n <= 3));
        pfo_calltree_destroy(tree);
    }
}

static void
a_clock_that_goes_back_adds_nothing(void)
{
    pfo_calltree *tree = pfo_calltree_create(0);
    REQUIRE(tree != NULL);
    pfo_call_node *node = pfo_calltree_child(tree, pfo_calltree_root(tree), 1);
    pfo_call_node_add_self(node, -5);
    pfo_call_node_add_self(node, 3);
    CHECK(atomic_load(&node->self_ticks) == 3);
    pfo_calltree_destroy(tree);
}

int
main(void)
{
    RUN(children_are_found_again);
    RUN(beyond_the_limit_there_is_one_node);
    RUN(a_reader_sees_whole_nodes);
    RUN(a_failing_allocation_leads_to_the_overflow_node);
    RUN(a_clock_that_goes_back_adds_nothing);
    return FINISH();
}
