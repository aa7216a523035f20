/* Few rows times a weight matrix, or times the matrices of several experts: decoding.
 *
 * Every weight is read once from memory, in the layout it is published in, by one thread, which reads two rows at a time
 * from places far apart (memory answers two streams sooner than one); they stay in the first cache while they meet each
 * row of activations. Sums are float32. Activations are either float32 ("exact") or rounded to int8 by groups of 32
 * ("rounded", AVX-512 only); which one it is is the caller's choice.
 *
 * Axes: n rows of activations, d_in inputs, d_out outputs; a weight row is d_in weights.
 */
#include "common.h"

enum { QUAD = 4 * GROUP, AHEAD = 2048 /* bytes that prefetching runs ahead */ };

/* One row of activations as a weight's kernel reads it. Rounded rows have codes, scales and start; exact ones values. */
typedef struct {
    float *values;  /* (d_in) */
    int8_t *codes;  /* (d_in), in the order of the weight's codes */
    float *scales;  /* (d_in / GROUP), of the activations */
    int32_t *start; /* what the weights' offset adds to the products of each 32-bit lane, negated */
} Row;

/* One row of weights. */
typedef struct {
    const void *codes, *scales;
} Stored;

typedef float (*Dot)(const void *weights, const void *scales, const Row *x, int d_in);
typedef void (*Dots)(const Stored w[2], const Row *x, int d_in, float sums[2]);

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

static inline void ahead(const void *p) { __builtin_prefetch((const char *)p + AHEAD); }

/* x->values: the even inputs of 32, then the odd ones, as the halves of a 32-bit lane are widened. */
AVX512 static void bfloat16_dots_avx512(const Stored w[2], const Row *x, int d_in, float sums[2]) {
    const uint16_t *v = w[0].codes, *u = w[1].codes;
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
    int i = 0;
    for (; i + 32 <= d_in; i += 32) {
        ahead(v + i), ahead(u + i);
        __m512 even = _mm512_loadu_ps(x->values + i), odd = _mm512_loadu_ps(x->values + i + 16);
        __m512i p = _mm512_loadu_si512(v + i), q = _mm512_loadu_si512(u + i);
        a = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(p, 16)), even, a);
        b = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(p, upper)), odd, b);
        c = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(q, 16)), even, c);
        d = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(q, upper)), odd, d);
    }
    sums[0] = _mm512_reduce_add_ps(_mm512_add_ps(a, b)), sums[1] = _mm512_reduce_add_ps(_mm512_add_ps(c, d));
    for (; i < d_in; i++) sums[0] += of_bf16(v[i]) * x->values[i], sums[1] += of_bf16(u[i]) * x->values[i];
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

/* 64 bytes of MXFP4 are four groups, 16 bytes each: products of their low nibbles (even inputs) and of their high ones
 * (odd inputs) are added in the same lanes, four lanes a group. `lanes` says which of 16 scales each lane takes.
 */
AVX512 static inline __m512i mxfp4_products(__m512i bytes, __m512i start, __m512i even, __m512i odd) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)E2M1_SHIFTED)), nibble = _mm512_set1_epi8(15);
    __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, nibble));
    __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble));
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start, low, even), high, odd);
}

