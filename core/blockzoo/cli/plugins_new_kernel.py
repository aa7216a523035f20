"""The start of a kernel for any op that blockzoo ships, written from the op itself: its arguments and its keys."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter
from types import ModuleType

from blockzoo.errors import InputError, nearest
from blockzoo.kernels import Op
from blockzoo.linear import EXPERT_LINEAR, LINEAR
from blockzoo.plugins import load_plugins
from blockzoo.selection import Selection
from blockzoo.testing.kernel_advice import keys_of

WIDTH = 120
KERNELS = ("YES", "Call", "Capabilities", "Kernel", "Verdict", "no")
GRADIENTS = "# backward=True once it has the reference's gradients, compile_safe=True once torch.compile takes it whole"
NO_GRADIENTS = (
    "# no backward: models with a kernel for it don't train; compile_safe=True once torch.compile takes it whole"
)
WEIGHT_OPS = (LINEAR.name, EXPERT_LINEAR.name)
PLAIN = '    if call.static["quantizer"] is not None:\n        return no("{name} reads plain weights only")\n'


def shipped_op(name: str) -> Op:
    """The op of that name. Raises InputError where blockzoo ships none."""
    alone = replace(Selection.from_environment(), only=frozenset(), files=())
    ops = load_plugins(selection=alone).registry.ops()
    if name not in ops:
        raise InputError(f"--op: blockzoo ships no op '{name}'{nearest(name, ops)}")
    return ops[name]


def words_of(op: Op, name: str) -> dict[str, str]:
    """What the template of a kernel named ``name`` says of an op.

    Raises InputError where a file can't repeat the op: its name is no name in Python, it can't be imported from the
    module of its reference, or an argument has a default that isn't a literal.
    """
    module = op.reference.__module__
    if not op.name.isidentifier():
        raise InputError(f"--op: '{op.name}' can't name a function: write this kernel by hand")
    constants = [name for name, value in vars(sys.modules[module]).items() if value is op]
    if not constants:
        raise InputError(f"--op: '{op.name}' has no name in {module} to import: write this kernel by hand")
    parameters = list(inspect.signature(op.reference).parameters.values())
    keys = sorted(keys_of(op))
    said = f"``call.static`` holds {', '.join(f'``{key}``' for key in keys)}." if keys else "``call.static`` is empty."
    optional = " Read by ``call.static.get`` what not every block says." if keys else ""
    return {
        "op": op.name,
        "imports": imports({"blockzoo.kernels": KERNELS, module: constants[:1]}, op.reference),
        "keys": textwrap.fill(said + optional, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4),
        "refusals": PLAIN.format(name=name) if "quantizer" in keys else "",
        "definition": _definition(op, constants[0], parameters),
        "gradients": NO_GRADIENTS if op.name in WEIGHT_OPS else GRADIENTS,
    }


def imports(given: Mapping[str, Sequence[str]], reference: Callable[..., object]) -> str:
    """Import lines, sorted: the names given by module, and those of the annotations of ``reference``."""
    modules, names = set(), {module: set(some) for module, some in given.items()}
    for annotation in inspect.get_annotations(reference).values():
        for node in ast.walk(ast.parse(str(annotation))):
            thing = reference.__globals__.get(node.id) if isinstance(node, ast.Name) else None
            if isinstance(thing, ModuleType):
                modules.add(thing.__name__)
            elif thing is not None:
                assert isinstance(node, ast.Name)
                names.setdefault(_home(thing, reference, node.id), set()).add(node.id)
    lines = [f"import {module}" for module in sorted(modules)]
    lines += [f"from {module} import {', '.join(sorted(names[module], key=_order))}" for module in sorted(names)]
    own = [line for line in lines if line.split()[1].partition(".")[0] in sys.stdlib_module_names]
    return "\n".join(own) + "\n\n" * bool(own) + "\n".join(line for line in lines if line not in own)


def _home(thing: object, reference: Callable[..., object], name: str) -> str:
    """The module to import an annotation's name from: its own, or that of the reference for an alias."""
    home = str(getattr(thing, "__module__", ""))
    return home if getattr(sys.modules.get(home), name, None) is thing else reference.__module__


def _order(name: str) -> tuple[int, str]:
    """Constants, classes, functions: as ruff sorts them."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def _definition(op: Op, constant: str, parameters: list[Parameter]) -> str:
    """A function that takes what the op's reference takes, and calls it."""
    about = (inspect.getdoc(op.reference) or f"What ``{op.name}`` computes.").partition("\n\n")[0]
    about = textwrap.fill(f'"""{" ".join(about.split())}', WIDTH - 4, break_long_words=False)
    about += '\n"""' if "\n" in about or len(about) + 7 > WIDTH else '"""'
    body = _call(f"return {constant}.reference", list(_passed(parameters)), "")
    head = _call(f"def {op.name}", list(taken(op, parameters)), " -> Tensor:")
    return f"{head}\n{textwrap.indent(about, '    ')}\n{textwrap.indent(body, '    ')}"


def taken(op: Op, parameters: list[Parameter]) -> Iterator[str]:
    starred = False
    for parameter in parameters:
        starred |= parameter.kind is Parameter.VAR_POSITIONAL
        if parameter.kind is Parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        name, default = parameter.name, parameter.default
        if default is not Parameter.empty and not _literal(default):
            raise InputError(
                f"--op: argument '{name}' of '{op.name}' has a default that can't be repeated: write it by hand"
            )
        stars = "*" if parameter.kind is Parameter.VAR_POSITIONAL else ""
        yield f"{stars}{name}: {parameter.annotation}" + ("" if default is Parameter.empty else f" = {default!r}")


def _literal(value: object) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def _passed(parameters: list[Parameter]) -> Iterator[str]:
    for parameter in parameters:
        if parameter.kind is Parameter.KEYWORD_ONLY:
            yield f"{parameter.name}={parameter.name}"
        else:
            yield str(parameter.replace(annotation=Parameter.empty, default=Parameter.empty))


def _call(start: str, parts: list[str], end: str) -> str:
    """``start(parts)end`` on a line, or with a line for each part."""
    line = f"{start}({', '.join(parts)}){end}"
    if len(line) + 4 <= WIDTH:
        return line
    return "\n".join([f"{start}(", *(f"    {part}," for part in parts), f"){end}"])
