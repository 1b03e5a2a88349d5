/* histogram.c: see histogram.h for the contract.
 *
 * Layout: bucket = octave * 64 + sub; octave 0 holds the values 0..63, octave k > 0 the values [2^(k+5), 2^(k+6)). The
 * octaves are reached through groups of 8, so that an unused range of values costs nothing.
 *
 * [single writer] Counters are changed by a relaxed load and a store instead of an atomic addition: there is one
 * writer, and on common processors both compile to plain moves. Whatever the count covers is stored before it, and the
 * count is stored with release order; new groups and octaves are published by a release store once they are zeroed.
 *
 * [squares] The sum of squares needs 128 bits. Bit 0 of its upper word says "being changed", so that a reader can tell
 * a torn pair and read again; the upper word changes rarely for short ranges, so most records store the lower word
 * only.
 */
#include "profiler/histogram.h"

#include "base/alloc.h"

enum { OCTAVES_PER_GROUP = 8, GROUPS = 8, TORN_READ_TRIES = 1000 };

__extension__ typedef unsigned __int128 wide;

typedef struct octave {
    _Atomic uint64_t counts[PFO_HISTOGRAM_PER_OCTAVE];
} octave;

typedef struct octave_group {
    _Atomic(octave *) octaves[OCTAVES_PER_GROUP];
} octave_group;

struct pfo_histogram {
    _Atomic uint64_t count;
    _Atomic uint64_t sum;
    _Atomic int64_t smallest; /* INT64_MAX when empty */
    _Atomic int64_t largest;  /* 0 when empty */
    _Atomic uint64_t squares_low;
    _Atomic uint64_t squares_high; /* twice the upper word, plus the "being changed" bit */
    _Atomic(octave_group *) groups[GROUPS];
};

_Static_assert(GROUPS *OCTAVES_PER_GROUP >= PFO_HISTOGRAM_OCTAVES, "every octave has a place");

static inline uint64_t
get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

/* [single writer] */
static inline void
increase(_Atomic uint64_t *word, uint64_t by)
{
    atomic_store_explicit(word, get(word) + by, memory_order_relaxed);
}

pfo_histogram *
pfo_histogram_create(void)
{
    pfo_histogram *histogram = pfo_alloc_array(1, sizeof *histogram);
    if (histogram != NULL) {
        atomic_init(&histogram->smallest, INT64_MAX);
    }
    return histogram;
}

void
pfo_histogram_destroy(pfo_histogram *histogram)
{
    if (histogram == NULL) {
        return;
    }
    for (int g = 0; g < GROUPS; g++) {
        octave_group *group = atomic_load_explicit(&histogram->groups[g], memory_order_relaxed);
        for (int o = 0; group != NULL && o < OCTAVES_PER_GROUP; o++) {
            pfo_free(atomic_load_explicit(&group->octaves[o], memory_order_relaxed));
        }
        pfo_free(group);
    }
    pfo_free(histogram);
}

int
pfo_histogram_bucket_of(int64_t ticks)
{
    if (ticks < PFO_HISTOGRAM_PER_OCTAVE) {
        return ticks < 0 ? 0 : (int)ticks;
    }
    const int exponent = 63 - __builtin_clzll((unsigned long long)ticks);
    const int shift = exponent - PFO_HISTOGRAM_SUB_BITS;
    /* ticks >> shift is 64 + sub, hence the octave is counted from shift, not from shift + 1 */
    return shift * PFO_HISTOGRAM_PER_OCTAVE + (int)(ticks >> shift);
}

int64_t
pfo_histogram_bucket_low(int bucket)
{
    const int number = bucket / PFO_HISTOGRAM_PER_OCTAVE;
    const int64_t sub = bucket % PFO_HISTOGRAM_PER_OCTAVE;
    return number == 0 ? sub : (PFO_HISTOGRAM_PER_OCTAVE + sub) << (number - 1);
}

/* The octave with this number, NULL if no value ever fell into it. */
static inline octave *
find_octave(const pfo_histogram *histogram, int number)
{
    octave_group *group = atomic_load_explicit(&histogram->groups[number / OCTAVES_PER_GROUP], memory_order_acquire);
    return group == NULL ? NULL
                         : atomic_load_explicit(&group->octaves[number % OCTAVES_PER_GROUP], memory_order_acquire);
}

