/* Runs attention's backward in tiles on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "sanitize_causal.h"
#include "tiled_attention_backward.c"

int has_tiles(void);

int main(void) { return has_tiles() && shapes(backward, &TILED_ATTENTION_BACKWARD, BF16, 0); }
