/* Rows of weights times a row of activations: of every kind in plain C, and one or two at once with AVX-512. Sums are
 * float32. Activations are either float32 ("exact") or rounded to int8 by groups of 32 ("rounded", AVX-512 only).
 */
#include "rounding.h"
#include "rows.h"

enum { SCALES_AHEAD = 512 /* bytes that prefetching of scales runs ahead */ };

/* --- plain C: what every machine can run, and what the vector kernels are checked against --- */

VARIANTS static float float32_dot(const Stored *stored, const Row *x, int d_in) {
    const float *w = stored->codes;
    float sums[16] = {0}, sum = 0;
    int i = 0;
    for (; i + 16 <= d_in; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += w[i + j] * x->values[i + j];
    for (; i < d_in; i++) sum += w[i] * x->values[i];
    for (int j = 0; j < 16; j++) sum += sums[j];
    return sum;
}

VARIANTS static float bfloat16_dot(const Stored *stored, const Row *x, int d_in) {
    const uint16_t *w = stored->codes;
    float sums[16] = {0}, sum = 0;
    int i = 0;
    for (; i + 16 <= d_in; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += of_bf16(w[i + j]) * x->values[i + j];
    for (; i < d_in; i++) sum += of_bf16(w[i]) * x->values[i];
    for (int j = 0; j < 16; j++) sum += sums[j];
    return sum;
}

VARIANTS static float mxfp4_dot(const Stored *stored, const Row *x, int d_in) {
    const uint8_t *w = stored->codes, *exponents = stored->scales;
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

VARIANTS static float int8_dot(const Stored *stored, const Row *x, int d_in) {
    const int8_t *w = stored->codes;
    const uint16_t *steps = stored->scales;
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

static inline void ahead(const Stored w[2], const void *p, const void *q) {
    __builtin_prefetch((const char *)p + w[0].ahead);
    __builtin_prefetch((const char *)q + w[1].ahead);
}

/* Of two rows' scales at once: they are a few lines a row. */
static inline void scales_ahead(const Stored w[2], int bytes) {
    for (int i = 0; i < bytes; i += 64)
        for (int row = 0; row < 2; row++) __builtin_prefetch((const char *)w[row].scales + SCALES_AHEAD + i);
}

/* x->values: the even inputs of 32, then the odd ones, as the halves of a 32-bit lane are widened. */
AVX512 static void bfloat16_dots_avx512(const Stored w[2], const Row *x, int d_in, float sums[2]) {
    const uint16_t *v = w[0].codes, *u = w[1].codes;
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
    int i = 0;
    for (; i + 32 <= d_in; i += 32) {
        ahead(w, v + i, u + i);
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

AVX512 static float mxfp4_dot_avx512(const Stored *stored, const Row *x, int d_in) {
    const uint8_t *w = stored->codes, *exponents = stored->scales;
    const __m512 table = _mm512_loadu_ps(E2M1);
    __m512 sum = _mm512_setzero_ps();
    int groups = d_in / GROUP;
    for (int g = 0; g < groups; g += 16) {
        __m512 scale = e8m0_scales(exponents + g, first(groups - g));
        int left = groups - g < 16 ? groups - g : 16;
        for (int i = 0; i < left; i++) {
            const uint8_t *p = w + (size_t)(g + i) * GROUP / 2;
            const float *at = x->values + (size_t)(g + i) * GROUP; /* even inputs, then odd ones */
            __builtin_prefetch((const char *)p + stored->ahead);
            __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
            /* a permutation looks at the lowest four bits of its index only */
            __m512 part = _mm512_mul_ps(_mm512_permutexvar_ps(bytes, table), _mm512_loadu_ps(at));
            part = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table), _mm512_loadu_ps(at + 16), part);
            sum = _mm512_fmadd_ps(part, _mm512_permutexvar_ps(_mm512_set1_epi32(i), scale), sum);
        }
    }
    return _mm512_reduce_add_ps(sum);
}

AVX512 static float int8_dot_avx512(const Stored *stored, const Row *x, int d_in) {
    const int8_t *w = stored->codes;
    const uint16_t *steps = stored->scales;
    __m512 sum = _mm512_setzero_ps();
    int groups = d_in / GROUP;
    for (int g = 0; g < groups; g += 16) {
        __m512 scale = bf16_scales(steps + g, first(groups - g));
        int left = groups - g < 16 ? groups - g : 16;
        for (int i = 0; i < left; i++) {
            const int8_t *p = w + (size_t)(g + i) * GROUP;
            const float *at = x->values + (size_t)(g + i) * GROUP;
            __builtin_prefetch((const char *)p + stored->ahead);
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

/* Adds to both sums what four groups from g on give; `lanes`: where their scales are, four lanes a group. */
AVX512 INLINE void mxfp4_quad(const uint8_t *p, const uint8_t *q, __mmask64 in, const Row *x, size_t g, __m512i lanes, const __m512 scales[2],
                              __m512 sums[2]) {
    const int8_t *codes = x->codes + g * GROUP;
    const __m512i start = _mm512_loadu_si512(x->start + g * GROUP / 8), even = _mm512_loadu_si512(codes), odd = _mm512_loadu_si512(codes + 64);
    const __m512i one = mxfp4_products(_mm512_maskz_loadu_epi8(in, p), start, even, odd);
    const __m512i other = mxfp4_products(_mm512_maskz_loadu_epi8(in, q), start, even, odd);
    sums[0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(one), _mm512_permutexvar_ps(lanes, scales[0]), sums[0]);
    sums[1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(other), _mm512_permutexvar_ps(lanes, scales[1]), sums[1]);
}

AVX512 static void mxfp4_rounded_avx512(const Stored w[2], const Row *x, int d_in, float sums[2]) {
    enum { AT_ONCE = 16 /* groups whose scales fill a vector */ };
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const uint8_t *p = w[0].codes, *q = w[1].codes;
    const int groups = d_in / GROUP;
    __m512 both[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    scales_ahead(w, groups);
    for (int g = 0; g < groups; g += AT_ONCE) {
        const __mmask16 mask = first(groups - g);
        const __m512 scale = _mm512_maskz_loadu_ps(mask, x->scales + g);
        __m512 scales[2];
        for (int row = 0; row < 2; row++) scales[row] = _mm512_mul_ps(e8m0_scales((const uint8_t *)w[row].scales + g, mask), scale);
        if (groups - g >= AT_ONCE)
#pragma GCC unroll 4
            for (int i = 0; i < AT_ONCE; i += 4, p += 64, q += 64) {
                ahead(w, p, q);
                mxfp4_quad(p, q, ~(__mmask64)0, x, (size_t)(g + i), _mm512_add_epi32(lanes, _mm512_set1_epi32(i)), scales, both);
            }
        else
            for (int i = 0; g + i < groups; i += 4, p += 64, q += 64) {
                const __mmask64 in = g + i + 4 <= groups ? ~(__mmask64)0 : ((__mmask64)1 << 32) - 1; /* groups are even in number */
                ahead(w, p, q);
                mxfp4_quad(p, q, in, x, (size_t)(g + i), _mm512_add_epi32(lanes, _mm512_set1_epi32(i)), scales, both);
            }
    }
    for (int row = 0; row < 2; row++) sums[row] = _mm512_reduce_add_ps(both[row]) * .5f; /* the table holds twice the values */
}

/* 64 int8 weights are two groups, eight lanes each. */
AVX512 static void int8_rounded_avx512(const Stored w[2], const Row *x, int d_in, float sums[2]) {
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), two = _mm512_set1_epi32(2);
    const __m512i flip = _mm512_set1_epi8((char)0x80); /* adds 128: unsigned, as one operand must be */
    __m512 a = _mm512_setzero_ps(), b = a;
    int groups = d_in / GROUP;
    scales_ahead(w, 2 * groups);
    for (int g = 0; g < groups; g += 16) {
        __mmask16 mask = first(groups - g);
        __m512 scale = _mm512_maskz_loadu_ps(mask, x->scales + g);
        __m512 s = _mm512_mul_ps(bf16_scales((const uint16_t *)w[0].scales + g, mask), scale);
        __m512 t = _mm512_mul_ps(bf16_scales((const uint16_t *)w[1].scales + g, mask), scale);
        __m512i at = lanes;
        for (int i = g; i < g + 16 && i < groups; i += 2, at = _mm512_add_epi32(at, two)) {
            const int8_t *p = (const int8_t *)w[0].codes + (size_t)i * GROUP, *q = (const int8_t *)w[1].codes + (size_t)i * GROUP;
            ahead(w, p, q);
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

#endif

/* --- which of them --- */

Kernel kernel_of(int weight, int rounded, int wide) {
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
