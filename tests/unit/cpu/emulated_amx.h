/* AMX in plain C, for CPUs that have none: a thread's tiles, which it must have configured. */
#ifndef BLOCKZOO_EMULATED_AMX_H
#define BLOCKZOO_EMULATED_AMX_H

#include "tiles.h"

extern __thread int configured;
static __thread char emulated[8][TILE_BYTES];

static inline char *emulated_row(int tile, int row) {
    if (!configured) abort();
    return emulated[tile] + row * 64;
}

static inline void emulated_zero(int tile) { memset(emulated_row(tile, 0), 0, TILE_BYTES); }

static inline void emulated_load(int tile, const void *from, size_t stride) {
    for (int r = 0; r < TILE; r++) memcpy(emulated_row(tile, r), (const char *)from + r * stride, 64);
}

static inline void emulated_store(int tile, void *to, size_t stride) {
    for (int r = 0; r < TILE; r++) memcpy((char *)to + r * stride, emulated_row(tile, r), 64);
}

static inline void emulated_product(int sums, int a, int b) {
    for (int r = 0; r < TILE; r++)
        for (int c = 0; c < TILE; c++) {
            float sum = load(emulated_row(sums, r), F32, (size_t)c);
            for (int i = 0; i < GROUP; i++)
                sum += load(emulated_row(a, r), BF16, (size_t)i) * load(emulated_row(b, i / 2), BF16, (size_t)(2 * c + i % 2));
            store(emulated_row(sums, r), F32, (size_t)c, sum);
        }
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_zero emulated_zero
#define _tile_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_dpbf16ps emulated_product

#endif
