/* Prompts as products of bytes (AVX-512 VNNI): activations are rounded by groups of 32 as in decoding, packed weights stay codes.
 *
 * A tile of tokens holds for each group codes [four inputs][token][4], where each lane's products start (the weights' offset
 * times its codes, negated) and its scales. Of a thin one, eight tokens or fewer, a token's next four inputs lie where the token after it
 * would: codes [eight inputs][token][8], half as many products. A panel of weights holds unsigned codes [row][32] and scales.
 */
#include "rounding.h"
#include "prompts.h"

#if !defined(__x86_64__)

const Way *const BYTES = NULL;

#else

enum { START = GROUP * TILE, STEPS = START + 64, TILE_GROUP = STEPS + 64, SCALES = GROUP * PANEL, PANEL_GROUP = SCALES + 4 * PANEL };

/* The codes of 32 numbers; their scale. */
AVX512 static inline __m256i rounded_codes(const uint16_t *numbers, float *scale) {
    __m512i codes[2];
    *scale = rounded_group(widened(numbers), widened(numbers + GROUP / 2), codes);
    return _mm256_set_m128i(_mm512_cvtepi32_epi8(codes[1]), _mm512_cvtepi32_epi8(codes[0]));
}

AVX512 INLINE void arrange(const Product *p, const uint16_t *x, int count, int thin, char *tile) {
    const __m512i ones = _mm512_set1_epi8(1), offset = _mm512_set1_epi32(p->weight == MXFP4 ? -MXFP4_OFFSET : -INT8_OFFSET);
    const int lanes = thin ? 2 : 1;
    for (int g = 0; g < p->d_in / GROUP; g++, x += GROUP, tile += TILE_GROUP) {
        Words rows[TILE] = {{0}};
        float scales[TILE] = {0};
        for (int r = 0; r < count; r++) {
            const __m256i codes = rounded_codes(x + (size_t)r * p->d_in, &scales[r * lanes]);
            if (thin) { /* four pairs of words, a row for the first of each and one for the second */
                rows[2 * r] = (Words)_mm512_zextsi256_si512(_mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0)));
                rows[2 * r + 1] = (Words)_mm512_zextsi256_si512(_mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(1, 3, 5, 7, 0, 0, 0, 0)));
                scales[2 * r + 1] = scales[2 * r];
            } else
                rows[r] = (Words)_mm512_zextsi256_si512(codes);
        }
        transpose(rows);
        __m512i sums = _mm512_setzero_si512();
        for (int q = 0; q < GROUP / 4 / lanes; q++) {
            sums = _mm512_dpbusd_epi32(sums, ones, (__m512i)rows[q]);
            _mm512_store_si512(tile + q * 64, (__m512i)rows[q]);
        }
        _mm512_store_si512(tile + START, _mm512_mullo_epi32(sums, offset));
        memcpy(tile + STEPS, scales, sizeof scales);
    }
}

AVX512 static void pack(const Product *p, const uint16_t *x, int count, char *tile) {
    if (count > TILE / 2)
        arrange(p, x, count, 0, tile);
    else
        arrange(p, x, count, 1, tile);
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
    const int groups = p->d_in / GROUP, line = 64 / (int)code_bytes(weight, GROUP);
    for (int g = 0; g < groups; g += line, panel += line * PANEL_GROUP) {
        const char *codes = p->weights + first * p->row_bytes + code_bytes(weight, (size_t)g * GROUP);
        const char *scales = p->scales + first * p->row_scales + scale_bytes(weight, (size_t)g * GROUP);
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

/* Four inputs of a weight row for every lane, or of a thin tile four for the even ones and the next four for the odd ones. */
AVX512 INLINE __m512i inputs_of(const char *row, const int q, const int thin) {
    return thin ? _mm512_set1_epi64(*(const Pair *)(row + q * 4)) : _mm512_set1_epi32(*(const Word *)(row + q * 4));
}

/* The two lanes of each token of a thin tile, added. */
AVX512 INLINE __m512 joined(__m512 sums) {
    return _mm512_maskz_compress_ps(0x5555, _mm512_add_ps(sums, _mm512_permute_ps(sums, 0xb1 /* neighbours change places */)));
}

/* Some weight rows times one tile of tokens or two: as many sums of bytes and of groups as registers hold. */
AVX512 INLINE void rows_times(const int rows, const int tiles, const int thin, const char *panel, const char *steps, Tiles tokens, int groups,
                              float *const sums[2]) {
    __m512 whole[12];
#pragma GCC unroll 12
    for (int i = 0; i < rows * tiles; i++) whole[i] = _mm512_setzero_ps();
    for (; groups; groups--, panel += PANEL_GROUP, steps += PANEL_GROUP, tokens.at += TILE_GROUP) {
        __m512i part[12];
#pragma GCC unroll 12
        for (int i = 0; i < rows * tiles; i++) part[i] = _mm512_load_si512(tokens.at + i % tiles * tokens.other + START);
#pragma GCC unroll 8
        for (int q = 0; q < GROUP / 4; q += thin ? 2 : 1)
#pragma GCC unroll 12
            for (int i = 0; i < rows * tiles; i++) {
                const __m512i inputs = _mm512_load_si512(tokens.at + i % tiles * tokens.other + (thin ? q / 2 : q) * 64);
                part[i] = _mm512_dpbusd_epi32(part[i], inputs_of(panel + i / tiles * GROUP, q, thin), inputs);
            }
#pragma GCC unroll 12
        for (int i = 0; i < rows * tiles; i++) {
            const __m512 scales = _mm512_load_ps((const float *)(tokens.at + i % tiles * tokens.other + STEPS));
            const __m512 both = _mm512_mul_ps(scales, _mm512_set1_ps(((const float *)steps)[i / tiles]));
            whole[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part[i]), both, whole[i]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows * tiles; i++) _mm512_store_ps(sums[i % tiles] + i / tiles * TILE, thin ? joined(whole[i]) : whole[i]);
}

#define ROWS_TIMES(name, rows, tiles, thin)                                                                                                 \
    AVX512 static void name(const char *panel, int row, Tiles tokens, int groups, Sums sums) {                                              \
        float *const to[2] = {sums[row / TILE][0] + row % TILE * TILE, sums[row / TILE][1] + row % TILE * TILE};                            \
        rows_times(rows, tiles, thin, panel + row * GROUP, panel + SCALES + row * 4, tokens, groups, to);                                   \
    }
ROWS_TIMES(eight_by_half, 8, 1, 1)
ROWS_TIMES(eight_by_one, 8, 1, 0)
ROWS_TIMES(six_by_two, 6, 2, 0)
ROWS_TIMES(five_by_two, 5, 2, 0)

AVX512 static void multiply(const Product *p, size_t first, int rows, int fresh, char *panel, Tiles tokens, int thin, Sums sums) {
    const int groups = p->d_in / GROUP;
    if (fresh && p->weight == MXFP4)
        fill(p, MXFP4, first, rows, panel);
    else if (fresh)
        fill(p, INT8, first, rows, panel);
    for (int r = 0; r < PANEL; r += TILE)
        if (tokens.other) {
            six_by_two(panel, r, tokens, groups, sums);
            five_by_two(panel, r + 6, tokens, groups, sums);
            five_by_two(panel, r + 11, tokens, groups, sums);
        } else
            for (int eight = r; eight < r + TILE; eight += 8) (thin ? eight_by_half : eight_by_one)(panel, eight, tokens, groups, sums);
}

static const Way WAY = {PANEL_GROUP, TILE_GROUP, 1, pack, multiply};
const Way *const BYTES = &WAY;

#endif
