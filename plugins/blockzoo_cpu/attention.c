/* Attention of one query a row on the cache: every key and value is read once for all query heads of its group.
 *
 * Keys are taken BLOCK at a time: scores of all heads of the group, an online softmax (Milakov & Gimelshein 2018,
 * arXiv:1805.02867), values added by weight. All sums are float32. A (row, key head) pair, or a share of its keys where
 * pairs are fewer than threads can divide, is one thread's; shares are merged at the end, where the sink comes in.
 *
 * Axes: B rows, H query heads, Hk key heads, G = H / Hk, S keys, D width of keys, E of values.
 */
#include <float.h>

#include "calls.h"

enum { BLOCK = 128 /* keys */, LANES = 16, SHARE = 1024 /* keys of a thread, at least */, ALONE = 1 << 16 /* bytes */ };

/* What a call says. Every member has 8 bytes, as the caller packs them. Strides are in elements; the last axis has 1. */
typedef struct {
    const void *q, *k, *v;    /* q (B, H, D), k (B, Hk, S, D), v (B, Hk, S, E) of `type` */
    void *y;                  /* (B, H, E) of `type` */
    const int64_t *position;  /* (B), or NULL: every key is seen */
    const int64_t *positions; /* (B, S) of the keys, -1 where there is none */
    const void *sinks;        /* (H) of `sink_type`, or NULL */
    int64_t sink_type, type, batch, heads, kv_heads, keys, width, value_width;
    int64_t k_row, k_head, k_key, v_row, v_head, v_key, position_row, positions_row;
    int64_t window;        /* 0: none */
    double scale, softcap; /* softcap 0: none */
    int64_t wide;
} Attention;

/* The keys of one thread's task, its queries, and what it has found: sums of values by exp(score - highest). */
typedef struct {
    const void *k, *v;
    const int64_t *positions; /* NULL: all are seen */
    int64_t position, keys;
    int heads;
    const float *q;       /* (G, D to a multiple of LANES), scaled, zeros past D */
    float *scores;        /* (BLOCK, G) */
    float *highest, *sum; /* (G) */
    float *values;        /* (G, E to a multiple of LANES) */
} Task;

typedef void (*Attend)(const Attention *a, const Task *t);

static inline int to_lanes(int64_t n) { return (int)((n + LANES - 1) / LANES * LANES); }

static inline size_t size_of(const Attention *a) { return (size_t)width_of((int)a->type); }

static inline const char *at(const void *base, int64_t index, const Attention *a) {
    return (const char *)base + index * (int64_t)size_of(a);
}

static inline float number(const void *values, int64_t index, int64_t type) {
    return type == BF16 ? of_bf16(((const uint16_t *)values)[index]) : ((const float *)values)[index];
}

/* Which of n keys are seen. Returns how many. What lies where none is may be anything, NaN too: nothing looks at it. */
static int seen(const Attention *a, const Task *t, int64_t first, int n, uint8_t *shown) {
    int found = 0;
    for (int i = 0; i < n; i++) {
        int64_t key = t->positions[first + i], distance = t->position - key;
        shown[i] = key >= 0 && distance >= 0 && (!a->window || distance < a->window);
        found += shown[i];
    }
    return found;
}

/* --- plain C --- */

