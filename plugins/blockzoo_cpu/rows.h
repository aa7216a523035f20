/* A row of weights and a row of activations as their product reads them, and which product that is. */
#ifndef BLOCKZOO_ROWS_H
#define BLOCKZOO_ROWS_H

#include "common.h"

enum { QUAD = 4 * GROUP };

/* One row of activations as a weight's kernel reads it. Rounded rows have codes, scales and start; exact ones values. */
typedef struct {
    float *values;  /* (d_in) */
    int8_t *codes;  /* (d_in), in the order of the weight's codes */
    float *scales;  /* (d_in / GROUP), of the activations */
    int32_t *start; /* what the weights' offset adds to the products of each 32-bit lane, negated */
} Row;

/* One row of weights; `ahead`: how many bytes from each of its codes that lies which will be wanted soon. */
typedef struct {
    const void *codes, *scales;
    ptrdiff_t ahead;
} Stored;

typedef float (*Dot)(const Stored *w, const Row *x, int d_in);
typedef void (*Dots)(const Stored w[2], const Row *x, int d_in, float sums[2]);

/* The product of weights of a kind with activations that are `rounded` to int8 or not. */
typedef struct {
    Dot one;     /* of a row of weights, or NULL: */
    Dots two;    /* of two at once */
    int parted;  /* reads of every 32 activations the even ones before the odd ones, */
    int rounded; /* or their codes */
} Kernel;

#pragma GCC visibility push(hidden)

/* `wide`: whether this CPU has the AVX-512 parts. Rounding is for these only, and for packed weights. */
Kernel kernel_of(int weight, int rounded, int wide);

/* Bytes that a row of activations takes as a kernel reads it: its values, or its codes, start and scales. */
size_t prepared_bytes(const Kernel *kernel, int d_in);

/* Writes x (d_in) of `type` there, and what names it. */
void prepare(const Kernel *kernel, int weight, const void *x, int type, int d_in, char *memory, Row *row);

#pragma GCC visibility pop

#endif
