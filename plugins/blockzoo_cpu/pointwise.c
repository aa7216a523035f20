/* The small steps between products, over contiguous rows: norms, rotation of heads, the gate of a gated unit.
 *
 * Plain loops that the compiler makes vectors of, for each instruction set. Every number is rounded to the activations'
 * type where the references round it.
 */
#if defined(__GNUC__) && !defined(__clang__) /* comparisons may become selections: nobody listens to the traps of NaNs */
#pragma GCC optimize("no-trapping-math", "no-math-errno")
#endif
#include "calls.h"
#include "exponential.h"

enum Activation { SILU, GELU_TANH, RELU, RELU2, SCALED_SILU /* where a call says silu, and a scale */ };

INLINE float sigmoid(float x) { return 1 / (1 + exponential(-x)); }

/* --- RMS norm --- */

INLINE float rounded(const void *weight, int weight_type, int type, int i) {
    const float gain = load(weight, weight_type, i);
    return weight_type == type ? gain : rounded_to(gain, type);
}

INLINE void norm_row(const void *x, int type, const void *weight, int weight_type, float eps,
                                                           float offset, int late, void *y, int dim) {
    float sums[16] = {0}, sum = 0;
    int i = 0;
    for (; i + 16 <= dim; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += load(x, type, i + j) * load(x, type, i + j);
    for (; i < dim; i++) sum += load(x, type, i) * load(x, type, i);
    const float scale = 1 / sqrtf((sum + sum_of(sums)) / (float)dim + eps);
    if (late)
        for (i = 0; i < dim; i++) store(y, type, i, load(x, type, i) * scale * (weight ? load(weight, weight_type, i) + offset : 1));
    else if (offset == 0)
        for (i = 0; i < dim; i++)
            store(y, type, i, rounded_to(load(x, type, i) * scale, type) * rounded(weight, weight_type, type, i));
    else
        for (i = 0; i < dim; i++) {
            const float gain = rounded_to(rounded(weight, weight_type, type, i) + offset, type);
            store(y, type, i, rounded_to(load(x, type, i) * scale, type) * gain);
        }
}

#define NORM(name, type)                                                                                              \
    VARIANTS static void name(const void *x, const void *w, int weight_type, float eps, float offset, int late, void *y, int dim) { \
        if (!w) /* with nothing after it the cast is the last either way */                                           \
            norm_row(x, type, NULL, F32, eps, 0, 1, y, dim);                                                          \
        else if (weight_type == F32)                                                                                  \
            norm_row(x, type, w, F32, eps, offset, late, y, dim);                                                     \
        else                                                                                                          \
            norm_row(x, type, w, BF16, eps, offset, late, y, dim);                                                    \
    }
NORM(norm_f32, F32)
NORM(norm_bf16, BF16)

/* What a call says: y = x / rms(x) * (weight + offset), rows of `dim`; `late`: the one cast comes after the weight. Weights
 * are of x's width or not, or NULL; of `heads` rows each has its own, and so on.
 */
typedef struct {
    const char *x, *weight;
    char *y;
    int64_t type, weight_type, late, rows, dim, heads;
    double eps, offset;
} Norm;

static int rms_norm_alone(const void *call) {
    const Norm *a = call;
    return a->rows * a->dim <= 65536;
}

static void rms_norm_work(const void *call, char *room, int me, int all) {
    const Norm *a = call;
    const int64_t bytes = a->dim * width_of((int)a->type), gains = a->dim * width_of((int)a->weight_type);
    (void)room;
    for (int64_t r = from_of(a->rows, me, all); r < until_of(a->rows, me, all); r++) {
        const char *weight = a->weight ? a->weight + r % a->heads * gains : NULL;
        (a->type == BF16 ? norm_bf16 : norm_f32)(a->x + r * bytes, weight, (int)a->weight_type, (float)a->eps, (float)a->offset,
                                                 (int)a->late, a->y + r * bytes, (int)a->dim);
    }
}

const Operation RMS_NORM = {.work = rms_norm_work, .alone = rms_norm_alone};

/* --- layer norm --- */

/* What a call says: y = (x - mean) / sqrt(variance + eps) * weight + bias, rows of `dim`; weight and bias may be of x's
 * width or not, or NULL; of `heads` rows each has its own, and so on.
 */
typedef struct {
    const char *x, *weight, *bias;
    char *y;
    int64_t type, weight_type, bias_type, rows, dim, heads;
    double eps;
} Layer;

INLINE void layer_row(const void *x, int type, const void *weight, int weight_type, const void *bias, int bias_type, float eps,
                      void *y, int dim) {
    float sums[16] = {0}, squares[16] = {0}, sum = 0, square = 0;
    int i = 0;
    for (; i + 16 <= dim; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += load(x, type, i + j);
    for (; i < dim; i++) sum += load(x, type, i);
    const float mean = (sum + sum_of(sums)) / (float)dim;
    for (i = 0; i + 16 <= dim; i += 16)
        for (int j = 0; j < 16; j++) squares[j] += (load(x, type, i + j) - mean) * (load(x, type, i + j) - mean);
    for (; i < dim; i++) square += (load(x, type, i) - mean) * (load(x, type, i) - mean);
    const float scale = 1 / sqrtf((square + sum_of(squares)) / (float)dim + eps);
    for (i = 0; i < dim; i++)
        store(y, type, i, (load(x, type, i) - mean) * scale * (weight ? load(weight, weight_type, i) : 1)
                              + (bias ? load(bias, bias_type, i) : 0));
}

#define LAYER(name, type)                                                                                             \
    VARIANTS static void name(const void *x, const void *w, int wt, const void *b, int bt, float eps, void *y, int dim) { \
        if (wt == F32 && bt == F32)                                                                                   \
            layer_row(x, type, w, F32, b, F32, eps, y, dim);                                                          \
        else if (wt == BF16 && bt == BF16)                                                                            \
            layer_row(x, type, w, BF16, b, BF16, eps, y, dim);                                                        \
        else /* as slow as it is rare */                                                                              \
            layer_row(x, type, w, wt, b, bt, eps, y, dim);                                                            \
    }
LAYER(layer_f32, F32)
LAYER(layer_bf16, BF16)

static int layer_norm_alone(const void *call) {
    const Layer *l = call;
    return l->rows * l->dim <= 65536;
}

static void layer_norm_work(const void *call, char *room, int me, int all) {
    const Layer *l = call;
    const int64_t bytes = l->dim * width_of((int)l->type);
    (void)room;
    for (int64_t r = from_of(l->rows, me, all); r < until_of(l->rows, me, all); r++) {
        const int64_t at = r % l->heads * l->dim;
        const char *weight = l->weight ? l->weight + at * width_of((int)l->weight_type) : NULL;
        const char *bias = l->bias ? l->bias + at * width_of((int)l->bias_type) : NULL;
        (l->type == BF16 ? layer_bf16 : layer_f32)(l->x + r * bytes, weight, (int)l->weight_type, bias, (int)l->bias_type,
                                                   (float)l->eps, l->y + r * bytes, (int)l->dim);
    }
}

const Operation LAYER_NORM = {.work = layer_norm_work, .alone = layer_norm_alone};

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

/* What a call says. Head h of token (b, t): x and y (B, H, T, dim), strides in numbers, features side by side; cosine and sine
 * (B, T, half), the first 2 half features turned.
 */
typedef struct {
    const char *x, *cosine, *sine;
    char *y;
    int64_t type, batch, heads, tokens, dim, half, interleaved, x_row, x_head, x_token, y_row, y_head, y_token;
} Rotary;

static int rotary_alone(const void *call) {
    const Rotary *a = call;
    return a->batch * a->heads * a->tokens * a->dim <= 65536;
}

static void rotary_work(const void *call, char *room, int me, int all) {
    const Rotary *a = call;
    const int64_t size = width_of((int)a->type), rows = a->batch * a->heads * a->tokens;
    (void)room;
    for (int64_t r = from_of(rows, me, all); r < until_of(rows, me, all); r++) {
        const int64_t row = r / (a->heads * a->tokens), token = r / a->heads % a->tokens, head = r % a->heads; /* as projections lie */
        const char *x = a->x + (row * a->x_row + head * a->x_head + token * a->x_token) * size;
        char *y = a->y + (row * a->y_row + head * a->y_head + token * a->y_token) * size;
        const int64_t angle = (row * a->tokens + token) * a->half * size;
        (a->type == BF16 ? turn_bf16 : turn_f32)(x, a->cosine + angle, a->sine + angle, y, (int)a->dim, (int)a->half, (int)a->interleaved);
    }
}

const Operation ROTARY = {.work = rotary_work, .alone = rotary_alone};

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
    if (activation == SILU) return rounded_to(g * sigmoid(g), type);
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
        if (how.activation == SILU && how.scale == 1) gate_span(gate, up, type, how, SILU, y, begin, end);            \
        if (how.activation == SILU && how.scale != 1) gate_span(gate, up, type, how, SCALED_SILU, y, begin, end);     \
        if (how.activation == GELU_TANH) gate_span(gate, up, type, how, GELU_TANH, y, begin, end);                    \
        if (how.activation == RELU) gate_span(gate, up, type, how, RELU, y, begin, end);                              \
        if (how.activation == RELU2) gate_span(gate, up, type, how, RELU2, y, begin, end);                            \
    }
SPAN(span_f32, F32)
SPAN(span_bf16, BF16)

/* What a call says: y = activation(gate) * (up + shift) over `n` numbers. A limit clamps the gate above and up on both sides;
 * 0: none. A `scale` a other than 1 makes silu x * sigmoid(a x).
 */
typedef struct {
    const void *gate, *up;
    void *y;
    int64_t type, activation, n;
    double scale, limit, shift;
} Gated;

static int gate_alone(const void *call) { return ((const Gated *)call)->n <= 8192; }

static void gate_work(const void *call, char *room, int me, int all) {
    const Gated *a = call;
    const Gate how = {(int)a->activation, a->limit > 0, (float)a->scale, (float)a->limit, (float)a->shift};
    (void)room;
    (a->type == BF16 ? span_bf16 : span_f32)(a->gate, a->up, how, a->y, (size_t)from_of(a->n, me, all), (size_t)until_of(a->n, me, all));
}

const Operation GATE = {.work = gate_work, .alone = gate_alone};
