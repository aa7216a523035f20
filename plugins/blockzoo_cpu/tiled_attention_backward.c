/* Causal attention in bfloat16, backward, without earlier keys: weights are computed again from the log-sum-exps, a block of keys and
 * queries at a time (Dao 2023, arXiv:2307.08691).
 *
 * A task is a row's head of keys with the heads of queries that share it, so that no sum is ever shared by threads. Weights
 * and score gradients of a block become tiles; then each gradient takes up its share of the block: those of keys and of values
 * as tokens x features, that of queries as features x tokens.
 */
#include "tiled_attention.h"

#if defined(TILES)

enum { KEYS = 4, QUERIES = 8 /* spans of a block: it stays in the second cache */ };

/* Of a thread: a head of keys and of values, and one of queries and of gradients of y, as tiles; weights and gradients of
 * scores of a block; sums of gradients of both heads; the log-sum-exp of each query, times log2(e), and y times its gradient.
 */
typedef struct {
    Operands k, v, q, dy;
    char *weights, *dscores, *dscores_paired;
    Sums *dq, *dk, *dv;
    float *log_sum_exp, *delta;
} Memory;

/* Carves the memory of a thread from `room` on; how many bytes it takes. */
static size_t carve(const CausalAttention *a, char *room, Memory *m) {
    const size_t k = span_bytes(a->width), v = span_bytes(a->value_width), n = (size_t)spans_of(a), block = KEYS * QUERIES * 2 * TILE_BYTES;
    uintptr_t at = (uintptr_t)room;
#define PIECE(bytes) (void *)(at += (bytes), at - (bytes))
    m->k = (Operands){.rows = PIECE(n * k), .columns = PIECE(n * k)};
    m->v = (Operands){.rows = PIECE(n * v)};
    m->q = (Operands){.turned = PIECE(n * k), .paired = PIECE(n * k)};
    m->dy = (Operands){.turned = PIECE(n * v), .paired = PIECE(n * v)};
    m->weights = PIECE(block);
    m->dscores = PIECE(block);
    m->dscores_paired = PIECE(block);
    m->dq = PIECE(n * 2 * k); /* sums have twice the bytes */
    m->dk = PIECE(n * 2 * k);
    m->dv = PIECE(n * 2 * v);
    m->log_sum_exp = PIECE(n * SPAN * sizeof(float));
    m->delta = PIECE(n * SPAN * sizeof(float));
#undef PIECE
    return at - (uintptr_t)room;
}

static size_t memory_bytes(const CausalAttention *a) {
    Memory m;
    return carve(a, NULL, &m);
}

static inline int64_t up_to(int64_t count) { return count < SPAN ? count : SPAN; }

static inline Operands at_span(Operands o, size_t from) {
    return (Operands){o.rows ? o.rows + from : NULL, o.turned ? o.turned + from : NULL, o.columns ? o.columns + from : NULL,
                      o.paired ? o.paired + from : NULL};
}

TILED static void pack_head(const CausalAttention *a, const Heads *x, int64_t row, int64_t head, int64_t width, Operands to) {
    const uint16_t *numbers = halves_of(x, row, head);
    for (int64_t i = 0; i < spans_of(a); i++)
        pack(numbers + i * SPAN * x->token, x->token, up_to(a->tokens - i * SPAN), width, at_span(to, i * span_bytes(width)));
}

/* delta[t]: y times its gradient, of `count` tokens. */
TILED static void products_of_rows(const uint16_t *y, int64_t y_token, const uint16_t *dy, int64_t dy_token, int64_t count, int64_t width, float *delta) {
    for (int64_t t = 0; t < count; t++, y += y_token, dy += dy_token) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t e = 0; e < width; e += SPAN) {
            const __mmask32 features = width - e < SPAN ? (1u << (width - e)) - 1 : ~0u;
            const __m512i a = _mm512_maskz_loadu_epi16(features, y + e), b = _mm512_maskz_loadu_epi16(features, dy + e);
            const __m512i high = _mm512_set1_epi32((int)0xffff0000);
            sum = _mm512_fmadd_ps((__m512)_mm512_slli_epi32(a, 16), (__m512)_mm512_slli_epi32(b, 16), sum);
            sum = _mm512_fmadd_ps((__m512)_mm512_and_si512(a, high), (__m512)_mm512_and_si512(b, high), sum);
        }
        delta[t] = _mm512_reduce_add_ps(sum);
    }
}

/* Where in a block the weights of span i of its keys and span j of its queries lie, and where that of j and i, each two tiles. */
static inline size_t by_key(int64_t i, int64_t j) { return (size_t)(i * QUERIES + j) * 2 * TILE_BYTES; }
static inline size_t by_query(int64_t j, int64_t i) { return (size_t)(j * KEYS + i) * 2 * TILE_BYTES; }

