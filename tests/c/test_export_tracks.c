/* test_export_tracks.c: ids that are unique, and nesting decided span by span against a quadratic check of all placed before. */
#include "export_fixture.h"

#include "base/alloc.h"
#include "profiler/export_tracks.h"

static void
test_ids(void)
{
    const pfo_capture_process processes[] = { { .pid = 10 }, { .pid = 10 }, { .pid = -4 }, { .pid = 11 } };
    const pfo_capture_thread threads[] = { { 0, 10, MADE_TEXT("") },
                                           { 1, 10, MADE_TEXT("") },
                                           { -1, INT64_MAX, MADE_TEXT("") },
                                           { 2, 0, MADE_TEXT("") },
                                           { 3, (1 << 30) + 1, MADE_TEXT("") } };
    const pfo_capture capture = { .processes = processes, .process_count = 4, .threads = threads, .thread_count = 5 };
    pfo_tracks tracks;
    REQUIRE(pfo_tracks_open(&tracks, &capture, NULL) == PFO_OK);
    CHECK(tracks.pids[0] == 10 && tracks.pids[1] == (1 << 30) + 1 && tracks.pids[2] == (1 << 30) + 2 &&
          tracks.pids[3] == 11);
    CHECK(tracks.tracks[0].tid == 10);
    for (int i = 1; i <= 5; i++) {
        CHECK(tracks.tracks[i].tid == (1 << 30) + i);
    }
    CHECK(tracks.tracks[2].process == 4 && tracks.tracks[5].process == 4 && tracks.tracks[1].process == 1);
    CHECK(pfo_track_of(&tracks, -1) == &tracks.tracks[5] && pfo_track_of(&tracks, 3) == &tracks.tracks[3]);
    pfo_tracks_close(&tracks);
}

static pfo_placement
place(pfo_track *track, int64_t begin, int64_t end, uint32_t depth, int at_begin)
{
    const pfo_span span = { .begin_ns = begin, .duration_ns = end - begin, .depth = depth };
    pfo_placement placement = PFO_PLACE_APART;
    REQUIRE(pfo_track_place(track, &span, at_begin, &placement, NULL) == PFO_OK);
    return placement;
}

static void
test_small_cases(void)
{
    pfo_track track = { 0 };
    CHECK(place(&track, 1, 3, 1, 0) == PFO_PLACE_NESTED);
    CHECK(place(&track, 3, 5, 1, 0) == PFO_PLACE_NESTED); /* touches */
    CHECK(place(&track, 4, 6, 1, 0) == PFO_PLACE_APART);  /* crosses */
    CHECK(place(&track, 2, 4, 1, 0) == PFO_PLACE_APART);  /* ends before the last one */
    CHECK(place(&track, 1, 8, 0, 0) == PFO_PLACE_APART);  /* begins with one inside it */
    CHECK(place(&track, 1, 8, 0, 1) == PFO_PLACE_NESTED_AT_BEGIN);
    CHECK(place(&track, 9, 9, 1, 0) == PFO_PLACE_NESTED);  /* empty */
    CHECK(place(&track, 9, 12, 0, 0) == PFO_PLACE_NESTED); /* begins with an empty one */
    const pfo_span suspending = { .begin_ns = 20, .duration_ns = 1, .flags = PFO_SPAN_SUSPENDS };
    pfo_placement placement = PFO_PLACE_NESTED;
    CHECK(pfo_track_place(&track, &suspending, 1, &placement, NULL) == PFO_OK && placement == PFO_PLACE_APART);
    CHECK(track.height == 1);
    pfo_free(track.stack);
}

