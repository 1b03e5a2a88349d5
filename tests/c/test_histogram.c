/* test_histogram.c: buckets, exact figures, quantiles against a sort, merging, memory, and every failing allocation. */
#include "check.h"

#include "base/alloc.h"
#include "profiler/histogram.h"

#include <math.h>
#include <string.h>

enum { VALUES = 20000 };

__extension__ typedef unsigned __int128 wide;

static int
compare(const void *a, const void *b)
{
    const int64_t left = *(const int64_t *)a;
    const int64_t right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

static double
uniform(unsigned long long *state)
{
    return (double)(check_random(state) >> 11) / 9007199254740992.0;
}

/* Distributions: constant, uniform, exponential, two far humps, powers over 50 octaves, small integers, log-normal. */
enum { DISTRIBUTIONS = 7 };

static int64_t
draw(int distribution, unsigned long long *state)
{
    const double u = uniform(state);
    switch (distribution) {
    case 0:
        return 123457;
    case 1:
        return (int64_t)(u * 1e6);
    case 2:
        return (int64_t)(-log(1.0 - u) * 40000.0);
    case 3:
        return u < 0.9 ? 100 + (int64_t)(uniform(state) * 30.0) : 70000000 + (int64_t)(uniform(state) * 1e6);
    case 4:
        return (int64_t)exp2(u * 50.0);
    case 5:
        return (int64_t)(u * 90.0);
    default: {
        const double normal = sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * uniform(state));
        return (int64_t)exp(9.0 + 1.5 * normal);
    }
    }
}

static void
test_buckets_cover_all_values_in_order(void)
{
    CHECK(pfo_histogram_bucket_of(0) == 0);
    CHECK(pfo_histogram_bucket_of(-5) == 0);
    CHECK(pfo_histogram_bucket_of(INT64_MAX) == PFO_HISTOGRAM_BUCKETS - 1);
    for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
        const int64_t low = pfo_histogram_bucket_low(bucket);
        const int64_t next = bucket + 1 < PFO_HISTOGRAM_BUCKETS ? pfo_histogram_bucket_low(bucket + 1) : INT64_MAX;
        CHECK(pfo_histogram_bucket_of(low) == bucket);
        CHECK(bucket == 0 || pfo_histogram_bucket_of(low - 1) == bucket - 1);
        CHECK(next > low);
        CHECK(low < 64 ? next - low == 1 : (double)(next - low) <= (double)low / 64.0);
    }
}

static void
test_quantiles_against_a_sort(void)
{
    static const double fractions[] = { 0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0 };
    enum { FRACTIONS = sizeof fractions / sizeof fractions[0] };
    int64_t *values = malloc(VALUES * sizeof *values);
    REQUIRE(values != NULL);
    for (int distribution = 0; distribution < DISTRIBUTIONS; distribution++) {
        for (int count = 1; count <= VALUES; count = count < 10 ? count + 1 : count * 12) {
            unsigned long long state = 88172645463325252ULL + (unsigned long long)(distribution * 1000 + count);
            pfo_histogram *histogram = pfo_histogram_create();
            REQUIRE(histogram != NULL);
            wide squares = 0;
            uint64_t sum = 0;
            for (int i = 0; i < count; i++) {
                values[i] = draw(distribution, &state);
                REQUIRE(pfo_histogram_record(histogram, values[i]) == PFO_OK);
                sum += (uint64_t)values[i];
                squares += (wide)values[i] * (wide)values[i];
            }
            qsort(values, (size_t)count, sizeof *values, compare);
            CHECK(pfo_histogram_count(histogram) == (uint64_t)count);
            CHECK(pfo_histogram_sum(histogram) == sum);
            CHECK(pfo_histogram_sum_of_squares(histogram) == (double)squares);
            CHECK(pfo_histogram_min(histogram) == values[0]);
            CHECK(pfo_histogram_max(histogram) == values[count - 1]);
            double ticks[FRACTIONS];
            pfo_histogram_quantiles(histogram, fractions, FRACTIONS, ticks);
            for (int i = 0; i < FRACTIONS; i++) {
                const int rank = (int)ceil(fractions[i] * count);
                const double exact = (double)values[rank < 1 ? 0 : rank - 1];
                CHECK(fabs(ticks[i] - exact) <= exact * 0.01);
                CHECK(i == 0 || ticks[i] >= ticks[i - 1]);
            }
            CHECK(ticks[0] == (double)values[0]);
            CHECK(ticks[FRACTIONS - 1] == (double)values[count - 1]);
            pfo_histogram_destroy(histogram);
        }
    }
    free(values);
}

