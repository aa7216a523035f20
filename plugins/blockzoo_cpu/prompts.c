/* Many rows times weights: prefill.
 *
 * Activations are packed once a call into the order of a product's right operand. A thread takes some weight rows of one
 * expert: it fills panels in its second cache with them while it multiplies the first tokens, then goes over the rest.
 * Sums are float32.
 *
 * Axes: n rows of activations ("tokens"), d_in inputs, d_out outputs.
 */
#include "calls.h"
#include "prompts.h"

#if defined(__x86_64__)

enum { STRETCH = 768 << 10 /* bytes of panels that a thread keeps: they and a few tokens fill a second cache */ };

/* Rows of one expert, and where its tokens are among the packed ones. */
typedef struct {
    int expert, count;
    size_t row, tile;
} Segment;

/* Sums of two tiles of weights and one of tokens, turned, into `tokens` rows of y, `outputs` columns of it. */
AVX512 static void put(const Product *p, const float *sums[2], const float added[PANEL], size_t token, int tokens, int column, int outputs) {
    Words halves[2][TILE];
    for (int i = 0; i < 2; i++) {
        for (int r = 0; r < TILE; r++)
            halves[i][r] = (Words)_mm512_add_ps(_mm512_load_ps(sums[i] + r * TILE), _mm512_set1_ps(added[i * TILE + r]));
        transpose(halves[i]);
    }
    for (int t = 0; t < tokens; t++) {
        float both[PANEL];
        for (int i = 0; i < 2; i++) memcpy(both + i * TILE, &halves[i][t], sizeof halves[i][t]);
        uint16_t *to = p->y + (token + t) * p->d_out + column;
        for (int o = 0; o < outputs; o++) to[o] = nearest_bf16(both[o]);
    }
}

/* `panels` panels of weight rows of one expert, from `column` on, times all its tokens. */
static void block(const Way *way, const Product *p, const Segment *s, int column, int panels, const char *packed, char *stretch) {
    const int tiles = (s->count + TILE - 1) / TILE;
    const size_t groups = (size_t)p->d_in / GROUP, tile_bytes = groups * way->tile_group;
    _Alignas(64) Sums sums;
    for (int t = 0, two; t < tiles; t += 1 + two) {
        const int left = s->count - t * TILE, thin = way->thin && left <= TILE / 2;
        two = left > TILE + (way->thin ? TILE / 2 : 0);
        for (int j = 0; j < panels; j++) {
            const int at = column + j * PANEL, rows = p->d_out - at < PANEL ? p->d_out - at : PANEL;
            const size_t first = (size_t)s->expert * p->d_out + at;
            way->multiply(p, first, rows, t == 0, stretch + j * groups * way->panel_group,
                          (Tiles){packed + (s->tile + t) * tile_bytes, two ? tile_bytes : 0 /* one */, way->tile_group}, thin, sums);
            float added[PANEL] = {0};
            for (int r = 0; p->bias && r < rows; r++) added[r] = load(p->bias, p->bias_type, first + r);
            for (int u = 0; u <= two; u++) {
                const int here = left - u * TILE < TILE ? left - u * TILE : TILE;
                put(p, (const float *[]){sums[0][u], sums[1][u]}, added, s->row + (size_t)(t + u) * TILE, here, at, rows);
            }
        }
    }
}

/* y[r] = x[r] @ w[expert].T + bias[expert] for the rows r of each expert. `counts`: rows of each expert, in order.
 *
 * x (n, d_in) and y (n, d_out) in bfloat16; weights (experts, d_out, d_in) and scales (experts, d_out, d_in / 32) as
 * MXFP4 or int8, or weights in bfloat16, bias (experts, d_out) of `bias_type` or NULL. `rounded`: as products of bytes, of
 * packed weights, which want AVX-512 with VNNI; otherwise as those of tiles, which want AMX
 * and find each thread's as they were afterwards. Returns 0, or 1 where memory is lacking.
 */
int prompt_times(int rounded, int weight, const void *weights, const void *scales, const void *bias, int bias_type, const void *x, void *y, int d_in,
                 int d_out, const int64_t *counts, int experts) {
    const Way *way = rounded ? BYTES : HALVES;
    if (!way) return 1;
    const size_t groups = (size_t)d_in / GROUP, tile_bytes = groups * way->tile_group, panel_bytes = groups * way->panel_group;
    const int columns = (d_out + PANEL - 1) / PANEL, team = most_threads();
    size_t tiles = 0;
    int used = 0;
    for (int e = 0; e < experts; e++) tiles += (counts[e] + TILE - 1) / TILE, used += counts[e] > 0;
    /* as many panels a block as a cache holds, and blocks for every thread */
    int panels = (int)(STRETCH / panel_bytes), fair = (int)((size_t)used * columns / ((size_t)team * 4));
    panels = panels < fair ? panels : fair;
    panels = panels < 1 ? 1 : panels > columns ? columns : panels;
    const int blocks = (columns + panels - 1) / panels;

    char *packed = aligned_alloc(64, tiles * tile_bytes + team * panels * panel_bytes);
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
    for (int byte = 0; !rounded && weight == MXFP4 && byte < 256; byte++)
        for (int code = 0; code < TILE; code++) table[byte][code] = to_bf16(E2M1[code] * of_e8m0((uint8_t)byte));
    const Product p = {weight,  d_in, d_out, bias_type, weights, scales, code_bytes(weight, d_in), scale_bytes(weight, d_in), bias, y,
                       (const uint16_t(*)[TILE])table};
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (size_t t = 0; t < tiles; t++) way->pack(&p, (const uint16_t *)x + parts[t].row * d_in, parts[t].count, packed + t * tile_bytes);
        const TileConfig before = begin_tiles();
        char *stretch = packed + tiles * tile_bytes + (size_t)thread() * panels * panel_bytes;
#pragma omp for schedule(dynamic)
        for (long i = 0; i < (long)used * blocks; i++) {
            const int column = (int)(i % blocks) * panels, left = columns - column;
            block(way, &p, &segments[i / blocks], column * PANEL, left < panels ? left : panels, packed, stretch);
        }
        end_tiles(before);
    }
    free(packed);
    free(segments);
    return 0;
}

#else

int prompt_times(int rounded, int weight, const void *weights, const void *scales, const void *bias, int bias_type, const void *x, void *y, int d_in,
                 int d_out, const int64_t *counts, int experts) {
    (void)rounded, (void)weight, (void)weights, (void)scales, (void)bias, (void)bias_type, (void)x, (void)y, (void)d_in, (void)d_out;
    (void)counts, (void)experts;
    return 1;
}

#endif