AVX512 static void mxfp4_rounded_avx512(const Stored w[2], const Row *x, int d_in, float sums[2]) {
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), four = _mm512_set1_epi32(4);
    __m512 a = _mm512_setzero_ps(), b = a;
    int groups = d_in / GROUP;
    for (int g = 0; g < groups; g += 16) {
        __mmask16 mask = first(groups - g);
        __m512 scale = _mm512_maskz_loadu_ps(mask, x->scales + g);
        __m512 s = _mm512_mul_ps(e8m0_scales((const uint8_t *)w[0].scales + g, mask), scale);
        __m512 t = _mm512_mul_ps(e8m0_scales((const uint8_t *)w[1].scales + g, mask), scale);
        __m512i at = lanes;
        for (int i = g; i < g + 16 && i < groups; i += 4, at = _mm512_add_epi32(at, four)) {
            const uint8_t *p = (const uint8_t *)w[0].codes + (size_t)i * GROUP / 2;
            const uint8_t *q = (const uint8_t *)w[1].codes + (size_t)i * GROUP / 2;
            const int8_t *codes = x->codes + (size_t)i * GROUP;
            ahead(p), ahead(q);
            const __mmask64 in = i + 4 <= groups ? ~(__mmask64)0 : ((__mmask64)1 << 32) - 1; /* groups are even in number */
            __m512i start = _mm512_loadu_si512(x->start + (size_t)i * GROUP / 8);
            __m512i even = _mm512_loadu_si512(codes), odd = _mm512_loadu_si512(codes + 64);
            __m512i first_products = mxfp4_products(_mm512_maskz_loadu_epi8(in, p), start, even, odd);
            __m512i other_products = mxfp4_products(_mm512_maskz_loadu_epi8(in, q), start, even, odd);
            a = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first_products), _mm512_permutexvar_ps(at, s), a);
            b = _mm512_fmadd_ps(_mm512_cvtepi32_ps(other_products), _mm512_permutexvar_ps(at, t), b);
        }
    }
    sums[0] = _mm512_reduce_add_ps(a) * .5f, sums[1] = _mm512_reduce_add_ps(b) * .5f; /* the table holds twice the values */
}

/* 64 int8 weights are two groups, eight lanes each. */
AVX512 static void int8_rounded_avx512(const Stored w[2], const Row *x, int d_in, float sums[2]) {
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), two = _mm512_set1_epi32(2);
    const __m512i flip = _mm512_set1_epi8((char)0x80); /* adds 128: unsigned, as one operand must be */
    __m512 a = _mm512_setzero_ps(), b = a;
    int groups = d_in / GROUP;
    for (int g = 0; g < groups; g += 16) {
        __mmask16 mask = first(groups - g);
        __m512 scale = _mm512_maskz_loadu_ps(mask, x->scales + g);
        __m512 s = _mm512_mul_ps(bf16_scales((const uint16_t *)w[0].scales + g, mask), scale);
        __m512 t = _mm512_mul_ps(bf16_scales((const uint16_t *)w[1].scales + g, mask), scale);
        __m512i at = lanes;
        for (int i = g; i < g + 16 && i < groups; i += 2, at = _mm512_add_epi32(at, two)) {
            const int8_t *p = (const int8_t *)w[0].codes + (size_t)i * GROUP, *q = (const int8_t *)w[1].codes + (size_t)i * GROUP;
            ahead(p), ahead(q);
            __m512i start = _mm512_loadu_si512(x->start + (size_t)i * GROUP / 4);
            __m512i codes = _mm512_loadu_si512(x->codes + (size_t)i * GROUP);
            __m512i first_products = _mm512_dpbusd_epi32(start, _mm512_xor_si512(_mm512_loadu_si512(p), flip), codes);
            __m512i other_products = _mm512_dpbusd_epi32(start, _mm512_xor_si512(_mm512_loadu_si512(q), flip), codes);
            a = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first_products), _mm512_permutexvar_ps(at, s), a);
            b = _mm512_fmadd_ps(_mm512_cvtepi32_ps(other_products), _mm512_permutexvar_ps(at, t), b);
        }
    }
    sums[0] = _mm512_reduce_add_ps(a), sums[1] = _mm512_reduce_add_ps(b);
}

/* --- AVX-512: what they want of the activations --- */

AVX512 static inline __m512 sixteen(const void *x, int type, size_t i) {
    return type == BF16 ? widened((const uint16_t *)x + i) : _mm512_loadu_ps((const float *)x + i);
}

/* Codes and scales of one row. MXFP4: of four groups the even inputs, then the odd ones, zeros where two groups are lacking.
 * A NaN makes its group's scale NaN, and so every output.
 */
