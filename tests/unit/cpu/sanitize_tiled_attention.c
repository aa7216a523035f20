/* Runs attention's forward in tiles on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "sanitize_tiled.h"
#include "tiled_attention.c"

static int tried_after(int64_t earlier, int64_t tokens, int64_t group, int64_t width, int64_t value_width, int64_t window, int sinks) {
    enum { ROWS_OF = 2, KV_HEADS = 2 };
    const int64_t heads = group * KV_HEADS, keys = earlier + tokens;
    TiledAttention a = {.q = heads_of(ROWS_OF, heads, tokens, width),
                        .k = heads_of(ROWS_OF, KV_HEADS, keys, width),
                        .v = heads_of(ROWS_OF, KV_HEADS, keys, value_width),
                        .y = heads_of(ROWS_OF, heads, tokens, value_width),
                        .sinks = sinks ? numbers_of(F32, heads) : NULL,
                        .log_sum_exp = numbers_of(F32, ROWS_OF * heads * tokens),
                        .batch = ROWS_OF, .heads = heads, .kv_heads = KV_HEADS, .tokens = tokens, .earlier = earlier,
                        .width = width, .value_width = value_width, .window = window, .scale = .2};
    int wrong = called(&TILED_ATTENTION, &a);
    wrong |= touched(a.q, ROWS_OF, heads, tokens, width) | touched(a.k, ROWS_OF, KV_HEADS, keys, width);
    wrong |= touched(a.v, ROWS_OF, KV_HEADS, keys, value_width) | touched(a.y, ROWS_OF, heads, tokens, value_width);
    free((void *)a.sinks), free(a.log_sum_exp);
    return wrong;
}

static int tried(int64_t tokens, int64_t group, int64_t width, int64_t value_width, int64_t window, int sinks) {
    return tried_after(0, tokens, group, width, value_width, window, sinks) |
           tried_after(1, tokens, group, width, value_width, window, sinks) |
           tried_after(75, tokens, group, width, value_width, window, sinks);
}

int main(void) { return shapes(tried); }
