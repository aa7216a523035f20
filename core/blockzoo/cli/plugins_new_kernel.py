"""The start of a kernel for any op that blockzoo ships, written from the op itself: its arguments and its keys."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from inspect import Parameter

from blockzoo.errors import InputError, nearest
from blockzoo.kernels import Op
from blockzoo.plugins import load_plugins
from blockzoo.selection import Selection
from blockzoo.testing.kernel_advice import keys_of

WIDTH = 120
KERNELS = "from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no"
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

    Raises InputError where a file can't repeat the op: its name is no name in Python, its reference can't be imported,
    or an argument has a default that isn't a literal.
    """
    module, reference = op.reference.__module__, op.reference.__name__
    if not op.name.isidentifier():
        raise InputError(f"--op: '{op.name}' can't name a function: write this kernel by hand")
    if getattr(sys.modules.get(module), reference, None) is not op.reference:
        raise InputError(f"--op: the reference of '{op.name}' has no name in {module} to import: write it by hand")
    keys = sorted(keys_of(op))
    said = f"``call.static`` holds {', '.join(f'``{key}``' for key in keys)}." if keys else "``call.static`` is empty."
    optional = " Read by ``call.static.get`` what not every block says." if keys else ""
    return {
        "op": op.name,
        "imports": "\n".join(
            sorted([KERNELS, f"from {module} import {reference} as reference"], key=lambda line: line.split()[1])
        ),
        "keys": textwrap.fill(said + optional, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4),
        "refusals": PLAIN.format(name=name) if "quantizer" in keys else "",
        "definition": _definition(op),
    }


def _definition(op: Op) -> str:
    """A function that takes what the op's reference takes, and calls it."""
    parameters = list(inspect.signature(op.reference).parameters.values())
    about = (inspect.getdoc(op.reference) or f"What ``{op.name}`` computes.").partition("\n\n")[0]
    about = textwrap.fill(f'"""{" ".join(about.split())}', WIDTH - 4, break_long_words=False)
    about += '\n"""' if "\n" in about or len(about) + 7 > WIDTH else '"""'
    body = _call("return reference", list(_passed(parameters)), "")
    head = _call(f"def {op.name}", list(_taken(op, parameters)), ":")
    return f"{head}\n{textwrap.indent(about, '    ')}\n{textwrap.indent(body, '    ')}"


def _taken(op: Op, parameters: list[Parameter]) -> Iterator[str]:
    starred = False
    for parameter in parameters:
        starred |= parameter.kind is Parameter.VAR_POSITIONAL
        if parameter.kind is Parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        bare = parameter.replace(annotation=Parameter.empty)
        if bare.default is not Parameter.empty and not _literal(bare.default):
            raise InputError(
                f"--op: argument '{bare.name}' of '{op.name}' has a default that can't be repeated: write it by hand"
            )
        yield str(bare)


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
