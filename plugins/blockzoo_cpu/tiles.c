/* Many rows times packed weights: prefill.
 *
 * bfloat16 goes through AMX: 16 weight rows x one group of 32 inputs, de-quantized, are just one tile, so that weights
 * need no transposition. Activations are packed once a call into the order of the other operand. A thread takes some
 * weight rows of one expert: it de-quantizes them into its second cache while it multiplies the first tokens, then goes
 * over the rest. Sums are float32; AMX counts denormal operands as zero.
 *
 * Everything else goes through `unpack_rows` and a matrix product of PyTorch's.
 *
 * Axes: n rows of activations ("tokens"), d_in inputs, d_out outputs.
 */
#include "common.h"
#include "tiles.h"

#if defined(TILES)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* --- unpacking, for the products of others --- */

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
    const size_t groups = d_in / GROUP;
    UnpackMXFP4 mxfp4 = mxfp4_row;
#if defined(__x86_64__)
    if (wide) mxfp4 = mxfp4_row_avx512;
#else
    (void)wide;
#endif
#pragma omp parallel for schedule(static)
    for (int r = 0; r < rows; r++) {
        float *at = to + r * groups * GROUP;
        if (weight == MXFP4)
            mxfp4((const uint8_t *)codes + r * groups * GROUP / 2, (const uint8_t *)scales + r * groups, d_in, at);
        else
            int8_row((const int8_t *)codes + r * groups * GROUP, (const uint16_t *)scales + r * groups, d_in, at);
    }
    return 0;
}

#if !defined(TILES)

int has_tiles(void) { return 0; }

int tiles_times(int weight, const void *weights, const void *scales, const void *bias, int bias_type, const void *x, void *y, int d_in,
                int d_out, const int64_t *counts, int experts) {
    (void)weight, (void)weights, (void)scales, (void)bias, (void)bias_type, (void)x, (void)y, (void)d_in, (void)d_out;
    (void)counts, (void)experts;
    return 1;
}

#else

enum { PANEL = 2 * TILE /* weight rows at a time */ };
enum { STRETCH = 768 << 10 /* bytes of de-quantized weights that a thread keeps: they and a few tokens fill a second cache */ };

/* Whether this CPU has AMX in bfloat16, and the system lets this process use it: asked for once a process. */
int has_tiles(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AVX512_BF16 = 1 << 5, REQUEST = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & AVX512_BF16)) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl"))
        return 0;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

static int max_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

/* What a call works on. */
typedef struct {
    int weight, d_in, d_out, bias_type;
    const char *weights, *scales;
    size_t row_bytes, row_scales;
    const void *bias;
    uint16_t *y;
    const uint16_t (*table)[TILE]; /* MXFP4: by scale byte, what each code stands for */
} Product;

/* Rows of one expert, and where its tokens are among the packed ones. */
typedef struct {
    int expert, count;
    size_t row, tile;
} Segment;

/* --- weights --- */

/* One group of one weight row in bfloat16. */
AMX static inline __m512i mxfp4_group(const uint8_t *codes, const uint16_t *table) {
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    /* a word for each code; the table is there twice, for a look-up takes five bits */
    __m512i at = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    return _mm512_permutexvar_epi16(at, _mm512_broadcast_i64x4(_mm256_load_si256((const __m256i *)table)));
}

AMX static inline __m512i int8_group(const int8_t *codes, uint16_t scale) {
    __m512 step = _mm512_set1_ps(of_bf16(scale));
    __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)codes)));
    __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(codes + GROUP / 2))));
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, step), _mm512_mul_ps(low, step));
}

/* Bytes of a group's codes, and of its scale. */
INLINE size_t code_bytes(int weight) { return weight == MXFP4 ? GROUP / 2 : weight == INT8 ? GROUP : GROUP * 2; }
INLINE size_t scale_bytes(int weight) { return weight == MXFP4 ? 1 : weight == INT8 ? 2 : 0; }

