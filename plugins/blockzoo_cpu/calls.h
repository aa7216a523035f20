/* How a kernel is called: with a struct whose members have 8 bytes each, by one thread or by all of a team. */
#ifndef BLOCKZOO_CALLS_H
#define BLOCKZOO_CALLS_H

#include "common.h"

/* `work` does the share of thread `me` of `all`: every thread of a team comes by, and they may `meet`. `room`: the bytes
 * of memory that it wants, one piece for all threads; NULL: none. `alone`: whether it is too little to be shared. `soon`: asks
 * memory for what that thread will read as its i-th, before calls that it depends on are made; 0: nothing more; NULL: never.
 */
typedef struct {
    void (*work)(const void *call, char *room, int me, int all);
    size_t (*room)(const void *call);
    int (*alone)(const void *call);
    int (*soon)(const void *call, int me, int all, size_t i);
} Operation;

#pragma GCC visibility push(hidden)
extern const Operation ROWS, ATTEND, RMS_NORM, LAYER_NORM, ROTARY, GATE, GELU, GELU_BACKWARD, CHOOSE, WEIGH, MIX, ADD, COPY,
    TILED_ATTENTION, TILED_ATTENTION_BACKWARD, BLOCKED_ATTENTION, BLOCKED_ATTENTION_BACKWARD;
extern const Operation *const OPERATIONS[]; /* by their places in a call, the order of calls.py */
#pragma GCC visibility pop

/* One call of the operation of that place. */
typedef struct {
    int64_t operation;
    const void *told;
} Call;

/* Makes calls in order, each after all of the one before. Returns 0, or 1 where memory is lacking, before the first. */
int run(const Call *calls, int64_t n);
int run_one(int64_t operation, const void *told);

static inline void meet(int all) {
    if (all > 1) {
#pragma omp barrier
    }
}

static inline int most_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static inline size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Thread `me`'s share of n things that are all alike. */
static inline int64_t from_of(int64_t n, int me, int all) { return n * me / all; }
static inline int64_t until_of(int64_t n, int me, int all) { return n * (me + 1) / all; }

#endif
