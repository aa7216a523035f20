"""``blockzoo plugins new``: a package with a working block, from the files in ``blockzoo/templates``."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from blockzoo.checkpoints.atomic import new_folder
from blockzoo.cli.output import note
from blockzoo.cli.plugins_new_kernel import shipped_op, words_of
from blockzoo.discovery import discover, own_version
from blockzoo.errors import InputError, nearest
from blockzoo.kernels import REFERENCE
from blockzoo.plugins import API_VERSION, load_plugins
from blockzoo.selection import NONE, Selection
from blockzoo.shipped import PACKAGE

TEMPLATES = PACKAGE / "templates"


TRY = "\n\n`blockzoo plugins try $name` puts it into three small models, trains them and tabulates its cost."


@dataclass(frozen=True)
class Kind:
    """One kind of plugin: the kind that it registers, what its module exports, how that is registered, and how the
    README says it is used.
    """

    registers: str
    export: str
    register: str
    use: str
    template: str = "$kind"

    @classmethod
    def block(cls, kind: str, yaml: str) -> Kind:
        use = f"In a model's YAML:\n\n```yaml\nextends: gpt2\n{yaml}\n```{TRY}"
        return cls(kind, "${camel}Config", f'registry.block("{kind}", "$name", ${{camel}}Config)', use)


INSIST = '`blockzoo.build(config, kernels={"$op": "$name"})`'
KINDS: Mapping[str, Kind] = {
    "norm": Kind.block("norm", "norm: {type: $name}"),
    "mixer": Kind.block("mixer", "layers: {mixer: {type: $name, n_heads: 8}}"),
    "recurrence": Kind.block("mixer", "layers: {mixer: {type: $name, n_heads: 8}}"),
    "ffn": Kind.block("ffn", "layers: {ffn: {type: $name, d_ff: 3072}}"),
    "residual": Kind.block("residual", "residual: {type: $name}"),
    "position": Kind.block("position", "embedding: {position: null}\nposition: {type: $name}"),
    "quantizer": Kind.block("quantizer", "quantizer: {type: $name}"),
    "kernel": Kind(
        "kernel",
        "KERNEL",
        'registry.kernel("$op", KERNEL)',
        f"It is chosen where it can run and none of higher priority can; {INSIST} insists on it.{TRY}",
    ),
    "family": Kind(
        "family",
        "FAMILY",
        "registry.family(FAMILY)",
        "`blockzoo.from_pretrained(folder)` reads a checkpoint, `blockzoo.save_pretrained(model, folder)` writes one."
        "\n\nNothing compares it with the original until samples have its logits: `blockzoo plugins record $name` asks"
        "\ntransformers for them and prints what to paste into `Sample(..., logits=...)`. With `--as llama` it is read"
        "\nthere as a Llama, where `$name` is no `model_type` that transformers knows.",
    ),
}
FIRST_OP = "attention"
"""What a new kernel is for unless another op is asked for. It is written out; others begin with their reference."""
OTHER_OP = replace(
    KINDS["kernel"],
    use=f"It computes the op `$op` where it is asked for by name: {INSIST}. With a priority above 0 it is chosen where"
    f" it can run and none of higher priority can.{TRY}",
    template="kernel_op",
)
FILES: Mapping[str, str] = {  # path in the new folder -> template
    "pyproject.toml": "pyproject.toml.tmpl",
    "README.md": "README.md.tmpl",
    ".gitignore": "gitignore.tmpl",
    ".github/workflows/test.yml": "test.yml.tmpl",
    "src/$package/__init__.py": "init.py.tmpl",
    "src/$package/$kind.py": "kinds/$template.py.tmpl",
    "tests/test_conformance.py": "test_conformance.py.tmpl",
}


def create(name: str, kind: str, output: Path | None, op: str | None = None) -> None:
    """Write the package, and say what to do next. ``op``: what a kernel is for.

    Raises InputError for a bad name, kind or op, or a folder that is there.
    """
    if kind not in KINDS:
        raise InputError(f"--kind: no kind '{kind}'{nearest(kind, KINDS)}")
    if op is not None and kind != "kernel":
        raise InputError(f"--op: a {kind} is for no op; say --kind kernel, or leave --op out")
    check_name(name, kind)
    folder = Path(f"blockzoo-{name.replace('_', '-')}") if output is None else output
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is there already; choose another folder with --output, or move it away")
    files = render(name, kind, op or FIRST_OP)
    with new_folder(folder) as writing:
        for path, text in files.items():
            place = writing / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
    note(
        f"wrote {folder}: the {kind} is in src/blockzoo_{name}/{kind}.py. Next:\n"
        f'  cd {folder} && pip install -e ".[test]"\n  blockzoo plugins check {name}\n  pytest'
    )


def render(name: str, kind: str, op: str = FIRST_OP) -> dict[str, str]:
    """The files of a new plugin: path -> text. Raises InputError for an op that a kernel can't begin with."""
    said = KINDS[kind] if op == FIRST_OP else OTHER_OP
    words = {
        "name": name,
        "kind": kind,
        "package": f"blockzoo_{name}",
        "distribution": f"blockzoo-{name.replace('_', '-')}",
        "camel": "".join(part.title() for part in name.split("_")),
        "api": str(API_VERSION),
        "version": ".".join(own_version().split(".")[:2]),
        "op": op,
    }
    if op != FIRST_OP:
        words |= words_of(shipped_op(op), name)
    words |= {key: Template(getattr(said, key)).substitute(words) for key in ("export", "register", "use", "template")}
    found = {}
    for path, template in FILES.items():
        source = TEMPLATES / Template(template).substitute(words)
        found[Template(path).substitute(words)] = Template(source.read_text(encoding="utf-8")).substitute(words)
    return found


def check_name(name: str, kind: str) -> None:
    """Raises InputError unless a plugin of that name, with a ``kind`` of that name, can stand beside all others."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        like = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_0123456789")
        better = like if like and not keyword.iskeyword(like) else "my_block"
        raise InputError(
            f"'{name}' can't name a plugin: lower-case letters, digits and underscores, a letter first, no keyword of"
            f" Python; for example '{better}'"
        )
    if name.startswith("blockzoo"):
        raise InputError(f"leave 'blockzoo' out of '{name}': the package is called blockzoo_NAME anyway")
    if name in (NONE, REFERENCE):
        raise InputError(f"'{name}' has a meaning of its own; choose another name")
    selection = Selection.from_environment()
    for plugin in discover(selection):
        if plugin.name == name:
            whose = "a plugin that blockzoo ships" if plugin.builtin else f"installed: {plugin.installed.distribution}"
            raise InputError(f"the name '{name}' is taken: it is {whose}; choose another")
    if importlib.util.find_spec(f"blockzoo_{name}") is not None:
        raise InputError(f"the name '{name}' is taken: there is a module blockzoo_{name} already; choose another")
    shipped = load_plugins(selection=replace(selection, only=frozenset(), files=())).registry
    registered = KINDS[kind].registers
    if any(key[:2] == (registered, name) for key in shipped.things):
        raise InputError(f"the name '{name}' is taken: blockzoo ships a {registered} of that name; choose another")