/* Group g of `rows` weight rows from `first` on into two tiles; rows that there are not are zero. */
AMX static inline __attribute__((always_inline)) void fill(const Product *p, int weight, size_t first, int rows, int g, char *to) {
    const char *codes = p->weights + first * p->row_bytes + g * code_bytes(weight);
    const char *scales = p->scales + first * p->row_scales + g * scale_bytes(weight);
    const size_t next = PANEL * p->row_bytes; /* what the next panel reads */
    if (g % (64 / code_bytes(weight)) == 0)
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

static void fill_table(uint16_t table[256][TILE]) {
    for (int byte = 0; byte < 256; byte++)
        for (int code = 0; code < TILE; code++) table[byte][code] = to_bf16(E2M1[code] * of_e8m0((uint8_t)byte));
}

/* --- products --- */

/* `count` rows of activations (count, d_in) into tiles [d_in / 32][pair of inputs][token][2]. */
AMX static void pack(const uint16_t *x, int count, int d_in, char *to) {
    for (int g = 0; g < d_in / GROUP; g++) {
        __m512i rows[TILE];
        for (int r = 0; r < TILE; r++)
            rows[r] = r < count ? _mm512_loadu_si512(x + (size_t)r * d_in + g * GROUP) : _mm512_setzero_si512();
        transpose((Words *)rows);
        for (int r = 0; r < TILE; r++) _mm512_store_si512(to + g * TILE_BYTES + r * 64, rows[r]);
    }
}

/* Sums of two tiles, [output][token], into `tokens` rows of y, `outputs` columns of it. */
AMX static inline void put(const Product *p, const float sums[2][TILE * TILE], const float added[PANEL], size_t token, int tokens, int column,
                           int outputs) {
    __m512i low[TILE], high[TILE];
    for (int r = 0; r < TILE; r++) {
        low[r] = (__m512i)_mm512_add_ps(_mm512_load_ps(sums[0] + r * TILE), _mm512_set1_ps(added[r]));
        high[r] = (__m512i)_mm512_add_ps(_mm512_load_ps(sums[1] + r * TILE), _mm512_set1_ps(added[r + TILE]));
    }
    transpose((Words *)low);
    transpose((Words *)high);
    const __mmask32 mask = outputs < PANEL ? (1u << outputs) - 1 : ~0u;
    for (int t = 0; t < tokens; t++) {
        __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)high[t], (__m512)low[t]);
        _mm512_mask_storeu_epi16(p->y + (token + t) * p->d_out + column, mask, halves);
    }
}

/* Two tiles of weights times one or two of tokens, over all inputs: sums[token tile][weight tile]. Where `fresh`, the
 * weights are de-quantized meanwhile, one group ahead of the product. */