VARIANTS static void attend_plain(const Attention *a, const Task *t) {
    const int wide_q = to_lanes(a->width), wide_v = to_lanes(a->value_width), width = (int)a->width;
    float row[LANES];
    uint8_t shown[BLOCK];
    for (int64_t first = 0; first < t->keys; first += BLOCK) {
        const int n = (int)(t->keys - first < BLOCK ? t->keys - first : BLOCK);
        if (t->positions && !seen(a, t, first, n, shown)) continue;
        for (int i = 0; i < n; i++) {
            const void *key = at(t->k, (first + i) * a->k_key, a);
            for (int g = 0; g < t->heads; g++) {
                float sums[LANES] = {0}, score = 0;
                for (int d = 0; d < width; d += LANES) {
                    const int left = width - d < LANES ? width - d : LANES;
                    for (int j = 0; j < left; j++) row[j] = number(key, d + j, a->type);
                    for (int j = 0; j < left; j++) sums[j] += row[j] * t->q[g * wide_q + d + j];
                }
                for (int j = 0; j < LANES; j++) score += sums[j];
                if (a->softcap != 0) score = (float)a->softcap * tanhf(score / (float)a->softcap);
                t->scores[i * t->heads + g] = t->positions && !shown[i] ? -INFINITY : score;
            }
        }
        for (int g = 0; g < t->heads; g++) {
            float highest = t->highest[g], sum = 0, *values = t->values + (size_t)g * wide_v;
            for (int i = 0; i < n; i++) highest = fmaxf(highest, t->scores[i * t->heads + g]);
            const float shrink = expf(t->highest[g] - highest);
            for (int64_t e = 0; e < a->value_width; e++) values[e] *= shrink;
            for (int i = 0; i < n; i++) {
                const float weight = expf(t->scores[i * t->heads + g] - highest);
                t->scores[i * t->heads + g] = weight;
                sum += weight;
            }
            t->sum[g] = t->sum[g] * shrink + sum;
            t->highest[g] = highest;
        }
        for (int i = 0; i < n; i++) {
            if (t->positions && !shown[i]) continue;
            const void *value = at(t->v, (first + i) * a->v_key, a);
            for (int64_t e = 0; e < a->value_width; e += LANES) {
                const int left = (int)(a->value_width - e < LANES ? a->value_width - e : LANES);
                for (int j = 0; j < left; j++) row[j] = number(value, e + j, a->type);
                for (int g = 0; g < t->heads; g++)
                    for (int j = 0; j < left; j++) t->values[(size_t)g * wide_v + e + j] += t->scores[i * t->heads + g] * row[j];
            }
        }
    }
}

/* --- AVX-512: `heads` of a group at a time, a power of two up to 8; 16 / heads keys side by side fill a vector --- */

#if defined(__x86_64__)

enum { AHEAD = 2048 /* bytes that prefetching runs ahead */ };

static inline __mmask16 first_of(int64_t n) { return (__mmask16)((1u << (n < LANES ? n : LANES)) - 1); }

AVX512 INLINE __m512 numbers(const char *from, int d, __mmask16 mask, int bf16) {
    if (!bf16) return _mm512_maskz_loadu_ps(mask, (const float *)from + d);
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)from + d));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* exp, to 2 units in the last place; -infinity gives 0. */
AVX512 INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104), x); /* in this order NaN stays NaN */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x); /* ln 2 in two parts: the first has few bits */
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.f / 5040);
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.f / 720));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.f / 120));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.f / 24));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.f / 6));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(.5f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(y, n);
}

/* Lane i of the result: the sum of all lanes of x[i]. Halves of two vectors, quarters of four, ... meet in one. */
AVX512 INLINE __m512 sums_of(__m512 *x) {
    for (int i = 0; i < 8; i++) {
        __m512 swapped = _mm512_shuffle_f32x4(x[i], x[i + 8], 0x4e); /* high half of the first, low half of the second */
        x[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, x[i], x[i + 8]), swapped);
    }
    for (int i = 0; i < 4; i++) {
        __m512 low = _mm512_mask_blend_ps(0xf0f0, x[i], x[i + 4]);
        __m512 mixed = _mm512_mask_blend_ps(0xf0f0, x[i + 4], x[i]);
        x[i] = _mm512_add_ps(low, _mm512_shuffle_f32x4(mixed, mixed, 0xb1));
    }
    for (int i = 0; i < 2; i++) {
        __m512 low = _mm512_mask_blend_ps(0xcccc, x[i], x[i + 2]);
        x[i] = _mm512_add_ps(low, _mm512_shuffle_ps(x[i], x[i + 2], 0x4e));
    }
    __m512 low = _mm512_mask_blend_ps(0xaaaa, x[0], x[1]), mixed = _mm512_mask_blend_ps(0xaaaa, x[1], x[0]);
    return _mm512_add_ps(low, _mm512_permute_ps(mixed, 0xb1));
}

