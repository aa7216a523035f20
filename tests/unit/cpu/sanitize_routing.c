/* Chooses and weighs experts on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "routing.c"
#include "sanitize.h"

static int routes(int type, int64_t rows, int64_t experts, int64_t top_k) {
    void *logits = numbers_of(type, rows * experts);
    int64_t *chosen = malloc((size_t)(rows * top_k) * sizeof *chosen);
    float *weights = malloc((size_t)(rows * top_k) * sizeof *weights);
    const Choice choice = {logits, chosen, type, rows, experts, top_k};
    int failed = called(&CHOOSE, &choice);
    for (int64_t i = 0; i < rows * top_k; i++) failed |= chosen[i] < 0 || chosen[i] >= experts;
    for (int part = 0; part < 6; part++) {
        const Weighing weighing = {logits, chosen, weights, type, rows, experts, top_k, part % 2, part / 2, 2.5};
        if (part == 5 && rows) chosen[0] = experts, chosen[rows * top_k - 1] = -1;
        failed |= called(&WEIGH, &weighing);
    }
    free(logits), free(chosen), free(weights);
    return failed;
}

int main(void) {
    static const int64_t SHAPES[][3] = {{0, 4, 2}, {1, 1, 1}, {3, 32, 4}, {300, 32, 4}, {7, 128, 8}, {2, 300, 300}};
    int failed = 0;
    for (int type = F32; type <= BF16; type++)
        for (int s = 0; s < 6; s++) failed |= routes(type, SHAPES[s][0], SHAPES[s][1], SHAPES[s][2]);
    return failed;
}
