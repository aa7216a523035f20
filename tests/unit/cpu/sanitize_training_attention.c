/* Runs attention's forward for training on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "sanitize_training.h"
#include "training_attention.c"

static int tried(int64_t tokens, int64_t group, int64_t width, int64_t value_width, int64_t window, int sinks) {
    enum { ROWS_OF = 2, KV_HEADS = 2 };
    const int64_t heads = group * KV_HEADS;
    TrainingAttention a = {.q = heads_of(ROWS_OF, heads, tokens, width),
                           .k = heads_of(ROWS_OF, KV_HEADS, tokens, width),
                           .v = heads_of(ROWS_OF, KV_HEADS, tokens, value_width),
                           .y = heads_of(ROWS_OF, heads, tokens, value_width),
                           .sinks = sinks ? numbers_of(F32, heads) : NULL,
                           .log_sum_exp = numbers_of(F32, ROWS_OF * heads * tokens),
                           .batch = ROWS_OF, .heads = heads, .kv_heads = KV_HEADS, .tokens = tokens, .width = width,
                           .value_width = value_width, .window = window, .scale = .2};
    int wrong = called(&TRAINING_ATTENTION, &a);
    wrong |= touched(a.q, ROWS_OF, heads, tokens, width) | touched(a.k, ROWS_OF, KV_HEADS, tokens, width);
    wrong |= touched(a.v, ROWS_OF, KV_HEADS, tokens, value_width) | touched(a.y, ROWS_OF, heads, tokens, value_width);
    free((void *)a.sinks), free(a.log_sum_exp);
    return wrong;
}

int main(void) { return shapes(tried); }