/* The greatest (or the sum) of the lanes that belong to the same head, in all of them. */
AVX512 INLINE __m512 over_keys(__m512 x, int heads, int add) {
    for (int step = heads; step < LANES; step *= 2) {
        __m512i other = _mm512_xor_si512(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(step));
        __m512 moved = _mm512_permutexvar_ps(other, x);
        x = add ? _mm512_add_ps(x, moved) : _mm512_max_ps(x, moved);
    }
    return x;
}

/* One value of each head, repeated over a vector's keys. */
AVX512 INLINE __m512 spread(const float *values, int heads) {
    __m512i lane = _mm512_and_si512(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(heads - 1));
    return _mm512_permutexvar_ps(lane, _mm512_maskz_loadu_ps(first_of(heads), values));
}

/* n keys from `first` on, met by `heads` heads from `from` on. `shown`: as `seen` says, or NULL. Memory is asked for values while keys
 * are scored, and for the next keys while values are added: these go by columns, of which a pass alone reads a line a row.
 */
AVX512 INLINE void attend_heads(const Attention *a, const Task *t, const int64_t first, const int n, const uint8_t *shown,
                                const int from, const int heads, const int bf16) {
    const int together = LANES / heads, width = (int)a->width, size = bf16 ? 2 : 4;
    const int wide_q = to_lanes(width), wide_v = to_lanes(a->value_width);
    const float *q = t->q + (size_t)from * wide_q;
    float *sums = t->values + (size_t)from * wide_v;
    const char *k = (const char *)t->k + first * a->k_key * size, *v = (const char *)t->v + first * a->v_key * size;
    __m512 highest = _mm512_set1_ps(-FLT_MAX);
    for (int i = 0; i < n; i += together) {
        __m512 x[LANES];
        for (int j = 0; j < LANES; j++) x[j] = _mm512_setzero_ps();
        for (int d = 0; d < width; d += LANES) {
            const __mmask16 mask = first_of(width - d);
#pragma GCC unroll 16
            for (int j = 0; j < together; j++) {
                const char *key = k + (i + j < n ? i + j : n - 1) * a->k_key * size; /* past the last: not looked at */
                if (d * size % 64 == 0) {
                    _mm_prefetch(key + d * size + AHEAD, _MM_HINT_T0);
                    _mm_prefetch(v + (i + j) * a->v_key * size + d * size, _MM_HINT_T0);
                }
                const __m512 numbers_of_key = numbers(key, d, mask, bf16);
#pragma GCC unroll 16
                for (int g = 0; g < heads; g++)
                    x[j * heads + g] = _mm512_fmadd_ps(numbers_of_key, _mm512_loadu_ps(q + g * wide_q + d), x[j * heads + g]);
            }
        }
        __m512 scores = sums_of(x);
        if (a->softcap != 0) { /* tanh by the exponential of twice the value, which keeps its sign out of it */
            const __m512 cap = _mm512_set1_ps((float)a->softcap), one = _mm512_set1_ps(1);
            __m512 ratio = _mm512_div_ps(scores, cap), small = exponential(_mm512_mul_ps(_mm512_set1_ps(-2), _mm512_abs_ps(ratio)));
            __m512 tanh_of = _mm512_div_ps(_mm512_sub_ps(one, small), _mm512_add_ps(one, small));
            const __m512 sign = _mm512_set1_ps(-0.f);
            scores = _mm512_mul_ps(cap, _mm512_or_ps(tanh_of, _mm512_and_ps(sign, ratio)));
        }
        if (shown || n - i < together) {
            unsigned kept = 0;
            for (int j = 0; j < together && i + j < n; j++)
                if (!shown || shown[i + j]) kept |= ((1u << heads) - 1) << j * heads;
            scores = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), (__mmask16)kept, scores);
        }
        highest = _mm512_max_ps(highest, scores);
        _mm512_storeu_ps(t->scores + i * heads, scores);
    }
    const __m512 before = spread(t->highest + from, heads);
    highest = _mm512_max_ps(over_keys(highest, heads, 0), before);
    const __m512 shrink = exponential(_mm512_sub_ps(before, highest));
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < n; i += together) {
        __m512 weights = exponential(_mm512_sub_ps(_mm512_loadu_ps(t->scores + i * heads), highest));
        sum = _mm512_add_ps(sum, weights);
        _mm512_storeu_ps(t->scores + i * heads, weights);
    }
    sum = _mm512_fmadd_ps(spread(t->sum + from, heads), shrink, over_keys(sum, heads, 1));
    _mm512_mask_storeu_ps(t->highest + from, first_of(heads), highest);
    _mm512_mask_storeu_ps(t->sum + from, first_of(heads), sum);
    float shrinks[LANES];
    _mm512_storeu_ps(shrinks, shrink);
    enum { PARTS = 2 }; /* vectors of a value at a time: with 8 heads 16 sums */
    for (int e = 0; e < a->value_width; e += PARTS * LANES) {
        const __mmask16 masks[PARTS] = {first_of(a->value_width - e), a->value_width - e > LANES ? first_of(a->value_width - e - LANES) : 0};
        __m512 x[LANES * PARTS];
        for (int p = 0; p < PARTS; p++)
            for (int g = 0; g < heads; g++) /* a sum past the last value is zero, and not stored */
                x[g * PARTS + p] = _mm512_mul_ps(_mm512_maskz_loadu_ps(masks[p], sums + g * wide_v + e + p * LANES), _mm512_set1_ps(shrinks[g]));
        for (int i = 0; i < n; i++) {
            if (shown && !shown[i]) continue;
            const char *value = v + i * a->v_key * size;
            for (int p = 0; p < PARTS; p++) {
                if ((e + p * LANES) * size % 64 == 0) _mm_prefetch(k + (n + i) * a->k_key * size + (e + p * LANES) * size, _MM_HINT_T1);
                const __m512 numbers_of_value = numbers(value, e + p * LANES, masks[p], bf16);
#pragma GCC unroll 16
                for (int g = 0; g < heads; g++)
                    x[g * PARTS + p] = _mm512_fmadd_ps(numbers_of_value, _mm512_set1_ps(t->scores[i * heads + g]), x[g * PARTS + p]);
            }
        }
        for (int p = 0; p < PARTS; p++)
            for (int g = 0; g < heads; g++) _mm512_mask_storeu_ps(sums + g * wide_v + e + p * LANES, masks[p], x[g * PARTS + p]);
    }
}