/* The same, made if it is not there; NULL when memory is out. Writer only. */
static octave *
make_octave(pfo_histogram *histogram, int number)
{
    _Atomic(octave_group *) *place = &histogram->groups[number / OCTAVES_PER_GROUP];
    octave_group *group = atomic_load_explicit(place, memory_order_relaxed);
    if (group == NULL) {
        group = pfo_alloc_array(1, sizeof *group);
        if (group == NULL) {
            return NULL;
        }
        atomic_store_explicit(place, group, memory_order_release);
    }
    octave *made = atomic_load_explicit(&group->octaves[number % OCTAVES_PER_GROUP], memory_order_relaxed);
    if (made == NULL) {
        made = pfo_alloc_array(1, sizeof *made);
        if (made != NULL) {
            atomic_store_explicit(&group->octaves[number % OCTAVES_PER_GROUP], made, memory_order_release);
        }
    }
    return made;
}

/* [squares] Every store of the lower word is a release, so that a reader who saw it also sees the upper word's mark. */
static inline void
add_squares(pfo_histogram *histogram, wide squares)
{
    const uint64_t low = get(&histogram->squares_low);
    const uint64_t new_low = low + (uint64_t)squares;
    const uint64_t carry = (uint64_t)(squares >> 64) + (new_low < low ? 1U : 0U);
    if (carry == 0) {
        atomic_store_explicit(&histogram->squares_low, new_low, memory_order_release);
        return;
    }
    const uint64_t high = get(&histogram->squares_high) & ~(uint64_t)1; /* a fork in mid-change can leave the mark */
    atomic_store_explicit(&histogram->squares_high, high | 1, memory_order_relaxed);
    atomic_store_explicit(&histogram->squares_low, new_low, memory_order_release);
    atomic_store_explicit(&histogram->squares_high, high + 2 * carry, memory_order_release);
}

static wide
read_squares(const pfo_histogram *histogram)
{
    uint64_t high = 0;
    uint64_t low = 0;
    for (int i = 0; i < TORN_READ_TRIES; i++) {
        high = atomic_load_explicit(&histogram->squares_high, memory_order_acquire);
        low = atomic_load_explicit(&histogram->squares_low, memory_order_acquire);
        if ((high & 1) == 0 && high == get(&histogram->squares_high)) {
            break;
        }
    }
    return ((wide)(high >> 1) << 64) | low;
}

static inline void
widen_range(pfo_histogram *histogram, int64_t low, int64_t high)
{
    if (low < atomic_load_explicit(&histogram->smallest, memory_order_relaxed)) {
        atomic_store_explicit(&histogram->smallest, low, memory_order_relaxed);
    }
    if (high > atomic_load_explicit(&histogram->largest, memory_order_relaxed)) {
        atomic_store_explicit(&histogram->largest, high, memory_order_relaxed);
    }
}

pfo_status
pfo_histogram_record(pfo_histogram *histogram, int64_t ticks)
{
    if (ticks < 0) {
        ticks = 0;
    }
    const int bucket = pfo_histogram_bucket_of(ticks);
    const int number = bucket / PFO_HISTOGRAM_PER_OCTAVE;
    octave *place = find_octave(histogram, number);
    if (place == NULL) {
        place = make_octave(histogram, number);
        if (place == NULL) {
            return PFO_NO_MEMORY;
        }
    }
    const uint64_t value = (uint64_t)ticks;
    increase(&place->counts[bucket % PFO_HISTOGRAM_PER_OCTAVE], 1);
    increase(&histogram->sum, value);
    add_squares(histogram, (wide)value * value);
    widen_range(histogram, ticks, ticks);
    atomic_store_explicit(&histogram->count, get(&histogram->count) + 1, memory_order_release);
    return PFO_OK;
}

pfo_status
pfo_histogram_add(pfo_histogram *into, const pfo_histogram *from)
{
    const uint64_t count = pfo_histogram_count(from); /* first: what it covers is then seen below */
    if (count == 0) {
        return PFO_OK;
    }
    increase(&into->sum, get(&from->sum));
    add_squares(into, read_squares(from));
    widen_range(into, atomic_load_explicit(&from->smallest, memory_order_relaxed),
                atomic_load_explicit(&from->largest, memory_order_relaxed));
    for (int number = 0; number < PFO_HISTOGRAM_OCTAVES; number++) {
        const octave *source = find_octave(from, number);
        if (source == NULL) {
            continue;
        }
        octave *target = make_octave(into, number);
        if (target == NULL) {
            return PFO_NO_MEMORY;
        }
        for (int sub = 0; sub < PFO_HISTOGRAM_PER_OCTAVE; sub++) {
            increase(&target->counts[sub], get(&source->counts[sub]));
        }
    }
    atomic_store_explicit(&into->count, get(&into->count) + count, memory_order_release);
    return PFO_OK;
}

