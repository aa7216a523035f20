/* GELU in its tanh approximation (Hendrycks & Gimpel 2016, arXiv:1606.08415) and its derivative, in bfloat16.
 *
 * (1 + tanh u) / 2 is sigmoid(2 u), and with w = 2 u log2(e) that is 1 / (1 + 2^-w). All in float32, within 2^-17 of itself;
 * the one rounding that is seen is the last. Plain loops that the compiler makes vectors of, for each instruction set: written
 * with AVX-512 they are no faster, since both wait for memory.
 */
#if defined(__GNUC__) && !defined(__clang__) /* comparisons may become selections: nobody listens to the traps of NaNs */
#pragma GCC optimize("no-trapping-math", "no-math-errno")
#endif
#include "calls.h"

enum { SPAN = 4096 };
/* w = RISE x + CUBE x^3: 2 sqrt(2 / pi) log2(e), and 0.044715 of it. Derivatives are by x, so RISE and 3 CUBE times ln 2. */
#define RISE 2.30220819813f
#define CUBE (0.044715f * RISE)
#define LN2 0.69314718056f
#define FAR 10.f /* w is 126 there: 2^w is still a number, and the sigmoid 0 or 1 to the last bit that counts */
/* 2^f for |f| <= 1/2 by its Taylor series */
#define C2 2.4022651e-1f
#define C3 5.5504109e-2f
#define C4 9.6181291e-3f
#define C5 1.3333558e-3f

INLINE float share(float x) { /* of x that passes; |x| <= FAR */
    const float w = x * (RISE + CUBE * x * x), shifted = 12582912.f - w; /* 1.5 * 2^23: the sum's last bits are the integer */
    const float f = 12582912.f - shifted - w;
    const float power = 1 + f * (LN2 + f * (C2 + f * (C3 + f * (C4 + f * C5))));
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return 1 / (1 + power * of_bits((bits + 127) << 23));
}

INLINE float near(float x) { /* NaN stays NaN */
    x = x > FAR ? FAR : x;
    return x < -FAR ? -FAR : x;
}

VARIANTS static void forward(const uint16_t *x, uint16_t *y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const float at = of_bf16(x[i]), s = share(near(at));
        y[i] = nearest_bf16(at * (at < -FAR ? 0 : s));
    }
}

VARIANTS static void backward(const uint16_t *x, const uint16_t *dy, uint16_t *dx, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const float at = near(of_bf16(x[i])), s = share(at);
        const float rising = at * (LN2 * RISE + 3 * LN2 * CUBE * at * at);
        dx[i] = nearest_bf16(of_bf16(dy[i]) * (s + rising * s * (1 - s)));
    }
}

/* What a call says: y = gelu_tanh(x) of `n` numbers, or with dy, dx = dy gelu_tanh'(x). */
typedef struct {
    const uint16_t *x, *dy;
    uint16_t *y;
    int64_t n;
} Gelu;

static int gelu_alone(const void *call) { return ((const Gelu *)call)->n <= 4 * SPAN; }

static void gelu_work(const void *call, char *room, int me, int all) {
    const Gelu *a = call;
    const int64_t from = from_of(a->n, me, all), until = until_of(a->n, me, all);
    (void)room;
    if (a->dy)
        backward(a->x + from, a->dy + from, a->y + from, (size_t)(until - from));
    else
        forward(a->x + from, a->y + from, (size_t)(until - from));
}

const Operation GELU = {gelu_work, NULL, gelu_alone}, GELU_BACKWARD = {gelu_work, NULL, gelu_alone};
