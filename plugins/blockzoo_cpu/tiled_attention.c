/* Causal attention in bfloat16, forward: blocks of keys with an online softmax (Dao 2023, arXiv:2307.08691).
 *
 * A task is a row's head of keys with the heads of queries that share it: keys and values become tiles once for all of them.
 * A span of 32 queries then goes over blocks of keys: scores, their weights, and the weighted values (features x queries),
 * which are turned when they are written.
 */
#include "tiled_attention.h"

#if defined(TILES)
#include <float.h>

enum { BLOCK = 8 /* spans of keys at a time: their scores and weights stay in the first cache */ };

/* Of a thread: a head of keys and of values as tiles; scores, weights and sums of one span of queries. */
typedef struct {
    char *keys, *values, *queries, *weights;
    Sums *scores, *sums;
} Memory;

static size_t memory_bytes(const CausalAttention *a) {
    const size_t k = span_bytes(a->width), v = span_bytes(a->value_width);
    return key_spans_of(a) * (k + v) + k + BLOCK * (SPAN * SPAN * 2 + sizeof(Sums)) + v / 2 / TILE_BYTES * sizeof(Sums);
}

static Memory memory_at(const CausalAttention *a, char *room) {
    const size_t k = span_bytes(a->width), v = span_bytes(a->value_width);
    Memory m = {.keys = room, .values = room + key_spans_of(a) * k};
    m.queries = m.values + key_spans_of(a) * v;
    m.weights = m.queries + k;
    m.scores = (Sums *)(m.weights + BLOCK * SPAN * SPAN * 2);
    m.sums = m.scores + BLOCK;
    return m;
}

/* Where a softmax stands, a query in each lane: the highest score so far, times log2(e), and the sum of powers from there. */
typedef struct {
    __m512 highest[2], sum[2];
} Softmax;

/* Scores times `factor`, of one half of the queries, and the highest of them and what was. */
TILED INLINE __m512 highest_of(const CausalAttention *a, Sums scores, int half, __m512 highest, __m512 factor, int hidden, int64_t key, __m512i queries) {
    for (int r = 0; r < SPAN; r++) {
        float *at = scores[r / TILE][half] + r % TILE * TILE;
        const __m512 score = _mm512_mul_ps(_mm512_load_ps(at), factor);
        _mm512_store_ps(at, score);
        highest = hidden ? _mm512_mask_max_ps(highest, looking(a, queries, key + r), highest, score) : _mm512_max_ps(highest, score);
    }
    return highest;
}

/* Weights 2^(score - highest) of a span of keys, as right operand; adds them to the sum. */
TILED INLINE void weigh(const CausalAttention *a, Sums scores, Softmax *s, int hidden, int64_t key, const __m512i queries[2], char *weights) {
    for (int r = 0; r < SPAN; r += 2) {
        __m512i both[2];
        for (int i = 0; i < 2; i++) {
            __m512 w[2];
            for (int half = 0; half < 2; half++) {
                w[half] = power_of_2(_mm512_sub_ps(_mm512_load_ps(scores[r / TILE][half] + (r + i) % TILE * TILE), s->highest[half]));
                if (hidden) w[half] = _mm512_maskz_mov_ps(looking(a, queries[half], key + r + i), w[half]);
                s->sum[half] = _mm512_add_ps(s->sum[half], w[half]);
            }
            both[i] = (__m512i)_mm512_cvtne2ps_pbh(w[1], w[0]);
        }
        pair(both[0], both[1], weights + r / 2 * 64, weights + TILE_BYTES + r / 2 * 64);
    }
}

/* One block: spans first..until of keys. */
TILED static void attend_block(const CausalAttention *a, const Memory *m, int64_t span, int64_t first, int64_t until, int fresh, Softmax *s) {
    const size_t k = span_bytes(a->width), v = span_bytes(a->value_width);
    const __m512i queries[2] = {lanes_from(a->earlier + span * SPAN), lanes_from(a->earlier + span * SPAN + TILE)};
    const __m512 factor = _mm512_set1_ps((float)a->scale * LOG2_E), before[2] = {s->highest[0], s->highest[1]};
    for (int64_t i = first; i < until; i++) {
        Sums *scores = m->scores + (i - first);
        products(*scores, 1, (Tiles){m->keys + i * k, k / 2, TILE_BYTES}, (Tiles){m->queries, k / 2, TILE_BYTES}, k / 2 / TILE_BYTES);
        for (int half = 0; half < 2; half++)
            s->highest[half] = partly_hidden(a, i, span) ? highest_of(a, *scores, half, s->highest[half], factor, 1, i * SPAN, queries[half])
                                                         : highest_of(a, *scores, half, s->highest[half], factor, 0, i * SPAN, queries[half]);
    }
    __m512 shrink[2];
    for (int half = 0; half < 2; half++) {
        shrink[half] = power_of_2(_mm512_sub_ps(before[half], s->highest[half]));
        s->sum[half] = _mm512_mul_ps(s->sum[half], shrink[half]);
    }
    for (int64_t i = first; i < until; i++) {
        char *weights = m->weights + (i - first) * 2 * TILE_BYTES;
        if (partly_hidden(a, i, span))
            weigh(a, m->scores[i - first], s, 1, i * SPAN, queries, weights);
        else
            weigh(a, m->scores[i - first], s, 0, i * SPAN, queries, weights);
    }
    for (size_t f = 0; f < v / 2 / TILE_BYTES; f++) {
        Sums *sums = m->sums + f;
        for (int i = 0; !fresh && i < 4; i++)
            for (int r = 0; r < TILE; r++) {
                float *at = (*sums)[i / 2][i % 2] + r * TILE;
                _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), shrink[i % 2]));
            }
        products(*sums, fresh, (Tiles){m->values + first * v + f * 2 * TILE_BYTES, TILE_BYTES, v},
                 (Tiles){m->weights, TILE_BYTES, 2 * TILE_BYTES}, until - first);
    }
}