static double
bucket_middle(int bucket, double smallest, double largest)
{
    const int number = bucket / PFO_HISTOGRAM_PER_OCTAVE;
    const double width = number == 0 ? 1.0 : (double)((int64_t)1 << (number - 1));
    const double middle = (double)pfo_histogram_bucket_low(bucket) + (width - 1.0) / 2.0;
    return middle < smallest ? smallest : middle > largest ? largest : middle;
}

/* A count of ticks in other ticks, no more than a histogram takes. */
static int64_t
scaled(double ticks, double factor)
{
    const double value = ticks * factor + 0.5;
    return value >= 9.2e18 ? INT64_MAX : (int64_t)value;
}

pfo_status
pfo_histogram_add_scaled(pfo_histogram *into, const pfo_histogram *from, double factor)
{
    const uint64_t count = pfo_histogram_count(from);
    if (count == 0) {
        return PFO_OK;
    }
    const double smallest = (double)pfo_histogram_min(from);
    const double largest = (double)pfo_histogram_max(from);
    for (int bucket = 0; bucket < PFO_HISTOGRAM_BUCKETS; bucket++) {
        const uint64_t values = pfo_histogram_bucket_count(from, bucket);
        if (values == 0) {
            continue;
        }
        const int target = pfo_histogram_bucket_of(scaled(bucket_middle(bucket, smallest, largest), factor));
        octave *place = make_octave(into, target / PFO_HISTOGRAM_PER_OCTAVE);
        if (place == NULL) {
            return PFO_NO_MEMORY;
        }
        increase(&place->counts[target % PFO_HISTOGRAM_PER_OCTAVE], values);
    }
    const double sum = (double)get(&from->sum) * factor;
    const double squares = pfo_histogram_sum_of_squares(from) * factor * factor;
    increase(&into->sum, sum >= 1.8e19 ? UINT64_MAX : (uint64_t)(sum + 0.5));
    add_squares(into, squares >= 1.7e38 ? ~(wide)0 >> 1 : (wide)squares);
    widen_range(into, scaled(smallest, factor), scaled(largest, factor));
    atomic_store_explicit(&into->count, get(&into->count) + count, memory_order_release);
    return PFO_OK;
}

pfo_histogram_facts
pfo_histogram_get_facts(const pfo_histogram *histogram)
{
    const wide squares = read_squares(histogram);
    const pfo_histogram_facts facts = { .count = pfo_histogram_count(histogram),
                                        .sum = pfo_histogram_sum(histogram),
                                        .squares_low = (uint64_t)squares,
                                        .squares_high = (uint64_t)(squares >> 64),
                                        .smallest = pfo_histogram_min(histogram),
                                        .largest = pfo_histogram_max(histogram) };
    return facts;
}

void
pfo_histogram_restore(pfo_histogram *histogram, const pfo_histogram_facts *facts)
{
    increase(&histogram->sum, facts->sum);
    add_squares(histogram, ((wide)(facts->squares_high & (UINT64_MAX >> 1)) << 64) | facts->squares_low);
    if (facts->count > 0) {
        widen_range(histogram, facts->smallest, facts->largest);
    }
    atomic_store_explicit(&histogram->count, facts->count, memory_order_release);
}

pfo_status
pfo_histogram_set_bucket(pfo_histogram *histogram, int bucket, uint64_t count)
{
    octave *place = make_octave(histogram, bucket / PFO_HISTOGRAM_PER_OCTAVE);
    if (place == NULL) {
        return PFO_NO_MEMORY;
    }
    atomic_store_explicit(&place->counts[bucket % PFO_HISTOGRAM_PER_OCTAVE], count, memory_order_relaxed);
    return PFO_OK;
}

