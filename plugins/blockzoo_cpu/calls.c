/* Calls one after another in one team of threads: starting a team and leaving Python cost more than a small kernel. */
#include "calls.h"

const Operation *const OPERATIONS[] = {&ROWS, &ATTEND, &RMS_NORM, &LAYER_NORM, &ROTARY, &GATE, &GELU, &GELU_BACKWARD, &CHOOSE, &WEIGH, &MIX, &ADD, &COPY,
                                       &TILED_ATTENTION, &TILED_ATTENTION_BACKWARD, &BLOCKED_ATTENTION, &BLOCKED_ATTENTION_BACKWARD};

static int made(const Call *calls, int64_t n) {
    size_t most = 0;
    int shared = 0;
    for (int64_t i = 0; i < n; i++) {
        const Operation *operation = OPERATIONS[calls[i].operation];
        const size_t bytes = operation->room ? operation->room(calls[i].told) : 0;
        most = bytes > most ? bytes : most;
        shared |= !operation->alone(calls[i].told);
    }
    char *room = most ? aligned_alloc(64, whole_lines(most)) : NULL;
    if (most && !room) return 1;
#pragma omp parallel if (shared)
    {
        const int me = thread(), all = threads();
        int before = 1; /* whether the call before was one thread's: what follows alone need not wait for others */
        for (int64_t i = 0; i < n; i++) {
            const Operation *operation = OPERATIONS[calls[i].operation];
            const int alone = operation->alone(calls[i].told);
            if (i && !(alone && before)) meet(all);
            if (!alone)
                operation->work(calls[i].told, room, me, all);
            else if (me == 0)
                operation->work(calls[i].told, room, 0, 1);
            before = alone;
        }
    }
    free(room);
    return 0;
}

int run(const Call *calls, int64_t n) { return made(calls, n); }

int run_one(int64_t operation, const void *told) {
    const Call call = {operation, told};
    return made(&call, 1);
}
