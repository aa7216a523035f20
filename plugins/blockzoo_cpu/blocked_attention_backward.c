/* Causal attention in float32, backward: weights are computed again from the log-sum-exps, a block of keys and a span of queries at
 * a time (Dao 2023, arXiv:2307.08691).
 *
 * A task is a row's head of keys with the heads of queries that share it, so that no sum is ever shared by threads.
 */
#if defined(__GNUC__) && !defined(__clang__) /* comparisons may become selections: nobody listens to the traps of NaNs */
#pragma GCC optimize("no-trapping-math", "no-math-errno")
#endif
#include "blocked_attention.h"

enum { BLOCK = 4 /* spans of keys: their scores and score gradients fill two thirds of the first cache */ };

/* Of a thread: a head of keys and of values and their gradients; a span of queries and of gradients of y, and both turned; weights
 * and score gradients of a block; the span's gradient, y times its gradient, and the log-sum-exps.
 */
typedef struct {
    float *k, *v, *dk, *dv, *q, *dy, *turned_q, *turned_dy, *weights, *dscores, *dq, *delta, *log_sum_exp;
} Memory;

/* Carves the memory of a thread from `room` on; how many bytes it takes. */
static size_t carve(const CausalAttention *a, char *room, Memory *m) {
    const size_t n = padded(a->tokens), k = padded(a->width), v = padded(a->value_width);
    uintptr_t at = (uintptr_t)room;
#define PIECE(numbers) (float *)(at += (numbers) * sizeof(float), at - (numbers) * sizeof(float))
    m->k = PIECE(n * k), m->dk = PIECE(n * k);
    m->v = PIECE(n * v), m->dv = PIECE(n * v);
    m->q = PIECE(SPAN * k), m->turned_q = PIECE(SPAN * k), m->dq = PIECE(SPAN * k);
    m->dy = PIECE(SPAN * v), m->turned_dy = PIECE(SPAN * v);
    m->weights = PIECE(BLOCK * SPAN * SPAN), m->dscores = PIECE(BLOCK * SPAN * SPAN);
    m->delta = PIECE(SPAN), m->log_sum_exp = PIECE(SPAN);
#undef PIECE
    return at - (uintptr_t)room;
}

static size_t memory_bytes(const CausalAttention *a) {
    Memory m;
    return carve(a, NULL, &m);
}

/* Of a span: scores become weights, and gradients of weights those of scores. */
INLINE void weigh(const CausalAttention *a, const Memory *m, int64_t keys, int64_t queries, float *weights, float *dscores) {
    scale_span(a, keys, queries, weights);
    for (int k = 0; k < SPAN; k++)
        for (int q = 0; q < SPAN; q++) {
            const float weight = weight_of(weights[k * SPAN + q] - m->log_sum_exp[q]);
            weights[k * SPAN + q] = weight;
            dscores[k * SPAN + q] = weight * (dscores[k * SPAN + q] - m->delta[q]);
        }
}

/* A block of keys and a span of queries: their parts in the gradients of queries, keys and values. */
INLINE void block(const CausalAttention *a, const Memory *m, int64_t first, int64_t until, int64_t span, int fresh) {
    const size_t k = padded(a->width), v = padded(a->value_width), n = (size_t)(until - first) * SPAN, from = (size_t)first * SPAN;
    multiply(m->weights, SPAN, n, m->k + from * k, k, 1, m->turned_q, SPAN, (size_t)a->width, 1);
    multiply(m->dscores, SPAN, n, m->v + from * v, v, 1, m->turned_dy, SPAN, (size_t)a->value_width, 1);
    for (int64_t i = first; i < until; i++) weigh(a, m, i, span, m->weights + (i - first) * SPAN * SPAN, m->dscores + (i - first) * SPAN * SPAN);
    for (size_t f = 0; f < v; f += SPAN) multiply(m->dv + from * v + f, v, n, m->weights, SPAN, 1, m->dy + f, v, SPAN, 0);
    for (size_t f = 0; f < k; f += SPAN) multiply(m->dk + from * k + f, k, n, m->dscores, SPAN, 1, m->q + f, k, SPAN, 0);
    for (size_t f = 0; f < k; f += SPAN) multiply(m->dq + f, k, SPAN, m->dscores, 1, SPAN, m->k + from * k + f, k, n, fresh);
}

