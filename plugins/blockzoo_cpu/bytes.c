/* Prompts as products of bytes (AVX-512 VNNI): activations are rounded by groups of 32 as in decoding, packed weights stay codes.
 *
 * A tile of tokens holds for each group codes [four inputs][token][4], where each token's products start (the weights' offset
 * times its codes, negated) and its scales. A panel of weights holds unsigned codes [row][32] and scales.
 */
#include "rounding.h"
#include "prompts.h"

#if !defined(__x86_64__)

const Way *const BYTES = NULL;

#else

enum { START = GROUP * TILE, STEPS = START + 64, TILE_GROUP = STEPS + 64, SCALES = GROUP * PANEL, PANEL_GROUP = SCALES + 4 * PANEL };

AVX512 static void pack(const Product *p, const uint16_t *x, int count, char *tile) {
    const __m512i ones = _mm512_set1_epi8(1), offset = _mm512_set1_epi32(p->weight == MXFP4 ? -MXFP4_OFFSET : -INT8_OFFSET);
    for (int g = 0; g < p->d_in / GROUP; g++, x += GROUP, tile += TILE_GROUP) {
        Words rows[TILE];
        for (int r = 0; r < TILE; r++) {
            float *scale = (float *)(tile + STEPS) + r;
            if (r < count) {
                const uint16_t *numbers = x + (size_t)r * p->d_in;
                __m512i codes[2];
                *scale = rounded_group(widened(numbers), widened(numbers + GROUP / 2), codes);
                rows[r] = (Words)_mm512_zextsi256_si512(_mm256_set_m128i(_mm512_cvtepi32_epi8(codes[1]), _mm512_cvtepi32_epi8(codes[0])));
            } else {
                *scale = 0;
                rows[r] = (Words){0};
            }
        }
        transpose(rows);
        __m512i sums = _mm512_setzero_si512();
        for (int q = 0; q < GROUP / 4; q++) {
            sums = _mm512_dpbusd_epi32(sums, ones, (__m512i)rows[q]);
            _mm512_store_si512(tile + q * 64, (__m512i)rows[q]);
        }
        _mm512_store_si512(tile + START, _mm512_mullo_epi32(sums, offset));
    }
}

/* Four groups of a weight row, of which `in` says which bytes there are: their codes in order, twice their values plus the offset. */
AVX512 static inline void mxfp4_codes(const uint8_t *codes, __mmask64 in, __m512i to[2]) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)E2M1_SHIFTED)), nibble = _mm512_set1_epi8(15);
    const __m512i bytes = _mm512_maskz_loadu_epi8(in, codes);
    const __m512i even = _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, nibble));
    const __m512i odd = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble));
    const __m512i firsts = _mm512_unpacklo_epi8(even, odd), lasts = _mm512_unpackhi_epi8(even, odd); /* halves of each group */
    to[0] = _mm512_permutex2var_epi64(firsts, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), lasts);
    to[1] = _mm512_permutex2var_epi64(firsts, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), lasts);
}

/* `groups` groups of a weight row, four at most, into a panel. */
AVX512 INLINE void fill_mxfp4(const char *codes, const char *scales, int groups, char *row, char *step) {
    __m512i four[2];
    mxfp4_codes((const uint8_t *)codes, groups < 4 ? ((__mmask64)1 << groups * GROUP / 2) - 1 : ~(__mmask64)0, four);
    for (int i = 0; i < groups; i++) {
        _mm256_store_si256((__m256i *)(row + i * PANEL_GROUP), i % 2 ? _mm512_extracti64x4_epi64(four[i / 2], 1) : _mm512_castsi512_si256(four[i / 2]));
        *(float *)(step + i * PANEL_GROUP) = of_e8m0(((const uint8_t *)scales)[i]) * .5f;
    }
}

AVX512 INLINE void fill_int8(const char *codes, const char *scales, int groups, char *row, char *step) {
    const __m256i flip = _mm256_set1_epi8((char)0x80); /* adds 128 */
    for (int i = 0; i < groups; i++) {
        _mm256_store_si256((__m256i *)(row + i * PANEL_GROUP), _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(codes + i * GROUP)), flip));
        *(float *)(step + i * PANEL_GROUP) = of_bf16(((const uint16_t *)scales)[i]);
    }
}

/* A line of the cache of each row at a time. */
AVX512 INLINE void fill(const Product *p, int weight, size_t first, int rows, char *panel) {
    const int groups = p->d_in / GROUP, line = 64 / (int)code_bytes(weight);
    for (int g = 0; g < groups; g += line, panel += line * PANEL_GROUP) {
        const char *codes = p->weights + first * p->row_bytes + g * code_bytes(weight), *scales = p->scales + first * p->row_scales + g * scale_bytes(weight);
        const int here = groups - g < line ? groups - g : line;
        for (int r = 0; r < rows; r++, codes += p->row_bytes, scales += p->row_scales) {
            __builtin_prefetch(codes + PANEL * p->row_bytes, 0, 2); /* of the next panel */
            if (here == line)
                (weight == MXFP4 ? fill_mxfp4 : fill_int8)(codes, scales, line, panel + r * GROUP, panel + SCALES + r * 4);
            else
                (weight == MXFP4 ? fill_mxfp4 : fill_int8)(codes, scales, here, panel + r * GROUP, panel + SCALES + r * 4);
        }
        for (int i = 0; rows < PANEL && i < here; i++) { /* rows that there are not count nothing */
            memset(panel + i * PANEL_GROUP + rows * GROUP, 0, (size_t)(PANEL - rows) * GROUP);
            memset(panel + i * PANEL_GROUP + SCALES + rows * 4, 0, (size_t)(PANEL - rows) * 4);
        }
    }
}

/* Eight weight rows times a tile of tokens: eight sums of bytes and eight of groups, in registers. */
AVX512 static void eight_rows(const char *panel, const char *steps, const char *tokens, int groups, float *sums) {
    enum { ROWS = 8 };
    __m512 whole[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) whole[r] = _mm512_setzero_ps();
    for (; groups; groups--, panel += PANEL_GROUP, steps += PANEL_GROUP, tokens += TILE_GROUP) {
        const __m512i start = _mm512_load_si512(tokens + START);
        const __m512 scales = _mm512_load_ps(tokens + STEPS);
        __m512i part[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) part[r] = start;
#pragma GCC unroll 8
        for (int q = 0; q < GROUP / 4; q++) {
            const __m512i inputs = _mm512_load_si512(tokens + q * 64);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++)
                part[r] = _mm512_dpbusd_epi32(part[r], _mm512_set1_epi32(*(const Word *)(panel + r * GROUP + q * 4)), inputs);
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
            whole[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part[r]), _mm512_mul_ps(scales, _mm512_set1_ps(((const float *)steps)[r])), whole[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) _mm512_store_ps(sums + r * TILE, whole[r]);
}

AVX512 static void multiply(const Product *p, size_t first, int rows, int fresh, char *panel, Tiles tokens, Sums sums) {
    if (fresh && p->weight == MXFP4)
        fill(p, MXFP4, first, rows, panel);
    else if (fresh)
        fill(p, INT8, first, rows, panel);
    for (int r = 0; r < PANEL; r += 8)
        for (int u = 0; u < (tokens.other ? 2 : 1); u++)
            eight_rows(panel + r * GROUP, panel + SCALES + r * 4, tokens.at + u * tokens.other, p->d_in / GROUP, sums[r / TILE][u] + r % TILE * TILE);
}

static const Way WAY = {PANEL_GROUP, TILE_GROUP, pack, multiply};
const Way *const BYTES = &WAY;

#endif
