/* What PyTorch does between kernels, for calls that run one after another: sums and copies. */
#if defined(__GNUC__) && !defined(__clang__) /* comparisons may become selections: nobody listens to the traps of NaNs */
#pragma GCC optimize("no-trapping-math", "no-math-errno")
#endif
#include "calls.h"

/* --- addition: y = a + b of `n` numbers --- */

typedef struct {
    const void *a, *b;
    void *y;
    int64_t type, n;
} Sum;

INLINE void sum_span(const void *a, const void *b, int type, void *y, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) store(y, type, i, load(a, type, i) + load(b, type, i));
}

VARIANTS static void sum_f32(const void *a, const void *b, void *y, size_t begin, size_t end) { sum_span(a, b, F32, y, begin, end); }
VARIANTS static void sum_bf16(const void *a, const void *b, void *y, size_t begin, size_t end) { sum_span(a, b, BF16, y, begin, end); }

static int add_alone(const void *call) { return ((const Sum *)call)->n <= 65536; }

static void add_work(const void *call, char *room, int me, int all) {
    const Sum *s = call;
    (void)room;
    (s->type == BF16 ? sum_bf16 : sum_f32)(s->a, s->b, s->y, (size_t)from_of(s->n, me, all), (size_t)until_of(s->n, me, all));
}

const Operation ADD = {.work = add_work, .alone = add_alone};

/* --- copying: shape[0] x shape[1] x shape[2] pieces of `bytes`, strides in bytes --- */

typedef struct {
    const char *from;
    char *to;
    int64_t bytes, shape[3], from_strides[3], to_strides[3];
} Copy;

static int copy_alone(const void *call) {
    const Copy *c = call;
    return c->shape[0] * c->shape[1] * c->shape[2] * c->bytes <= 1 << 17;
}

static void copy_work(const void *call, char *room, int me, int all) {
    const Copy *c = call;
    const int64_t n = c->shape[0] * c->shape[1] * c->shape[2];
    (void)room;
    for (int64_t i = from_of(n, me, all); i < until_of(n, me, all); i++) {
        const int64_t at[3] = {i / c->shape[2] / c->shape[1], i / c->shape[2] % c->shape[1], i % c->shape[2]};
        int64_t from = 0, to = 0;
        for (int d = 0; d < 3; d++) from += at[d] * c->from_strides[d], to += at[d] * c->to_strides[d];
        memcpy(c->to + to, c->from + from, (size_t)c->bytes);
    }
}

const Operation COPY = {.work = copy_work, .alone = copy_alone};
