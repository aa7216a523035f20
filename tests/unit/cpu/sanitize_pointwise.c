/* Runs every kernel on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "pointwise.c"

static const int DIMS[] = {1, 2, 16, 37, 64, 577};

static void norms(int type, int weight_type, int dim, int late, float offset) {
    const size_t size = type == BF16 ? 2 : 4;
    void *x = calloc(3 * (size_t)dim, size), *w = calloc(dim, weight_type == BF16 ? 2 : 4), *y = calloc(3 * (size_t)dim, size);
    rms_norm_rows(x, type, w, weight_type, 1e-6f, offset, late, y, 3, dim);
    free(x), free(w), free(y);
}

static void turns(int type, int dim, int half, int interleaved) {
    const size_t size = type == BF16 ? 2 : 4;
    void *x = calloc(2 * 3 * 4 * (size_t)dim, size), *y = calloc(2 * 3 * 4 * (size_t)dim, size);
    void *c = calloc(2 * 4 * (size_t)half, size), *s = calloc(2 * 4 * (size_t)half, size);
    rotary_heads(x, c, s, type, y, 2, 3, 4, dim, half, interleaved);
    free(x), free(y), free(c), free(s);
}

static void gates(int type, int activation, float scale, float limit, float shift, int64_t n) {
    const size_t size = type == BF16 ? 2 : 4;
    void *g = calloc(n, size), *u = calloc(n, size), *y = calloc(n, size);
    gate_rows(g, u, type, activation, scale, limit, shift, y, n);
    free(g), free(u), free(y);
}

int main(void) {
    for (int type = F32; type <= BF16; type++)
        for (int d = 0; d < 6; d++) {
            for (int late = 0; late < 2; late++)
                for (int weight_type = F32; weight_type <= BF16; weight_type++) norms(type, weight_type, DIMS[d], late, (float)late);
            for (int half = 1; 2 * half <= DIMS[d]; half += 5)
                for (int interleaved = 0; interleaved < 2; interleaved++) turns(type, DIMS[d], half, interleaved);
            for (int activation = SILU; activation <= RELU2; activation++)
                for (int64_t n = DIMS[d]; n < 30000; n += 17000) gates(type, activation, activation ? 1 : 1.702f, 7, 1, n);
            gates(type, SILU, 1, 0, 0, DIMS[d]);
        }
    return 0;
}
