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

/* 32 codes of a weight row in order, twice their values plus the offset. */
AVX512 static inline __m256i mxfp4_codes(const uint8_t *codes) {
    const __m128i table = _mm_loadu_si128((const __m128i *)E2M1_SHIFTED), nibble = _mm_set1_epi8(15), bytes = _mm_loadu_si128((const __m128i *)codes);
    const __m128i even = _mm_shuffle_epi8(table, _mm_and_si128(bytes, nibble));
    const __m128i odd = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble));
    return _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
}

AVX512 static void fill(const Product *p, size_t first, int rows, char *panel) {
    const __m256i flip = _mm256_set1_epi8((char)0x80); /* adds 128 */
    for (int g = 0; g < p->d_in / GROUP; g++, panel += PANEL_GROUP) {
        const char *codes = p->weights + first * p->row_bytes + g * code_bytes(p->weight);
        const char *scales = p->scales + first * p->row_scales + g * scale_bytes(p->weight);
        float *steps = (float *)(panel + SCALES);
        next_panel(p, codes, rows, g);
        for (int r = 0; r < rows; r++, codes += p->row_bytes, scales += p->row_scales) {
            const int mxfp4 = p->weight == MXFP4;
            const __m256i these = mxfp4 ? mxfp4_codes((const uint8_t *)codes) : _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)codes), flip);
            _mm256_store_si256((__m256i *)(panel + r * GROUP), these);
            steps[r] = mxfp4 ? of_e8m0(*(const uint8_t *)scales) * .5f : of_bf16(*(const uint16_t *)scales);
        }
        memset(panel + rows * GROUP, 0, (size_t)(PANEL - rows) * GROUP);
        memset(steps + rows, 0, (size_t)(PANEL - rows) * sizeof *steps);
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
            whole[r] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(part[r]), scales), _mm512_set1_ps(((const float *)steps)[r]), whole[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) _mm512_store_ps(sums + r * TILE, whole[r]);
}

static void multiply(const Product *p, size_t first, int rows, int fresh, char *panel, Tiles tokens, Sums sums) {
    if (fresh) fill(p, first, rows, panel);
    for (int r = 0; r < PANEL; r += 8)
        for (int u = 0; u < (tokens.other ? 2 : 1); u++)
            eight_rows(panel + r * GROUP, panel + SCALES + r * 4, tokens.at + u * tokens.other, p->d_in / GROUP, sums[r / TILE][u] + r % TILE * TILE);
}

static const Way WAY = {PANEL_GROUP, TILE_GROUP, pack, multiply};
const Way *const BYTES = &WAY;

#endif
