/* test_scale.c: check, multiply and clamp of gradients: every variant against a loop written out here, for every size around the
 * vector widths, with inf and NaN at the first, middle and last place and beside the array; then whole plans on 1 to 8 threads, also
 * of 16-bit gradients. */
#include "kernels/scale.h"

#include "check.h"

#include "base/alloc.h"
#include "kernels/convert.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { LARGEST = PFO_CHUNK_ELEMENTS + 3, GUARD = 16, OFFSETS = 4 };

static float memory[GUARD + OFFSETS + LARGEST + GUARD];
static float expected[LARGEST];

static const int64_t sizes[] = { 0,  1,  2,  3,  4,  5,   7,   8,   9,   15,   16,   17,   31,    32,    33,   47,
                                 48, 49, 63, 64, 65, 127, 128, 129, 255, 1023, 1024, 1025, 65535, 65536, 65537 };
enum { SIZES = sizeof sizes / sizeof sizes[0] };
static const float bad[] = { INFINITY, -INFINITY, NAN };

/* Guards hold NaN: a kernel that reads past an end sees it, one that writes there is caught by guards_stand(). */
static float *
fill(int64_t count, int64_t offset)
{
    unsigned long long seed = 11ULL + (unsigned long long)(count * OFFSETS + offset);
    memset(memory, 0xff, sizeof memory);
    float *first = memory + GUARD + offset;
    for (int64_t i = 0; i < count; i++) {
        first[i] = 4.0f * ((float)(check_random(&seed) >> 40) / (float)(1 << 23) - 1.0f);
    }
    return first;
}

static int
guards_stand(const float *first, int64_t count)
{
    for (const float *p = memory; p < memory + sizeof memory / sizeof *memory; p++) {
        uint32_t bits;
        memcpy(&bits, p, sizeof bits);
        if ((p < first || p >= first + count) && bits != 0xffffffffu) {
            return 0;
        }
    }
    return 1;
}

static int
same_bits(const float *a, const float *b, int64_t count)
{
    return memcmp(a, b, (size_t)count * sizeof *a) == 0;
}

#define FOR_EACH_VARIANT(kernels)                                                                                      \
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++)                                                          \
        for (const pfo_scale_kernels *kernels = pfo_scale_kernels_for((pfo_cpu_level)level); kernels != NULL;          \
             kernels = NULL)

static void
multiplies_exactly_its_elements(void)
{
    const float factors[] = { 0.37f, 0x1p-16f, 0.0f, -2.0f, 0x1p-140f };
    FOR_EACH_VARIANT(kernels)
    {
        for (int s = 0; s < SIZES; s++) {
            const int64_t count = sizes[s];
            const float factor = factors[s % 5];
            float *data = fill(count, s % OFFSETS);
            for (int64_t i = 0; i < count; i++) {
                expected[i] = data[i] * factor;
            }
            CHECK(kernels->scale(data, count, factor) == 0);
            CHECK(same_bits(data, expected, count));
            CHECK(guards_stand(data, count));
        }
    }
}

static void
sees_inf_and_nan_wherever_they_are(void)
{
    FOR_EACH_VARIANT(kernels)
    {
        for (int s = 0; s < SIZES; s++) {
            const int64_t count = sizes[s];
            for (int k = 0; k < 9; k++) {
                float *data = fill(count, k % OFFSETS);
                CHECK(kernels->check(data, count) == 0);
                if (count == 0) {
                    continue;
                }
                const int64_t places[] = { 0, count / 2, count - 1 };
                const int64_t place = places[k % 3];
                data[place] = bad[k / 3];
                CHECK(kernels->check(data, count) == 1);
                memcpy(expected, data, (size_t)count * sizeof *data);
                CHECK(kernels->scale(data, count, 0.5f) == 1);
                CHECK(!isfinite(data[place]) && isnan(data[place]) == isnan(bad[k / 3]));
                CHECK(count == 1 || data[place == 0] == expected[place == 0] * 0.5f);
                CHECK(guards_stand(data, count));
            }
        }
    }
}