#define HEADS(N) \
    for (; t->heads - from >= N; from += N) \
        if (bf16) attend_heads(a, t, first, n, shown, from, N, 1); else attend_heads(a, t, first, n, shown, from, N, 0)

AVX512 static void attend_avx512(const Attention *a, const Task *t) {
    const int bf16 = a->type == BF16;
    uint8_t memory[BLOCK], *shown = t->positions ? memory : NULL;
    for (int64_t first = 0; first < t->keys; first += BLOCK) {
        const int n = (int)(t->keys - first < BLOCK ? t->keys - first : BLOCK);
        if (shown && !seen(a, t, first, n, shown)) continue;
        int from = 0;
        HEADS(8);
        HEADS(4);
        HEADS(2);
        HEADS(1);
    }
}

#endif

/* --- tasks --- */

static Attend kernel_of(const Attention *a) {
#if defined(__x86_64__)
    if (a->wide) return attend_avx512;
#endif
    return attend_plain;
}

/* Over how many shares the keys of a pair are divided. */
static int shares_of(const Attention *a, int threads) {
    int64_t most = (a->keys + SHARE - 1) / SHARE;
    if (a->batch * a->kv_heads % threads == 0 || most < 2) return 1;
    return (int)(most < threads ? most : threads);
}

/* What the shares of a pair found, together with the sink: y of its heads. Sums up in the first share. */
static void merge(const Attention *a, int64_t row, int64_t kv_head, const Task *tasks, int shares) {
    const int64_t heads = a->heads / a->kv_heads, width = a->value_width;
    for (int64_t g = 0; g < heads; g++) {
        const int64_t head = kv_head * heads + g, place = (row * a->heads + head) * width;
        const float sink = a->sinks ? number(a->sinks, head, a->sink_type) : -FLT_MAX;
        float *values = tasks->values + g * to_lanes(width), highest = sink;
        for (int s = 0; s < shares; s++) highest = fmaxf(highest, tasks[s].highest[g]);
        float sum = a->sinks ? expf(sink - highest) : 0;
        for (int s = 0; s < shares; s++) {
            const float factor = expf(tasks[s].highest[g] - highest), *more = tasks[s].values + g * to_lanes(width);
            sum += tasks[s].sum[g] * factor;
            for (int64_t e = 0; e < width; e++) values[e] = s ? values[e] + more[e] * factor : more[e] * factor;
        }
        const float factor = sum == 0 ? 0 : 1 / sum;
        for (int64_t e = 0; e < width; e++)
            if (a->type == BF16)
                ((uint16_t *)a->y)[place + e] = to_bf16(values[e] * factor);
            else
                ((float *)a->y)[place + e] = values[e] * factor;
    }
}

