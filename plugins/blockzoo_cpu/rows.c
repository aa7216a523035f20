/* Few rows times a weight matrix, or times the matrices of several experts: decoding.
 *
 * Every weight is read once from memory, in the layout it is published in, by one thread; a row of weights stays in the
 * first cache while it is multiplied with each row of activations. Sums are float32. Activations are either float32
 * ("exact") or rounded to int8 by groups of 32 ("rounded"); which one it is is the caller's choice.
 *
 * Axes: n rows of activations, d_in inputs, d_out outputs; a weight row is d_in weights.
 */
#include "common.h"

enum { PAIR = 64, AHEAD = 2048 /* bytes that prefetching runs ahead */ };

/* One row of activations as a weight's kernel reads it. Rounded rows have codes, scales and start; exact ones values. */
typedef struct {
    float *values;  /* (d_in) */
    int8_t *codes;  /* (d_in), in the order of the weight's codes */
    float *scales;  /* (d_in / GROUP), of the activations */
    int32_t *start; /* (d_in / 4): what the weights' offset adds to four products, negated */
} Row;

typedef float (*Dot)(const void *weights, const void *scales, const Row *x, int d_in);

/* twice the value plus 12: unsigned, as one operand of a byte product must be */
static const int8_t E2M1_SHIFTED[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
enum { MXFP4_OFFSET = 12, INT8_OFFSET = 128 };

/* --- plain C: what every machine can run, and what the vector kernels are checked against --- */

VARIANTS static float float32_dot(const void *weights, const void *scales, const Row *x, int d_in) {
    const float *w = weights;
    float sums[16] = {0}, sum = 0;
    int i = 0;
    (void)scales;
    for (; i + 16 <= d_in; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += w[i + j] * x->values[i + j];
    for (; i < d_in; i++) sum += w[i] * x->values[i];
    for (int j = 0; j < 16; j++) sum += sums[j];
    return sum;
}

VARIANTS static float bfloat16_dot(const void *weights, const void *scales, const Row *x, int d_in) {
    const uint16_t *w = weights;
    float sums[16] = {0}, sum = 0;
    int i = 0;
    (void)scales;
    for (; i + 16 <= d_in; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += of_bf16(w[i + j]) * x->values[i + j];
    for (; i < d_in; i++) sum += of_bf16(w[i]) * x->values[i];
    for (int j = 0; j < 16; j++) sum += sums[j];
    return sum;
}

VARIANTS static float mxfp4_dot(const void *weights, const void *scales, const Row *x, int d_in) {
    const uint8_t *w = weights, *exponents = scales;
    float sum = 0;
    for (int g = 0; g < d_in / GROUP; g++) {
        float part = 0;
        for (int i = 0; i < GROUP / 2; i++) {
            uint8_t byte = w[g * GROUP / 2 + i];
            part += E2M1[byte & 15] * x->values[g * GROUP + 2 * i] + E2M1[byte >> 4] * x->values[g * GROUP + 2 * i + 1];
        }
        sum += part * of_e8m0(exponents[g]);
    }
    return sum;
}

VARIANTS static float int8_dot(const void *weights, const void *scales, const Row *x, int d_in) {
    const int8_t *w = weights;
    const uint16_t *steps = scales;
    float sum = 0;
    for (int g = 0; g < d_in / GROUP; g++) {
        float part = 0;
        for (int i = 0; i < GROUP; i++) part += w[g * GROUP + i] * x->values[g * GROUP + i];
        sum += part * of_bf16(steps[g]);
    }
    return sum;
}

/* --- AVX-512 --- */

#if defined(__x86_64__)

AVX512 static float bfloat16_dot_avx512(const void *weights, const void *scales, const Row *x, int d_in) {
    const uint16_t *w = weights;
    __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
    int i = 0;
    (void)scales;
    for (; i + 64 <= d_in; i += 64) {
        _mm_prefetch((const char *)(w + i) + AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)(w + i + 32) + AHEAD, _MM_HINT_T0);
        a = _mm512_fmadd_ps(widened(w + i), _mm512_loadu_ps(x->values + i), a);
        b = _mm512_fmadd_ps(widened(w + i + 16), _mm512_loadu_ps(x->values + i + 16), b);
        c = _mm512_fmadd_ps(widened(w + i + 32), _mm512_loadu_ps(x->values + i + 32), c);
        d = _mm512_fmadd_ps(widened(w + i + 48), _mm512_loadu_ps(x->values + i + 48), d);
    }
    float sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
    for (; i < d_in; i++) sum += of_bf16(w[i]) * x->values[i];
    return sum;
}

/* Scales of up to 16 groups; what is past `left` is zero. */
AVX512 static inline __m512 e8m0_scales(const uint8_t *bytes, __mmask16 mask) {
    __m512i wide = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, bytes));
    __mmask16 denormal = _mm512_mask_testn_epi32_mask(mask, wide, wide);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(_mm512_slli_epi32(wide, 23), denormal, _mm512_set1_epi32(1 << 22)));
}

