/* Runs every kernel on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "machine.c"
#include "rows.c"

int main(void) {
    static const int inputs[] = {64, 128, 576, 1088, 2880}, outputs[] = {1, 2, 33};
    for (int weight = FLOAT32; weight <= INT8; weight++)
        for (int a = 0; a < 5; a++)
            for (int b = 0; b < 3; b++)
                for (int wide = 0; wide <= has_avx512(); wide++)
                    for (int rounded = 0; rounded <= (wide && weight >= MXFP4); rounded++)
                        for (int type = F32; type <= BF16; type++) {
                            const int d_in = inputs[a], d_out = outputs[b], n = 5, experts = 3;
                            const int64_t counts[] = {2, 0, 3};
                            const size_t size = type == BF16 ? 2 : 4, scales = scale_bytes(weight, d_in) * d_out * experts;
                            void *w = calloc(experts * row_bytes(weight, d_in), d_out), *s = calloc(scales + 1, 1);
                            void *x = calloc((size_t)n * d_in, size), *one = calloc(d_in, size), *y = calloc((size_t)n * d_out, size);
                            void *bias = calloc((size_t)experts * d_out, size);
                            if (rows_times(weight, w, s, bias, type, x, d_in, y, type, n, d_in, d_out, counts, experts, rounded, wide)) return 1;
                            if (rows_times(weight, w, s, bias, type, one, 0, y, type, n, d_in, d_out, counts, experts, rounded, wide)) return 1;
                            free(w), free(s), free(x), free(one), free(y), free(bias);
                        }
    return 0;
}
