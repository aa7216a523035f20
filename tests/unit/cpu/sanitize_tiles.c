/* Runs products of tiles, of one and of two, by all that this CPU has, on buffers of exactly their size, for the sanitizers to watch. */
#include "sanitize.h"
#include "tiles.c"

int main(void) {
    int wrong = 0;
#if defined(TILES)
    enum { STEPS = 3 };
    const int best = has_tiles();
    for (int kind = VECTOR_TILES; kind <= best; kind++)
        for (size_t two = 0; two < 2; two++) {
            limit_tiles(kind);
            char *a = aligned_alloc(64, 2 * STEPS * TILE_BYTES), *b = aligned_alloc(64, (1 + two) * STEPS * TILE_BYTES);
            Sums *sums = aligned_alloc(64, sizeof *sums);
            for (int i = 0; i < STEPS * TILE_BYTES; i++) {
                store(a, BF16, (size_t)i, 1);
                if (two || i < STEPS * TILE_BYTES / 2) store(b, BF16, (size_t)i, 2);
            }
            const TileConfig before = begin_tiles();
            const Tiles left = {a, STEPS * TILE_BYTES, TILE_BYTES}, right = {b, two * STEPS * TILE_BYTES, TILE_BYTES};
            products(*sums, 1, left, right, STEPS);
            products(*sums, 0, left, right, STEPS);
            end_tiles(before);
            for (int i = 0; i < 2; i++)
                for (int r = 0; r < TILE * TILE; r++)
                    for (size_t j = 0; j <= two; j++) wrong |= (*sums)[i][j][r] != 2 * STEPS * GROUP * 2;
            free(a), free(b), free(sums);
        }
#endif
    return wrong;
}
