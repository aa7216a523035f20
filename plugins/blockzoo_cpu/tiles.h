/* Tiles of 16 rows x 64 bytes, two numbers in bfloat16 a word, and their products: by AMX, or by vectors where a CPU has none. */
#ifndef BLOCKZOO_TILES_H
#define BLOCKZOO_TILES_H

#include "transpose.h"

enum { TILE = 16 /* rows of a tile */, TILE_BYTES = 1024 };
enum TileKind { NO_TILES, VECTOR_TILES, AMX_TILES };

/* [tile of a][tile of b]: rows of a x columns of b. */
typedef float Sums[2][2][TILE * TILE];

/* A row of tiles and another `other` bytes on; 0: there is none. From a tile to the next it is `step` bytes. */
typedef struct {
    const char *at;
    size_t other, step;
} Tiles;

/* What `sttilecfg` tells of a thread's tiles. */
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

/* By what this CPU multiplies tiles, as far as the system lets this process and `limit_tiles` did. */
int has_tiles(void);

/* From now on at most that kind, for tests. Returns 0. */
int limit_tiles(int kind);

#pragma GCC visibility push(hidden)

/* Around a thread's products: other code in it has tiles of its own, which it finds as they were. */
TileConfig begin_tiles(void);
void end_tiles(TileConfig before);

#pragma GCC visibility pop

#if defined(__x86_64__) && defined(__linux__) && ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define TILES /* this compiler knows them */
#define TILED __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))

/* compilers don't know what tile instructions read and write in memory: nothing is moved across this */
#define FENCE __asm__ volatile("" ::: "memory")

#pragma GCC visibility push(hidden)

/* sums = or += a times b over `steps` tiles of each: a two tiles of left operands, 16 rows x 32 numbers, b one or two of right ones, 16 pairs
 * of numbers x 16 columns. Sums are float32; denormals count as zero.
 */
void products(Sums sums, int fresh, Tiles a, Tiles b, int64_t steps);

#pragma GCC visibility pop

#endif

#endif
