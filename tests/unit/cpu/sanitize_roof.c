/* The sum over vectors of exactly the size that it may touch, for the sanitizers to watch, and its value. */
#include "roof.c"

int main(void) {
    static const int sizes[] = {1, 3, 64, 129, 4097, 16384, 100003};
    for (int i = 0; i < 7; i++)
        for (int threads = 1; threads <= 5; threads += 2) {
            float *x = malloc(sizes[i] * sizeof *x);
            double sum = -1;
            for (int j = 0; j < sizes[i]; j++) x[j] = (float)(j % 5);
            double wanted = 0;
            for (int j = 0; j < sizes[i]; j++) wanted += j % 5;
            if (stream_sum(x, sizes[i], threads, &sum) || sum != wanted) return 1;
            free(x);
        }
    return 0;
}
