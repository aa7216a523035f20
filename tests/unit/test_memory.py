"""What memory there is, in a container too, and what is refused for lack of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockzoo import memory
from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.config import load_config
from blockzoo.errors import InputError
from blockzoo.memory import check_memory, free_memory, total_memory
from blockzoo.registry import Registry
from tests.unit.checkpoints.conftest import CONFIGS

TINY = {"d_model": 48, "layers.count": 1, "vocab_size": 256}


def test_this_machine() -> None:
    assert 0 < free_memory() <= total_memory()


def test_a_container_has_what_its_groups_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("4:memory:/old\n0::/outer/inner\n")
    for group, limit, used in (("outer/inner", "max", 5_000_000), ("outer", "9000000", 6_000_000)):
        folder = tmp_path / "groups" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 1000000\nactive_file 500000\ninactive_file 1500000\n")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    assert total_memory() == 9_000_000
    assert free_memory() == 5_000_000  # what files keep in memory can be given back


def test_a_system_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "absent")
    assert free_memory() == total_memory()
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    check_memory(2**60, "it")  # nothing is known


def test_what_finds_no_room_is_refused_before_a_weight_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    config = load_config(CONFIGS / "gpt2" / "gpt2.yaml", TINY, registry=registry)
    save_pretrained(build(config, registry=registry), tmp_path / "model", registry=registry, layout="native")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "free_memory", lambda: 100_000)
    with pytest.raises(InputError, match=r"gpt2 takes 0\.\d GB of memory, and 0\.0 GB are free; `blockzoo plan` says"):
        build(config, registry=registry)
    with pytest.raises(InputError, match="gpt2 takes"):
        from_pretrained(tmp_path / "model", registry=registry)
    from_pretrained(tmp_path / "model", registry=registry, mapped=True)
    build(config, registry=registry, device="meta")
