/* test_series.c: windows of a series against a plain model. */
#include "monitor/series.h"

#include "base/alloc.h"
#include "check.h"

#include <math.h>
#include <stdlib.h>

enum { MOST = 200 };

static int
compare(const void *left, const void *right)
{
    const double a = *(const double *)left;
    const double b = *(const double *)right;
    return (a > b) - (a < b);
}

static void
windows_agree_with_a_model(void)
{
    double t[MOST], v[MOST], x[MOST], y[MOST], floor_x[MOST], floor_y[MOST], window[MOST];
    unsigned long long state = 3;
    for (int turn = 0; turn < 200; turn++) {
        const int count = 1 + (int)(check_random(&state) % MOST);
        const int windows = 1 + (int)(check_random(&state) % (unsigned)count);
        for (int i = 0; i < count; i++) {
            t[i] = 10.0 + i;
            v[i] = (double)(check_random(&state) % 1000);
        }
        pfo_series_minima(t, v, count, windows, x, y);
        REQUIRE(pfo_series_floors(t, v, count, windows, floor_x, floor_y, NULL) == PFO_OK);
        for (int w = 0; w < windows; w++) {
            const int begin = w * count / windows;
            const int end = (w + 1) * count / windows;
            for (int i = begin; i < end; i++) {
                window[i - begin] = v[i];
            }
            qsort(window, (size_t)(end - begin), sizeof *window, compare);
            double mean = 0.0;
            const int half = (end - begin + 1) / 2;
            for (int i = 0; i < half; i++) {
                mean += window[i] / half;
            }
            CHECK(fabs(y[w] - window[0]) < 1e-9 && x[w] >= begin && x[w] < end);
            CHECK(fabs(floor_y[w] - mean) < 1e-9);
            CHECK(fabs(floor_x[w] - 0.5 * (begin + end - 1)) < 1e-9);
        }
    }
}

static void
bad_series_are_named(void)
{
    const double up[3] = { 1, 2, 3 };
    const double down[3] = { 1, 3, 2 };
    const double holes[3] = { 1, NAN, 3 };
    pfo_error err = PFO_ERROR_INIT;
    CHECK(pfo_series_check(up, up, 3, 0.0, &err) == PFO_OK);
    CHECK(pfo_series_check(up, up, -1, 0.0, &err) == PFO_BAD_ARGUMENT);
    CHECK(pfo_series_check(down, up, 3, 0.0, &err) == PFO_BAD_ARGUMENT);
    CHECK(pfo_series_check(up, holes, 3, 0.0, &err) == PFO_BAD_ARGUMENT);
    CHECK(pfo_series_check(up, up, 3, NAN, &err) == PFO_BAD_ARGUMENT);
    double x, y;
    pfo_alloc_fail_at(1);
    CHECK(pfo_series_floors(up, up, 3, 1, &x, &y, NULL) == PFO_NO_MEMORY);
    pfo_alloc_fail_at(0);
}

int
main(void)
{
    RUN(windows_agree_with_a_model);
    RUN(bad_series_are_named);
    return FINISH();
}
