/* Runs the products of prompts on buffers of exactly the size that they may touch, for the sanitizers to watch. */
#include "sanitize_products.h"
#include "prompts.c"

int main(void) { return products_of(rounded_products) | products_of(tiled_products); }
