/* Runs the products and the unpacking on buffers of exactly the size that they may touch, for the sanitizers to watch. */
#include "sanitize.h"
#include "tiles.c"

int main(void) {
    static const int inputs[] = {32, 96, 2880}, outputs[] = {1, 16, 33, 100}, rows[][3] = {{17, 0, 3}, {0, 33, 0}, {0, 0, 0}};
    const int experts = 3, tiled = has_tiles();
    for (int weight = BFLOAT16; weight <= INT8; weight++)
        for (int a = 0; a < 3; a++)
            for (int b = 0; b < 4; b++)
                for (int c = 0; c < 3; c++) {
                    const int d_in = inputs[a], d_out = outputs[b], n = rows[c][0] + rows[c][1] + rows[c][2];
                    const int64_t counts[] = {rows[c][0], rows[c][1], rows[c][2]};
                    const size_t all = (size_t)experts * d_out;
                    void *w = calloc(all, weight == MXFP4 ? d_in / 2 : weight == INT8 ? d_in : d_in * 2);
                    void *s = weight == BFLOAT16 ? NULL : calloc(all, d_in / GROUP * (weight == MXFP4 ? 1 : 2));
                    void *x = calloc(n, (size_t)d_in * 2), *y = calloc(n, (size_t)d_out * 2), *bias = calloc(all, 2);
                    float *plain = malloc(all * d_in * sizeof *plain);
                    if (tiled && tiles_times(weight, w, s, bias, BF16, x, y, d_in, d_out, counts, experts)) return 1;
                    for (int wide = 0; weight != BFLOAT16 && wide <= has_avx512(); wide++) unpack_rows(weight, w, s, (int)all, d_in, plain, wide);
                    free(w), free(s), free(x), free(y), free(bias), free(plain);
                }
    return 0;
}