/* Weights 2^(score - log-sum-exp) and score gradients of a span of keys and one of queries, as operands. */
TILED INLINE void weigh(const CausalAttention *a, const Memory *m, Sums scores, Sums dweights, int hidden, int64_t key, int64_t query, size_t rows,
                      size_t pairs) {
    const __m512i queries[2] = {lanes_from(query), lanes_from(query + TILE)};
    const __m512 factor = _mm512_set1_ps((float)a->scale * LOG2_E);
    const __m512 lse[2] = {_mm512_load_ps(m->log_sum_exp + query), _mm512_load_ps(m->log_sum_exp + query + TILE)};
    const __m512 deltas[2] = {_mm512_load_ps(m->delta + query), _mm512_load_ps(m->delta + query + TILE)};
    for (int r = 0; r < SPAN; r += 2) {
        __m512i both[2];
        for (int i = 0; i < 2; i++) {
            __m512 w[2], d[2];
            for (int half = 0; half < 2; half++) {
                const int at = (r + i) % TILE * TILE;
                w[half] = power_of_2(_mm512_fmsub_ps(_mm512_load_ps(scores[r / TILE][half] + at), factor, lse[half]));
                d[half] = _mm512_mul_ps(w[half], _mm512_sub_ps(_mm512_load_ps(dweights[r / TILE][half] + at), deltas[half]));
                if (hidden) {
                    const __mmask16 seen = looking(a, queries[half], key + r + i);
                    w[half] = _mm512_maskz_mov_ps(seen, w[half]);
                    d[half] = _mm512_maskz_mov_ps(seen, d[half]);
                }
            }
            both[i] = (__m512i)_mm512_cvtne2ps_pbh(d[1], d[0]);
            _mm512_store_si512(m->weights + rows + (r + i) * 64, (__m512i)_mm512_cvtne2ps_pbh(w[1], w[0]));
            _mm512_store_si512(m->dscores + rows + (r + i) * 64, both[i]);
        }
        char *at = m->dscores_paired + pairs + r / 2 * 64;
        pair(both[0], both[1], at, at + TILE_BYTES);
    }
}

/* A block of spans of keys and of queries. `fresh`: keys and values have no gradients yet. */
TILED static void block(const CausalAttention *a, const Memory *m, int64_t keys, int64_t queries, int fresh) {
    const size_t k = span_bytes(a->width), v = span_bytes(a->value_width), two = 2 * TILE_BYTES;
    const int64_t keys_end = least(keys + KEYS, spans_of(a)), queries_end = least(queries + QUERIES, spans_of(a));
    for (int64_t i = keys; i < keys_end; i++) {
        const int64_t from = most(queries, i), until = least(queries_end, last_queries(a, i) + 1);
        if (from >= until) continue;
        for (int64_t j = from; j < until; j++) {
            _Alignas(64) Sums scores, dweights;
            products(scores, 1, (Tiles){m->k.rows + i * k, k / 2, TILE_BYTES}, (Tiles){m->q.turned + j * k, k / 2, TILE_BYTES}, k / two);
            products(dweights, 1, (Tiles){m->v.rows + i * v, v / 2, TILE_BYTES}, (Tiles){m->dy.turned + j * v, v / 2, TILE_BYTES}, v / two);
            const size_t rows = by_key(i - keys, j - queries), pairs = by_query(j - queries, i - keys);
            if (partly_hidden(a, i, j))
                weigh(a, m, scores, dweights, 1, i * SPAN, j * SPAN, rows, pairs);
            else
                weigh(a, m, scores, dweights, 0, i * SPAN, j * SPAN, rows, pairs);
        }
        const size_t rows = by_key(i - keys, from - queries);
        const int first = fresh && from == i;
        for (size_t f = 0; f < v / two; f++)
            products(m->dv[i * (v / two) + f], first, (Tiles){m->weights + rows, TILE_BYTES, two},
                     (Tiles){m->dy.paired + from * v + f * two, TILE_BYTES, v}, until - from);
        for (size_t f = 0; f < k / two; f++)
            products(m->dk[i * (k / two) + f], first, (Tiles){m->dscores + rows, TILE_BYTES, two},
                     (Tiles){m->q.paired + from * k + f * two, TILE_BYTES, k}, until - from);
    }
    for (int64_t j = queries; j < queries_end; j++) {
        const int64_t from = most(keys, first_keys(a, j)), until = least(keys_end, j + 1);
        for (size_t f = 0; f < k / two && from < until; f++)
            products(m->dq[j * (k / two) + f], from == first_keys(a, j), (Tiles){m->k.columns + from * k + f * two, TILE_BYTES, k},
                     (Tiles){m->dscores_paired + by_query(j - queries, from - keys), TILE_BYTES, two}, until - from);
    }
}

