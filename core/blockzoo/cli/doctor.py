"""``blockzoo doctor``: is this installation sound? Exit status 1 where something is broken."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from blockzoo.cli.output import print_json, table
from blockzoo.discovery import BROKEN, own_version
from blockzoo.plugins import host
from blockzoo.shipped import PACKAGE, checkout


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``ok`` None: worth knowing, and nothing is wrong with either answer."""

    name: str
    ok: bool | None
    found: str


def command(
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Check versions, the machine, plugins, configs and the tokenizers' cache."""
    checks = [*_versions(), *_machine(), *_plugins(), *_kernels(), *_files()]
    broken = [check for check in checks if check.ok is False]
    if as_json:
        print_json({"ok": not broken, "checks": [asdict(check) for check in checks]})
    else:
        words = {True: "ok", False: "BROKEN", None: "-"}
        table("", ("", "", "found"), [(words[check.ok], check.name, check.found) for check in checks])
    if broken:
        raise typer.Exit(1)


def _versions() -> Iterator[Check]:
    import torch

    yield Check("python", sys.version_info >= (3, 11), platform.python_version())
    version = own_version()
    yield Check("blockzoo", not version.startswith("0+"), f"{version} at {checkout() or PACKAGE}")
    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    yield Check("torch", (2, 9) <= numbers < (2, 14), torch.__version__)


def _machine() -> Iterator[Check]:
    import torch

    threads = f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads"
    yield Check("cpu", None, f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {threads}")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Check("gpu", None, ", ".join(gpus) or "none")
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    yield Check("compiler", None, compiler or "none in C++: torch.compile is out of reach")


def _plugins() -> Iterator[Check]:
    for plugin in host().plugins:
        found = plugin.state if plugin.error is None else f"{plugin.state}: {plugin.error}"
        ok = None if plugin.state == "disabled" else plugin.state not in BROKEN
        yield Check(f"plugin {plugin.name} ({plugin.installed.distribution})", ok, found)


def _kernels() -> Iterator[Check]:
    """By the simplest that there is, which is built and asked as all others are."""
    from blockzoo.bench.roof import reader

    chosen, refused = reader(host().registry)
    found = ["PyTorch's alone" if chosen is None else f"compiled ({chosen.name})", *refused]
    yield Check("kernels on the CPU", None, "; ".join(found))


def _files() -> Iterator[Check]:
    for plugin, folders in host().registry.config_folders.items():
        for folder in folders:
            count = len(list(folder.glob("*.yaml")))
            yield Check(f"configs of {plugin}", count > 0, f"{count} files in {folder}")
    given = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    cache = Path(given) if given else Path(tempfile.gettempdir()) / "data-gym-cache"
    if cache.is_dir():
        yield Check("tokenizers' cache", os.access(cache, os.R_OK), f"{len(list(cache.iterdir()))} files in {cache}")
    else:
        wrong = False if given else None
        yield Check(
            "tokenizers' cache", wrong, f"{cache} isn't there" + ("" if given else " yet: the first use downloads")
        )
