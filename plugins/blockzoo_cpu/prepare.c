/* A row of activations as the products of rows.h read it: as it is, parted, or rounded to int8 by groups. */
#include "rounding.h"
#include "rows.h"

#if defined(__x86_64__)

AVX512 static inline __m512 sixteen(const void *x, int type, size_t i) {
    return type == BF16 ? widened((const uint16_t *)x + i) : _mm512_loadu_ps((const float *)x + i);
}

/* Codes and scales of one row. MXFP4: of four groups the even inputs, then the odd ones, zeros where two groups are lacking. */
AVX512 static void round_row(const void *x, int type, int weight, int d_in, Row *row) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1)), ones = _mm512_set1_epi8(1);
    const int groups = d_in / GROUP, quads = (groups + 3) / 4;
    if (weight == MXFP4 && groups % 4) memset(row->codes + (size_t)(quads - 1) * QUAD, 0, QUAD);
    for (int g = 0; g < groups; g++) {
        __m512i codes[2];
        row->scales[g] = rounded_group(sixteen(x, type, (size_t)g * GROUP), sixteen(x, type, (size_t)g * GROUP + 16), codes);
        int8_t *to = row->codes + (size_t)g * GROUP;
        size_t further = 16;
        if (weight == MXFP4) {
            __m512i evens = _mm512_permutex2var_epi32(codes[0], even, codes[1]);
            codes[1] = _mm512_permutex2var_epi32(codes[0], odd, codes[1]), codes[0] = evens;
            to = row->codes + (size_t)(g / 4) * QUAD + (size_t)(g % 4) * 16, further = 64;
        }
        _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(codes[0]));
        _mm_storeu_si128((__m128i *)(to + further), _mm512_cvtepi32_epi8(codes[1]));
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

static size_t padded(size_t n) { return (n + QUAD - 1) / QUAD * QUAD; }

size_t prepared_bytes(const Kernel *kernel, int d_in) {
    return kernel->rounded ? padded(d_in) * 2 + padded((size_t)d_in / GROUP * 4) : padded((size_t)d_in * 4);
}

void prepare(const Kernel *kernel, int weight, const void *x, int type, int d_in, char *memory, Row *row) {
    *row = (Row){.values = (float *)memory};
#if defined(__x86_64__)
    if (kernel->rounded) {
        *row = (Row){.codes = (int8_t *)memory,
                     .start = (int32_t *)(memory + padded(d_in)),
                     .scales = (float *)(memory + padded(d_in) * 2)};
        round_row(x, type, weight, d_in, row);
        return;
    }
    if (kernel->parted) {
        part_row(x, type, d_in, row->values);
        return;
    }
#else
    (void)kernel, (void)weight;
#endif
    if (type == BF16)
        for (int i = 0; i < d_in; i++) row->values[i] = of_bf16(((const uint16_t *)x)[i]);
    else
        memcpy(row->values, x, (size_t)d_in * 4);
}