void
pfo_histogram_clear(pfo_histogram *histogram)
{
    atomic_store_explicit(&histogram->count, 0, memory_order_relaxed);
    atomic_store_explicit(&histogram->sum, 0, memory_order_relaxed);
    atomic_store_explicit(&histogram->smallest, INT64_MAX, memory_order_relaxed);
    atomic_store_explicit(&histogram->largest, 0, memory_order_relaxed);
    atomic_store_explicit(&histogram->squares_low, 0, memory_order_relaxed);
    atomic_store_explicit(&histogram->squares_high, 0, memory_order_relaxed);
    for (int number = 0; number < PFO_HISTOGRAM_OCTAVES; number++) {
        octave *place = find_octave(histogram, number);
        for (int sub = 0; place != NULL && sub < PFO_HISTOGRAM_PER_OCTAVE; sub++) {
            atomic_store_explicit(&place->counts[sub], 0, memory_order_relaxed);
        }
    }
}

uint64_t
pfo_histogram_count(const pfo_histogram *histogram)
{
    return atomic_load_explicit(&histogram->count, memory_order_acquire);
}

uint64_t
pfo_histogram_sum(const pfo_histogram *histogram)
{
    return get(&histogram->sum);
}

double
pfo_histogram_sum_of_squares(const pfo_histogram *histogram)
{
    return (double)read_squares(histogram);
}

int64_t
pfo_histogram_min(const pfo_histogram *histogram)
{
    const int64_t smallest = atomic_load_explicit(&histogram->smallest, memory_order_relaxed);
    return smallest == INT64_MAX && pfo_histogram_count(histogram) == 0 ? 0 : smallest;
}

int64_t
pfo_histogram_max(const pfo_histogram *histogram)
{
    return atomic_load_explicit(&histogram->largest, memory_order_relaxed);
}

uint64_t
pfo_histogram_bucket_count(const pfo_histogram *histogram, int bucket)
{
    const octave *place = find_octave(histogram, bucket / PFO_HISTOGRAM_PER_OCTAVE);
    return place == NULL ? 0 : get(&place->counts[bucket % PFO_HISTOGRAM_PER_OCTAVE]);
}

/* Ranks refer to the buckets' own total: beside a writer it may be ahead of the count by the record being written. */
static uint64_t
buckets_total(const pfo_histogram *histogram)
{
    uint64_t total = 0;
    for (int number = 0; number < PFO_HISTOGRAM_OCTAVES; number++) {
        const octave *place = find_octave(histogram, number);
        for (int sub = 0; place != NULL && sub < PFO_HISTOGRAM_PER_OCTAVE; sub++) {
            total += get(&place->counts[sub]);
        }
    }
    return total;
}

static uint64_t
rank_of(double fraction, uint64_t total)
{
    const double exact = fraction * (double)total;
    uint64_t rank = (uint64_t)exact;
    if ((double)rank < exact) {
        rank++;
    }
    return rank < 1 ? 1 : rank > total ? total : rank;
}

void
pfo_histogram_quantiles(const pfo_histogram *histogram, const double *fractions, int how_many, double *ticks)
{
    const uint64_t total = buckets_total(histogram);
    const double smallest = (double)pfo_histogram_min(histogram);
    const double largest = (double)pfo_histogram_max(histogram);
    uint64_t passed = 0;
    int bucket = -1;
    for (int i = 0; i < how_many; i++) {
        const uint64_t rank = total == 0 ? 0 : rank_of(fractions[i], total);
        if (total == 0 || rank <= 1 || rank == total) {
            ticks[i] = total == 0 ? 0.0 : rank == total ? largest : smallest;
            continue;
        }
        while (passed < rank && bucket + 1 < PFO_HISTOGRAM_BUCKETS) {
            bucket++;
            if (bucket % PFO_HISTOGRAM_PER_OCTAVE == 0 &&
                find_octave(histogram, bucket / PFO_HISTOGRAM_PER_OCTAVE) == NULL) {
                bucket += PFO_HISTOGRAM_PER_OCTAVE - 1;
                continue;
            }
            passed += pfo_histogram_bucket_count(histogram, bucket);
        }
        ticks[i] = bucket_middle(bucket, smallest, largest);
    }
}

size_t
pfo_histogram_bytes(const pfo_histogram *histogram)
{
    size_t bytes = sizeof *histogram;
    for (int g = 0; g < GROUPS; g++) {
        const octave_group *group = atomic_load_explicit(&histogram->groups[g], memory_order_acquire);
        bytes += group == NULL ? 0 : sizeof *group;
        for (int o = 0; group != NULL && o < OCTAVES_PER_GROUP; o++) {
            bytes += atomic_load_explicit(&group->octaves[o], memory_order_acquire) == NULL ? 0 : sizeof(octave);
        }
    }
    return bytes;
}