static void
test_the_sum_of_squares_passes_64_bits(void)
{
    pfo_histogram *histogram = pfo_histogram_create();
    REQUIRE(histogram != NULL);
    for (int i = 0; i < 1000; i++) {
        REQUIRE(pfo_histogram_record(histogram, (int64_t)1 << 40) == PFO_OK);
        REQUIRE(pfo_histogram_record(histogram, 3) == PFO_OK);
    }
    CHECK(pfo_histogram_sum_of_squares(histogram) == 1000.0 * exp2(80.0) + 9000.0);
    CHECK(pfo_histogram_sum(histogram) == 1000 * (((uint64_t)1 << 40) + 3));
    pfo_histogram_destroy(histogram);
}

static void
check_same(const pfo_histogram *a, const pfo_histogram *b)
{
    CHECK(pfo_histogram_count(a) == pfo_histogram_count(b));
    CHECK(pfo_histogram_sum(a) == pfo_histogram_sum(b));
    CHECK(pfo_histogram_sum_of_squares(a) == pfo_histogram_sum_of_squares(b));
    CHECK(pfo_histogram_min(a) == pfo_histogram_min(b));
    CHECK(pfo_histogram_max(a) == pfo_histogram_max(b));
    for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
        if (pfo_histogram_bucket_count(a, bucket) != pfo_histogram_bucket_count(b, bucket)) {
            CHECK(!"equal buckets");
        }
    }
}

static void
test_merging_equals_recording_both(void)
{
    pfo_histogram *parts[DISTRIBUTIONS];
    pfo_histogram *combined = pfo_histogram_create();
    pfo_histogram *merged = pfo_histogram_create();
    pfo_histogram *empty = pfo_histogram_create();
    REQUIRE(combined != NULL && merged != NULL && empty != NULL);
    unsigned long long state = 42;
    for (int distribution = 0; distribution < DISTRIBUTIONS; distribution++) {
        parts[distribution] = pfo_histogram_create();
        REQUIRE(parts[distribution] != NULL);
        for (int i = 0; i < 3000; i++) {
            const int64_t value = draw(distribution, &state);
            REQUIRE(pfo_histogram_record(parts[distribution], value) == PFO_OK);
            REQUIRE(pfo_histogram_record(combined, value) == PFO_OK);
        }
    }
    for (int i = DISTRIBUTIONS - 1; i >= 0; i--) {
        CHECK(pfo_histogram_add(merged, parts[i]) == PFO_OK);
        pfo_histogram_destroy(parts[i]);
    }
    CHECK(pfo_histogram_add(merged, empty) == PFO_OK);
    check_same(merged, combined);
    pfo_histogram_clear(merged);
    check_same(merged, empty);
    CHECK(pfo_histogram_add(merged, combined) == PFO_OK);
    check_same(merged, combined);
    pfo_histogram_destroy(combined);
    pfo_histogram_destroy(merged);
    pfo_histogram_destroy(empty);
}

static void
test_empty_and_negative(void)
{
    pfo_histogram *histogram = pfo_histogram_create();
    REQUIRE(histogram != NULL);
    const double fractions[] = { 0.5, 1.0 };
    double ticks[] = { 7.0, 7.0 };
    pfo_histogram_quantiles(histogram, fractions, 2, ticks);
    CHECK(ticks[0] == 0.0 && ticks[1] == 0.0);
    CHECK(pfo_histogram_min(histogram) == 0 && pfo_histogram_max(histogram) == 0);
    CHECK(pfo_histogram_record(histogram, -100) == PFO_OK);
    CHECK(pfo_histogram_count(histogram) == 1 && pfo_histogram_sum(histogram) == 0);
    CHECK(pfo_histogram_record(histogram, INT64_MAX) == PFO_OK);
    CHECK(pfo_histogram_max(histogram) == INT64_MAX && pfo_histogram_min(histogram) == 0);
    CHECK(pfo_histogram_bucket_count(histogram, PFO_HISTOGRAM_BUCKETS - 1) == 1);
    pfo_histogram_destroy(histogram);
    pfo_histogram_destroy(NULL);
}

