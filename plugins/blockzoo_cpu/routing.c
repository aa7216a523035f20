/* The start of a mixture of experts: which experts a token takes, and how much each counts. */
#include "calls.h"
#include "exponential.h"

/* What a call says: chosen[i] (rows, top_k) are the places of the greatest of logits[i] (rows, experts) of `type`. */
typedef struct {
    const void *logits;
    int64_t *chosen;
    int64_t type, rows, experts, top_k;
} Choice;

/* What a call says: weights (rows, top_k) in float32 of the `chosen` experts, NaN of one that is not there. */
typedef struct {
    const void *logits;
    const int64_t *chosen;
    float *weights;
    int64_t type, rows, experts, top_k, score, recipe;
    double scale;
} Weighing;

enum Score { SOFTMAX, SIGMOID };
enum Recipe { CHOSEN, ALL, ALL_RENORMALIZED };
enum { FEW = 8192 /* logits that one thread takes */ };

/* Integers in the order of numbers, NaNs last. */
static int32_t rank_of(float value) {
    int32_t bits;
    value += 0.f; /* of -0 it makes 0, which is equal */
    memcpy(&bits, &value, sizeof bits);
    return value != value ? INT32_MAX : bits ^ (bits >> 31 & INT32_MAX);
}

static int choice_alone(const void *call) {
    const Choice *c = call;
    return c->rows * c->experts <= FEW;
}

/* Insertion: few are chosen. Of equal ones the first comes first. */
static void choose_row(const Choice *c, int64_t row) {
    const size_t from = (size_t)(row * c->experts);
    int64_t *chosen = c->chosen + row * c->top_k, count = 0;
    for (int64_t e = 0; e < c->experts; e++) {
        const int32_t rank = rank_of(load(c->logits, (int)c->type, from + e));
        int64_t at = count;
        while (at && rank > rank_of(load(c->logits, (int)c->type, from + chosen[at - 1]))) at--;
        if (at == c->top_k) continue;
        count += count < c->top_k;
        for (int64_t i = count - 1; i > at; i--) chosen[i] = chosen[i - 1];
        chosen[at] = e;
    }
}

static void choice_work(const void *call, char *room, int me, int all) {
    const Choice *c = call;
    (void)room;
    for (int64_t row = from_of(c->rows, me, all); row < until_of(c->rows, me, all); row++) choose_row(c, row);
}

const Operation CHOOSE = {.work = choice_work, .alone = choice_alone};

static int weighing_alone(const void *call) {
    const Weighing *w = call;
    return w->rows * w->experts <= FEW;
}

static float logit(const Weighing *w, int64_t row, int64_t expert) {
    return expert < 0 || expert >= w->experts ? NAN : load(w->logits, (int)w->type, (size_t)(row * w->experts + expert));
}

/* On to 0 where `exponential` stays at its bound: chosen scores that are all next to 0 keep their proportions. */
static float sigmoid(float x) {
    const int far = x < -64;
    const float e = exponential(far ? -x / 2 : -x);
    return 1 / (1 + (far ? e * e : e));
}

/* Softmax needs the greatest logit and a sum: of the chosen, whose scores divided by their sum are their softmax, or of all. */
static void weigh_row(const Weighing *w, int64_t row) {
    const int64_t *chosen = w->chosen + row * w->top_k, count = w->recipe == ALL ? w->experts : w->top_k;
    float *weights = w->weights + row * w->top_k, greatest = -INFINITY, sum = 0;
    if (w->score == SIGMOID)
        for (int64_t k = 0; k < w->top_k; k++) weights[k] = sigmoid(logit(w, row, chosen[k]));
    else {
        for (int64_t i = 0; i < count; i++) {
            const float value = logit(w, row, w->recipe == ALL ? i : chosen[i]);
            greatest = value > greatest ? value : greatest;
        }
        for (int64_t i = 0; w->recipe == ALL && i < count; i++) sum += exponential(logit(w, row, i) - greatest);
        for (int64_t k = 0; k < w->top_k; k++) weights[k] = exponential(logit(w, row, chosen[k]) - greatest);
    }
    for (int64_t k = 0; w->recipe != ALL && k < w->top_k; k++) sum += weights[k];
    const float divisor = w->score == SIGMOID && w->recipe != ALL_RENORMALIZED ? 1 : sum;
    for (int64_t k = 0; k < w->top_k; k++) weights[k] = weights[k] / divisor * (float)w->scale;
}

static void weighing_work(const void *call, char *room, int me, int all) {
    const Weighing *w = call;
    (void)room;
    for (int64_t row = from_of(w->rows, me, all); row < until_of(w->rows, me, all); row++) weigh_row(w, row);
}

const Operation WEIGH = {.work = weighing_work, .alone = weighing_alone};
