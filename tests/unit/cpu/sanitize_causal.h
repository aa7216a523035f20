/* What the drivers of causal attention share: its calls with heads that have gaps between their tokens, which nothing may write to. */
#ifndef BLOCKZOO_SANITIZE_CAUSAL_H
#define BLOCKZOO_SANITIZE_CAUSAL_H

#include "sanitize.h"
#include "causal_attention.h"

enum { GAP = 5, UNTOUCHED = 7 /* no number of a head */, BATCH = 2, KV_HEADS = 2 };

/* An edge of its own; `earlier` keys. */
typedef struct {
    int64_t tokens, earlier, group, width, value_width, window;
    int sinks, type;
} Shape;

/* Heads (batch, heads, tokens, width) that lie by tokens, with a gap after each token's. */
static inline Heads heads_of(int type, int64_t heads, int64_t tokens, int64_t width) {
    const int64_t token = heads * width + GAP;
    Heads made = {malloc((size_t)(BATCH * tokens * token) * width_of(type)), tokens * token, width, token};
    for (int64_t i = 0; i < BATCH * tokens * token; i++)
        store(made.numbers, type, (size_t)i, i % token < heads * width ? (float)(i * 37 % 101) / 50 - 1 : UNTOUCHED);
    return made;
}

/* Frees heads; whether something was written beside them. */
static inline int touched(int type, Heads x, int64_t heads, int64_t tokens, int64_t width) {
    int found = 0;
    for (int64_t i = 0; i < BATCH * tokens * x.token; i++) found |= i % x.token >= heads * width && load(x.numbers, type, (size_t)i) != UNTOUCHED;
    free(x.numbers);
    return found;
}

static inline CausalAttention attention_of(Shape s) {
    const int64_t heads = s.group * KV_HEADS, keys = s.earlier + s.tokens;
    return (CausalAttention){.q = heads_of(s.type, heads, s.tokens, s.width),
                             .k = heads_of(s.type, KV_HEADS, keys, s.width),
                             .v = heads_of(s.type, KV_HEADS, keys, s.value_width),
                             .y = heads_of(s.type, heads, s.tokens, s.value_width),
                             .sinks = s.sinks ? numbers_of(F32, heads) : NULL,
                             .log_sum_exp = numbers_of(F32, BATCH * heads * s.tokens),
                             .batch = BATCH, .heads = heads, .kv_heads = KV_HEADS, .tokens = s.tokens, .earlier = s.earlier,
                             .width = s.width, .value_width = s.value_width, .window = s.window, .scale = .2};
}

/* Frees what a call said; whether something was written beside its heads. */
static inline int touched_by(Shape s, CausalAttention a) {
    const int64_t heads = s.group * KV_HEADS, keys = s.earlier + s.tokens;
    free((void *)a.sinks), free(a.log_sum_exp);
    return touched(s.type, a.q, heads, s.tokens, s.width) | touched(s.type, a.k, KV_HEADS, keys, s.width) |
           touched(s.type, a.v, KV_HEADS, keys, s.value_width) | touched(s.type, a.y, heads, s.tokens, s.value_width);
}

static inline int forward(const Operation *operation, Shape s) {
    const CausalAttention a = attention_of(s);
    return called(operation, &a) | touched_by(s, a);
}

static inline int backward(const Operation *operation, Shape s) {
    const int64_t heads = s.group * KV_HEADS;
    CausalAttentionBackward b = {.of = attention_of(s),
                                 .dy = heads_of(s.type, heads, s.tokens, s.value_width),
                                 .dq = heads_of(s.type, heads, s.tokens, s.width),
                                 .dk = heads_of(s.type, KV_HEADS, s.tokens, s.width),
                                 .dv = heads_of(s.type, KV_HEADS, s.tokens, s.value_width),
                                 .dsinks = numbers_of(F32, BATCH * heads)};
    const int wrong = called(operation, &b) | touched_by(s, b.of);
    free(b.dsinks);
    return wrong | touched(s.type, b.dq, heads, s.tokens, s.width) | touched(s.type, b.dk, KV_HEADS, s.tokens, s.width) |
           touched(s.type, b.dv, KV_HEADS, s.tokens, s.value_width) | touched(s.type, b.dy, heads, s.tokens, s.value_width);
}

/* Tries each shape that has an edge of its own; whether a fault was found. */
static inline int shapes(int (*tried)(const Operation *operation, Shape shape), const Operation *operation, int type, int64_t earlier) {
    static const int64_t tokens[] = {1, 31, 32, 33, 130, 300}, widths[] = {8, 32, 40, 64}, windows[] = {1, 33, 100, 1000};
    int found = 0;
    for (int t = 0; t < 6; t++)
        for (int w = 0; w < 4; w++)
            for (int s = 0; s < 4; s++)
                for (int64_t group = 1; group < 3; group++)
                    found |= tried(operation, (Shape){tokens[t], earlier, group, widths[w], widths[3 - w],
                                                      windows[s] < tokens[t] ? windows[s] : tokens[t], s % 2, type});
    return found;
}

#endif
