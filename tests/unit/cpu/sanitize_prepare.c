/* Prepares rows in memory of exactly the size that they take, for the sanitizers to watch. */
#include "prepare.c"
#include "sanitize.h"

int main(void) {
    static const int INPUTS[] = {1, 37, 64, 128, 192, 576, 1088, 2880}; /* packed weights have multiples of 64 */
    static const float ENDS[] = {0, 1e-40f, 3e38f, INFINITY, -INFINITY, NAN};
    for (int weight = FLOAT32; weight <= INT8; weight++)
        for (int i = weight < MXFP4 ? 0 : 2; i < 8; i++)
            for (int wide = 0; wide <= has_avx512(); wide++)
                for (int rounded = 0; rounded <= (wide && weight >= MXFP4); rounded++)
                    for (int type = F32; type <= BF16; type++)
                        for (int e = 0; e < 6; e++) {
                            const Kernel kernel = kernel_of(weight, rounded, wide);
                            const int d_in = INPUTS[i];
                            char *memory = aligned_alloc(64, prepared_bytes(&kernel, d_in));
                            void *x = numbers_of(type, d_in);
                            Row row;
                            store(x, type, (size_t)d_in - 1, ENDS[e]);
                            prepare(&kernel, weight, x, type, d_in, memory, &row);
                            free(memory), free(x);
                        }
    return 0;
}
