/* What this CPU can do, beyond what the compiler was told. */
#include "tiles.h"

int has_avx512(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}

static int most_tiles = AMX_TILES;

int limit_tiles(int kind) { return most_tiles = kind, 0; }

#if !defined(TILES)

int has_tiles(void) { return NO_TILES; }
TileConfig begin_tiles(void) { return (TileConfig){0}; }
void end_tiles(TileConfig before) { (void)before; }

#else

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static int found(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AVX512_BF16 = 1 << 5, REQUEST = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & AVX512_BF16)) return NO_TILES;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl"))
        return NO_TILES;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return VECTOR_TILES;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) ? VECTOR_TILES : AMX_TILES;
}

int has_tiles(void) {
    static int known = -1; /* threads that ask at once find the same */
    int kind = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (kind < 0) __atomic_store_n(&known, kind = found(), __ATOMIC_RELAXED);
    return kind < most_tiles ? kind : most_tiles;
}

TileConfig begin_tiles(void) {
    static const TileConfig whole = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    TileConfig before = {0};
    if (has_tiles() != AMX_TILES) return before;
    __asm__ volatile("sttilecfg %0" : "=m"(before));
    __asm__ volatile("ldtilecfg %0" ::"m"(whole));
    return before;
}

void end_tiles(TileConfig before) {
    if (has_tiles() == AMX_TILES) __asm__ volatile("ldtilecfg %0" ::"m"(before));
}

#endif
