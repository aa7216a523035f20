/* Few rows times a weight matrix, or times the matrices of several experts: decoding.
 *
 * Every weight is read once from memory, in the layout it is published in, by one thread, which reads two rows at a time
 * from places far apart (memory answers two streams sooner than one); they stay in the first cache while they meet each
 * row of activations.
 *
 * Axes: n rows of activations, d_in inputs, d_out outputs; a weight row is d_in weights.
 */
#include "calls.h"
#include "rows.h"

enum { LEAST = 1 << 15 /* bytes of weights that a thread takes at once */, AHEAD = 4096 /* bytes that reading asks memory for in advance */ };

/* What a call says: y[r] = x[r] @ w[e].T + bias[e] for each row r and its expert e, chosen[r], or 0 where it is NULL.
 *
 * x (n, d_in), `stride` numbers from row to row, 0 where all are one, and y (n, d_out) of `type`; weights (experts, d_out,
 * code_bytes), scales (experts, d_out, scale_bytes) or NULL, bias (experts, d_out) of `bias_type` or NULL. A row that chose no
 * expert there is gets NaN.
 */
typedef struct {
    const char *weights, *scales;
    const void *bias, *x;
    void *y;
    const int64_t *chosen;
    int64_t weight, bias_type, stride, type, n, d_in, d_out, experts, rounded, wide;
} Rows;

/* Where in the room of a call lies what all threads share, in bytes. At its start: the first output that nobody has taken. */
typedef struct {
    size_t prepared; /* the rows of activations as the kernel reads them, */
    size_t rows;     /* what names them, */
    size_t order;    /* and the rows by expert */
    size_t end;
} Room;

static int64_t different(const Rows *a) { return a->stride ? a->n : a->n > 0; }

static Room room_of(const Rows *a, const Kernel *kernel) {
    Room at = {.prepared = 64};
    at.rows = at.prepared + different(a) * prepared_bytes(kernel, (int)a->d_in);
    at.order = at.rows + whole_lines(different(a) * sizeof(Row));
    at.end = at.order + whole_lines(a->n * sizeof(int32_t));
    return at;
}

static int64_t expert_of(const Rows *a, int64_t row) { return a->chosen ? a->chosen[row] : 0; }

static void by_expert(const Rows *a, int32_t *order) { /* insertion: they are few */
    for (int64_t r = 0; r < a->n; r++) {
        int64_t i = r;
        for (; i && expert_of(a, order[i - 1]) > expert_of(a, r); i--) order[i] = order[i - 1];
        order[i] = (int32_t)r;
    }
}

static void dots(const Kernel *kernel, const Stored w[2], const Row *x, int d_in, float sums[2]) {
    if (kernel->two)
        kernel->two(w, x, d_in, sums);
    else
        for (int i = 0; i < 2; i++) sums[i] = kernel->one(&w[i], x, d_in);
}

/* What a thread does at a time: outputs begin..end of `count` rows of one expert, which order[at] and on name. */
typedef struct {
    int64_t begin, end, at, count;
} Piece;

static int64_t half_of(Piece p) { return (p.end - p.begin + 1) / 2; }

static int there_is(const Rows *a, int64_t expert) { return expert >= 0 && expert < a->experts; }

/* Where the weights of a half of the outputs begin. NULL: there is no such expert, or no output. */
static const char *stream(const Rows *a, int64_t expert, Piece p, int half) {
    if (!there_is(a, expert) || p.begin >= p.end) return NULL;
    return a->weights + (size_t)(expert * a->d_out + p.begin + half * half_of(p)) * code_bytes((int)a->weight, (size_t)a->d_in);
}

/* Outputs of rows whose expert there is not. */
static void missing(const Rows *a, const int32_t *order, Piece p) {
    for (int64_t c = p.at; c < p.at + p.count; c++)
        for (int64_t o = p.begin; o < p.end; o++) store(a->y, (int)a->type, (size_t)order[c] * a->d_out + o, NAN);
}

/* Both halves at once. Near their ends memory is asked for what the thread does `after`. */
static void span(const Rows *a, const Kernel *kernel, const Row *rows, const int32_t *order, Piece p, Piece after) {
    const size_t bytes = code_bytes((int)a->weight, (size_t)a->d_in), steps = scale_bytes((int)a->weight, (size_t)a->d_in);
    const size_t first = (size_t)expert_of(a, order[p.at]) * a->d_out;
    const int64_t half = half_of(p);
    const int64_t expert = expert_of(a, order[after.at]);
    const char *later[2] = {stream(a, expert, after, 0), stream(a, expert, after, 1)};
    for (int64_t o = p.begin; o < p.begin + half; o++) {
        const int64_t other = o + half < p.end ? o + half : o;
        const size_t left = (size_t)(p.begin + half - o) * bytes, at[2] = {first + o, first + other};
        Stored w[2];
        for (int i = 0; i < 2; i++) {
            const char *codes = a->weights + at[i] * bytes;
            w[i] = (Stored){codes, a->scales + at[i] * steps, left > AHEAD || !later[i] ? AHEAD : later[i] + (AHEAD - left) - codes};
        }
        for (int64_t c = p.at; c < p.at + p.count; c++) {
            const size_t r = (size_t)order[c];
            float sums[2];
            dots(kernel, w, &rows[a->stride ? r : 0], (int)a->d_in, sums);
            store(a->y, (int)a->type, r * a->d_out + o, sums[0] + (a->bias ? load(a->bias, (int)a->bias_type, at[0]) : 0));
            store(a->y, (int)a->type, r * a->d_out + other, sums[1] + (a->bias ? load(a->bias, (int)a->bias_type, at[1]) : 0));
        }
    }
}