AVX512 static void round_row(const void *x, int type, int weight, int d_in, Row *row) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1)), ones = _mm512_set1_epi8(1);
    const int groups = d_in / GROUP, quads = (groups + 3) / 4;
    if (weight == MXFP4 && groups % 4) memset(row->codes + (size_t)(quads - 1) * QUAD, 0, QUAD);
    for (int g = 0; g < groups; g++) {
        __m512 low = sixteen(x, type, (size_t)g * GROUP), high = sixteen(x, type, (size_t)g * GROUP + 16);
        float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        __m512 inverse = _mm512_set1_ps(largest > 0 ? 127 / largest : 0);
        row->scales[g] = _mm512_cmp_ps_mask(low, high, _CMP_UNORD_Q) ? NAN : largest / 127;
        __m512i first_codes = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        __m512i other_codes = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        int8_t *to = row->codes + (size_t)g * GROUP;
        size_t further = 16;
        if (weight == MXFP4) {
            __m512i evens = _mm512_permutex2var_epi32(first_codes, even, other_codes);
            other_codes = _mm512_permutex2var_epi32(first_codes, odd, other_codes), first_codes = evens;
            to = row->codes + (size_t)(g / 4) * QUAD + (size_t)(g % 4) * 16, further = 64;
        }
        _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(first_codes));
        _mm_storeu_si128((__m128i *)(to + further), _mm512_cvtepi32_epi8(other_codes));
    }
    if (weight == MXFP4)
        for (int q = 0; q < quads; q++) {
            const int8_t *codes = row->codes + (size_t)q * QUAD;
            __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_loadu_si512(codes));
            sums = _mm512_dpbusd_epi32(sums, ones, _mm512_loadu_si512(codes + 64));
            _mm512_storeu_si512(row->start + 16 * q, _mm512_mullo_epi32(sums, _mm512_set1_epi32(-MXFP4_OFFSET)));
        }
    else
        for (int i = 0; i < d_in; i += 64) {
            __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_loadu_si512(row->codes + i));
            _mm512_storeu_si512(row->start + i / 4, _mm512_mullo_epi32(sums, _mm512_set1_epi32(-INT8_OFFSET)));
        }
}