/* All ranges of a random program nest, however many and deep they are, and the stack stays as low as they are deep. */
static void
run_program(pfo_track *track, int64_t *clock, uint32_t depth, uint32_t most, unsigned long long *state)
{
    const int64_t begin = (*clock)++;
    const unsigned children = depth < most ? (unsigned)(check_random(state) % 5) : 0;
    for (unsigned i = 0; i < children; i++) {
        *clock += (int64_t)(check_random(state) % 2);
        run_program(track, clock, depth + 1, most, state);
    }
    *clock += (int64_t)(check_random(state) % 3);
    CHECK(place(track, begin, *clock, depth, 0) == PFO_PLACE_NESTED);
    CHECK(track->height <= depth + 1);
}

static void
test_programs_nest(void)
{
    unsigned long long state = 3;
    for (int round = 0; round < 30; round++) {
        pfo_track track = { 0 };
        int64_t clock = 0;
        for (int i = 0; i < 20; i++) {
            run_program(&track, &clock, 0, 8, &state);
        }
        pfo_free(track.stack);
    }
    pfo_track track = { 0 }; /* a path far deeper than the stack may be high, one sibling left of each level */
    int64_t clock = 0;
    for (uint32_t depth = 0; depth < 10000; depth++, clock += 2) {
        CHECK(place(&track, clock, clock + 1, depth, 0) == PFO_PLACE_NESTED);
    }
    CHECK(track.height <= 4096);
    CHECK(place(&track, 0, clock + 5, 0, 1) == PFO_PLACE_NESTED_AT_BEGIN);
    CHECK(track.height == 1);
    pfo_free(track.stack);
}

static void
test_what_is_placed_never_crosses(void)
{
    enum { SPANS = 300 };
    static pfo_span placed[SPANS];
    unsigned long long state = 17;
    int apart = 0;
    int nested = 0;
    for (int round = 0; round < 200; round++) {
        pfo_track track = { 0 };
        int count = 0;
        for (int i = 0; i < SPANS; i++) { /* anything at all, ends mostly in order */
            const int64_t end = i * 3 + (int64_t)(check_random(&state) % 5);
            const int64_t begin = end - (int64_t)(check_random(&state) % (round % 2 ? 8 : 200));
            const uint32_t depth = (uint32_t)(check_random(&state) % 4);
            const pfo_placement placement = place(&track, begin, end, depth, round % 3 == 0);
            if (placement == PFO_PLACE_APART) {
                apart++;
                continue;
            }
            nested++;
            for (int j = 0; j < count; j++) {
                const int64_t other_begin = placed[j].begin_ns;
                const int64_t other_end = other_begin + placed[j].duration_ns;
                const int inside = begin <= other_begin && other_end <= end;
                CHECK(inside || other_end <= begin);
                if (round % 3 != 0) { /* by time alone: who begins first is around the other */
                    CHECK(other_begin != begin || other_end == other_begin);
                }
            }
            placed[count++] = (pfo_span){ .begin_ns = begin, .duration_ns = end - begin };
        }
        pfo_free(track.stack);
    }
    CHECK(apart > 1000 && nested > 1000);
}

static void
test_no_memory(void)
{
    made_capture *made = made_capture_new();
    pfo_tracks tracks;
    int failures = 0;
    for (long n = 1;; n++) {
        pfo_alloc_fail_at(n);
        const pfo_status status = pfo_tracks_open(&tracks, &made->capture, NULL);
        pfo_alloc_fail_at(0);
        if (status == PFO_OK) {
            break;
        }
        CHECK(status == PFO_NO_MEMORY);
        failures++;
    }
    CHECK(failures == 4);
    const pfo_span span = { .begin_ns = 1, .duration_ns = 1 };
    pfo_placement placement = PFO_PLACE_NESTED;
    pfo_alloc_fail_at(1);
    CHECK(pfo_track_place(&tracks.tracks[0], &span, 0, &placement, NULL) == PFO_NO_MEMORY);
    pfo_alloc_fail_at(0);
    pfo_tracks_close(&tracks);
    made_capture_free(made);
}

int
main(void)
{
    RUN(test_ids);
    RUN(test_small_cases);
    RUN(test_programs_nest);
    RUN(test_what_is_placed_never_crosses);
    RUN(test_no_memory);
    return FINISH();
}