static Kernel kernel_for(const Rows *a) { return kernel_of((int)a->weight, (int)a->rounded, (int)a->wide); }

static size_t rows_room(const void *call) {
    const Kernel kernel = kernel_for(call);
    return room_of(call, &kernel).end;
}

static int rows_alone(const void *call) {
    const Rows *a = call;
    return a->n * a->d_in * a->d_out < 1 << 14;
}

/* How many outputs a thread takes of what is `left`: half its fair share, but what is worth beginning with or more. A stretch begins
 * with waiting for memory, so there are few; the last ones are short, so all threads end at once, and one that is kept from
 * its core leaves the rest to the others (guided self-scheduling, Polychronopoulos and Kuck 1987).
 */
static int64_t share_of(const Rows *a, int64_t left, int all) {
    const int64_t fits = LEAST / (int64_t)code_bytes((int)a->weight, (size_t)a->d_in), least = fits < 2 ? 2 : fits;
    const int64_t half = (left + 2 * all - 1) / (2 * all);
    return half < least ? least : half;
}

static int64_t until(const Rows *a, int64_t output) { return output < a->d_out ? output : a->d_out; }

/* The first rows of one expert from order[at] on. */
static Piece piece(const Rows *a, const int32_t *order, int64_t begin, int64_t end, int64_t at) {
    int64_t count = 1;
    while (at + count < a->n && expert_of(a, order[at + count]) == expert_of(a, order[at])) count++;
    return (Piece){begin, end, at, count};
}

/* The outputs that a thread begins with are its own: it knows them before it meets the others. */
static Piece own_outputs(const Rows *a, int me, int all) {
    const int64_t share = share_of(a, a->d_out, all);
    return (Piece){.begin = until(a, me * share), .end = until(a, (me + 1) * share)};
}

/* The same outputs of the next expert, or the next outputs that nobody has taken. */
static Piece next_piece(const Rows *a, const int32_t *order, int64_t *next, Piece p, int all) {
    if (p.at + p.count < a->n) return piece(a, order, p.begin, p.end, p.at + p.count);
    int64_t begin = __atomic_load_n(next, __ATOMIC_RELAXED), end;
    do
        end = until(a, begin + share_of(a, a->d_out - begin, all));
    while (begin < a->d_out && !__atomic_compare_exchange_n(next, &begin, end, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return piece(a, order, begin, end, 0);
}

static void rows_work(const void *call, char *room, int me, int all) {
    const Rows *a = call;
    const Kernel kernel = kernel_for(a);
    const Room at = room_of(a, &kernel);
    const size_t each = prepared_bytes(&kernel, (int)a->d_in);
    int64_t *next = (int64_t *)room;
    Row *rows = (Row *)(room + at.rows);
    int32_t *order = (int32_t *)(room + at.order);
    for (int64_t r = me; r < different(a); r += all) {
        const char *from = (const char *)a->x + (size_t)r * (size_t)a->stride * (size_t)width_of((int)a->type);
        prepare(&kernel, (int)a->weight, from, (int)a->type, (int)a->d_in, room + at.prepared + r * each, &rows[r]);
    }
    if (me == 0) *next = until(a, all * share_of(a, a->d_out, all)), by_expert(a, order);
    meet(all);

    if (!a->n) return;
    const Piece own = own_outputs(a, me, all);
    for (Piece p = piece(a, order, own.begin, own.end, 0), after; p.begin < p.end; p = after) {
        after = next_piece(a, order, next, p, all);
        if (there_is(a, expert_of(a, order[p.at])))
            span(a, &kernel, rows, order, p, after);
        else
            missing(a, order, p);
    }
}

/* The i-th line of both halves of what a thread does first, where that is known before the rows are. */
static int rows_soon(const void *call, int me, int all, size_t i) {
    const Rows *a = call;
    const Piece own = own_outputs(a, me, all);
    if (a->chosen || rows_alone(call) || i * 64 >= (size_t)half_of(own) * code_bytes((int)a->weight, (size_t)a->d_in)) return 0;
    for (int half = 0; half < 2; half++) __builtin_prefetch(stream(a, 0, own, half) + i * 64, 0, 2);
    return 1;
}

const Operation ROWS = {.work = rows_work, .room = rows_room, .alone = rows_alone, .soon = rows_soon};