/* Sums [tokens][features] of a head of keys times `factor`, into a gradient. */
TILED static void put_head(const CausalAttention *a, Sums *sums, float factor, int64_t width, const Heads *to, int64_t row, int64_t head) {
    const __m512 factors = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < spans_of(a); i++)
        for (int64_t f = 0; f < width; f += SPAN, sums++)
            for (int64_t t = 0; t < up_to(a->tokens - i * SPAN); t++) {
                const float *low = (*sums)[t / TILE][0] + t % TILE * TILE, *high = (*sums)[t / TILE][1] + t % TILE * TILE;
                put(_mm512_mul_ps(_mm512_load_ps(low), factors), _mm512_mul_ps(_mm512_load_ps(high), factors), width - f,
                    halves_of(to, row, head) + (i * SPAN + t) * to->token + f);
            }
}

/* One head of queries: its gradient, and its part in those of keys and values. */
TILED static void differentiate(const CausalAttentionBackward *b, const Memory *m, int64_t row, int64_t head, int fresh) {
    const CausalAttention *a = &b->of;
    pack_head(a, &a->q, row, head, a->width, m->q);
    pack_head(a, &b->dy, row, head, a->value_width, m->dy);
    products_of_rows(halves_of(&a->y, row, head), a->y.token, halves_of(&b->dy, row, head), b->dy.token, a->tokens, a->value_width, m->delta);
    const float *log_sum_exp = a->log_sum_exp + (row * a->heads + head) * a->tokens;
    for (int64_t t = 0; t < spans_of(a) * SPAN; t++) {
        m->log_sum_exp[t] = t < a->tokens ? log_sum_exp[t] * LOG2_E : 0;
        if (t >= a->tokens) m->delta[t] = 0;
    }
    if (a->sinks) {
        float sum = 0;
        for (int64_t t = 0; t < a->tokens; t++) sum -= expf(a->sinks[head] - log_sum_exp[t]) * m->delta[t];
        b->dsinks[row * a->heads + head] = sum;
    }

    for (int64_t keys = 0; keys < spans_of(a); keys += KEYS) {
        const int64_t last = last_queries(a, least(keys + KEYS, spans_of(a)) - 1);
        for (int64_t queries = keys; queries <= last; queries += QUERIES) block(a, m, keys, queries, fresh);
    }
    const __m512 factors[2] = {_mm512_set1_ps((float)a->scale), _mm512_set1_ps((float)a->scale)};
    uint16_t *dq = halves_of(&b->dq, row, head);
    Sums *sums = m->dq;
    for (int64_t i = 0; i < a->tokens; i += SPAN)
        for (int64_t f = 0; f < a->width; f += SPAN) put_turned(*sums++, factors, a->width - f, up_to(a->tokens - i), dq + i * b->dq.token + f, b->dq.token);
}

TILED static void differentiate_group(const CausalAttentionBackward *b, const Memory *m, int64_t row, int64_t kv_head) {
    const CausalAttention *a = &b->of;
    const int64_t group = a->heads / a->kv_heads;
    pack_head(a, &a->k, row, kv_head, a->width, m->k);
    pack_head(a, &a->v, row, kv_head, a->value_width, m->v);
    for (int64_t g = 0; g < group; g++) differentiate(b, m, row, kv_head * group + g, g == 0);
    put_head(a, m->dk, (float)a->scale, a->width, &b->dk, row, kv_head);
    put_head(a, m->dv, 1, a->value_width, &b->dv, row, kv_head);
}

static void backward_work(const void *call, char *room, int me, int all) {
    const CausalAttentionBackward *b = call;
    int64_t row, kv_head, *next = first_task(room, me, all);
    Memory m;
    carve(&b->of, room + NUMBERED + me * memory_bytes(&b->of), &m);
    const TileConfig before = begin_tiles();
    while (take_task(next, &b->of, &row, &kv_head)) differentiate_group(b, &m, row, kv_head);
    end_tiles(before);
}

static size_t backward_room(const void *call) { return NUMBERED + most_threads() * memory_bytes(&((const CausalAttentionBackward *)call)->of); }

#else

static void backward_work(const void *call, char *room, int me, int all) { (void)call, (void)room, (void)me, (void)all; }
static size_t backward_room(const void *call) { return (void)call, 0; }

#endif

static int backward_alone(const void *call) { return small_attention(&((const CausalAttentionBackward *)call)->of); }

const Operation TILED_ATTENTION_BACKWARD = {.work = backward_work, .room = backward_room, .alone = backward_alone};
