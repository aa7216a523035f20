/* Runs products of halves on buffers of exactly the size that they may touch, for the sanitizers to watch. */
#include "sanitize_products.h"
#include "halves.c"

int main(void) { return products_of(tiled_products); }
