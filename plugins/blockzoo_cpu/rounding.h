/* What products of bytes share: activations rounded to codes, 32 with one scale, and weights whose codes are unsigned. */
#ifndef BLOCKZOO_ROUNDING_H
#define BLOCKZOO_ROUNDING_H

#include "common.h"

enum { MXFP4_OFFSET = 12, INT8_OFFSET = 128 }; /* added to a weight's code: unsigned, as one operand of a byte product must be */

/* twice the value, plus MXFP4_OFFSET */
static const int8_t E2M1_SHIFTED[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

#if defined(__x86_64__)

/* Makes a group's numbers their codes, in lanes of 32 bits; its scale. Of a NaN or an infinity every output is NaN. */
AVX512 static inline float rounded_group(__m512 low, __m512 high, __m512i codes[2]) {
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    const __m512 inverse = _mm512_set1_ps(largest > 0 ? 127 / largest : 0);
    codes[0] = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
    codes[1] = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
    return _mm512_cmp_ps_mask(low, high, _CMP_UNORD_Q) ? NAN : largest / 127;
}

#endif

#endif
