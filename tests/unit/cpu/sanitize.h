/* What the drivers share: a call by the name of its operation, and numbers to fill buffers with. */
#ifndef BLOCKZOO_SANITIZE_H
#define BLOCKZOO_SANITIZE_H

#include "calls.h"

int has_avx512(void);

static inline int64_t place_of(const Operation *operation) {
    int64_t place = 0;
    while (OPERATIONS[place] != operation) place++;
    return place;
}

/* 0, as a call returns it. */
static inline int called(const Operation *operation, const void *told) { return run_one(place_of(operation), told); }

/* n numbers between -1 and 1 in memory of exactly their size. */
static inline void *numbers_of(int type, int64_t n) {
    void *made = malloc((size_t)n * width_of(type));
    for (int64_t i = 0; i < n; i++) store(made, type, (size_t)i, (float)(i * 37 % 101) / 50 - 1);
    return made;
}

#endif