AVX512 static inline __m512 bf16_scales(const uint16_t *halves, __mmask16 mask) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, halves));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline __mmask16 first(int n) { return (__mmask16)((1u << (n < 16 ? n : 16)) - 1); }

AVX512 static float mxfp4_dot_avx512(const void *weights, const void *scales, const Row *x, int d_in) {
    const uint8_t *w = weights, *exponents = scales;
    const __m512 table = _mm512_loadu_ps(E2M1);
    __m512 sum = _mm512_setzero_ps();
    int groups = d_in / GROUP;
    for (int g = 0; g < groups; g += 16) {
        __m512 scale = e8m0_scales(exponents + g, first(groups - g));
        int left = groups - g < 16 ? groups - g : 16;
        for (int i = 0; i < left; i++) {
            const uint8_t *p = w + (size_t)(g + i) * GROUP / 2;
            const float *at = x->values + (size_t)(g + i) * GROUP; /* even inputs, then odd ones */
            _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
            __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
            /* a permutation looks at the lowest four bits of its index only */
            __m512 part = _mm512_mul_ps(_mm512_permutexvar_ps(bytes, table), _mm512_loadu_ps(at));
            part = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table), _mm512_loadu_ps(at + 16), part);
            sum = _mm512_fmadd_ps(part, _mm512_permutexvar_ps(_mm512_set1_epi32(i), scale), sum);
        }
    }
    return _mm512_reduce_add_ps(sum);
}

AVX512 static float int8_dot_avx512(const void *weights, const void *scales, const Row *x, int d_in) {
    const int8_t *w = weights;
    const uint16_t *steps = scales;
    __m512 sum = _mm512_setzero_ps();
    int groups = d_in / GROUP;
    for (int g = 0; g < groups; g += 16) {
        __m512 scale = bf16_scales(steps + g, first(groups - g));
        int left = groups - g < 16 ? groups - g : 16;
        for (int i = 0; i < left; i++) {
            const int8_t *p = w + (size_t)(g + i) * GROUP;
            const float *at = x->values + (size_t)(g + i) * GROUP;
            _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
            __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
            __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p + 16))));
            __m512 part = _mm512_fmadd_ps(high, _mm512_loadu_ps(at + 16), _mm512_mul_ps(low, _mm512_loadu_ps(at)));
            sum = _mm512_fmadd_ps(part, _mm512_permutexvar_ps(_mm512_set1_epi32(i), scale), sum);
        }
    }
    return _mm512_reduce_add_ps(sum);
}

