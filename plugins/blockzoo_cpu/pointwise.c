/* The small steps between products, over contiguous rows: RMS norm, rotation of heads, the gate of a gated unit.
 *
 * Plain loops that the compiler makes vectors of, for each instruction set. Every number is rounded to the activations'
 * type where the references round it.
 */
#if defined(__GNUC__) && !defined(__clang__) /* comparisons may become selections: nobody listens to the traps of NaNs */
#pragma GCC optimize("no-trapping-math", "no-math-errno")
#endif
#include "common.h"

#define INLINE static inline __attribute__((always_inline)) /* a call left in a loop keeps it from becoming vectors */

enum Activation { SILU, GELU_TANH, RELU, RELU2 };

INLINE float load(const void *numbers, int type, size_t i) {
    return type == BF16 ? of_bf16(((const uint16_t *)numbers)[i]) : ((const float *)numbers)[i];
}

INLINE uint16_t nearest(float value) { /* to_bf16 without a branch, for loops that become vectors */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t even = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : even);
}

INLINE float rounded_to(float value, int type) { return type == BF16 ? of_bf16(nearest(value)) : value; }

INLINE void store(void *numbers, int type, size_t i, float value) {
    if (type == BF16)
        ((uint16_t *)numbers)[i] = nearest(value);
    else
        ((float *)numbers)[i] = value;
}

