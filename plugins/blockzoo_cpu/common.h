/* What the kernels share: the formats of numbers, and how a function is compiled for several instruction sets. */
#ifndef BLOCKZOO_COMMON_H
#define BLOCKZOO_COMMON_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
static inline int thread(void) { return omp_get_thread_num(); }
static inline int threads(void) { return omp_get_num_threads(); }
#else
static inline int thread(void) { return 0; }
static inline int threads(void) { return 1; }
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define VARIANTS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VARIANTS
#endif

enum { GROUP = 32 /* weights that share a scale */ };
enum Type { F32, BF16 };
enum Weight { FLOAT32, BFLOAT16, MXFP4, INT8 };

static const float E2M1[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};

static inline float of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float of_bf16(uint16_t half) { return of_bits((uint32_t)half << 16); }

static inline uint16_t to_bf16(float value) { /* round to nearest even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* --- for loops that become vectors: no branch, and no call that is left in them --- */

#define INLINE static inline __attribute__((always_inline))

INLINE uint16_t nearest_bf16(float value) { /* to_bf16 */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t even = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : even);
}

INLINE float rounded_to(float value, int type) { /* of a NaN, itself */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    return type == BF16 ? of_bits((bits & 0x7fffffff) > 0x7f800000 ? bits : rounded) : value;
}

/* Bytes of the codes of n weights, or of plain weights, and of their scales. */
INLINE size_t code_bytes(int weight, size_t n) { return weight == MXFP4 ? n / 2 : weight == INT8 ? n : n * (weight == BFLOAT16 ? 2 : 4); }
INLINE size_t scale_bytes(int weight, size_t n) { return weight == MXFP4 ? n / GROUP : weight == INT8 ? n / GROUP * 2 : 0; }

INLINE int width_of(int type) { return type == BF16 ? 2 : 4; } /* bytes of a number */

INLINE float load(const void *numbers, int type, size_t i) {
    return type == BF16 ? of_bf16(((const uint16_t *)numbers)[i]) : ((const float *)numbers)[i];
}

INLINE void store(void *numbers, int type, size_t i, float value) {
    if (type == BF16)
        ((uint16_t *)numbers)[i] = nearest_bf16(value);
    else
        ((float *)numbers)[i] = value;
}

INLINE float sum_of(float sums[16]) { /* by pairs: one after another would be 16 waits */
    for (int width = 8; width; width /= 2)
        for (int j = 0; j < width; j++) sums[j] += sums[j + width];
    return sums[0];
}

/* 2^(byte - 127); byte 0 is a denormal, which has no exponent of its own */
static inline float of_e8m0(uint8_t byte) { return of_bits(byte ? (uint32_t)byte << 23 : 1u << 22); }

#if defined(__x86_64__)

AVX512 static inline __m512 widened(const uint16_t *halves) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)halves));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

#endif

#endif
