"""``blockzoo plugins new``: what it writes is tidy, installs, loads and passes the suite as it stands."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor

from blockzoo.building import empty
from blockzoo.checkpoints import from_pretrained
from blockzoo.cli import main
from blockzoo.cli.plugins_new import KINDS, TEMPLATES, check_name, create, render
from blockzoo.cli.plugins_new_kernel import words_of
from blockzoo.config import dump_yaml, load_config
from blockzoo.errors import InputError
from blockzoo.linear import LINEAR
from blockzoo.plugins import load_plugins
from blockzoo.registry import Registrar
from blockzoo.selection import Selection
from tests.conftest import builtin_registry
from tests.docs.test_public_api import PUBLIC
from tests.plugins.conftest import install

RUFF = ("E", "F", "W", "I", "B", "UP", "SIM", "RUF", "C4", "PT", "RET", "PIE", "N")
CHECK = """
import json
from blockzoo.cli.plugins_check import outcome_of
from blockzoo.plugins import host
from blockzoo.testing import checks
found = {}
for plugin in (p for p in host().plugins if not p.builtin):
    found[plugin.name] = [plugin.state, plugin.error]
    for check in checks(plugin.name, host().registry):
        if not check.component.startswith("package/"):  # each takes a fresh interpreter
            outcome = outcome_of(check)
            found[plugin.name].append([check.name, outcome.result, outcome.message])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One new plugin of each kind."""
    folder = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        create(f"my_{kind}", kind, folder / kind)
    return {kind: folder / kind for kind in KINDS}


@pytest.fixture(scope="module")
def outcomes(written: dict[str, Path], warm_python: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """State and outcome of each check of each of them, installed."""
    site = install(tmp_path_factory.mktemp("site"), *written.values())
    names = ",".join(f"my_{kind}" for kind in KINDS)
    return json.loads(warm_python("-c", CHECK, path=[site], check=True, BLOCKZOO_PLUGINS=names).stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_at_once(outcomes: dict[str, Any], kind: str) -> None:
    state, error, *results = outcomes[f"my_{kind}"]
    assert (state, error) == ("loaded", None)
    assert [result for result in results if result[1] == "failed"] == []
    assert sum(result[1] == "passed" for result in results) >= 5


def test_a_kernel_of_any_shipped_op_passes_at_once(warm_python: Any, tmp_path: Path) -> None:
    ops = sorted(builtin_registry().ops())
    assert {"attention", "linear", "expert_linear"} <= set(ops)
    for op in ops:
        create(f"my_{op}", "kernel", tmp_path / op, op)
    site = install(tmp_path / "site", *(tmp_path / op for op in ops))
    names = ",".join(f"my_{op}" for op in ops)
    outcomes = json.loads(warm_python("-c", CHECK, path=[site], check=True, BLOCKZOO_PLUGINS=names).stdout)
    for op in ops:
        state, error, *results = outcomes[f"my_{op}"]
        assert (state, error) == ("loaded", None)
        assert [result for result in results if result[1] == "failed"] == []
        assert sum(result[1] == "passed" for result in results) >= 4
        assert (
            f'registry.kernel("{op}", KERNEL)'
            in (tmp_path / op / "src" / f"blockzoo_my_{op}" / "__init__.py").read_text()
        )
        assert f'kernels={{"{op}": "my_{op}"}}' in (tmp_path / op / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(builtin_registry().ops()))
def test_a_new_kernel_has_the_types_of_its_op_and_no_promise_that_it_cannot_keep(name: str, tmp_path: Path) -> None:
    text = render("mine", "kernel", name)["src/blockzoo_mine/kernel.py"]
    (tmp_path / "kernel.py").write_text(text)
    function = runpy.run_path(str(tmp_path / "kernel.py"))["KERNEL"].function
    assert get_type_hints(function) == get_type_hints(builtin_registry().ops()[name].reference)
    assert ("# no backward" in text) == (name in ("linear", "expert_linear"))
    if name in ("linear", "expert_linear"):
        assert f"return {name.upper()}.reference(" in text
        assert name.upper() in PUBLIC["blockzoo.linear"].split()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("kernel", "family")])
def test_the_yaml_of_the_readme_is_a_model(written: dict[str, Path], kind: str, tmp_path: Path) -> None:
    (yaml,) = re.findall(r"```yaml\n(.*?)```", (written[kind] / "README.md").read_text(), re.DOTALL)
    (tmp_path / "model.yaml").write_text(yaml)
    module = runpy.run_path(str(written[kind] / "src" / f"blockzoo_my_{kind}" / f"{kind}.py"))
    registry = load_plugins(selection=Selection(only=frozenset())).registry
    registrar = Registrar(registry, f"my_{kind}")
    block = KINDS[kind].registers
    registrar.block(block, f"my_{kind}", module[f"My{kind.title()}Config"])
    registrar.commit()
    config = load_config(tmp_path / "model.yaml", registry=registry)
    assert f"my_{kind}" in dump_yaml(config, registry)
    empty(config, registry=registry, device="meta")


def test_a_family_is_told_how_to_record(written: dict[str, Path]) -> None:
    assert "`blockzoo plugins record my_family`" in (written["family"] / "README.md").read_text()


NOT_GIVEN = object()


def scaled(x: Tensor, by: Any = NOT_GIVEN) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "my-op"}, "can't name a function"),
        ({"reference": lambda x: x}, "'linear' has no name in .*test_new to import"),
        ({"reference": scaled}, "argument 'by' of 'linear' has a default that can't be repeated"),
    ],
)
def test_an_op_that_a_file_cannot_repeat_is_refused(
    changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = replace(LINEAR, **changes)
    if "reference" not in changes or op.reference is scaled:
        monkeypatch.setattr(sys.modules[op.reference.__module__], "MINE", op, raising=False)
    with pytest.raises(InputError, match=words):
        words_of(op, "mine")


def long_one(
    activations: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    *rest: Tensor,
    epsilon: float = 1e-6,
    word: str = "so",
) -> Tensor:
    """Says much of what it does, and more of what it doesn't do, so that a line is too short for it."""
    return activations


