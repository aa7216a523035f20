/* The end of a mixture of experts: what each token's experts gave, added up by weight. */
#if defined(__GNUC__) && !defined(__clang__) /* comparisons may become selections: nobody listens to the traps of NaNs */
#pragma GCC optimize("no-trapping-math", "no-math-errno")
#endif
#include "calls.h"

/* What a call says: out[i] = sum over j of y[i, j] * weights[i, j], each product rounded to y's type, sums in float32.
 * y (tokens, experts, dim) and out (tokens, dim) of `type`, weights (tokens, experts) in float32.
 */
typedef struct {
    const char *y;
    const float *weights;
    char *out;
    int64_t type, tokens, experts, dim;
} Mix;

enum { PART = 256 /* sums at a time */ };

INLINE void mix_row(const void *y, const float *weights, int type, void *out, int64_t experts, int64_t dim) {
    float sums[PART];
    for (int64_t begin = 0; begin < dim; begin += PART) {
        const int n = (int)(dim - begin < PART ? dim - begin : PART);
        for (int i = 0; i < n; i++) sums[i] = 0;
        for (int64_t e = 0; e < experts; e++) {
            const float weight = rounded_to(weights[e], type);
            const size_t from = (size_t)(e * dim + begin);
            for (int i = 0; i < n; i++) sums[i] += rounded_to(load(y, type, from + i) * weight, type);
        }
        for (int i = 0; i < n; i++) store(out, type, (size_t)begin + i, sums[i]);
    }
}

VARIANTS static void mix_f32(const void *y, const float *w, void *out, int64_t experts, int64_t dim) { mix_row(y, w, F32, out, experts, dim); }
VARIANTS static void mix_bf16(const void *y, const float *w, void *out, int64_t experts, int64_t dim) { mix_row(y, w, BF16, out, experts, dim); }

static int mix_alone(const void *call) {
    const Mix *m = call;
    return m->tokens * m->experts * m->dim <= 65536;
}

static void mix_work(const void *call, char *room, int me, int all) {
    const Mix *m = call;
    const int64_t bytes = m->dim * width_of((int)m->type);
    (void)room;
    for (int64_t t = from_of(m->tokens, me, all); t < until_of(m->tokens, me, all); t++)
        (m->type == BF16 ? mix_bf16 : mix_f32)(m->y + t * m->experts * bytes, m->weights + t * m->experts, m->out + t * bytes, m->experts,
                                               m->dim);
}

const Operation MIX = {.work = mix_work, .alone = mix_alone};
