/* What the forward and the backward of attention in tiles share: tiles of 32 tokens.
 *
 * Everything is seen with its queries in the lanes of vectors: scores are keys x queries, so that the maximum, the sum and
 * the log-sum-exp of a query are lanes of a vector and nothing is added up across one.
 *
 * Tokens come in spans of 32: two tiles of scores each way. What lies past the last token, or the last feature of a head,
 * is zero.
 */
#ifndef BLOCKZOO_TILED_ATTENTION_H
#define BLOCKZOO_TILED_ATTENTION_H

#include "causal_attention.h"
#include "tiles.h"

#define LOG2_E 1.44269504088896341f

/* Bytes of a span of tokens as tiles. */
static inline size_t span_bytes(int64_t width) { return (size_t)(width + SPAN - 1) / SPAN * SPAN * SPAN * 2; }

/* A head in bfloat16. */
static inline uint16_t *halves_of(const Heads *x, int64_t row, int64_t head) { return (uint16_t *)x->numbers + row * x->row + head * x->head; }

#if defined(TILES)

/* Which of the queries in lanes, whose places among the keys these are, look at a key. */
TILED INLINE __mmask16 looking(const CausalAttention *a, __m512i queries, int64_t key) {
    const int64_t behind = key + a->window < keys_of(a) ? key + a->window : keys_of(a);
    const __mmask16 since = _mm512_cmpge_epi32_mask(queries, _mm512_set1_epi32((int)key));
    return _mm512_mask_cmplt_epi32_mask(since, queries, _mm512_set1_epi32((int)behind));
}

TILED INLINE __m512i lanes_from(int64_t first) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(lanes, _mm512_set1_epi32((int)first));
}

/* 2^x within 4e-6 of itself, 0 below -200; NaN stays NaN. By the Taylor series of 2^f, |f| <= 1/2. */
TILED INLINE __m512 power_of_2(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-200), x);
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_fmadd_ps(f, _mm512_set1_ps(9.6181291e-3f), _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(f, y, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(f, y, _mm512_set1_ps(6.9314718e-1f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(f, y, _mm512_set1_ps(1)), whole);
}

/* Numbers of two rows by turns: pairs for the right operand of a product. Lanes 0..15 of both, and the others. */
TILED INLINE void pair(__m512i even, __m512i odd, char *low, char *high) {
    const __m512i turns = _mm512_or_si512(lanes_from(0), _mm512_slli_epi32(lanes_from(32), 16));
    _mm512_store_si512(low, _mm512_permutex2var_epi16(even, turns, odd));
    _mm512_store_si512(high, _mm512_permutex2var_epi16(even, _mm512_add_epi16(turns, _mm512_set1_epi16(16)), odd));
}

/* A span of tokens as an operand: where each kind is wanted, NULL where it isn't. */
typedef struct {
    char *rows;    /* left, tokens x features: [half of the tokens][32 features] tiles */
    char *turned;  /* right, features x tokens: [half of the tokens][32 features] */
    char *columns; /* left, features x tokens: [16 features] */
    char *paired;  /* right, tokens x features: [16 features] */
} Operands;

/* Packs `count` tokens, `stride` numbers apart. */
TILED INLINE void pack(const uint16_t *x, int64_t stride, int64_t count, int64_t width, Operands to) {
    const int steps = (int)((width + SPAN - 1) / SPAN);
    const __m512i even = _mm512_add_epi16(_mm512_set1_epi32(0x20000), _mm512_mullo_epi32(lanes_from(0), _mm512_set1_epi32(0x40004)));
    for (int f = 0; f < steps; f++) {
        const int64_t left = width - f * SPAN;
        const __mmask32 features = left < SPAN ? (1u << left) - 1 : ~0u;
        __m512i rows[2][TILE];
        for (int t = 0; t < SPAN; t++)
            rows[t / TILE][t % TILE] = t < count ? _mm512_maskz_loadu_epi16(features, x + t * stride + f * SPAN) : _mm512_setzero_si512();
        if (to.paired)
            for (int t = 0; t < TILE; t++) {
                char *at = to.paired + 2 * f * TILE_BYTES + t * 64;
                pair(rows[2 * t / TILE][2 * t % TILE], rows[2 * t / TILE][2 * t % TILE + 1], at, at + TILE_BYTES);
            }
        if (to.rows)
            for (int t = 0; t < SPAN; t++) _mm512_store_si512(to.rows + ((t / TILE) * steps + f) * TILE_BYTES + t % TILE * 64, rows[t / TILE][t % TILE]);
        if (!to.turned && !to.columns) continue;
        transpose((Words *)rows[0]);
        transpose((Words *)rows[1]);
        if (to.turned)
            for (int t = 0; t < SPAN; t++) _mm512_store_si512(to.turned + ((t / TILE) * steps + f) * TILE_BYTES + t % TILE * 64, rows[t / TILE][t % TILE]);
        if (to.columns)
            for (int t = 0; t < TILE; t++) {
                char *at = to.columns + (2 * f + 2 * t / TILE) * TILE_BYTES + 2 * t % TILE * 64;
                _mm512_store_si512(at, _mm512_permutex2var_epi16(rows[0][t], even, rows[1][t]));
                _mm512_store_si512(at + 64, _mm512_permutex2var_epi16(rows[0][t], _mm512_add_epi16(even, _mm512_set1_epi16(1)), rows[1][t]));
            }
    }
}

/* Writes a row's 32 features, `left` of them where they are fewer. */
TILED INLINE void put(__m512 low, __m512 high, int64_t left, uint16_t *to) {
    _mm512_mask_storeu_epi16(to, left < SPAN ? (1u << left) - 1 : ~0u, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* Sums [features][queries], times a factor for each query, into `count` rows of queries. */
TILED INLINE void put_turned(Sums sums, const __m512 factors[2], int64_t left, int64_t count, uint16_t *to, int64_t stride) {
    for (int j = 0; j < 2; j++) {
        __m512i low[TILE], high[TILE];
        for (int r = 0; r < TILE; r++) {
            low[r] = (__m512i)_mm512_mul_ps(_mm512_load_ps(sums[0][j] + r * TILE), factors[j]);
            high[r] = (__m512i)_mm512_mul_ps(_mm512_load_ps(sums[1][j] + r * TILE), factors[j]);
        }
        transpose((Words *)low);
        transpose((Words *)high);
        for (int t = 0; t < TILE && j * TILE + t < count; t++) put((__m512)low[t], (__m512)high[t], left, to + (j * TILE + t) * stride);
    }
}

#endif

#endif
