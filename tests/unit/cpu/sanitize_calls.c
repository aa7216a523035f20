/* Calls of many kinds in one go, in buffers of exactly their size, for the sanitizers to watch: what each reads another has
 * written before, and all of it must be what the calls one by one give.
 */
#include "calls.c"
#include "sanitize.h"

enum { N = 3, D = 192, LONG = 70000, KEYS = 2100, WIDTH = 16, GATED = 9000 };
enum { X, SUMMED, NORMED, TIMES, AGAIN, BACK, LAYER, DOT, WHOLE, ATTENDED, GATE_OF, TURNED, MIXED, TENSORS };

static const int64_t SIZES[TENSORS] = {N * D, N * D, N * D, N * D, N * 64, N * D, LONG, 1, LONG, 2 * WIDTH, GATED, 2 * WIDTH, LONG / 7};

/* A member of a call, as Python packs it. */
typedef union {
    int64_t i;
    double d;
    const void *p;
} Member;

#define STRUCT(...) ((Member[]){__VA_ARGS__})

static Member p(const void *place) { return (Member){.p = place}; }
static Member i(int64_t number) { return (Member){.i = number}; }
static Member d(double number) { return (Member){.d = number}; }

/* The tensors of a run; TENSORS of them, which the caller frees. */
static int compute(float **t, const float *w, const float *far, const int64_t *chosen, int together) {
    for (int n = 0; n < TENSORS; n++) t[n] = n ? malloc((size_t)SIZES[n] * 4) : numbers_of(F32, SIZES[n]);
    const struct {
        const Operation *operation;
        const Member *told;
    } made[] = {
        {&ADD, STRUCT(p(t[X]), p(t[X]), p(t[SUMMED]), i(F32), i(N * D))},
        {&RMS_NORM, STRUCT(p(t[SUMMED]), p(w), p(t[NORMED]), i(F32), i(F32), i(1), i(N), i(D), i(1), d(1e-6), d(0))},
        /* two that share their room, of other sizes; then one thread's, which waits for all */
        {&ROWS, STRUCT(p(w), p(NULL), p(w), p(t[NORMED]), p(t[TIMES]), p(NULL), i(FLOAT32), i(F32), i(D), i(F32), i(N), i(D), i(D),
                         i(1), i(0), i(has_avx512()))},
        {&ROWS, STRUCT(p(w), p(NULL), p(NULL), p(t[TIMES]), p(t[AGAIN]), p(chosen), i(FLOAT32), i(F32), i(D), i(F32), i(N), i(D), i(64),
                         i(3), i(0), i(has_avx512()))},
        {&ADD, STRUCT(p(t[TIMES]), p(t[SUMMED]), p(t[BACK]), i(F32), i(N * D))},
        /* more threads than rows, outputs and pieces */
        {&LAYER_NORM, STRUCT(p(far), p(NULL), p(far), p(t[LAYER]), i(F32), i(F32), i(F32), i(1), i(LONG), i(1), d(1e-6))},
        {&ROWS, STRUCT(p(far), p(NULL), p(NULL), p(t[LAYER]), p(t[DOT]), p(NULL), i(FLOAT32), i(F32), i(LONG), i(F32), i(1), i(LONG),
                         i(1), i(1), i(0), i(has_avx512()))},
        {&COPY, STRUCT(p(t[LAYER]), p(t[WHOLE]), i(LONG * 4), i(1), i(1), i(1), i(0), i(0), i(0), i(0), i(0), i(0))},
        /* one pair, whose keys are shared out */
        {&ATTEND, STRUCT(p(t[BACK]), p(t[WHOLE]), p(t[WHOLE] + KEYS * WIDTH), p(t[ATTENDED]), p(NULL), p(NULL), p(t[AGAIN]), i(F32), i(F32),
                           i(1), i(2), i(1), i(KEYS), i(WIDTH), i(WIDTH), i(0), i(0), i(WIDTH), i(0), i(0), i(WIDTH), i(0), i(0), i(0),
                           d(.25), d(0), i(has_avx512()))},
        {&ROTARY, STRUCT(p(t[ATTENDED]), p(w), p(w + 8), p(t[TURNED]), i(F32), i(1), i(2), i(1), i(WIDTH), i(8), i(0),
                           i(0), i(WIDTH), i(0), i(0), i(WIDTH), i(0))},
        {&GATE, STRUCT(p(t[WHOLE]), p(t[LAYER] + GATED), p(t[GATE_OF]), i(F32), i(0), i(GATED), d(1), d(7), d(0))},
        {&MIX, STRUCT(p(t[LAYER]), p(w), p(t[MIXED]), i(F32), i(1), i(7), i(LONG / 7))},
        /* what was read is written anew */
        {&ADD, STRUCT(p(t[BACK]), p(t[TIMES]), p(t[X]), i(F32), i(N * D))},
        {&COPY, STRUCT(p(t[TURNED]), p(t[BACK]), i(4), i(1), i(2), i(WIDTH), i(0), i(WIDTH * 4), i(4), i(0), i(4), i(8))},
    };
    enum { CALLS = sizeof made / sizeof *made };
    Call calls[CALLS];
    for (int c = 0; c < CALLS; c++) calls[c] = (Call){place_of(made[c].operation), made[c].told};
    int failed = together ? run(calls, CALLS) : 0;
    for (int c = 0; c < CALLS && !together; c++) failed |= run_one(calls[c].operation, calls[c].told);
    return failed;
}

int main(void) {
    const int64_t CHOSEN[N] = {2, 0, 2};
    float *w = numbers_of(F32, 3 * 64 * D), *far = numbers_of(F32, LONG), *one_by_one[TENSORS], *at_once[TENSORS];
    int wrong = run(NULL, 0) | compute(one_by_one, w, far, CHOSEN, 0);
    for (int again = 0; again < 100; again++) {
        wrong |= compute(at_once, w, far, CHOSEN, 1);
        for (int n = 0; n < TENSORS; n++) {
            wrong |= memcmp(one_by_one[n], at_once[n], (size_t)SIZES[n] * 4) != 0;
            free(at_once[n]);
        }
    }
    for (int n = 0; n < TENSORS; n++) free(one_by_one[n]);
    free(w), free(far);
    return wrong;
}