/* Of every 32 the even inputs before the odd ones; what is left over stays as it is. */
AVX512 static void part_row(const void *x, int type, int d_in, float *values) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    int i = 0;
    for (; i + 32 <= d_in; i += 32) {
        __m512 low = sixteen(x, type, i), high = sixteen(x, type, i + 16);
        _mm512_storeu_ps(values + i, _mm512_permutex2var_ps(low, even, high));
        _mm512_storeu_ps(values + i + 16, _mm512_permutex2var_ps(low, odd, high));
    }
    for (; i < d_in; i++) values[i] = type == BF16 ? of_bf16(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

#endif

/* --- which of them --- */

typedef struct {
    Dot one;  /* or NULL: */
    Dots two; /* two rows of weights at once */
    int parted, rounded;
} Kernel;

static Kernel kernel_of(int weight, int rounded, int wide) {
#if defined(__x86_64__)
    if (wide) {
        if (weight == MXFP4 && rounded) return (Kernel){.two = mxfp4_rounded_avx512, .rounded = 1};
        if (weight == MXFP4) return (Kernel){.one = mxfp4_dot_avx512, .parted = 1};
        if (weight == INT8 && rounded) return (Kernel){.two = int8_rounded_avx512, .rounded = 1};
        if (weight == INT8) return (Kernel){.one = int8_dot_avx512};
        if (weight == BFLOAT16) return (Kernel){.two = bfloat16_dots_avx512, .parted = 1};
    }
#else
    (void)rounded, (void)wide;
#endif
    return (Kernel){.one = weight == MXFP4 ? mxfp4_dot : weight == INT8 ? int8_dot : weight == BFLOAT16 ? bfloat16_dot : float32_dot};
}

static inline void dots(const Kernel *kernel, const Stored w[2], const Row *x, int d_in, float sums[2]) {
    if (kernel->two)
        kernel->two(w, x, d_in, sums);
    else
        for (int i = 0; i < 2; i++) sums[i] = kernel->one(w[i].codes, w[i].scales, x, d_in);
}

static size_t row_bytes(int weight, int d_in) {
    return weight == MXFP4 ? (size_t)d_in / 2 : weight == INT8 ? (size_t)d_in : (size_t)d_in * (weight == BFLOAT16 ? 2 : 4);
}

static size_t scale_bytes(int weight, int d_in) {
    return weight == MXFP4 ? (size_t)d_in / GROUP : weight == INT8 ? (size_t)d_in / GROUP * 2 : 0;
}

/* --- one row of activations --- */

static size_t padded(size_t n) { return (n + QUAD - 1) / QUAD * QUAD; }

/* Bytes that a row takes: its values, or its codes, start and scales. */
static size_t prepared_bytes(const Kernel *kernel, int d_in) {
    return kernel->rounded ? padded(d_in) * 2 + padded((size_t)d_in / GROUP * 4) : padded((size_t)d_in * 4);
}

static void prepare(const Kernel *kernel, int weight, const void *x, int type, int d_in, char *memory, Row *row) {
#if defined(__x86_64__)
    if (kernel->rounded) {
        row->codes = (int8_t *)memory;
        row->start = (int32_t *)(memory + padded(d_in));
        row->scales = (float *)(memory + padded(d_in) * 2);
        round_row(x, type, weight, d_in, row);
        return;
    }
    row->values = (float *)memory;
    if (kernel->parted) {
        part_row(x, type, d_in, row->values);
        return;
    }
#else
    (void)weight;
    row->values = (float *)memory;
#endif
    if (type == BF16)
        for (int i = 0; i < d_in; i++) row->values[i] = of_bf16(((const uint16_t *)x)[i]);
    else
        memcpy(row->values, x, (size_t)d_in * 4);
}

static inline float at(const void *numbers, int type, size_t i) {
    return type == BF16 ? of_bf16(((const uint16_t *)numbers)[i]) : ((const float *)numbers)[i];
}

static inline void put(void *numbers, int type, size_t i, float value) {
    if (type == BF16)
        ((uint16_t *)numbers)[i] = to_bf16(value);
    else
        ((float *)numbers)[i] = value;
}

/* y[r] = x[r] @ w[expert].T + bias[expert] for the rows r of each expert. `counts`: rows of each expert, in order.
 *
 * x (n, d_in), `stride` numbers from row to row, 0 where all are one, and y (n, d_out) of `type`; weights (experts, d_out,
 * row_bytes), scales (experts, d_out, scale_bytes) or NULL, bias (experts, d_out) of `bias_type` or NULL. Returns 0, or 1
 * where memory for the activations is lacking.
 */
int rows_times(int weight, const void *weights, const void *scales, const void *bias, int bias_type, const void *x,
               int64_t stride, void *y, int type, int n, int d_in, int d_out, const int64_t *counts, int experts, int rounded,
               int wide) {
    const Kernel kernel = kernel_of(weight, rounded, wide);
    const size_t bytes = row_bytes(weight, d_in), steps = scale_bytes(weight, d_in), each = prepared_bytes(&kernel, d_in);
    const int different = stride ? n : n > 0;
    /* one piece of memory: the prepared rows, aligned, and what names them */
    char *memory = malloc(64 + different * each + different * sizeof(Row));
    if (!memory) return 1;
    char *aligned = memory + (64 - (uintptr_t)memory % 64) % 64;
    Row *rows = (Row *)(aligned + different * each);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int r = 0; r < different; r++) {
            const char *from = (const char *)x + (size_t)r * (size_t)stride * (type == BF16 ? 2 : 4);
            prepare(&kernel, weight, from, type, d_in, aligned + r * each, &rows[r]);
        }
        /* each thread takes its share of every expert's rows, from its start and from its middle at once */
        const int64_t begin = (int64_t)d_out * thread() / threads(), end = (int64_t)d_out * (thread() + 1) / threads();
        const int64_t half = (end - begin + 1) / 2;
        int64_t r0 = 0;
        for (int e = 0; e < experts; r0 += counts[e++])
            for (int64_t o = begin; o < begin + half && counts[e]; o++) {
                const int64_t other = o + half < end ? o + half : o;
                const size_t i = (size_t)e * d_out + o, j = (size_t)e * d_out + other;
                const Stored w[2] = {{(const char *)weights + i * bytes, (const char *)scales + i * steps},
                                     {(const char *)weights + j * bytes, (const char *)scales + j * steps}};
                for (int64_t r = r0; r < r0 + counts[e]; r++) {
                    float sums[2];
                    dots(&kernel, w, &rows[stride ? r : 0], d_in, sums);
                    put(y, type, (size_t)r * d_out + o, sums[0] + (bias ? at(bias, bias_type, i) : 0));
                    put(y, type, (size_t)r * d_out + other, sums[1] + (bias ? at(bias, bias_type, j) : 0));
                }
            }
    }
    free(memory);
    return 0;
}
