/* Runs attention's forward in float32 on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "sanitize_causal.h"
#include "blocked_attention.c"

int main(void) { return has_avx512() && shapes(forward, &BLOCKED_ATTENTION, F32, 0); }
