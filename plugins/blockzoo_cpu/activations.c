/* GELU in its tanh approximation (Hendrycks & Gimpel 2016, arXiv:1606.08415) and its derivative, in bfloat16 and float32.
 *
 * (1 + tanh u) / 2 is sigmoid(2 u), and with w = 2 u log2(e) that is 1 / (1 + 2^-w), in which nothing cancels. All in float32: of
 * bfloat16 the one rounding that is seen is the last. Plain loops that the compiler makes vectors of, for each instruction set:
 * written with AVX-512 they are no faster, since both wait for memory.
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
#define C6 1.5403530e-4f
#define C7 1.5252734e-5f

INLINE float odds(float x) { /* 2^-w, of being held back against passing; |x| <= FAR */
    const float w = x * (RISE + CUBE * x * x), shifted = 12582912.f - w; /* 1.5 * 2^23: the sum's last bits are the integer */
    const float f = 12582912.f - shifted - w;
    const float power = 1 + f * (LN2 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * (C6 + f * C7))))));
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return power * of_bits((bits + 127) << 23);
}

INLINE float near(float x) { /* NaN stays NaN */
    x = x > FAR ? FAR : x;
    return x < -FAR ? -FAR : x;
}

INLINE float as_it_is(float x) { return x; }

#define PASSES(NUMBER, READ, WRITE)                                                                              \
    VARIANTS static void forward_##NUMBER(const NUMBER *x, NUMBER *y, int64_t n) {                               \
        for (int64_t i = 0; i < n; i++) {                                                                        \
            const float at = READ(x[i]), passes = 1 / (1 + odds(near(at)));                                      \
            y[i] = WRITE(at * (at < -FAR ? 0 : passes));                                                         \
        }                                                                                                        \
    }                                                                                                            \
    VARIANTS static void backward_##NUMBER(const NUMBER *x, const NUMBER *dy, NUMBER *dx, int64_t n) {           \
        for (int64_t i = 0; i < n; i++) {                                                                        \
            const float at = near(READ(x[i])), against = odds(at), passes = 1 / (1 + against);                   \
            const float rising = at * (LN2 * RISE + 3 * LN2 * CUBE * at * at);                                   \
            dx[i] = WRITE(READ(dy[i]) * passes * (1 + rising * (against * passes)));                             \
        }                                                                                                        \
    }                                                                                                            \
    static void pass_##NUMBER(const NUMBER *x, const NUMBER *dy, NUMBER *y, int64_t from, int64_t until) {       \
        if (dy)                                                                                                  \
            backward_##NUMBER(x + from, dy + from, y + from, until - from);                                      \
        else                                                                                                     \
            forward_##NUMBER(x + from, y + from, until - from);                                                  \
    }
PASSES(uint16_t, of_bf16, nearest_bf16)
PASSES(float, as_it_is, as_it_is)

/* What a call says: y = gelu_tanh(x) of `n` numbers, or with dy, dx = dy gelu_tanh'(x); in float32 if `wide`, or in bfloat16. */
typedef struct {
    const void *x, *dy;
    void *y;
    int64_t n, wide;
} Gelu;

static int gelu_alone(const void *call) { return ((const Gelu *)call)->n <= 4 * SPAN; }

static void gelu_work(const void *call, char *room, int me, int all) {
    const Gelu *a = call;
    const int64_t from = from_of(a->n, me, all), until = until_of(a->n, me, all);
    (void)room;
    if (a->wide)
        pass_float(a->x, a->dy, a->y, from, until);
    else
        pass_uint16_t(a->x, a->dy, a->y, from, until);
}

const Operation GELU = {.work = gelu_work, .alone = gelu_alone}, GELU_BACKWARD = {.work = gelu_work, .alone = gelu_alone};
