/* What the drivers of products share: packed and plain weights of three experts, activations and results of exactly their size. */
#ifndef BLOCKZOO_SANITIZE_PRODUCTS_H
#define BLOCKZOO_SANITIZE_PRODUCTS_H

#include "sanitize.h"
#include "tiles.h"

int unpack_rows(int weight, const void *codes, const void *scales, int rows, int d_in, float *to, int wide);
int prompt_times(int rounded, int weight, const void *weights, const void *scales, const void *bias, int bias_type, const void *x, void *y, int d_in,
                 int d_out, const int64_t *counts, int experts);

enum { EXPERTS = 3 };

typedef struct {
    int weight, d_in, d_out, n;
    const int64_t *counts;
    void *weights, *scales, *bias, *x, *y;
} Given;

/* Whether results are further from plain sums than a hundredth of the greatest sum of sizes. */
static inline int far_off(Given g) {
    const int rows = EXPERTS * g.d_out;
    float *plain = malloc((size_t)rows * g.d_in * sizeof *plain);
    if (g.weight == BFLOAT16)
        for (int i = 0; i < rows * g.d_in; i++) plain[i] = load(g.weights, BF16, (size_t)i);
    else
        unpack_rows(g.weight, g.weights, g.scales, rows, g.d_in, plain, 0);
    double off = 0, greatest = 0;
    for (int64_t e = 0, r = 0, of = 0; e < EXPERTS; of += g.counts[e++])
        for (; r < of + g.counts[e]; r++)
            for (int64_t o = 0; o < g.d_out; o++) {
                const float *w = plain + (e * g.d_out + o) * g.d_in;
                double sum = load(g.bias, BF16, (size_t)(e * g.d_out + o)), sizes = fabs(sum);
                for (int i = 0; i < g.d_in; i++) {
                    const double term = (double)w[i] * load(g.x, BF16, (size_t)(r * g.d_in + i));
                    sum += term, sizes += fabs(term);
                }
                off = fmax(off, fabs(sum - load(g.y, BF16, (size_t)(r * g.d_out + o))));
                greatest = fmax(greatest, sizes);
            }
    free(plain);
    return off > greatest / 100;
}

static inline int rounded_products(Given g) {
    return g.weight != BFLOAT16 && has_avx512() &&
           (prompt_times(1, g.weight, g.weights, g.scales, g.bias, BF16, g.x, g.y, g.d_in, g.d_out, g.counts, EXPERTS) || far_off(g));
}

static inline int tiled_products(Given g) {
    return has_tiles() == AMX_TILES &&
           (prompt_times(0, g.weight, g.weights, g.scales, g.bias, BF16, g.x, g.y, g.d_in, g.d_out, g.counts, EXPERTS) || far_off(g));
}

/* Bytes of every kind, one after another. */
static inline void *codes_of(size_t n) {
    uint8_t *made = malloc(n);
    for (size_t i = 0; i < n; i++) made[i] = (uint8_t)(i * 97 % 251);
    return made;
}

static inline void *scales_of(int weight, size_t n) {
    uint8_t *bytes = weight == MXFP4 ? malloc(n) : NULL;
    for (size_t i = 0; bytes && i < n; i++) bytes[i] = (uint8_t)(120 + i % 9);
    return weight == MXFP4 ? (void *)bytes : weight == INT8 ? numbers_of(BF16, (int64_t)n) : NULL;
}

/* Tries each shape that has an edge of its own; whether a fault was found. */
static inline int products_of(int (*tried)(Given)) {
    static const int inputs[] = {32, 96, 2880}, outputs[] = {1, 16, 33, 100};
    static const int64_t rows[][EXPERTS] = {{17, 0, 3}, {0, 33, 0}, {0, 0, 0}};
    int found = 0;
    for (int weight = BFLOAT16; weight <= INT8; weight++)
        for (int a = 0; a < 3; a++)
            for (int b = 0; b < 4; b++)
                for (int c = 0; c < 3; c++) {
                    const int d_in = inputs[a], d_out = outputs[b], n = (int)(rows[c][0] + rows[c][1] + rows[c][2]);
                    const size_t all = (size_t)EXPERTS * d_out, numbers = all * d_in;
                    const Given g = {weight, d_in, d_out, n, rows[c],
                                     .weights = weight == BFLOAT16 ? numbers_of(BF16, (int64_t)numbers) : codes_of(code_bytes(weight, numbers)),
                                     .scales = scales_of(weight, numbers / GROUP),
                                     .bias = numbers_of(BF16, (int64_t)all),
                                     .x = numbers_of(BF16, (int64_t)n * d_in),
                                     .y = numbers_of(BF16, (int64_t)n * d_out)};
                    found |= tried(g);
                    free(g.weights), free(g.scales), free(g.bias), free(g.x), free(g.y);
                }
    return found;
}

#endif
