/* A CPU with AVX512-BF16 that claims to have AMX. */
#define has_tiles known_tiles
#define begin_tiles configure
#define end_tiles put_back
#include "machine.c"
#undef has_tiles
#undef begin_tiles
#undef end_tiles

__thread int configured;

int has_tiles(void) { return known_tiles() == NO_TILES ? NO_TILES : most_tiles; }

TileConfig begin_tiles(void) { return configured++, (TileConfig){0}; }

void end_tiles(TileConfig before) { (void)before, configured--; }
