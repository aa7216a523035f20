"""docs/plugin-authors/api.md lists what plugins may rely on, and freezes it: names, parameters, members.

``python -m tests.docs.test_public_api`` prints the list as it is now.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from blockzoo.plugins import API_VERSION
from tests.conftest import builtin_registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "plugin-authors" / "api.md"
EXAMPLES = PAGE.parent / "examples"
PUBLIC: dict[str, str] = {
    "blockzoo": "account build from_pretrained generate load_config load_tokenizer save_pretrained",
    "blockzoo.blocks": "KINDS Dims Role Scale Initializer Parameter filled StateTensor Cost linear_cost BlockConfig"
    " QuantizerConfig NormConfig PositionForm PositionConfig AdditivePositionConfig AttentionPosition"
    " AttentionPositionConfig QuantizableConfig MixerConfig Mixer Aux LinearFactory FFNConfig ResidualConfig",
    "blockzoo.step": "Phase PHASES Keys Step",
    "blockzoo.cache": "State Rollback Even TokenState",
    "blockzoo.kernels": "Example Op Layout Verdict YES no Capabilities Call Kernel Slot",
    "blockzoo.linear": "ExpertLinear LINEAR EXPERT_LINEAR CHOSEN_LINEAR matrix",
    "blockzoo.recording": "Noted Player",
    "blockzoo.registry": "Registrar",
    "blockzoo.hookspecs": "hookimpl blockzoo_register blockzoo_configs blockzoo_tracker",
    "blockzoo.plugins": "host load_file",
    "blockzoo.training.trackers": "TrackedRun Tracker",
    "blockzoo.errors": "BlockzooError ConfigError CheckpointError InputError PluginError KernelError RunError nearest",
    "blockzoo.config.schema": "EmbeddingConfig HeadConfig InitConfig LayerConfig ModelConfig",
    "blockzoo.chat.messages": "Kind Part Message user assistant tool_result Tool Conversation Delta Draft",
    "blockzoo.chat.format": "Control Piece Settings Reader ChatFormat",
    "blockzoo.chat.encoding": "control_words",
    "blockzoo.generation": "TextStream",
    "blockzoo.checkpoints.family": "Family Layout Sample Splitting expect",
    "blockzoo.checkpoints.keymap": "KeyMap Rule same",
    "blockzoo.checkpoints.config_json": "ConfigJSON",
    "blockzoo.bench.stream": "STREAM_SUM",
    "blockzoo.testing": "conformance checks checks_of Check CheckFailed CheckSkipped",
    "blockzoo.testing.families": "TOKENS write_sample",
    "blockzoo_blocks.norms.layer_norm": "LayerNormConfig LAYER_NORM",
    "blockzoo_blocks.norms.rms_norm": "RMSNormConfig RMS_NORM",
    "blockzoo_blocks.mixers.attention": "ATTENTION attention_reference visible",
    "blockzoo_blocks.mixers.gqa": "GQAConfig",
    "blockzoo_blocks.ffn.activation": "ACTIVATION",
    "blockzoo_blocks.ffn.activations": "Activation",
    "blockzoo_blocks.ffn.gate": "GATE",
    "blockzoo_blocks.ffn.glu": "GLUConfig",
    "blockzoo_blocks.ffn.mixing": "MIX_EXPERTS",
    "blockzoo_blocks.ffn.routing": "CHOOSE_EXPERTS WEIGH_EXPERTS",
    "blockzoo_blocks.ffn.mlp": "MLPConfig",
    "blockzoo_blocks.ffn.moe": "MoEConfig RouterConfig",
    "blockzoo_blocks.positions.alibi": "AlibiConfig",
    "blockzoo_blocks.positions.learned": "LearnedPositionConfig",
    "blockzoo_blocks.positions.none": "NoPositionConfig",
    "blockzoo_blocks.positions.rope": "RopeConfig ROTARY",
    "blockzoo_blocks.positions.rope_json": "read_rope write_rope",
    "blockzoo_blocks.positions.rope_scaling": "LinearScaling NTKScaling YarnScaling Llama3Scaling LongRopeScaling",
    "blockzoo_blocks.positions.sinusoidal": "SinusoidalPositionConfig",
    "blockzoo_blocks.quantizers.int8": "Int8Config",
    "blockzoo_blocks.quantizers.mxfp4": "MXFP4Config",
    "blockzoo_blocks.residuals.parallel": "ParallelConfig",
    "blockzoo_blocks.residuals.pre_norm": "PreNormConfig",
    "blockzoo_blocks.residuals.sandwich": "SandwichConfig",
}


def parameters_of(thing: Any) -> str:
    """``(dim, eps=)``: names, and an equals sign where there is a default."""
    shown = []
    for parameter in inspect.signature(thing).parameters.values():
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.name not in ("self", "cls"):
            default = "" if parameter.default is parameter.empty else "="
            shown.append(f"{star}{parameter.name}{default}")
    return f"({', '.join(shown)})"


def members_of(thing: type) -> list[str]:
    """The public methods, properties, options and declared capabilities of a class, those it defines itself."""
    if issubclass(thing, StrEnum):
        return list(thing.__members__)
    options = set(thing.model_fields) if issubclass(thing, BaseModel) else set()
    said = inspect.get_annotations(thing)
    found = [name for name, annotation in said.items() if name in options or "ClassVar" in str(annotation)]
    for name, value in vars(thing).items():
        function = getattr(value, "__func__", value)
        if name.startswith(("_", "model_")) or name in found:
            continue
        if isinstance(value, property):
            found.append(name)
        elif inspect.isfunction(function):
            found.append(f"{name}{parameters_of(function)}")
    return found


def line_of(name: str, thing: Any) -> str:
    """What the page says of one name."""
    if inspect.isroutine(thing):
        return f"- `{name}{parameters_of(thing)}`"
    if not isinstance(thing, type):
        return f"- `{name}`"
    nameless = issubclass(thing, (BaseModel, Exception, StrEnum)) or getattr(thing, "_is_protocol", False)
    text = f"- `{name}{'' if nameless else parameters_of(thing)}`"
    members = members_of(thing)
    return text + (f": {', '.join(f'`{member}`' for member in members)}" if members else "")


def section_of(module: str) -> str:
    """One module's part of the page."""
    loaded = importlib.import_module(module)
    return "\n".join([f"## {module}", "", *(line_of(name, getattr(loaded, name)) for name in PUBLIC[module].split())])


