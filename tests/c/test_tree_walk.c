/* test_tree_walk.c: the order of a walk, each thread by itself, random trees against their parents, depth, no memory. */
#include "export_fixture.h"

#include "base/alloc.h"
#include "profiler/tree_walk.h"

static void
test_the_order(void)
{
    static const int32_t expected[] = { 0, 1, 2, -2, -1, 0 }; /* of thread 0: enters as they are, leaves as -node */
    made_capture *made = made_capture_new();
    pfo_tree_walk walk;
    REQUIRE(pfo_tree_walk_open(&walk, &made->capture, NULL) == PFO_OK);
    pfo_tree_walk_begin(&walk, 0);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const pfo_tree_step step = pfo_tree_walk_next(&walk);
        CHECK(step == (i < 3 ? PFO_TREE_ENTER : PFO_TREE_LEAVE));
        CHECK(walk.node == (i < 3 ? expected[i] : -expected[i]));
    }
    CHECK(pfo_tree_walk_next(&walk) == PFO_TREE_END);
    CHECK(pfo_tree_walk_next(&walk) == PFO_TREE_END);
    pfo_tree_walk_begin(&walk, MADE_THREADS); /* nodes without a thread: none */
    CHECK(pfo_tree_walk_next(&walk) == PFO_TREE_END);
    pfo_tree_walk_close(&walk);
    made_capture_free(made);
}

static void
test_random_trees(void)
{
    enum { NODES = 3000, THREADS = 5 };
    static pfo_capture_node nodes[NODES];
    unsigned long long state = 4711;
    for (int round = 0; round < 20; round++) {
        for (int32_t i = 0; i < NODES; i++) {
            const int chain = round == 0; /* as deep as it has nodes */
            const int32_t parent = i == 0  ? -1
                                   : chain ? i - 1
                                           : (int32_t)(check_random(&state) % (unsigned)(i + 1)) - 1;
            nodes[i] = (pfo_capture_node){ .parent = parent };
            nodes[i].thread = parent >= 0 ? nodes[parent].thread : (int32_t)(check_random(&state) % (THREADS + 1)) - 1;
        }
        const pfo_capture capture = { .nodes = nodes, .node_count = NODES, .thread_count = THREADS };
        static int seen[NODES];
        memset(seen, 0, sizeof seen);
        pfo_tree_walk walk;
        REQUIRE(pfo_tree_walk_open(&walk, &capture, NULL) == PFO_OK);
        for (int32_t slot = 0; slot <= THREADS; slot++) {
            pfo_tree_walk_begin(&walk, slot);
            for (pfo_tree_step step = pfo_tree_walk_next(&walk); step != PFO_TREE_END;
                 step = pfo_tree_walk_next(&walk)) {
                const int32_t node = walk.node;
                CHECK(nodes[node].thread == (slot == THREADS ? -1 : slot));
                seen[node]++;
                if (step == PFO_TREE_ENTER) {
                    CHECK(seen[node] == 1 && walk.path[walk.depth - 1] == node);
                    CHECK(nodes[node].parent == (walk.depth > 1 ? walk.path[walk.depth - 2] : -1));
                }
            }
            CHECK(walk.depth == 0);
        }
        for (int32_t i = 0; i < NODES; i++) {
            CHECK(seen[i] == 2);
        }
        pfo_tree_walk_close(&walk);
    }
}

static void
test_no_memory(void)
{
    made_capture *made = made_capture_new();
    pfo_tree_walk walk;
    int failures = 0;
    for (long n = 1;; n++) {
        pfo_alloc_fail_at(n);
        const pfo_status status = pfo_tree_walk_open(&walk, &made->capture, NULL);
        pfo_alloc_fail_at(0);
        if (status == PFO_OK) {
            break;
        }
        CHECK(status == PFO_NO_MEMORY);
        failures++;
    }
    CHECK(failures == 4);
    pfo_tree_walk_close(&walk);
    made_capture_free(made);
}

int
main(void)
{
    RUN(test_the_order);
    RUN(test_random_trees);
    RUN(test_no_memory);
    return FINISH();
}