LONG = replace(LINEAR, name="a_long_name_for_an_operation", reference=long_one)


def test_long_arguments_and_words_stay_tidy(tmp_path: Path) -> None:
    said = words_of(LONG, "mine")["definition"]
    found: dict[str, Any] = {"LONG": SimpleNamespace(reference=lambda *args, **options: (args, options))}
    exec(f"from __future__ import annotations\n{said}", found)
    assert found["a_long_name_for_an_operation"](1, 2, 3, 4, epsilon=5) == ((1, 2, 3, 4), {"epsilon": 5, "word": "so"})
    assert max(map(len, said.splitlines())) <= 120


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [{}, {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "num_key_value_heads": 2}],
    ids=["least", "most"],
)
def test_the_new_family_is_a_real_one(settings: dict[str, Any], written: dict[str, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the independent implementation")
    module = runpy.run_path(str(written["family"] / "src" / "blockzoo_my_family" / "family.py"))
    registry = builtin_registry()
    registrar = Registrar(registry, "my_family")
    registrar.family(module["FAMILY"])
    registrar.commit()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    shape = transformers.LlamaConfig(vocab_size=96, max_position_embeddings=32, **sizes, **settings)
    theirs = transformers.LlamaForCausalLM(shape).eval()
    theirs.save_pretrained(tmp_path)
    said = tmp_path / "config.json"
    said.write_text(said.read_text().replace('"model_type": "llama"', '"model_type": "my_family"'))
    tokens, expected = torch.arange(20)[None], theirs(torch.arange(20)[None]).logits
    found = from_pretrained(tmp_path, registry=registry)(tokens)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_test_file_is_an_import_and_a_line(written: dict[str, Path], kind: str) -> None:
    text = (written[kind] / "tests" / "test_conformance.py").read_text()
    assert text == (f'from blockzoo.testing import conformance\n\ntest_conformance = conformance("my_{kind}")\n')


def test_what_is_written_is_tidy(tmp_path: Path) -> None:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}")
    if ruff is None:
        pytest.skip("ruff isn't installed")
    for name in ("x", "gated_delta_net"):
        files = {kind: render(name, kind) for kind in KINDS}
        files |= {f"kernel-{op}": render(name, "kernel", op) for op in builtin_registry().ops()}
        for kind, texts in files.items():
            for path, text in texts.items():
                file = tmp_path / name / kind / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                assert "$" not in text.replace("${{ matrix.python }}", ""), f"{kind}: {path}"
    for command in (["check", "--isolated", f"--select={','.join(RUFF)}", "--ignore=N812"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *command, "--line-length=120", str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_no_template_lies_about_unused() -> None:
    used = {"pyproject.toml", "README.md", "gitignore", "test.yml", "init.py", "test_conformance.py"}
    used |= {f"kinds/{kind}.py" for kind in (*KINDS, "kernel_op")}
    assert {str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*") if path.is_file()} == {
        f"{name}.tmpl" for name in used
    }


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("My-Norm", "norm", "for example 'my_norm'"),
        ("", "norm", "can't name a plugin"),
        ("class", "norm", "can't name a plugin"),
        ("9lives", "norm", "for example 'lives'"),
        ("größe", "norm", "can't name a plugin"),
        ("none", "norm", "has a meaning of its own"),
        ("blockzoo_mine", "norm", "leave 'blockzoo' out"),
        ("gpt2", "family", "it is a plugin that blockzoo ships"),
        ("torch", "kernel", "it is a plugin that blockzoo ships"),
        ("rms_norm", "norm", "blockzoo ships a norm of that name"),
        ("rope", "position", "blockzoo ships a position of that name"),
        ("sdpa", "kernel", "blockzoo ships a kernel of that name"),
    ],
)
def test_bad_names(name: str, kind: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_name(name, kind)


def test_a_block_may_bear_the_name_of_another_kind() -> None:
    check_name("rope", "norm")


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "peri_norm", "--kind", "norm"]) == 0
    assert "blockzoo plugins check peri_norm" in capfd.readouterr().err
    assert (tmp_path / "blockzoo-peri-norm" / "src" / "blockzoo_peri_norm" / "norm.py").is_file()
    assert main(["plugins", "new", "peri_norm"]) == 2
    assert "blockzoo-peri-norm is there already" in capfd.readouterr().err
    assert main(["plugins", "new", "other", "--kind", "nrm"]) == 2
    assert "no kind 'nrm'; did you mean 'norm'?" in capfd.readouterr().err
    assert main(["plugins", "new", "other", "--output", str(tmp_path)]) == 2
    capfd.readouterr()
    assert main(["plugins", "new", "other", "--kind", "kernel", "--op", "liner"]) == 2
    assert "blockzoo ships no op 'liner'; did you mean 'linear'?" in capfd.readouterr().err
    assert main(["plugins", "new", "other", "--kind", "norm", "--op", "linear"]) == 2
    assert "a norm is for no op" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blockzoo-peri-norm"]


@pytest.mark.slow
def test_an_editable_install_passes_check_and_pytest(written: dict[str, Path], tmp_path: Path) -> None:
    """As an author does it, in an environment that has blockzoo."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    for kind, folder in written.items():
        subprocess.run([*pip, "--no-build-isolation", "-e", str(folder)], check=True, timeout=120)
        for command in (["blockzoo", "plugins", "check", f"my_{kind}"], ["pytest", "-q"]):
            done = subprocess.run(
                [python, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
