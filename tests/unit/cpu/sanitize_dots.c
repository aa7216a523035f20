/* Each product of one or two rows of weights of exactly the size that it may touch, for the sanitizers to watch. */
#include "dots.c"
#include "sanitize.h"

/* Every weight and every scale is one, and so is every activation: the product is d_in. */
static int differs(int weight, int rounded, int wide, int d_in) {
    const Kernel kernel = kernel_of(weight, rounded, wide);
    const size_t groups = (size_t)d_in / GROUP, size = weight == FLOAT32 ? 4 : weight == BFLOAT16 ? 2 : 1;
    const size_t bytes = weight == MXFP4 ? groups * GROUP / 2 : (size_t)d_in * size, steps = weight == MXFP4 ? groups : groups * 2;
    char *memory = aligned_alloc(64, prepared_bytes(&kernel, d_in)), *codes[2], *scales[2];
    float *x = malloc((size_t)d_in * sizeof *x), sums[2];
    for (int i = 0; i < d_in; i++) x[i] = 1;
    for (int i = 0; i < 2; i++) {
        codes[i] = malloc(bytes), scales[i] = malloc(steps);
        memset(codes[i], weight == MXFP4 ? 0x22 : 1, bytes);
        for (int j = 0; j < d_in && weight <= BFLOAT16; j++) store(codes[i], weight == BFLOAT16, (size_t)j, 1);
        for (size_t g = 0; g < groups; g++)
            if (weight == MXFP4)
                scales[i][g] = 127;
            else
                store(scales[i], BF16, g, 1);
    }
    Row row;
    prepare(&kernel, weight, x, F32, d_in, memory, &row);
    const Stored stored[2] = {{codes[0], scales[0], 4096}, {codes[1], scales[1], -4096}};
    if (kernel.two)
        kernel.two(stored, &row, d_in, sums);
    else
        for (int i = 0; i < 2; i++) sums[i] = kernel.one(&stored[i], &row, d_in);
    for (int i = 0; i < 2; i++) free(codes[i]), free(scales[i]);
    free(memory), free(x);
    return fabsf(sums[0] - (float)d_in) > .01f || sums[1] != sums[0];
}

int main(void) {
    static const int INPUTS[] = {1, 37, 64, 128, 192, 576, 1088, 2880}; /* packed weights have multiples of 64 */
    for (int weight = FLOAT32; weight <= INT8; weight++)
        for (int i = weight < MXFP4 ? 0 : 2; i < 8; i++)
            for (int wide = 0; wide <= has_avx512(); wide++)
                for (int rounded = 0; rounded <= (wide && weight >= MXFP4); rounded++)
                    if (differs(weight, rounded, wide, INPUTS[i])) return 1;
    return 0;
}
