/* The sum of a float32 vector, for what reading memory takes: each thread reads two streams, both prefetched ahead. */
#include "common.h"

enum { LANES = 16, ROUND = 4 * LANES, PIECE = 128 * ROUND /* summed in float32, then added up in double */, AHEAD = 512 /* 2 KB */ };

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

VARIANTS static double pair_sum(const float *a, const float *b, int64_t n) { /* n of each */
    double total = 0;
    int64_t i = 0;
    while (n - i >= ROUND) {
        const int64_t end = i + (n - i < PIECE ? (n - i) / ROUND * ROUND : PIECE);
        lanes a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0};
        for (; i < end; i += ROUND) {
            for (int line = 0; line < 4; line++) {
                __builtin_prefetch(a + i + AHEAD + line * LANES);
                __builtin_prefetch(b + i + AHEAD + line * LANES);
            }
            const lanes *p = (const lanes *)(a + i), *q = (const lanes *)(b + i);
            a0 += p[0], a1 += p[1], a2 += p[2], a3 += p[3];
            b0 += q[0], b1 += q[1], b2 += q[2], b3 += q[3];
        }
        const lanes all = ((a0 + a1) + (a2 + a3)) + ((b0 + b1) + (b2 + b3));
        for (int lane = 0; lane < LANES; lane++) total += all[lane];
    }
    for (; i < n; i++) total += (double)a[i] + b[i];
    return total;
}

int stream_sum(const float *x, int64_t n, int threads, double *sum) {
    double total = 0;
    const int64_t each = n / (2 * threads);
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (int thread = 0; thread < threads; thread++) {
        const float *start = x + 2 * each * thread;
        total += pair_sum(start, start + each, each);
    }
    for (int64_t i = 2 * each * threads; i < n; i++) total += x[i];
    *sum = total;
    return 0;
}
