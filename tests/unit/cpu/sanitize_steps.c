/* Adds and copies in buffers of exactly the size that may be touched, for the sanitizers to watch; checks the values. */
#include "sanitize.h"
#include "steps.c"

static int adds(int type, int64_t n) {
    void *a = numbers_of(type, n), *b = numbers_of(type, n), *y = malloc((size_t)n * width_of(type));
    const Sum sum = {.a = a, .b = b, .y = y, .type = type, .n = n};
    int wrong = called(&ADD, &sum);
    for (int64_t i = 0; i < n; i++) wrong |= load(y, type, (size_t)i) != 2 * load(a, type, (size_t)i);
    free(a), free(b), free(y);
    return wrong;
}

/* Pieces of a tensor whose axes are in order, into one whose outer axes are turned round, with a gap after each piece. */
static int copies(int64_t a, int64_t b, int64_t c, int64_t bytes) {
    const int64_t n = a * b * c, held = bytes + 3;
    char *from = malloc((size_t)(n * bytes)), *to = calloc((size_t)(n ? n * held - 3 : 0), 1);
    for (int64_t i = 0; i < n * bytes; i++) from[i] = (char)(i % 127);
    const Copy copy = {from, to, bytes, {a, b, c}, {b * c * bytes, c * bytes, bytes}, {held, a * held, a * b * held}};
    int wrong = called(&COPY, &copy);
    for (int64_t i = 0; i < n; i++) {
        const int64_t turned = i / (b * c) + i / c % b * a + i % c * a * b;
        wrong |= memcmp(from + i * bytes, to + turned * held, (size_t)bytes) != 0;
        for (int64_t gap = bytes; gap < held && turned + 1 < n; gap++) wrong |= to[turned * held + gap] != 0;
    }
    free(from), free(to);
    return wrong;
}

int main(void) {
    static const int64_t SIZES[] = {0, 1, 15, 16, 17, 100, 65536, 65537, 200003};
    int wrong = 0;
    for (int type = F32; type <= BF16; type++)
        for (int i = 0; i < 9; i++) wrong |= adds(type, SIZES[i]);
    for (int64_t bytes = 1; bytes < 200000; bytes = bytes * 5 + 1) /* over and under what one thread does */
        for (int64_t a = 0; a < 3; a++) wrong |= copies(a, 1, 1, bytes) | copies(a, 3, 2, bytes) | copies(1, 2, 5, bytes);
    return wrong;
}