/* The sum of products of two rows. */
INLINE float product(const float *x, const float *y, int64_t width) {
    float sums[16] = {0}, sum = 0;
    int64_t f = 0;
    for (; f + 16 <= width; f += 16)
        for (int j = 0; j < 16; j++) sums[j] += x[f + j] * y[f + j];
    for (; f < width; f++) sum += x[f] * y[f];
    for (int j = 0; j < 16; j++) sum += sums[j];
    return sum;
}

/* A span of queries of one head: its gradient, and its part in those of keys and values; y times its gradient and the log-sum-exps are kept. */
INLINE void differentiate(const CausalAttentionBackward *b, const Memory *m, int64_t row, int64_t head, int64_t span) {
    const CausalAttention *a = &b->of;
    const int64_t token = span * SPAN, count = least(a->tokens - token, SPAN);
    const size_t k = padded(a->width), v = padded(a->value_width);
    const float *y = floats_of(&a->y, row, head) + token * a->y.token, *log_sum_exp = a->log_sum_exp + (row * a->heads + head) * a->tokens + token;
    copy_padded(floats_of(&a->q, row, head) + token * a->q.token, a->q.token, count, a->width, m->q);
    copy_padded(floats_of(&b->dy, row, head) + token * b->dy.token, b->dy.token, count, a->value_width, m->dy);
    turn(m->q, SPAN, k, m->turned_q);
    turn(m->dy, SPAN, v, m->turned_dy);
    for (int64_t t = 0; t < SPAN; t++) {
        m->delta[t] = t < count ? product(y + t * a->y.token, m->dy + t * v, a->value_width) : 0;
        m->log_sum_exp[t] = t < count ? log_sum_exp[t] : 0;
    }
    if (a->sinks)
        for (int64_t t = 0; t < count; t++) b->dsinks[row * a->heads + head] -= expf(a->sinks[head] - log_sum_exp[t]) * m->delta[t];
    const int64_t from = first_keys(a, span), until = last_keys(a, span) + 1;
    for (int64_t first = from; first < until; first += BLOCK) block(a, m, first, least(first + BLOCK, until), span, first == from);
    float *dq = floats_of(&b->dq, row, head) + token * b->dq.token;
    for (int64_t t = 0; t < count; t++) put(m->dq + t * k, (float)a->scale, a->width, dq + t * b->dq.token);
}

LONG static void differentiate_group(const CausalAttentionBackward *b, const Memory *m, int64_t row, int64_t kv_head) {
    const CausalAttention *a = &b->of;
    const int64_t group = a->heads / a->kv_heads;
    const size_t n = padded(a->tokens), k = padded(a->width), v = padded(a->value_width);
    copy_padded(floats_of(&a->k, row, kv_head), a->k.token, a->tokens, a->width, m->k);
    copy_padded(floats_of(&a->v, row, kv_head), a->v.token, a->tokens, a->value_width, m->v);
    memset(m->dk, 0, n * k * sizeof(float));
    memset(m->dv, 0, n * v * sizeof(float));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        if (a->sinks) b->dsinks[row * a->heads + head] = 0;
        for (int64_t span = 0; span < spans_of(a); span++) differentiate(b, m, row, head, span);
    }
    float *dk = floats_of(&b->dk, row, kv_head), *dv = floats_of(&b->dv, row, kv_head);
    for (int64_t t = 0; t < a->tokens; t++) {
        put(m->dk + t * k, (float)a->scale, a->width, dk + t * b->dk.token);
        put(m->dv + t * v, 1, a->value_width, dv + t * b->dv.token);
    }
}

static void backward_work(const void *call, char *room, int me, int all) {
    const CausalAttentionBackward *b = call;
    int64_t row, kv_head, *next = first_task(room, me, all);
    Memory m;
    carve(&b->of, room + NUMBERED + me * memory_bytes(&b->of), &m);
    while (take_task(next, &b->of, &row, &kv_head)) differentiate_group(b, &m, row, kv_head);
}

static size_t backward_room(const void *call) { return NUMBERED + most_threads() * memory_bytes(&((const CausalAttentionBackward *)call)->of); }
static int backward_alone(const void *call) { return small_attention(&((const CausalAttentionBackward *)call)->of); }

const Operation BLOCKED_ATTENTION_BACKWARD = {.work = backward_work, .room = backward_room, .alone = backward_alone};