static size_t zeros_of(const Attention *a) { /* floats of a task that start as zero: its queries, values and sums */
    return (size_t)(a->heads / a->kv_heads) * (to_lanes(a->width) + to_lanes(a->value_width) + 1);
}

static size_t each_of(const Attention *a) { return zeros_of(a) + (size_t)(a->heads / a->kv_heads) * (1 + BLOCK); }

static size_t attend_room(const void *call) {
    const Attention *a = call;
    const size_t tasks = (size_t)(a->batch * a->kv_heads) * most_threads(); /* a team may be smaller, its shares fewer */
    return whole_lines(tasks * sizeof(Task)) + tasks * each_of(a) * sizeof(float);
}

static int attend_alone(const void *call) {
    const Attention *a = call;
    return a->batch * a->kv_heads * a->keys * (a->width + a->value_width) * (int64_t)size_of(a) <= ALONE;
}

/* Task i: share i % shares of the keys of pair i / shares. */
static void fill(const Attention *a, int64_t i, int shares, float *q, Task *t) {
    const int64_t heads = a->heads / a->kv_heads, row = i / shares / a->kv_heads, kv_head = i / shares % a->kv_heads, share = i % shares;
    const int64_t first = a->position || !a->window || a->window > a->keys ? 0 : a->keys - a->window;
    const int64_t begin = first + (a->keys - first) * share / shares, end = first + (a->keys - first) * (share + 1) / shares;
    const int wide_q = to_lanes(a->width), wide_v = to_lanes(a->value_width);
    t->k = at(a->k, row * a->k_row + kv_head * a->k_head + begin * a->k_key, a);
    t->v = at(a->v, row * a->v_row + kv_head * a->v_head + begin * a->v_key, a);
    t->positions = a->position ? a->positions + row * a->positions_row + begin : NULL;
    t->position = a->position ? a->position[row * a->position_row] : 0;
    t->keys = end - begin;
    t->heads = (int)heads;
    t->q = q;
    t->values = q + heads * wide_q;
    t->sum = t->values + heads * wide_v;
    t->highest = q + zeros_of(a);
    t->scores = t->highest + heads;
    memset(q, 0, sizeof(float) * zeros_of(a));
    for (int64_t g = 0; g < heads; g++) {
        t->highest[g] = -FLT_MAX;
        for (int64_t d = 0; d < a->width; d++)
            q[g * wide_q + d] = number(a->q, (row * a->heads + kv_head * heads + g) * a->width + d, a->type) * (float)a->scale;
    }
}

static void attend_work(const void *call, char *room, int me, int all) {
    const Attention *a = call;
    const int64_t pairs = a->batch * a->kv_heads;
    const int shares = shares_of(a, all);
    const Attend kernel = kernel_of(a);
    Task *tasks = (Task *)room;
    float *memory = (float *)(room + whole_lines(pairs * shares * sizeof(Task)));
    for (int64_t i = from_of(pairs * shares, me, all); i < until_of(pairs * shares, me, all); i++) {
        fill(a, i, shares, memory + each_of(a) * i, &tasks[i]);
        kernel(a, &tasks[i]);
    }
    if (shares > 1) meet(all);
    for (int64_t i = from_of(pairs, me, all); i < until_of(pairs, me, all); i++)
        merge(a, i / a->kv_heads, i % a->kv_heads, tasks + i * shares, shares);
}

const Operation ATTEND = {.work = attend_work, .room = attend_room, .alone = attend_alone};
