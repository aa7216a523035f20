/* Rows become columns. */
#ifndef BLOCKZOO_TRANSPOSE_H
#define BLOCKZOO_TRANSPOSE_H

#include "common.h"

typedef int32_t Word __attribute__((may_alias));
typedef int64_t Pair __attribute__((may_alias));
typedef int32_t Words __attribute__((vector_size(64), may_alias));

#if defined(__clang__)
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (Words){__VA_ARGS__})
#endif

/* 16 x 16 numbers of four bytes. Meeting a row with the one eight below, number by number, turns the eight bits of a number's place
 * (row, column) by one; four times exchanges row and column.
 */
INLINE void transpose(Words rows[16]) {
    for (int turned = 0; turned < 4; turned++) {
        Words met[16];
        for (int i = 0; i < 8; i++) {
            met[2 * i] = SHUFFLED(rows[i], rows[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            met[2 * i + 1] = SHUFFLED(rows[i], rows[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int i = 0; i < 16; i++) rows[i] = met[i];
    }
}

#endif