@pytest.mark.parametrize("module", PUBLIC)
def test_the_page_says_what_is_there(module: str) -> None:
    """A name that goes or changes needs another API_VERSION; a new one, or a new argument with a default, does not."""
    here, said = section_of(module), PAGE.read_text(encoding="utf-8")
    missing = [line for line in here.splitlines() if line not in said.splitlines()]
    assert not missing, (
        "the public API changed: where something went or changed, raise blockzoo.plugins.API_VERSION;"
        f" then write docs/plugin-authors/api.md anew (python -m tests.docs.test_public_api): {missing}"
    )


def test_the_page_lists_nothing_else() -> None:
    text = PAGE.read_text(encoding="utf-8")
    known = {line for module in PUBLIC for line in section_of(module).splitlines() if line}
    listed = text[text.index("## blockzoo\n") :].splitlines()
    assert [line for line in listed if line and line not in known] == []
    assert f"API version: {API_VERSION}." in text


def test_everything_public_is_documented() -> None:
    for module, names in PUBLIC.items():
        for name in names.split():
            thing = getattr(importlib.import_module(module), name)
            if isinstance(thing, type) or inspect.isfunction(thing):
                assert inspect.getdoc(thing), f"{module}.{name} has no docstring"


def test_the_ops_are_public() -> None:
    """Kernels fall back on their references, and blocks of others ask for them by a Slot."""
    public = [
        getattr(importlib.import_module(module), name) for module, names in PUBLIC.items() for name in names.split()
    ]
    assert [name for name, op in builtin_registry().ops().items() if not any(op is thing for thing in public)] == []


def plugin_files() -> list[Path]:
    return [file for file in sorted(EXAMPLES.rglob("*.py")) if "test" not in file.name]


@pytest.mark.parametrize("file", plugin_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_examples_import_only_what_is_public(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in (
            "blockzoo",
            "blockzoo_blocks",
        ):
            public = PUBLIC.get(str(node.module), "").split()
            private = [alias.name for alias in node.names if alias.name not in public]
            assert not private, f"{file.name}:{node.lineno}: {node.module} has no public {', '.join(private)}"


if __name__ == "__main__":
    print("\n\n".join(section_of(module) for module in PUBLIC))
