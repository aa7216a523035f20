/* What the drivers of products share: packed and plain weights of three experts, activations and results of exactly their size. */
#ifndef BLOCKZOO_SANITIZE_PRODUCTS_H
#define BLOCKZOO_SANITIZE_PRODUCTS_H

#include "sanitize.h"
#include "tiles.h"

int prompt_times(int rounded, int weight, const void *weights, const void *scales, const void *bias, int bias_type, const void *x, void *y, int d_in,
                 int d_out, const int64_t *counts, int experts);

enum { EXPERTS = 3 };

typedef struct {
    int weight, d_in, d_out, n;
    const int64_t *counts;
    void *weights, *scales, *bias, *x, *y;
} Given;

static inline int rounded_products(Given g) {
    return g.weight != BFLOAT16 && has_avx512() &&
           prompt_times(1, g.weight, g.weights, g.scales, g.bias, BF16, g.x, g.y, g.d_in, g.d_out, g.counts, EXPERTS);
}

static inline int tiled_products(Given g) {
    return has_tiles() == AMX_TILES &&
           prompt_times(0, g.weight, g.weights, g.scales, g.bias, BF16, g.x, g.y, g.d_in, g.d_out, g.counts, EXPERTS);
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
                    const size_t all = (size_t)EXPERTS * d_out;
                    const Given g = {weight, d_in, d_out, n, rows[c],
                                     .weights = calloc(all, weight == MXFP4 ? d_in / 2 : weight == INT8 ? d_in : d_in * 2),
                                     .scales = weight == BFLOAT16 ? NULL : calloc(all, d_in / GROUP * (weight == MXFP4 ? 1 : 2)),
                                     .bias = numbers_of(BF16, (int64_t)all),
                                     .x = numbers_of(BF16, (int64_t)n * d_in),
                                     .y = numbers_of(BF16, (int64_t)n * d_out)};
                    found |= tried(g);
                    free(g.weights), free(g.scales), free(g.bias), free(g.x), free(g.y);
                }
    return found;
}

#endif
