/* Packed weights as numbers, for the products of others: where this CPU has no vectors for its own, and in float32. */
#include "common.h"

VARIANTS static void mxfp4_row(const uint8_t *codes, const uint8_t *scales, int d_in, float *to) {
    for (int g = 0; g < d_in / GROUP; g++) {
        const float scale = of_e8m0(scales[g]);
        for (int i = 0; i < GROUP / 2; i++) {
            uint8_t byte = codes[g * GROUP / 2 + i];
            to[g * GROUP + 2 * i] = E2M1[byte & 15] * scale;
            to[g * GROUP + 2 * i + 1] = E2M1[byte >> 4] * scale;
        }
    }
}

VARIANTS static void int8_row(const int8_t *codes, const uint16_t *scales, int d_in, float *to) {
    for (int g = 0; g < d_in / GROUP; g++) {
        const float scale = of_bf16(scales[g]);
        for (int i = 0; i < GROUP; i++) to[g * GROUP + i] = codes[g * GROUP + i] * scale;
    }
}

#if defined(__x86_64__)

AVX512 static void mxfp4_row_avx512(const uint8_t *codes, const uint8_t *scales, int d_in, float *to) {
    const __m512 table = _mm512_loadu_ps(E2M1);
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (int g = 0; g < d_in / GROUP; g++, to += GROUP) {
        __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + g * GROUP / 2)));
        __m512 scaled = _mm512_mul_ps(table, _mm512_set1_ps(of_e8m0(scales[g])));
        /* a permutation looks at the lowest four bits of its index only */
        __m512 even = _mm512_permutexvar_ps(bytes, scaled), odd = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), scaled);
        _mm512_storeu_ps(to, _mm512_permutex2var_ps(even, low, odd));
        _mm512_storeu_ps(to + GROUP / 2, _mm512_permutex2var_ps(even, high, odd));
    }
}

#endif

typedef void (*UnpackMXFP4)(const uint8_t *codes, const uint8_t *scales, int d_in, float *to);

/* Packed weights (rows, d_in) into float32. `wide`: this CPU has AVX-512. */
int unpack_rows(int weight, const void *codes, const void *scales, int rows, int d_in, float *to, int wide) {
    UnpackMXFP4 mxfp4 = mxfp4_row;
#if defined(__x86_64__)
    if (wide) mxfp4 = mxfp4_row_avx512;
#else
    (void)wide;
#endif
#pragma omp parallel for schedule(static)
    for (int r = 0; r < rows; r++) {
        const void *row = (const char *)codes + r * code_bytes(weight, d_in), *steps = (const char *)scales + r * scale_bytes(weight, d_in);
        if (weight == MXFP4)
            mxfp4(row, steps, d_in, to + (size_t)r * d_in);
        else
            int8_row(row, steps, d_in, to + (size_t)r * d_in);
    }
    return 0;
}