/* e^x within two units in the last place; NaN stays NaN. Beyond float32's range: its smallest normal number, or its largest powers. */
INLINE float exponential(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.f ? 88.f : x;
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

INLINE float sigmoid(float x) { return 1 / (1 + exponential(-x)); }

/* --- RMS norm --- */

INLINE void norm_row(const void *x, int type, const void *weight, int weight_type, float eps,
                                                           float offset, int late, void *y, int dim) {
    float sums[16] = {0}, sum = 0;
    int i = 0;
    for (; i + 16 <= dim; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += load(x, type, i + j) * load(x, type, i + j);
    for (; i < dim; i++) sum += load(x, type, i) * load(x, type, i);
    for (int j = 0; j < 16; j++) sum += sums[j];
    const float scale = 1 / sqrtf(sum / (float)dim + eps);
    if (late)
        for (i = 0; i < dim; i++) store(y, type, i, load(x, type, i) * scale * (load(weight, weight_type, i) + offset));
    else if (offset == 0)
        for (i = 0; i < dim; i++)
            store(y, type, i, rounded_to(load(x, type, i) * scale, type) * rounded_to(load(weight, weight_type, i), type));
    else
        for (i = 0; i < dim; i++) {
            const float gain = rounded_to(rounded_to(load(weight, weight_type, i), type) + offset, type);
            store(y, type, i, rounded_to(load(x, type, i) * scale, type) * gain);
        }
}

#define NORM(name, type)                                                                                              \
    VARIANTS static void name(const void *x, const void *w, int weight_type, float eps, float offset, int late, void *y, int dim) { \
        if (weight_type == F32)                                                                                       \
            norm_row(x, type, w, F32, eps, offset, late, y, dim);                                                     \
        else                                                                                                          \
            norm_row(x, type, w, BF16, eps, offset, late, y, dim);                                                    \
    }
NORM(norm_f32, F32)
NORM(norm_bf16, BF16)

/* y = x / rms(x) * (weight + offset), rows of `dim`; `late`: the one cast comes after the weight. Weights are of x's width or not. */
int rms_norm_rows(const void *x, int type, const void *weight, int weight_type, float eps, float offset, int late, void *y,
                  int64_t rows, int dim) {
    const size_t bytes = (size_t)dim * (type == BF16 ? 2 : 4);
#pragma omp parallel for schedule(static) if (rows * dim > 65536)
    for (int64_t r = 0; r < rows; r++) {
        const char *from = (const char *)x + (size_t)r * bytes;
        char *to = (char *)y + (size_t)r * bytes;
        (type == BF16 ? norm_bf16 : norm_f32)(from, weight, weight_type, eps, offset, late, to, dim);
    }
    return 0;
}

/* --- rotary --- */

INLINE void turn_head(const void *x, const void *cosine, const void *sine, int type, void *y,
                                                            int dim, int half, int interleaved) {
    for (int i = 0; i < half; i++) {
        const int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
        const float first = load(x, type, a), second = load(x, type, b), c = load(cosine, type, i), s = load(sine, type, i);
        store(y, type, a, rounded_to(first * c, type) - rounded_to(second * s, type));
        store(y, type, b, rounded_to(second * c, type) + rounded_to(first * s, type));
    }
    for (int i = 2 * half; i < dim; i++) store(y, type, i, load(x, type, i));
}

#define TURN(name, type)                                                                                              \
    VARIANTS static void name(const void *x, const void *c, const void *s, void *y, int dim, int half, int interleaved) { \
        if (interleaved)                                                                                              \
            turn_head(x, c, s, type, y, dim, half, 1);                                                                \
        else                                                                                                          \
            turn_head(x, c, s, type, y, dim, half, 0);                                                                \
    }
TURN(turn_f32, F32)
TURN(turn_bf16, BF16)

/* Head h of token (b, t): x (B, H, T, dim) contiguous, cosine and sine (B, T, half), the first 2 half features turned. */
int rotary_heads(const void *x, const void *cosine, const void *sine, int type, void *y, int64_t batch, int64_t heads, int64_t tokens,
                 int dim, int half, int interleaved) {
    const size_t size = type == BF16 ? 2 : 4;
    const int64_t rows = batch * heads * tokens;
#pragma omp parallel for schedule(static) if (rows * dim > 65536)
    for (int64_t r = 0; r < rows; r++) {
        const size_t token = (size_t)(r / (heads * tokens) * tokens + r % tokens), at = (size_t)r * dim * size;
        const char *c = (const char *)cosine + token * half * size, *s = (const char *)sine + token * half * size;
        (type == BF16 ? turn_bf16 : turn_f32)((const char *)x + at, c, s, (char *)y + at, dim, half, interleaved);
    }
    return 0;
}

/* --- gate --- */

typedef struct {
    int activation, limited;
    float scale, limit, shift;
} Gate;

INLINE float activated(float g, float scale, int activation, int type) {
    if (activation == RELU) return g > 0 || g != g ? g : 0;
    if (activation == RELU2) {
        float positive = g > 0 || g != g ? g : 0;
        return rounded_to(positive * positive, type);
    }
    if (activation == GELU_TANH) /* (1 + tanh u) / 2 is sigmoid(2 u) */
        return rounded_to(g * sigmoid(1.5957691216f * (g + 0.044715f * g * g * g)), type);
    if (scale == 1) return rounded_to(g * sigmoid(g), type);
    return rounded_to(g * rounded_to(sigmoid(rounded_to(g * scale, type)), type), type);
}

INLINE void gate_span(const void *gate, const void *up, int type, Gate how, int activation,
                                                            void *y, size_t begin, size_t end) {
    const float low = how.limited ? -how.limit : -INFINITY, high = how.limited ? how.limit : INFINITY;
    for (size_t i = begin; i < end; i++) {
        float g = load(gate, type, i), u = load(up, type, i);
        g = g > high ? high : g; /* a NaN stays */
        u = u > high ? high : u < low ? low : u;
        u = how.shift != 0 ? rounded_to(u + how.shift, type) : u;
        store(y, type, i, activated(g, how.scale, activation, type) * u);
    }
}

#define SPAN(name, type)                                                                                              \
    VARIANTS static void name(const void *gate, const void *up, Gate how, void *y, size_t begin, size_t end) {        \
        if (how.activation == SILU) gate_span(gate, up, type, how, SILU, y, begin, end);                              \
        if (how.activation == GELU_TANH) gate_span(gate, up, type, how, GELU_TANH, y, begin, end);                    \
        if (how.activation == RELU) gate_span(gate, up, type, how, RELU, y, begin, end);                              \
        if (how.activation == RELU2) gate_span(gate, up, type, how, RELU2, y, begin, end);                            \
    }
SPAN(span_f32, F32)
SPAN(span_bf16, BF16)

/* y = activation(gate) * (up + shift) over `n` numbers. A limit clamps the gate above and up on both sides; 0: none.
 * A `scale` a other than 1 makes silu x * sigmoid(a x).
 */
int gate_rows(const void *gate, const void *up, int type, int activation, float scale, float limit, float shift, void *y, int64_t n) {
    enum { SPAN_LENGTH = 2048 };
    const Gate how = {.activation = activation, .limited = limit > 0, .scale = scale, .limit = limit, .shift = shift};
#pragma omp parallel for schedule(static) if (n > 4 * SPAN_LENGTH)
    for (int64_t i = 0; i < (n + SPAN_LENGTH - 1) / SPAN_LENGTH; i++) {
        const size_t begin = (size_t)i * SPAN_LENGTH, end = begin + SPAN_LENGTH < (size_t)n ? begin + SPAN_LENGTH : (size_t)n;
        (type == BF16 ? span_bf16 : span_f32)(gate, up, how, y, begin, end);
    }
    return 0;
}