static void
large_finite_values_raise_no_alarm(void)
{
    FOR_EACH_VARIANT(kernels)
    {
        float *data = fill(1000, 1);
        for (int i = 0; i < 1000; i++) {
            data[i] = i % 2 == 0 ? FLT_MAX : -FLT_MAX;
        }
        CHECK(kernels->check(data, 1000) == 0);
        CHECK(kernels->scale(data, 1000, 0x1p-16f) == 0);
        CHECK(data[0] == FLT_MAX * 0x1p-16f && data[999] == -FLT_MAX * 0x1p-16f);
        CHECK(kernels->scale(data, 1000, 0x1p+20f) == 0); /* it was finite before */
        CHECK(kernels->check(data, 1000) == 1);
    }
}

static void
clamps_as_torch_does(void)
{
    const float limits[][2] = { { -1.0f, 1.0f }, { 0.0f, 0.0f }, { 1.0f, -1.0f }, { -3.9f, 3.9f }, { -5.0f, 5.0f } };
    FOR_EACH_VARIANT(kernels)
    {
        for (int s = 0; s < SIZES; s++) {
            for (int l = 0; l < 5; l++) {
                const int64_t count = sizes[s];
                const float low = limits[l][0], high = limits[l][1];
                float *data = fill(count, s % OFFSETS);
                int changes = 0;
                for (int64_t i = 0; i < count; i++) {
                    const float raised = data[i] > low ? data[i] : low;
                    expected[i] = raised < high ? raised : high;
                    changes |= expected[i] != data[i];
                }
                CHECK(kernels->clamp(data, count, low, high) == changes);
                CHECK(same_bits(data, expected, count));
                CHECK(guards_stand(data, count));
            }
        }
    }
}

static void
a_clamp_leaves_nan_and_brings_inf_back(void)
{
    FOR_EACH_VARIANT(kernels)
    {
        for (int s = 1; s < SIZES; s++) {
            float *data = fill(sizes[s], 0);
            data[sizes[s] - 1] = NAN;
            (void)kernels->clamp(data, sizes[s], -1.0f, 1.0f);
            CHECK(isnan(data[sizes[s] - 1]));
            data[0] = -INFINITY;
            CHECK(kernels->clamp(data, sizes[s], -1.0f, 1.0f) == 1);
            CHECK(data[0] == -1.0f);
        }
    }
}

/* ---- Plans ----------------------------------------------------------------------------------- */

enum { TENSORS = 6 };
static const int64_t counts[TENSORS] = { 3, 0, 65537, 200000, 1, 131072 };
static float tensors[TENSORS][200000];

static pfo_plan *
make_plan(void)
{
    pfo_plan_entry entries[TENSORS];
    memset(entries, 0, sizeof entries);
    unsigned long long seed = 5;
    for (int t = 0; t < TENSORS; t++) {
        for (int64_t i = 0; i < counts[t]; i++) {
            tensors[t][i] = 4.0f * ((float)(check_random(&seed) >> 40) / (float)(1 << 23) - 1.0f);
        }
        entries[t].data[PFO_ROLE_GRAD] = tensors[t];
        entries[t].has_grad = 1;
        entries[t].count = counts[t];
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_NORM, entries, TENSORS, 1, &plan, &err) == PFO_OK);
    REQUIRE(pfo_gradients_check_apart(plan, &err) == PFO_OK);
    return plan;
}

