/* Runs every product on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "rows.c"
#include "sanitize.h"

enum { EXPERTS = 3, MOST = 5 };

static int times(int weight, int type, int bias_type, int n, int d_in, int d_out, int rounded, int wide) {
    static const int64_t CHOSEN[MOST] = {2, 0, 2, 1, 0}, LAST[MOST] = {2, 2, 2, 2, 2};
    const size_t all = (size_t)EXPERTS * d_out, scales = scale_bytes(weight, d_in) * all;
    void *w = calloc(code_bytes(weight, d_in), all), *s = scales ? calloc(scales, 1) : NULL, *bias = numbers_of(bias_type, (int64_t)all);
    void *x = numbers_of(type, (int64_t)n * d_in), *one = numbers_of(type, d_in), *y = malloc((size_t)n * d_out * width_of(type));
    int64_t *chosen = malloc((size_t)n * sizeof *chosen);
    int failed = 0;
    for (int choice = 0; choice < 3; choice++)
        for (int same = 0; same < 2; same++) {
            memcpy(chosen, choice == 1 ? CHOSEN : LAST, (size_t)n * sizeof *chosen);
            const Rows a = {.weights = w, .scales = s, .bias = same ? bias : NULL, .x = same ? one : x, .y = y,
                            .chosen = choice ? chosen : NULL, .weight = weight, .bias_type = bias_type, .stride = same ? 0 : d_in,
                            .type = type, .n = n, .d_in = d_in, .d_out = d_out, .experts = 3, .rounded = rounded, .wide = wide};
            failed |= called(&ROWS, &a);
        }
    free(w), free(s), free(bias), free(x), free(one), free(y), free(chosen);
    return failed;
}

int main(void) {
    static const int INPUTS[] = {37, 64, 128, 576, 1088, 2880}, OUTPUTS[] = {1, 2, 33, 150};
    for (int weight = FLOAT32; weight <= INT8; weight++)
        for (int i = weight >= MXFP4; i < 6; i++)
            for (int o = 0; o < 4; o++)
                for (int n = 0; n <= MOST; n += n < 1 ? 1 : 4)
                    for (int wide = 0; wide <= has_avx512(); wide++)
                        for (int rounded = 0; rounded <= (wide && weight >= MXFP4); rounded++)
                            for (int type = F32; type <= BF16; type++)
                                if (times(weight, type, o % 2, n, INPUTS[i], OUTPUTS[o], rounded, wide)) return 1;
    return 0;
}