/* Two groups at a time: 64 byte products, summed by fours. `lanes` says which of 16 scales each sum of four takes. */
AVX512 static float mxfp4_rounded_avx512(const void *weights, const void *scales, const Row *x, int d_in) {
    const uint8_t *w = weights, *exponents = scales;
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)E2M1_SHIFTED));
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1), two = _mm512_set1_epi32(2);
    const __m256i nibble = _mm256_set1_epi8(15);
    __m512 sum = _mm512_setzero_ps();
    int groups = d_in / GROUP;
    for (int g = 0; g < groups; g += 16) {
        __mmask16 mask = first(groups - g);
        __m512 scale = _mm512_mul_ps(e8m0_scales(exponents + g, mask), _mm512_maskz_loadu_ps(mask, x->scales + g));
        __m512i at = lanes;
        int left = groups - g < 16 ? groups - g : 16;
        for (int i = 0; i < left; i += 2, at = _mm512_add_epi32(at, two)) {
            const uint8_t *p = w + (size_t)(g + i) * GROUP / 2;
            _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
            __m256i bytes = _mm256_loadu_si256((const __m256i *)p);
            __m256i low = _mm256_and_si256(bytes, nibble);
            __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
            __m512i codes = _mm512_shuffle_epi8(table, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
            __m512i products = _mm512_loadu_si512(x->start + (size_t)(g + i) * GROUP / 4);
            products = _mm512_dpbusd_epi32(products, codes, _mm512_loadu_si512(x->codes + (size_t)(g + i) * GROUP));
            sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_permutexvar_ps(at, scale), sum);
        }
    }
    return _mm512_reduce_add_ps(sum) * .5f; /* the table holds twice the values */
}

AVX512 static float int8_rounded_avx512(const void *weights, const void *scales, const Row *x, int d_in) {
    const int8_t *w = weights;
    const uint16_t *steps = scales;
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), two = _mm512_set1_epi32(2);
    const __m512i flip = _mm512_set1_epi8((char)0x80); /* adds 128: unsigned, as one operand must be */
    __m512 sum = _mm512_setzero_ps();
    int groups = d_in / GROUP;
    for (int g = 0; g < groups; g += 16) {
        __mmask16 mask = first(groups - g);
        __m512 scale = _mm512_mul_ps(bf16_scales(steps + g, mask), _mm512_maskz_loadu_ps(mask, x->scales + g));
        __m512i at = lanes;
        int left = groups - g < 16 ? groups - g : 16;
        for (int i = 0; i < left; i += 2, at = _mm512_add_epi32(at, two)) {
            const int8_t *p = w + (size_t)(g + i) * GROUP;
            _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
            __m512i codes = _mm512_xor_si512(_mm512_loadu_si512(p), flip);
            __m512i products = _mm512_loadu_si512(x->start + (size_t)(g + i) * GROUP / 4);
            products = _mm512_dpbusd_epi32(products, codes, _mm512_loadu_si512(x->codes + (size_t)(g + i) * GROUP));
            sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_permutexvar_ps(at, scale), sum);
        }
    }
    return _mm512_reduce_add_ps(sum);
}

#endif

/* --- which of them, and what it wants of the activations --- */

static Dot dot_of(int weight, int rounded, int wide) {
#if defined(__x86_64__)
    if (wide) {
        if (weight == MXFP4) return rounded ? mxfp4_rounded_avx512 : mxfp4_dot_avx512;
        if (weight == INT8) return rounded ? int8_rounded_avx512 : int8_dot_avx512;
        if (weight == BFLOAT16) return bfloat16_dot_avx512;
    }
#else
    (void)rounded, (void)wide;
#endif
    return weight == MXFP4 ? mxfp4_dot : weight == INT8 ? int8_dot : weight == BFLOAT16 ? bfloat16_dot : float32_dot;
}

static size_t row_bytes(int weight, int d_in) {
    return weight == MXFP4 ? (size_t)d_in / 2 : weight == INT8 ? (size_t)d_in : (size_t)d_in * (weight == BFLOAT16 ? 2 : 4);
}

static size_t scale_bytes(int weight, int d_in) {
    return weight == MXFP4 ? (size_t)d_in / GROUP : weight == INT8 ? (size_t)d_in / GROUP * 2 : 0;
}

/* Where input i of a pair of groups stands among the codes: MXFP4's low nibbles of both groups come first. */
static inline int place(int weight, int i) { return weight == MXFP4 ? i % 2 * GROUP + i / 2 : i; }

