/* AMX tiles of 16 rows x 64 bytes: how they are configured, and what is done to numbers on their way into them. */
#ifndef BLOCKZOO_TILES_H
#define BLOCKZOO_TILES_H

#include "transpose.h"

#if defined(__x86_64__) && defined(__linux__) && ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define TILES /* this compiler knows them */
#define AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))

enum { TILE = 16 /* rows of a tile */, TILE_BYTES = 1024 };

/* compilers don't know what tile instructions read and write in memory: nothing is moved across this */
#define FENCE __asm__ volatile("" ::: "memory")

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

/* Makes all eight tiles whole ones for this thread; what they were before. */
AMX static inline TileConfig configure_tiles(void) {
    static const TileConfig config = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    TileConfig before;
    __asm__ volatile("sttilecfg %0" : "=m"(before));
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
    return before;
}

AMX static inline void put_tiles_back(TileConfig before) { __asm__ volatile("ldtilecfg %0" ::"m"(before)); }

#endif

#endif
