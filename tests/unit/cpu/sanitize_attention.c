/* Runs attention on buffers of exactly the size that it may touch, for the sanitizers to watch. */
#include "attention.c"
#include "sanitize.h"

/* A cache that holds more keys than are in use, the last row and head without slack: strides pass over what is unused. */
static int attends(int type, int64_t heads, int64_t kv_heads, int64_t width, int64_t value_width, int64_t keys, int by_position, int64_t window, int wide) {
    const int64_t batch = kv_heads, held = keys + 3;
    const size_t size = type == BF16 ? 2 : 4;
    /* the last head's unused keys are left out of the buffer: nothing may look at them */
    void *k = calloc((batch * kv_heads * held - 3) * width, size), *v = calloc((batch * kv_heads * held - 3) * value_width, size);
    void *q = calloc(batch * heads * width, size), *y = calloc(batch * heads * value_width, size), *sinks = calloc(heads, size);
    int64_t *position = malloc(batch * sizeof *position), *positions = malloc((batch * held - 3) * sizeof *positions);
    for (int64_t b = 0; b < batch; b++) {
        position[b] = keys - 1 - b;
        for (int64_t s = 0; s < keys; s++) positions[b * held + s] = s < keys - b ? s : -1;
    }
    Attention a = {.q = q, .k = k, .v = v, .y = y, .sinks = sinks, .sink_type = type, .type = type, .batch = batch, .heads = heads,
                   .kv_heads = kv_heads, .keys = keys, .width = width, .value_width = value_width, .k_row = kv_heads * held * width,
                   .k_head = held * width, .k_key = width, .v_row = kv_heads * held * value_width, .v_head = held * value_width,
                   .v_key = value_width, .position_row = 1, .positions_row = held, .window = window, .scale = .125,
                   .softcap = window ? 30 : 0, .wide = wide};
    if (by_position) a.position = position, a.positions = positions;
    const int failed = called(&ATTEND, &a);
    free(k), free(v), free(q), free(y), free(sinks), free(position), free(positions);
    return failed;
}

int main(void) {
    static const int64_t groups[] = {1, 2, 3, 8, 9}, widths[] = {8, 16, 40, 64}, keys[] = {1, 17, 128, 2100};
    for (int type = F32; type <= BF16; type++)
        for (int g = 0; g < 5; g++)
            for (int w = 0; w < 4; w++)
                for (int s = 0; s < 4; s++)
                    for (int by_position = 0; by_position < 2; by_position++)
                        for (int wide = 0; wide <= has_avx512(); wide++)
                            for (int64_t kv_heads = 1; kv_heads < 3; kv_heads++)
                                if (attends(type, groups[g] * kv_heads, kv_heads, widths[w], widths[3 - w], keys[s], by_position, g % 2 * 7, wide)) return 1;
    return 0;
}
