/* Products of tiles. */
#include "tiles.h"

#if defined(TILES)

/* --- AMX --- */

AMX static inline __attribute__((always_inline)) void by_amx(Sums sums, int fresh, Tiles a, Tiles b, int64_t steps, int two) {
    FENCE;
    if (fresh) {
        _tile_zero(0);
        _tile_zero(2);
        if (two) {
            _tile_zero(1);
            _tile_zero(3);
        }
    } else {
        _tile_loadd(0, sums[0][0], 64);
        _tile_loadd(2, sums[1][0], 64);
        if (two) {
            _tile_loadd(1, sums[0][1], 64);
            _tile_loadd(3, sums[1][1], 64);
        }
    }
    for (int64_t s = 0; s < steps; s++, a.at += a.step, b.at += b.step) {
        _tile_loadd(4, a.at, 64);
        _tile_loadd(6, b.at, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (two) {
            _tile_loadd(7, b.at + b.other, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        _tile_loadd(5, a.at + a.other, 64);
        _tile_dpbf16ps(2, 5, 6);
        if (two) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums[0][0], 64);
    _tile_stored(2, sums[1][0], 64);
    if (two) {
        _tile_stored(1, sums[0][1], 64);
        _tile_stored(3, sums[1][1], 64);
    }
    FENCE;
}

AMX static void one_by_amx(Sums sums, int fresh, Tiles a, Tiles b, int64_t steps) { by_amx(sums, fresh, a, b, steps, 0); }
AMX static void two_by_amx(Sums sums, int fresh, Tiles a, Tiles b, int64_t steps) { by_amx(sums, fresh, a, b, steps, 1); }

/* --- vectors: a row of a is broadcast word by word to meet whole rows of b; 16 sums hide how long each takes --- */

TILED static inline __attribute__((always_inline)) void rows_by_vectors(float *first, float *second, int fresh, const char *a, size_t a_step, Tiles b,
                                                                       int64_t steps, const int rows, const int tiles) {
    __m512 sums[TILE];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        sums[r * tiles] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(first + r * TILE);
        if (tiles > 1) sums[r * tiles + 1] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(second + r * TILE);
    }
    for (; steps; steps--, a += a_step, b.at += b.step)
        for (int p = 0; p < TILE; p++) {
            const __m512bh right = (__m512bh)_mm512_load_si512(b.at + p * 64), other = (__m512bh)_mm512_load_si512(b.at + b.other + p * 64);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const __m512bh left = (__m512bh)_mm512_set1_epi32(*(const Word *)(a + r * 64 + p * 4));
                sums[r * tiles] = _mm512_dpbf16_ps(sums[r * tiles], left, right);
                if (tiles > 1) sums[r * tiles + 1] = _mm512_dpbf16_ps(sums[r * tiles + 1], left, other);
            }
        }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        _mm512_store_ps(first + r * TILE, sums[r * tiles]);
        if (tiles > 1) _mm512_store_ps(second + r * TILE, sums[r * tiles + 1]);
    }
}

TILED static void one_by_vectors(Sums sums, int fresh, Tiles a, Tiles b, int64_t steps) {
    for (int i = 0; i < 2; i++) rows_by_vectors(sums[i][0], NULL, fresh, a.at + i * a.other, a.step, b, steps, 16, 1);
}

TILED static void two_by_vectors(Sums sums, int fresh, Tiles a, Tiles b, int64_t steps) {
    for (int i = 0; i < 2; i++)
        for (int r = 0; r < TILE; r += 8)
            rows_by_vectors(sums[i][0] + r * TILE, sums[i][1] + r * TILE, fresh, a.at + i * a.other + r * 64, a.step, b, steps, 8, 2);
}

void products(Sums sums, int fresh, Tiles a, Tiles b, int64_t steps) {
    if (has_tiles() == AMX_TILES)
        (b.other ? two_by_amx : one_by_amx)(sums, fresh, a, b, steps);
    else
        (b.other ? two_by_vectors : one_by_vectors)(sums, fresh, a, b, steps);
}

#endif
