/* Causal attention of many queries: what its calls say, and which keys a query sees. Tokens come in spans. */
#ifndef BLOCKZOO_CAUSAL_ATTENTION_H
#define BLOCKZOO_CAUSAL_ATTENTION_H

#include "calls.h"

/* Heads (batch, heads, tokens, features): strides in numbers; features lie side by side. */
typedef struct {
    void *numbers; /* uint16_t in bfloat16, or float */
    int64_t row, head, token;
} Heads;

/* What the forward says: y = softmax(scale q k^T, causal) v of `heads` heads of queries over `kv_heads` of keys, a query sees
 * `window` tokens, itself the last. Keys are those of `earlier` tokens and of the `tokens` that ask. `sinks` (heads) or NULL.
 * `log_sum_exp` (batch, heads, tokens) of the scores, sinks included.
 */
typedef struct {
    Heads q, k, v, y;
    const float *sinks;
    float *log_sum_exp;
    int64_t batch, heads, kv_heads, tokens, earlier, width, value_width, window;
    double scale;
} CausalAttention;

/* What the backward says: of the gradient of y those of q, k and v, and of sinks (batch, heads), each row's share, where there are
 * any. There are no earlier keys.
 */
typedef struct {
    CausalAttention of;
    Heads dy, dq, dk, dv;
    float *dsinks;
} CausalAttentionBackward;

enum { SPAN = 32 /* tokens */ };

static inline int64_t keys_of(const CausalAttention *a) { return a->earlier + a->tokens; }
static inline int64_t spans_of(const CausalAttention *a) { return (a->tokens + SPAN - 1) / SPAN; } /* of queries */
static inline int64_t key_spans_of(const CausalAttention *a) { return (keys_of(a) + SPAN - 1) / SPAN; }

/* The first and the last span of keys that a span of queries sees. And the last of queries that see a span of keys, if none
 * is earlier.
 */
static inline int64_t first_keys(const CausalAttention *a, int64_t queries) {
    const int64_t key = a->earlier + queries * SPAN - a->window + 1;
    return key > 0 ? key / SPAN : 0;
}

static inline int64_t last_keys(const CausalAttention *a, int64_t queries) {
    const int64_t query = queries * SPAN + SPAN - 1, last = a->tokens - 1;
    return (a->earlier + (query < last ? query : last)) / SPAN;
}

static inline int64_t last_queries(const CausalAttention *a, int64_t keys) {
    const int64_t query = (keys * SPAN + SPAN - 1) + (a->window - 1), last = a->tokens - 1;
    return (query < last ? query : last) / SPAN;
}

/* Whether some query of a span may not look at some key of another. */
static inline int partly_hidden(const CausalAttention *a, int64_t keys, int64_t queries) {
    const int64_t key = keys * SPAN, query = a->earlier + queries * SPAN;
    return key + SPAN > query + 1 || query + SPAN - key > a->window || (queries + 1) * SPAN > a->tokens;
}

static inline int small_attention(const CausalAttention *a) {
    return a->batch * a->heads * a->tokens * keys_of(a) * (a->width + a->value_width) <= 1 << 20;
}

/* A task is a row's head of keys with the heads of queries that share it. Threads take them as they come by: where the room of a
 * call begins stands the next one's number.
 */
enum { NUMBERED = 64 /* bytes before the threads' own */ };

static inline int64_t *first_task(char *room, int me, int all) {
    int64_t *next = (int64_t *)room;
    if (me == 0) *next = 0;
    meet(all);
    return next;
}

/* Whether there is another. */
static inline int take_task(int64_t *next, const CausalAttention *a, int64_t *row, int64_t *kv_head) {
    const int64_t task = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    if (task >= a->batch * a->kv_heads) return 0;
    *row = task / a->kv_heads;
    *kv_head = task % a->kv_heads;
    return 1;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
