/* Runs attention's backward in float32 on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "sanitize_causal.h"
#include "blocked_attention_backward.c"

int main(void) { return has_avx512() && shapes(backward, &BLOCKED_ATTENTION_BACKWARD, F32, 0); }
