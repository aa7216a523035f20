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

enum { LEAST = 1 << 15 /* bytes of weights that a thread takes at once */ };

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
        for (int i = 0; i < 2; i++) sums[i] = kernel->one(w[i].codes, w[i].scales, x, d_in);
}

/* Outputs begin..end of rows whose expert there is not. */
static void missing(const Rows *a, const int32_t *which, int64_t count, int64_t begin, int64_t end) {
    for (int64_t c = 0; c < count; c++)
        for (int64_t o = begin; o < end; o++) store(a->y, (int)a->type, (size_t)which[c] * a->d_out + o, NAN);
}

/* Outputs begin..end of `count` rows of one expert: from the start and from the middle at once. */
static void span(const Rows *a, const Kernel *kernel, const Row *rows, const int32_t *which, int64_t count, int64_t begin, int64_t end) {
    const size_t bytes = code_bytes((int)a->weight, (size_t)a->d_in), steps = scale_bytes((int)a->weight, (size_t)a->d_in);
    const size_t first = (size_t)expert_of(a, which[0]) * a->d_out;
    const int64_t half = (end - begin + 1) / 2;
    for (int64_t o = begin; o < begin + half; o++) {
        const int64_t other = o + half < end ? o + half : o;
        const size_t i = first + o, j = first + other;
        const Stored w[2] = {{a->weights + i * bytes, a->scales + i * steps}, {a->weights + j * bytes, a->scales + j * steps}};
        for (int64_t c = 0; c < count; c++) {
            const size_t r = (size_t)which[c];
            float sums[2];
            dots(kernel, w, &rows[a->stride ? r : 0], (int)a->d_in, sums);
            store(a->y, (int)a->type, r * a->d_out + o, sums[0] + (a->bias ? load(a->bias, (int)a->bias_type, i) : 0));
            store(a->y, (int)a->type, r * a->d_out + other, sums[1] + (a->bias ? load(a->bias, (int)a->bias_type, j) : 0));
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

/* The next outputs that nobody has taken, up to `*end`: of what is left half a thread's fair share, but `least` or more.
 * A stretch begins with waiting for memory, so there are few; the last ones are short, so all threads end at once, and one
 * that is kept from its core leaves the rest to the others (guided self-scheduling, Polychronopoulos and Kuck 1987).
 */
static int64_t take(int64_t *next, int64_t outputs, int64_t least, int all, int64_t *end) {
    int64_t begin = __atomic_load_n(next, __ATOMIC_RELAXED);
    do {
        const int64_t left = outputs - begin, half = (left + 2 * all - 1) / (2 * all), stretch = half < least ? least : half;
        *end = stretch < left ? begin + stretch : outputs;
    } while (begin < outputs && !__atomic_compare_exchange_n(next, &begin, *end, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return begin;
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
    if (me == 0) *next = 0, by_expert(a, order);
    meet(all);

    const int64_t fits = LEAST / (int64_t)code_bytes((int)a->weight, (size_t)a->d_in), least = fits < 2 ? 2 : fits;
    for (int64_t begin, end; (begin = take(next, a->d_out, least, all, &end)) < a->d_out;)
        for (int64_t i = 0, of = 0; i < a->n; i += of) {
            for (of = 1; i + of < a->n && expert_of(a, order[i + of]) == expert_of(a, order[i]); of++) continue;
            const int64_t expert = expert_of(a, order[i]);
            if (expert < 0 || expert >= a->experts)
                missing(a, order + i, of, begin, end);
            else
                span(a, &kernel, rows, order + i, of, begin, end);
        }
}

const Operation ROWS = {rows_work, rows_room, rows_alone};