AMX static inline __attribute__((always_inline)) void multiply(const Product *p, int weight, int fresh, int two, size_t first, int rows,
                                                               char *panel, const char *tokens, float sums[2][2][TILE * TILE]) {
    const int groups = p->d_in / GROUP;
    const char *others = tokens + (size_t)groups * TILE_BYTES;
    _tile_zero(0);
    _tile_zero(1);
    if (two) {
        _tile_zero(2);
        _tile_zero(3);
    }
    if (fresh) fill(p, weight, first, rows, 0, panel);
    for (int g = 0; g < groups; g++) {
        char *at = panel + (size_t)g * 2 * TILE_BYTES;
        FENCE;
        _tile_loadd(4, at, 64);
        _tile_loadd(6, tokens + (size_t)g * TILE_BYTES, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, at + TILE_BYTES, 64);
        _tile_dpbf16ps(1, 5, 6);
        if (two) {
            _tile_loadd(7, others + (size_t)g * TILE_BYTES, 64);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (fresh && g + 1 < groups) fill(p, weight, first, rows, g + 1, at + 2 * TILE_BYTES);
    }
    _tile_stored(0, sums[0][0], 64);
    _tile_stored(1, sums[0][1], 64);
    if (two) {
        _tile_stored(2, sums[1][0], 64);
        _tile_stored(3, sums[1][1], 64);
    }
    FENCE;
}

#define MULTIPLY(name, weight, fresh, two)                                                                                                  \
    AMX static void name(const Product *p, size_t first, int rows, char *panel, const char *tokens, float sums[2][2][TILE * TILE]) {       \
        multiply(p, weight, fresh, two, first, rows, panel, tokens, sums);                                                                  \
    }
MULTIPLY(mxfp4_one, MXFP4, 1, 0)
MULTIPLY(mxfp4_two, MXFP4, 1, 1)
MULTIPLY(int8_one, INT8, 1, 0)
MULTIPLY(int8_two, INT8, 1, 1)
MULTIPLY(plain_one, BFLOAT16, 1, 0)
MULTIPLY(plain_two, BFLOAT16, 1, 1)
MULTIPLY(known_one, 0, 0, 0)
MULTIPLY(known_two, 0, 0, 1)

/* `panels` panels of weight rows of one expert, from `column` on, times all its tokens. */
AMX static void block(const Product *p, const Segment *s, int column, int panels, const char *packed, char *stretch) {
    const int tiles = (s->count + TILE - 1) / TILE;
    const size_t tile_bytes = (size_t)p->d_in / GROUP * TILE_BYTES;
    _Alignas(64) float sums[2][2][TILE * TILE];
    for (int t = 0; t < tiles; t += 2)
        for (int j = 0; j < panels; j++) {
            const int at = column + j * PANEL, rows = p->d_out - at < PANEL ? p->d_out - at : PANEL, two = t + 1 < tiles;
            const size_t first = (size_t)s->expert * p->d_out + at;
            char *panel = stretch + j * 2 * tile_bytes;
            const char *tokens = packed + (s->tile + t) * tile_bytes;
            if (t)
                (two ? known_two : known_one)(p, first, rows, panel, tokens, sums);
            else if (p->weight == MXFP4)
                (two ? mxfp4_two : mxfp4_one)(p, first, rows, panel, tokens, sums);
            else if (p->weight == INT8)
                (two ? int8_two : int8_one)(p, first, rows, panel, tokens, sums);
            else
                (two ? plain_two : plain_one)(p, first, rows, panel, tokens, sums);

            float added[PANEL] = {0};
            for (int r = 0; p->bias && r < rows; r++)
                added[r] = p->bias_type == BF16 ? of_bf16(((const uint16_t *)p->bias)[first + r]) : ((const float *)p->bias)[first + r];
            for (int u = 0; u <= two; u++) {
                const int done = (t + u) * TILE, left = s->count - done;
                put(p, (const float(*)[TILE * TILE])sums[u], added, s->row + done, left < TILE ? left : TILE, at, rows);
            }
        }
}

/* y[r] = x[r] @ w[expert].T + bias[expert] for the rows r of each expert. `counts`: rows of each expert, in order.
 *
 * x (n, d_in) and y (n, d_out) in bfloat16; weights (experts, d_out, d_in) and scales (experts, d_out, d_in / 32) as
 * MXFP4 or int8, or weights in bfloat16, bias (experts, d_out) of `bias_type` or NULL. Returns 0, or 1 where memory is lacking. Only where
 * `has_tiles`. It leaves the tiles' configuration of every thread as it was.
 */
AMX int tiles_times(int weight, const void *weights, const void *scales, const void *bias, int bias_type, const void *x, void *y, int d_in,
                    int d_out, const int64_t *counts, int experts) {
    const size_t tile_bytes = (size_t)d_in / GROUP * TILE_BYTES;
    const int columns = (d_out + PANEL - 1) / PANEL, team = max_threads();
    size_t tiles = 0;
    int used = 0;
    for (int e = 0; e < experts; e++) tiles += (counts[e] + TILE - 1) / TILE, used += counts[e] > 0;
    /* as many panels a block as a cache holds, and blocks for every thread */
    int panels = (int)(STRETCH / (2 * tile_bytes)), fair = (int)((size_t)used * columns / ((size_t)team * 4));
    panels = panels < fair ? panels : fair;
    panels = panels < 1 ? 1 : panels > columns ? columns : panels;
    const int blocks = (columns + panels - 1) / panels;

    const size_t stretch = panels * 2 * tile_bytes;
    char *packed = aligned_alloc(64, tiles * tile_bytes + team * stretch);
    Segment *segments = malloc((used + tiles + 1) * sizeof(Segment)), *parts = segments + used;
    if (!packed || !segments) return free(packed), free(segments), 1;
    Segment *s = segments, *part = parts;
    for (size_t e = 0, row = 0, tile = 0; e < (size_t)experts; row += counts[e++])
        if (counts[e]) {
            *s++ = (Segment){(int)e, (int)counts[e], row, tile};
            for (int64_t done = 0; done < counts[e]; done += TILE, tile++)
                *part++ = (Segment){(int)e, counts[e] - done < TILE ? (int)(counts[e] - done) : TILE, row + done, tile};
        }

    _Alignas(32) uint16_t table[256][TILE];
    if (weight == MXFP4) fill_table(table);
    const size_t groups = d_in / GROUP;
    const Product p = {weight,  d_in, d_out, bias_type, weights, scales, groups * code_bytes(weight), groups * scale_bytes(weight), bias, y,
                       (const uint16_t(*)[TILE])table};
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (size_t t = 0; t < tiles; t++)
            pack((const uint16_t *)x + parts[t].row * d_in, parts[t].count, d_in, packed + t * tile_bytes);
        const TileConfig before = configure_tiles();
#pragma omp for schedule(dynamic)
        for (long i = 0; i < (long)used * blocks; i++) {
            const int column = (int)(i % blocks) * panels, left = columns - column;
            block(&p, &segments[i / blocks], column * PANEL, left < panels ? left : panels, packed, packed + tiles * tile_bytes + thread() * stretch);
        }
        put_tiles_back(before);
    }
    free(packed);
    free(segments);
    return 0;
}

#endif