static void
plans_are_the_same_on_any_number_of_threads(void)
{
    static float before[TENSORS][200000];
    FOR_EACH_VARIANT(kernels)
    {
        for (int threads = 1; threads <= 8; threads++) {
            pfo_plan *plan = make_plan();
            memcpy(before, tensors, sizeof before);
            CHECK(pfo_gradients_nonfinite(plan, kernels, threads) == 0);
            CHECK(pfo_gradients_scale(plan, kernels, 1.0f, threads) == 0);
            CHECK(pfo_gradients_clamp(plan, kernels, -5.0f, 5.0f, threads) == 0);
            CHECK(memcmp(before, tensors, sizeof before) == 0);
            CHECK(pfo_gradients_scale(plan, kernels, 0.25f, threads) == 0);
            CHECK(pfo_gradients_clamp(plan, kernels, -0.5f, 0.5f, threads) == 1);
            for (int t = 0; t < TENSORS; t++) {
                for (int64_t i = 0; i < counts[t]; i++) {
                    const float scaled = before[t][i] * 0.25f;
                    REQUIRE(tensors[t][i] == (scaled < -0.5f ? -0.5f : scaled > 0.5f ? 0.5f : scaled));
                }
            }
            pfo_plan_destroy(plan);
        }
    }
}

static uint16_t halves[TENSORS][200000];

/* The same plan stored in 16 bits; what it holds is left in tensors[], as float32. */
static pfo_plan *
make_plan_of_halves(pfo_dtype dtype)
{
    static const pfo_rounding nearest = { .stochastic = 0 };
    const pfo_convert_table *converters = pfo_converters_scalar();
    pfo_plan *plan = make_plan();
    for (int t = 0; t < TENSORS; t++) {
        converters->store[dtype](tensors[t], halves[t], NULL, counts[t], &nearest, 0);
        converters->load[dtype](halves[t], NULL, tensors[t], counts[t]);
        plan->entries[t].data[PFO_ROLE_GRAD] = halves[t];
        plan->entries[t].dtype[PFO_ROLE_GRAD] = dtype;
    }
    return plan;
}

static void
halves_are_rounded_once(void)
{
    static uint16_t wanted[200000];
    static const pfo_rounding nearest = { .stochastic = 0 };
    const pfo_convert_table *converters = pfo_converters_scalar();
    const pfo_dtype dtypes[] = { PFO_DTYPE_BFLOAT16, PFO_DTYPE_FLOAT16 };
    FOR_EACH_VARIANT(kernels)
    {
        for (int k = 0; k < 6; k++) {
            const pfo_dtype dtype = dtypes[k % 2];
            pfo_plan *plan = make_plan_of_halves(dtype);
            const int threads = 1 + k;
            CHECK(pfo_gradients_nonfinite(plan, kernels, threads) == 0);
            CHECK(pfo_gradients_clamp(plan, kernels, -5.0f, 5.0f, threads) == 0);
            CHECK(pfo_gradients_scale(plan, kernels, 0.3f, threads) == 0);
            for (int t = 0; t < TENSORS; t++) {
                for (int64_t i = 0; i < counts[t]; i++) {
                    tensors[t][i] = tensors[t][i] * 0.3f;
                }
                converters->store[dtype](tensors[t], wanted, NULL, counts[t], &nearest, 0);
                CHECK(memcmp(halves[t], wanted, (size_t)counts[t] * sizeof *wanted) == 0);
                converters->load[dtype](wanted, NULL, tensors[t], counts[t]);
            }
            CHECK(pfo_gradients_clamp(plan, kernels, -0.5f, 0.25f, threads) == 1);
            for (int t = 0; t < TENSORS; t++) {
                for (int64_t i = 0; i < counts[t]; i++) {
                    const float raised = tensors[t][i] < -0.5f ? -0.5f : tensors[t][i];
                    tensors[t][i] = raised > 0.25f ? 0.25f : raised;
                }
                converters->store[dtype](tensors[t], wanted, NULL, counts[t], &nearest, 0);
                CHECK(memcmp(halves[t], wanted, (size_t)counts[t] * sizeof *wanted) == 0);
            }
            halves[3][199999] = dtype == PFO_DTYPE_BFLOAT16 ? 0x7f80u : 0x7c00u; /* inf */
            CHECK(pfo_gradients_nonfinite(plan, kernels, threads) == 1);
            CHECK(pfo_gradients_scale(plan, kernels, 2.0f, threads) == 1);
            pfo_plan_destroy(plan);
        }
    }
}

