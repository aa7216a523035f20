/* Many rows of activations times weights: what is multiplied, and the ways to do it. */
#ifndef BLOCKZOO_PROMPTS_H
#define BLOCKZOO_PROMPTS_H

#include "tiles.h"

enum { PANEL = 2 * TILE /* weight rows at a time */ };

/* What a call works on. */
typedef struct {
    int weight, d_in, d_out, bias_type;
    const char *weights, *scales;
    size_t row_bytes, row_scales;
    const void *bias;
    uint16_t *y;
    const uint16_t (*table)[TILE]; /* MXFP4 in bfloat16: by scale byte, what each code stands for */
} Product;

/* A way to multiply panels of 32 weight rows by tiles of 16 tokens, each arranged by groups of 32 inputs that take so many bytes. */
typedef struct {
    size_t panel_group, tile_group;
    int thin; /* whether a tile of half as many tokens or fewer is arranged in its own way and takes less time, alone */
    /* `count` rows of activations (count, d_in) as a tile. */
    void (*pack)(const Product *p, const uint16_t *x, int count, char *tile);
    /* [weight][token] sums of one tile, which may be thin, or two. A `fresh` panel is first filled with `rows` weight rows from `first` on; sums of rows
     * that there are not are anything. */
    void (*multiply)(const Product *p, size_t first, int rows, int fresh, char *panel, Tiles tokens, int thin, Sums sums);
} Way;

#pragma GCC visibility push(hidden)
extern const Way *const HALVES, *const BYTES; /* NULL where the compiler can't */
#pragma GCC visibility pop

#endif
