/* e^x for loops that become vectors. */
#ifndef BLOCKZOO_EXPONENTIAL_H
#define BLOCKZOO_EXPONENTIAL_H

#include "common.h"

/* e^x within two units in the last place, of |x| up to 64 and of 64 beyond; NaN stays NaN. Compilers work out what such a bound
 * comes to and multiply every lane by it, so it must not come to a denormal, which costs a product a hundred cycles.
 */
INLINE float exponential(float x) {
    x = x < -64.f ? -64.f : x;
    x = x > 64.f ? 64.f : x;
    const float shifted = x * 1.44269504f + 12582912.f; /* 1.5 * 2^23: the sum's last bits are the integer */
    const float n = shifted - 12582912.f;
    float r = x - n * 0.693359375f;
    r += n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return p * of_bits((bits + 127) << 23);
}

#endif