static void
test_a_cold_name_is_small(void)
{
    pfo_histogram *histogram = pfo_histogram_create();
    REQUIRE(histogram != NULL);
    for (int i = 0; i < 1000; i++) {
        REQUIRE(pfo_histogram_record(histogram, 100000 + i) == PFO_OK);
    }
    CHECK(pfo_histogram_bytes(histogram) < 1024);
    /* a name whose times spread over a factor of 256, as a busy one does */
    for (int64_t value = 1000; value < 256000; value += 100) {
        REQUIRE(pfo_histogram_record(histogram, value) == PFO_OK);
    }
    CHECK(pfo_histogram_bytes(histogram) < 12 * 1024);
    pfo_histogram_destroy(histogram);
}

static void
test_storing_and_scaling(void)
{
    pfo_histogram *from = pfo_histogram_create();
    pfo_histogram *stored = pfo_histogram_create();
    pfo_histogram *scaled = pfo_histogram_create();
    REQUIRE(from != NULL && stored != NULL && scaled != NULL);
    for (int64_t value = 1; value < INT64_MAX / 9; value *= 3) {
        REQUIRE(pfo_histogram_record(from, value) == PFO_OK);
    }
    const pfo_histogram_facts facts = pfo_histogram_get_facts(from);
    pfo_histogram_restore(stored, &facts);
    for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
        const uint64_t count = pfo_histogram_bucket_count(from, bucket);
        REQUIRE(count == 0 || pfo_histogram_set_bucket(stored, bucket, count) == PFO_OK);
    }
    check_same(from, stored);
    REQUIRE(pfo_histogram_add_scaled(scaled, from, 0.5) == PFO_OK);
    const double most = (double)facts.largest;
    const double half = 0.5;
    CHECK(pfo_histogram_count(scaled) == facts.count);
    CHECK((double)pfo_histogram_max(scaled) > 0.499999 * most && (double)pfo_histogram_max(scaled) < 0.500001 * most);
    double medians[2];
    pfo_histogram_quantiles(from, &half, 1, &medians[0]);
    pfo_histogram_quantiles(scaled, &half, 1, &medians[1]);
    CHECK(medians[1] > 0.49 * medians[0] && medians[1] < 0.51 * medians[0]);
    pfo_histogram_clear(scaled);
    REQUIRE(pfo_histogram_add_scaled(scaled, from, 1e6) == PFO_OK); /* beyond what a histogram takes */
    CHECK(pfo_histogram_max(scaled) == INT64_MAX && pfo_histogram_count(scaled) == facts.count);
    pfo_histogram_destroy(from);
    pfo_histogram_destroy(stored);
    pfo_histogram_destroy(scaled);
}

static void
test_every_failing_allocation(void)
{
    for (long n = 1;; n++) {
        pfo_alloc_fail_at(n);
        pfo_histogram *a = pfo_histogram_create();
        pfo_histogram *b = a == NULL ? NULL : pfo_histogram_create();
        pfo_status status = b == NULL ? PFO_NO_MEMORY : PFO_OK;
        uint64_t recorded = 0;
        for (int64_t value = 1; b != NULL && value < (int64_t)1 << 50 && status == PFO_OK; value *= 100) {
            status = pfo_histogram_record(a, value);
            recorded += status == PFO_OK;
            CHECK(pfo_histogram_count(a) == recorded); /* a failed record leaves nothing behind */
        }
        if (status == PFO_OK) {
            status = pfo_histogram_add(b, a);
        }
        pfo_alloc_fail_at(0);
        if (b != NULL && status != PFO_OK) {
            pfo_histogram_clear(b);
            CHECK(pfo_histogram_add(b, a) == PFO_OK);
            check_same(a, b);
        }
        pfo_histogram_destroy(a);
        pfo_histogram_destroy(b);
        if (status == PFO_OK) {
            CHECK(n > 10);
            break;
        }
        CHECK(status == PFO_NO_MEMORY);
    }
}

int
main(void)
{
    RUN(test_buckets_cover_all_values_in_order);
    RUN(test_quantiles_against_a_sort);
    RUN(test_the_sum_of_squares_passes_64_bits);
    RUN(test_merging_equals_recording_both);
    RUN(test_empty_and_negative);
    RUN(test_a_cold_name_is_small);
    RUN(test_storing_and_scaling);
    RUN(test_every_failing_allocation);
    return FINISH();
}
