/* What the forward and the backward of attention in float32 share: 32 queries side by side, and products of blocks.
 *
 * Scores are keys x queries, so that the maximum and the sum of a query's are lanes of a vector. Heads are copied, padded with
 * zeros to whole spans of tokens and of features: no product has an edge.
 */
#ifndef BLOCKZOO_BLOCKED_ATTENTION_H
#define BLOCKZOO_BLOCKED_ATTENTION_H

#include "causal_attention.h"
#include "exponential.h"
#include "transpose.h"

#if defined(__x86_64__)
#define LONG AVX512 /* shorter vectors are not worth it: nothing calls this without them */
#else
#define LONG
#endif

typedef float Lanes __attribute__((vector_size(64), may_alias));

enum { AT_ONCE = 8 /* rows of a product: with two vectors each they fill half of the registers of AVX-512 */ };

static inline size_t padded(int64_t n) { return (size_t)(n + SPAN - 1) / SPAN * SPAN; }

/* c (rows x 32) = or += a (rows x steps) times b (steps x 32); `rows` is a multiple of 8. Numbers of a lie `a_row` and `a_step`
 * apart, a row of c and a step of b `c_row` and `b_step`.
 */
INLINE void multiply(float *c, size_t c_row, size_t rows, const float *a, size_t a_row, size_t a_step, const float *b, size_t b_step, size_t steps,
                     int fresh) {
    for (size_t r = 0; r < rows; r += AT_ONCE, a += AT_ONCE * a_row, c += AT_ONCE * c_row) {
        Lanes sums[AT_ONCE][2] = {0};
        for (size_t s = 0; s < steps; s++) {
            const Lanes *right = (const Lanes *)(b + s * b_step);
            for (int i = 0; i < AT_ONCE; i++) {
                const float left = a[i * a_row + s * a_step];
                sums[i][0] += left * right[0];
                sums[i][1] += left * right[1];
            }
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int half = 0; half < 2; half++) { /* what was there comes last: sums of short sums are nearer to the truth */
                Lanes *to = (Lanes *)(c + i * c_row) + half;
                if (!fresh) sums[i][half] += *to;
                *to = sums[i][half];
            }
    }
}

static inline float *floats_of(const Heads *x, int64_t row, int64_t head) { return (float *)x->numbers + row * x->row + head * x->head; }

/* `count` tokens as whole spans: rows of padded(width) numbers. */
static inline void copy_padded(const float *x, int64_t stride, int64_t count, int64_t width, float *to) {
    const size_t row = padded(width);
    memset(to, 0, padded(count) * row * sizeof(float));
    for (int64_t t = 0; t < count; t++) memcpy(to + t * row, x + t * stride, (size_t)width * sizeof(float));
}

/* Rows of numbers, turned: `rows` x `columns`, multiples of 16, into `columns` x `rows`. */
INLINE void turn(const float *x, size_t rows, size_t columns, float *to) {
    for (size_t r = 0; r < rows; r += 16)
        for (size_t c = 0; c < columns; c += 16) {
            Words numbers[16];
            for (int i = 0; i < 16; i++) numbers[i] = *(const Words *)(x + (r + i) * columns + c);
            transpose(numbers);
            for (int i = 0; i < 16; i++) *(Words *)(to + (c + i) * rows + r) = numbers[i];
        }
}

/* Scores of a span of queries for one of keys, times the scale; -INFINITY where a query doesn't look. */
INLINE void scale_span(const CausalAttention *a, int64_t keys, int64_t queries, float *scores) {
    const float scale = (float)a->scale;
    const int hidden = partly_hidden(a, keys, queries);
    for (int k = 0; k < SPAN; k++)
        for (int q = 0; q < SPAN; q++) {
            const int distance = (int)(queries - keys) * SPAN + q - k, seen = !hidden || (distance >= 0 && distance < (int)a->window);
            const float score = scores[k * SPAN + q] * scale;
            scores[k * SPAN + q] = seen ? score : -INFINITY;
        }
}

/* A token times a factor. */
INLINE void put(const float *x, float factor, int64_t width, float *to) {
    for (int64_t f = 0; f < width; f++) to[f] = x[f] * factor;
}

/* e^x, and 0 where that is less than any sum of weights can tell; NaN stays NaN. */
INLINE float weight_of(float x) {
    const float weight = exponential(x);
    return x < -64.f ? 0 : weight;
}

#endif
