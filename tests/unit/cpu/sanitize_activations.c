/* Runs every kernel on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "activations.c"
#include "sanitize.h"

int main(void) {
    static const int64_t SIZES[] = {0, 1, 15, 16, 17, 100, SPAN, SPAN + 1, 5 * SPAN + 3};
    static const float VALUES[] = {0, -0.f, 1e-40f, 3, -3, 9.99f, -10, 1e38f, -1e38f, INFINITY, -INFINITY, NAN};
    for (int s = 0; s < 9; s++)
        for (int v = 0; v < 12; v++) {
            const size_t n = (size_t)SIZES[s];
            uint16_t *x = malloc(n * 2), *dy = malloc(n * 2), *y = malloc(n * 2);
            for (size_t i = 0; i < n; i++) x[i] = to_bf16(VALUES[v]), dy[i] = to_bf16(VALUES[(v + i) % 12]);
            const Gelu forwards = {.x = x, .y = y, .n = SIZES[s]}, backwards = {.x = x, .dy = dy, .y = y, .n = SIZES[s]};
            if (called(&GELU, &forwards) || called(&GELU_BACKWARD, &backwards)) return 1;
            free(x), free(dy), free(y);
            float *wide = malloc(n * 4), *dwide = malloc(n * 4), *wider = malloc(n * 4);
            for (size_t i = 0; i < n; i++) wide[i] = VALUES[v], dwide[i] = VALUES[(v + i) % 12];
            const Gelu forward = {wide, NULL, wider, SIZES[s], 1}, backward = {wide, dwide, wider, SIZES[s], 1};
            if (called(&GELU, &forward) || called(&GELU_BACKWARD, &backward)) return 1;
            free(wide), free(dwide), free(wider);
        }
    return 0;
}
