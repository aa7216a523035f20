/* Runs every kernel on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "pointwise.c"
#include "sanitize.h"

static const int64_t DIMS[] = {1, 2, 16, 37, 64, 577};
static int failed = 0;

static void norms(int type, int weight_type, int64_t rows, int64_t dim, int late, double offset, int64_t heads) { /* 0: no weight */
    void *x = numbers_of(type, rows * dim), *w = numbers_of(weight_type, heads * dim), *y = malloc((size_t)(rows * dim) * width_of(type));
    const Norm a = {.x = x, .weight = heads ? w : NULL, .heads = heads ? heads : 1, .y = y, .type = type, .weight_type = weight_type, .late = late, .rows = rows, .dim = dim,
                    .eps = 1e-6, .offset = offset};
    failed |= called(&RMS_NORM, &a);
    free(x), free(w), free(y);
}

static void layers(int type, int weight_type, int bias_type, int64_t rows, int64_t dim, int weighted, int biased, int64_t heads) {
    void *x = numbers_of(type, rows * dim), *w = numbers_of(weight_type, heads * dim), *b = numbers_of(bias_type, heads * dim);
    void *y = malloc((size_t)(rows * dim) * width_of(type));
    const Layer a = {.x = x, .weight = weighted ? w : NULL, .bias = biased ? b : NULL, .heads = heads, .y = y, .type = type, .weight_type = weight_type,
                     .bias_type = bias_type, .rows = rows, .dim = dim, .eps = 1e-6};
    failed |= called(&LAYER_NORM, &a);
    free(x), free(w), free(b), free(y);
}

static void turns(int type, int64_t heads, int64_t dim, int64_t half, int interleaved) {
    const int64_t batch = 2, tokens = 4, n = batch * heads * tokens * dim;
    void *x = numbers_of(type, n), *y = malloc((size_t)n * width_of(type));
    void *c = numbers_of(type, batch * tokens * half), *s = numbers_of(type, batch * tokens * half);
    const Rotary a = {.x = x, .cosine = c, .sine = s, .y = y, .type = type, .batch = batch, .heads = heads, .tokens = tokens, .dim = dim,
                      .half = half, .interleaved = interleaved, .x_row = heads * tokens * dim, .x_head = dim, .x_token = heads * dim,
                      .y_row = heads * tokens * dim, .y_head = tokens * dim, .y_token = dim};
    failed |= called(&ROTARY, &a);
    free(x), free(y), free(c), free(s);
}

static void gates(int type, int activation, double scale, double limit, double shift, int64_t n) {
    void *g = numbers_of(type, n), *u = numbers_of(type, n), *y = malloc((size_t)n * width_of(type));
    const Gated a = {.gate = g, .up = u, .y = y, .type = type, .activation = activation, .n = n, .scale = scale, .limit = limit,
                     .shift = shift};
    failed |= called(&GATE, &a);
    free(g), free(u), free(y);
}

int main(void) {
    for (int type = F32; type <= BF16; type++) {
        for (int d = 0; d < 6; d++) {
            for (int i = 0; i < 4; i++)
                for (int64_t heads = 0; heads <= 3; heads++) /* of 7 rows: not all heads are as often */
                    norms(type, i / 2, 7, DIMS[d], i % 2, i % 2, heads), norms(type, i / 2, 0, DIMS[d], i % 2, 0, heads),
                        layers(type, heads > 1 ? F32 : BF16, heads % 2 ? F32 : BF16, 7, DIMS[d], i / 2, i % 2, heads ? heads : 1);
            for (int64_t half = 1; 2 * half <= DIMS[d]; half += 5)
                for (int interleaved = 0; interleaved < 2; interleaved++) turns(type, 3, DIMS[d], half, interleaved);
            for (int activation = SILU; activation <= RELU2; activation++) /* a scale makes silu the fifth */
                for (int64_t n = DIMS[d]; n < 30000; n += 17000) gates(type, activation, activation ? 1 : 1.702, 7, 1, n);
            gates(type, SILU, 1, 0, 0, DIMS[d]);
        }
        /* shared by threads: more rows than threads, and one */
        norms(type, type, 114, 577, 1, 0, 6), layers(type, type, type, 114, 577, 1, 1, 6), turns(type, 15, 577, 288, 0);
        norms(type, type, 1, 65537, 1, 0, 1), layers(type, type, type, 1, 65537, 1, 1, 1);
    }
    return failed;
}