static void round_row(const float *x, int weight, int d_in, Row *row) {
    int offset = weight == MXFP4 ? MXFP4_OFFSET : INT8_OFFSET;
    for (int g = 0; g < d_in / GROUP; g++) {
        float largest = 0;
        for (int i = 0; i < GROUP; i++) largest = fmaxf(largest, fabsf(x[g * GROUP + i]));
        float inverse = largest > 0 ? 127 / largest : 0;
        row->scales[g] = largest / 127;
        for (int i = 0; i < GROUP; i++) {
            int in_pair = g % 2 * GROUP + i;
            row->codes[g / 2 * PAIR + place(weight, in_pair)] = (int8_t)lrintf(x[g * GROUP + i] * inverse);
        }
    }
    for (int i = 0; i < d_in / 4; i++) {
        const int8_t *four = row->codes + 4 * i;
        row->start[i] = -offset * (four[0] + four[1] + four[2] + four[3]);
    }
}

/* The exact AVX-512 MXFP4 kernel reads the even inputs of a group before the odd ones. */
static void part_row(const float *x, int d_in, float *values) {
    for (int g = 0; g < d_in / GROUP; g++)
        for (int i = 0; i < GROUP; i++) values[g * GROUP + i % 2 * GROUP / 2 + i / 2] = x[g * GROUP + i];
}

/* y[r] = x[r] @ w[expert].T + bias[expert] for the rows r of each expert. `counts`: rows of each expert, in order.
 *
 * x (n, d_in) and y (n, d_out) of `type`; weights (experts, d_out, row_bytes), scales (experts, d_out, scale_bytes) or
 * NULL, bias (experts, d_out) of `bias_type` or NULL. Returns 0, or 1 where memory for the activations is lacking.
 */
int rows_times(int weight, const void *weights, const void *scales, const void *bias, int bias_type, const void *x, void *y,
               int type, int n, int d_in, int d_out, const int64_t *counts, int experts, int rounded, int wide) {
    const size_t bytes = row_bytes(weight, d_in), steps = scale_bytes(weight, d_in);
    const int parted = weight == MXFP4 && wide && !rounded;
    const Dot dot = dot_of(weight, rounded, wide);
    /* one piece of memory: values, scales, start, codes of every row, then the rows, then the experts in use */
    size_t each = (size_t)d_in * 4 * 2 + (size_t)d_in / GROUP * 4 + (size_t)d_in + (size_t)d_in + 64;
    char *memory = malloc(n * each + n * sizeof(Row) + (size_t)experts * 2 * sizeof(int) + 64);
    if (!memory) return 1;
    Row *rows = (Row *)memory;
    int *which = (int *)(rows + n), *begin = which + experts, used = 0;
    char *free_memory = (char *)(begin + experts);
    free_memory += (64 - (uintptr_t)free_memory % 64) % 64;
    for (int r = 0; r < n; r++) {
        float *at = (float *)free_memory;
        free_memory += each / 64 * 64;
        float *plain = at, *values = at + d_in;
        rows[r].values = plain;
        for (int i = 0; i < d_in; i++)
            plain[i] = type == BF16 ? of_bf16(((const uint16_t *)x)[(size_t)r * d_in + i]) : ((const float *)x)[(size_t)r * d_in + i];
        if (parted) {
            part_row(plain, d_in, values);
            rows[r].values = values;
        } else if (rounded) {
            rows[r].scales = values;
            rows[r].start = (int32_t *)(values + d_in / GROUP);
            rows[r].codes = (int8_t *)(rows[r].start + d_in / 4);
            round_row(plain, weight, d_in, &rows[r]);
        }
    }
    for (int e = 0, r = 0; e < experts; r += (int)counts[e++])
        if (counts[e]) which[used] = e, begin[used++] = r;

    const long total = (long)used * d_out;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < total; i++) {
        const int u = (int)(i / d_out), o = (int)(i % d_out), e = which[u];
        const size_t row = (size_t)e * d_out + o;
        float added = 0;
        if (bias) added = bias_type == BF16 ? of_bf16(((const uint16_t *)bias)[row]) : ((const float *)bias)[row];
        for (int r = begin[u]; r < begin[u] + (int)counts[e]; r++) {
            float value = dot((const char *)weights + row * bytes, (const char *)scales + row * steps, &rows[r], d_in) + added;
            if (type == BF16)
                ((uint16_t *)y)[(size_t)r * d_out + o] = to_bf16(value);
            else
                ((float *)y)[(size_t)r * d_out + o] = value;
        }
    }
    free(memory);
    return 0;
}
