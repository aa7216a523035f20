/* Calls one after another in one team of threads: starting a team and leaving Python cost more than a small kernel. */
#include "calls.h"

const Operation *const OPERATIONS[] = {&ROWS, &ATTEND, &RMS_NORM, &LAYER_NORM, &ROTARY, &GATE, &GELU, &GELU_BACKWARD, &CHOOSE, &WEIGH, &MIX, &ADD, &COPY,
                                       &TILED_ATTENTION, &TILED_ATTENTION_BACKWARD, &BLOCKED_ATTENTION, &BLOCKED_ATTENTION_BACKWARD};

enum { MOST_SOON = 4096 /* lines of the cache: what a second one holds */ };

/* Meets the others, and meanwhile asks memory for what the next call reads that all threads share. */
static void meet_reading(const Call *next, const Call *end, int64_t *came, int64_t due, int me, int all) {
    __atomic_add_fetch(came, 1, __ATOMIC_RELEASE);
    while (next < end && !OPERATIONS[next->operation]->soon) next++;
    for (size_t i = 0; next < end && i < MOST_SOON && __atomic_load_n(came, __ATOMIC_ACQUIRE) < due; i++)
        if (!OPERATIONS[next->operation]->soon(next->told, me, all, i)) break;
    meet(all);
}

static int made(const Call *calls, int64_t n) {
    size_t most = 0;
    int shared = 0;
    int64_t came = 0;
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
        int64_t due = 0;
        int before = 1; /* whether the call before was one thread's: what follows alone need not wait for others */
        for (int64_t i = 0; i < n; i++) {
            const Operation *operation = OPERATIONS[calls[i].operation];
            const int alone = operation->alone(calls[i].told);
            if (i && !(alone && before)) meet_reading(&calls[i], calls + n, &came, due += all, me, all);
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
