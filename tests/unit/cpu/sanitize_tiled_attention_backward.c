/* Runs attention's backward for training on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "sanitize_tiled.h"
#include "tiled_attention_backward.c"

static int tried(int64_t tokens, int64_t group, int64_t width, int64_t value_width, int64_t window, int sinks) {
    enum { ROWS_OF = 2, KV_HEADS = 2 };
    const int64_t heads = group * KV_HEADS;
    const TiledAttention a = {.q = heads_of(ROWS_OF, heads, tokens, width),
                                 .k = heads_of(ROWS_OF, KV_HEADS, tokens, width),
                                 .v = heads_of(ROWS_OF, KV_HEADS, tokens, value_width),
                                 .y = heads_of(ROWS_OF, heads, tokens, value_width),
                                 .sinks = sinks ? numbers_of(F32, heads) : NULL,
                                 .log_sum_exp = numbers_of(F32, ROWS_OF * heads * tokens),
                                 .batch = ROWS_OF, .heads = heads, .kv_heads = KV_HEADS, .tokens = tokens, .width = width,
                                 .value_width = value_width, .window = window, .scale = .2};
    TiledAttentionBackward b = {.of = a,
                                   .dy = heads_of(ROWS_OF, heads, tokens, value_width),
                                   .dq = heads_of(ROWS_OF, heads, tokens, width),
                                   .dk = heads_of(ROWS_OF, KV_HEADS, tokens, width),
                                   .dv = heads_of(ROWS_OF, KV_HEADS, tokens, value_width),
                                   .dsinks = numbers_of(F32, ROWS_OF * heads)};
    int wrong = called(&TILED_ATTENTION_BACKWARD, &b);
    wrong |= touched(a.q, ROWS_OF, heads, tokens, width) | touched(b.dq, ROWS_OF, heads, tokens, width);
    wrong |= touched(a.k, ROWS_OF, KV_HEADS, tokens, width) | touched(b.dk, ROWS_OF, KV_HEADS, tokens, width);
    wrong |= touched(a.v, ROWS_OF, KV_HEADS, tokens, value_width) | touched(b.dv, ROWS_OF, KV_HEADS, tokens, value_width);
    wrong |= touched(a.y, ROWS_OF, heads, tokens, value_width) | touched(b.dy, ROWS_OF, heads, tokens, value_width);
    free((void *)a.sinks), free(a.log_sum_exp), free(b.dsinks);
    return wrong;
}

int main(void) { return shapes(tried); }
