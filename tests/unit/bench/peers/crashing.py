"""Can be run, and falls over."""

import os
import signal
import sys

from blockzoo.bench.peers import Job, Prepared


class Crashing:
    packages = ()

    def prepare(self, job: Job) -> Prepared:
        return Prepared(job.folder, "falls over")


PEER = Crashing()

if __name__ == "__main__":
    print("the last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
