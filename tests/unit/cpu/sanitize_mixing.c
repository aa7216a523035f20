/* Adds up experts on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "mixing.c"
#include "sanitize.h"

static int mixes(int type, int64_t tokens, int64_t experts, int64_t dim) {
    void *y = numbers_of(type, tokens * experts * dim), *out = malloc((size_t)(tokens * dim) * width_of(type));
    float *weights = numbers_of(F32, tokens * experts);
    const Mix a = {.y = y, .weights = weights, .out = out, .type = type, .tokens = tokens, .experts = experts, .dim = dim};
    const int failed = called(&MIX, &a);
    free(y), free(out), free(weights);
    return failed;
}

int main(void) {
    static const int64_t DIMS[] = {1, 16, 37, PART, PART + 1, 2880};
    int failed = 0;
    for (int type = F32; type <= BF16; type++)
        for (int d = 0; d < 6; d++)
            for (int64_t experts = 0; experts < 5; experts++)
                for (int64_t tokens = 0; tokens < 12; tokens += 1 + 5 * tokens) failed |= mixes(type, tokens, experts, DIMS[d]);
    return failed;
}
