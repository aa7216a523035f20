"""Answers at once, always the same."""

from blockzoo.bench.peers import Job, Prepared
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import serve


class Steady:
    packages = ("json",)

    def prepare(self, job: Job) -> Prepared:
        (job.scratch / "weights").write_text("made for the time being")
        return Prepared(job.scratch, "always the same", {"factor": 2}, weight_bytes_per_token=1000)


PEER = Steady()


def measure(request: Request) -> Reply:
    print("a library that talks")  # standard output is the reply's
    second = [float(request.options["factor"])] * request.repeats
    return Reply([3.0], second, second, peak_bytes=10**9, versions={"steady": "1"})


if __name__ == "__main__":
    serve(measure)