/* A span of queries of one head. */
TILED static void attend_span(const CausalAttention *a, const Memory *m, int64_t row, int64_t head, int64_t span) {
    const int64_t token = span * SPAN, left = a->tokens - token, count = left < SPAN ? left : SPAN;
    const uint16_t *q = halves_of(&a->q, row, head) + token * a->q.token;
    uint16_t *y = halves_of(&a->y, row, head) + token * a->y.token;
    float *log_sum_exp = a->log_sum_exp + (row * a->heads + head) * a->tokens + token;
    pack(q, a->q.token, count, a->width, (Operands){.turned = m->queries});

    Softmax s;
    for (int half = 0; half < 2; half++) { /* a sink is a key without a value, the first that is seen */
        s.highest[half] = _mm512_set1_ps(a->sinks ? a->sinks[head] * LOG2_E : -FLT_MAX);
        s.sum[half] = _mm512_set1_ps(a->sinks ? 1 : 0);
    }
    const int64_t from = first_keys(a, span), until = last_keys(a, span) + 1;
    for (int64_t first = from; first < until; first += BLOCK)
        attend_block(a, m, span, first, first + BLOCK < until ? first + BLOCK : until, first == from, &s);

    __m512 factors[2];
    for (int half = 0; half < 2; half++) factors[half] = _mm512_div_ps(_mm512_set1_ps(1), s.sum[half]);
    for (int64_t f = 0; f < a->value_width; f += SPAN) put_turned(m->sums[f / SPAN], factors, a->value_width - f, count, y + f, a->y.token);
    _Alignas(64) float highest[SPAN], sum[SPAN];
    for (int half = 0; half < 2; half++) {
        _mm512_store_ps(highest + half * TILE, s.highest[half]);
        _mm512_store_ps(sum + half * TILE, s.sum[half]);
    }
    for (int64_t t = 0; t < count; t++) log_sum_exp[t] = highest[t] / LOG2_E + logf(sum[t]);
}

TILED static void attend_head(const CausalAttention *a, const Memory *m, int64_t row, int64_t kv_head) {
    const size_t k = span_bytes(a->width), v = span_bytes(a->value_width);
    const int64_t group = a->heads / a->kv_heads;
    const uint16_t *keys = halves_of(&a->k, row, kv_head), *values = halves_of(&a->v, row, kv_head);
    for (int64_t i = first_keys(a, 0); i < key_spans_of(a); i++) {
        const int64_t left = keys_of(a) - i * SPAN, count = left < SPAN ? left : SPAN;
        pack(keys + i * SPAN * a->k.token, a->k.token, count, a->width, (Operands){.rows = m->keys + i * k});
        pack(values + i * SPAN * a->v.token, a->v.token, count, a->value_width, (Operands){.columns = m->values + i * v});
    }
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t span = 0; span < spans_of(a); span++) attend_span(a, m, row, head, span);
}

static void forward_work(const void *call, char *room, int me, int all) {
    const CausalAttention *a = call;
    int64_t row, kv_head, *next = first_task(room, me, all);
    const Memory m = memory_at(a, room + NUMBERED + me * memory_bytes(a));
    const TileConfig before = begin_tiles();
    while (take_task(next, a, &row, &kv_head)) attend_head(a, &m, row, kv_head);
    end_tiles(before);
}

static size_t forward_room(const void *call) { return NUMBERED + most_threads() * memory_bytes(call); }

#else

static void forward_work(const void *call, char *room, int me, int all) { (void)call, (void)room, (void)me, (void)all; }
static size_t forward_room(const void *call) { return (void)call, 0; }

#endif

static int forward_alone(const void *call) { return small_attention(call); }

const Operation TILED_ATTENTION = {.work = forward_work, .room = forward_room, .alone = forward_alone};
