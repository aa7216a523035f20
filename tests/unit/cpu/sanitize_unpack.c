/* Unpacks into buffers of exactly their size, for the sanitizers to watch. */
#include "sanitize_products.h"
#include "unpack.c"

static int unpacked(Given g) {
    const int rows = EXPERTS * g.d_out;
    float *plain = malloc((size_t)rows * g.d_in * sizeof *plain);
    for (int wide = 0; g.weight != BFLOAT16 && wide <= has_avx512(); wide++) unpack_rows(g.weight, g.weights, g.scales, rows, g.d_in, plain, wide);
    free(plain);
    return 0;
}

int main(void) { return products_of(unpacked); }
