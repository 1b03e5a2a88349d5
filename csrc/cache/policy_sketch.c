/* policy_sketch.c: see policy_sketch.h. */
#include "cache/policy_sketch.h"

#include "base/alloc.h"

#include <string.h>

enum { PER_WORD = 16, MAX_WIDTH = 1 << 30 };

void
pfo_sketch_init(pfo_sketch *sketch)
{
    *sketch = (pfo_sketch){ .words = NULL };
}

void
pfo_sketch_free(pfo_sketch *sketch)
{
    pfo_free(sketch->words);
    pfo_sketch_init(sketch);
}

static size_t
words_of(const pfo_sketch *sketch)
{
    return (size_t)PFO_SKETCH_ROWS * sketch->width / PER_WORD;
}

void
pfo_sketch_clear(pfo_sketch *sketch)
{
    if (sketch->width > 0) {
        memset(sketch->words, 0, words_of(sketch) * sizeof *sketch->words);
    }
    sketch->additions = 0;
}

pfo_status
pfo_sketch_reserve(pfo_sketch *sketch, uint32_t width, pfo_error *err)
{
    if (width <= sketch->width || sketch->width == MAX_WIDTH) {
        return PFO_OK;
    }
    uint32_t wider = sketch->width == 0 ? PFO_SKETCH_FIRST_WIDTH : sketch->width;
    while (wider < width && wider < MAX_WIDTH) {
        wider *= 2;
    }
    const size_t row = wider / PER_WORD;
    uint64_t *words = pfo_alloc_array(PFO_SKETCH_ROWS * row, sizeof *words);
    if (words == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "no memory for a frequency sketch of %lu columns", (unsigned long)wider);
    }
    const size_t old_row = sketch->width / PER_WORD;
    for (size_t i = 0; old_row > 0 && i < PFO_SKETCH_ROWS * row; i += old_row) {
        memcpy(&words[i], &sketch->words[i / row * old_row], old_row * sizeof *words);
    }
    pfo_free(sketch->words);
    sketch->words = words;
    sketch->width = wider;
    return PFO_OK;
}

static void
halve(pfo_sketch *sketch)
{
    const size_t words = words_of(sketch);
    for (size_t i = 0; i < words; i++) {
        sketch->words[i] = (sketch->words[i] >> 1) & UINT64_C(0x7777777777777777);
    }
    sketch->additions /= 2;
}

/* Word and shift of a hash's counter in a row. */
static uint64_t *
counter_of(const pfo_sketch *sketch, uint64_t mixed, uint32_t row, uint32_t *shift)
{
    const uint32_t column = ((uint32_t)mixed + row * ((uint32_t)(mixed >> 32) | 1)) & (sketch->width - 1);
    *shift = column % PER_WORD * 4;
    return &sketch->words[(size_t)row * (sketch->width / PER_WORD) + column / PER_WORD];
}

void
pfo_sketch_add(pfo_sketch *sketch, uint64_t hash, uint64_t period)
{
    const uint64_t mixed = pfo_policy_mix(hash);
    for (uint32_t row = 0; row < PFO_SKETCH_ROWS; row++) {
        uint32_t shift;
        uint64_t *word = counter_of(sketch, mixed, row, &shift);
        if ((*word >> shift & PFO_SKETCH_MAX) < PFO_SKETCH_MAX) {
            *word += UINT64_C(1) << shift;
        }
    }
    if (++sketch->additions >= period) {
        halve(sketch);
    }
}

uint32_t
pfo_sketch_estimate(const pfo_sketch *sketch, uint64_t hash)
{
    const uint64_t mixed = pfo_policy_mix(hash);
    uint32_t least = PFO_SKETCH_MAX;
    for (uint32_t row = 0; row < PFO_SKETCH_ROWS; row++) {
        uint32_t shift;
        const uint64_t word = *counter_of(sketch, mixed, row, &shift);
        const uint32_t count = (uint32_t)(word >> shift) & PFO_SKETCH_MAX;
        least = count < least ? count : least;
    }
    return least;
}

size_t
pfo_sketch_memory(const pfo_sketch *sketch)
{
    return words_of(sketch) * sizeof *sketch->words;
}
