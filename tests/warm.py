"""Processes that begin with torch and other libraries imported, which takes longer than what most tests start them for.

Each is forked from one that has imported those and nothing of blockzoo: modules, environment, folder and standard
streams are its own. What is imported, and when, is tested in interpreters that start cold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SECONDS = 300
SERVER = """
import json, os, runpy, signal, sys
import pydantic, rich.table, safetensors.torch, torch, typer, yaml

for line in sys.stdin:
    job = json.loads(line)
    if (child := os.fork()) == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

signal.alarm(job["seconds"])
for number, file in enumerate(("/dev/null", job["out"], job["err"])):
    os.dup2(os.open(file, os.O_RDWR), number)
os.environ.clear()
os.environ.update(job["environment"])
os.chdir(job["folder"])
sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
flag, what, *sys.argv[1:] = job["arguments"]
if flag == "-m":
    runpy.run_module(what, run_name="__main__", alter_sys=True)
else:
    sys.argv[0] = flag
    exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
"""


class Warm:
    """Starts such processes, one at a time."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self.server, self.folder = server, folder

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """What ``python -m MODULE ...`` or ``python -c CODE ...`` does in that folder and environment."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        out, err = self.folder / "out", self.folder / "err"
        out.write_bytes(b"")
        err.write_bytes(b"")
        job = {"arguments": list(arguments), "environment": dict(environment), "folder": str(folder)}
        print(json.dumps({**job, "out": str(out), "err": str(err), "seconds": SECONDS}), file=self.server.stdin)
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(job["arguments"], code, out.read_text("utf-8"), err.read_text("utf-8"))


@contextmanager
def warm_processes() -> Iterator[Warm]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([sys.executable, "-c", SERVER], text=True, **pipes) as server,
    ):
        yield Warm(server, Path(folder))
