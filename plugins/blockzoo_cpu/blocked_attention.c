/* Causal attention in float32, forward, without earlier keys.
 *
 * A task is a row's head of keys with the heads of queries that share it. A span of 32 queries has all its scores at once, so the
 * softmax is that of the textbook; then the weighted values (features x queries), which are turned when they are written.
 */
#if defined(__GNUC__) && !defined(__clang__) /* comparisons may become selections: nobody listens to the traps of NaNs */
#pragma GCC optimize("no-trapping-math", "no-math-errno")
#endif
#include "blocked_attention.h"

enum { BLOCK = 256 /* keys whose weights stay in the first cache while values meet them */ };

/* Of a thread: a head of keys and of values; one span of queries, and turned; its scores; its weighted values, and turned. */
typedef struct {
    float *keys, *values, *rows, *queries, *scores, *sums, *turned;
} Memory;

/* Carves the memory of a thread from `room` on; how many bytes it takes. */
static size_t carve(const CausalAttention *a, char *room, Memory *m) {
    const size_t n = padded(a->tokens), k = padded(a->width), v = padded(a->value_width);
    uintptr_t at = (uintptr_t)room;
#define PIECE(numbers) (float *)(at += (numbers) * sizeof(float), at - (numbers) * sizeof(float))
    m->keys = PIECE(n * k);
    m->values = PIECE(n * v);
    m->rows = PIECE(SPAN * k);
    m->queries = PIECE(SPAN * k);
    m->scores = PIECE(n * SPAN);
    m->sums = PIECE(SPAN * v);
    m->turned = PIECE(SPAN * v);
#undef PIECE
    return at - (uintptr_t)room;
}

static size_t memory_bytes(const CausalAttention *a) {
    Memory m;
    return carve(a, NULL, &m);
}

/* Makes the scores of spans first..last of keys their weights: e to the power of each, less the highest; of these, the sums. */
INLINE void weigh(const CausalAttention *a, float *scores, int64_t first, int64_t last, int64_t span, float sink, float highest[SPAN], float sum[SPAN]) {
    for (int q = 0; q < SPAN; q++) highest[q] = sink;
    for (int64_t i = first; i <= last; i++) {
        float *at = scores + (i - first) * SPAN * SPAN;
        scale_span(a, i, span, at);
        for (int k = 0; k < SPAN; k++)
            for (int q = 0; q < SPAN; q++) highest[q] = at[k * SPAN + q] > highest[q] ? at[k * SPAN + q] : highest[q];
    }
    for (int q = 0; q < SPAN; q++) sum[q] = weight_of(sink - highest[q]);
    for (int64_t k = 0; k < (last + 1 - first) * SPAN; k++)
        for (int q = 0; q < SPAN; q++) sum[q] += scores[k * SPAN + q] = weight_of(scores[k * SPAN + q] - highest[q]);
}

INLINE void attend_span(const CausalAttention *a, const Memory *m, int64_t row, int64_t head, int64_t span) {
    const int64_t token = span * SPAN, count = least(a->tokens - token, SPAN), first = first_keys(a, span), last = last_keys(a, span);
    const size_t k = padded(a->width), v = padded(a->value_width), n = (size_t)(last + 1 - first) * SPAN;
    copy_padded(floats_of(&a->q, row, head) + token * a->q.token, a->q.token, count, a->width, m->rows);
    turn(m->rows, SPAN, k, m->queries);
    multiply(m->scores, SPAN, n, m->keys + first * SPAN * k, k, 1, m->queries, SPAN, (size_t)a->width, 1);
    _Alignas(64) float highest[SPAN], sum[SPAN];
    weigh(a, m->scores, first, last, span, a->sinks ? a->sinks[head] : -INFINITY, highest, sum);
    for (size_t i = 0; i < n; i += BLOCK)
        multiply(m->sums, SPAN, v, m->values + (first * SPAN + i) * v, 1, v, m->scores + i * SPAN, SPAN, n - i < BLOCK ? n - i : BLOCK, i == 0);
    turn(m->sums, v, SPAN, m->turned);
    float *y = floats_of(&a->y, row, head) + token * a->y.token, *log_sum_exp = a->log_sum_exp + (row * a->heads + head) * a->tokens + token;
    for (int64_t t = 0; t < count; t++) {
        put(m->turned + t * v, 1 / sum[t], a->value_width, y + t * a->y.token);
        log_sum_exp[t] = highest[t] + logf(sum[t]);
    }
}

LONG static void attend_head(const CausalAttention *a, const Memory *m, int64_t row, int64_t kv_head) {
    const int64_t group = a->heads / a->kv_heads;
    copy_padded(floats_of(&a->k, row, kv_head), a->k.token, a->tokens, a->width, m->keys);
    copy_padded(floats_of(&a->v, row, kv_head), a->v.token, a->tokens, a->value_width, m->values);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t span = 0; span < spans_of(a); span++) attend_span(a, m, row, head, span);
}

static void forward_work(const void *call, char *room, int me, int all) {
    const CausalAttention *a = call;
    int64_t row, kv_head, *next = first_task(room, me, all);
    Memory m;
    carve(a, room + NUMBERED + me * memory_bytes(a), &m);
    while (take_task(next, a, &row, &kv_head)) attend_head(a, &m, row, kv_head);
}

static size_t forward_room(const void *call) { return NUMBERED + most_threads() * memory_bytes(call); }
static int forward_alone(const void *call) { return small_attention(call); }

const Operation BLOCKED_ATTENTION = {.work = forward_work, .room = forward_room, .alone = forward_alone};
