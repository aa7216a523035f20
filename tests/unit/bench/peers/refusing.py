"""Says no beforehand."""

from blockzoo.bench.peers import Job, Refused


class Refusing:
    packages = ()

    def prepare(self, job: Job) -> Refused:
        return Refused("not this model")


PEER = Refusing()
