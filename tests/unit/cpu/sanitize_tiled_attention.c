/* Runs attention's forward in tiles on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "sanitize_causal.h"
#include "tiled_attention.c"

int has_tiles(void);

int main(void) {
    return has_tiles() && (shapes(forward, &TILED_ATTENTION, BF16, 0) | shapes(forward, &TILED_ATTENTION, BF16, 1) |
                           shapes(forward, &TILED_ATTENTION, BF16, 75));
}
