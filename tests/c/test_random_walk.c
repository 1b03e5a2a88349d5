/* test_walk.c: the fit against a dense solution of the same model, and planted walks. */
#include "monitor/random_walk.h"

#include "check.h"

#include <math.h>
#include <string.h>

enum { N = 40, LONG = 120 };

static double
normal(unsigned long long *state)
{
    double sum = 0.0;
    for (int i = 0; i < 12; i++) {
        sum += (double)(check_random(state) % 1000001) / 1e6;
    }
    return sum - 6.0;
}

/* Solves the symmetric positive definite a x = b in place (b becomes x) by Cholesky; the log of a's determinant. */
static double
solve_dense(double a[N][N], double *b)
{
    double log_determinant = 0.0;
    for (int j = 0; j < N; j++) {
        for (int k = 0; k < j; k++) {
            a[j][j] -= a[j][k] * a[j][k];
        }
        a[j][j] = sqrt(a[j][j]);
        log_determinant += 2.0 * log(a[j][j]);
        for (int i = j + 1; i < N; i++) {
            for (int k = 0; k < j; k++) {
                a[i][j] -= a[i][k] * a[j][k];
            }
            a[i][j] /= a[j][j];
        }
    }
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < i; k++) {
            b[i] -= a[i][k] * b[k];
        }
        b[i] /= a[i][i];
    }
    for (int i = N - 1; i >= 0; i--) {
        for (int k = i + 1; k < N; k++) {
            b[i] -= a[k][i] * b[k];
        }
        b[i] /= a[i][i];
    }
    return log_determinant;
}

/* left' inverse(noise + walk) right of the model with this ratio. */
static double
product(const double *left, const double *right, const double *clock, double ratio, double *log_determinant)
{
    double covariance[N][N];
    double solved[N];
    const double unit = ratio * (N - 1) / (clock[N - 1] - clock[0]);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            covariance[i][j] = unit * (clock[i < j ? i : j] - clock[0]) + (i == j);
        }
    }
    memcpy(solved, right, sizeof solved);
    *log_determinant = solve_dense(covariance, solved);
    double sum = 0.0;
    for (int i = 0; i < N; i++) {
        sum += left[i] * solved[i];
    }
    return sum;
}

static void
the_fit_is_that_of_the_dense_covariance(void)
{
    unsigned long long state = 5;
    double x[N], y[N], shape[N], ones[N];
    double walk = 0.0;
    for (int i = 0; i < N; i++) {
        x[i] = i / (N - 1.0) + 0.005 * (double)(check_random(&state) % 2);
        shape[i] = sqrt(x[i]);
        walk += normal(&state);
        y[i] = 30.0 + 50.0 * shape[i] + walk + normal(&state);
        ones[i] = 1.0;
    }
    pfo_random_walk found;
    pfo_random_walk_fit(y, N, shape, shape, 1, 0.0, &found);
    double log_determinant;
    const double aa = product(ones, ones, shape, found.ratio, &log_determinant);
    const double as = product(ones, shape, shape, found.ratio, &log_determinant);
    const double ay = product(ones, y, shape, found.ratio, &log_determinant);
    const double ss = product(shape, shape, shape, found.ratio, &log_determinant);
    const double sy = product(shape, y, shape, found.ratio, &log_determinant);
    const double yy = product(y, y, shape, found.ratio, &log_determinant);
    const double amount = (sy - as * ay / aa) / (ss - as * as / aa);
    const double left = yy - ay * ay / aa - amount * (sy - as * ay / aa);
    CHECK(fabs(found.amount - amount) < 1e-8 * fabs(amount));
    CHECK(fabs(found.error - sqrt(left / N / (ss - as * as / aa))) < 1e-8);
    CHECK(fabs(found.cost - (N * log(left / N) + log_determinant + 4.0 * log(N))) < 1e-8);
}

static void
planted_walks_are_told_from_noise_and_cover_their_drift(void)
{
    double x[LONG], y[LONG];
    int covered = 0;
    int large = 0;
    int small = 0;
    for (unsigned long long seed = 1; seed <= 40; seed++) {
        unsigned long long state = seed * 77;
        for (int with_walk = 0; with_walk < 2; with_walk++) {
            double walk = 0.0;
            for (int i = 0; i < LONG; i++) {
                x[i] = i / (LONG - 1.0);
                walk += with_walk ? normal(&state) : 0.0;
                y[i] = 100.0 * x[i] + walk + normal(&state);
            }
            pfo_random_walk found;
            pfo_random_walk_fit(y, LONG, x, x, 0, 0.0, &found);
            if (with_walk) {
                large += found.ratio > 0.1;
                covered += fabs(found.amount - 100.0) < 1.96 * found.error;
            } else {
                small += found.ratio < 0.1;
            }
        }
    }
    CHECK(large >= 36 && small >= 36 && covered >= 32);
}

static void
series_without_change_have_finite_figures(void)
{
    double x[N], y[N];
    for (int i = 0; i < N; i++) {
        x[i] = 0.25;
        y[i] = 7.0;
    }
    pfo_random_walk found;
    pfo_random_walk_fit(y, N, x, x, 0, 1.0, &found);
    CHECK(fabs(found.amount) < 1e-6 && isfinite(found.cost) && isfinite(found.error));
    pfo_random_walk_fit(y, N, x, NULL, 0, 1.0, &found);
    CHECK(found.amount == 0.0 && found.error == 0.0 && isfinite(found.cost) && found.correlation == 0.0);
}

int
main(void)
{
    RUN(the_fit_is_that_of_the_dense_covariance);
    RUN(planted_walks_are_told_from_noise_and_cover_their_drift);
    RUN(series_without_change_have_finite_figures);
    return FINISH();
}
