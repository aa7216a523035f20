/* What the drivers of attention for training share: heads with gaps between their tokens, which nothing may write to. */
#ifndef BLOCKZOO_SANITIZE_TRAINING_H
#define BLOCKZOO_SANITIZE_TRAINING_H

#include "sanitize.h"
#include "tiled_attention.h"

int has_tiles(void);

enum { GAP = 5, UNTOUCHED = 0x7777 };

/* Heads (batch, heads, tokens, width) that lie by tokens, with a gap after each token's. */
static inline Heads heads_of(int64_t batch, int64_t heads, int64_t tokens, int64_t width) {
    const int64_t token = heads * width + GAP;
    Heads made = {malloc((size_t)(batch * tokens * token) * 2), tokens * token, width, token};
    for (int64_t i = 0; i < batch * tokens * token; i++)
        made.numbers[i] = i % token < heads * width ? to_bf16((float)(i * 37 % 101) / 50 - 1) : UNTOUCHED;
    return made;
}

/* Frees heads; whether something was written beside them. */
static inline int touched(Heads x, int64_t batch, int64_t heads, int64_t tokens, int64_t width) {
    int found = 0;
    for (int64_t i = 0; i < batch * tokens * x.token; i++) found |= i % x.token >= heads * width && x.numbers[i] != UNTOUCHED;
    free(x.numbers);
    return found;
}

/* Tries each shape that has an edge of its own; whether `tried` found a fault. */
static inline int shapes(int (*tried)(int64_t tokens, int64_t group, int64_t width, int64_t value_width, int64_t window, int sinks)) {
    static const int64_t tokens[] = {1, 31, 32, 33, 130, 300}, widths[] = {8, 32, 40, 64}, windows[] = {1, 33, 100, 1000};
    int found = 0;
    for (int t = 0; t < 6 && has_tiles(); t++)
        for (int w = 0; w < 4; w++)
            for (int s = 0; s < 4; s++)
                for (int64_t group = 1; group < 3; group++)
                    found |= tried(tokens[t], group, widths[w], widths[3 - w], windows[s] < tokens[t] ? windows[s] : tokens[t], s % 2);
    return found;
}

#endif