static void
one_bad_element_anywhere_in_a_plan_is_seen(void)
{
    pfo_plan *plan = make_plan();
    FOR_EACH_VARIANT(kernels)
    {
        for (int t = 0; t < TENSORS; t++) {
            for (int k = 0; k < 3 && counts[t] > 0; k++) {
                const int64_t places[] = { 0, counts[t] / 2, counts[t] - 1 };
                const float kept = tensors[t][places[k]];
                tensors[t][places[k]] = bad[k];
                CHECK(pfo_gradients_nonfinite(plan, kernels, 2) == 1);
                CHECK(pfo_gradients_scale(plan, kernels, 1.0f, 2) == 1);
                tensors[t][places[k]] = kept;
                CHECK(pfo_gradients_nonfinite(plan, kernels, 2) == 0);
            }
        }
    }
    plan->entries[3].has_grad = 0; /* a tensor without gradient takes no part */
    tensors[3][70000] = NAN;
    CHECK(pfo_gradients_nonfinite(plan, pfo_scale_kernels_scalar(), 2) == 0);
    CHECK(pfo_gradients_scale(plan, pfo_scale_kernels_scalar(), 2.0f, 2) == 0);
    pfo_plan_destroy(plan);
}

static void
shared_memory_is_refused_by_name(void)
{
    pfo_plan_entry entries[3];
    memset(entries, 0, sizeof entries);
    float *const starts[] = { tensors[0] + 10, tensors[0], tensors[0] + 5 };
    for (int t = 0; t < 3; t++) {
        entries[t] = (pfo_plan_entry){ .data[PFO_ROLE_GRAD] = starts[t], .has_grad = 1, .count = 5 };
    }
    pfo_error err = PFO_ERROR_INIT;
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_NORM, entries, 3, 1, &plan, &err) == PFO_OK);
    CHECK(pfo_gradients_check_apart(plan, &err) == PFO_OK);
    plan->entries[2].count = 6;
    CHECK(pfo_gradients_check_apart(plan, &err) == PFO_BAD_ARGUMENT);
    CHECK(strstr(err.text, "grads[0] and grads[2] share memory") != NULL);
    plan->entries[2].has_grad = 0;
    CHECK(pfo_gradients_check_apart(plan, &err) == PFO_OK);
    pfo_alloc_fail_at(1);
    pfo_error other = PFO_ERROR_INIT;
    CHECK(pfo_gradients_check_apart(plan, &other) == PFO_NO_MEMORY);
    pfo_plan_destroy(plan);
}

static void
there_is_a_table_for_each_level_of_this_machine(void)
{
    for (int level = 0; level < PFO_CPU_LEVEL_COUNT; level++) {
        const pfo_scale_kernels *kernels = pfo_scale_kernels_for((pfo_cpu_level)level);
        CHECK((kernels != NULL) == pfo_cpu_supports((pfo_cpu_level)level));
    }
    CHECK(pfo_scale_kernels_for(PFO_CPU_SCALAR)->level == PFO_CPU_SCALAR);
}

int
main(void)
{
    RUN(there_is_a_table_for_each_level_of_this_machine);
    RUN(multiplies_exactly_its_elements);
    RUN(sees_inf_and_nan_wherever_they_are);
    RUN(large_finite_values_raise_no_alarm);
    RUN(clamps_as_torch_does);
    RUN(a_clamp_leaves_nan_and_brings_inf_back);
    RUN(plans_are_the_same_on_any_number_of_threads);
    RUN(halves_are_rounded_once);
    RUN(one_bad_element_anywhere_in_a_plan_is_seen);
    RUN(shared_memory_is_refused_by_name);
    return FINISH();
}
