/* Prompts as products of tiles in bfloat16, by AMX: weights are the left operand as they lie, 16 rows x one group of 32 inputs, so that they
 * need no transposition; packed ones are de-quantized on their way into a panel.
 */
#include "prompts.h"

#if !defined(TILES)

const Way *const HALVES = NULL;

#else

/* --- weights --- */

/* One group of one weight row in bfloat16. */
TILED static inline __m512i mxfp4_group(const uint8_t *codes, const uint16_t *table) {
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    /* a word for each code; the table is there twice, for a look-up takes five bits */
    __m512i at = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    return _mm512_permutexvar_epi16(at, _mm512_broadcast_i64x4(_mm256_load_si256((const __m256i *)table)));
}

TILED static inline __m512i int8_group(const int8_t *codes, uint16_t scale) {
    __m512 step = _mm512_set1_ps(of_bf16(scale));
    __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)codes)));
    __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(codes + GROUP / 2))));
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, step), _mm512_mul_ps(low, step));
}

/* Group g of `rows` weight rows from `first` on into two tiles; rows that there are not are zero. */
TILED INLINE void fill(const Product *p, int weight, size_t first, int rows, int g, char *to) {
    const char *codes = p->weights + first * p->row_bytes + code_bytes(weight, (size_t)g * GROUP);
    const char *scales = p->scales + first * p->row_scales + scale_bytes(weight, (size_t)g * GROUP);
    const size_t next = PANEL * p->row_bytes; /* what the next panel reads */
    if (g % (64 / code_bytes(weight, GROUP)) == 0)
        for (int r = 0; r < rows; r++) _mm_prefetch(codes + next + r * p->row_bytes, _MM_HINT_T1);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++, codes += p->row_bytes, scales += p->row_scales) {
        __m512i group;
        if (weight == MXFP4)
            group = mxfp4_group((const uint8_t *)codes, p->table[*(const uint8_t *)scales]);
        else if (weight == INT8)
            group = int8_group((const int8_t *)codes, *(const uint16_t *)scales);
        else
            group = _mm512_loadu_si512(codes);
        _mm512_store_si512(to + r * 64, group);
    }
    for (int r = rows; r < PANEL; r++) _mm512_store_si512(to + r * 64, _mm512_setzero_si512());
}

/* --- products --- */

/* Tiles [group][pair of inputs][token][2]. */
TILED static void pack(const Product *p, const uint16_t *x, int count, char *tile) {
    for (int g = 0; g < p->d_in / GROUP; g++) {
        __m512i rows[TILE];
        for (int r = 0; r < TILE; r++)
            rows[r] = r < count ? _mm512_loadu_si512(x + (size_t)r * p->d_in + g * GROUP) : _mm512_setzero_si512();
        transpose((Words *)rows);
        for (int r = 0; r < TILE; r++) _mm512_store_si512(tile + g * TILE_BYTES + r * 64, rows[r]);
    }
}

/* Weights are de-quantized one group ahead of the product: table look-ups hide behind tiles. */
AMX INLINE void fill_and_multiply(const Product *p, int weight, int two, size_t first, int rows, char *panel, Tiles tokens, Sums sums) {
    const int groups = p->d_in / GROUP;
    _tile_zero(0);
    _tile_zero(1);
    if (two) {
        _tile_zero(2);
        _tile_zero(3);
    }
    fill(p, weight, first, rows, 0, panel);
    for (int g = 0; g < groups; g++, tokens.at += tokens.step) {
        char *at = panel + (size_t)g * 2 * TILE_BYTES;
        FENCE;
        _tile_loadd(4, at, 64);
        _tile_loadd(6, tokens.at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, at + TILE_BYTES, 64);
        _tile_dpbf16ps(1, 5, 6);
        if (two) {
            _tile_loadd(7, tokens.at + tokens.other, 64);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (g + 1 < groups) fill(p, weight, first, rows, g + 1, at + 2 * TILE_BYTES);
    }
    _tile_stored(0, sums[0][0], 64);
    _tile_stored(1, sums[1][0], 64);
    if (two) {
        _tile_stored(2, sums[0][1], 64);
        _tile_stored(3, sums[1][1], 64);
    }
    FENCE;
}

#define FILL_AND_MULTIPLY(name, weight)                                                                                                      \
    AMX static void name(const Product *p, size_t first, int rows, char *panel, Tiles tokens, Sums sums) {                                   \
        if (tokens.other)                                                                                                                    \
            fill_and_multiply(p, weight, 1, first, rows, panel, tokens, sums);                                                               \
        else                                                                                                                                 \
            fill_and_multiply(p, weight, 0, first, rows, panel, tokens, sums);                                                               \
    }
FILL_AND_MULTIPLY(mxfp4, MXFP4)
FILL_AND_MULTIPLY(int8, INT8)
FILL_AND_MULTIPLY(plain, BFLOAT16)

static void multiply(const Product *p, size_t first, int rows, int fresh, char *panel, Tiles tokens, int thin, Sums sums) {
    (void)thin;
    if (fresh)
        (p->weight == MXFP4 ? mxfp4 : p->weight == INT8 ? int8 : plain)(p, first, rows, panel, tokens, sums);
    else
        products(sums, 1, (Tiles){panel, TILE_BYTES, 2 * TILE_BYTES}, tokens, p->d_in / GROUP);
}

static const Way WAY = {2 * TILE_BYTES, TILE_BYTES, 0, pack, multiply};
const Way *const HALVES = &WAY;

#endif
