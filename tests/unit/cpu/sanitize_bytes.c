/* Runs products of bytes on buffers of exactly the size that they may touch, for the sanitizers to watch. */
#include "sanitize_products.h"
#include "bytes.c"

int main(void) { return products_of(rounded_products); }
